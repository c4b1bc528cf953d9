"""Arguments of tool calls, to JSON text and back.

A message chunk carries the arguments of a tool call as JSON text, and LangChain parses that text leniently: it closes
open brackets and treats the result as a valid call. Malformed arguments must not become valid that way. Text that would
is wrapped in a JSON string, which no parser accepts as arguments, and unwrapped on the way back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from pydantic_core import from_json, to_json

from namel3ss_ollama import InvalidToolCall, ToolCall

__all__ = ["BrokenCall", "broken_text", "json_arguments", "original_arguments", "sealed_arguments"]

BrokenCall: TypeAlias = ToolCall | InvalidToolCall
"""A tool call that may be invalid."""


def broken_text(call: BrokenCall) -> str | None:
    """The text of a call that could not be parsed; None for a valid call."""
    return call.invalid_arguments if isinstance(call, ToolCall) else call.text


def json_arguments(arguments: Mapping[str, Any]) -> str:
    """The arguments of a valid call as JSON."""
    return to_json(arguments).decode()


def sealed_arguments(text: str) -> str:
    """Malformed arguments, wrapped so that no parser repairs them."""
    return to_json(text).decode() if text.lstrip().startswith("{") else text


def original_arguments(text: str) -> str:
    """Malformed arguments as the model wrote them."""
    if not text.startswith('"'):
        return text
    try:
        inner: Any = from_json(text)
    except ValueError:
        return text
    return inner if isinstance(inner, str) and inner.lstrip().startswith("{") else text
