"""How llama.cpp's threads wait for each other.

They meet after each layer, and GNU's OpenMP has who comes first spin for the others, for as long as it takes. Where
something else computes on the same cores, the spinning keeps the awaited thread from running: on two busy cores, 5 to 9
tokens a second came that way. Threads that sleep at once gave 50 there, but only 49 instead of 107 on idle cores; those
that spin a little first give 44 and 104. The library reads its settings once, when it is loaded.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

__all__ = ["waiting_asleep"]

_SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
_SPINS = "10000"


@contextlib.contextmanager
def waiting_asleep() -> Iterator[None]:
    """While it is open, an OpenMP that is loaded will have its threads sleep soon, unless the user said how they wait.

    Afterwards the environment is as it was, so that child processes and other libraries don't get what is for one.
    """
    if any(name in os.environ for name in _SETTINGS):
        yield
        return
    os.environ["GOMP_SPINCOUNT"] = _SPINS
    try:
        yield
    finally:
        del os.environ["GOMP_SPINCOUNT"]
