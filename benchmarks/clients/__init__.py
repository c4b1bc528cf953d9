"""The measured clients: each function makes a client, which returns the number of characters of an answer.

Those named `paced` stream an answer whose tokens come one at a time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import httpx
from pydantic import BaseModel

Client = Callable[[int], Awaitable[int]]
SyncClient = Callable[[int], int]
PacedClient = Callable[[Callable[[str], None]], Awaitable[None]]
"""Streams an answer of the model "live", and calls its argument with each text."""


class Forecast(BaseModel):
    """What a tool is called with, and what a structured answer holds."""

    city: str
    days: int


def weather(city: str, days: int) -> str:
    """The weather of the next days.

    Args:
        city: The city.
        days: How many days.
    """
    return f"{city}: {days} days of rain"


PROMPT = "Why is the sky blue?"
MESSAGES = [{"role": "user", "content": PROMPT}]
UNLIMITED = httpx.Limits(max_connections=None, max_keepalive_connections=100)
