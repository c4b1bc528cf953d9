"""Slots of several hosts: a request waits here until a host has a free one.

A server accepts whatever it is sent, and its queue is not visible. So each host gets only as many requests as it has
slots, and the rest wait on this side, where they can still go to any host. The rules for slots of one server
(`limiter.py`: event loops, threads, forks, finalizers) apply here too; `choosing.py` decides which host is chosen.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

from namel3ss_ollama.choosing import Wanted, choose
from namel3ss_ollama.fleet import Fleet, Standing
from namel3ss_ollama.limiter import ConcurrencyLimit, Limiter, Slot, call_in
from namel3ss_ollama.queues import Queues

__all__ = ["Dispatcher", "HostSlot"]

T = TypeVar("T")
_HOMES = 10_000
_NAMED = 3
"""How many hosts' reasons an error message lists."""
_HOME_HOLDS = 600.0
"""Seconds for which a host is assumed to have a conversation's prompt cached."""


class HostSlot(Slot):
    """A slot of a host.

    Attributes:
        wanted: The needs of the request.
        chosen: The host, once chosen.
    """

    __slots__ = ("chosen", "wanted")

    def __init__(
        self, limiter: Limiter, loop: asyncio.AbstractEventLoop, wanted: Wanted, *, patient: bool = False
    ) -> None:
        super().__init__(limiter, loop, patient=patient)
        self.wanted = wanted
        self.chosen: Standing | None = None

    @property
    def host(self) -> Standing:
        """The host of a slot that is held."""
        assert self.chosen is not None
        return self.chosen


class Dispatcher(Limiter):
    """Slots of several hosts.

    Args:
        fleet: The hosts.
        max_concurrent: The number of concurrent requests on all hosts together; "auto" or None for as many as there are
            slots.
        max_queue: How many requests may wait; one more fails at once. None for no limit.
        queue_timeout: How long a request may wait, in seconds. None for no limit.
        clock: The time in seconds, from any origin.
    """

    _more = "the slots of the hosts"

    def __init__(
        self,
        fleet: Fleet,
        max_concurrent: ConcurrencyLimit = "auto",
        max_queue: int | None = None,
        queue_timeout: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fleet = fleet
        self.clock = clock
        super().__init__(None if max_concurrent == "auto" else max_concurrent, max_queue, queue_timeout)

    def after_fork(self) -> None:
        """All slots are free: holders and waiters belong to the parent."""
        super().after_fork()
        self._queues: Queues[HostSlot] = Queues()
        self._homes: OrderedDict[int, tuple[Standing, float, float]] = OrderedDict()
        self._fleet.forget_requests()

    def change(self, change: Callable[[Fleet, float], None]) -> None:
        """Update the state of the hosts, and hand out the slots that become free."""
        self._lock.acquire()
        try:
            change(self._fleet, self.clock())
            self._hand_out()
        finally:
            self._unlock()

    def look(self, look: Callable[[Fleet, float], T]) -> T:
        """Read the state of the hosts."""
        now = self.clock()
        self._lock.acquire()
        try:
            self._settle()
            self._hand_out()  # to hosts whose ejection has ended
            return look(self._fleet, now)
        finally:
            self._unlock()

    def remember_home(self, key: int, host: Standing, tokens: int) -> None:
        """A host answered a conversation, and has this many of its tokens cached."""
        self._lock.acquire()
        try:
            self._homes[key] = host, float(tokens), self.clock()
            self._homes.move_to_end(key)
            while len(self._homes) > _HOMES:
                self._homes.popitem(last=False)
        finally:
            self._unlock()

    def find_home(self, wanted: Wanted, keys: Sequence[int]) -> None:
        """Set the home of a request from the prefixes of its conversation, the shortest first."""
        now = self.clock()
        for key in reversed(keys):
            known = self._homes.get(key)
            if known is not None and now - known[2] < _HOME_HOLDS:
                wanted.home, cached, _ = known
                pace = wanted.home.pace.get(wanted.model)
                wanted.saved = cached / pace.prefill if pace is not None and pace.prefill else 0.0
                return

    def _in_vain(self, slot: Slot) -> str:
        within = f"within queue_timeout={self.queue_timeout:g} s"
        if (out := self.why_all_out()) is not None:
            return f"no host was available {within} ({out}); raise queue_timeout, or check the hosts"
        slots, hosts = self._fleet.slots, len(self._fleet.hosts)
        return f"no slot came free {within} ({slots} on {hosts} hosts); try again later, or raise one of them"

    def why_all_out(self) -> str | None:
        """Why the hosts failed, if none is available; None if one is."""

        def read(fleet: Fleet, _: float) -> str | None:
            if not fleet.all_out:
                return None
            said = [f"{host.url}: {host.why_out}" for host in fleet.hosts]
            return "; ".join(said[:_NAMED]) + (f"; and {len(said) - _NAMED} more" if len(said) > _NAMED else "")

        return self.look(read)

    # What follows is called with the lock held, as in `limiter.py`.

    def _new_slot(self, loop: asyncio.AbstractEventLoop, wanted: Wanted | None, *, patient: bool = False) -> HostSlot:
        assert wanted is not None
        if wanted.since is None:
            wanted.since = self.clock()
        return HostSlot(self, loop, wanted, patient=patient)

    def _may_wait(self, slot: Slot) -> bool:
        # A request that had a slot and lost it with a failed host is not rejected.
        return cast("HostSlot", slot).wanted.asked or super()._may_wait(slot)

    def _enqueue(self, slot: Slot) -> None:
        slot = cast("HostSlot", slot)
        super()._enqueue(slot)
        self._queues.add(slot)
        now = self.clock()
        if slot.wanted.waits_for_home(now):
            left = slot.wanted.saved - (now - (slot.wanted.since or now))
            slot.loop.call_later(left, self._look_again)

    def _forget(self, slot: Slot) -> bool:
        self._queues.remove(cast("HostSlot", slot))
        return super()._forget(slot)

    def _bound(self) -> int | None:
        slots = self._fleet.slots
        return slots if self.most is None else min(slots, self.most)

    def _hold(self, slot: Slot) -> None:
        slot = cast("HostSlot", slot)
        if slot.chosen is None:  # beyond the limit
            slot.chosen = self._least_busy(slot.wanted)
        super()._hold(slot)
        self._fleet.hold(slot.chosen, slot.wanted.model)

    def _left(self, slot: Slot) -> None:
        super()._left(slot)
        self._fleet.release(cast("HostSlot", slot).host)

    def _take(self, slot: Slot) -> bool:
        slot = cast("HostSlot", slot)
        now = self.clock()
        self._fleet.advance(now)
        if self._is_full() or not self._fleet.free.items:
            self._reclaim()
        if self._is_full() or self._queues.blocks(slot.wanted, now, _is_ready):
            return False
        waiting = self._queues.waiting
        slot.chosen = choose(slot.wanted, self._fleet, now, waiting(slot.wanted.model) + 1, waiting)
        if slot.chosen is None:
            return False
        self._hold(slot)
        return True

    def _hand_out(self) -> None:
        now = self.clock()
        while not self._is_full() and (found := self._queues.next(self._fleet, now, _is_ready)) is not None:
            found[0].chosen = found[1]
            self._grant(found[0])
        if all(loop.is_running() for loop in self._watched):
            return
        for slot in [slot for slot in self._waiters if not slot.loop.is_running()]:
            if slot.loop.is_closed():
                self._forget(slot)
                self._watched.discard(slot.loop)
            elif not slot.reminded:
                slot.reminded = True
                call_in(slot.loop, self._ask_again, slot)

    def _take_nested(self, slot: Slot) -> bool:
        # A request that waits for a host to come back does not wait for the outer request.
        now = self.clock()
        wanted = cast("HostSlot", slot).wanted
        up = any(not host.is_out and wanted.may_go_to(host, now) for host in self._fleet.hosts)
        return up and super()._take_nested(slot)

    def _stuck(self, waiting: Sequence[Slot]) -> Sequence[Slot]:
        """Requests that could only go to hosts whose slots are all held by streams waiting for their callers."""
        if not self._running:
            return ()
        now, full = self.clock(), self._is_full()
        computing = {cast("HostSlot", slot).host for slot, idle in self._holders() if not idle}
        if full and computing:
            return ()
        found: list[Slot] = []
        known: dict[str, bool] = {}
        for slot in cast("Sequence[HostSlot]", waiting):
            wanted = slot.wanted
            stuck = known.get(wanted.model) if not wanted.tried else None
            if stuck is None:
                can = [host for host in self._fleet.hosts if not host.is_out and wanted.may_go_to(host, now)]
                taken = [host for host in can if host.in_flight]
                stuck = bool(can) and (full or (bool(taken) and computing.isdisjoint(taken)))
                if not wanted.tried:
                    known[wanted.model] = stuck
            if stuck:
                found.append(slot)
        return found

    def _least_busy(self, wanted: Wanted) -> Standing:
        now = self.clock()
        can = [host for host in self._fleet.hosts if wanted.may_go_to(host, now)] or self._fleet.hosts
        return min(can, key=lambda host: (host.is_out, host.last_resort, host.in_flight / host.slots))

    # What follows is called by event loops.

    def _look_again(self) -> None:
        self._lock.acquire()
        try:
            self._hand_out()
        finally:
            self._unlock()

    def _look_after(self, loop: asyncio.AbstractEventLoop) -> None:
        self._look_again()  # hosts come back
        super()._look_after(loop)


def _is_ready(slot: HostSlot) -> bool:
    return slot.loop.is_running()
