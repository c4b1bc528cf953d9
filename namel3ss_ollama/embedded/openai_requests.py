"""Translates requests of OpenAI's API to Ollama's. Plain functions.

Fields that would change the answer and have no counterpart are refused; fields that do not affect an answer (`user`,
`store` and the like) are ignored, as by Ollama's server.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from namel3ss_ollama.embedded.refusal import Refused

__all__ = ["chat_request", "completion_request", "embedding_request"]

Json = dict[str, Any]
_OPTIONS = ("temperature", "top_p", "seed", "stop", "frequency_penalty", "presence_penalty")
_LIMITS = ("max_completion_tokens", "max_tokens")
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "logit_bias": ({},),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
}
"""Unsupported fields, and the values with which they have no effect."""


def chat_request(given: Json) -> Json:
    """The body of /api/chat for one of /v1/chat/completions.

    Raises:
        Refused: It asks for an unsupported feature, or is not a valid request.
    """
    messages = given.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refused(400, "messages: must be a list of one message or more")
    tools, forced = _tools(given)
    request = {**_common(given), "messages": list(_messages(messages)), "tools": tools}
    wanted = _format(given.get("response_format"))
    if forced is not None and wanted is not None:
        raise Refused(400, "tool_choice and response_format exclude each other: the engine has one grammar per request")
    request["format"] = wanted if forced is None else forced
    if (effort := given.get("reasoning_effort")) is not None:
        request["think"] = False if effort in ("none", "minimal") else effort
    request["logprobs"], request["top_logprobs"] = given.get("logprobs"), given.get("top_logprobs")
    return request


def completion_request(given: Json) -> Json:
    """The body of /api/generate for one of /v1/completions."""
    prompt = given.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str) or not prompt:
        raise Refused(400, "prompt: must be one text, not empty")
    if given.get("logprobs") not in (None, False, 0):
        raise Refused(400, "logprobs: supported only in /v1/chat/completions")
    return {**_common(given), "prompt": prompt, "suffix": given.get("suffix")}


def embedding_request(given: Json) -> Json:
    """The body of /api/embed for one of /v1/embeddings."""
    if given.get("encoding_format") not in (None, "float", "base64"):
        raise Refused(400, 'encoding_format: must be "float" or "base64"')
    if given.get("input") in (None, "", []):
        raise Refused(400, "input: must be a text, or a list of texts")
    return {"model": given.get("model"), "input": given["input"], "dimensions": given.get("dimensions")}


def _common(given: Json) -> Json:
    for name, neutral in _NEUTRAL.items():
        if given.get(name) is not None and given[name] not in neutral:
            raise Refused(400, f"{name}: not supported by the embedded engine")
    options = {name: given[name] for name in _OPTIONS if given.get(name) is not None}
    limit = next((name for name in _LIMITS if given.get(name) is not None), None)
    if limit is not None:
        if type(given[limit]) is not int or given[limit] < 1:
            raise Refused(400, f"{limit}: must be a positive integer")
        options["num_predict"] = given[limit]
    return {"model": given.get("model"), "stream": given.get("stream") or False, "options": options}


def _messages(given: list[Any]) -> Iterator[Json]:
    names: dict[object, list[object]] = {}
    for message in given:
        if not isinstance(message, dict):
            raise Refused(400, "messages: each must be an object")
        made: Json = {"role": message.get("role"), "content": _text(message.get("content"))}
        if made["role"] == "developer":
            made["role"] = "system"
        for call in message.get("tool_calls") or ():
            if not isinstance(call, dict) or not isinstance(call.get("function"), dict):
                raise Refused(400, "messages: tool_calls must be a list of objects with a function")
            made.setdefault("tool_calls", []).append({"id": call.get("id"), "function": call["function"]})
            names.setdefault(str(call.get("id")), []).append(call["function"].get("name"))
        if made["role"] == "tool":
            # An id may be repeated: its n-th result belongs to its n-th call.
            known = names.get(str(message.get("tool_call_id")), [])
            made["tool_name"] = message.get("name") or (known.pop(0) if known else "")
        yield made


def _text(content: object) -> object:
    """A message's text: unchanged, or that of its parts, joined as Ollama joins messages of one role."""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            raise Refused(400, f"messages: a part of type {kind!r} is not supported by the embedded engine")
        texts.append(part["text"])
    return "\n\n".join(texts)


def _format(given: object) -> object:
    """`response_format` as a `format`; None if the answer is unconstrained."""
    if given is None:
        return None
    kind = given.get("type") if isinstance(given, dict) else None
    if isinstance(given, dict) and kind == "json_schema":
        inner = given.get("json_schema")
        if not isinstance(inner, dict) or not isinstance(inner.get("schema"), dict):
            raise Refused(400, "response_format: json_schema must be an object with a schema")
        return inner["schema"]
    if kind not in ("text", "json_object"):
        raise Refused(400, "response_format: its type must be text, json_object or json_schema")
    return "json" if kind == "json_object" else None


def _tools(given: Json) -> tuple[list[Json], Json | None]:
    """The tools that may be called, and the format that forces a call."""
    tools, choice = given.get("tools") or [], given.get("tool_choice") or "auto"
    if not isinstance(tools, list) or not all(
        isinstance(tool, dict) and isinstance(tool.get("function"), dict) for tool in tools
    ):
        raise Refused(400, "tools: each must be an object with a function")
    if choice == "none":
        return [], None
    if choice == "auto":
        return tools, None
    named = choice.get("function") if isinstance(choice, dict) else None
    if choice != "required" and not isinstance(named, dict):
        raise Refused(400, 'tool_choice: must be "none", "auto", "required" or a function')
    wanted = [tool for tool in tools if named is None or tool["function"].get("name") == named.get("name")]
    if not wanted:
        raise Refused(400, "tool_choice: there is no such tool among tools")
    return tools, _calling([tool["function"] for tool in wanted])


def _calling(functions: list[Json]) -> Json:
    """The schema of a call of one of these functions, in the form in which the engine parses calls."""
    calls: list[Json] = []
    definitions: Json = {}
    for function in functions:
        parameters = dict(function.get("parameters") or {"type": "object", "properties": {}})
        for name, schema in (parameters.pop("$defs", None) or {}).items():  # where `#/$defs/...` is resolved
            if definitions.setdefault(name, schema) != schema:
                raise Refused(400, f"tools: two of them define {name!r} differently; name one of them in tool_choice")
        properties = {"name": {"const": function.get("name")}, "arguments": parameters}
        calls.append({"type": "object", "properties": properties, "required": list(properties)})
    schema = calls[0] if len(calls) == 1 else {"anyOf": calls}
    return {**schema, "$defs": definitions} if definitions else schema
