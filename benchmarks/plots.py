"""The results as pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

from benchmarks.lineup import LABELS

matplotlib.use("Agg")
from matplotlib import pyplot as plt

_OURS = "#2a6f97"
_OTHERS = "#adb5bd"


def draw(folder: Path, results: Mapping[str, Any]) -> list[Path]:
    """Draw all pictures into `folder`; returns the files."""
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
            "tokens of the answer",
            "CPU microseconds a token",
        ),
        _lines(
            folder / "performance-memory-by-length.png",
            results["memory_by_length"],
            "tokens of the answer",
            "MiB that the process grows by",
        ),
    ]


def _bars(path: Path, values: Mapping[str, list[float]], title: str) -> Path:
    names = list(reversed(values))
    figure, axes = plt.subplots(figsize=(8, 0.6 + 0.3 * len(names)))
    colours = [_OURS if "**" in LABELS[name] else _OTHERS for name in names]
    bars = axes.barh([_label(name) for name in names], [median(values[name]) for name in names], color=colours)
    axes.bar_label(bars, fmt="%.3g", padding=3, fontsize=8)
    axes.set_title(title, fontsize=10)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return _saved(figure, path)


def _lines(path: Path, values: Mapping[str, Mapping[str, list[float]]], across: str, up: str) -> Path:
    figure, axes = plt.subplots(figsize=(8, 3.6))
    for name, row in values.items():
        style = "-" if "**" in LABELS[name] else "--"
        axes.plot([int(x) for x in row], [median(y) for y in row.values()], style, marker="o", ms=3, label=_label(name))
    axes.set_xlabel(across, fontsize=8)
    axes.set_ylabel(up, fontsize=8)
    axes.set_ylim(bottom=0)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    return _saved(figure, path)


def _saved(figure: Any, path: Path) -> Path:
    figure.tight_layout()
    # Without the version of matplotlib in it, and so the same for the same results.
    figure.savefig(path, dpi=90, metadata={"Software": None})
    plt.close(figure)
    return path


def _label(name: str) -> str:
    return LABELS[name].replace("**", "").replace("`", "")
