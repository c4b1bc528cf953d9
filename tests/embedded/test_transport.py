"""The engine as a transport: statuses, streams, and computations whose client is gone."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_binding import PATIENCE, Clock, Endless, FakeBinding, Take, say, token

from namel3ss_ollama import LLMError, OllamaProvider, StreamInterruptedError
from namel3ss_ollama.embedded import EmbeddedTransport, Engine
from namel3ss_ollama.embedded import engine as engine_module
from namel3ss_ollama.embedded import transport as transport_module

CHAT = {"model": "small", "messages": [{"role": "user", "content": "Hi!"}]}


async def lines_of(response: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line) async for line in response.aiter_lines()]


async def happens(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, PATIENCE)


async def until(condition: Callable[[], bool]) -> None:
    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0.001)

    await asyncio.wait_for(wait(), PATIENCE)


# Statuses


async def test_known_and_unknown_paths(client: httpx.AsyncClient) -> None:
    for method, path, status, text in [
        ("GET", "/", 200, "Ollama is running"),
        ("GET", "/api/none", 404, "404 page not found"),
        ("GET", "/api/chat", 405, "405 method not allowed"),
        ("POST", "/api/tags", 405, "405 method not allowed"),
    ]:
        response = await client.request(method, path)
        assert (response.status_code, response.text) == (status, text)


@pytest.mark.parametrize(
    "content", ["{", "[]", "7", '"text"', '{"model": NaN}', "\ud800".encode("utf-8", "surrogatepass")]
)
async def test_a_request_that_is_not_a_json_object(client: httpx.AsyncClient, content: Any) -> None:
    response = await client.post("/api/chat", content=content)
    assert response.status_code == 400
    assert response.json()["error"].startswith("the request is not ")


async def test_a_refusal_has_its_status_whether_streamed_or_not(client: httpx.AsyncClient) -> None:
    for more in ({}, {"stream": False}):
        response = await client.post("/api/chat", json={**CHAT, "model": "none", **more})
        assert response.status_code == 404
        assert response.headers["content-type"] == "application/json"
        assert response.json() == {"error": 'model "none" not found, try pulling it first'}


async def test_an_os_error_is_a_500(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise FileNotFoundError(2, "No such file or directory", "x.gguf")

    monkeypatch.setattr("namel3ss_ollama.embedded.registry.all_models", fail)
    response = await client.get("/api/tags")
    assert response.status_code == 500
    assert "No such file or directory: 'x.gguf'" in response.json()["error"]


async def test_a_bug_in_the_engine_is_raised_unchanged(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("namel3ss_ollama.embedded.registry.all_models", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        await client.get("/api/tags")


async def test_an_engine_that_cannot_be_set_up(store: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "_process", engine_module._Process())
    monkeypatch.setenv("OLLAMA_NUM_PARALLEL", "none")
    async with httpx.AsyncClient(transport=EmbeddedTransport(), base_url="http://engine") as client:
        response = await client.post("/api/chat", json=CHAT)
    assert response.status_code == 500
    assert "OLLAMA_NUM_PARALLEL" in response.json()["error"]


# Answers


async def test_a_streamed_answer(client: httpx.AsyncClient) -> None:
    async with client.stream("POST", "/api/chat", json=CHAT) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/x-ndjson"
        lines = await lines_of(response)
    assert [line["message"]["content"] for line in lines] == ["Hel", "lo.", ""]
    assert [line["done"] for line in lines] == [False, False, True]


async def test_a_single_response(client: httpx.AsyncClient) -> None:
    response = await client.post("/api/chat", json={**CHAT, "stream": False})
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert answer["message"] == {"role": "assistant", "content": "Hello."}
    assert answer["done"] is True


async def test_lines_arrive_as_they_are_made(client: httpx.AsyncClient, binding: FakeBinding) -> None:
    go = threading.Event()

    def answer(request: dict[str, Any], take: Take) -> None:
        take(token("first"))
        assert go.wait(PATIENCE)
        say(take, "second")

    binding.answer = answer
    async with client.stream("POST", "/api/chat", json=CHAT) as response:
        lines = response.aiter_lines()
        assert "first" in await anext(lines)
        go.set()
        assert "second" in await anext(lines)
        assert [line async for line in lines]


# Errors mid-stream


def breaks(error: Callable[[Take], None]) -> Callable[[dict[str, Any], Take], None]:
    def answer(request: dict[str, Any], take: Take) -> None:
        take(token("one "))
        take(token("two"))
        error(take)

    return answer


async def test_an_error_after_the_first_line_is_a_line(client: httpx.AsyncClient, binding: FakeBinding) -> None:
    binding.answer = breaks(lambda take: take({"error": {"code": 500, "message": "out of memory"}}) and None)
    async with client.stream("POST", "/api/chat", json=CHAT) as response:
        assert response.status_code == 200
        *lines, error = await lines_of(response)
    assert [line["message"]["content"] for line in lines] == ["one ", "two"]
    assert error == {"error": "out of memory"}
    whole = await client.post("/api/chat", json={**CHAT, "stream": False})
    assert (whole.status_code, whole.json()) == (500, {"error": "out of memory"})


async def test_an_answer_without_an_end(client: httpx.AsyncClient, binding: FakeBinding) -> None:
    binding.answer = breaks(lambda take: None)
    async with client.stream("POST", "/api/chat", json=CHAT) as response:
        *_, error = await lines_of(response)
    assert error == {"error": "the engine stopped before the end of the answer"}


async def test_a_bug_after_the_first_line_loses_no_line(client: httpx.AsyncClient, binding: FakeBinding) -> None:
    def fail(take: Take) -> None:
        raise ZeroDivisionError

    binding.answer = breaks(fail)
    text = ""
    with pytest.raises(ZeroDivisionError):
        async with client.stream("POST", "/api/chat", json=CHAT) as response:
            async for line in response.aiter_lines():
                text += json.loads(line)["message"]["content"]
    assert text == "one two"


async def test_a_bug_in_the_callback_is_not_lost(
    client: httpx.AsyncClient, binding: FakeBinding, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real binding swallows exceptions of its callback."""

    def answer(request: dict[str, Any], take: Take) -> None:
        try:
            assert take(token("one"))
        except Exception as error:
            pytest.fail(f"the binding would lose {error!r}")

    binding.answer = answer
    monkeypatch.setattr("namel3ss_ollama.embedded.outputs.Outputs.feed", lambda self, text: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        await client.post("/api/chat", json=CHAT)


async def test_an_error_mid_stream_has_the_partial_answer(engine: Engine, store: object, binding: FakeBinding) -> None:
    binding.answer = breaks(lambda take: take({"error": {"code": 500, "message": "out of memory"}}) and None)
    async with OllamaProvider("small", transport=EmbeddedTransport(engine)) as provider:
        with pytest.raises(LLMError, match="out of memory") as caught:
            await provider.agenerate("Hi!")
    assert caught.value.partial is not None
    assert "one two" in str(
        caught.value.partial.text if hasattr(caught.value.partial, "text") else caught.value.partial
    )


# Clients that are gone


async def test_closing_a_stream_ends_the_computation(
    client: httpx.AsyncClient, engine: Engine, endless: Endless
) -> None:
    endless.go.set()
    async with client.stream("POST", "/api/chat", json=CHAT) as response:
        assert await anext(response.aiter_lines())
        assert [loaded.active for loaded in engine.running()] == [1]
    await happens(endless.ended)
    await until(lambda: not engine._jobs)
    assert [loaded.active for loaded in engine.running()] == [0]


async def test_cancelled_while_waiting_for_the_first_line(
    client: httpx.AsyncClient, engine: Engine, endless: Endless
) -> None:
    asking = asyncio.create_task(client.post("/api/chat", json=CHAT))
    await happens(endless.begun)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    endless.go.set()
    await happens(endless.ended)
    assert endless.tokens == 0
    await until(lambda: not engine._jobs)


async def test_cancelled_while_waiting_for_a_slot(
    client: httpx.AsyncClient, engine: Engine, endless: Endless, binding: FakeBinding
) -> None:
    running = [asyncio.create_task(client.post("/api/chat", json=CHAT)) for _ in range(2)]
    await until(lambda: len(binding.requests) == 2)
    waiting = asyncio.create_task(client.post("/api/chat", json=CHAT))
    await until(lambda: len(engine._waiting) == 1)
    waiting.cancel()
    await until(lambda: not engine._waiting)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert len(binding.requests) == 2
    for task in running:
        task.cancel()
    endless.go.set()
    await asyncio.gather(*running, return_exceptions=True)
    await until(lambda: not engine._jobs)


async def test_cancelled_while_the_prompt_is_computed(
    client: httpx.AsyncClient, engine: Engine, binding: FakeBinding
) -> None:
    started, go, ended = threading.Event(), threading.Event(), threading.Event()

    def answer(request: dict[str, Any], take: Take) -> None:
        assert request["return_progress"] is True
        assert not take({**token(""), "prompt_progress": {"total": 1000, "processed": 512}})
        started.set()
        assert go.wait(PATIENCE)
        assert take({**token(""), "prompt_progress": {"total": 1000, "processed": 1000}})
        ended.set()

    binding.answer = answer
    asking = asyncio.create_task(client.post("/api/chat", json=CHAT))
    await happens(started)
    assert not asking.done()  # progress of the prompt produces no line
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    go.set()
    await happens(ended)
    await until(lambda: not engine._jobs)


def test_an_event_loop_closed_meanwhile(engine: Engine, store: object, endless: Endless) -> None:
    endless.go.set()
    loop = asyncio.new_event_loop()
    transport = EmbeddedTransport(engine)
    request = httpx.Request("POST", "http://engine/api/chat", json=CHAT)
    response = loop.run_until_complete(transport.handle_async_request(request))
    loop.close()
    assert response.status_code == 200
    assert endless.ended.wait(PATIENCE)
    engine.release()
    engine.shut_down()  # waits for the end
    assert engine.running() == []


async def test_shut_down_while_a_client_waits(client: httpx.AsyncClient, engine: Engine, endless: Endless) -> None:
    asking = asyncio.create_task(client.post("/api/chat", json=CHAT))
    await happens(endless.begun)
    ending = asyncio.create_task(asyncio.to_thread(engine.shut_down))
    await until(lambda: all(job.cancelled for job in engine._jobs))
    endless.go.set()
    response = await asking
    assert (response.status_code, response.json()) == (500, {"error": "the engine was shut down"})
    await ending
    again = await client.post("/api/chat", json=CHAT)
    assert (again.status_code, again.json()) == (500, {"error": "the engine was shut down"})


async def test_shut_down_mid_stream_is_not_the_end_of_the_answer(
    engine: Engine, store: object, binding: FakeBinding
) -> None:
    def answer(request: dict[str, Any], take: Take) -> None:
        take(token("one"))
        for job in engine._jobs:
            job.cancel()
        assert take(token("two"))

    binding.answer = answer
    async with OllamaProvider("small", transport=EmbeddedTransport(engine)) as provider:
        stream = provider.stream_generate("Hi!")
        with pytest.raises(StreamInterruptedError):
            async for _ in stream:
                pass
        assert stream.text == "one"


# Expired models


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(engine_module, "time", made)
    monkeypatch.setattr(transport_module, "time", made)
    return made


@pytest.fixture
async def timers(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[tuple[float, asyncio.TimerHandle]]]:
    """The timers that unload models, with their delays; they do not fire by themselves."""
    made: list[tuple[float, asyncio.TimerHandle]] = []
    loop = asyncio.get_running_loop()
    call_later = loop.call_later

    def later(delay: float, callback: Callable[..., None], *args: Any, **more: Any) -> asyncio.TimerHandle:
        if getattr(callback, "__name__", "") != "_look_after":
            return call_later(delay, callback, *args, **more)
        made.append((delay, call_later(10**6, callback)))
        return made[-1][1]

    monkeypatch.setattr(loop, "call_later", later)
    yield made
    assert all(timer.cancelled() for _, timer in made)


@pytest.mark.parametrize("stream", [True, False])
async def test_an_expired_model_is_unloaded_without_another_request(
    client: httpx.AsyncClient, engine: Engine, clock: Clock, timers: list[Any], stream: bool
) -> None:
    await client.post("/api/chat", json={**CHAT, "stream": stream, "keep_alive": "1m"})
    await until(lambda: bool(timers))
    delay, timer = timers[-1]
    assert delay == pytest.approx(60, abs=1)
    clock.now += 61
    there = engine._loaded.copy()
    assert len(there) == 1
    timer._run()
    timer.cancel()
    assert not engine._loaded
    await client.aclose()


async def test_a_stream_that_is_closed_early_sets_the_timer_too(
    client: httpx.AsyncClient, clock: Clock, timers: list[Any], endless: Endless
) -> None:
    endless.go.set()
    async with client.stream("POST", "/api/chat", json={**CHAT, "keep_alive": "1m"}):
        pass
    await until(lambda: bool(timers))
    assert timers[-1][0] == pytest.approx(60, abs=1)
    await client.aclose()


async def test_a_model_that_never_expires_needs_no_timer(client: httpx.AsyncClient, timers: list[Any]) -> None:
    await client.post("/api/chat", json={**CHAT, "keep_alive": -1})
    await client.get("/api/ps")
    await asyncio.sleep(0)
    assert not timers


async def test_closing_releases_the_engine_and_a_later_request_leases_it_again(engine: Engine, store: object) -> None:
    transport, other = EmbeddedTransport(engine), EmbeddedTransport(engine)
    for one in (transport, other):
        request = httpx.Request("POST", "http://engine/api/chat", json={**CHAT, "stream": False})
        await one.handle_async_request(request)
    await transport.aclose()
    await transport.aclose()
    assert len(engine.running()) == 1
    await other.aclose()
    assert engine.running() == []
    again = httpx.Request("POST", "http://engine/api/chat", json={**CHAT, "stream": False})
    assert (await transport.handle_async_request(again)).status_code == 200
    await transport.aclose()
    assert engine.running() == []


def test_an_unused_transport_needs_no_engine(tmp_path: Path) -> None:
    asyncio.run(EmbeddedTransport().aclose())
