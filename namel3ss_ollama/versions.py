"""Versions of servers, compared."""

from __future__ import annotations

import re

__all__ = ["at_least"]


def at_least(version: str, wanted: str) -> bool:
    """Whether a server of one version has what came with another.

    A version that has no number at its beginning ("dev") is taken for the newest; what follows the numbers ("-rc1")
    does not count.
    """
    return not (numbers := _numbers(version)) or numbers >= _numbers(wanted)


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"v?(\d+(?:\.\d+)*)", version)
    return tuple(map(int, found[1].split("."))) if found else ()
