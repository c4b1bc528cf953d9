"""Converting LlamaIndex's messages to the core's; only image URLs need a server."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from llama_index.core.base.llms.types import (
    AudioBlock,
    CacheControl,
    CachePoint,
    ChatMessage,
    CitableBlock,
    CitationBlock,
    DocumentBlock,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
    VideoBlock,
)
from llama_index.core.schema import ImageDocument
from media_files import encoded, wav

from llama_index.llms.namel3ss_ollama import Ollama
from llama_index.llms.namel3ss_ollama.images import need_reading
from llama_index.llms.namel3ss_ollama.messages import to_core
from namel3ss_ollama import Audio, Image, LLMConnectionError
from namel3ss_ollama.testing import Model, OllamaServer

IMAGE = b"\x89PNG\r\n\x1a\n" + bytes(range(64))
BASE64 = base64.b64encode(IMAGE).decode()
RECORDING = wav(0.1)


def core(*messages: ChatMessage) -> list[dict[str, Any]]:
    before = [message.model_dump() for message in messages if not need_reading([message])]
    result = to_core(messages, {})
    assert [message.model_dump() for message in messages if not need_reading([message])] == before
    return result


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        ("system", "system"),
        ("developer", "system"),
        ("user", "user"),
        ("assistant", "assistant"),
        ("chatbot", "assistant"),
        ("model", "assistant"),
        ("tool", "tool"),
        ("function", "tool"),
    ],
)
def test_roles(role: str, expected: str) -> None:
    assert core(ChatMessage(role=role, content="x")) == [{"role": expected, "content": "x"}]


def test_text_thinking_and_citations() -> None:
    message = ChatMessage(
        role="assistant",
        blocks=[
            ThinkingBlock(content="Let"),
            ThinkingBlock(content=None),
            ThinkingBlock(content=" me"),
            TextBlock(text="a"),
            CachePoint(cache_control=CacheControl(type="ephemeral")),
            CitableBlock(title="t", source="s", content=[TextBlock(text="b"), TextBlock(text="c")]),
            CitationBlock(
                title="t", source="s", cited_content=TextBlock(text="d"), additional_location_info={"page": "1"}
            ),
        ],
    )
    assert core(message) == [{"role": "assistant", "content": "abcd", "thinking": "Let me"}]


def test_a_message_without_blocks_has_no_text() -> None:
    assert core(ChatMessage(role="user")) == [{"role": "user", "content": ""}]


@pytest.mark.parametrize(
    "block",
    [
        ImageBlock(image=IMAGE),
        ImageBlock(image=BASE64.encode()),
        ImageBlock(image=io.BytesIO(IMAGE)),
        ImageBlock(url=f"data:image/png;base64,{BASE64}"),
    ],
    ids=["bytes", "base64", "buffer", "data URL"],
)
def test_images(block: ImageBlock) -> None:
    for _ in range(2):  # a buffer can be read again
        assert core(ChatMessage(role="user", blocks=[TextBlock(text="See:"), block])) == [
            {"role": "user", "content": "See:", "images": [Image(IMAGE)]}
        ]


def test_images_in_files_and_documents(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(IMAGE)
    message = ChatMessage(role="user", blocks=[CitableBlock(title="", source="", content=[ImageBlock(path=path)])])
    assert need_reading([message])
    assert core(message)[0]["images"] == [Image(IMAGE)]
    legacy = ChatMessage(role="user", content="x", additional_kwargs={"images": [ImageDocument(image=BASE64)]})
    assert core(legacy)[0]["images"] == [Image(IMAGE)]
    path.unlink()
    with pytest.raises(ValueError, match=r"messages\[0\]: images: cannot read"):
        core(message)


def _with_image_urls(server: OllamaServer) -> list[ChatMessage]:
    """A conversation with the URL of an image twice, once inside a document."""
    server.reply("", path="/cat.png", body=IMAGE, headers={"Content-Type": "image/png"})
    server.models.add(Model("llava", ("completion", "vision")))
    block = ImageBlock(url=f"{server.url}/cat.png")
    document = CitableBlock(title="", source="", content=[block])
    return [ChatMessage(role="user", blocks=[block]), ChatMessage(role="user", blocks=[document])]


@pytest.mark.parametrize("way", ["chat", "stream_chat", "achat", "astream_chat"])
def test_image_urls_are_fetched_only_if_allowed(
    ollama_server: OllamaServer, make_llm: Any, sent: Any, way: str
) -> None:
    ask = _with_image_urls(ollama_server)

    async def asynchronously(llm: Any) -> None:
        if way == "achat":
            await llm.achat(ask)
        else:
            async for _ in await llm.astream_chat(ask):
                pass

    def run(**settings: Any) -> None:
        llm = make_llm("llava", context_window=2048, **settings)
        if way == "chat":
            llm.chat(ask)
        elif way == "stream_chat":
            list(llm.stream_chat(ask))
        else:
            asyncio.run(asynchronously(llm))

    with pytest.raises(ValueError, match=r"messages\[0\]: .*allow_image_urls"):
        run()
    assert ollama_server.requests == []
    run(allow_image_urls=True)
    assert [record.path for record in ollama_server.requests] == ["/cat.png", "/api/chat"]
    image = {"role": "user", "content": "", "images": [BASE64]}
    assert sent()[0]["messages"] == [image, image]
    with pytest.raises(ValueError, match=rf"messages\[0\]: .*more than {len(IMAGE) - 1} bytes"):
        run(allow_image_urls=True, max_image_bytes=len(IMAGE) - 1)
    assert len(sent()) == 1


def test_images_that_cannot_be_fetched(ollama_server: OllamaServer, make_llm: Any, sent: Any) -> None:
    llm = make_llm("llava", allow_image_urls=True)
    ollama_server.reply("", path="/page", body=b"<html>", headers={"Content-Type": "text/html"})

    def chat(url: str) -> None:
        llm.chat([ChatMessage(role="user", blocks=[ImageBlock(url=url)])])

    with pytest.raises(ValueError, match=r"messages\[0\]: .*text/html"):
        chat(f"{ollama_server.url}/page")
    with pytest.raises(LLMConnectionError, match="cannot be fetched"):
        chat(f"{ollama_server.url}/nothing")
    for url in ("file:///etc/passwd", "ftp://127.0.0.1/x"):
        with pytest.raises(ValueError, match=r"messages\[0\]: .*http or https"):
            chat(url)
    # A file URL is never fetched, even if fetching is enabled.
    for url, allowed in (("file:///etc/passwd", False), ("file:///etc/passwd", True)):
        with pytest.raises(ValueError, match=r"messages\[0\]: .*ImageBlock\(path=\.\.\.\)") as caught:
            make_llm("llava", allow_image_urls=allowed).chat([ChatMessage(blocks=[ImageBlock(url=url)])])
        assert "on the web" not in str(caught.value)
    with pytest.raises(ValueError, match="max_image_bytes"):
        make_llm(max_image_bytes=0)
    assert sent() == []


async def test_files_are_read_off_the_loop(
    ollama_server: OllamaServer, make_llm: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(IMAGE)
    threads: list[threading.Thread] = []
    real = Path.read_bytes

    def read_bytes(self: Path) -> bytes:
        threads.append(threading.current_thread())
        return real(self)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    llm: Ollama = make_llm("llava")
    ask = [ChatMessage(role="user", blocks=[ImageBlock(path=path)])]
    await llm.achat(ask)
    async for _ in await llm.astream_chat(ask):
        pass
    assert len(threads) == 2
    assert threading.main_thread() not in threads


@pytest.mark.parametrize(
    "block",
    [
        VideoBlock(video=b"0000ftypmp42"),
        DocumentBlock(data=b"%PDF-1.4", title="x.pdf"),
    ],
)
def test_unsupported_blocks_are_refused_by_name(block: Any) -> None:
    messages = [ChatMessage(role="system", content="x"), ChatMessage(role="user", blocks=[block])]
    with pytest.raises(ValueError, match=rf"messages\[1\]: .*{type(block).__name__}"):
        core(*messages)
    # In an assistant message, another provider's model produced it earlier in the conversation.
    answer = ChatMessage(role="assistant", blocks=[TextBlock(text="Listen:"), block])
    assert core(answer) == [{"role": "assistant", "content": "Listen:"}]


@pytest.mark.parametrize(
    "block",
    [
        AudioBlock(audio=RECORDING, format="wav"),
        AudioBlock(audio=encoded(RECORDING).encode()),
        AudioBlock(audio=io.BytesIO(RECORDING)),
        AudioBlock(url=f"data:audio/wav;base64,{encoded(RECORDING)}"),
    ],
    ids=["bytes", "base64", "buffer", "data URL"],
)
def test_audio(block: AudioBlock) -> None:
    for _ in range(2):  # a buffer can be read again
        assert core(ChatMessage(role="user", blocks=[TextBlock(text="Hear:"), block, ImageBlock(image=IMAGE)])) == [
            {"role": "user", "content": "Hear:", "images": [Image(IMAGE)], "audio": [Audio(RECORDING)]}
        ]


def test_audio_of_an_answer_is_left_out(ollama_server: OllamaServer, make_llm: Any) -> None:
    for block in (AudioBlock(audio=RECORDING), AudioBlock(url=f"{ollama_server.url}/a.wav")):
        answer = ChatMessage(role="assistant", blocks=[TextBlock(text="Listen:"), block])
        assert core(answer) == [{"role": "assistant", "content": "Listen:"}]
        make_llm(allow_image_urls=True).chat([answer, ChatMessage("Well?")])
    assert not [record for record in ollama_server.requests if record.path == "/a.wav"]


@pytest.mark.parametrize(
    ("block", "what"),
    [
        (AudioBlock(audio=IMAGE), "audio: the recording is neither WAV nor MP3"),
        (AudioBlock(url="data:audio/wav;base64,###"), "audio: the string is not base64"),
        (AudioBlock(url="file:///etc/passwd"), r"AudioBlock\(path=\.\.\.\)"),
        (AudioBlock(url="https://example.com/a.wav"), r"allow_image_urls=True, or its bytes as AudioBlock\(audio="),
        (AudioBlock(), "audio: the recording is empty"),
    ],
)
def test_invalid_audio(block: AudioBlock, what: str) -> None:
    with pytest.raises(ValueError, match=rf"messages\[0\]: .*{what}"):
        core(ChatMessage(role="user", blocks=[block]))


async def test_audio_reaches_a_model_that_supports_it(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(RECORDING)
    with OllamaServer([Model("gemma4:e2b", ("completion", "vision", "audio"))], version="0.33.0") as server:
        server.reply("", path="/a.wav", body=RECORDING, headers={"Content-Type": "audio/wav"})
        for block in (AudioBlock(path=path), AudioBlock(url=f"{server.url}/a.wav")):
            llm = Ollama("gemma4:e2b", server.url, context_window=4096, allow_image_urls=True)
            ask = [ChatMessage(role="user", blocks=[TextBlock(text="What is said?"), block])]
            for answer in (await asyncio.to_thread(llm.chat, ask), await llm.achat(ask)):
                assert answer.message.content
                (message,) = server.requests[-1].payload["messages"]
                assert message == {"role": "user", "content": "What is said?", "images": [encoded(RECORDING)]}
        with pytest.raises(ValueError, match=f"more than {len(RECORDING) - 1} bytes"):
            await Ollama("gemma4:e2b", server.url, allow_image_urls=True, max_image_bytes=len(RECORDING) - 1).achat(ask)


def test_tool_calls_and_their_answers() -> None:
    messages = [
        ChatMessage(
            role="assistant",
            blocks=[
                TextBlock(text=""),
                ToolCallBlock(tool_call_id="call_1", tool_name="add", tool_kwargs={"a": 1}),
                ToolCallBlock(tool_call_id="call_2", tool_name="mul", tool_kwargs='{"a": 2}'),
            ],
            # Streamed answers have the calls here too; they must not be sent twice.
            additional_kwargs={"tool_calls": [{"id": "call_1", "function": {"name": "add", "arguments": {"a": 1}}}]},
        ),
        ChatMessage(role="tool", content="3", additional_kwargs={"tool_call_id": "call_2"}),
        ChatMessage(role="tool", content="4", additional_kwargs={"tool_call_id": "call_1"}),
        ChatMessage(role="assistant", content="4", additional_kwargs={"tool_call_id": "call_1"}),
    ]
    assert core(*messages) == [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": "call_1", "function": {"name": "add", "arguments": {"a": 1}}},
                {"id": "call_2", "function": {"name": "mul", "arguments": '{"a": 2}'}},
            ],
        },
        {"role": "tool", "content": "3", "tool_name": "mul", "tool_call_id": "call_2"},
        {"role": "tool", "content": "4", "tool_name": "add", "tool_call_id": "call_1"},
        {"role": "assistant", "content": "4"},
    ]


class _SDKCall:
    """As the objects that OpenAI's package puts into `additional_kwargs`."""

    def model_dump(self) -> dict[str, Any]:
        return {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}


@pytest.mark.parametrize(
    "call",
    [
        {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}},
        {"id": "c", "function": {"name": "add", "arguments": {"a": 1}}},
        {"id": "c", "name": "add", "arguments": {"a": 1}},
        {"type": "tool_use", "id": "c", "name": "add", "input": {"a": 1}},
        {"toolUseId": "c", "name": "add", "input": {"a": 1}},
        {"id": "c", "name": "add", "args": {"a": 1}},
        {"tool_id": "c", "tool_name": "add", "tool_kwargs": {"a": 1}},
        _SDKCall(),
    ],
    ids=["openai", "ollama", "bare", "anthropic", "bedrock", "google", "selection", "object"],
)
def test_calls_of_older_histories(ollama_server: OllamaServer, llm: Ollama, sent: Any, call: Any) -> None:
    history = [
        ChatMessage(role="user", content="1+1"),
        ChatMessage(role="assistant", additional_kwargs={"tool_calls": [call]}),
        ChatMessage(role="tool", content="2", additional_kwargs={"tool_call_id": "c"}),
    ]
    llm.chat(history)
    assistant, tool = sent()[0]["messages"][1:]
    assert assistant["tool_calls"] == [{"id": "c", "function": {"index": 0, "name": "add", "arguments": {"a": 1}}}]
    assert tool == {"role": "tool", "content": "2", "tool_name": "add", "tool_call_id": "c"}


def test_a_history_of_the_peer_uses_names_as_ids() -> None:
    history = [
        ChatMessage(role="assistant", blocks=[ToolCallBlock(tool_name="add", tool_kwargs={})]),
        ChatMessage(role="tool", content="2", additional_kwargs={"tool_call_id": "add"}),
    ]
    assert core(*history)[1]["tool_name"] == "add"


def test_an_invalid_call_is_refused(llm: Ollama) -> None:
    history = [ChatMessage(role="assistant", additional_kwargs={"tool_calls": [SimpleNamespace()]})]
    with pytest.raises(ValueError, match="tool call"):
        llm.chat(history)


def test_arguments_that_are_not_json_are_sent_back_unchanged(llm: Ollama, sent: Any) -> None:
    call = ToolCallBlock(tool_call_id="c", tool_name="add", tool_kwargs='{"a": ')
    llm.chat([ChatMessage(role="user", content="x"), ChatMessage(role="assistant", blocks=[call])])
    message = sent()[0]["messages"][1]
    assert message["tool_calls"][0]["function"]["arguments"] == {}
    assert message["content"] == '{"a": '
