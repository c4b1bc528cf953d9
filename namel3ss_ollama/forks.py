"""State that a forked child re-creates: locks held by the parent's threads, its slots, its connections."""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["Forkable", "renewed_after_fork"]


class Forkable(Protocol):
    """Something whose state in a child must not be the parent's."""

    def after_fork(self) -> None:
        """Re-create it; called in the child, where no other thread runs."""


_known: weakref.WeakSet[Forkable] = weakref.WeakSet()


def renewed_after_fork(thing: Forkable) -> None:
    """Call `thing.after_fork` in every child that is forked while it lives."""
    _known.add(thing)


def _renew_all() -> None:
    for thing in list(_known):
        thing.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
