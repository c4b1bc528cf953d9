"""Ray Data: our package, and Ray's own HTTP stage. Each returns its cost, over all of Ray's processes."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray
import ray.data

from benchmarks.clients import PROMPT
from namel3ss_ollama import Host
from ray_namel3ss_ollama import ask

_BLOCKS = 8
_THEIR_BATCH = 16
"""The requests of a batch are sequential, so smaller batches than the default of 64 are faster."""
_EVERY = 0.1
"""Seconds between polls of the processes: at most this much of an ending one's time is missed."""
Cost = dict[str, float]


async def ours_batch(url: str, prompts: int, at_once: int, tokens: int, model: str = "bench") -> Cost:
    """`ask`."""
    return await asyncio.to_thread(_cost, functools.partial(_ours, url, model, at_once, tokens, None), prompts)


async def ours_batch_journal(url: str, prompts: int, at_once: int, tokens: int, model: str = "bench") -> Cost:
    """`ask` with a journal."""
    with tempfile.TemporaryDirectory() as folder:
        return await asyncio.to_thread(_cost, functools.partial(_ours, url, model, at_once, tokens, folder), prompts)


async def theirs_batch(url: str, prompts: int, at_once: int, tokens: int, model: str = "bench") -> Cost:
    """`HttpRequestProcessor`, which has no setting for the concurrency."""
    del at_once
    return await asyncio.to_thread(_cost, functools.partial(_theirs, url, model, tokens), prompts)


def _rows(name: str, count: int) -> ray.data.Dataset:
    rows = [{"id": f"{name}{number}", "text": f"{PROMPT} {number}"} for number in range(count)]
    return ray.data.from_items(rows, override_num_blocks=min(_BLOCKS, count))


def _ours(
    url: str, model: str, at_once: int, tokens: int, folder: str | None, name: str, prompts: int
) -> ray.data.Dataset:
    journal = None if folder is None else Path(folder) / name
    hosts = [Host(url, slots=at_once)]
    return ask(
        _rows(name, prompts), model, hosts=hosts, prompt="text", id="id", into="answer", journal=journal,
        max_tokens=tokens,
    )  # fmt: skip


def _theirs(url: str, model: str, tokens: int, name: str, prompts: int) -> ray.data.Dataset:
    from ray.data.llm import HttpRequestProcessorConfig, build_processor

    def payload(row: dict[str, Any]) -> dict[str, Any]:
        body = {"model": model, "prompt": row["text"], "stream": False, "options": {"num_predict": tokens}}
        return {"payload": body}

    def answer(row: dict[str, Any]) -> dict[str, Any]:
        return {"answer": row["http_response"]["response"], "error": None}

    config = HttpRequestProcessorConfig(url=f"{url}/api/generate", batch_size=_THEIR_BATCH)
    built: ray.data.Dataset = build_processor(config, preprocess=payload, postprocess=answer)(_rows(name, prompts))
    return built


def _cost(dataset_of: Callable[[str, int], ray.data.Dataset], prompts: int) -> Cost:
    """The cost of the rows, and separately that of a single row, which is the start of the actors."""
    # Standard output belongs to the worker.
    with contextlib.redirect_stdout(sys.stderr):
        if not ray.is_initialized():
            ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            ray.data.DataContext.get_current().enable_progress_bars = False
        # Twice: the first time something may be imported or compiled.
        starts = [_run(dataset_of(name, 1), 1) for name in ("first", "second")]
        start = {what: min(one[what] for one in starts) for what in ("cpu", "wall")}
        cost = _run(dataset_of("all", prompts), prompts)
    return {
        "cpu": cost["cpu"] - start["cpu"],
        "wall": cost["wall"] - start["wall"],
        "start_cpu": start["cpu"],
        "start_wall": start["wall"],
    }


def _run(dataset: ray.data.Dataset, prompts: int) -> Cost:
    began = time.perf_counter()
    with _watched() as spent:
        rows = dataset.take_all()
        wall = time.perf_counter() - began
    if len(rows) != prompts or not all(row["answer"] and row["error"] is None for row in rows):
        raise RuntimeError(f"{prompts} rows: not all were answered")
    return {"cpu": spent["cpu"], "wall": wall}


@contextlib.contextmanager
def _watched() -> Iterator[Cost]:
    """The CPU seconds of this process and its descendants at the end, without those of the polling."""
    before = _times()
    after = dict(before)
    spent: Cost = {}
    own = 0.0
    done = threading.Event()

    def watch() -> None:
        nonlocal own
        while not done.wait(_EVERY):
            after.update(_times())
        own = time.thread_time()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield spent
    finally:
        done.set()
        thread.join()
        after.update(_times())
        spent["cpu"] = sum(seconds - before.get(process, 0.0) for process, seconds in after.items()) - own


def _times() -> dict[int, float]:
    """CPU seconds so far of this process and its descendants, by id."""
    ticks = os.sysconf("SC_CLK_TCK")
    parents: dict[int, int] = {}
    times: dict[int, float] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        process = int(stat.parent.name)
        parents[process] = int(fields[1])
        times[process] = (int(fields[11]) + int(fields[12])) / ticks

    def is_ours(process: int) -> bool:
        while process and process != os.getpid():
            process = parents.get(process, 0)
        return bool(process)

    return {process: seconds for process, seconds in times.items() if is_ours(process)}
