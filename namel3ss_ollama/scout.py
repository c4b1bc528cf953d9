"""Polling hosts for loaded and installed models: every few seconds while there is work, never while idle.

There is no background task: each request checks whether a look-up is due, and runs it on its own event loop, for at
most a few seconds. An unreachable host stays ejected until its time is up; then a request tries it, since a server that
hangs still answers look-ups.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any

from namel3ss_ollama.dispatcher import Dispatcher
from namel3ss_ollama.errors import LLMConnectionError, LLMError, LLMTimeoutError
from namel3ss_ollama.fleet import Fleet, Loaded, Standing, tagged
from namel3ss_ollama.forks import renewed_after_fork
from namel3ss_ollama.greenlets import Signal, allocate_lock, make_signal
from namel3ss_ollama.server import Server
from namel3ss_ollama.settings import StreamConfig

__all__ = ["Scout", "is_unreachable"]

logger = logging.getLogger("namel3ss_ollama")
_LOOK = StreamConfig(connect_timeout=2.0, first_chunk_timeout=2.0, chunk_timeout=2.0)
_PULLED_HOLDS = 60.0
_PATIENCE = 0.5
"""Seconds that a request waits for look-ups, if nothing is known about the hosts or it is outdated."""
_OLD = 3
"""The age, in multiples of `refresh`, at which it is outdated."""
_TURNS = 10
"""How often per `refresh` to check whether a look-up is due."""


class Scout:
    """Polls hosts for their models.

    Args:
        servers: The hosts.
        dispatcher: Receives the answers.
        refresh: The polling interval, in seconds.
        on_news: Called after an answer with changes.
    """

    def __init__(
        self,
        servers: Mapping[Standing, Server],
        dispatcher: Dispatcher,
        refresh: float,
        on_news: Callable[[], None],
    ) -> None:
        self._servers = servers
        self._dispatcher = dispatcher
        self._refresh = refresh
        self._on_news = on_news
        self.after_fork()
        renewed_after_fork(self)

    def after_fork(self) -> None:
        """Look-ups of the parent end in the parent only."""
        self._lock = allocate_lock()
        self._asking: dict[Standing, asyncio.Task[None]] = {}
        self._silent: set[Standing] = set()
        self._due_at = 0.0

    async def know(self) -> None:
        """Make sure that the state of the hosts is known and recent; waits for at most half a second."""
        now = self._dispatcher.clock()
        if now < self._due_at:
            return
        needed: list[asyncio.Task[None]] = []
        for host in self._due(now):
            task = self._begin(host)
            if task is not None and (host.asked_at is None or now - host.asked_at >= _OLD * self._refresh):
                needed.append(task)
        if needed:
            await asyncio.wait(needed, timeout=_PATIENCE)
        else:
            self._due_at = now + self._refresh / _TURNS

    async def look(self) -> None:
        """Poll every host now, including ejected ones."""
        hosts = list(self._servers)
        await asyncio.gather(*(self._ask(host, everything=True) for host in hosts))

    async def aclose(self) -> None:
        """Cancel the look-ups of the running event loop, and wait until their connections are closed."""
        loop = asyncio.get_running_loop()
        with self._lock:
            tasks = [task for task in self._asking.values() if not task.done() and task.get_loop() is loop]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def close(self) -> None:
        """As `aclose`, from synchronous code, on every event loop; waits at most half a second for each look-up."""
        here = asyncio._get_running_loop()
        with self._lock:
            tasks = [task for task in self._asking.values() if not task.done()]
        for task in tasks:
            loop, gone = task.get_loop(), make_signal()
            with contextlib.suppress(RuntimeError):  # of a closed loop
                loop.call_soon_threadsafe(_give_up, task, gone)
                if loop is not here and loop.is_running():
                    gone.wait(_PATIENCE)

    def is_silent(self, host: Standing) -> bool:
        """Whether a host did not answer the last time."""
        return host in self._silent

    def again(self, host: Standing) -> None:
        """A host's loaded models have changed: poll it soon."""
        host.asked_at = None
        self._begin(host)

    def _due(self, now: float) -> list[Standing]:
        return [
            host
            for host in self._servers
            if not host.is_out and (host.asked_at is None or now - host.asked_at >= self._refresh)
        ]

    def _begin(self, host: Standing) -> asyncio.Task[None] | None:
        """Poll a host in a task of the running loop; None if another loop already does."""
        loop = asyncio.get_running_loop()
        with self._lock:
            asking = self._asking.get(host)
            if asking is not None and not asking.done() and asking.get_loop().is_running():
                return asking if asking.get_loop() is loop else None
            task = self._asking[host] = loop.create_task(self._ask(host))
        # A loop that is closed by hand leaves it pending, which is harmless: another loop polls the host again.
        setattr(task, "_log_destroy_pending", False)  # noqa: B010 -- asyncio's own switch for that, which has no type
        return task

    async def _ask(self, host: Standing, *, everything: bool = False) -> None:
        server, now = self._servers[host], self._dispatcher.clock()
        all_of_it = everything or host.pulled_at is None or now - host.pulled_at >= _PULLED_HOLDS
        pulled: dict[str, Any] | None = None
        try:
            running = await server.ask_quickly(server.client.ps, _LOOK)
            if all_of_it:
                pulled = await server.ask_quickly(server.client.tags, _LOOK)
                await server.version.ask()
        except (LLMError, ValueError) as error:  # the latter if requests must not be sent: the next one says why
            why = str(error)
            host.asked_at = self._dispatcher.clock()
            if isinstance(error, LLMTimeoutError):
                self._silent.add(host)
            if isinstance(error, LLMError) and is_unreachable(error):
                self._dispatcher.change(lambda fleet, now: fleet.eject(host, now, why))
            else:
                logger.debug("%s does not report its loaded models: %s", host.url, why)
            return

        changed = False

        def learn(fleet: Fleet, now: float) -> None:
            nonlocal changed
            before = _compared(host)
            host.asked_at = now
            if pulled is not None:
                there = _pulled(pulled)
                fleet.learn_pulled(host, there)
                host.pulled_at = now
                for model in host.missing.keys() & there.keys():  # it has them by now
                    del host.missing[model]
                    host.without.pop(model, None)
                host.version = server.version.text
            fleet.learn_loaded(host, _loaded(running))
            changed = _compared(host) != before

        self._silent.discard(host)
        self._dispatcher.change(learn)
        if changed:
            self._on_news()


def _give_up(task: asyncio.Task[None], gone: Signal) -> None:
    task.add_done_callback(lambda _: gone.set())
    task.cancel()


def is_unreachable(error: LLMError) -> bool:
    """Whether no connection can be made."""
    return isinstance(error, LLMConnectionError) or (isinstance(error, LLMTimeoutError) and error.deadline == "connect")


def _compared(host: Standing) -> object:
    """What is compared between hosts: the loaded models and their digests."""
    pulled = host.pulled or {}
    return {name: (known.context_length, pulled.get(name)) for name, known in host.loaded.items()}


def _listed(answer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    models = answer.get("models")
    return [model for model in models if isinstance(model, dict)] if isinstance(models, list) else []


def _pulled(answer: Mapping[str, Any]) -> dict[str, tuple[int, str]]:
    found: dict[str, tuple[int, str]] = {}
    for model in _listed(answer):
        size, digest = model.get("size"), model.get("digest")
        for key in ("name", "model"):
            if isinstance(name := model.get(key), str):
                found[tagged(name)] = (size if isinstance(size, int) else 0, str(digest or ""))
    return found


def _loaded(answer: Mapping[str, Any]) -> dict[str, Loaded]:
    found: dict[str, Loaded] = {}
    for model in _listed(answer):
        name = model.get("name") or model.get("model")
        if isinstance(name, str):
            found[tagged(name)] = Loaded(
                digest=str(model.get("digest") or ""),
                size=_number(model.get("size")) or 0,
                vram=_number(model.get("size_vram")) or 0,
                context_length=_number(model.get("context_length")),
                expires_at=str(model.get("expires_at") or ""),
            )
    return found


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
