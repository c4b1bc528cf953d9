"""Convert LlamaIndex keywords to the core's: runtime options, request fields, unknown names.

`additional_kwargs` is where users of llama-index-llms-ollama put runtime options. A request field among them (`format`,
`think`, `keep_alive`, ...) is sent as such; a name that belongs elsewhere raises.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from namel3ss_ollama import CallOptions, OllamaProvider, RuntimeOptions

__all__ = ["CHAT_FIELDS", "EMBED_FIELDS", "check_options", "one_layer", "reject_unknown", "split", "take_options"]

_OPTIONS = frozenset(RuntimeOptions.__annotations__)
CHAT_FIELDS = frozenset(CallOptions.__annotations__) - _OPTIONS - {"options"}
"""Fields of a chat request that are not runtime options."""
EMBED_FIELDS = frozenset({"dimensions", "extra_body", "keep_alive", "on_truncation", "truncate"})
"""The same for an embedding request."""
_ELSEWHERE = {
    "api_key": "api_key= of the constructor",
    "base_url": "base_url= of the constructor",
    "context_window": "num_ctx, or context_window= of the constructor",
    "extra_headers": "headers= of the constructor, or extra_headers= of a call",
    "headers": "headers= of the constructor, or extra_headers= of a call",
    "images": "image blocks in a message",
    "json_mode": "'format': 'json', or json_mode= of the constructor",
    "messages": "the first argument of a call",
    "model": "model= of the constructor or of a call",
    "prompt": "the first argument of a call",
    "request_timeout": "request_timeout= of the constructor",
    "response_format": "'format'",
    "stream": "chat or stream_chat, complete or stream_complete",
    "stream_config": "stream_config= of the constructor or of a call",
    "system": "system_prompt= of the constructor",
    "thinking": "'think', or thinking= of the constructor",
    "timeout": "request_timeout= of the constructor, or timeout= of a call",
    "tool_choice": "tool_choice= of a call",
    "tools": "tools= of a call",
}
"""Names that are not runtime options, so that a server would ignore them, and what to use instead."""


def split(
    extra: Mapping[str, Any], fields: Collection[str], where: str = "additional_kwargs"
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split `additional_kwargs` into request fields and runtime options.

    Args:
        extra: The user's keywords; the items of an `options` in it are treated as keywords too.
        fields: The names of request fields.
        where: The name of `extra` in errors.

    Raises:
        TypeError: It is not a mapping, or an `options` in it is not.
        ValueError: A name belongs elsewhere.
    """
    if not isinstance(extra, Mapping):
        raise TypeError(f"{where}: expected a mapping of options, not {type(extra).__name__}")
    nested = extra.get("options") or {}
    if not isinstance(nested, Mapping):
        raise TypeError(f"{where}: options must be a mapping, not {type(nested).__name__}")
    given = {name: value for name, value in {**extra, **nested}.items() if name != "options" and value is not None}
    for name in given:
        if name in fields:
            continue
        if name in _ELSEWHERE or name in CHAT_FIELDS:
            advice = f"use {_ELSEWHERE[name]}" if name in _ELSEWHERE else "an embedding request has no such field"
            raise ValueError(f"{where}: {name!r} is not a runtime option; {advice}")
    request = {name: value for name, value in given.items() if name in fields}
    return request, {_sent(name): value for name, value in given.items() if name not in fields}


def take_options(keywords: dict[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Pop the runtime options from a constructor's keywords, except those that are fields, and validate them.

    Raises:
        TypeError, ValueError: A value is invalid.
    """
    taken = {name: keywords.pop(name) for name in list(keywords) if name in _OPTIONS and name not in known}
    check_options(taken)
    return taken


def check_options(options: Mapping[str, Any]) -> None:
    """Validate options before any request, with a provider that is then discarded.

    Raises:
        TypeError, ValueError: A value is invalid.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if given:
        OllamaProvider("unused", "http://localhost", api_key="", **given)


def one_layer(
    fields: Mapping[str, Any], extra: Mapping[str, Any], call: Mapping[str, Any], request_fields: Collection[str]
) -> dict[str, Any]:
    """Merge an object's runtime options with a call's keywords, which win.

    Args:
        fields: Options that are fields of the object, validated by the core. None keeps the provider's own value.
        extra: `additional_kwargs`: its options are sent unchanged, and win over `fields`.
        call: The keywords of a call, which may include `options`.
        request_fields: As in `split`.

    Raises:
        TypeError, ValueError: As in `split`.
    """
    request, extra = split(extra, request_fields)
    own = dict(call.get("options") or {})
    taken = {_sent(name) for name, value in call.items() if value is not None} | {_sent(name) for name in own}
    set_before = {_sent(name) for name in extra} | taken
    settings = {name: value for name, value in fields.items() if value is not None and _sent(name) not in set_before}
    settings.update(request)
    settings.update((name, value) for name, value in call.items() if value is not None)
    options = {name: value for name, value in extra.items() if name not in taken}
    options.update(own)
    settings.pop("options", None)
    if options:
        settings["options"] = options
    return settings


def _sent(name: str) -> str:
    return "num_predict" if name == "max_tokens" else name


def reject_unknown(given: Iterable[str], known: Iterable[str], where: str, hint: str) -> None:
    """Reject unknown keywords, which pydantic would silently drop.

    Raises:
        TypeError: Names the first one and the nearest known one.
    """
    names = sorted(known)
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            advice = f"did you mean {near[0]!r}?" if near else hint
            raise TypeError(f"{where} got an unexpected keyword argument {name!r}; {advice}")
