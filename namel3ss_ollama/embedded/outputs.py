"""What a model writes, told apart as it comes: reasoning, text, and calls of tools."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Collection
from typing import Any

import orjson

__all__ = ["Outputs"]

_OPEN, _CLOSE = "<think>", "</think>"
_BETWEEN = re.compile(r"(?:[\s,;]|</?tool_calls?>|\[/?TOOL_CALLS\]|<\|python_tag\|>|```(?:json)?)*")
"""What stands around calls, and between them."""
_CALL_STARTS = ("{", "[", "<tool_call", "<|python_tag|>", "```")


class Outputs:
    """Splits a model's text.

    Args:
        thinking: Whether reasoning between `<think>` and `</think>` is told apart.
        tools: The names of the tools that may be called; with none, all is text.
        within: Whether the prompt has begun the reasoning already.
    """

    def __init__(self, *, thinking: bool, tools: Collection[str], within: bool = False) -> None:
        self._tools = tuple(tools)  # what a model calls a name need not be hashable
        self._state = ("inside" if within else "before") if thinking else "after"
        self._held = ""
        self._begun = False

    def feed(self, text: str) -> tuple[str, str]:
        """What can be handed on of the text so far, as reasoning and content; the rest is held back."""
        self._held += text
        thought = self._thought()
        if self._state == "between":  # the line ends behind the reasoning belong to nothing
            self._held = self._held.lstrip("\n")
            self._state = "after" if self._held else "between"
        return thought, self._content() if self._state == "after" else ""

    def finish(self) -> tuple[str, str, list[dict[str, Any]]]:
        """What was held back at the end: reasoning, content, and the calls of tools, as the API has them."""
        if self._state == "inside":
            return self._held, "", []
        calls = self._calls() if self._tools else []
        return "", "" if calls else self._held, calls

    def _thought(self) -> str:
        if self._state == "before":
            begin = self._held.lstrip()
            if begin.startswith(_OPEN):
                self._state, self._held = "inside", begin[len(_OPEN) :]
            elif not _OPEN.startswith(begin):
                self._state = "after"
        if self._state != "inside":
            return ""
        thought, found, rest = self._held.partition(_CLOSE)
        if found:
            self._state, self._held = "between", rest
            return thought
        kept = next((n for n in range(len(_CLOSE) - 1, 0, -1) if thought.endswith(_CLOSE[:n])), 0)
        cut = len(thought) - kept
        self._held = thought[cut:]
        return thought[:cut]

    def _content(self) -> str:
        if self._tools and not self._begun:
            begin = self._held.lstrip()
            if not begin or any(begin.startswith(s) or s.startswith(begin) for s in _CALL_STARTS):
                return ""  # a call, perhaps: what it is shows at its end
        self._begun = True
        content, self._held = self._held, ""
        return content

    def _calls(self) -> list[dict[str, Any]]:
        text, at = self._held, 0
        decoder = json.JSONDecoder()
        found: list[dict[str, Any]] = []
        while (at := _end_of(_BETWEEN, text, at)) < len(text):
            try:
                value, at = decoder.raw_decode(text, at)
            except (ValueError, RecursionError):
                return []  # not only calls, so it is text
            for call in value if isinstance(value, list) else [value]:
                if not isinstance(call, dict) or (name := call.get("name")) not in self._tools:
                    return []
                arguments = call.get("arguments", call.get("parameters", {}))
                function = {"index": len(found), "name": name, "arguments": arguments}
                found.append({"id": f"call_{uuid.uuid4().hex[:8]}", "function": function})
        return found if _can_be_sent(found) else []


def _end_of(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at


def _can_be_sent(value: Any) -> bool:
    """Whether an answer can hold it: models write numbers without bounds, and halves of characters."""
    try:
        orjson.dumps(value)
    except TypeError:
        return False
    return True
