"""Token counts of the beginnings of growing conversations. Only hashes of messages are kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from namel3ss_ollama.tokens import Estimate

__all__ = ["Conversations", "beginnings"]

_MOST = 1024


def beginnings(body: Mapping[str, Any]) -> list[int]:
    """A key for each prefix of a request's conversation, the shortest first; none where it may render to fewer tokens.

    Templates omit the thinking of earlier turns, so a conversation that contains thinking may shrink as it grows.
    """
    messages: Sequence[Mapping[str, Any]] = body.get("messages") or ()
    key = hash((body["model"], repr(body.get("tools")), body.get("think")))
    keys = []
    for message in messages:
        if message.get("thinking"):
            return []
        calls = message.get("tool_calls")
        # Another image or recording has another token count and usually another length, which is cheap to compare.
        media = tuple(map(len, message.get("images") or ()))
        key = hash((key, message["role"], message.get("content"), repr(calls) if calls else None, media))
        keys.append(key)
    return keys


class Conversations:
    """Token counts by the key of a conversation's prefix; an LRU cache."""

    def __init__(self) -> None:
        self._known: OrderedDict[int, Estimate] = OrderedDict()

    def longest(self, keys: Sequence[int]) -> tuple[int, Estimate] | None:
        """The number of messages of the longest known prefix, and its tokens."""
        for length in range(len(keys), 0, -1):
            known = self._known.get(keys[length - 1])
            if known is not None:
                return length, known
        return None

    def remember(self, key: int, tokens: Estimate) -> None:
        """Store the tokens of a prefix."""
        self._known[key] = tokens
        self._known.move_to_end(key)
        while len(self._known) > _MOST:
            self._known.popitem(last=False)
