"""The models in memory: who may compute with them, who waits, and when they are loaded and unloaded.

One engine a process: whoever uses it takes a lease, and when the last one is given back, all is unloaded. Work is done
in the caller's thread, which is a worker's of the transport; nothing here knows of event loops.

A model is loaded once for text and once for embeddings, with as many slots as requests may run at once; more of
them wait, and beyond `max_queue` are refused as Ollama's server does. Other load options mean loading anew, when
nobody computes with the old ones.
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
"""llama.cpp's own bound."""


_Key = tuple[Path, Kind]


class Cancelled(Exception):
    """The job's caller has gone."""


class Job:
    """A request as the engine sees it: whether its caller still waits.

    Args:
        engine: Where it waits for a slot, so that it can be woken.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.cancelled = False

    def cancel(self) -> None:
        """The caller has gone: the computation ends with the next token, a wait at once."""
        self.cancelled = True
        self._engine.wake()


@dataclass
class Loaded:
    """A model in memory.

    Attributes:
        model: Which.
        options: As it is loaded.
        kind: For text or for embeddings.
        server: What computes; None while it is being loaded, and when it is no longer.
        active: How many slots are taken.
        used: When it was last used, seconds since the epoch.
        expires: When it is to be unloaded, seconds since the epoch; None for never.
        leaving: Whether it goes when the last slot is given back, whatever its users say, unless somebody takes one.
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
        slots: How many requests a model serves at once.
        max_queue: How many wait for a slot before more are refused.
    """

    def __init__(self, slots: int, max_queue: int) -> None:
        self.slots = slots
        self._max_queue = max_queue
        self._changed = make_condition()
        self._loaded: dict[_Key, Loaded] = {}
        self._waiting: dict[Job, _Key] = {}
        self._leases = 0
        self._jobs: set[Job] = set()
        self._ended = ""  # why nothing can be loaded any more
        _engines.add(self)

    def lease(self) -> None:
        """Keep what is loaded from being unloaded, until `release`."""
        with self._changed:
            self._leases += 1

    def release(self) -> None:
        """Give a lease back; with the last one, everything is unloaded."""
        with self._changed:
            self._leases -= 1
            last = self._leases == 0
        if last:
            self.unload()

    def running(self) -> list[Loaded]:
        """What is loaded."""
        self.sweep()
        with self._changed:
            return [loaded for loaded in self._loaded.values() if loaded.server is not None]

    @contextlib.contextmanager
    def use(
        self, model: Model, options: LoadOptions, kind: Kind, job: Job, keep: float | None
    ) -> Iterator[tuple[Server, float]]:
        """A slot of a model, which is loaded first where it is not, and the seconds that this took.

        Args:
            model: Which.
            options: How it is to be loaded.
            kind: For what.
            job: Whose slot it is.
            keep: How long the model stays loaded afterwards, in seconds; None for ever.

        Raises:
            Refused: Loading failed, or too many wait already.
            Cancelled: The job was cancelled while it waited.
        """
        self.sweep()
        began = time.monotonic()
        loaded = self._take(model, options, kind, job)
        assert loaded.server is not None  # it is loaded, and stays so while a slot is taken
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
        """Unload a model, or all; those that compute are unloaded when they have ended."""
        with self._changed:
            for loaded in self._loaded.values():
                if path is None or loaded.model.path == path:
                    loaded.expires, loaded.leaving = 0.0, True
        self.sweep()

    def sweep(self) -> None:
        """Unload what has outlived its time."""
        now = time.time()
        with self._changed:
            gone = [self._loaded.pop(key) for key, one in list(self._loaded.items()) if _over(one, now)]
            self._changed.notify_all()
        _end(gone)

    def wake(self) -> None:
        """Have those who wait look again."""
        with self._changed:
            self._changed.notify_all()

    def shut_down(self) -> None:
        """Cancel everything, wait for it to end, and unload: before the interpreter ends."""
        with self._changed:
            self._ended = SHUT_DOWN
            for job in self._jobs:
                job.cancelled = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._jobs, timeout=5.0)
        self.unload()

    def before_fork(self) -> None:
        """Unload what nobody computes with, and load nothing until the fork is over.

        llama.cpp does not survive a fork: where a model was loaded then, a child that loads one hangs or crashes as it
        ends. The parent loads its models anew when they are wanted.
        """
        while True:
            self._changed.acquire()
            idle = [self._loaded.pop(key) for key, one in list(self._loaded.items()) if one.active == 0]
            if not idle:
                return
            self._changed.release()
            _end(idle)

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._changed.release()

    def after_fork_in_child(self) -> None:
        """Begin anew, if nobody computed at that time: the threads that did are not in this process."""
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
        _end(replaced)  # before there is more to hold
        return self._load(key, loaded, job)

    def _wait_for_turn(self, key: _Key, options: LoadOptions, job: Job) -> None:
        """Wait until the job can have a slot, or can load; those who want the same model take turns as they came."""
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
        """Whether there is a slot, or room to load."""
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
        """Take out what stands in the way: the same model with other options, or the one that was used longest ago."""
        replaced = [self._loaded.pop(key)] if key in self._loaded else []
        idle = sorted((one.used, other) for other, one in self._loaded.items() if one.active == 0)
        if len(self._loaded) >= _MOST_LOADED and idle:
            replaced.append(self._loaded.pop(idle[0][1]))
        return replaced


def _end(models: list[Loaded]) -> None:
    """Unload; not to be done with the lock held, for it waits for threads to end."""
    for loaded in models:
        loaded.server = None  # the binding ends with its last reference


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
        """In a child: the lock may have been held by a thread that is gone."""
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
        Refused: One of these is no number, or out of range.
    """
    return _process.engine()


def _number(name: str, default: int, most: int) -> int:
    text = os.environ.get(name, "").strip() or str(default)
    if not text.isdecimal() or len(text) > len(str(most)) or not 1 <= int(text) <= most:
        raise Refused(500, f"{name} is {text!r}: it must be a number from 1 to {most}")
    return int(text)
