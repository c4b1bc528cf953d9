"""Two things that a server does without a word, and that an answer's numbers betray.

The context guard: a prompt longer than the context window is cut, and `prompt_eval_count` is then exactly the window.
Which window is in force is known from `num_ctx` when that was sent, else from /api/ps (newer servers) or the
`num_ctx` in the model's parameters; the model's own trained length bounds each. Where none of these tells, only a
count of the trained length is sure to be a cut, so only that is reported.

The reload guard: an option of how the model is loaded that changes between requests makes the server load the model
anew, seconds each time.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from namel3ss_ollama.forks import renewed_after_fork
from namel3ss_ollama.greenlets import allocate_lock
from namel3ss_ollama.settings import LOAD_OPTIONS

__all__ = ["ContextGuard", "ReloadGuard", "Window", "window_of"]

logger = logging.getLogger("namel3ss_ollama")
_SMALLEST_WINDOW = 128
"""Prompts shorter than this are not looked at: no server and no Modelfile sets so small a window."""
_RELOAD_NANOSECONDS = 100_000_000
_FAILURE_HOLDS = 300.0
"""Seconds for which a failed look-up is not repeated."""


@dataclass(frozen=True, slots=True)
class Window:
    """What is known of a model's context window, in tokens; None for what is not told.

    Attributes:
        running: What the server loaded the model with (/api/ps).
        configured: `num_ctx` of the model's parameters (/api/show).
        trained: The model's own context length (/api/show).
    """

    running: int | None = None
    configured: int | None = None
    trained: int | None = None

    def in_force(self, num_ctx: int | None) -> int | None:
        """The window of a request that sent `num_ctx`; None where nothing tells."""
        asked = num_ctx or self.running or self.configured
        if asked is None:
            return self.trained
        return min(asked, self.trained) if self.trained else asked


def window_of(model: str, shown: object, running: object) -> Window:
    """The window that /api/show and /api/ps tell of a model; empty where they hold something else than expected."""
    info = _mapping(_mapping(shown).get("model_info"))
    configured = re.search(
        r"^num_ctx\s+(\d{1,18})\s*$", str(_mapping(shown).get("parameters") or ""), re.MULTILINE | re.ASCII
    )
    models = _mapping(running).get("models")
    names = (model, f"{model}:latest")
    loaded = [
        m.get("context_length")
        for m in map(_mapping, models if isinstance(models, list) else ())
        if m.get("name") in names or m.get("model") in names
    ]
    return Window(
        running=_tokens(loaded[0]) if loaded else None,
        configured=_tokens(int(configured[1])) if configured else None,
        trained=_tokens(info.get(f"{info.get('general.architecture')}.context_length")),
    )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _tokens(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _reloaded(load_duration: object) -> bool:
    """Whether the server loaded the model for this answer: a loaded one takes milliseconds."""
    return isinstance(load_duration, int) and load_duration >= _RELOAD_NANOSECONDS


class ContextGuard:
    """Tells when a prompt was cut to the context window.

    Args:
        look_up: Asks the server for the window of a model.
        clock: The time in seconds, from any start.
    """

    def __init__(
        self, look_up: Callable[[str], Awaitable[Window]], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._look_up = look_up
        self._clock = clock
        self._known: dict[str, Window] = {}
        self._failed_at: dict[str, float] = {}
        self.after_fork()
        renewed_after_fork(self)

    def after_fork(self) -> None:
        """A look-up of the parent's ends in the parent alone."""
        self._asking: dict[str, asyncio.Future[None]] = {}

    async def cut_at(self, model: str, num_ctx: int | None, final: Mapping[str, Any]) -> int | None:
        """The window that the prompt was cut to; None when it was not cut, or nothing tells.

        One look-up runs at a time for a model; others on its event loop wait for it, those on another go by what is
        known. After a failed one the next is some minutes later.

        Args:
            model: The model that was asked for.
            num_ctx: The option as it was sent, if it was.
            final: The last line of the answer.
        """
        count = final.get("prompt_eval_count")
        if not isinstance(count, int) or count <= 0:
            return None
        if num_ctx is not None and count >= num_ctx:
            return num_ctx
        if count < _SMALLEST_WINDOW:
            return None
        if _reloaded(final.get("load_duration")):
            self._known.pop(model, None)  # maybe with another window
        window = self._known.get(model)
        known = window.in_force(num_ctx) if window is not None else None
        if window is None or (known is not None and count >= known):
            # Not known yet, or a hit, which is looked at twice: nobody shall be alarmed for nothing.
            await self._ask(model)
            window = self._known.get(model, window)
        limit = window.in_force(num_ctx) if window is not None else None
        return limit if limit is not None and count >= limit else None

    async def _ask(self, model: str) -> None:
        """Look the window up, or wait for the look-up that runs; not soon after one that failed."""
        loop = asyncio.get_running_loop()
        running = self._asking.get(model)
        if running is not None and not running.get_loop().is_closed():
            if running.get_loop() is loop:
                await asyncio.wait([running])
            return
        failed_at = self._failed_at.get(model)
        if failed_at is not None and self._clock() - failed_at < _FAILURE_HOLDS:
            return
        self._asking[model] = mine = loop.create_future()
        # Until it has succeeded it has failed, also where the time of its answer is up first.
        self._failed_at[model] = self._clock()
        try:
            self._known[model] = await self._look_up(model)
            del self._failed_at[model]
        except Exception as error:  # whatever it is: the answer is there, and whole
            logger.debug("the context window of %s is not known: %s", model, error)
        finally:
            if self._asking.get(model) is mine:
                del self._asking[model]
            if not mine.done():
                mine.set_result(None)


class ReloadGuard:
    """Warns, once a model and option, when changing load options between calls made the server load anew."""

    def __init__(self) -> None:
        self.after_fork()
        renewed_after_fork(self)
        self._last: dict[str, dict[str, Any]] = {}
        self._told: set[tuple[str, str]] = set()

    def after_fork(self) -> None:
        """A thread of the parent may have held the lock."""
        self._lock = allocate_lock()

    def check(self, model: str, options: Mapping[str, Any], load_duration: object) -> list[str]:
        """Look at one answer; returns the options that were told of now.

        Args:
            model: The model that was asked for.
            options: The options as they were sent.
            load_duration: What the answer says, in nanoseconds.
        """
        now = {name: options[name] for name in LOAD_OPTIONS & options.keys()}
        with self._lock:
            before = self._last.get(model)
            self._last[model] = now
            if before is None or not isinstance(load_duration, int) or not _reloaded(load_duration):
                return []
            changed = sorted(n for n in before.keys() | now.keys() if before.get(n) != now.get(n))
            fresh = [name for name in changed if (model, name) not in self._told]
            self._told.update((model, name) for name in fresh)
        if fresh:
            logger.warning(
                "the server loaded %s anew (%.1f s) because %s changed between requests; send the same value each time",
                model,
                load_duration / 1e9,
                " and ".join(fresh),
            )
        return fresh
