"""A client for each event loop: made on first use, closed with its loop. No other code here knows whose loop is whose.

A connection belongs to the event loop that made it. So that a provider works across several `asyncio.run`, from threads
and in tests, clients are kept by loop. A client is closed

- when its loop ends: an async generator waits on each loop, and the loop closes those before it ends
  (`loop.shutdown_asyncgens`, which `asyncio.run` calls);
- when its loop is found closed, by whatever means, at the next need of a client;
- by `close` or `aclose`, from any thread, each client on its own loop. Both return in bounded time, whatever that loop
  does meanwhile;
- when its owner is dropped, and when the interpreter exits.

What a forked child inherits it neither uses nor closes.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import functools
import importlib
import weakref
from collections.abc import AsyncGenerator, Callable
from typing import Protocol, runtime_checkable

import httpx

from namel3ss_ollama.forks import renewed_after_fork
from namel3ss_ollama.greenlets import Signal, make_signal, patched_by

__all__ = ["Connections"]

_LONGEST_CLOSE = 5.0
"""Seconds that closing waits for a loop which runs but does not get to it."""
_POLL = 0.02
_Loop = asyncio.AbstractEventLoop
_Held = dict[_Loop, httpx.AsyncClient]
"""Each step on it is one operation of a dict, which threads cannot tear apart."""


@runtime_checkable
class _Abortable(Protocol):
    """A client that can be closed without its event loop."""

    def abort(self) -> None:
        """Close at once."""


class Connections:
    """One client for each event loop, made by `make`.

    Args:
        make: Makes a client.
        to_import: The module that has to be imported before, if any; that happens in a thread, since it would block the
            event loop.
        owned: Whether clients are closed here.
    """

    def __init__(
        self, make: Callable[[], httpx.AsyncClient], to_import: Callable[[], str | None], *, owned: bool = True
    ) -> None:
        self._make = make
        self._to_import = to_import
        self._owned = owned
        if patched_by() is not None and (module := to_import()) is not None:
            # Here, since an import may start a process, which gevent does in the main thread only.
            importlib.import_module(module)
        self._hold_nothing()
        _all.add(self)
        renewed_after_fork(self)

    def _hold_nothing(self) -> None:
        self._held: _Held = {}
        self._guards: dict[_Loop, AsyncGenerator[None, None]] = {}
        # Holds the clients, so that they are not garbage together with this: they would complain.
        self._finalizer = weakref.finalize(self, _abandon, self._held, self._guards, self._owned)
        self._finalizer.atexit = False

    def after_fork(self) -> None:
        """The clients are the parent's, and so are their loops: no thread here would ever close one."""
        self._finalizer.detach()
        _inherited.append((self._held, self._guards))
        self._hold_nothing()

    def __len__(self) -> int:
        return len(self._held)

    def current(self) -> httpx.AsyncClient | None:
        """The running event loop's client, if it has one."""
        client = self._held.get(asyncio.get_running_loop())
        return client if client is not None and not client.is_closed else None

    async def get(self) -> httpx.AsyncClient:
        """The running event loop's client, made if there is none."""
        loop = asyncio.get_running_loop()
        if self.current() is None and (module := self._to_import()) is not None:
            await _import(module)
        if (client := self.current()) is not None:  # maybe another task's
            return client
        self._drop_stranded()
        client = self._held[loop] = self._make()
        guard = self._guards.get(loop)
        if guard is None or getattr(guard, "ag_frame", None) is None:
            guard = self._guards[loop] = _until_the_loop_ends(loop, self._held, self._owned)
            await guard.__anext__()
        return client

    async def aclose(self) -> None:
        """Close every loop's client, each on its loop; a later `get` makes a new one."""
        # Each by its loop, the running one too: a pool whose closing is cancelled stays half open.
        here = asyncio.get_running_loop()
        closings = []
        for loop, client in self._take_all():
            closed = here.create_future()
            if _close_on(loop, client, functools.partial(_wake, closed)):
                closings.append((loop, client, closed))
        for loop, client, closed in closings:
            if not await _bounded_async(loop, closed):
                _give_up(loop, client)

    def close(self) -> None:
        """As `aclose`, from synchronous code; inside a running loop that loop's client is closed when it goes on."""
        here = asyncio._get_running_loop()
        for loop, client in self._take_all():
            closed = make_signal()
            if _close_on(loop, client, closed.set) and loop is not here and not _bounded(loop, closed):
                _give_up(loop, client)

    def abort(self) -> None:
        """Close what no running loop will: at exit, when nothing runs any more."""
        for loop, client in self._take_all():
            if not loop.is_running():
                _abort(client)

    def _take_all(self) -> list[tuple[_Loop, httpx.AsyncClient]]:
        _abort_stranded()
        taken = _detach(self._held)
        return taken if self._owned else []

    def _drop_stranded(self) -> None:
        for loop in [loop for loop in list(self._guards) if loop.is_closed()]:
            self._guards.pop(loop, None)
            client = self._held.pop(loop, None)
            if client is not None and self._owned:
                _abort(client)
        _abort_stranded()


_all: weakref.WeakSet[Connections] = weakref.WeakSet()
_inherited: list[object] = []
"""What a forked child never uses nor closes: garbage would complain, or close what is the parent's."""


@atexit.register
def _at_exit() -> None:
    for connections in list(_all):
        connections.abort()


async def _import(module: str) -> None:
    """Import in a thread of its own: those of the loop's executor may all be at work."""
    executor = concurrent.futures.ThreadPoolExecutor(1, "namel3ss-ollama-import")
    try:
        await asyncio.get_running_loop().run_in_executor(executor, importlib.import_module, module)
    except RuntimeError:
        importlib.import_module(module)  # the main thread has ended: no more threads, and nobody who would wait
    finally:
        executor.shutdown(wait=False)


async def _until_the_loop_ends(loop: _Loop, held: _Held, owned: bool) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        client = held.pop(loop, None)
        if client is not None and owned:
            await client.aclose()


def _detach(held: _Held) -> list[tuple[_Loop, httpx.AsyncClient]]:
    detached: list[tuple[_Loop, httpx.AsyncClient]] = []
    while held:
        try:
            detached.append(held.popitem())
        except KeyError:  # another thread took the last one
            break
    return detached


def _close_on(loop: _Loop, client: httpx.AsyncClient, closed: Callable[[], None]) -> bool:
    """Have a loop close its client, then call `closed`; False if the loop is closed, and the client with it.

    Without a task where that can be: a loop that ends cancels tasks before their first step, or leaves them pending.
    """

    def begin() -> None:
        if isinstance(client, _Abortable):
            client.abort()
            loop.call_soon(end)  # after the transports' own last calls
            return
        task = loop.create_task(client.aclose())
        _closing[client] = loop, task
        task.add_done_callback(end)

    def end(task: asyncio.Task[None] | None = None) -> None:
        _closing.pop(client, None)
        if task is not None and not task.cancelled():
            task.exception()  # a connection that breaks while it is being closed is closed
        closed()

    _closing[client] = loop, None
    try:
        loop.call_soon_threadsafe(begin)
    except RuntimeError:
        _closing.pop(client, None)
        _abort(client)
        return False
    return True


def _wake(waiter: asyncio.Future[None]) -> None:
    with contextlib.suppress(RuntimeError):  # its loop is closed: nobody waits there
        waiter.get_loop().call_soon_threadsafe(waiter.set_result, None)


_closing: dict[httpx.AsyncClient, tuple[_Loop, asyncio.Task[None] | None]] = {}
"""Clients that a loop is to close, and their tasks. The loop may end before it gets to that."""


def _abort_stranded() -> None:
    for client, (loop, _) in list(_closing.items()):
        if loop.is_closed():
            _closing.pop(client, None)
            _abort(client)


class _Patience:
    """How long to wait for a loop to close its client."""

    def __init__(self, loop: _Loop) -> None:
        self._loop = loop
        self._polls = _LONGEST_CLOSE / _POLL
        self._stopped = 0

    def ends(self) -> bool:
        """Whether to wait no longer, asked after each poll: the loop has ended, stands still, or is too busy."""
        self._polls -= 1
        # A loop that ends stops for moments between its last steps.
        self._stopped = 0 if self._loop.is_running() else self._stopped + 1
        return self._loop.is_closed() or self._stopped > 2 or self._polls <= 0


def _bounded(loop: _Loop, closed: Signal) -> bool:
    patience = _Patience(loop)
    while not closed.wait(_POLL):
        if patience.ends():
            return False
    return True


async def _bounded_async(loop: _Loop, closed: asyncio.Future[None]) -> bool:
    patience = _Patience(loop)
    while not (await asyncio.wait({closed}, timeout=_POLL))[0]:
        if patience.ends():
            return False
    return True


def _give_up(loop: _Loop, client: httpx.AsyncClient) -> None:
    """Do what can be done for a loop that did not close its client; the rest when it runs, or is found closed."""
    if not loop.is_running():
        _abort(client)


def _abort(client: httpx.AsyncClient) -> None:
    """Close without the loop, as far as the client can."""
    if isinstance(client, _Abortable):
        client.abort()


def _abandon(held: _Held, guards: dict[_Loop, AsyncGenerator[None, None]], owned: bool) -> None:
    """The owner was dropped. Called by the garbage collector: nothing is waited for."""
    for loop, client in _detach(held) if owned else ():
        if loop.is_running() and not (loop is asyncio._get_running_loop() and isinstance(client, _Abortable)):
            _close_on(loop, client, lambda: None)
        else:  # at once, also on the running loop: this may be the last step of a loop that ends
            _abort(client)
    guards.clear()
