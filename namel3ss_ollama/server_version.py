"""The version of a server, looked up only if something depends on it, and at most once a minute."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable

from namel3ss_ollama.versions import numbers

__all__ = ["ServerVersion"]

logger = logging.getLogger("namel3ss_ollama")
_HOLDS = 60.0
"""Seconds for which a look-up, or its failure, is cached: a server may be replaced by a newer one."""
_EMBEDDED = "+embedded"


class ServerVersion:
    """The version of a server.

    Args:
        look_up: Asks the server.
        clock: The time in seconds, from any origin.

    Attributes:
        embedded: Whether it is an in-process engine, whose version is this package's, not Ollama's.
    """

    def __init__(self, look_up: Callable[[], Awaitable[str]], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._look_up = look_up
        self._clock = clock
        self._numbers: tuple[int, ...] | None = None
        self._exact = False
        self._asked_at: float | None = None
        self.embedded = False

    @property
    def text(self) -> str:
        """The version that the server reported; empty if unknown."""
        return ".".join(map(str, self._numbers)) if self._exact and self._numbers else ""

    async def ask(self) -> None:
        """Look the version up, if necessary."""
        now = self._clock()
        if self._asked_at is not None and now - self._asked_at < _HOLDS:
            return
        self._asked_at = now  # also if the time of the answer is up first
        try:
            self.learn(await self._look_up())
        except Exception as error:  # any failure: the caller does not depend on it
            logger.debug("the version of the server is unknown: %s", error)

    def learn(self, version: str) -> None:
        """The server reports a version.

        Raises:
            ValueError: The text is not a version.
        """
        found = numbers(version)
        self.embedded = version.endswith(_EMBEDDED)
        self._numbers, self._exact = (None, False) if self.embedded else (found, True)
        self._asked_at = self._clock()

    def saw(self, version: str) -> None:
        """The server behaved as it does since that version."""
        if not self.at_least(version):
            self._numbers, self._exact = numbers(version), False

    def at_least(self, version: str) -> bool:
        """Whether the server is known to have that version or a later one."""
        return self._numbers is not None and self._numbers >= numbers(version)

    def before(self, version: str) -> bool:
        """Whether the server is known to be older."""
        return self._exact and self._numbers is not None and self._numbers < numbers(version)
