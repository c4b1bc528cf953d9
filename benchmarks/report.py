"""The results as tables, in the part of docs/performance.md that a run rewrites."""

from __future__ import annotations

import inspect
import os
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import measures
from benchmarks.figures import Figure, figure, ratio
from benchmarks.lineup import LABELS, RAY_BATCH
from benchmarks.processes import NO_RAY
from benchmarks.targets import targets

BEGIN = "<!-- what is below is written by `make bench` -->"
_BELOW = {
    "a_token": "floors:plain_aiohttp",
    "a_token_synchronously": "core:provider_sync",
    "whole_answer": "core:provider_whole",
    "first_token": "floors:plain_aiohttp",
    "imports": "httpx, pydantic",
    "construct": "core:construct",
    "embed": "core:embed",
    "batch": "core:batch",
    "calls_and_objects": "core:tool_calls",
    "requests": "core:requests",
    "limiter": "core:semaphore",
    "telemetry": "not installed",
}
"""The reference for the last column of a table."""
_PACKAGES = (
    "namel3ss-ollama", "aiohttp", "httpx", "httpx-aiohttp", "orjson", "pydantic", "ollama", "langchain-core",
    "langchain-ollama", "llama-index-core", "llama-index-llms-ollama", "opentelemetry-sdk",
)  # fmt: skip


def machine() -> dict[str, str]:
    """The machine and the versions of a run."""
    cores = os.cpu_count() or 1
    where = f"{platform.python_implementation()} {platform.python_version()}, {platform.system()}, {cores} cores"
    return {"where": where, **{package: version(package) for package in _PACKAGES}}


def write(path: Path, results: Mapping[str, Any], plots: list[Path]) -> None:
    """Write everything below the mark in `path`, which is created if needed."""
    text = path.read_text(encoding="utf-8") if path.exists() else f"# Performance\n\n{BEGIN}\n"
    kept = text.partition(BEGIN)[0]
    path.write_text(f"{kept}{BEGIN}\n\n" + "\n".join(_lines(results, plots)) + "\n", encoding="utf-8")


def _lines(results: Mapping[str, Any], plots: list[Path]) -> Iterator[str]:
    made = dict(results["machine"])
    yield f"{made.pop('where')}; " + ", ".join(f"{name} {number}" for name, number in made.items()) + "."
    yield ""
    yield from target_table(results)
    for plot in plots:
        yield ""
        yield f"![{plot.stem.replace('-', ' ').replace('performance ', '')}]({plot.name})"
    for measure in measures.ALL:
        name = measure.__name__
        yield ""
        yield f"### {name.replace('_', ' ').capitalize()}"
        yield ""
        yield inspect.cleandoc(measure.__doc__ or "")
        yield ""
        values = results[name]
        if any(isinstance(value, Mapping) for value in values.values()):
            yield from _grid(values)
        else:
            yield from _list(values, _BELOW[name])
        if name == "batch" and RAY_BATCH[0] not in values:
            yield ""
            yield NO_RAY


def target_table(results: Mapping[str, Any]) -> Iterator[str]:
    """The targets, and whether they are met."""
    yield "| to show | measured (spread) | bound | reached |"
    yield "| --- | --- | --- | --- |"
    for target in targets(dict(results)):
        sign = "at least" if target.at_least else "at most"
        measured = _spread(target.figure, target.unit)
        reached = "yes" if target.reached else "**no**"
        yield f"| {target.what} | {measured} | {sign} {target.bound:g} {target.unit} | {reached} |"


def _list(values: Mapping[str, list[float]], below: str) -> Iterator[str]:
    yield f"| | median (spread) | against {_label(below).replace('**', '')} |"
    yield "| --- | ---: | ---: |"
    for name, measured in values.items():
        against = ratio(measured, values[below])["median"]
        yield f"| {_label(name)} | {_spread(figure(measured))} | {against:.2f} |"


def _grid(values: Mapping[str, Mapping[str, list[float]]]) -> Iterator[str]:
    if set(values) == {"cpu", "wall"}:  # by client instead
        clients = values["cpu"]
        values = {client: {column: values[column][client] for column in ("cpu", "wall")} for client in clients}
    columns = list(next(iter(values.values())))
    yield f"| | {' | '.join(columns)} |"
    yield f"| --- |{' ---: |' * len(columns)}"
    for name, row in values.items():
        cells = (_spread(figure(row[column])) if column in row else "" for column in columns)
        yield f"| {_label(name)} | {' | '.join(cells)} |"


def _spread(value: Figure, unit: str = "") -> str:
    middle = f"{_short(value['median'])} {unit}".strip()
    return middle if value["rounds"] == 1 else f"{middle} ({_short(value['least'])} to {_short(value['most'])})"


def _short(number: float) -> str:
    return f"{number:.3g}" if abs(number) < 100 else f"{number:.0f}"


def _label(name: str) -> str:
    return LABELS.get(name, name)
