"""Plots of the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

from benchmarks.lineup import LABELS

matplotlib.use("Agg")
from matplotlib import pyplot as plt

_OURS = "#2a6f97"
_OTHERS = "#adb5bd"
_MARKERS = "osD^vP"
_APART = 1.08
"""The horizontal offset of lines, so that coinciding ones are visible."""


def draw(folder: Path, results: Mapping[str, Any]) -> list[Path]:
    """Draw all plots into `folder`; returns the files."""
    return [
        _bars(folder / "performance-a-token.png", results["a_token"], "CPU microseconds a streamed token"),
        _bars(
            folder / "performance-crowd.png",
            results["crowd"]["wall"],
            "seconds for many streams of 100 tokens at once over a new client",
        ),
        _lines(
            folder / "performance-by-length.png",
            results["by_length"],
            "CPU microseconds a streamed token, by the answer's length",
            "CPU microseconds a token",
        ),
        _lines(
            folder / "performance-memory-by-length.png",
            results["memory_by_length"],
            "memory while an answer is streamed, by its length",
            "MiB that the process grows by",
        ),
    ]


def _bars(path: Path, values: Mapping[str, list[float]], title: str) -> Path:
    names = list(reversed(values))
    figure, axes = plt.subplots(figsize=(8, 0.6 + 0.3 * len(names)))
    colours = [_OURS if "**" in LABELS[name] else _OTHERS for name in names]
    rows = [values[name] for name in names]
    axes.barh([_label(name) for name in names], list(map(median, rows)), color=colours)
    axes.errorbar(list(map(median, rows)), range(len(rows)), xerr=_spread(rows), fmt="none", ecolor="black", capsize=2)
    for place, row in enumerate(rows):
        axes.annotate(f"{median(row):.3g}", (max(row), place), (5, 0), textcoords="offset points", va="center", size=8)
    figure.suptitle(f"{title} (median, least and most)", fontsize=10)
    axes.tick_params(labelsize=8)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    return _saved(figure, path)


def _lines(path: Path, values: Mapping[str, Mapping[str, list[float]]], title: str, up: str) -> Path:
    figure, axes = plt.subplots(figsize=(8, 3.8))
    lengths = sorted({int(length) for row in values.values() for length in row})
    for number, (name, row) in enumerate(values.items()):
        shift = _APART ** (number - (len(values) - 1) / 2)
        axes.errorbar(
            [int(x) * shift for x in row],
            list(map(median, row.values())),
            yerr=_spread(list(row.values())),
            linestyle="-" if "**" in LABELS[name] else "--",
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=5,
            capsize=2,
            label=_label(name),
        )
    figure.suptitle(f"{title} (median, least and most)", fontsize=10)
    axes.set_xlabel("tokens of the answer (logarithmic)", fontsize=8)
    axes.set_ylabel(up, fontsize=8)
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, list(map(str, lengths)))
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1))
    axes.spines[["top", "right"]].set_visible(False)
    return _saved(figure, path)


def _spread(rows: Sequence[Sequence[float]]) -> list[list[float]]:
    """The distances of the minimum and the maximum from the median."""
    return [[median(row) - min(row) for row in rows], [max(row) - median(row) for row in rows]]


def _saved(figure: Any, path: Path) -> Path:
    figure.tight_layout()
    # Without the version of matplotlib, so that equal results give equal files.
    figure.savefig(path, dpi=90, metadata={"Software": None})
    plt.close(figure)
    return path


def _label(name: str) -> str:
    return LABELS[name].replace("**", "").replace("`", "")
