"""The measured clients: each function makes a client, which returns the number of characters of an answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

Client = Callable[[int], Awaitable[int]]
SyncClient = Callable[[int], int]

PROMPT = "Why is the sky blue?"
MESSAGES = [{"role": "user", "content": PROMPT}]
