"""Tool calls as models and servers write them, parsed as far as possible. No I/O.

A call that names a tool is a `ToolCall`, whatever its arguments are; one that does not is an `InvalidToolCall`. Either
way the answer is kept, and no part of the call is lost: what cannot be parsed is kept as text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeAlias, cast

from namel3ss_ollama.exact import is_plain, read_json, write_json
from namel3ss_ollama.types import InvalidToolCall, ToolCall, new_call_id

__all__ = ["AnyCall", "id_of", "read_arguments", "read_tool_call", "read_tool_calls"]

AnyCall: TypeAlias = ToolCall | InvalidToolCall


def read_tool_calls(raw: Any, taken: set[str] | None = None) -> tuple[AnyCall, ...]:
    """The calls of an answer.

    Args:
        raw: What the server sent: a list, or another value in its place.
        taken: The ids of the answer's calls so far, to which these are added. A call whose id is taken gets a new one.
    """
    ids = set[str]() if taken is None else taken
    calls: list[AnyCall] = []
    for entry in raw if isinstance(raw, list) else [raw]:
        call = read_tool_call(entry, id_of(entry) or new_call_id())
        if call.id in ids:
            call = replace(call, id=new_call_id())
        ids.add(call.id)
        calls.append(call)
    return tuple(calls)


def id_of(call: Any) -> str:
    """The id of a call as it was sent; empty if it is missing, or neither text nor a number."""
    value = cast("Mapping[str, Any]", call).get("id") if isinstance(call, Mapping) else None
    return str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""


def read_tool_call(entry: Any, call_id: str) -> AnyCall:
    """One call, in Ollama's form (`{"function": {"name", "arguments"}}`) or without the outer part."""
    if isinstance(entry, Mapping):
        call = cast("Mapping[str, Any]", entry)
        function = call if call.get("function") is None else call["function"]
        if isinstance(function, Mapping):
            name = function.get("name")
            if isinstance(name, str) and name.strip():
                # Some models, Llama's among them, were trained to say `parameters`.
                arguments, invalid = read_arguments(function.get("arguments", function.get("parameters")))
                return ToolCall(name, arguments, call_id, invalid)
    return InvalidToolCall(_text(entry), call_id)


def read_arguments(value: Any) -> tuple[dict[str, Any], str | None]:
    """Arguments as an object and None, or an empty object and the text that is not a JSON object.

    An empty list, null and blank text mean no arguments. A number that cannot be represented (NaN, 1e400) makes the
    arguments invalid.
    """
    parsed = _parsed(value) if isinstance(value, str) else value
    if isinstance(parsed, Mapping):
        arguments = dict(cast("Mapping[str, Any]", parsed))
        if is_plain(arguments):
            return arguments, None
    elif parsed is None or parsed in ("", []):
        return {}, None
    return {}, value if isinstance(value, str) else _text(value)


def _parsed(text: str) -> Any:
    """The JSON value of a text, or the text itself, stripped. An object may be encoded twice."""
    try:
        value = read_json(text)
        inner = read_json(value) if isinstance(value, str) and value.lstrip().startswith("{") else None
    except ValueError:
        return text.strip()
    return inner if isinstance(inner, dict) else value


def _text(value: Any) -> str:
    try:
        plain = is_plain(value)
        return json.dumps(value, ensure_ascii=False) if plain else write_json(value).decode()
    except (ValueError, TypeError, RecursionError):
        return f"<{type(value).__name__} that is nested too deep to be written>"
