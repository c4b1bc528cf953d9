"""Two things that a server does without a word, and that an answer's numbers betray.

The context guard: a prompt longer than the context window is cut, and `prompt_eval_count` is then exactly the window.
Which window is in force is known from `num_ctx` when that was sent, else from /api/ps (newer servers) or the
`num_ctx` in the model's parameters; the model's own trained length bounds each. Where none of these tells, only a
count of the trained length is sure to be a cut, so only that is reported.

The reload guard: an option of how the model is loaded that changes between requests makes the server load the model
anew, seconds each time.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from namel3ss_ollama.errors import LLMError
from namel3ss_ollama.forks import renewed_after_fork
from namel3ss_ollama.settings import LOAD_OPTIONS

__all__ = ["ContextGuard", "ReloadGuard", "Window", "window_of"]

logger = logging.getLogger("namel3ss_ollama")
_SMALLEST_WINDOW = 128
"""Prompts shorter than this are not looked at: no server and no Modelfile sets so small a window."""
_RELOAD_NANOSECONDS = 100_000_000


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


def window_of(model: str, shown: Mapping[str, Any], running: Mapping[str, Any]) -> Window:
    """The window that /api/show and /api/ps tell of a model."""
    info: Mapping[str, Any] = shown.get("model_info") or {}
    trained = info.get(f"{info.get('general.architecture')}.context_length")
    configured = re.search(r"^num_ctx\s+(\d+)\s*$", str(shown.get("parameters") or ""), re.MULTILINE)
    names = {model, f"{model}:latest"}
    loaded = [m.get("context_length") for m in running.get("models") or () if {m.get("name"), m.get("model")} & names]
    return Window(
        running=loaded[0] or None if loaded else None,
        configured=int(configured[1]) if configured else None,
        trained=trained if isinstance(trained, int) else None,
    )


def _reloaded(load_duration: object) -> bool:
    """Whether the server loaded the model for this answer: a loaded one takes milliseconds."""
    return isinstance(load_duration, int) and load_duration >= _RELOAD_NANOSECONDS


class ContextGuard:
    """Tells when a prompt was cut to the context window.

    Args:
        look_up: Asks the server for the window of a model.
    """

    def __init__(self, look_up: Callable[[str], Awaitable[Window]]) -> None:
        self._look_up = look_up
        self._known: dict[str, Window] = {}

    async def cut_at(self, model: str, num_ctx: int | None, final: Mapping[str, Any]) -> int | None:
        """The window that the prompt was cut to; None when it was not cut, or nothing tells.

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
            try:
                window = self._known[model] = await self._look_up(model)
            except LLMError as error:
                logger.debug("the context window of %s is not known: %s", model, error)
                window = window or Window()
        limit = window.in_force(num_ctx)
        return limit if limit is not None and count >= limit else None


class ReloadGuard:
    """Warns, once a model and option, when changing load options between calls made the server load anew."""

    def __init__(self) -> None:
        self.after_fork()
        renewed_after_fork(self)
        self._last: dict[str, dict[str, Any]] = {}
        self._told: set[tuple[str, str]] = set()

    def after_fork(self) -> None:
        """A thread of the parent may have held the lock."""
        self._lock = threading.Lock()

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
