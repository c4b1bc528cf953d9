"""Runs the garbage collector at chosen lines of this package's code, with abandoned requests to collect.

`python collector.py TRANSPORT` prints its figures as JSON. It is a separate program because the fault that it looks for
is a deadlock: a watchdog then prints the traceback of each thread, and exits. A finalizer that fails is reported on
standard error, which must stay empty.

A collection at a line stands for one that an allocation there could have triggered. It happens at every line that runs
while one of the package's locks is held, and at every tenth of the others, in the calling and in the background thread.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import io
import json
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any

from namel3ss_ollama import OllamaProvider, RetryPolicy, StreamConfig, run_sync
from namel3ss_ollama import sync as sync_module
from namel3ss_ollama.testing import Gate, OllamaServer

HANG = 40
MOST = 24
"""Abandoned requests per method: as many collections find one."""
ASK = [{"role": "user", "content": "count"}]


class Collector:
    """Abandons a request and runs the collector, at lines of this package's code."""

    def __init__(self, locks: list[Any]) -> None:
        self.locks = locks
        self.garbage: list[Any] = []
        self.lines = 0
        self.collections = 0
        self.within_locks = 0
        self._busy = threading.Lock()

    def trace(self, frame: FrameType, event: str, _: object) -> Any:
        if "namel3ss_ollama" not in frame.f_code.co_filename or "testing" in frame.f_code.co_filename:
            return None
        if event == "line" and self.garbage:
            self.lines += 1
            locked = any(lock.locked() for lock in self.locks)
            often = self.lines % 10 == 0 and len(self.garbage) > MOST // 2  # the rest is for lines with a lock held
            if (locked or often) and self._busy.acquire(blocking=False):
                try:
                    del self.garbage[-1:]
                    self.collections += 1
                    self.within_locks += locked
                    gc.collect()
                finally:
                    self._busy.release()
        return self.trace

    def __enter__(self) -> None:
        async def on_background_loop() -> None:
            sys.settrace(self.trace)

        run_sync(on_background_loop())
        sys.settrace(self.trace)

    def __exit__(self, *_: object) -> None:
        async def on_background_loop() -> None:
            sys.settrace(None)

        sys.settrace(None)
        run_sync(on_background_loop())


def cycle(*things: Any) -> list[Any]:
    """A reference cycle, which only the collector frees."""
    cell: list[Any] = list(things)
    cell.append(cell)
    return cell


class Garbage:
    """Makes abandoned requests of all kinds."""

    def __init__(self, provider: OllamaProvider) -> None:
        self.provider = provider
        self.made = 0

    def make(self, count: int) -> list[Any]:
        kinds = [self.sync_stream, self.stepped_stream, self.iterated_stream]
        made = [kinds[number % 3]() for number in range(count // 2)]
        made += self.pending_calls(count - len(made))
        self.made += len(made)
        return made[::2] + made[1::2]

    def sync_stream(self) -> list[Any]:
        stream = self.provider.stream("held")
        next(stream)
        return cycle(stream)

    def stepped_stream(self) -> list[Any]:
        stream = self.provider.stream_generate("held")

        async def step() -> None:
            await anext(stream)

        run_sync(step())
        return cycle(stream)

    def iterated_stream(self) -> list[Any]:
        iterator = iter(self.provider.stream("held"))
        next(iterator)
        return cycle(iterator)

    def pending_calls(self, count: int) -> list[Any]:
        """Calls that wait for a retry on a loop that is then closed."""
        loop = asyncio.new_event_loop()
        retries = self.provider.stats().retries

        async def begin() -> list[Any]:
            tasks = []
            for number in range(count):
                if number % 2:
                    task: Any = asyncio.ensure_future(self.provider.achat([{"role": "user", "content": "busy"}]))
                else:
                    task = asyncio.ensure_future(self.provider.agenerate("busy"))
                task._log_destroy_pending = False  # it is left pending on purpose
                tasks.append(task)
            while self.provider.stats().retries < retries + count:
                await asyncio.sleep(0.001)
            return tasks

        tasks = loop.run_until_complete(begin())
        loop.close()
        return [cycle(task) for task in tasks]


def main(transport: Any) -> None:
    faulthandler.dump_traceback_later(HANG, exit=True)
    gate = Gate()
    with OllamaServer() as server:
        server.reply("one two three", contains="held", gates={1: gate})
        server.fault("status", status=503, retry_after=50, contains="busy")
        server.fault("status", status=503, retry_after=0, contains="soon", times=1)
        server.reply("one two three")
        provider = OllamaProvider(
            "llama3.2",
            server.url,
            transport=transport,
            max_concurrent=1000,
            retry=RetryPolicy(budget=1.0, budget_reserve=10_000, deadline=None, wait_initial=0.001, wait_max=0.001),
        )
        other = OllamaProvider("llama3.2", server.url, transport=transport)
        limiter = provider._limiter
        done: dict[str, Any] = {}
        succeeded = 0

        def use_stream(*, leave: bool = False) -> None:
            with provider.stream(ASK) as stream:
                for _ in stream:
                    if leave:
                        break

        def within(use: Callable[[], Awaitable[Any]]) -> Callable[[], Any]:
            async def run() -> Any:
                await use()
                await provider.aclose()

            return lambda: asyncio.run(run())

        async def iterate(*, leave: bool = False) -> None:
            async for _ in provider.stream_chat(ASK):
                if leave:
                    break

        async def step_and_close() -> None:
            stream = provider.stream_chat(ASK)
            await anext(stream)
            await stream.aclose()

        async def time_out() -> None:
            config = StreamConfig(chunk_timeout=0.02)
            try:
                await provider.agenerate("held", stream_config=config)
            except TimeoutError:
                pass

        uses: dict[str, tuple[Callable[[], Any], int]] = {
            "stats": (lambda: [provider.stats() for _ in range(20)], 0),
            "running and queued": (lambda: [(limiter.running, limiter.queued) for _ in range(20)], 0),
            "generate": (lambda: provider.generate("x"), 1),
            "chat that is sent again": (lambda: provider.generate("soon"), 1),
            "stream": (use_stream, 1),
            "stream that is left": (lambda: use_stream(leave=True), 0),
            "batch": (lambda: provider.batch(["a", "b", "c"]), 3),
            "embed": (lambda: provider.sync.embed(["a"] * 4, model="all-minilm", batch_size=2), 0),
            "preload": (provider.sync.preload, 0),
            "close": (provider.close, 0),
            "achat": (within(lambda: provider.achat(ASK)), 1),
            "async for": (within(iterate), 1),
            "async for that is left": (within(lambda: iterate(leave=True)), 0),
            "aclose of a stream": (within(step_and_close), 0),
            "a deadline": (within(time_out), 0),
            "aembed": (within(lambda: provider.embed(["a"] * 4, model="all-minilm", batch_size=2)), 0),
            "agenerate_batch": (within(lambda: provider.agenerate_batch(["a", "b"])), 2),
            "another provider": (lambda: other.chat(ASK), 0),
        }
        for use, _ in uses.values():  # warm-up: imports and other one-time work
            use()
        before = provider.stats()
        server.fault("status", status=503, retry_after=0, contains="soon", times=1)
        garbage = Garbage(provider)
        locks = [
            lock
            for one in (provider, other)
            for lock in (
                one._limiter._lock,
                one._telemetry._lock,
                one._retrier._budget._lock,
                one._server.reload_guard._lock,
            )
        ]
        collector = Collector([*locks, sync_module._background._lock])
        gc.collect()
        gc.disable()
        gc.freeze()
        for name, (use, answers) in uses.items():
            collector.garbage += garbage.make(MOST - len(collector.garbage))
            collections, within_locks = collector.collections, collector.within_locks
            with collector:
                use()
            succeeded += answers
            done[name] = (collector.collections - collections, collector.within_locks - within_locks)
            print(f"{name}: {done[name]}", file=sys.stderr if "-v" in sys.argv else io.StringIO(), flush=True)
        gc.unfreeze()
        collector.garbage.clear()
        gc.collect()
        deadline = time.monotonic() + 10
        while provider.stats().running and time.monotonic() < deadline:
            time.sleep(0.001)
        stats = provider.stats()
        provider.close()
        other.close()
        gc.collect()  # httpx leaves pooled connections of a closed loop to the collector
        server.wait_for(lambda s: s.open_connections == 0)
    figures = {
        "running": stats.running,
        "queued": stats.queued,
        "cancelled": stats.generations_cancelled - before.generations_cancelled,
        "succeeded": stats.generations_succeeded - before.generations_succeeded,
        "failed": stats.generations_failed - before.generations_failed,
        "made": garbage.made,
        "answers": succeeded,
        "collections": {name: counts[0] for name, counts in done.items()},
        "within locks": {name: counts[1] for name, counts in done.items()},
    }
    print(json.dumps(figures))
    faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main(sys.argv[1])
