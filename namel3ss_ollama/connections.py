"""One client per event loop: made on first use, closed with its loop. No other code here deals with several loops.

A connection belongs to the event loop that opened it. Clients are kept per loop, so that a provider works across
several calls of `asyncio.run`, from threads and in tests. A client is closed

- when its loop ends: an async generator waits on each loop, and the loop closes those before it ends
  (`loop.shutdown_asyncgens`, which `asyncio.run` calls);
- when its loop is found to be closed the next time a client is needed;
- by `close` or `aclose`, from any thread, each client on its own loop. Both return in bounded time, whatever that loop
  is doing;
- when its owner is dropped, and when the interpreter exits.

A forked child neither uses nor closes the clients that it inherits.
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
"""Seconds to wait for a running loop that is too busy to close its client."""
_POLL = 0.02
_Loop = asyncio.AbstractEventLoop
_Held = dict[_Loop, httpx.AsyncClient]
"""Each access is a single dict operation, which is atomic across threads."""


@runtime_checkable
class _Abortable(Protocol):
    """A client that can be closed without its event loop."""

    def abort(self) -> None:
        """Close at once."""


class Connections:
    """One client for each event loop, made by `make`.

    Args:
        make: Makes a client.
        to_import: A module to import first, if any; imported in a thread, since the import would block the event loop.
        owned: Whether this object closes the clients.
    """

    def __init__(
        self, make: Callable[[], httpx.AsyncClient], to_import: Callable[[], str | None], *, owned: bool = True
    ) -> None:
        self._make = make
        self._to_import = to_import
        self._owned = owned
        if patched_by() is not None and (module := to_import()) is not None:
            # Here, since the import may start a process, which gevent allows in the main thread only.
            importlib.import_module(module)
        self._hold_nothing()
        _all.add(self)
        renewed_after_fork(self)

    def _hold_nothing(self) -> None:
        self._held: _Held = {}
        self._guards: dict[_Loop, AsyncGenerator[None, None]] = {}
        # Keeps the clients from being collected together with this object, which would make them warn.
        self._finalizer = weakref.finalize(self, _abandon, self._held, self._guards, self._owned)
        self._finalizer.atexit = False

    def after_fork(self) -> None:
        """Clients and loops belong to the parent: no thread in the child would ever close one."""
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
        """The running event loop's client, created if there is none."""
        loop = asyncio.get_running_loop()
        if self.current() is None and (module := self._to_import()) is not None:
            await _import(module)
        if (client := self.current()) is not None:  # another task may have made it
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
        # Each by its loop, including the running one: a pool whose closing is cancelled stays half open.
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
        """As `aclose`, from synchronous code; a running loop's own client is closed once the loop continues."""
        here = asyncio._get_running_loop()
        for loop, client in self._take_all():
            closed = make_signal()
            if _close_on(loop, client, closed.set) and loop is not here and not _bounded(loop, closed):
                _give_up(loop, client)

    def abort(self) -> None:
        """Close clients that no running loop will close: at exit, when nothing runs any more."""
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
"""Inherited by a forked child, which must not use, close or collect them: they belong to the parent."""


@atexit.register
def _at_exit() -> None:
    for connections in list(_all):
        connections.abort()


async def _import(module: str) -> None:
    """Import in a separate thread: those of the loop's executor may all be busy."""
    executor = concurrent.futures.ThreadPoolExecutor(1, "namel3ss-ollama-import")
    try:
        await asyncio.get_running_loop().run_in_executor(executor, importlib.import_module, module)
    except RuntimeError:
        importlib.import_module(module)  # the main thread has ended: no thread can be started, and nothing would wait
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
    """Make a loop close its client and then call `closed`; False if the loop is already closed, and the client with it.

    Avoids a task where possible: a loop that ends cancels tasks before their first step, or leaves them pending.
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
            task.exception()  # a connection that breaks while being closed is closed
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
    with contextlib.suppress(RuntimeError):  # its loop is closed: nothing waits there
        waiter.get_loop().call_soon_threadsafe(waiter.set_result, None)


_closing: dict[httpx.AsyncClient, tuple[_Loop, asyncio.Task[None] | None]] = {}
"""Clients that a loop should close, and their tasks. The loop may end before it does."""


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
        """Whether to stop waiting, checked after each poll: the loop has ended, is stopped, or is too busy."""
        self._polls -= 1
        # A loop that is ending stops briefly between its last steps.
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
    """Do what is possible for a loop that did not close its client; the rest when it runs, or is found closed."""
    if not loop.is_running():
        _abort(client)


def _abort(client: httpx.AsyncClient) -> None:
    """Close without the loop, as far as the client can."""
    if isinstance(client, _Abortable):
        client.abort()


def _abandon(held: _Held, guards: dict[_Loop, AsyncGenerator[None, None]], owned: bool) -> None:
    """The owner was dropped. Called by the garbage collector, so it never waits."""
    for loop, client in _detach(held) if owned else ():
        if loop.is_running() and not (loop is asyncio._get_running_loop() and isinstance(client, _Abortable)):
            _close_on(loop, client, lambda: None)
        else:  # at once, also on the running loop: this may be the last step of a loop that is ending
            _abort(client)
    guards.clear()
