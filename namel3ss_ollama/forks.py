"""What a process that was forked makes anew: locks that a thread of the parent held, slots and connections of its."""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["Forkable", "renewed_after_fork"]


class Forkable(Protocol):
    """Something whose state in a child must not be the parent's."""

    def after_fork(self) -> None:
        """Begin anew; called in the child, where no other thread runs."""


_known: weakref.WeakSet[Forkable] = weakref.WeakSet()


def renewed_after_fork(thing: Forkable) -> None:
    """Call `thing.after_fork` in every child that is forked while it lives."""
    _known.add(thing)


def _begin_anew() -> None:
    for thing in list(_known):
        thing.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
