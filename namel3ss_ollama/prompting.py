"""What a server does not do with a field of a request, asked for in the prompt instead. Plain functions over bodies.

Some servers refuse `tools` beside a `format`, or have no template for tools; some models take no notice of a `format`.
The tools or the schema are then described in the system message. A caller's body is never changed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

__all__ = ["describe_format", "describe_tools", "show_fault"]

Json = dict[str, Any]


def describe_tools(body: Mapping[str, Any], names: Collection[str]) -> Json:
    """The body of a chat without `tools`: those that may be called are described in the system message.

    The grammar in `format` stays: it forces the call, whatever the model makes of the description.

    Args:
        body: What was asked for.
        names: The tools of which one must be called.
    """
    functions = [tool["function"] for tool in body["tools"] if tool["function"]["name"] in names]
    described = "\n".join(json.dumps(function, ensure_ascii=False) for function in functions)
    return _with_system_text(
        _without(body, "tools"),
        "Answer with one call of a function, as JSON with the keys name and arguments. The functions, each with the "
        f"schema of its arguments:\n{described}",
    )


def describe_format(body: Mapping[str, Any], schema: Any) -> Json:
    """The body of a request without `format`: its schema is described in the system message.

    Args:
        body: What was asked for.
        schema: The JSON schema, or "json" for JSON of any kind.
    """
    text = "Answer with JSON alone, with no text before or after it"
    if schema != "json":
        text += f". It must be valid against this JSON schema:\n{json.dumps(schema, ensure_ascii=False)}"
    return _with_system_text(_without(body, "format"), text)


def show_fault(body: Mapping[str, Any], answer: str, fault: str) -> Json:
    """The body of a request that shows the model what it answered, and what is wrong with it.

    Args:
        body: What was asked for.
        answer: What the model answered; may be empty.
        fault: What is wrong with that.
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
    """The body with a text behind what its system message says."""
    if "messages" not in body:
        return {**body, "system": _joined(body.get("system"), text)}
    messages = body["messages"]
    first = messages[0]
    if first["role"] != "system":
        return {**body, "messages": [{"role": "system", "content": text}, *messages]}
    return {**body, "messages": [{**first, "content": _joined(first["content"], text)}, *messages[1:]]}


def _joined(text: str | None, more: str) -> str:
    return f"{text}\n\n{more}" if text else more
