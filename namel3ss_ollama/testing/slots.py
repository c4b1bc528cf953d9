"""Slots of the server: the number of concurrent answers, like OLLAMA_NUM_PARALLEL; other requests wait in order.

Only generated answers need one: a request that loads a model or asks for a list does not wait.
"""

from __future__ import annotations

import asyncio
from collections import deque

from .record import Record

__all__ = ["Slots"]

_ANSWERS = ("/api/chat", "/api/generate", "/api/embed", "/api/embeddings")


class Slots:
    """`count` slots, or no limit. Used only in the server's thread."""

    def __init__(self, count: int | None) -> None:
        self._count = count
        self._held: set[Record] = set()
        self._waiting: deque[tuple[Record, asyncio.Future[None]]] = deque()

    def enter(self, record: Record) -> asyncio.Future[None] | None:
        """A future to wait for, or None to continue at once."""
        payload = record.payload
        asks = payload.get("messages") or payload.get("prompt") or payload.get("input")
        if self._count is None or record.path not in _ANSWERS or not asks:
            return None
        if len(self._held) < self._count:
            self._held.add(record)
            return None
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((record, future))
        return future

    def leave(self, record: Record) -> None:
        """A request has ended; the one that has waited longest gets its slot."""
        if record not in self._held:
            self._waiting = deque(one for one in self._waiting if one[0] is not record)
            return
        self._held.remove(record)
        if self._waiting:
            following, future = self._waiting.popleft()
            self._held.add(following)
            future.set_result(None)
