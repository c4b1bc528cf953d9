"""Medians, ratios and their spread."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import TypedDict


class Figure(TypedDict):
    """A value that was measured several times."""

    median: float
    least: float
    most: float
    rounds: int


def figure(values: Sequence[float]) -> Figure:
    """The figure of several measurements."""
    return {"median": median(values), "least": min(values), "most": max(values), "rounds": len(values)}


def ratio(above: Sequence[float], below: Sequence[float]) -> Figure:
    """The ratio of `above` to `below`, round by round: a slow round affects both."""
    if len(above) != len(below):  # a slow one has fewer rounds
        return figure([median(above) / median(below)])
    return figure([a / b for a, b in zip(above, below, strict=True)])
