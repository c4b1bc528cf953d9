"""The process that measures one client: `python -m benchmarks.worker CLIENT URL`.

Commands come in and results go out as lines of JSON. Times are seconds; `cpu` is that of all threads of this process,
which the server's, being another's, is no part of.
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
from typing import Any

from benchmarks.processes import allow_many_files, pin
from benchmarks.replay import WORD

_LONGEST = 240.0


class Bench:
    """One client on one event loop."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._is_async = inspect.iscoroutinefunction(client) or inspect.iscoroutinefunction(type(client).__call__)
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)

    def streams(self, tokens: int, streams: int = 1, repeat: int = 1) -> dict[str, float]:
        """The cost of `streams` answers of so many tokens at once, `repeat` times."""
        prepare = getattr(self._client, "prepare", None)
        if prepare is not None:
            prepare(tokens, streams * repeat)
        work = self._at_once(tokens, streams, repeat) if self._is_async else None
        gc.collect()
        cpu, wall = time.process_time(), time.perf_counter()
        if work is not None:
            characters = self._loop.run_until_complete(asyncio.wait_for(work, _LONGEST))
        else:
            characters = sum(self._client(tokens) for _ in range(repeat))
        result = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        if characters != len(WORD) * tokens * streams * repeat:
            raise AssertionError(f"{characters} characters of {tokens} tokens, {streams * repeat} times")
        return result

    async def _at_once(self, tokens: int, streams: int, repeat: int) -> int:
        characters = 0
        for _ in range(repeat):
            characters += sum(await asyncio.gather(*(self._client(tokens) for _ in range(streams))))
        return characters

    def single(self, count: int) -> dict[str, float]:
        """The median time of an answer of one token, one after the other."""

        async def times() -> list[float]:
            taken: list[float] = []
            for _ in range(count):
                began = time.perf_counter()
                await self._client(1)
                taken.append(time.perf_counter() - began)
            return taken

        return {"wall": sorted(self._loop.run_until_complete(times()))[count // 2]}

    def peak(self, tokens: int) -> dict[str, float]:
        """The process's largest memory so far, in bytes, after an answer of so many tokens."""
        before = _peak()
        self.streams(tokens)
        return {"before": before, "bytes": _peak()}

    def call(self, function: str, **arguments: Any) -> dict[str, float]:
        """The result of a function of `benchmarks.clients`."""
        result = find(function)(self._client, **arguments)
        if inspect.iscoroutine(result):
            gc.collect()
            cpu, wall = time.process_time(), time.perf_counter()
            given = self._loop.run_until_complete(asyncio.wait_for(result, _LONGEST))
            result = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, **(given or {})}
        return dict(result)


def find(name: str) -> Callable[..., Any]:
    """The function "module:function" of `benchmarks.clients`."""
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(f"benchmarks.clients.{module}"), function)
    return found


def resident() -> int:
    """This process's memory now, in bytes; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return 0


def _peak() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    client, url, without = sys.argv[1:]
    pin("client")
    allow_many_files()
    if without:
        sys.modules[without] = None  # type: ignore[assignment] # so that importing it fails
    bench = Bench(find(client)(url))
    for command in sys.stdin:
        arguments = json.loads(command)
        result = getattr(bench, arguments.pop("what"))(**arguments)
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
