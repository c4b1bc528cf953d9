"""What is measured: each function makes a client, and a client returns how many characters an answer had."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

Client = Callable[[int], Awaitable[int]]
SyncClient = Callable[[int], int]

PROMPT = "Why is the sky blue?"
MESSAGES = [{"role": "user", "content": PROMPT}]
