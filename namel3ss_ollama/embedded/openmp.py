"""How llama.cpp's threads wait for each other.

They meet after each layer, and GNU's OpenMP has who comes first spin for the others. Where something else computes on
the same cores, the spinning keeps the awaited thread from running: on two busy cores, 3 to 16 tokens a second came
that way, and 20 to 57 with threads that sleep. The library reads its settings once, when it is loaded.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

__all__ = ["waiting_asleep"]

_SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@contextlib.contextmanager
def waiting_asleep() -> Iterator[None]:
    """While it is open, an OpenMP that is loaded will have its threads sleep, unless the user has said how they wait.

    Afterwards the environment is as it was, so that child processes and other libraries don't get what is for one.
    """
    if any(name in os.environ for name in _SETTINGS):
        yield
        return
    os.environ["OMP_WAIT_POLICY"] = "passive"
    try:
        yield
    finally:
        del os.environ["OMP_WAIT_POLICY"]
