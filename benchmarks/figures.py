"""Medians, ratios and their spread."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import TypedDict


class Figure(TypedDict):
    """A number that was measured several times."""

    median: float
    least: float
    most: float
    rounds: int


def figure(values: Sequence[float]) -> Figure:
    """The figure of several measurements."""
    return {"median": median(values), "least": min(values), "most": max(values), "rounds": len(values)}


def ratio(above: Sequence[float], below: Sequence[float]) -> Figure:
    """How many times `below` goes into `above`, round by round: what slows one round down slows both."""
    if len(above) != len(below):  # one of them takes so long that it had fewer rounds
        return figure([median(above) / median(below)])
    return figure([a / b for a, b in zip(above, below, strict=True)])
