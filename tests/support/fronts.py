"""One question to the provider and to both adapters: complete and streaming, async and sync.

Each function takes a provider and a `Received`, so that a test sees what had arrived before a failure.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AIMessage
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ToolCallBlock

from langchain_namel3ss_ollama import ChatOllama
from llama_index.llms.namel3ss_ollama import Ollama
from namel3ss_ollama import LLMResponse, OllamaProvider

__all__ = ["ASYNC", "FRONTS", "SYNC", "Received"]

QUESTION = "count"
ASK = [{"role": "user", "content": QUESTION}]
FRONTS = ("provider", "LangChain", "LlamaIndex")


@dataclass
class Received:
    """The result of a call: the text as it arrived, then the finish reason and the tool calls."""

    pieces: list[str] = field(default_factory=list[str])
    finish: str | None = None
    calls: list[tuple[str, Mapping[str, Any], bool]] = field(default_factory=list[tuple[str, Mapping[str, Any], bool]])
    usage: Mapping[str, Any] | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def response(self, response: LLMResponse | None) -> None:
        assert response is not None
        self.finish = response.metadata.get("done_reason")
        self.calls = [(c.name, c.arguments, c.invalid_arguments is not None) for c in response.tool_calls]
        self.calls += [("", {}, True) for _ in response.invalid_tool_calls]
        self.usage = response.usage

    def message(self, message: AIMessage) -> None:
        self.finish = message.response_metadata.get("done_reason")
        self.calls = [(c["name"], c["args"], False) for c in message.tool_calls]
        self.calls += [(c["name"] or "", {}, True) for c in message.invalid_tool_calls]
        self.usage = message.usage_metadata

    def chat_response(self, response: ChatResponse | None) -> None:
        assert response is not None
        raw: Mapping[str, Any] = response.raw or {}
        self.finish = raw.get("done_reason")
        self.usage = raw.get("usage")
        for block in response.message.blocks:
            if isinstance(block, ToolCallBlock):
                broken = isinstance(block.tool_kwargs, str)
                self.calls.append((block.tool_name, {} if broken else dict(block.tool_kwargs), broken))


def merged(chunks: Sequence[Any]) -> AIMessage:
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return whole


def langchain(provider: OllamaProvider) -> ChatOllama:
    return ChatOllama(provider=provider)


def llama_index(provider: OllamaProvider) -> Ollama:
    return Ollama(provider=provider, context_window=4096)  # given, so that it makes no other request


TURN = [ChatMessage(role="user", content=QUESTION)]


async def provider_awhole(provider: OllamaProvider, received: Received) -> None:
    response = await provider.achat(ASK)
    received.pieces.append(response.content)
    received.response(response)


async def provider_astreaming(provider: OllamaProvider, received: Received) -> None:
    stream = provider.stream_chat(ASK)
    try:
        async for chunk in stream:
            received.pieces.append(chunk.content)
    finally:
        assert (stream.text, stream.partial.content) == (received.text, received.text)
    assert stream.end == "done"
    received.response(stream.response)


async def provider_aone_object(provider: OllamaProvider, received: Received) -> None:
    response = await provider.achat(ASK, stream_internally=False)
    received.pieces.append(response.content)
    received.response(response)


def provider_whole(provider: OllamaProvider, received: Received) -> None:
    response = provider.chat(ASK)
    received.pieces.append(response.content)
    received.response(response)


def provider_streaming(provider: OllamaProvider, received: Received) -> None:
    stream = provider.stream(ASK)
    try:
        for chunk in stream:
            received.pieces.append(chunk.content)
    finally:
        assert (stream.text, stream.partial.content) == (received.text, received.text)
    assert stream.end == "done"
    received.response(stream.response)


def provider_one_object(provider: OllamaProvider, received: Received) -> None:
    response = provider.chat(ASK, stream_internally=False)
    received.pieces.append(response.content)
    received.response(response)


async def langchain_awhole(provider: OllamaProvider, received: Received) -> None:
    message = await langchain(provider).ainvoke(QUESTION)
    received.pieces.append(message.text)
    received.message(message)


async def langchain_astreaming(provider: OllamaProvider, received: Received) -> None:
    chunks = []
    async for chunk in langchain(provider).astream(QUESTION):
        received.pieces.append(chunk.text)
        chunks.append(chunk)
    received.message(merged(chunks))


def langchain_whole(provider: OllamaProvider, received: Received) -> None:
    message = langchain(provider).invoke(QUESTION)
    received.pieces.append(message.text)
    received.message(message)


def langchain_streaming(provider: OllamaProvider, received: Received) -> None:
    chunks = []
    for chunk in langchain(provider).stream(QUESTION):
        received.pieces.append(chunk.text)
        chunks.append(chunk)
    received.message(merged(chunks))


async def llama_index_awhole(provider: OllamaProvider, received: Received) -> None:
    response = await llama_index(provider).achat(TURN)
    received.pieces.append(response.message.content or "")
    received.chat_response(response)


async def llama_index_astreaming(provider: OllamaProvider, received: Received) -> None:
    response = None
    async for response in await llama_index(provider).astream_chat(TURN):
        received.pieces.append(response.delta or "")
    received.chat_response(response)


def llama_index_whole(provider: OllamaProvider, received: Received) -> None:
    response = llama_index(provider).chat(TURN)
    received.pieces.append(response.message.content or "")
    received.chat_response(response)


def llama_index_streaming(provider: OllamaProvider, received: Received) -> None:
    response = None
    for response in llama_index(provider).stream_chat(TURN):
        received.pieces.append(response.delta or "")
    received.chat_response(response)


ASYNC: dict[tuple[str, str], Callable[[OllamaProvider, Received], Awaitable[None]]] = {
    ("provider", "whole"): provider_awhole,
    ("provider", "streaming"): provider_astreaming,
    ("provider", "one_object"): provider_aone_object,
    ("LangChain", "whole"): langchain_awhole,
    ("LangChain", "streaming"): langchain_astreaming,
    ("LlamaIndex", "whole"): llama_index_awhole,
    ("LlamaIndex", "streaming"): llama_index_astreaming,
}
SYNC: dict[tuple[str, str], Callable[[OllamaProvider, Received], None]] = {
    ("provider", "whole"): provider_whole,
    ("provider", "streaming"): provider_streaming,
    ("provider", "one_object"): provider_one_object,
    ("LangChain", "whole"): langchain_whole,
    ("LangChain", "streaming"): langchain_streaming,
    ("LlamaIndex", "whole"): llama_index_whole,
    ("LlamaIndex", "streaming"): llama_index_streaming,
}
