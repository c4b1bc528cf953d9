"""Asking in the prompt for what a server does not do with a field of the request. Pure functions over bodies.

Some servers refuse `tools` together with a `format`, or have no template for tools; some models ignore a `format`. The
system message then describes the tools or the schema. A caller's body is never changed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

__all__ = ["describe_format", "describe_tools", "show_fault"]

Json = dict[str, Any]


def describe_tools(body: Mapping[str, Any], names: Collection[str]) -> Json:
    """The body of a chat without `tools`: the system message describes those that may be called.

    The grammar in `format` stays and forces the call, whatever the model makes of the description.

    Args:
        body: The original body.
        names: The tools, one of which must be called.
    """
    functions = [tool["function"] for tool in body["tools"] if tool["function"]["name"] in names]
    described = "\n".join(json.dumps(function, ensure_ascii=False) for function in functions)
    return _with_system_text(
        _without(body, "tools"),
        "Answer with one call of a function, as JSON with the keys name and arguments. The functions, each with the "
        f"schema of its arguments:\n{described}",
    )


def describe_format(body: Mapping[str, Any], schema: Any) -> Json:
    """The body of a request without `format`: the system message describes its schema.

    Args:
        body: The original body.
        schema: The JSON schema, or "json" for JSON of any kind.
    """
    text = "Answer with JSON alone, with no text before or after it"
    if schema != "json":
        text += f". It must be valid against this JSON schema:\n{json.dumps(schema, ensure_ascii=False)}"
    return _with_system_text(_without(body, "format"), text)


def show_fault(body: Mapping[str, Any], answer: str, fault: str) -> Json:
    """The body of a request that shows the model its answer, and what is wrong with it.

    Args:
        body: The original body.
        answer: The model's answer; may be empty.
        fault: What is wrong with it.
    """
    wrong = f"That answer is not valid: {fault}. Answer again, with the corrected JSON alone."
    if "messages" not in body:
        shown = f"{body['prompt']}\n\nYour answer was:\n{answer}\n\n{wrong}"
        return {**body, "prompt": shown}
    turn = [{"role": "assistant", "content": answer}] if answer else []
    return {**body, "messages": [*body["messages"], *turn, {"role": "user", "content": wrong}]}


def _without(body: Mapping[str, Any], name: str) -> Json:
    return {key: value for key, value in body.items() if key != name}


def _with_system_text(body: Json, text: str) -> Json:
    """The body with a text appended to its system message."""
    if "messages" not in body:
        return {**body, "system": _joined(body.get("system"), text)}
    messages = body["messages"]
    first = messages[0]
    if first["role"] != "system":
        return {**body, "messages": [{"role": "system", "content": text}, *messages]}
    return {**body, "messages": [{**first, "content": _joined(first["content"], text)}, *messages[1:]]}


def _joined(text: str | None, more: str) -> str:
    return f"{text}\n\n{more}" if text else more
