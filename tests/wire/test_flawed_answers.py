"""Flawed answers of models and half-compatible servers: assembled and streamed, with and without a format."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel

from namel3ss_ollama import (
    LLMResponse,
    OllamaProvider,
    OutputValidationError,
    RetryPolicy,
    ServerError,
    ToolCallParseError,
    json_in,
)
from namel3ss_ollama.testing import OllamaServer, Reply

ASK = [{"role": "user", "content": "Where?"}]
BIG = 123456789012345678901234567890


class City(BaseModel):
    """A city."""

    name: str
    people: int = 0


ROME = '{"name": "Rome"}'
THOUGHT = "Is {it} Rome? <b>\n"


def lines(*pieces: str, **more: Any) -> Reply:
    sent = [{"message": {"content": piece}, "done": False} for piece in pieces]
    return Reply(lines=[*sent, {"message": {"content": ""}, "done": True, "done_reason": "stop", **more}])


def raw(*pieces: str) -> Reply:
    sent = [b'{"message":{"content":"%s"},"done":false}\n' % piece.encode() for piece in pieces]
    return Reply(lines=[*sent, b'{"message":{"content":""},"done":true}'])


async def every_way(provider: OllamaProvider, **settings: Any) -> list[LLMResponse]:
    """The answer assembled and streamed, asynchronously and not; the chunks of the stream are checked too."""
    stream = provider.stream_chat(ASK, **settings)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.content for chunk in chunks) == stream.text
    sync_stream = provider.stream(ASK, **settings)
    list(sync_stream)
    found = [
        await provider.achat(ASK, **settings),
        provider.chat(ASK, **settings),
        stream.response,
        sync_stream.response,
    ]
    return [response for response in found if response is not None]


THINKING_FIRST = [
    [f"<think>{THOUGHT}</think>{ROME}"],
    [f"\n<think>{THOUGHT}</think>\n\n{ROME}\n"],
    ["<th", "ink>", THOUGHT[:5], THOUGHT[5:], "</thi", "nk>", "\n", ROME[:4], ROME[4:]],
]


@pytest.mark.parametrize("pieces", THINKING_FIRST)
@pytest.mark.parametrize("format", [City, City.model_json_schema(), "json"])
async def test_reasoning_before_json_is_reasoning(ollama_server: OllamaServer, pieces: list[str], format: Any) -> None:
    # Once wrong: the answer does not match City
    ollama_server.reply(lines(*pieces))
    async with OllamaProvider("llama3.2", ollama_server.url) as provider:
        for response in await every_way(provider, format=format):
            assert json.loads(response.content) == {"name": "Rome"}
            assert response.thinking == THOUGHT
            assert response.parsed == (City(name="Rome") if format is City else None)


async def test_reasoning_without_its_opening_tag(ollama_server: OllamaServer) -> None:
    ollama_server.reply(lines("Is it Rome?", "</think>\n", ROME))
    async with OllamaProvider("llama3.2", ollama_server.url) as provider:
        for response in await every_way(provider, format=City):
            assert (response.content, response.thinking, response.parsed) == (ROME, "Is it Rome?", City(name="Rome"))


async def test_the_servers_own_thinking_comes_first(ollama_server: OllamaServer) -> None:
    sent = [{"message": {"content": "", "thinking": "First."}}, {"message": {"content": f"<think>Then.</think>{ROME}"}}]
    ollama_server.reply(Reply(lines=[*sent, {"done": True}]))
    async with OllamaProvider("llama3.2", ollama_server.url) as provider:
        for response in await every_way(provider, format=City):
            assert (response.thinking, response.parsed) == ("First.Then.", City(name="Rome"))


async def test_without_a_format_the_text_stays_as_it_is(ollama_server: OllamaServer) -> None:
    text = f"<think>{THOUGHT}</think>{ROME}"
    ollama_server.reply(lines(text))
    async with OllamaProvider("llama3.2", ollama_server.url) as provider:
        for response in await every_way(provider):
            assert (response.content, response.thinking) == (text, "")


@pytest.mark.parametrize(
    "text",
    [
        f"```json\n{ROME}\n```",
        f"Here you are:\n```json\n{ROME}\n```\nAnything else?",
        f"<think>```json\n{{}}\n```</think>```\n{ROME}\n```",
    ],
)
async def test_json_in_a_block_of_markdown(ollama_server: OllamaServer, text: str) -> None:
    ollama_server.reply(lines(text))
    async with OllamaProvider("llama3.2", ollama_server.url) as provider:
        for response in await every_way(provider, format=City):
            assert response.parsed == City(name="Rome")


@pytest.mark.parametrize("name", ["a ```json\n{}\n``` b", "</think>", "<think>x</think>"])
async def test_json_with_such_markup_is_unchanged(ollama_server: OllamaServer, name: str) -> None:
    ollama_server.reply(lines(json.dumps({"name": name})))
    async with OllamaProvider("llama3.2", ollama_server.url) as provider:
        for response in await every_way(provider, format=City):
            assert (response.parsed, response.thinking) == (City(name=name), "")
    assert json_in(json.dumps({"name": name})) == json.dumps({"name": name})


@pytest.mark.parametrize(("reason", "advice"), [("stop", "think=False"), ("length", "max_tokens")])
async def test_reasoning_that_does_not_end_names_a_remedy(
    ollama_server: OllamaServer, reason: str, advice: str
) -> None:
    ollama_server.reply(lines("<think>Is it", " Rome?", done_reason=reason))
    async with OllamaProvider("llama3.2", ollama_server.url) as provider:
        with pytest.raises(OutputValidationError, match=advice) as caught:
            await provider.achat(ASK, format=City)
        assert caught.value.response is not None
        assert caught.value.response.thinking == "Is it Rome?"
        with pytest.raises(OutputValidationError, match=advice):
            _ = [chunk async for chunk in provider.stream_chat(ASK, format=City)]


TOOL = {"name": "city", "parameters": City.model_json_schema()}


@pytest.mark.parametrize(
    "pieces",
    [
        ['<think>{"name": "no"}</think>{"name": "city", "arguments": ', f'{{"name": "Rome", "people": {BIG}}}}}'],
        ["<thi", 'nk>{"name": "no"}</think>', f'{{"name": "city", "arguments": {{"name": "Rome", "people": {BIG}}}}}'],
    ],
)
async def test_reasoning_before_a_forced_call(ollama_server: OllamaServer, pieces: list[str]) -> None:
    ollama_server.reply(lines(*pieces))
    async with OllamaProvider("llama3.2", ollama_server.url) as provider:
        for response in await every_way(provider, tools=[TOOL], tool_choice="required"):
            (call,) = response.tool_calls
            assert call.arguments == {"name": "Rome", "people": BIG}
            assert (response.content, response.thinking) == ("", '{"name": "no"}')
        ollama_server.reset()
        ollama_server.reply(lines("<think>Hm"))
        with pytest.raises(OutputValidationError, match="think=False"):
            await provider.achat(ASK, tools=[TOOL], tool_choice="required")


async def test_a_character_split_over_lines(ollama_server: OllamaServer) -> None:
    # Once wrong: MalformedResponseError, with only the text before it
    ollama_server.reply(raw("Hi \\ud83d", "\\ude00!", "\\ud83d", "?"))
    async with OllamaProvider("llama3.2", ollama_server.url) as provider:
        for response in await every_way(provider):
            assert response.content == "Hi \U0001f600!\ufffd?"
            response.content.encode()


async def test_json_with_half_a_surrogate_pair(ollama_server: OllamaServer) -> None:
    ollama_server.reply(lines(f'{{"name": "\\ud83d", "people": {BIG}}}'))
    async with OllamaProvider("llama3.2", ollama_server.url) as provider:
        for response in await every_way(provider, format=City):
            assert response.parsed == City(name="\ufffd", people=BIG)


async def test_long_integers_are_sent_unchanged(ollama_server: OllamaServer) -> None:
    # Once wrong: ValueError, "check the texts for lone surrogates"
    call = {"function": {"name": "city", "arguments": {"people": BIG}}}
    history = [*ASK, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "ok"}]
    form = {"type": "object", "properties": {"people": {"type": "integer", "maximum": 2**64}}}
    tool = {"name": "city", "parameters": form}
    async with OllamaProvider("llama3.2", ollama_server.url) as provider:
        await provider.achat(history, tools=[tool], options={"seed": 1})
        await provider.achat(history, format={"type": "object", "properties": {"people": {"const": BIG}}})
    tools, formatted = (json.loads(record.body) for record in ollama_server.requests)
    assert tools["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"people": BIG}
    assert tools["tools"][0]["function"]["parameters"]["properties"]["people"]["maximum"] == 2**64
    assert formatted["format"]["properties"]["people"] == {"const": BIG}


async def test_a_prompt_that_cannot_be_sent_is_named_before_any_request(ollama_server: OllamaServer) -> None:
    async with OllamaProvider("llama3.2", ollama_server.url) as provider:
        with pytest.raises(ValueError, match=r"messages\[1\]\.content: the text has a lone surrogate at position 2"):
            await provider.achat([*ASK, {"role": "user", "content": "Hi\ud83d"}])
        with pytest.raises(ValueError, match="prompt: the text has a lone surrogate"):
            await provider.agenerate("\ude00")
    assert ollama_server.requests == []


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    "line", [{"detail": "it broke"}, {"error parsing tool call": "it broke"}, {"error": {"detail": "it broke"}}]
)
async def test_an_error_in_a_stream_keeps_its_reason(ollama_server: OllamaServer, first: bool, line: Any) -> None:
    # Once wrong: "not of the shape of /api/chat; is this an Ollama server?"
    sent = [] if first else [{"message": {"content": "Hi"}, "done": False}]
    ollama_server.reply(Reply(lines=[*sent, line]))
    async with OllamaProvider("llama3.2", ollama_server.url) as provider:
        for ask in (
            lambda: provider.achat(ASK),
            lambda: _drained(provider.stream_chat(ASK)),
        ):
            with pytest.raises(ServerError, match="it broke") as caught:
                await ask()
            assert (caught.value.partial.content if caught.value.partial else "") == ("" if first else "Hi")


async def _drained(stream: Any) -> None:
    async for _ in stream:
        pass


async def test_an_error_with_status_200(ollama_server: OllamaServer) -> None:
    ollama_server.on(path="/api/embed").reply(Reply(json={"error": "it broke"}))
    async with OllamaProvider("llama3.2", ollama_server.url) as provider:
        with pytest.raises(ServerError, match="it broke"):
            await provider.embed("x")


# Tool calls that the server could not parse; their outcome for each method is in tests/matrix

CALL = '{"city": "Ro'
CANNOT_PARSE = f"error parsing tool call: raw='{CALL}', err=unexpected end of JSON input"


async def test_an_unparsed_call_follows_the_text_before_it(ollama_server: OllamaServer) -> None:
    sent = [
        {"message": {"content": "", "thinking": "Hm."}},
        {"message": {"content": "I ask. "}},
        {"error": CANNOT_PARSE},
    ]
    ollama_server.reply(Reply(lines=sent))
    async with OllamaProvider("llama3.2", ollama_server.url, retry=RetryPolicy(call_retries=2)) as provider:
        with pytest.raises(ToolCallParseError) as caught:
            await provider.achat(ASK)
        assert len(ollama_server.requests) == 3
        stream = provider.stream_chat(ASK)
        chunks = []
        with pytest.raises(ToolCallParseError) as streamed:
            async for chunk in stream:
                chunks.append(chunk)
        assert len(ollama_server.requests) == 4  # no retry after a chunk
        assert "".join(chunk.content for chunk in chunks) == stream.text == "I ask. "
    for error in (caught.value, streamed.value):
        assert error.partial is not None
        assert (error.partial.thinking, error.partial.content) == ("Hm.", f"I ask. {CALL}")
        assert (error.text, error.partial.finish_reason) == (CALL, None)


async def test_a_large_unparsed_call_is_complete(ollama_server: OllamaServer) -> None:
    # Once wrong: only 64 KiB of an error's body were read, which is not JSON, and the message quoted them
    call = '{"path": "private.txt", "text": "' + "word " * 50_000
    ollama_server.reply(json={"error": f"error parsing tool call: raw='{call}', err=EOF"}, status=500)
    async with OllamaProvider("llama3.2", ollama_server.url) as provider:
        with pytest.raises(ToolCallParseError) as caught:
            await provider.achat(ASK, stream_internally=False)
    assert caught.value.text == call
    assert "private" not in str(caught.value)


@pytest.mark.parametrize("endpoint", ["chat", "generate"])
async def test_a_stream_that_fails_before_its_first_chunk_is_retried(
    ollama_server: OllamaServer, endpoint: str
) -> None:
    for failure in (Reply(lines=[{"error": CANNOT_PARSE}]), Reply(json={"error": CANNOT_PARSE}, status=500)):
        ollama_server.reset()
        ollama_server.reply(failure, times=1)
        ollama_server.reply("an answer")
        async with OllamaProvider("llama3.2", ollama_server.url) as provider:
            stream = provider.stream_chat(ASK) if endpoint == "chat" else provider.stream_generate("Where?")
            assert "".join([chunk.content async for chunk in stream]) == "an answer"
            assert provider.stats().retries == 1
