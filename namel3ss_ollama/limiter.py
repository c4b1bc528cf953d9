"""The concurrency limit: one for every event loop and thread that shares a provider.

First come, first served. A holder that leaves hands its slot to the longest waiter, so that newcomers never overtake
and no wake-up is lost. A waiter that is cancelled after it was handed a slot passes it on.

Each slot belongs to an event loop. Slots held by a closed loop are reclaimed when one is needed; a loop that is not
running is handed nothing, but asks again when it runs.

Finalizers also release slots (the garbage collector closes a suspended coroutine), in any thread and within any
critical section. So `release` never waits for the lock: it leaves the slot in `_returned`, and the lock's current or
next holder does the rest.

The limit may adapt to the server ("auto"). What a server cannot answer at once waits in its queue, and a client sees
only that no token comes. So the limit is on those: `_UNANSWERED` requests may wait for their first token, or as many
as are being answered, whichever is more. A server with one slot gets a short queue, and one with many fills in a few
steps, each as long as a first token takes.

Only a stream holds a slot while its caller's code runs, and that code may need another slot. Where waiting could
deadlock, it gets one beyond the limit: at once if a stream of the same context (task or thread) is open, and otherwise
once every slot has been held for `_PATIENCE` by a stream that waits for its caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Literal, TypeVar

from namel3ss_ollama.errors import QueueFullError
from namel3ss_ollama.forks import renewed_after_fork
from namel3ss_ollama.greenlets import allocate_lock
from namel3ss_ollama.settings import check_positive

if TYPE_CHECKING:
    from namel3ss_ollama.choosing import Wanted

__all__ = ["ConcurrencyLimit", "Limiter", "Slot", "call_in", "patiently"]

T = TypeVar("T")
ConcurrencyLimit = int | Literal["auto"] | None
"""A limit on concurrent requests: a number, "auto" for one that adapts to the server, None for none."""
_UNANSWERED = 10
"""How many requests may wait for their first token if the limit adapts and no more are being answered."""
_PATIENCE = 0.25
"""Seconds that all streams must have waited for their callers before requests may exceed the limit."""


class Slot:
    """A request's slot: waiting, held, or released. It belongs to the event loop on which it was requested.

    Attributes:
        loop: That event loop.
        held: Whether it counts as running.
        answered: Whether its first token has arrived, if the limit adapts.
        idle_since: When its stream handed a chunk to the caller, by `time.monotonic`; None while the stream reads.
    """

    __slots__ = ("_limiter", "answered", "future", "held", "idle_since", "loop", "patient", "reminded")

    def __init__(self, limiter: Limiter, loop: asyncio.AbstractEventLoop, *, patient: bool = False) -> None:
        self._limiter = limiter
        self.loop = loop
        self.held = False
        self.answered = False
        self.patient = patient
        self.reminded = False
        self.future: asyncio.Future[None] | None = None
        self.idle_since: float | None = None

    def is_of(self, limiter: Limiter) -> bool:
        """Whether it is held and belongs to this limiter."""
        return self.held and self._limiter is limiter

    def mark(self) -> None:
        """The current context (task, thread) holds it: requests made there are nested in it."""
        _held_here.set((*(slot for slot in _held_here.get() if slot.held), self))

    def unmark(self) -> None:
        """It no longer belongs to the current context."""
        _held_here.set(tuple(slot for slot in _held_here.get() if slot is not self and slot.held))


_held_here: ContextVar[tuple[Slot, ...]] = ContextVar("namel3ss_ollama_slots", default=())
_patient: ContextVar[bool] = ContextVar("namel3ss_ollama_patient", default=False)


@contextlib.contextmanager
def patiently() -> Iterator[None]:
    """For batches, which have their own limits: requests in this block ignore `max_queue` and `queue_timeout`."""
    token = _patient.set(True)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # a coroutine that is destroyed ends in another context
            _patient.reset(token)


class Limiter:
    """A first-come, first-served concurrency limit across event loops and threads.

    Args:
        max_concurrent: The number of slots; "auto" for a limit that adapts to the server, None for no limit.
        max_queue: How many requests may wait; one more fails at once. None for no limit.
        queue_timeout: How long a request may wait, in seconds. None for no limit.

    Raises:
        ValueError, TypeError: A limit is not a positive number (`max_queue` may be zero).
    """

    _more = "max_concurrent"
    """The setting that gives more slots."""

    def __init__(
        self,
        max_concurrent: ConcurrencyLimit = "auto",
        max_queue: int | None = None,
        queue_timeout: float | None = None,
    ) -> None:
        if max_concurrent != "auto":
            check_positive("max_concurrent", max_concurrent, integer=True)
        check_positive("max_queue", max_queue, integer=True, zero=True)
        check_positive("queue_timeout", queue_timeout)
        self.max_concurrent = max_concurrent
        self.max_queue = max_queue
        self.queue_timeout = queue_timeout
        self.after_fork()
        renewed_after_fork(self)

    def after_fork(self) -> None:
        """All slots are free: holders and waiters belong to the parent."""
        self._lock = allocate_lock()
        self._held: dict[asyncio.AbstractEventLoop, set[Slot]] = {}
        self._running = 0
        self._answered = 0
        self._limit = _UNANSWERED if self.max_concurrent == "auto" else self.max_concurrent
        self._waiters: OrderedDict[Slot, None] = OrderedDict()
        self._patient = 0
        self._returned: deque[Slot] = deque()
        self._watched: set[asyncio.AbstractEventLoop] = set()

    @property
    def most(self) -> int | None:
        """How many requests can run at most; None if no number limits them."""
        return self.max_concurrent if isinstance(self.max_concurrent, int) else None

    @property
    def running(self) -> int:
        """Slots in use."""
        self._lock.acquire()
        try:
            self._settle()
            self._reclaim()
            return self._running
        finally:
            self._unlock()

    @property
    def queued(self) -> int:
        """Requests that wait for a slot."""
        self._lock.acquire()
        try:
            self._settle()
            self._reclaim()
            return sum(not slot.loop.is_closed() for slot in self._waiters)
        finally:
            self._unlock()

    def slot(self) -> _Held:
        """Hold a slot: `async with limiter.slot()`. Requests that the block makes are nested in it.

        Raises:
            QueueFullError: On entering: `max_queue` requests wait already, or `queue_timeout` passed.
        """
        return _Held(self)

    def try_acquire(self, wanted: Wanted | None = None) -> Slot | None:
        """Take a slot if one is free; give it back with `release`.

        Args:
            wanted: What the request needs from a host, if there are several (`dispatcher.py`).
        """
        slot = self._new_slot(asyncio.get_running_loop(), wanted)
        self._lock.acquire()
        try:
            if self._returned:
                self._settle()
            return slot if self._take(slot) or self._take_nested(slot) else None
        finally:
            self._unlock()

    async def acquire(self, wanted: Wanted | None = None) -> Slot:
        """Take a slot, waiting for one if necessary; give it back with `release`.

        Args:
            wanted: As in `try_acquire`.

        Raises:
            QueueFullError: `max_queue` requests wait already, or `queue_timeout` passed.
        """
        patient = _patient.get()
        slot = self._new_slot(asyncio.get_running_loop(), wanted, patient=patient)
        self._lock.acquire()
        try:
            if self._returned:
                self._settle()
            if self._take(slot) or self._take_nested(slot):
                return slot
            if not self._may_wait(slot):
                raise QueueFullError(
                    f"{self._running} requests run and {len(self._waiters) - self._patient} wait "
                    f"(max_queue={self.max_queue}); try again later, or raise max_queue or {self._more}"
                )
            future = slot.future = slot.loop.create_future()
            self._patient += patient
            self._enqueue(slot)
            self._watch(slot.loop)
        finally:
            self._unlock()
        # Not asyncio.wait_for: before Python 3.12 it can swallow a cancellation that arrives with the slot.
        timeout = None if patient else self.queue_timeout
        timer = slot.loop.call_later(timeout, _expire, future) if timeout is not None else None
        try:
            await future
        except BaseException as error:
            self.release(slot)  # if it was handed over before the cancellation came, the next request gets it
            if isinstance(error, TimeoutError):
                raise QueueFullError(self._in_vain(slot)) from None
            raise
        finally:
            if timer is not None:
                timer.cancel()
        return slot

    def release(self, slot: Slot) -> None:
        """Give a slot back, or stop waiting for it; the longest waiter gets it. Only the first call has an effect.

        Never waits, so a finalizer may call it.
        """
        if self._lock.acquire(blocking=False):
            try:
                self._free(slot)
            finally:
                self._unlock()
            return
        self._returned.append(slot)
        if self._lock.acquire(blocking=False):  # its holder may already have made its last check
            self._unlock()

    def answered(self, slot: Slot, begun: bool = True) -> None:
        """Note that the first token of a request has arrived, or, if not `begun`, that it is sent again."""
        if self.max_concurrent != "auto" or slot.answered is begun:
            return
        self._lock.acquire()
        try:
            if slot.held:
                slot.answered = begun
                self._count_answered(1 if begun else -1)
                if self._waiters:
                    self._hand_out()
        finally:
            self._unlock()

    def _unlock(self) -> None:
        """Process `_returned` and release the lock; repeat if more arrived in between."""
        while True:
            try:
                if self._returned:
                    self._settle()
            finally:
                self._lock.release()
            if not self._returned or not self._lock.acquire(blocking=False):
                return

    def _in_vain(self, slot: Slot) -> str:
        """Why a request hit `queue_timeout`."""
        return (
            f"no slot came free within queue_timeout={self.queue_timeout:g} s "
            f"(max_concurrent={self.max_concurrent}); try again later, or raise one of them"
        )

    # The following is called with the lock held. `dispatcher.py` has another limit, and overrides much of it.

    def _new_slot(self, loop: asyncio.AbstractEventLoop, wanted: Wanted | None, *, patient: bool = False) -> Slot:
        return Slot(self, loop, patient=patient)

    def _may_wait(self, slot: Slot) -> bool:
        """Whether the queue has room for a request."""
        return slot.patient or self.max_queue is None or len(self._waiters) - self._patient < self.max_queue

    def _enqueue(self, slot: Slot) -> None:
        self._waiters[slot] = None

    def _left(self, slot: Slot) -> None:
        """A slot that was held is free."""
        self._running -= 1
        if slot.answered:
            self._count_answered(-1)

    def _bound(self) -> int | None:
        """How many requests may run; None for no limit."""
        return self._limit

    def _is_full(self) -> bool:
        """Whether no further request may run."""
        return self._limit is not None and self._running >= self._limit

    def _count_answered(self, change: int) -> None:
        """More, or fewer, of the running requests are being answered; the limit follows."""
        self._answered += change
        self._limit = self._answered + max(self._answered, _UNANSWERED)

    def _settle(self) -> None:
        """Free the returned slots."""
        while self._returned:
            self._free(self._returned.popleft())

    def _free(self, slot: Slot) -> None:
        if not slot.held:
            self._forget(slot)
            return
        slot.held = False
        slots = self._held.get(slot.loop)
        if slots is None:  # the parent's
            return
        slots.discard(slot)
        self._left(slot)
        if self._waiters:
            self._hand_out()

    def _hold(self, slot: Slot) -> None:
        slot.held = True
        slots = self._held.get(slot.loop)
        if slots is None:
            slots = self._held[slot.loop] = set()
        slots.add(slot)
        self._running += 1

    def _forget(self, slot: Slot) -> bool:
        """Remove it from the queue; whether it was there."""
        if self._waiters.pop(slot, _ABSENT) is _ABSENT:
            return False
        self._patient -= slot.patient
        return True

    def _take(self, slot: Slot) -> bool:
        """Hold a slot if one is free for a newcomer, after reclaiming those of closed loops."""
        if self.max_concurrent is not None:
            if self._is_full():
                self._reclaim()
                if self._is_full():
                    return False
            if self._waiters and any(waiter.loop.is_running() for waiter in self._waiters):
                return False
        self._hold(slot)
        return True

    def _take_nested(self, slot: Slot) -> bool:
        """Hold a slot beyond the limit if this context holds one already, which would wait for this one."""
        outer = _held_here.get()
        if not outer or not any(held.is_of(self) for held in outer):
            return False
        self._hold(slot)
        return True

    def _reclaim(self) -> None:
        """Reclaim the slots of closed event loops."""
        closed = [loop for loop in self._held if loop.is_closed()] if self._held else ()
        for loop in closed:
            for slot in self._held.pop(loop):
                slot.held = False
                self._left(slot)
            self._watched.discard(loop)
        if closed:
            self._hand_out()

    def _hand_out(self) -> None:
        """Hand free slots to waiters on a running loop. A stopped loop asks again when it runs."""
        stopped: list[Slot] = []
        while self._waiters and not self._is_full():
            slot = next(iter(self._waiters))
            if slot.loop.is_running():
                self._grant(slot)
            else:
                del self._waiters[slot]
                if slot.loop.is_closed():
                    self._patient -= slot.patient
                    self._watched.discard(slot.loop)
                else:
                    stopped.append(slot)
        for slot in reversed(stopped):
            self._waiters[slot] = None
            self._waiters.move_to_end(slot, last=False)
            if not slot.reminded:
                slot.reminded = True
                call_in(slot.loop, self._ask_again, slot)

    def _grant(self, slot: Slot) -> None:
        self._forget(slot)
        if call_in(slot.loop, _wake, slot.future):
            self._hold(slot)

    # The following is called by event loops.

    def _ask_again(self, slot: Slot) -> None:
        self._lock.acquire()
        try:
            slot.reminded = False
            self._hand_out()
        finally:
            self._unlock()

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop not in self._watched:
            self._watched.add(loop)
            loop.call_later(_PATIENCE, self._look_after, loop)

    def _look_after(self, loop: asyncio.AbstractEventLoop) -> None:
        """Serve waiters that would otherwise wait forever.

        They wait behind loops that have been closed, or behind streams whose callers may be waiting for them. The
        latter may use as many extra slots as there are slots, and beyond that one at a time.
        """
        self._lock.acquire()
        try:
            self._watched.discard(loop)
            self._reclaim()
            waiting = [slot for slot in self._waiters if slot.loop is loop]
            bound = self._bound()
            if waiting and bound is not None:
                for slot in self._stuck(waiting)[: max(2 * bound - self._running, 1)]:
                    self._grant(slot)
            if any(slot.loop is loop for slot in self._waiters):
                self._watch(loop)
        finally:
            self._unlock()

    def _stuck(self, waiting: Sequence[Slot]) -> Sequence[Slot]:
        """The waiters whose turn may never come, because all holders may be waiting for them."""
        return () if any(not idle for _, idle in self._holders()) else waiting

    def _holders(self) -> Iterator[tuple[Slot, bool]]:
        """The held slots, and whether each belongs to a stream that has been waiting for its caller."""
        now = time.monotonic()
        for slots in self._held.values():
            for slot in slots:
                yield slot, slot.idle_since is not None and now - slot.idle_since >= _PATIENCE


class _Held:
    """A slot for a block."""

    __slots__ = ("_limiter", "_slot", "_token")

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter

    async def __aenter__(self) -> Slot:
        slot = self._slot = await self._limiter.acquire()
        self._token = _held_here.set((*_held_here.get(), slot))
        return slot

    async def __aexit__(self, *_: object) -> None:
        self._limiter.release(self._slot)
        _held_here.reset(self._token)


_ABSENT = object()


def _expire(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_exception(TimeoutError())


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)


def call_in(loop: asyncio.AbstractEventLoop, function: Callable[[T], None], argument: T) -> bool:
    """Make the loop call a function, or call it now if the loop runs in this thread; False if it is closed."""
    try:
        if asyncio._get_running_loop() is loop:
            function(argument)
        else:
            loop.call_soon_threadsafe(function, argument)
    except RuntimeError:
        return False
    return True
