"""The process that measures a library's clients: `python -m benchmarks.worker LIBRARY URL WITHOUT LOOP`.

Commands and results are lines of JSON. Times are seconds; `cpu` is that of all threads of this process, and so excludes
the server's.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import inspect
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import quantiles
from typing import Any, Literal

from benchmarks.processes import allow_many_files, pin
from benchmarks.replay import WORD

_LONGEST = 240.0
_SETTLING = 1.0
"""Seconds between the first token of the last stream and the measurement, for tokens that have piled up."""
Clients = Literal["kept", "new", "each"]


class Bench:
    """The clients of one library on one event loop.

    Args:
        library: The module of `benchmarks.clients`.
        url: The server's address.
        loop: The module that has the event loop: asyncio or uvloop.
    """

    def __init__(self, library: str, url: str, loop: str = "asyncio") -> None:
        self._library = importlib.import_module(f"benchmarks.clients.{library}")
        self._url = url
        self._clients: dict[str, Any] = {}
        self._loop: asyncio.AbstractEventLoop = importlib.import_module(loop).new_event_loop()
        # The clients are not closed, since the process ends after them; aiohttp would warn about that.
        self._loop.set_exception_handler(lambda *_: None)
        asyncio.set_event_loop(self._loop)

    def streams(
        self, name: str, tokens: int, streams: int = 1, repeat: int = 1, clients: Clients = "kept"
    ) -> dict[str, float]:
        """The cost of `streams` concurrent answers of `tokens` tokens, `repeat` times.

        The client is either the one kept between measurements, a new one, which is kept from then on, or a separate one
        for each stream, whose construction is part of the cost.
        """
        if clients == "new":
            self._clients.pop(name, None)
        client = self._client(name)
        prepare = getattr(client, "prepare", None)
        if prepare is not None:
            prepare(tokens, streams * repeat)
        is_async = inspect.iscoroutinefunction(client) or inspect.iscoroutinefunction(type(client).__call__)
        gc.collect()
        cpu, wall = time.process_time(), time.perf_counter()
        if is_async:
            work = self._at_once(name, tokens, streams, repeat, clients)
            characters = self._loop.run_until_complete(asyncio.wait_for(work, _LONGEST))
        else:
            characters = sum(client(tokens) for _ in range(repeat))
        result = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        if characters != len(WORD) * tokens * streams * repeat:
            raise AssertionError(f"{name}: {characters} characters of {tokens} tokens, {streams * repeat} times")
        return result

    async def _at_once(self, name: str, tokens: int, streams: int, repeat: int, clients: Clients) -> int:
        async def one() -> int:
            client = getattr(self._library, name)(self._url) if clients == "each" else self._client(name)
            characters: int = await client(tokens)
            return characters

        return sum([sum(await asyncio.gather(*(one() for _ in range(streams)))) for _ in range(repeat)])

    def _client(self, name: str) -> Any:
        if name not in self._clients:
            self._clients[name] = getattr(self._library, name)(self._url)
        return self._clients[name]

    def paced(self, name: str, streams: int, seconds: float) -> dict[str, float]:
        """The CPU seconds of `streams` concurrent answers whose tokens come one at a time, and the tokens' delays.

        They are measured for `seconds`, once every stream has begun. A delay is from the server's write to the client's
        caller.
        """
        run = getattr(self._library, name)(self._url)
        delays: list[int] = []

        def receiver(begun: asyncio.Event) -> Callable[[str], None]:
            def arrived(text: str) -> None:
                if text:
                    delays.append(time.monotonic_ns() - int(text))
                    begun.set()

            return arrived

        async def measure() -> tuple[float, float, list[int]]:
            begun = [asyncio.Event() for _ in range(streams)]
            tasks = [asyncio.create_task(run(receiver(event))) for event in begun]
            await asyncio.gather(*(event.wait() for event in begun))
            gc.collect()
            await asyncio.sleep(_SETTLING)
            delays.clear()
            cpu, wall = time.process_time(), time.perf_counter()
            await asyncio.sleep(seconds)
            measured = time.process_time() - cpu, time.perf_counter() - wall, delays[:]  # before the streams are ended
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            return measured

        cpu, wall, taken = self._loop.run_until_complete(asyncio.wait_for(measure(), _LONGEST))
        return {"cpu": cpu, "wall": wall, "tokens": len(taken), "p99": quantiles(taken, n=100)[-1] / 1e9}

    def single(self, name: str, count: int) -> dict[str, float]:
        """The median time of an answer of one token, measured sequentially."""
        client = self._client(name)

        async def times() -> list[float]:
            taken: list[float] = []
            for _ in range(count):
                began = time.perf_counter()
                await client(1)
                taken.append(time.perf_counter() - began)
            return taken

        return {"wall": sorted(self._loop.run_until_complete(times()))[count // 2]}

    def peak(self, name: str, tokens: int) -> dict[str, float]:
        """The process's peak memory in bytes, before and after an answer of `tokens` tokens."""
        before = _peak()
        self.streams(name, tokens)
        return {"before": before, "bytes": _peak()}

    def call(self, name: str, **arguments: Any) -> dict[str, float]:
        """The cost of a coroutine function, and its result."""
        work = getattr(self._library, name)(self._url, **arguments)
        gc.collect()
        cpu, wall = time.process_time(), time.perf_counter()
        given = self._loop.run_until_complete(asyncio.wait_for(work, _LONGEST))
        return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, **(given or {})}

    def construct(self, name: str) -> dict[str, float]:
        """The cost of constructing an object."""
        make = getattr(self._library, name)
        cpu = time.process_time()
        made = make(self._url)
        result = {"cpu": time.process_time() - cpu}
        del made
        return result


def resident() -> int:
    """This process's current memory in bytes; 0 if the system does not report it."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    except OSError:
        return 0


def _peak() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    library, url, without, loop = sys.argv[1:]
    allow_many_files()
    if without:
        sys.modules[without] = None  # type: ignore[assignment] # so that importing it fails
    bench = Bench(library, url, loop)
    pin("client")  # after the imports, which may use both cores
    for command in sys.stdin:
        what, name, arguments = json.loads(command)
        print(json.dumps(getattr(bench, what)(name, **arguments)), flush=True)


if __name__ == "__main__":
    main()
