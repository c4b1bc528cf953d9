"""How llama.cpp's threads wait for each other.

They synchronise after each layer, and in GNU's OpenMP, early threads spin until the others arrive. If something else
computes on the same cores, the spinning keeps the awaited thread from running: two busy cores reached 5 to 9 tokens per
second. Threads that sleep at once reached 50 there, but only 49 instead of 107 on idle cores; threads that spin briefly
first reach 44 and 104. The library reads its settings once, when it is loaded.
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
    """Make an OpenMP library loaded in the block put waiting threads to sleep soon, unless the user set a policy.

    Afterwards the environment is restored, so that child processes and other libraries are not affected.
    """
    if any(name in os.environ for name in _SETTINGS):
        yield
        return
    os.environ["GOMP_SPINCOUNT"] = _SPINS
    try:
        yield
    finally:
        del os.environ["GOMP_SPINCOUNT"]
