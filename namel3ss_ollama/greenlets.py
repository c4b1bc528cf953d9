"""Real threads, locks and waits where gevent or eventlet has replaced threads by greenlets.

After `gevent.monkey.patch_all()` or `eventlet.monkey_patch()` a `threading.Thread` is a greenlet, and an event loop in
it would be the running loop of every greenlet. So the background event loop gets its own OS thread. Greenlets wait for
it through their hub, which runs the others meanwhile. Locks shared by both sides are real ones: they are held briefly,
and never across a switch.

Neither library is imported here unless the program has imported it and patched with it. Where nothing is patched, all
of this falls back to the standard library.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Literal, Protocol, TypeVar

from typing_extensions import TypeVarTuple, Unpack

__all__ = [
    "Joinable",
    "Signal",
    "allocate_lock",
    "make_condition",
    "make_signal",
    "new_event_loop",
    "patched_by",
    "start_thread",
]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
_LONG = 3600.0
_LONGEST_PAUSE = 0.02


class Signal(Protocol):
    """An event that one side sets, in any thread, and the other waits for."""

    def set(self) -> None:
        """Let the other side continue; once set, the signal stays set."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait up to a number of seconds; whether it was set. Called in the thread that made the signal."""


class Joinable(Protocol):
    """A thread that can be joined."""

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, or for a number of seconds."""


def patched_by() -> Literal["gevent", "eventlet"] | None:
    """The library that has patched the blocking parts of the standard library, if any."""
    monkey: Any = sys.modules.get("gevent.monkey")
    if monkey is not None and (monkey.is_module_patched("threading") or monkey.is_module_patched("socket")):
        return "gevent"
    patcher: Any = sys.modules.get("eventlet.patcher")
    if patcher is not None and (patcher.is_monkey_patched("thread") or patcher.is_monkey_patched("socket")):
        return "eventlet"
    return None


def allocate_lock() -> threading.Lock:
    """A lock shared by OS threads; for short critical sections."""
    lock: threading.Lock = _original("_thread", "allocate_lock")() if patched_by() else threading.Lock()
    return lock


def make_condition() -> threading.Condition:
    """A condition shared by OS threads."""
    if patched_by() != "eventlet":  # gevent's works across threads
        return threading.Condition()
    condition: threading.Condition = _original("threading", "Condition")()
    return condition


def make_signal() -> Signal:
    """A signal that the caller waits for while other greenlets run."""
    patched = patched_by()
    if patched is None:
        return threading.Event()
    return _GeventSignal() if patched == "gevent" else _EventletSignal()


def start_thread(target: Callable[..., object], *arguments: Any, name: str) -> Joinable:
    """Start an OS thread; a daemon, for which the interpreter does not wait.

    Raises:
        RuntimeError: The interpreter is shutting down, or no thread can be started.
    """
    if patched_by() is None:
        thread = threading.Thread(target=target, args=arguments, name=name, daemon=True)
        thread.start()
        return thread
    return _RealThread(target, arguments)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """An event loop for a thread of `start_thread`."""
    patched = patched_by()
    if patched is None:
        return asyncio.new_event_loop()
    # gevent's selector would make the thread's hub wait, which fails where nothing known to it could wake it.
    return _Loop(_original("selectors", "DefaultSelector")() if patched == "gevent" else None)


def _original(module: str, name: str) -> Any:
    """A module's original attribute, from before it was patched."""
    if patched_by() == "gevent":
        return sys.modules["gevent.monkey"].get_original(module, name)
    return getattr(sys.modules["eventlet.patcher"].original(module), name)


class _RealThread:
    def __init__(self, target: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        self._target = target
        self._arguments = arguments
        self._running = allocate_lock()
        self._running.acquire()
        _original("_thread", "start_new_thread")(self._run, ())

    def _run(self) -> None:
        try:
            self._target(*self._arguments)
        finally:
            del self._target, self._arguments
            if patched_by() == "gevent":  # a hub that was made in this thread would never be closed
                sys.modules["gevent"].get_hub().destroy(destroy_loop=True)
            self._running.release()

    def join(self, timeout: float | None = None) -> None:
        # Not cooperative: for interpreter shutdown, when no greenlet runs any more.
        if self._running.acquire(timeout=-1 if timeout is None else timeout):
            self._running.release()


class _Loop(asyncio.SelectorEventLoop):
    """An event loop whose executor is real threads, one for each call.

    The threads of `concurrent.futures` would be greenlets of the loop's own thread: they would block it, and the
    interpreter would wait for them at shutdown, when nothing wakes them.
    """

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: Unpack[Ts]
    ) -> asyncio.Future[T]:
        """Call a function in a real thread, whichever executor is given."""
        future: asyncio.Future[T] = self.create_future()

        def work() -> None:
            try:
                settle = functools.partial(future.set_result, func(*args))
            except BaseException as error:  # passed on to the waiter
                settle = functools.partial(future.set_exception, error)
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self.call_soon_threadsafe(_unless_done, future, settle)

        start_thread(work, name="namel3ss-ollama-work")
        return future


def _unless_done(future: asyncio.Future[T], settle: Callable[[], None]) -> None:
    if not future.done():  # it may have been cancelled
        settle()


class _GeventSignal:
    def __init__(self) -> None:
        self._loop: Any = sys.modules["gevent"].get_hub().loop
        self._event: Any = importlib.import_module("gevent.event").Event()

    def set(self) -> None:
        with contextlib.suppress(ValueError):  # the hub is gone, and with it every waiter
            self._loop.run_callback_threadsafe(self._event.set)

    def wait(self, timeout: float | None = None) -> bool:
        if timeout is not None:
            return bool(self._event.wait(timeout))
        # Woken only by a thread that it does not know, the hub would report a deadlock.
        while not self._event.wait(_LONG):
            pass
        return True


class _EventletSignal:
    """Polls: eventlet has no way for one thread to wake another's hub."""

    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> None:
        self._is_set = True

    def wait(self, timeout: float | None = None) -> bool:
        eventlet: Any = sys.modules["eventlet"]
        pause, waited = _LONGEST_PAUSE / 16, 0.0
        while not self._is_set and (timeout is None or waited < timeout):
            eventlet.sleep(pause)
            waited += pause
            pause = min(2 * pause, _LONGEST_PAUSE)
        return self._is_set
