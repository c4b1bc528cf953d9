"""State that a forked child recreates: locks held by the parent's threads, slots, connections."""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["Forkable", "renewed_after_fork"]


class Forkable(Protocol):
    """An object whose state a child must not share with its parent."""

    def after_fork(self) -> None:
        """Recreate the state; called in the child, where no other thread runs."""


_known: weakref.WeakSet[Forkable] = weakref.WeakSet()


def renewed_after_fork(thing: Forkable) -> None:
    """Call `thing.after_fork` in every child that is forked while `thing` exists."""
    _known.add(thing)


def _renew_all() -> None:
    for thing in list(_known):
        thing.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
