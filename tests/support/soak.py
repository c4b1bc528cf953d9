"""Many requests under faults and cancellations, and a server that is killed: their outcomes, and what is left behind.

`soak` and `kill_under_load` check what must hold, and return figures; `make soak` prints them, and the tests include a
small run of both. They only measure what the client leaves behind: memory, sockets, tasks, threads, slots.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from server_process import FAULTY, TEXT, ServerProcess

from namel3ss_ollama import (
    LLMError,
    OllamaProvider,
    RetryPolicy,
    StreamConfig,
    StreamInterruptedError,
)

__all__ = ["KillFigures", "SoakFigures", "kill_under_load", "soak"]

MAX_CONCURRENT = 64
_HARMLESS = {"byte_chunks", "crlf", "gzip"}
_EVERY = 150
"""Requests between two that are abandoned on a closed loop, and between two forks."""
_STALLS = {"stall_mid_stream", "stall_before_headers"}
_PATIENCE = 0.25
"""The timeout, in seconds, of a request whose fault is a stall; all others have a minute, so that a slow machine does
not fail."""


@dataclass
class SoakFigures:
    """The results of a soak, in bytes and seconds.

    Attributes:
        requests: The number of requests.
        seconds: The duration.
        outcomes: The number of requests by fault and outcome.
        slope: The growth of the process's memory per request, over the second half.
        memory: The process's memory at the end.
        abandoned: Requests left open on event loops that were closed by hand, in addition to `requests`.
        children: Forked processes that made a request, in addition to `requests`.
        collections: The number of garbage collections at random moments.
        left: What was left at the end and did not exist at the beginning, by kind; all zero.
    """

    requests: int = 0
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter[str])
    slope: float = 0.0
    memory: int = 0
    abandoned: int = 0
    children: int = 0
    collections: int = 0
    left: dict[str, int] = field(default_factory=dict[str, int])

    def __str__(self) -> str:
        kinds = "\n".join(f"  {name:42} {count:7}" for name, count in sorted(self.outcomes.items()))
        rate = self.requests / self.seconds
        return (
            f"{self.requests} requests in {self.seconds:.1f} s ({rate:.0f} per second)\n{kinds}\n"
            f"{self.abandoned} left open on closed loops, {self.children} made by forked processes, "
            f"{self.collections} garbage collections\n"
            f"memory: {self.memory / 2**20:.0f} MiB at the end, growing by {self.slope:.1f} bytes per request\n"
            f"left at the end: {', '.join(f'{name} {count}' for name, count in self.left.items())}"
        )


def _sockets() -> int:
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        try:
            found += str(link.readlink()).startswith("socket:")
        except OSError:  # the listing's own descriptor
            pass
    return found


def _memory() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def slope_of(points: list[tuple[int, int]]) -> float:
    """The slope of the least-squares line through points."""
    if len(points) < 2:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread


async def soak(requests: int, workers: int, transport: str, seed: int = 0) -> SoakFigures:
    """Send requests from workers, a fifth of them with a fault, a tenth cancelled at a random point.

    Meanwhile, event loops in other threads are closed with open requests, forked children make requests, and the
    garbage collector runs.

    Raises:
        AssertionError: A request had a wrong outcome, or something was left behind.
    """
    figures = SoakFigures(requests)
    gc.collect()  # garbage from before must not affect the counts
    loop_before, threads_before, sockets_before = asyncio.all_tasks(), _threads(), _sockets()
    retry = RetryPolicy(wait_initial=0.001, wait_max=0.01, budget=None)
    points: list[tuple[int, int]] = []
    with ServerProcess() as server:
        config = StreamConfig(chunk_timeout=60.0, first_chunk_timeout=60.0)
        settings = {"max_concurrent": MAX_CONCURRENT, "retry": retry, "stream_config": config, "transport": transport}
        provider = OllamaProvider("llama3.2", server.url, **settings)
        numbers = iter(range(requests))
        sampled = max(250, requests // 40)

        async def worker() -> None:
            for number in numbers:
                chance = random.Random(seed * requests + number)
                await _one(provider, chance, figures.outcomes)
                if number % _EVERY == 0:
                    await asyncio.to_thread(_leave_open, provider)
                    figures.abandoned += 1
                if number % _EVERY == _EVERY // 2 and hasattr(os, "fork"):
                    await _fork(provider)
                    figures.children += 1
                if chance.random() < 0.005:
                    gc.collect()
                    figures.collections += 1
                if number % sampled == 0:
                    points.append((number, _memory()))

        began = time.monotonic()
        await asyncio.gather(*(worker() for _ in range(workers)))
        figures.seconds = time.monotonic() - began
        stats = provider.stats()
        figures.left = {"slots": stats.running, "waiting": stats.queued}
        await provider.aclose()
        gc.collect()  # ends the requests left on closed loops
        stats = provider.stats()
        figures.left |= {"tasks": len(asyncio.all_tasks() - loop_before)}
        figures.left |= {"active at the server": await _until_zero(lambda: server.state()["active"])}
        figures.left |= {"connections at the server": await _until_zero(lambda: server.state()["open"])}
    figures.left |= {"threads": len(_threads() - threads_before)}
    figures.left |= {"sockets": max(0, _sockets() - sockets_before)}
    figures.memory = _memory()
    figures.slope = slope_of(points[len(points) // 2 :])
    # The provider's statistics must count every request, too.
    ended = stats.generations_succeeded + stats.generations_failed + stats.generations_cancelled
    never_begun = figures.outcomes["cancelled before it began"]
    assert ended + never_begun == requests + figures.abandoned, (ended, never_begun, figures.abandoned)
    assert sum(figures.outcomes.values()) == requests
    assert not any(figures.left.values()), figures.left
    return figures


def _threads() -> set[threading.Thread]:
    """All threads except those of a loop's executor, which outlive every call: imports run in it."""
    return {thread for thread in threading.enumerate() if not thread.name.startswith("asyncio_")}


async def _until_zero(count: Callable[[], int], seconds: float = 10.0) -> int:
    deadline = time.monotonic() + seconds
    while (left := count()) and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    return left


def _leave_open(provider: OllamaProvider) -> None:
    """Close an event loop by hand, with an open stream."""
    loop = asyncio.new_event_loop()

    async def stream() -> object:
        stream = provider.stream_generate("count [stall_mid_stream]")
        await anext(stream)
        return stream

    left = loop.run_until_complete(stream())
    loop.close()
    del left


async def _fork(provider: OllamaProvider) -> None:
    """Fork a child that makes a request with the inherited provider."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # there are other threads, and that is the point
        child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(30)  # ends it if it hangs
            status = 0 if provider.generate("count").content == TEXT else 2
        finally:
            os._exit(status)
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    assert status == 0, f"a forked child ended with {status}"


async def _one(provider: OllamaProvider, chance: random.Random, outcomes: Counter[str]) -> None:
    fault = chance.choice(list(FAULTY)) if chance.random() < 0.2 else None
    prompt = f"count [{fault}]" if fault else "count"
    config = None
    if fault in _STALLS:
        config = StreamConfig(chunk_timeout=_PATIENCE, first_chunk_timeout=_PATIENCE)
    kind = chance.choice([_whole, _chat, _stream, _stream_chat])
    began: list[bool] = []
    task = asyncio.create_task(kind(provider, prompt, config, began))
    if cancel := chance.random() < 0.1:
        for _ in range(int(60 * chance.random() ** 2)):  # early ones more often: many requests are quick
            await asyncio.sleep(0)
        task.cancel()
    name = fault or "healthy"
    (result,) = await asyncio.gather(task, return_exceptions=True)
    if isinstance(result, asyncio.CancelledError):
        assert cancel
        outcomes["cancelled" if began else "cancelled before it began"] += 1
    elif isinstance(result, BaseException):
        assert isinstance(result, LLMError), repr(result)
        assert fault is not None, f"a healthy request failed: {result!r}"
        assert fault not in _HARMLESS, f"{fault}: {result!r}"
        outcomes[f"{name}: {type(result).__name__}"] += 1
    else:
        assert fault is None or fault in _HARMLESS, f"{fault} was returned as if it were complete"
        assert result == TEXT
        outcomes[f"{name}: answered"] += 1


async def _whole(provider: OllamaProvider, prompt: str, config: StreamConfig | None, began: list[bool]) -> str:
    began.append(True)
    return (await provider.agenerate(prompt, stream_config=config)).content


async def _chat(provider: OllamaProvider, prompt: str, config: StreamConfig | None, began: list[bool]) -> str:
    began.append(True)
    return (await provider.achat([{"role": "user", "content": prompt}], stream_config=config)).content


async def _stream(provider: OllamaProvider, prompt: str, config: StreamConfig | None, began: list[bool]) -> str:
    began.append(True)
    return "".join([chunk.content async for chunk in provider.stream_generate(prompt, stream_config=config)])


async def _stream_chat(provider: OllamaProvider, prompt: str, config: StreamConfig | None, began: list[bool]) -> str:
    began.append(True)
    text = ""
    async with provider.stream_chat([{"role": "user", "content": prompt}], stream_config=config) as stream:
        async for chunk in stream:
            text += chunk.content
    return text


@dataclass
class KillFigures:
    """The outcomes of the requests in flight when a server was killed, and of those after it.

    Attributes:
        whole: Complete answers, all of which arrived in the end.
        resumed: Streams that had not begun, and completed in the end.
        interrupted: Streams that had begun, each of which raised an error with the partial text.
        down: Seconds without a server.
        seconds: The total duration.
    """

    whole: int = 0
    resumed: int = 0
    interrupted: int = 0
    down: float = 0.0
    seconds: float = 0.0

    def __str__(self) -> str:
        return (
            f"killed under load, {self.down:.1f} s down: {self.whole} complete answers arrived anyway, "
            f"{self.interrupted} streams that had begun were interrupted with their partial text, "
            f"{self.resumed} others completed; {self.seconds:.1f} s in total"
        )


async def kill_under_load(workers: int, transport: str, down: float) -> KillFigures:
    """Kill a server while it answers, and restart it on its port after `down` seconds.

    Raises:
        AssertionError: A call hung, a complete answer did not arrive, or a stream that had begun did not raise.
    """
    figures = KillFigures(down=down)
    server = ServerProcess(tokens_per_second=2)  # so slow that no answer is complete before the server is killed
    retry = RetryPolicy(attempts=100, wait_initial=0.2, wait_max=0.2, budget=None)
    provider = OllamaProvider("llama3.2", server.url, max_concurrent=workers // 2, retry=retry, transport=transport)
    begun = asyncio.Semaphore(0)

    async def whole() -> None:
        assert (await provider.agenerate("count")).content == TEXT
        figures.whole += 1

    async def stream() -> None:
        text, chunks = "", provider.stream_generate("count")
        interrupted: StreamInterruptedError | None = None
        try:
            async for chunk in chunks:
                text += chunk.content
                begun.release()
        except StreamInterruptedError as error:
            interrupted = error
        if interrupted is None:
            assert text == TEXT
            figures.resumed += 1
        else:
            assert text
            assert interrupted.partial is not None
            assert text == interrupted.partial.content == chunks.text != TEXT
            figures.interrupted += 1

    began = time.monotonic()
    async with asyncio.timeout(60 + down) if hasattr(asyncio, "timeout") else provider:
        tasks = [asyncio.create_task(stream() if number % 2 else whole()) for number in range(workers)]
        try:
            for _ in range(workers // 8):
                await begun.acquire()
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(down)
            server = await asyncio.to_thread(ServerProcess, server.port, 2000)
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await provider.aclose()
            await asyncio.to_thread(server.close)
    figures.seconds = time.monotonic() - began
    assert figures.whole == workers - workers // 2
    assert figures.interrupted > 0
    assert figures.interrupted + figures.resumed == workers // 2
    assert (provider.stats().running, provider.stats().queued) == (0, 0)
    return figures
