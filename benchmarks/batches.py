"""Large batches over hosts of known speed, ours and others: `python -m benchmarks.batches [--rows N]`.

Prints the utilisation of the hosts' slots and the client's cost per row for each; for ours with a journal, also the
growth of the memory and the file. The servers are separate processes. Ray's rows need its environment, and exclude the
start of its actors.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks.clients import floors
from benchmarks.lineup import LABELS, RAY_BATCH
from benchmarks.processes import NO_RAY, Worker, allow_many_files, has_ray, replay_server
from benchmarks.replay import TIMED
from benchmarks.worker import resident
from namel3ss_ollama import Host, Hosts, OllamaProvider

_HOSTS, _SLOTS = 4, 25
_TOKENS = 10
_WARM = 0.2
"""The part of a batch in which memory grows for other reasons: connections, caches, the database."""
_THEIRS = 100
"""Rows of Ray's own stage, which has little concurrency and only one host."""


def figures(rows: int, cpu: float, wall: float, slots: int = _HOSTS * _SLOTS) -> dict[str, float]:
    """The cost of a batch, as the figures that matter."""
    return {
        "rows": rows,
        "seconds": round(wall, 1),
        "rows per second": round(rows / wall, 1),
        "slot utilisation": round(rows * TIMED / (wall * slots), 4),
        "client CPU per row, microseconds": round(cpu / rows * 1e6, 1),
    }


async def timed(rows: int, work: Callable[[], Awaitable[object]]) -> dict[str, float]:
    """Run a batch in this process, and return its figures."""
    cpu, began = time.process_time(), time.perf_counter()
    await work()
    return figures(rows, time.process_time() - cpu, time.perf_counter() - began)


async def gathered(urls: list[str], rows: int) -> dict[str, float]:
    """By hand: `asyncio.gather` of one request per row, divided among the hosts."""
    parts = [rows // _HOSTS + (number < rows % _HOSTS) for number in range(_HOSTS)]

    async def work() -> None:
        asked = zip(urls, parts, strict=True)
        await asyncio.gather(*(floors.batch(url, part, _SLOTS, _TOKENS, "timed") for url, part in asked))

    return await timed(rows, work)


def provider_of(urls: list[str]) -> OllamaProvider:
    return OllamaProvider("timed", Hosts([Host(url, slots=_SLOTS) for url in urls]), max_tokens=_TOKENS)


async def without_journal(urls: list[str], rows: int) -> dict[str, float]:
    """`agenerate_batch`, which keeps the answers."""
    async with provider_of(urls) as provider:
        return await timed(rows, lambda: provider.agenerate_batch(f"Prompt {number}." for number in range(rows)))


async def with_journal(urls: list[str], rows: int, journal: Path) -> dict[str, float]:
    """The same with a journal, which stores the answers instead."""
    memory: list[tuple[int, float]] = []

    def watch(index: int, result: object) -> None:
        if index % max(rows // 100, 1) == 0:
            memory.append((index, float(resident())))

    async def work() -> None:
        report = await provider.agenerate_batch(
            (f"Prompt {number}." for number in range(rows)), journal=journal, on_result=watch
        )
        if report.answered != rows:
            raise RuntimeError(f"{rows - report.answered} rows were not answered")

    async with provider_of(urls) as provider:
        found = await timed(rows, work)
    later = [(index, bytes_) for index, bytes_ in memory if index >= _WARM * rows]
    slope = statistics.linear_regression(*zip(*later, strict=True)).slope
    return {**found, "memory per row, bytes": round(slope, 1)}


def on_ray(url: str, rows: int) -> dict[str, dict[str, float]]:
    """The batches on Ray, by name. There is one host with all slots, since Ray's own stage has one address."""
    found: dict[str, dict[str, float]] = {}
    slots = _HOSTS * _SLOTS
    with Worker("ray", url) as worker:
        for name in RAY_BATCH:
            count = min(rows, _THEIRS) if name.endswith("theirs_batch") else rows
            cost = worker.ask("call", name, prompts=count, at_once=slots, tokens=_TOKENS, model="timed")
            # The single row of the start also waits for its answer.
            found[name] = figures(count, cost["cpu"], cost["wall"] + TIMED) | {
                "start, seconds": round(cost["start_wall"] - TIMED, 1),
                "start, seconds of CPU": round(cost["start_cpu"], 1),
            }
    return found


def main() -> None:
    """Measure, and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    rows: int = parser.parse_args().rows
    allow_many_files()
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        urls = [stack.enter_context(replay_server()) for _ in range(_HOSTS)]
        journal = Path(folder) / "run.db"
        found = {
            "floors:batch": asyncio.run(gathered(urls, rows)),
            "core:batch": asyncio.run(without_journal(urls, rows)),
            "core:batch_journal": asyncio.run(with_journal(urls, rows, journal)),
            **(on_ray(urls[0], rows) if has_ray() else {}),
        }
        found["core:batch_journal"]["journal per row, bytes"] = journal.stat().st_size // rows
    print(json.dumps({LABELS[name].replace("**", ""): values for name, values in found.items()}, indent=1))
    if not has_ray():
        print(NO_RAY)


if __name__ == "__main__":
    main()
