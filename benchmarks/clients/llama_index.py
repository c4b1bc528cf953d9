"""LlamaIndex: our LLM, that of llama-index-llms-ollama, and the cost of LlamaIndex itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, LLMMetadata
from llama_index.core.llms.callbacks import llm_chat_callback
from llama_index.core.llms.custom import CustomLLM
from llama_index.core.llms.llm import LLM
from pydantic import Field

from benchmarks.clients import PROMPT, Client, SyncClient

_MESSAGES = [ChatMessage(role="user", content=PROMPT)]


# Imported where needed: a program has one of them in memory, not both.
def _ours(url: str) -> LLM:
    from llama_index.llms.namel3ss_ollama import Ollama

    return Ollama("bench", url, max_concurrent=None, context_window=4096)


def _theirs(url: str) -> LLM:
    from llama_index.llms.ollama import Ollama

    return Ollama("bench", url, context_window=4096, request_timeout=600)


class _Ready(CustomLLM):
    """Yields responses made in advance."""

    ready: list[Any] = Field(default_factory=list)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata()

    def complete(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    def stream_complete(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    @llm_chat_callback()
    def stream_chat(self, messages: Any, **_: Any) -> Any:
        responses = self.ready.pop()

        def stream() -> Any:
            yield from responses

        return stream()

    @llm_chat_callback()
    async def astream_chat(self, messages: Any, **_: Any) -> Any:
        responses = self.ready.pop()

        async def stream() -> Any:
            for response in responses:
                yield response

        return stream()

    def prepare(self, tokens: int, times: int) -> None:
        """Make the responses of the next answers."""
        self.ready = [list(_made(tokens)) for _ in range(times)]


class _Made(_Ready):
    """Makes its responses on demand, as every LLM must."""

    def prepare(self, tokens: int, times: int) -> None:
        self.ready = [_made(tokens) for _ in range(times)]


def _made(tokens: int) -> Iterator[ChatResponse]:
    text = ""
    for delta in [*[" word"] * tokens, ""]:
        text += delta
        yield ChatResponse(message=ChatMessage(role="assistant", content=text), delta=delta)


class _Streamed:
    """`astream_chat` of an LLM."""

    def __init__(self, llm: LLM) -> None:
        self._llm = llm
        if isinstance(llm, _Ready):
            self.prepare = llm.prepare

    def _limit(self, tokens: int) -> None:
        if not isinstance(self._llm, _Ready):  # theirs takes no options for a single call
            self._llm.additional_kwargs["num_predict"] = tokens  # type: ignore[attr-defined] # both have it

    async def __call__(self, tokens: int) -> int:
        self._limit(tokens)
        characters = 0
        async for response in await self._llm.astream_chat(_MESSAGES):
            characters += len(response.delta or "")
        return characters


class _SyncStreamed(_Streamed):
    """`stream_chat` of an LLM."""

    def __call__(self, tokens: int) -> int:  # type: ignore[override] # the worker checks which it is
        self._limit(tokens)
        responses = self._llm.stream_chat(_MESSAGES)
        return sum(len(response.delta or "") for response in responses)


def ours(url: str) -> Client:
    """`astream_chat` of ours."""
    return _Streamed(_ours(url))


def theirs(url: str) -> Client:
    """`astream_chat` of llama-index-llms-ollama."""
    return _Streamed(_theirs(url))


def floor(_: str) -> Client:
    """`astream_chat` of an LLM that yields ready-made responses."""
    return _Streamed(_Ready())


def floor_made(_: str) -> Client:
    """`astream_chat` of an LLM that makes its responses with LlamaIndex's constructors, and does nothing else."""
    return _Streamed(_Made())


def ours_sync(url: str) -> SyncClient:
    """`stream_chat` of ours."""
    return _SyncStreamed(_ours(url))


def theirs_sync(url: str) -> SyncClient:
    """`stream_chat` of llama-index-llms-ollama."""
    return _SyncStreamed(_theirs(url))


def floor_sync(_: str) -> SyncClient:
    """`stream_chat` of an LLM that yields ready-made responses."""
    return _SyncStreamed(_Ready())


def ours_construct(url: str) -> object:
    """An LLM of ours."""
    return _ours(url)


def theirs_construct(url: str) -> object:
    """An LLM of llama-index-llms-ollama."""
    return _theirs(url)
