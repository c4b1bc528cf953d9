"""A text that is too long to embed: where to split it, and the vector of its pieces."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence

__all__ = ["cut_in_two", "mean_vector"]

_PARAGRAPH = re.compile(r"\n\s*\n\s*")
_SENTENCE = re.compile(
    r"(?<=[.!?\u2026])[\"'\u2019\u201d)\]]{0,3}\s+|(?<=[\u3002\uff01\uff1f])[\u300d\u300f\u201d]{0,3}\s*"
)
_WORD = re.compile(r"\s+")
_JOINER = "\u200d"


def cut_in_two(text: str) -> tuple[str, str]:
    """Split a text in two near its middle: after a paragraph, else a sentence, else a word, else anywhere.

    A split is near the middle if neither part is shorter than a quarter of the text. Joined, the parts are the text.

    Raises:
        ValueError: The text has fewer than two characters.
    """
    if len(text) < 2:
        raise ValueError("a text of fewer than two characters cannot be split")
    middle = len(text) // 2
    quarter = len(text) // 4
    for pattern in (_PARAGRAPH, _SENTENCE, _WORD):
        ends = (match.end() for match in pattern.finditer(text, quarter, len(text) - quarter))
        near = [end for end in ends if 0 < end < len(text)]
        if near:
            middle = min(near, key=lambda end: abs(end - middle))
            return text[:middle], text[middle:]
    # Not between a letter and its accent, or within a joined emoji, unless the text is nothing else.
    places = range(middle, max(quarter, 1) - 1, -1)
    cut = next((place for place in places if not _belongs_together(text[place - 1], text[place])), middle)
    return text[:cut], text[cut:]


def _belongs_together(before: str, after: str) -> bool:
    return unicodedata.category(after).startswith("M") or _JOINER in (before, after)


def mean_vector(vectors: Sequence[Sequence[float]], weights: Sequence[float]) -> list[float]:
    """The weighted mean of vectors of equal dimension, scaled to their average norm.

    Vectors that cancel each other out have no direction: their mean is returned as it is.

    Args:
        vectors: At least one.
        weights: One per vector, each positive.
    """
    total = math.fsum(weights)
    columns = zip(*vectors, strict=True)
    mean = [math.fsum(w * x for w, x in zip(weights, column, strict=True)) / total for column in columns]
    length = math.fsum(w * math.hypot(*v) for w, v in zip(weights, vectors, strict=True)) / total
    norm = math.hypot(*mean)
    return [x * (length / norm) for x in mean] if norm > length * 1e-9 else mean
