"""`provider.sync` against a server: every twin, in scripts, threads and running loops; unexhausted iterators."""

from __future__ import annotations

import asyncio
import gc
import inspect
import pickle
import threading
import typing
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from namel3ss_ollama import (
    LLMError,
    LLMResponse,
    ModelNotFoundError,
    OllamaProvider,
    Stream,
    SyncIterator,
    SyncProvider,
    SyncStream,
    run_sync,
)
from namel3ss_ollama.blocking import Facade
from namel3ss_ollama.settings import BatchOptions, ChatOptions, GenerateOptions
from namel3ss_ollama.testing import Gate, OllamaServer

ASK = [{"role": "user", "content": "count"}]
TEXT = "one two three four five six"
STEPS: list[object] = [{"status": "pulling manifest"}, {"status": "pulling abc", "completed": 4}, {"status": "success"}]
Json = dict[str, Any]


@pytest.fixture(params=["aiohttp", "httpx"])
def provider(ollama_server: OllamaServer, request: pytest.FixtureRequest) -> Iterator[OllamaProvider]:
    ollama_server.reply(TEXT)
    for path in ("/api/pull", "/api/push"):
        ollama_server.reply("", path=path, lines=STEPS)
    with OllamaProvider("llama3.2", ollama_server.url, transport=request.param, max_concurrent=3) as provider:
        yield provider
    assert provider.stats().running == 0
    ollama_server.wait_for(lambda s: s.open_connections == 0)


def returns_iterator(method: Any) -> bool:
    returned = typing.get_type_hints(method).get("return")
    return returned is Stream or typing.get_origin(returned) is AsyncIterator


def methods(cls: type) -> dict[str, Any]:
    return {name: method for name, method in inspect.getmembers(cls, inspect.isfunction) if not name.startswith("_")}


def test_every_async_method_has_a_twin() -> None:
    asynchronous = {
        name
        for name, method in methods(OllamaProvider).items()
        if inspect.iscoroutinefunction(method) or returns_iterator(method)
    }
    assert {"embed", "pull_model", "create_model", "stream_chat", "aclose"} <= asynchronous
    assert methods(SyncProvider).keys() == asynchronous


@pytest.mark.parametrize("name", methods(SyncProvider))
def test_a_twin_has_its_methods_signature_and_docs(name: str) -> None:
    twin, method = getattr(SyncProvider, name), getattr(OllamaProvider, name)
    assert not inspect.iscoroutinefunction(twin)
    assert twin.__doc__ == method.__doc__
    signature, expected = inspect.signature(twin), inspect.signature(method)
    assert signature.parameters == expected.parameters
    returned = typing.get_type_hints(twin)["return"]
    if returns_iterator(method):
        assert signature.return_annotation == returned
        assert returned in (SyncStream, SyncIterator[Json])
    else:
        assert signature.return_annotation == expected.return_annotation


def test_aliases_have_names_and_docs() -> None:
    for alias, name in (("generate", "agenerate"), ("chat", "achat"), ("batch", "agenerate_batch")):
        method = getattr(OllamaProvider, alias)
        part = getattr(OllamaProvider, name).__qualname__.removesuffix(name)  # the class that defines it
        assert (method.__name__, method.__qualname__) == (alias, f"{part}{alias}")
        assert inspect.signature(method) == inspect.signature(getattr(OllamaProvider, name))
        assert method.__doc__ == getattr(OllamaProvider, name).__doc__


def test_a_batch_takes_its_calls_options() -> None:
    taken = {**typing.get_type_hints(GenerateOptions), **typing.get_type_hints(ChatOptions)}
    for method in (OllamaProvider.agenerate, OllamaProvider.achat):
        hints, parameters = typing.get_type_hints(method), inspect.signature(method).parameters.values()
        taken |= {p.name: hints[p.name] for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert typing.get_type_hints(BatchOptions) == taken


def test_answers(provider: OllamaProvider) -> None:
    sync = provider.sync
    assert sync.agenerate("count").content == TEXT
    assert sync.achat(ASK).content == TEXT
    assert "".join(chunk.content for chunk in sync.stream_generate("count")) == TEXT
    with sync.stream_chat(ASK) as stream:
        assert "".join(chunk.content for chunk in stream) == TEXT
    assert stream.end == "done"
    seen: list[int] = []
    answers = sync.agenerate_batch(["a", ASK], temperature=0.5, on_result=lambda index, _: seen.append(index))
    assert ([answer.content for answer in answers], sorted(seen)) == ([TEXT] * 2, [0, 1])
    failed = sync.agenerate_batch(["a"], model="nope", return_exceptions=True)
    assert [type(result) for result in failed] == [ModelNotFoundError]
    assert len(sync.embed(["a", "b"], model="all-minilm").embeddings) == 2


def test_models(provider: OllamaProvider) -> None:
    sync = provider.sync
    assert "llama3.2:latest" in [model["name"] for model in sync.list_models()]
    assert "completion" in sync.show_model()["capabilities"]
    assert sync.exists()
    assert not sync.exists("nope")
    assert sync.context_window(num_ctx=2048) == 2048
    assert sync.preload().finish_reason == "load"
    assert [model["name"] for model in sync.running_models()] == ["llama3.2:latest"]
    assert sync.unload().finish_reason == "unload"
    assert list(sync.pull_model()) == list(sync.push_model("me/mine")) == STEPS
    assert [step["status"] for step in sync.create_model("mario", from_model="llama3.2")][-1] == "success"
    assert sync.copy_model("llama3.2", "backup") is None  # type: ignore[func-returns-value]
    assert sync.delete_model("backup") is None  # type: ignore[func-returns-value]
    with pytest.raises(ModelNotFoundError):
        sync.delete_model("backup")
    assert sync.version() == "0.9.3"
    assert sync.is_available()
    assert sync.preflight()


async def test_inside_a_running_loop(provider: OllamaProvider, ollama_server: OllamaServer) -> None:
    sync = provider.sync
    assert sync.version() == await provider.version()
    assert sync.embed("a", model="all-minilm") == await provider.embed("a", model="all-minilm")
    assert list(sync.pull_model()) == [step async for step in provider.pull_model()]
    assert "".join(chunk.content for chunk in sync.stream_chat(ASK)) == TEXT
    sync.aclose()  # this loop's connections are closed when it resumes
    await ollama_server.wait_for_async(lambda s: s.open_connections == 0)


def test_aclose_closes_what_threads_hold_open(provider: OllamaProvider, ollama_server: OllamaServer) -> None:
    provider.sync.version()
    assert ollama_server.open_connections == 1
    provider.sync.aclose()
    ollama_server.wait_for(lambda s: s.open_connections == 0)
    assert provider.sync.version() == "0.9.3"


def test_from_threads(provider: OllamaProvider) -> None:
    def work(number: int) -> Any:
        if number % 3 == 0:
            return list(provider.sync.pull_model())
        return provider.sync.version() if number % 3 == 1 else provider.sync.agenerate("count").content

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(24))) == [STEPS, "0.9.3", TEXT] * 8


def test_one_iterator_for_several_threads(provider: OllamaProvider) -> None:
    progress = provider.sync.pull_model()
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda _: list(progress), range(4)))
    assert sorted((step for part in parts for step in part), key=STEPS.index) == STEPS


def test_calls_on_the_background_loop_are_refused(provider: OllamaProvider) -> None:
    async def inside(call: Callable[[], object]) -> None:
        call()

    for call in (provider.sync.version, lambda: next(provider.sync.pull_model())):
        with pytest.raises(RuntimeError, match="await the async method"):
            run_sync(inside(call))


def half_way(provider: OllamaProvider, server: OllamaServer) -> SyncIterator[Json]:
    """An iterator after its first item, while the server holds back the others."""
    server.reset()
    server.reply("", path="/api/pull", lines=STEPS, gates={1: Gate()})
    progress = provider.sync.pull_model()
    assert next(progress) == STEPS[0]
    assert server.requests[-1].outcome == "active"
    return progress


def closed_by_client(server: OllamaServer) -> None:
    server.wait_for(lambda s: s.requests[-1].outcome == "client_closed")


def test_a_closed_iterator_has_no_more_items(provider: OllamaProvider, ollama_server: OllamaServer) -> None:
    progress = half_way(provider, ollama_server)
    progress.close()
    closed_by_client(ollama_server)
    assert list(progress) == []
    assert next(progress, None) is None
    progress.close()
    assert len(ollama_server.requests) == 1


def test_leaving_the_with_block_closes(provider: OllamaProvider, ollama_server: OllamaServer) -> None:
    with half_way(provider, ollama_server):
        pass
    closed_by_client(ollama_server)
    with pytest.raises(ZeroDivisionError), half_way(provider, ollama_server):
        raise ZeroDivisionError
    closed_by_client(ollama_server)


def test_an_iterator_closed_before_use_sends_nothing(provider: OllamaProvider, ollama_server: OllamaServer) -> None:
    with provider.sync.pull_model() as progress:
        pass
    assert list(progress) == []
    provider.sync.pull_model()
    assert ollama_server.requests == []


def test_dropping_closes(provider: OllamaProvider, ollama_server: OllamaServer) -> None:
    for _ in provider.sync.pull_model("whole"):
        pass
    progress = half_way(provider, ollama_server)
    del progress
    gc.collect()
    closed_by_client(ollama_server)


def test_dropping_on_the_background_loop_does_not_wait(provider: OllamaProvider, ollama_server: OllamaServer) -> None:
    """The garbage collector runs in any thread, the background loop's own too."""
    kept = [half_way(provider, ollama_server)]

    async def drop() -> None:
        kept.clear()

    run_sync(drop())
    closed_by_client(ollama_server)


def test_dropping_does_not_wait_for_a_busy_loop(provider: OllamaProvider, ollama_server: OllamaServer) -> None:
    progress = half_way(provider, ollama_server)
    busy, go_on = threading.Event(), threading.Event()

    async def block() -> None:
        busy.set()
        assert go_on.wait(10)  # blocks the loop on purpose

    thread = threading.Thread(target=lambda: run_sync(block()))
    thread.start()
    assert busy.wait(10)
    del progress  # would hang if it waited
    gc.collect()
    assert ollama_server.requests[-1].outcome == "active"
    go_on.set()
    thread.join()
    closed_by_client(ollama_server)


def test_closing_from_another_thread(provider: OllamaProvider, ollama_server: OllamaServer) -> None:
    progress = half_way(provider, ollama_server)
    timer = threading.Timer(0.05, progress.close)
    timer.start()
    assert list(progress) == []  # waits for an item until it is closed
    timer.join()
    closed_by_client(ollama_server)


def test_an_exception_ends_the_iterator(provider: OllamaProvider, ollama_server: OllamaServer) -> None:
    ollama_server.reset()
    ollama_server.reply("", path="/api/pull", lines=[STEPS[0], {"error": "no such file"}])
    progress = provider.sync.pull_model()
    assert next(progress) == STEPS[0]
    with pytest.raises(LLMError, match="no such file"):
        next(progress)
    assert list(progress) == []


class CustomIterator(AsyncIterator[Json]):
    """An async iterator that is not a generator."""

    closed = False

    async def __anext__(self) -> Json:
        await asyncio.sleep(0)
        return {"status": "own"}

    async def aclose(self) -> None:
        self.closed = True


class Derived(OllamaProvider):
    """A provider whose methods are overridden."""

    async def agenerate(self, prompt: str, **options: Any) -> LLMResponse:
        response = await super().agenerate(prompt, **options)
        response.content = f"<{response.content}>"
        return response

    def pull_model(self, model: str | None = None, *, insecure: bool = False) -> AsyncIterator[Json]:
        self.own = CustomIterator()
        return self.own


def test_overridden_methods_are_respected(ollama_server: OllamaServer) -> None:
    ollama_server.reply(TEXT)
    with Derived("llama3.2", ollama_server.url) as provider:
        assert provider.generate("x").content == f"<{TEXT}>"
        assert provider.sync.agenerate("x").content == f"<{TEXT}>"
        assert [answer.content for answer in provider.batch(["x"])] == [f"<{TEXT}>"]
        with provider.sync.pull_model() as progress:
            assert next(progress) == {"status": "own"}
        assert provider.own.closed
        assert next(provider.sync.pull_model()) == {"status": "own"}
        gc.collect()
        ollama_server.wait_for(lambda _: provider.own.closed)


def test_bound_methods_can_be_pickled(ollama_server: OllamaServer) -> None:
    """As `multiprocessing` sends them."""
    ollama_server.reply(TEXT)
    provider = OllamaProvider("llama3.2", ollama_server.url)
    for method in (provider.generate, provider.sync.agenerate):
        again = pickle.loads(pickle.dumps(method))
        assert again("x").content == TEXT
        again.__self__.close() if isinstance(again.__self__, OllamaProvider) else again.__self__.aclose()


def test_repr_names_the_provider() -> None:
    provider = OllamaProvider("llama3.2", api_key="secret")
    assert isinstance(provider.sync, Facade)
    assert repr(provider.sync) == f"SyncProvider({provider!r})"
