"""Requests that wait for a host: in order within each model, and the oldest first among the models. No I/O."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from namel3ss_ollama.choosing import Wanted, choose
from namel3ss_ollama.fleet import Fleet, Standing

__all__ = ["Queues"]


class _Waiter(Protocol):
    @property
    def wanted(self) -> Wanted: ...


W = TypeVar("W", bound=_Waiter)


class Queues(Generic[W]):
    """One queue for each model."""

    def __init__(self) -> None:
        self._by_model: dict[str, OrderedDict[W, None]] = {}

    def add(self, waiter: W) -> None:
        """Add a waiter at the end; at the front if a host failed on its request."""
        queue = self._by_model.setdefault(waiter.wanted.model, OrderedDict())
        queue[waiter] = None
        if waiter.wanted.tried:
            queue.move_to_end(waiter, last=False)

    def remove(self, waiter: W) -> None:
        """Remove a waiter, if it is there."""
        queue = self._by_model.get(waiter.wanted.model)
        if queue is not None:
            queue.pop(waiter, None)
            if not queue:
                del self._by_model[waiter.wanted.model]

    def waiting(self, model: str) -> int:
        """How many requests wait for a model."""
        return len(self._by_model.get(model, ()))

    def blocks(self, wanted: Wanted, now: float, ready: Callable[[W], bool]) -> bool:
        """Whether a newcomer would overtake a request that waits for the same model.

        Requests that wait for their home, or for a host other than those that failed on them, do not count.
        """
        if wanted.tried:
            return False
        return any(
            ready(waiter) and not waiter.wanted.tried and not waiter.wanted.waits_for_home(now)
            for waiter in self._by_model.get(wanted.model, ())
        )

    def next(self, fleet: Fleet, now: float, ready: Callable[[W], bool]) -> tuple[W, Standing] | None:
        """The next waiter and its host; None if no waiter can proceed now. The caller removes it.

        Args:
            fleet: The hosts.
            now: The time.
            ready: Whether a waiter can be handed a slot.
        """
        fleet.advance(now)
        if not self._by_model or not (fleet.free.items or fleet.last_resorts):
            return None
        for queue in sorted(self._by_model.values(), key=_age) if len(self._by_model) > 1 else self._by_model.values():
            for waiter in queue:
                if not ready(waiter) or waiter.wanted.waits_for_home(now):
                    continue
                host = choose(waiter.wanted, fleet, now, len(queue), self.waiting)
                if host is not None:
                    return waiter, host
                if not waiter.wanted.tried:
                    break  # those behind it cannot proceed either
        return None


def _age(queue: OrderedDict[W, None]) -> float:
    return next(iter(queue)).wanted.since or 0.0
