"""LangChain's messages as they are sent."""

from __future__ import annotations

import asyncio
import base64
import copy
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.content import create_audio_block
from media_files import encoded, wav

from langchain_namel3ss_ollama import ChatOllama, OllamaConnectionError, OllamaTimeoutError
from namel3ss_ollama import Audio, Image
from namel3ss_ollama.testing import Model, OllamaServer, ToolCall

Make = Callable[..., ChatOllama]
BYTES = b"\x89PNG image"
DATA = base64.b64encode(BYTES).decode()
URL = "https://example.com/cat.png"
RECORDING = encoded(wav(0.1))


def sent(server: OllamaServer, model: ChatOllama, *messages: BaseMessage) -> list[dict[str, Any]]:
    before = copy.deepcopy(messages)
    model.invoke(list(messages))
    assert list(before) == list(messages), "the given messages were changed"
    chats = [record for record in server.requests if record.path == "/api/chat"]
    return list(chats[-1].payload["messages"])


def test_roles(chat: Make, ollama_server: OllamaServer) -> None:
    found = sent(
        ollama_server,
        chat(),
        SystemMessage("a"),
        ChatMessage(role="developer", content="b"),
        HumanMessage("c", name="bob"),
        AIMessage("d"),
        ChatMessage(role="user", content="e"),
        ChatMessage(role="control", content="thinking"),
        FunctionMessage(name="f", content="f"),
    )
    assert found == [
        {"role": "system", "content": "a"},
        {"role": "system", "content": "b"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d"},
        {"role": "user", "content": "e"},
        {"role": "control", "content": "thinking"},
        {"role": "tool", "content": "f", "tool_name": "f"},
    ]
    with pytest.raises(ValueError, match="'User' is unknown"):
        chat().invoke([ChatMessage(role="User", content="x")])
    with pytest.raises(TypeError, match="RemoveMessage"):
        chat().invoke([RemoveMessage(id="1")])


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image", "base64": DATA, "mime_type": "image/png"},
        {"type": "image", "source_type": "base64", "data": DATA, "mime_type": "image/png"},
        {"type": "image", "url": f"data:image/png;base64,{DATA}"},
        {"type": "image_url", "image_url": f"data:image/png;base64,{DATA}"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{DATA}", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": DATA}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": DATA}},
        {"type": "input_image", "image_url": f"data:image/png;base64,{DATA}"},
        {"type": "media", "mime_type": "image/png", "data": DATA},
        {"image": {"format": "png", "source": {"bytes": BYTES}}},
    ],
    ids=lambda block: "-".join(map(str, block))[:40],
)
def test_images_in_every_format(chat: Make, ollama_server: OllamaServer, block: dict[str, Any]) -> None:
    content = [{"type": "text", "text": "What is this?"}, block]
    (user,) = sent(ollama_server, chat("llava"), HumanMessage(content=content))
    assert user == {"role": "user", "content": "What is this?", "images": [DATA]}
    (tool,) = sent(ollama_server, chat("llava"), ToolMessage(content=content, tool_call_id="1", name="look"))
    assert tool["images"] == [DATA]


@pytest.fixture
def newer_server() -> Iterator[OllamaServer]:
    """A server that supports audio, with a model that does."""
    with OllamaServer([Model("gemma4:e2b", ("completion", "vision", "audio"))], version="0.33.0") as server:
        yield server


@pytest.fixture
def audio_chat(chat: Make, newer_server: OllamaServer) -> Make:
    """Models that support audio."""
    return partial(chat, "gemma4:e2b", base_url=newer_server.url)


@pytest.mark.parametrize(
    "block",
    [
        {"type": "audio", "base64": RECORDING, "mime_type": "audio/wav"},
        {"type": "audio", "source_type": "base64", "data": RECORDING, "mime_type": "audio/wav"},
        {"type": "audio", "url": f"data:audio/wav;base64,{RECORDING}"},
        {"type": "input_audio", "input_audio": {"data": RECORDING, "format": "wav"}},
        {"type": "media", "mime_type": "audio/wav", "data": RECORDING},
        create_audio_block(base64=RECORDING, mime_type="audio/wav"),
    ],
    ids=lambda block: "-".join(map(str, block))[:40],
)
def test_audio_in_every_format(audio_chat: Make, newer_server: OllamaServer, block: dict[str, Any]) -> None:
    content = [
        {"type": "text", "text": "What is said?"},
        block,
        {"type": "image", "base64": DATA, "mime_type": "image/png"},
    ]
    (user,) = sent(newer_server, audio_chat(), HumanMessage(content=content))
    assert user == {"role": "user", "content": "What is said?", "images": [DATA, RECORDING]}
    (tool,) = sent(newer_server, audio_chat(), ToolMessage(content=content, tool_call_id="1", name="listen"))
    assert tool["images"] == [DATA, RECORDING]
    assert audio_chat().get_num_tokens_from_messages([HumanMessage(content=content)]) > 0


async def test_audio_at_a_url(audio_chat: Make, newer_server: OllamaServer) -> None:
    data = base64.b64decode(RECORDING)
    newer_server.reply("", path="/a.wav", body=data, headers={"Content-Type": "audio/wav"})
    url = f"{newer_server.url}/a.wav"
    message = HumanMessage(content=[{"type": "text", "text": "What is said?"}, {"type": "audio", "url": url}])
    with pytest.raises(ValueError, match=r"audio given as a URL, .*allow_image_urls=True"):
        audio_chat().invoke([message])
    assert not newer_server.requests
    assert audio_chat().get_num_tokens_from_messages([message]) > 100  # estimated as ten seconds
    model = audio_chat(allow_image_urls=True)
    assert sent(newer_server, model, message)[0]["images"] == [RECORDING]
    await model.ainvoke([message])
    assert newer_server.requests[-1].payload["messages"][0]["images"] == [RECORDING]
    with pytest.raises(ValueError, match=f"more than {len(data) - 1} bytes"):
        audio_chat(allow_image_urls=True, max_image_bytes=len(data) - 1).invoke([message])
    for loader in (lambda _: data, lambda _: Audio(data)):
        assert sent(newer_server, audio_chat(image_loader=loader), message)[0]["images"] == [RECORDING]
    for loader in (lambda _: BYTES, lambda _: "text", lambda _: Image(BYTES)):
        with pytest.raises((ValueError, TypeError), match="audio"):
            audio_chat(image_loader=loader).invoke([message])


def test_audio_of_an_answer_is_not_fetched(audio_chat: Make, newer_server: OllamaServer) -> None:
    audio = {"type": "audio", "url": f"{newer_server.url}/a.wav"}
    answer = AIMessage(content=[{"type": "text", "text": "Yes."}, audio])
    found = sent(newer_server, audio_chat(allow_image_urls=True), HumanMessage("Well?"), answer, HumanMessage("And?"))
    assert found[1] == {"role": "assistant", "content": "Yes."}
    assert [record.path for record in newer_server.requests] == ["/api/chat"]


async def test_image_urls_need_a_loader(chat: Make, ollama_server: OllamaServer) -> None:
    message = HumanMessage(content=[{"type": "image_url", "image_url": {"url": URL}}, {"type": "image", "url": URL}])
    with pytest.raises(ValueError, match="allow_image_urls=True"):
        chat("llava").invoke([message])
    asked: list[str] = []

    def load(url: str) -> bytes:
        asked.append(url)
        return BYTES

    async def aload(url: str) -> bytes:
        return load(url)

    async def aload_image(url: str) -> Image:
        return Image(load(url))

    for loader in (load, aload, aload_image):
        model = chat("llava", image_loader=loader)
        assert sent(ollama_server, model, message)[0]["images"] == [DATA, DATA]
        await model.ainvoke([message])
        assert ollama_server.requests[-1].payload["messages"][0]["images"] == [DATA, DATA]
    assert asked == [URL] * 6
    chat("llava", image_loader=load, max_image_bytes=len(BYTES)).invoke([message])
    for loader in (load, aload_image):
        with pytest.raises(ValueError, match=f"has {len(BYTES)} bytes, more than max_image_bytes"):
            chat("llava", image_loader=loader, max_image_bytes=len(BYTES) - 1).invoke([message])
    with pytest.raises(TypeError, match="bytes"):
        chat("llava", image_loader=lambda _: "text").invoke([message])


def image_message(server: OllamaServer) -> HumanMessage:
    """A message with the address of an image that the server serves."""
    server.reply("", path="/cat.png", body=BYTES, headers={"Content-Type": "image/png"})
    return HumanMessage(content=[{"type": "image", "url": f"{server.url}/cat.png"}])


async def test_image_urls_are_fetched_if_allowed(chat: Make, ollama_server: OllamaServer) -> None:
    message = image_message(ollama_server)
    model = chat("llava", allow_image_urls=True)
    for run in (
        lambda: asyncio.to_thread(model.invoke, [message]),
        lambda: asyncio.to_thread(lambda: list(model.stream([message]))),
        lambda: asyncio.to_thread(lambda: list(model.stream_events([message], version="v3"))),
        lambda: model.ainvoke([message]),
        lambda: collected(model.astream([message])),
    ):
        before = len(ollama_server.requests)
        await run()
        fetched, asked = ollama_server.requests[before:]
        assert (fetched.method, fetched.path) == ("GET", "/cat.png")
        assert asked.payload["messages"][0]["images"] == [DATA]
    assert sent(ollama_server, chat("llava", allow_image_urls=True, image_loader=lambda _: b"own"), message)[0] == {
        "role": "user", "content": "", "images": [base64.b64encode(b"own").decode()],
    }  # fmt: skip


async def test_image_urls_that_cannot_be_fetched(chat: Make, ollama_server: OllamaServer) -> None:
    message = image_message(ollama_server)
    with pytest.raises(ValueError, match=f"more than {len(BYTES) - 1} bytes"):
        chat("llava", allow_image_urls=True, max_image_bytes=len(BYTES) - 1).invoke([message])
    model = chat("llava", allow_image_urls=True)
    with pytest.raises(ValueError, match="http or https"):
        model.invoke([HumanMessage(content=[{"type": "image", "url": "file:///etc/passwd"}])])
    missing = [HumanMessage(content=[{"type": "image", "url": f"{ollama_server.url}/nothing"}])]
    with pytest.raises(OllamaConnectionError, match="HTTPStatusError"):
        model.invoke(missing)
    with pytest.raises(OllamaConnectionError, match="HTTPStatusError"):
        await collected(model.astream(missing))
    ollama_server.fault("stall_before_headers", path="/cat.png")
    with pytest.raises(OllamaTimeoutError):
        await chat("llava", allow_image_urls=True, timeout=0.2).ainvoke([message])
    assert {record.path for record in ollama_server.requests} == {"/cat.png", "/nothing"}


async def collected(pieces: AsyncIterator[Any]) -> list[Any]:
    return [piece async for piece in pieces]


@pytest.mark.parametrize(
    ("block", "named"),
    [
        ({"type": "audio", "base64": DATA, "mime_type": "audio/wav"}, "audio: the recording is neither WAV nor MP3"),
        ({"type": "audio", "file_id": "1"}, "audio given as a file id"),
        ({"type": "audio", "source_type": "id", "id": "1"}, "audio given as a file id"),
        ({"type": "audio", "url": URL}, "audio given as a URL, .*allow_image_urls=True"),
        ({"type": "audio"}, "a block of type 'audio'"),
        ({"type": "input_audio", "input_audio": {"format": "wav"}}, "input_audio"),
        ({"type": "file", "base64": DATA, "mime_type": "application/pdf"}, "file"),
        ({"type": "video", "url": URL}, "video"),
        ({"type": "image", "file_id": "1"}, "file"),
        ({"type": "image_url", "image_url": {"detail": "low"}}, "image_url"),
        ({"type": "sculpture", "stone": 1}, "sculpture"),
    ],
)
def test_unsupported_blocks_are_errors(chat: Make, block: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        chat("llava").invoke([HumanMessage(content=[block])])


def test_texts_are_joined_without_a_leading_newline(chat: Make, ollama_server: OllamaServer) -> None:
    content = ["a", {"type": "text", "text": "b", "cache_control": {"type": "ephemeral"}}]
    user, answer = sent(ollama_server, chat(), HumanMessage(content=content), AIMessage(content=content))
    assert user["content"] == "a\nb"
    assert answer["content"] == "ab"  # the pieces of one answer


def test_a_conversation_with_tools_is_sent_in_full(chat: Make, ollama_server: OllamaServer) -> None:
    found = sent(
        ollama_server,
        chat(),
        HumanMessage("Add."),
        AIMessage(
            "",
            tool_calls=[{"name": "add", "args": {"a": "1", "b": {"c": [1]}}, "id": "one"}],
            invalid_tool_calls=[{"name": "add", "args": '{"a": ', "id": "two", "error": "no JSON"}],
            additional_kwargs={"reasoning_content": "Numbers."},
        ),
        ToolMessage("3", tool_call_id="one"),
        ToolMessage("no", tool_call_id="two", name="other", status="error"),
    )
    calls = found[1]["tool_calls"]
    assert [(c["id"], c["function"]["arguments"]) for c in calls] == [("one", {"a": "1", "b": {"c": [1]}}), ("two", {})]
    assert found[1]["thinking"] == "Numbers."
    assert '{"a": ' in found[1]["content"]
    assert found[2] == {"role": "tool", "content": "3", "tool_call_id": "one", "tool_name": "add"}
    assert found[3]["tool_name"] == "other"


@pytest.mark.parametrize("version", ["v0", "v1"])
def test_an_answer_round_trips(chat: Make, ollama_server: OllamaServer, version: str) -> None:
    calls = [ToolCall("add", {"a": "1"}, id="one"), ToolCall("add", '{"a": ', id="two")]
    ollama_server.reply("Let me see.", thinking="Numbers.", tool_calls=calls, model="qwen3")
    model = chat("qwen3", output_version=version)
    pieces = list(model.stream("Add."))
    for answer in (model.invoke("Add."), pieces[0] + pieces[1:]):
        (back,) = sent(ollama_server, model, answer)
        assert back["content"].splitlines() == ["Let me see.", '{"a": ']
        assert back["thinking"] == "Numbers."
        assert [(c["id"], c["function"]["arguments"]) for c in back["tool_calls"]] == [("one", {"a": "1"}), ("two", {})]


def test_blocks_of_other_vendors(chat: Make, ollama_server: OllamaServer) -> None:
    found = sent(
        ollama_server,
        chat(),
        AIMessage(
            content=[
                {"type": "thinking", "thinking": "Hm.", "signature": "x"},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "1", "name": "look", "input": {"at": "sky"}},
            ]
        ),
        HumanMessage(
            content=[
                {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "blue"}]},
                {"type": "text", "text": "And?"},
            ]
        ),
        AIMessage(
            content=[{"type": "reasoning", "summary": [{"text": "So."}]}, {"type": "non_standard", "value": "!"}]
        ),
    )
    assert found[0]["thinking"] == "Hm."
    assert found[0]["content"] == "I look."
    assert found[0]["tool_calls"][0]["function"] == {"index": 0, "name": "look", "arguments": {"at": "sky"}}
    assert found[1] == {"role": "tool", "content": "blue", "tool_call_id": "1", "tool_name": "look"}
    assert found[2] == {"role": "user", "content": "And?"}
    assert found[3] == {"role": "assistant", "content": "!", "thinking": "So."}


FOREIGN: list[dict[str, Any]] = [
    {"type": "server_tool_call", "id": "s1", "name": "web_search", "args": {"query": "x"}},
    {"type": "server_tool_call_chunk", "id": "s1", "name": "web_search", "args": "{"},
    {"type": "server_tool_result", "tool_call_id": "s1", "status": "success", "output": [{"url": URL}]},
    {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}},
    {"type": "web_search_tool_result", "tool_use_id": "s1", "content": [{"type": "web_search_result", "url": URL}]},
    {"type": "web_search_call", "id": "ws_1", "status": "completed"},
    {"type": "code_interpreter_call", "id": "ci_1", "code": "1+1"},
    {"type": "executable_code", "language": "python", "executable_code": "1+1"},
    {"type": "code_execution_result", "code_execution_result": "2", "outcome": 1},
    {"type": "file", "base64": DATA, "mime_type": "application/pdf"},
    {"type": "file", "file_id": "1"},
    {"type": "audio", "base64": DATA, "mime_type": "audio/wav"},
    {"type": "audio", "base64": RECORDING, "mime_type": "audio/wav"},
    {"type": "audio", "url": URL},
    {"type": "input_audio", "input_audio": {"data": RECORDING, "format": "wav"}},
    {"type": "audio", "audio": {"id": "1"}},
    {"type": "video", "url": URL},
    {"type": "image", "url": URL},
    {"type": "image", "file_id": "1"},
    {"type": "image_url", "image_url": {"detail": "low"}},
    {"type": "redacted_thinking", "data": "x"},
    {"type": "compaction", "encrypted_content": "x"},
    {"type": "non_standard", "value": {"type": "mcp_call", "id": "m1"}},
    {"type": "non_standard", "value": None},
    {"cachePoint": {"type": "default"}},
]


@pytest.mark.parametrize("version", ["v0", "v1"])
@pytest.mark.parametrize("block", FOREIGN, ids=lambda block: str(block)[:45])
def test_blocks_of_other_providers_are_left_out(
    chat: Make, ollama_server: OllamaServer, block: dict[str, Any], version: str
) -> None:
    # Once wrong: a fallback from a cloud model to Ollama failed because of its history
    about = {"output_version": version} if version == "v1" else {}
    content = [{"type": "text", "text": "It is "}, block, {"type": "text", "text": "sunny."}]
    (answer,) = sent(ollama_server, chat(), AIMessage(content=content, response_metadata=about))
    assert answer == {"role": "assistant", "content": "It is sunny."}


@pytest.mark.parametrize(
    "message",
    [
        AIMessage(content=[{"type": "refusal", "refusal": "I may not."}]),
        AIMessage(content=[{"type": "non_standard", "value": {"type": "refusal", "refusal": "I may not."}}]),
        AIMessage(content="", additional_kwargs={"refusal": "I may not."}),
        AIMessage(content="", additional_kwargs={"audio": {"id": "1", "transcript": "I may not."}}),
        AIMessage(content="I may not.", additional_kwargs={"refusal": None, "audio": None}),
    ],
)
def test_refusals_and_transcripts_are_text(chat: Make, ollama_server: OllamaServer, message: AIMessage) -> None:
    assert sent(ollama_server, chat(), message) == [{"role": "assistant", "content": "I may not."}]


@pytest.mark.parametrize(
    "block",
    [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
        {"type": "reasoning_content", "reasoning_content": {"text": "Hm.", "signature": "x"}},
        {"type": "reasoning", "reasoning": "Hm."},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]},
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Hm."}], "summary": []},
    ],
    ids=str,
)
def test_reasoning_of_other_vendors(chat: Make, ollama_server: OllamaServer, block: dict[str, Any]) -> None:
    (answer,) = sent(ollama_server, chat("qwen3"), AIMessage(content=[block, {"type": "text", "text": "So."}]))
    assert answer == {"role": "assistant", "content": "So.", "thinking": "Hm."}


@pytest.mark.parametrize("make", [HumanMessage, SystemMessage, lambda content: ToolMessage(content, tool_call_id="1")])
@pytest.mark.parametrize(
    ("block", "text"),
    [
        ({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "a"}}, "a"),
        ({"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "a"}]}}, "a"),
        ({"type": "search_result", "title": "t", "source": URL, "content": [{"type": "text", "text": "a"}]}, "a"),
        ({"type": "text-plain", "text": "a", "mime_type": "text/plain"}, "a"),
        ({"type": "guard_content", "text": "a"}, "a"),
        ({"type": "non_standard", "value": {"type": "text", "text": "a"}}, "a"),
        ({"json": {"b": [1]}}, '{"b":[1]}'),
    ],
    ids=lambda value: str(value)[:45],
)
def test_text_in_every_format(
    chat: Make, ollama_server: OllamaServer, make: Any, block: dict[str, Any], text: str
) -> None:
    content = [block, {"cachePoint": {"type": "default"}}, {"type": "cache_point"}, {"type": "text", "text": "z"}]
    (found,) = sent(ollama_server, chat(), make(content))
    assert found["content"] == f"{text}\nz"


def test_a_call_without_a_name_does_not_end_the_conversation(chat: Make, ollama_server: OllamaServer) -> None:
    found = sent(
        ollama_server,
        chat(),
        AIMessage("", tool_calls=[{"name": "", "args": {}, "id": "1"}]),
        ToolMessage("There is no such tool.", tool_call_id="1"),
    )
    assert found[0]["tool_calls"][0]["function"]["name"] == "unknown"
    assert found[1]["tool_name"] == "unknown"
