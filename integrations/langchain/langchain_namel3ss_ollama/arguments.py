"""Arguments of tool calls, as text and back.

A chunk of a message carries the arguments of a call as JSON text, and LangChain reads that text leniently: it closes
what is open and takes the result for a valid call. Arguments that came broken must not become valid that way, so text
that would is put into a JSON string, which no reader takes for arguments, and taken out of it again on the way back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from pydantic_core import from_json, to_json

from namel3ss_ollama import InvalidToolCall, ToolCall

__all__ = ["BrokenCall", "broken_text", "json_arguments", "original_arguments", "sealed_arguments"]

BrokenCall: TypeAlias = ToolCall | InvalidToolCall
"""A call that may not be possible to make."""


def broken_text(call: BrokenCall) -> str | None:
    """What was not understood of a call; None where all was."""
    return call.invalid_arguments if isinstance(call, ToolCall) else call.text


def json_arguments(arguments: Mapping[str, Any]) -> str:
    """The arguments of a valid call as JSON."""
    return to_json(arguments).decode()


def sealed_arguments(text: str) -> str:
    """Broken arguments, so that they stay broken."""
    return to_json(text).decode() if text.lstrip().startswith("{") else text


def original_arguments(text: str) -> str:
    """Broken arguments as they came."""
    if not text.startswith('"'):
        return text
    try:
        inner: Any = from_json(text)
    except ValueError:
        return text
    return inner if isinstance(inner, str) and inner.lstrip().startswith("{") else text
