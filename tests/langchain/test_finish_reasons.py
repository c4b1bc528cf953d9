"""Finish reasons, under the names of langchain-core 1.8.4, with every method."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.tools import tool
from langchain_tests.utils.stream_lifecycle import assert_valid_event_stream

from langchain_namel3ss_ollama import ChatOllama, OllamaLLM
from namel3ss_ollama import StreamConfig
from namel3ss_ollama.testing import OllamaServer, Reply, ToolCall

pytestmark = pytest.mark.filterwarnings("ignore:.* is in beta")
KEYS = ("finish_reason", "normalized_finish_reason")
CALL = ToolCall("weather", {"city": "Rome"})
BROKEN = ToolCall("weather", '{"city": ')
Reasons = tuple[Any, Any]


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


def of(metadata: dict[str, Any]) -> Reasons:
    found = tuple(metadata.get(key) for key in KEYS)
    assert (None in found) == (found == (None, None))
    return found[0], found[1]


def added(pieces: list[AIMessageChunk]) -> AIMessageChunk:
    """The merged chunks, of which exactly one has the finish reason."""
    assert sum("finish_reason" in piece.response_metadata for piece in pieces) <= 1
    return pieces[0] + pieces[1:]


async def answers(model: Any) -> list[AIMessage]:
    """The answers of all four methods to the same question."""
    return [
        await asyncio.to_thread(model.invoke, "Hi"),
        await model.ainvoke("Hi"),
        added(await asyncio.to_thread(lambda: list(model.stream("Hi")))),
        added([piece async for piece in model.astream("Hi")]),
    ]


async def streams_of_events(model: Any) -> list[tuple[list[Any], AIMessage]]:
    """The protocol events and the message that LangChain builds from them, sync and async."""
    stream = model.stream_events("Hi", version="v3")
    events = await asyncio.to_thread(list, stream)
    astream = await model.astream_events("Hi", version="v3")
    aevents = [event async for event in astream]
    return [(events, stream.output), (aevents, await astream.output)]


@pytest.mark.parametrize("output_version", ["v0", "v1"])
@pytest.mark.parametrize(
    ("reply", "reasons"),
    [
        (Reply(["Good", " day."]), ("stop", "stop")),
        (Reply(["Good", " day."], thinking="Hm."), ("stop", "stop")),
        (Reply("Good", done_reason="length"), ("length", "length")),
        (Reply("", done_reason="load"), ("load", "other")),
        (Reply("Hm.", tool_calls=[CALL]), ("stop", "tool_call")),
        (Reply("", tool_calls=[CALL, CALL]), ("stop", "tool_call")),
        (Reply("", tool_calls=[BROKEN]), ("stop", "tool_call")),
        (Reply("", tool_calls=[CALL], done_reason="length"), ("length", "length")),
        (Reply(lines=[{"message": {"content": "Hi"}, "done": True}]), (None, None)),
        (Reply(lines=[{"message": {"content": "Hi"}, "done": True, "done_reason": ["stop"]}]), (None, None)),
    ],
    ids=["text", "reasoning", "limit", "load", "call", "calls", "broken", "call and limit", "none", "no text"],
)
async def test_every_method(
    chat: Callable[..., ChatOllama], ollama_server: OllamaServer, reply: Reply, reasons: Reasons, output_version: str
) -> None:
    ollama_server.reply(reply, path="/api/chat")
    model = chat("qwen3", output_version=output_version).bind_tools([weather])
    for answer in await answers(model):
        assert of(answer.response_metadata) == reasons
        if isinstance(answer.response_metadata.get("done_reason"), str):
            assert answer.response_metadata["done_reason"] == reasons[0]
    for events, message in await streams_of_events(model):
        assert_valid_event_stream(events)
        assert of(events[-1]) == of(events[-1]["metadata"]) == of(message.response_metadata) == reasons
        assert not any(key in event for event in events[:-1] for key in KEYS)


async def test_a_forced_call(chat: Callable[..., ChatOllama], ollama_server: OllamaServer) -> None:
    model = chat().bind_tools([weather], tool_choice="any")
    for answer in await answers(model):
        assert len(answer.tool_calls) == 1
        assert of(answer.response_metadata) == ("stop", "tool_call")


async def test_max_chunks_is_a_length(chat: Callable[..., ChatOllama], ollama_server: OllamaServer) -> None:
    ollama_server.reply(["a", "b", "c"])
    model = chat(stream_config=StreamConfig(max_chunks=2))
    for pieces in (list(model.stream("Hi")), [piece async for piece in model.astream("Hi")]):
        assert of(added(pieces).response_metadata) == ("max_chunks", "length")
    for events, message in await streams_of_events(model):
        assert of(events[-1]) == of(message.response_metadata) == ("max_chunks", "length")


def test_truncation_is_no_finish_reason(chat: Callable[..., ChatOllama], ollama_server: OllamaServer) -> None:
    answer = chat(num_ctx=64).invoke("word " * 400)
    assert answer.response_metadata["truncated_prompt"]
    assert of(answer.response_metadata) == ("stop", "stop")


async def test_text_models(ollama_server: OllamaServer) -> None:
    ollama_server.reply(["a", "b"], done_reason="length")
    model = OllamaLLM(model="llama3.2", base_url=ollama_server.url)
    seen: list[dict[str, Any]] = []
    for result in (model.generate(["Hi"]), await model.agenerate(["Hi"])):
        seen.append(result.generations[0][0].generation_info or {})
    pieces = list(model._stream("Hi"))
    whole = pieces[0]
    for piece in pieces[1:]:
        whole = whole + piece
    seen.append(whole.generation_info or {})
    assert [of(info) for info in seen] == [("length", "length")] * 3
