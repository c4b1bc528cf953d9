"""The loaded models: their slots, the queue for them, and when they are loaded and unloaded.

There is one engine per process: each user takes a lease, and when the last one is released, everything is unloaded.
Work runs in the caller's thread, a worker thread of the transport; nothing here depends on event loops.

A model is loaded once for text and once for embeddings, with one slot per concurrent request; more requests wait, and
beyond `max_queue` they are refused, as by Ollama's server. Other load options reload the model once no request uses
it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from namel3ss_ollama.embedded.binding import Kind, Server, start
from namel3ss_ollama.embedded.options import LoadOptions
from namel3ss_ollama.embedded.refusal import Refused
from namel3ss_ollama.embedded.store import Model
from namel3ss_ollama.greenlets import allocate_lock, make_condition

__all__ = ["SHUT_DOWN", "Cancelled", "Engine", "Job", "Loaded", "shared_engine"]

SHUT_DOWN = "the engine was shut down"
_MOST_LOADED = 3
_MOST_SLOTS = 256
"""llama.cpp's own limit."""


_Key = tuple[Path, Kind]


class Cancelled(Exception):
    """The job was cancelled by its caller."""


class Job:
    """A request in the engine, which its caller can cancel.

    Args:
        engine: The engine in which it waits for a slot, so that it can be woken.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.cancelled = False

    def cancel(self) -> None:
        """Cancel the request: a computation ends with the next token, a wait at once."""
        self.cancelled = True
        self._engine.wake()


@dataclass
class Loaded:
    """A model in memory.

    Attributes:
        model: The model.
        options: Its load options.
        kind: For text or for embeddings.
        server: The binding's server; None before it is loaded and after it is unloaded.
        active: The number of slots in use.
        used: When it was last used, seconds since the epoch.
        expires: When it expires, seconds since the epoch; None for never.
        leaving: Whether it is unloaded when its last slot is released, whatever `expires` says. Cleared by a new user.
    """

    model: Model
    options: LoadOptions
    kind: Kind
    server: Server | None = field(default=None, repr=False)
    active: int = 1
    used: float = 0.0
    expires: float | None = None
    leaving: bool = False


class Engine:
    """The models in memory.

    Args:
        slots: The number of concurrent requests per model.
        max_queue: How many requests may wait for a slot; more are refused.
    """

    def __init__(self, slots: int, max_queue: int) -> None:
        self.slots = slots
        self._max_queue = max_queue
        self._changed = make_condition()
        self._loaded: dict[_Key, Loaded] = {}
        self._waiting: dict[Job, _Key] = {}
        self._leases = 0
        self._jobs: set[Job] = set()
        self._ended = ""  # why nothing more can be loaded
        _engines.add(self)

    def lease(self) -> None:
        """Keep models loaded until `release`."""
        with self._changed:
            self._leases += 1

    def release(self) -> None:
        """Release a lease; with the last one, everything is unloaded."""
        with self._changed:
            self._leases -= 1
            last = self._leases == 0
        if last:
            self.unload()

    def running(self) -> list[Loaded]:
        """The loaded models."""
        self.sweep()
        with self._changed:
            return [loaded for loaded in self._loaded.values() if loaded.server is not None]

    @contextlib.contextmanager
    def use(
        self, model: Model, options: LoadOptions, kind: Kind, job: Job, keep: float | None
    ) -> Iterator[tuple[Server, float]]:
        """Take a slot of a model, loading it if needed, and return it with the seconds that loading took.

        Args:
            model: The model.
            options: Its load options.
            kind: For text or for embeddings.
            job: The job that uses the slot.
            keep: How long the model stays loaded afterwards, in seconds; None for ever.

        Raises:
            Refused: Loading failed, or the queue is full.
            Cancelled: The job was cancelled while it waited.
        """
        self.sweep()
        began = time.monotonic()
        loaded = self._take(model, options, kind, job)
        assert loaded.server is not None  # it stays loaded while a slot is in use
        try:
            if job.cancelled:
                raise Cancelled
            yield loaded.server, time.monotonic() - began
        finally:
            with self._changed:
                loaded.active -= 1
                loaded.used = time.time()
                loaded.expires = 0.0 if loaded.leaving else None if keep is None else loaded.used + keep
                self._jobs.discard(job)
                self._changed.notify_all()
            self.sweep()

    def unload(self, path: Path | None = None) -> None:
        """Unload a model, or all; models in use are unloaded when their requests have ended."""
        with self._changed:
            for loaded in self._loaded.values():
                if path is None or loaded.model.path == path:
                    loaded.expires, loaded.leaving = 0.0, True
        self.sweep()

    def sweep(self) -> None:
        """Unload expired models."""
        now = time.time()
        with self._changed:
            gone = [self._loaded.pop(key) for key, one in list(self._loaded.items()) if _over(one, now)]
            self._changed.notify_all()
        _end(gone)

    def wake(self) -> None:
        """Wake the waiting jobs, to check again."""
        with self._changed:
            self._changed.notify_all()

    def shut_down(self) -> None:
        """Cancel everything, wait for it to end, and unload, before the interpreter exits."""
        with self._changed:
            self._ended = SHUT_DOWN
            for job in self._jobs:
                job.cancelled = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._jobs, timeout=5.0)
        self.unload()

    def before_fork(self) -> None:
        """Unload idle models, and load nothing until the fork is over.

        llama.cpp does not survive a fork: if a model was loaded at that time, a child that loads one hangs, or crashes
        on exit. The parent reloads its models when needed.
        """
        while True:
            self._changed.acquire()
            idle = [self._loaded.pop(key) for key, one in list(self._loaded.items()) if one.active == 0]
            if not idle:
                return
            self._changed.release()
            _end(idle)

    def after_fork_in_parent(self) -> None:
        """Allow loading again."""
        self._changed.release()

    def after_fork_in_child(self) -> None:
        """Start over, unless a model was computing at that time: its threads do not exist in this process."""
        self._changed = make_condition()
        if self._loaded:
            self._ended = "this process was forked while a model computed: start it by spawning, not by forking"
        self._loaded, self._waiting, self._jobs = {}, {}, set()

    def _take(self, model: Model, options: LoadOptions, kind: Kind, job: Job) -> Loaded:
        key = (model.path, kind)
        with self._changed:
            if self._ended:
                raise Refused(500, self._ended)
            self._jobs.add(job)
            try:
                self._wait_for_turn(key, options, job)
                found = self._loaded.get(key)
                if found is not None and found.options == options:
                    found.active += 1
                    found.leaving = False
                    return found
                replaced = self._make_room(key)
                loaded = self._loaded[key] = Loaded(model, options, kind)
            except BaseException:
                self._jobs.discard(job)
                raise
        _end(replaced)  # before the new model takes memory
        return self._load(key, loaded, job)

    def _wait_for_turn(self, key: _Key, options: LoadOptions, job: Job) -> None:
        """Wait until the job can take a slot, or can load; jobs for the same model are served in order."""
        self._waiting[job] = key
        try:
            while not job.cancelled:
                first = next(other for other, wanted in self._waiting.items() if wanted == key)
                if first is job and self._is_free(key, options):
                    return
                if len(self._waiting) > self._max_queue:
                    raise Refused(503, "server busy, please try again.  maximum pending requests exceeded")
                self._changed.wait()
            raise Cancelled
        finally:
            del self._waiting[job]
            self._changed.notify_all()

    def _is_free(self, key: _Key, options: LoadOptions) -> bool:
        """Whether a slot is free, or the model can be loaded."""
        found = self._loaded.get(key)
        if found is None:
            return len(self._loaded) < _MOST_LOADED or any(one.active == 0 for one in self._loaded.values())
        if found.options != options:
            return found.active == 0
        return found.server is not None and found.active < self.slots

    def _load(self, key: _Key, loaded: Loaded, job: Job) -> Loaded:
        try:
            server = start(loaded.model, loaded.options, loaded.kind, self.slots)
        except BaseException:
            with self._changed:
                self._loaded.pop(key, None)
                self._jobs.discard(job)
                self._changed.notify_all()
            raise
        with self._changed:
            loaded.server = server
            self._changed.notify_all()
        return loaded

    def _make_room(self, key: _Key) -> list[Loaded]:
        """Remove a model to make room: the same one with other options, or the least recently used one."""
        replaced = [self._loaded.pop(key)] if key in self._loaded else []
        idle = sorted((one.used, other) for other, one in self._loaded.items() if one.active == 0)
        if len(self._loaded) >= _MOST_LOADED and idle:
            replaced.append(self._loaded.pop(idle[0][1]))
        return replaced


def _end(models: list[Loaded]) -> None:
    """Unload; must not be called with the lock held, since it waits for threads to end."""
    for loaded in models:
        loaded.server = None  # the binding stops with its last reference


def _over(loaded: Loaded, now: float) -> bool:
    return loaded.active == 0 and loaded.expires is not None and loaded.expires <= now


class _Process:
    """The one engine of this process."""

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._engine: Engine | None = None

    def engine(self) -> Engine:
        with self._lock:
            if self._engine is None:
                self._engine = Engine(
                    _number("OLLAMA_NUM_PARALLEL", 2, _MOST_SLOTS), _number("OLLAMA_MAX_QUEUE", 512, 2**31 - 1)
                )
                atexit.register(self._engine.shut_down)
            return self._engine

    def after_fork(self) -> None:
        """In a child: replace the lock, which a thread that no longer exists may have held."""
        self._lock = allocate_lock()


_process = _Process()
_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _for_all(step: Callable[[Engine], None]) -> Callable[[], None]:
    def steps() -> None:
        for engine in list(_engines):
            step(engine)

    return steps


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_for_all(Engine.before_fork),
        after_in_parent=_for_all(Engine.after_fork_in_parent),
        after_in_child=_for_all(Engine.after_fork_in_child),
    )
    os.register_at_fork(after_in_child=_process.after_fork)


def shared_engine() -> Engine:
    """The process's engine: OLLAMA_NUM_PARALLEL slots (2) and a queue of OLLAMA_MAX_QUEUE (512).

    Raises:
        Refused: One of these is not a number, or out of range.
    """
    return _process.engine()


def _number(name: str, default: int, most: int) -> int:
    text = os.environ.get(name, "").strip() or str(default)
    if not text.isdecimal() or len(text) > len(str(most)) or not 1 <= int(text) <= most:
        raise Refused(500, f"{name} is {text!r}: it must be a number from 1 to {most}")
    return int(text)
