"""The context window that a model runs with, as far as a server reports it: cached look-ups, and values."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from namel3ss_ollama.forks import renewed_after_fork

__all__ = ["Window", "Windows", "window_of"]

logger = logging.getLogger("namel3ss_ollama")
_FAILURE_HOLDS = 300.0
"""Seconds for which a failed look-up is not repeated."""


@dataclass(frozen=True, slots=True)
class Window:
    """The known context windows of a model, in tokens; None for what the server does not report.

    Attributes:
        running: The window that the model was loaded with (/api/ps).
        configured: `num_ctx` of the model's parameters (/api/show).
        trained: The model's own context length (/api/show).
    """

    running: int | None = None
    configured: int | None = None
    trained: int | None = None

    def in_force(self, num_ctx: int | None) -> int | None:
        """The window of a request that sent `num_ctx`; None if unknown."""
        asked = num_ctx or self.running or self.configured
        if asked is None:
            return self.trained
        return min(asked, self.trained) if self.trained else asked


def window_of(model: str, shown: object, running: object) -> Window:
    """The window of a model from /api/show and /api/ps; empty if they are not as expected."""
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


class Windows:
    """The windows of a server's models, each looked up on first use and cached.

    Args:
        look_up: Asks the server for the window of a model.
        clock: The time in seconds, from any origin.
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
        """Look-ups of the parent end in the parent only."""
        self._asking: dict[str, asyncio.Future[None]] = {}

    def known(self, model: str) -> Window | None:
        """The known window of a model; None before the first look-up."""
        return self._known.get(model)

    def forget(self, model: str) -> None:
        """The model was reloaded, possibly with another window."""
        self._known.pop(model, None)

    async def ask(self, model: str) -> Window | None:
        """Look the window up, or wait for the running look-up; None if it is not available.

        One look-up per model runs at a time; other calls on its event loop wait for it, those on other loops use what
        is known. After a look-up that failed or was abandoned, the next one is some minutes later.
        """
        loop = asyncio.get_running_loop()
        running = self._asking.get(model)
        if running is not None and not running.get_loop().is_closed():
            if running.get_loop() is loop:
                await asyncio.wait([running])
            return self._known.get(model)
        failed_at = self._failed_at.get(model)
        if failed_at is not None and self._clock() - failed_at < _FAILURE_HOLDS:
            return self._known.get(model)
        self._asking[model] = mine = loop.create_future()
        # It counts as failed until it succeeds, also if its answer's time is up first.
        self._failed_at[model] = self._clock()
        try:
            self._known[model] = await self._look_up(model)
            del self._failed_at[model]
        except Exception as error:  # any failure: the answer is already complete
            logger.debug("the context window of %s is unknown: %s", model, error)
        finally:
            if self._asking.get(model) is mine:
                del self._asking[model]
            if not mine.done():
                mine.set_result(None)
        return self._known.get(model)
