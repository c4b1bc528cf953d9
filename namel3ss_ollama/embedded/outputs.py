"""What a model writes, told apart as it comes: reasoning, text, and calls of tools."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Collection
from typing import Any

import orjson

from namel3ss_ollama.reasoning import ReasoningSplitter

__all__ = ["Outputs"]

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
        self._reasoning = ReasoningSplitter(within=within) if thinking else None
        self._held = ""
        self._begun = False

    def feed(self, text: str) -> tuple[str, str]:
        """What can be handed on of the text so far, as reasoning and content; the rest is held back."""
        thought = ""
        if self._reasoning is not None:
            thought, text = self._reasoning.feed(text)
        self._held += text
        return thought, self._content() if text else ""

    def finish(self) -> tuple[str, str, list[dict[str, Any]]]:
        """What was held back at the end: reasoning, content, and the calls of tools, as the API has them."""
        thought = ""
        if self._reasoning is not None:
            thought, rest = self._reasoning.finish()
            self._held += rest
        calls = self._calls() if self._tools else []
        return thought, "" if calls else self._held, calls

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
