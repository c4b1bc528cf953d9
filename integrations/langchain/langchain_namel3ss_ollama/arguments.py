"""Arguments of tool calls, as text and back.

A chunk of a message carries the arguments of a call as JSON text, and LangChain reads that text leniently: it closes
what is open and takes the result for a valid call. Arguments that came broken must not become valid that way, so text
that would is put into a JSON string, which no reader takes for arguments, and taken out of it again on the way back.
"""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json, to_json

from namel3ss_ollama import ToolCall

__all__ = ["ERROR", "json_arguments", "original_arguments", "sealed_arguments"]

ERROR = "the arguments are not a JSON object"


def json_arguments(call: ToolCall) -> str:
    """The arguments of a valid call as JSON."""
    return to_json(call.arguments).decode()


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
