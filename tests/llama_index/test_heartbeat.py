"""The event loop is never blocked: other tasks run while a slow server delays its answer.

Two tests. One needs no clock: while the server holds an answer back, a task on the same loop must run a number of
times, and only it lets the server continue; with a blocked loop, the answer would never arrive. The other measures the
delays of a heartbeat. On a busy machine, a thread can be off the CPU for longer than any limit, so the time that it was
ready but waited for a CPU is subtracted if the system reports it, and the best of a few rounds counts: an adapter that
blocks does so in every round, and for as long as the server is slow.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, ImageBlock
from llama_index.core.prompts import PromptTemplate
from pydantic import BaseModel

from llama_index.embeddings.namel3ss_ollama import OllamaEmbedding
from llama_index.llms.namel3ss_ollama import Ollama
from namel3ss_ollama.testing import Gate, OllamaServer, Record, Reply

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince211")

ASK = [ChatMessage(role="user", content="Say something.")]
LONGEST = 0.05
SLOW = 0.12
TURNS = 20


class City(BaseModel):
    """A city."""

    name: str


async def _stream(llm: Ollama, directory: Path) -> None:
    async for _ in await llm.astream_chat(ASK):
        pass


async def _stream_complete(llm: Ollama, directory: Path) -> None:
    async for _ in await llm.astream_complete("Say something."):
        pass


async def _image(llm: Ollama, directory: Path) -> None:
    path = directory / "image.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(1000))
    await llm.achat([ChatMessage(role="user", blocks=[ImageBlock(path=path)])], model="llava")


async def _objects(llm: Ollama, directory: Path) -> None:
    async for _ in await llm.astream_structured_predict(City, PromptTemplate("x")):
        pass


async def _embed(llm: Ollama, directory: Path) -> None:
    await OllamaEmbedding("all-minilm", llm.base_url).aget_text_embedding_batch(["a"] * 30)


async def _agent(llm: Ollama, directory: Path) -> None:
    await FunctionAgent(tools=[len], llm=llm).run("Say something.")


CALLS: dict[str, Callable[[Ollama, Path], Awaitable[Any]]] = {
    "achat": lambda llm, _: llm.achat(ASK),
    "astream_chat": _stream,
    "acomplete": lambda llm, _: llm.acomplete("Say something."),
    "astream_complete": _stream_complete,
    "image": _image,
    "astructured_predict": lambda llm, _: llm.astructured_predict(City, PromptTemplate("x")),
    "astream_structured_predict": _objects,
    "aload": lambda llm, _: llm.aload(),
    "embeddings": _embed,
    "agent": _agent,
}


@pytest.mark.parametrize("name", CALLS)
async def test_other_tasks_run_while_the_server_delays_an_answer(
    ollama_server: OllamaServer, tmp_path: Path, name: str
) -> None:
    gate = Gate()
    for path in ("/api/show", "/api/ps"):
        ollama_server.on(path=path).reply(lambda _: Reply(json={"models": []}, gate=gate))
    ollama_server.on(path="/api/embed").reply(_vectors(gate))
    ollama_server.on(path="/api/generate").reply(lambda _: Reply(json={"response": "", "done": True}, gate=gate))
    text = ['{"name"', ': "Rome"', "}"] if "structured" in name else ["a", "b", "c"]
    ollama_server.reply(text, gates={0: gate, 2: gate})
    timer = threading.Timer(20, gate.open)  # a blocked loop is a failure, not a test that hangs
    timer.start()
    turns: list[int] = []

    async def others() -> None:
        while True:
            await asyncio.sleep(0.001)
            if gate.waiting:
                turns.append(gate.waiting)
                if len(turns) % TURNS == 0:
                    gate.step()

    task = asyncio.create_task(others())
    llm = Ollama("llama3.2", ollama_server.url)
    try:
        await CALLS[name](llm, tmp_path)
    finally:
        held = not gate.is_open
        timer.cancel()
        gate.open()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert held, "the loop was blocked until the timer opened the gate"
    assert len(turns) >= TURNS


def _vectors(gate: Gate | None, delay: float = 0.0) -> Callable[[Record], Reply]:
    def reply(record: Record) -> Reply:
        texts: Any = record.payload["input"]
        return Reply(embeddings=[[1.0]] * len(texts), delay=delay, **({} if gate is None else {"gate": gate}))

    return reply


@pytest.mark.parametrize("name", CALLS)
async def test_the_loop_is_never_blocked(ollama_server: OllamaServer, tmp_path: Path, name: str) -> None:
    for path in ("/api/show", "/api/ps"):
        ollama_server.on(path=path).reply(Reply(json={"models": []}, delay=SLOW))
    ollama_server.on(path="/api/embed").reply(_vectors(None, SLOW))
    ollama_server.on(path="/api/generate").reply(Reply(json={"response": "", "done": True}, delay=SLOW))
    text = ['{"name"', ': "Rome"', "}"] if "structured" in name else ["a", "b", "c"]
    ollama_server.reply(text, delay=SLOW, tokens_per_second=20)
    await CALLS[name](Ollama("llama3.2", ollama_server.url), tmp_path)  # imports happen once
    longest: list[float] = []
    for _ in range(6):
        async with _heartbeat() as beats:
            await CALLS[name](Ollama("llama3.2", ollama_server.url), tmp_path)
        longest.append(max(beats))
        if longest[-1] < LONGEST:
            return
    pytest.fail(f"the loop was blocked for at least {min(longest):.3f} s, in each of {len(longest)} rounds")


async def test_the_heartbeat_detects_blocking() -> None:
    async with _heartbeat() as beats:
        await asyncio.sleep(0.02)
        time.sleep(2 * LONGEST)  # noqa: ASYNC251 # that is the point
        await asyncio.sleep(0.02)
    assert max(beats) > LONGEST


@contextlib.asynccontextmanager
async def _heartbeat() -> AsyncIterator[list[float]]:
    """The delay of each beat in seconds, without the waits for a CPU."""
    beats: list[float] = []
    interval = 0.005

    async def beat() -> None:
        while True:
            began, waited = time.monotonic(), _waited_for_a_cpu()
            await asyncio.sleep(interval)
            beats.append(time.monotonic() - began - interval - (_waited_for_a_cpu() - waited))

    task = asyncio.create_task(beat())
    await asyncio.sleep(0)
    try:
        yield beats
    finally:
        await asyncio.sleep(2 * interval)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _waited_for_a_cpu() -> float:
    """Seconds that this thread was ready to run but had no CPU; 0 if the system does not report it."""
    try:
        with open(f"/proc/self/task/{threading.get_native_id()}/schedstat") as file:  # noqa: PTH123 # many times a second
            return int(file.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0
