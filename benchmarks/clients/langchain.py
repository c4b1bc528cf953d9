"""LangChain: our chat model, that of langchain-ollama, and the cost of LangChain itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import aiohttp
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from pydantic import Field

from benchmarks.clients import PROMPT, UNLIMITED, Client, Forecast, PacedClient, SyncClient, weather
from benchmarks.clients.floors import open_session, texts


# Imported where needed: a program has one of them in memory, not both.
def _ours(url: str, **settings: Any) -> BaseChatModel:
    from langchain_namel3ss_ollama import ChatOllama

    return ChatOllama(model="bench", base_url=url, max_concurrent=None, **settings)


def _theirs(url: str, **settings: Any) -> BaseChatModel:
    from langchain_ollama import ChatOllama

    return ChatOllama(model="bench", base_url=url, **settings)


class _Ready(BaseChatModel):
    """Yields chunks made in advance."""

    ready: list[list[ChatGenerationChunk]] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "ready"

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        raise NotImplementedError

    def _stream(self, *_: Any, **__: Any) -> Iterator[ChatGenerationChunk]:
        yield from self.ready.pop()

    async def _astream(self, *_: Any, **__: Any) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in self.ready.pop():
            yield chunk

    def prepare(self, tokens: int, times: int) -> None:
        """Make the chunks of the next answers."""
        self.ready = [_chunks(tokens) for _ in range(times)]


class _Made(_Ready):
    """Makes its chunks on demand, as every model must."""

    tokens: int = 0

    async def _astream(self, *_: Any, **__: Any) -> AsyncIterator[ChatGenerationChunk]:
        for _ in range(self.tokens):
            yield ChatGenerationChunk(message=AIMessageChunk(content=" word"))
        yield ChatGenerationChunk(message=AIMessageChunk(content="", chunk_position="last"))

    def prepare(self, tokens: int, times: int) -> None:
        self.tokens = tokens


def _chunks(tokens: int) -> list[ChatGenerationChunk]:
    chunks = [ChatGenerationChunk(message=AIMessageChunk(content=" word")) for _ in range(tokens)]
    chunks.append(ChatGenerationChunk(message=AIMessageChunk(content="", chunk_position="last")))
    return chunks


class _Streamed:
    """`astream` of a model."""

    def __init__(self, model: BaseChatModel) -> None:
        self._model = model
        if isinstance(model, _Ready):
            self.prepare = model.prepare

    async def __call__(self, tokens: int) -> int:
        characters = 0
        options = {} if isinstance(self._model, _Ready) else {"num_predict": tokens}
        async for chunk in self._model.astream(PROMPT, **({"options": options} if options else {})):
            characters += len(chunk.content)
        return characters


class _SyncStreamed(_Streamed):
    """`stream` of a model."""

    def __call__(self, tokens: int) -> int:  # type: ignore[override] # the worker checks which it is
        options = {} if isinstance(self._model, _Ready) else {"num_predict": tokens}
        chunks = self._model.stream(PROMPT, **({"options": options} if options else {}))
        return sum(len(chunk.content) for chunk in chunks)


def ours(url: str) -> Client:
    """`astream` of langchain_namel3ss_ollama."""
    return _Streamed(_ours(url))


def theirs(url: str) -> Client:
    """`astream` of langchain_ollama."""
    return _Streamed(_theirs(url))


def floor(_: str) -> Client:
    """`astream` of a model that yields ready-made chunks."""
    return _Streamed(_Ready())


def floor_made(_: str) -> Client:
    """`astream` of a model that makes its chunks with LangChain's constructors, and does nothing else."""
    return _Streamed(_Made())


def ours_sync(url: str) -> SyncClient:
    """`stream` of langchain_namel3ss_ollama."""
    return _SyncStreamed(_ours(url))


def theirs_sync(url: str) -> SyncClient:
    """`stream` of langchain_ollama."""
    return _SyncStreamed(_theirs(url))


def floor_sync(_: str) -> SyncClient:
    """`stream` of a model that yields ready-made chunks."""
    return _SyncStreamed(_Ready())


class _PacedFloor(_Ready):
    """Makes a chunk of each text over aiohttp and orjson, and does nothing else."""

    url: str
    session: list[aiohttp.ClientSession] = Field(default_factory=list)

    async def _astream(self, *_: Any, **__: Any) -> AsyncIterator[ChatGenerationChunk]:
        if not self.session:
            self.session.append(open_session())
        async for text in texts(self.session[0], self.url):
            yield ChatGenerationChunk(message=AIMessageChunk(content=text))


def _paced(model: BaseChatModel) -> PacedClient:
    async def run(arrived: Callable[[str], None]) -> None:
        async for chunk in model.astream(PROMPT):
            arrived(str(chunk.content))

    return run


def floor_paced(url: str) -> PacedClient:
    """`astream` of a model that makes its chunks of what aiohttp and orjson give."""
    return _paced(_PacedFloor(url=url))


def ours_paced(url: str) -> PacedClient:
    """`astream` of langchain_namel3ss_ollama."""
    return _paced(_ours(url).model_copy(update={"model": "live"}))


def theirs_paced(url: str) -> PacedClient:
    """`astream` of langchain_ollama, without httpx's limit of 100 connections."""
    return _paced(_theirs(url, client_kwargs={"limits": UNLIMITED}).model_copy(update={"model": "live"}))


def ours_default(url: str) -> Client:
    """`astream` of langchain_namel3ss_ollama, with its default limit on concurrent requests."""
    from langchain_namel3ss_ollama import ChatOllama

    return _Streamed(ChatOllama(model="typical", base_url=url))


def theirs_default(url: str) -> Client:
    """`astream` of langchain_ollama, with its default settings."""
    from langchain_ollama import ChatOllama

    return _Streamed(ChatOllama(model="typical", base_url=url))


def _whole(model: BaseChatModel) -> Client:
    async def run(tokens: int) -> int:
        return len((await model.ainvoke(PROMPT, options={"num_predict": tokens})).content)

    return run


def ours_whole(url: str) -> Client:
    """`ainvoke` of langchain_namel3ss_ollama."""
    return _whole(_ours(url))


def theirs_whole(url: str) -> Client:
    """`ainvoke` of langchain_ollama."""
    return _whole(_theirs(url))


async def _tool_calls(model: BaseChatModel, answers: int) -> None:
    bound = model.bind_tools([weather])
    for _ in range(answers):
        assert (await bound.ainvoke(PROMPT)).tool_calls[0]["args"]["days"] == 3


async def _structured(model: BaseChatModel, answers: int) -> None:
    bound = model.with_structured_output(Forecast, method="json_schema")
    for _ in range(answers):
        assert await bound.ainvoke(PROMPT) == Forecast(city="Bergen", days=3)


async def ours_tool_calls(url: str, answers: int) -> None:
    """`bind_tools` of langchain_namel3ss_ollama."""
    await _tool_calls(_ours(url), answers)


async def theirs_tool_calls(url: str, answers: int) -> None:
    """`bind_tools` of langchain_ollama."""
    await _tool_calls(_theirs(url), answers)


async def ours_structured(url: str, answers: int) -> None:
    """`with_structured_output` of langchain_namel3ss_ollama."""
    await _structured(_ours(url), answers)


async def theirs_structured(url: str, answers: int) -> None:
    """`with_structured_output` of langchain_ollama."""
    await _structured(_theirs(url), answers)


async def _batch(model: BaseChatModel, prompts: int, at_once: int) -> None:
    answers = await model.abatch([PROMPT] * prompts, {"max_concurrency": at_once})
    assert len(answers) == prompts


async def ours_batch(url: str, prompts: int, at_once: int, tokens: int) -> None:
    """`abatch` of langchain_namel3ss_ollama."""
    await _batch(_ours(url, num_predict=tokens), prompts, at_once)


async def theirs_batch(url: str, prompts: int, at_once: int, tokens: int) -> None:
    """`abatch` of langchain_ollama."""
    await _batch(_theirs(url, num_predict=tokens), prompts, at_once)


async def ours_embed(url: str, texts: int) -> None:
    """`aembed_documents` of langchain_namel3ss_ollama."""
    from langchain_namel3ss_ollama import OllamaEmbeddings

    model = OllamaEmbeddings(model="bench", base_url=url)
    assert len(await model.aembed_documents([f"text {i}" for i in range(texts)])) == texts


async def theirs_embed(url: str, texts: int) -> None:
    """`aembed_documents` of langchain_ollama."""
    from langchain_ollama import OllamaEmbeddings

    model = OllamaEmbeddings(model="bench", base_url=url)
    assert len(await model.aembed_documents([f"text {i}" for i in range(texts)])) == texts


def ours_construct(url: str) -> object:
    """A chat model of langchain_namel3ss_ollama."""
    return _ours(url)


def theirs_construct(url: str) -> object:
    """A chat model of langchain_ollama."""
    return _theirs(url)
