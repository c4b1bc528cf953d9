"""A large batch with a journal, over several hosts of known speed: `python -m benchmarks.batches [--rows N]`.

Prints the utilisation of the hosts' slots, the client's cost per row, and the memory growth. The servers are separate
processes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks.processes import allow_many_files, replay_server
from benchmarks.replay import TIMED
from benchmarks.worker import resident
from namel3ss_ollama import Host, Hosts, OllamaProvider

_HOSTS, _SLOTS = 4, 25
_TOKENS = 10
_WARM = 0.2
"""The part of a batch in which memory grows for other reasons: connections, caches, the database."""


async def measure(urls: list[str], rows: int, journal: Path) -> dict[str, float]:
    """Ask one prompt per row, and return the measurements."""
    memory: list[tuple[int, float]] = []

    def watch(index: int, result: object) -> None:
        if index % max(rows // 100, 1) == 0:
            memory.append((index, float(resident())))

    hosts = Hosts([Host(url, slots=_SLOTS) for url in urls])
    async with OllamaProvider("timed", hosts, max_tokens=_TOKENS) as provider:
        cpu, began = time.process_time(), time.perf_counter()
        report = await provider.agenerate_batch(
            (f"Prompt {number}." for number in range(rows)), journal=journal, on_result=watch
        )
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    if report.answered != rows:
        raise RuntimeError(f"{rows - report.answered} rows were not answered")
    later = [(index, bytes_) for index, bytes_ in memory if index >= _WARM * rows]
    slope = statistics.linear_regression(*zip(*later, strict=True)).slope
    return {
        "rows": rows,
        "seconds": round(wall, 1),
        "rows per second": round(rows / wall, 1),
        "slot utilisation": round(rows * TIMED / (wall * _HOSTS * _SLOTS), 4),
        "client CPU per row, microseconds": round(cpu / rows * 1e6, 1),
        "memory per row, bytes": round(slope, 1),
    }


def main() -> None:
    """Measure, and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    rows: int = parser.parse_args().rows
    allow_many_files()
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        urls = [stack.enter_context(replay_server()) for _ in range(_HOSTS)]
        journal = Path(folder) / "run.db"
        figures = asyncio.run(measure(urls, rows, journal))
        print(json.dumps({**figures, "journal per row, bytes": journal.stat().st_size // rows}, indent=1))


if __name__ == "__main__":
    main()
