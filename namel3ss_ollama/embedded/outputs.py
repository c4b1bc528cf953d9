"""Splits a model's output as it arrives: reasoning, text, and tool calls."""

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
"""The text around calls, and between them."""
_CALL_STARTS = ("{", "[", "<tool_call", "<|python_tag|>", "```")


class Outputs:
    """Splits a model's text.

    Args:
        thinking: Whether reasoning between `<think>` and `</think>` is separated.
        tools: The names of the tools that may be called; without any, everything is text.
        within: Whether the prompt has already opened the reasoning.
    """

    def __init__(self, *, thinking: bool, tools: Collection[str], within: bool = False) -> None:
        self._tools = tuple(tools)  # a name from a model need not be hashable
        self._reasoning = ReasoningSplitter(within=within) if thinking else None
        self._held = ""
        self._begun = False

    def feed(self, text: str) -> tuple[str, str]:
        """Add text; returns the reasoning and content that can be passed on, and buffers the rest."""
        thought = ""
        if self._reasoning is not None:
            thought, text = self._reasoning.feed(text)
        self._held += text
        return thought, self._content() if text else ""

    def finish(self) -> tuple[str, str, list[dict[str, Any]]]:
        """The buffered rest at the end: reasoning, content, and tool calls in the API's format."""
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
                return ""  # perhaps a call, which is known only at its end
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
                return []  # other text too, so it is not a call
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
    """Whether an answer can contain it: models write infinite numbers, and lone surrogates."""
    try:
        orjson.dumps(value)
    except TypeError:
        return False
    return True
