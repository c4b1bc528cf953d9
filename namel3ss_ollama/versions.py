"""Versions of Ollama, compared by their numbers."""

from __future__ import annotations

import re
from functools import lru_cache

__all__ = ["at_least", "numbers"]

_NUMBERS = re.compile(r"v?(\d+(?:\.\d+)*)(?:[-+].*)?")


@lru_cache(maxsize=64)
def numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version; what follows a hyphen or a plus sign doesn't count. `ValueError` for anything else.

    >>> numbers("0.12.6"), numbers("v0.30.0-rc4")
    ((0, 12, 6), (0, 30, 0))
    """
    match = _NUMBERS.fullmatch(version)
    if match is None:
        raise ValueError(f'version: {version!r} is none; it is numbers and dots, as "0.9.3"')
    return tuple(int(one) for one in match[1].split("."))


def at_least(version: str, minimum: str) -> bool:
    """Whether a version is the given one or a later one.

    >>> at_least("0.12", "0.12.0"), at_least("0.9.3", "0.12")
    (True, False)
    """
    found, wanted = numbers(version), numbers(minimum)
    return found + (0,) * (len(wanted) - len(found)) >= wanted
