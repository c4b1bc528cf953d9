"""From a call's arguments to a request: merges defaults with the call's own settings, and checks them.

Pure functions over values; invalid arguments fail here, before any request.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from namel3ss_ollama.arguments import parameters_of
from namel3ss_ollama.client import encode
from namel3ss_ollama.formats import ParseAs, read_format
from namel3ss_ollama.grammars import with_room
from namel3ss_ollama.headers import checked_headers
from namel3ss_ollama.levels import ThinkingLevels
from namel3ss_ollama.messages import MessageLike, encode_media, encode_messages
from namel3ss_ollama.request import Request
from namel3ss_ollama.settings import (
    NOT_GIVEN,
    REQUEST_FIELDS,
    CallOptions,
    ChatOptions,
    GenerateOptions,
    NotGiven,
    StreamConfig,
    Truncation,
    check_positive,
    check_think,
    merge_extra_body,
    merge_options,
    read_keep_alive,
    reject_unknown,
)
from namel3ss_ollama.tools import as_sent, choose, forced_format, names_of, tool_definition

__all__ = [
    "Defaults",
    "chat_request",
    "checked_model",
    "generate_request",
    "given_settings",
    "request_body",
    "streams_internally",
]

TRUNCATION: tuple[Truncation, ...] = ("warn", "error", "ignore")
_CHAT = frozenset(ChatOptions.__annotations__)
_GENERATE = frozenset(GenerateOptions.__annotations__)
_OF_A_CALL = frozenset({"stream_internally", "timeout", "stream_config", "on_truncation"})
_HAVE_ARGUMENTS = _CHAT | _GENERATE | _OF_A_CALL | {"messages", "prompt", "stream"}
"""Keys that `extra_body` must not contain."""
_LIMIT_NAMES = frozenset({"max_tokens", "num_predict"})
_FEWEST, _MOST_TOP_LOGPROBS = 0, 20


class Defaults:
    """A provider's settings, as defaults for its calls.

    Args:
        model: The model of calls that name none.
        options: Keywords of `CallOptions`.
        config: Deadlines and limits.
        timeout: The limit for a call, in seconds.
        on_truncation: What to do about a cut prompt.

    Attributes:
        levels: The models' thinking levels, as far as the server has listed them.
    """

    __slots__ = ("config", "levels", "model", "on_truncation", "options", "timeout")

    def __init__(
        self,
        model: str,
        options: Mapping[str, Any],
        config: StreamConfig,
        timeout: float | None,
        on_truncation: Truncation,
    ) -> None:
        self.model = checked_model(model)
        self.levels = ThinkingLevels()
        self.options = dict(options)
        self.config = config
        self.timeout = timeout
        self.on_truncation = on_truncation
        check_positive("timeout", timeout)
        checked_truncation(on_truncation)
        request_body(self, {}, {})  # invalid defaults fail at construction
        read_format(self.options.get("format"))

    def without(self, call: Mapping[str, Any]) -> Defaults:
        """The defaults except those that a call resets, by passing None as a keyword or in its `options`."""
        extra = call.get("options")
        given = {**(extra if isinstance(extra, Mapping) else {}), **call}
        taken = {name for name, value in given.items() if value is None and name != "options"}
        if taken & _LIMIT_NAMES:
            taken |= _LIMIT_NAMES
        if "logprobs" in taken:
            taken.add("top_logprobs")  # it would request them again
        if not taken & (CallOptions.__annotations__.keys() | set(self.options.get("options") or ())):
            return self
        left = copy.copy(self)
        left.options = {name: value for name, value in self.options.items() if name not in taken}
        if own := left.options.get("options"):
            left.options["options"] = {name: value for name, value in own.items() if name not in taken}
        return left


def checked_model(model: object) -> str:
    """The name of a model.

    Raises:
        TypeError, ValueError: It is not a text, or is empty, or contains spaces or control characters.
    """
    if not isinstance(model, str):
        raise TypeError(f"model: expected a model's name, not {model!r}")
    if not model or any(c.isspace() or not c.isprintable() for c in model):
        raise ValueError(f"model: {model!r} is not a model's name; they look like 'llama3.2' or 'qwen3:8b'")
    return model


def checked_truncation(value: object) -> Truncation:
    """One of "warn", "error", "ignore".

    Raises:
        ValueError: It is something else.
    """
    for known in TRUNCATION:
        if value == known:
            return known
    raise ValueError(f"on_truncation: {value!r} is not one of {', '.join(TRUNCATION)}; 'split' is for embed() alone")


def request_body(defaults: Defaults, call: Mapping[str, Any], first: Mapping[str, Any]) -> dict[str, Any]:
    """The request body: model, `first`, all fields and options that are set, and `extra_body`."""
    model = call.get("model")
    body: dict[str, Any] = {"model": checked_model(model) if model is not None else defaults.model, **first}
    for name in sorted(REQUEST_FIELDS - {"format"}):
        value = call.get(name)
        value = defaults.options.get(name) if value is None else value
        if value is not None:
            body[name] = _checked_field(name, value)
    defaults.levels.check(body["model"], body.get("think"))
    if body.get("top_logprobs"):
        body["logprobs"] = True  # one has no effect without the other
    if options := merge_options(defaults.options, call):
        body["options"] = options
    extra = defaults.options.get("extra_body"), call.get("extra_body")
    body.update(merge_extra_body(*extra, keywords=_HAVE_ARGUMENTS))
    return body


def _checked_field(name: str, value: Any) -> Any:
    if name == "think":
        check_think(value)
    elif name == "keep_alive":
        return read_keep_alive(value)
    elif name == "top_logprobs":
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"top_logprobs: expected an integer, not {value!r}")
        if not _FEWEST <= value <= _MOST_TOP_LOGPROBS:
            raise ValueError(f"top_logprobs: must be from 0 to 20, not {value!r}")
    elif not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, not {value!r}")
    return value


def generate_request(defaults: Defaults, prompt: str, call: Mapping[str, Any]) -> Request:
    """A request to /api/generate.

    Raises:
        TypeError, ValueError: An argument is unknown, of the wrong type or out of range.
    """
    if {"tools", "tool_choice"} & call.keys():
        raise TypeError("tools and tool_choice need a conversation: use achat, stream_chat or chat")
    reject_unknown(call, _GENERATE | _OF_A_CALL, "a generation")
    if not isinstance(prompt, str):
        raise TypeError(f"prompt: expected text, not {type(prompt).__name__}; for messages use achat or stream_chat")
    defaults = defaults.without(call)
    first: dict[str, Any] = {"prompt": prompt}
    for name, kind in (("system", str), ("suffix", str), ("template", str), ("raw", bool)):
        value = call.get(name)
        if value is not None:
            if not isinstance(value, kind):
                raise TypeError(f"{name}: expected {kind.__name__}, not {value!r:.60}")
            first[name] = value
    if call.get("context") is not None:
        first["context"] = list(call["context"])
    if media := encode_media(call.get("images"), call.get("audio")):
        first["images"] = media
    if not prompt:  # otherwise a server only loads the model: server/routes.go, GenerateHandler
        alone = ", or send images or audio alone in a chat's message" if media else ""
        raise ValueError(f"prompt: is empty (to load a model without a prompt: preload()); say what to do{alone}")
    body = request_body(defaults, call, first)
    return _request("generate", defaults, call, body, frozenset())


def chat_request(defaults: Defaults, messages: Iterable[MessageLike], call: Mapping[str, Any]) -> Request:
    """A request to /api/chat.

    Raises:
        TypeError, ValueError: An argument is unknown, of the wrong type or out of range.
    """
    reject_unknown(call, _CHAT | _OF_A_CALL, "a chat")
    defaults = defaults.without(call)
    first: dict[str, Any] = {"messages": encode_messages(messages)}
    definitions = [tool_definition(tool) for tool in call.get("tools") or ()]
    names_of(definitions)
    tools, forced = choose(definitions, call.get("tool_choice"))
    if tools:
        first["tools"] = [as_sent(tool) for tool in tools]
    body = request_body(defaults, call, first)
    if forced:
        if call.get("format") is not None:
            raise ValueError("format: cannot be combined with a tool_choice that forces a call, which is a format, too")
        body["format"] = with_room(forced_format(forced))
        if body.get("think"):
            body["think"] = False  # the grammar of the call rules out thinking
    request = _request("chat", defaults, call, body, frozenset(names_of(forced)))
    return replace(request, parameters=parameters_of(definitions)) if definitions else request


def _request(
    kind: Any, defaults: Defaults, call: Mapping[str, Any], body: dict[str, Any], forced: frozenset[str]
) -> Request:
    parse_as: ParseAs | None = None
    wanted: Any = None
    if not forced:
        wanted = call.get("format")
        wanted = defaults.options.get("format") if wanted is None else wanted
        schema, parse_as = read_format(wanted)
        if schema is not None:
            body["format"] = with_room(schema) if isinstance(schema, dict) else schema
            # `think` is kept here: whether the server supports both depends on its version (`fitting.py`).
            if parse_as is not None and body.get("think"):
                parse_as.thinking = True
    if call.get("stream_internally") is False:
        body["stream"] = False
    given = call.get("on_truncation")
    on_truncation = defaults.on_truncation if given is None else checked_truncation(given)
    refusable = on_truncation != "ignore" and "truncate" not in body
    if refusable and on_truncation == "error":
        body["truncate"] = False  # servers since 0.12.6 then refuse; older ones ignore it
    timeout = call.get("timeout", defaults.timeout)  # None: no limit
    check_positive("timeout", timeout)
    config = call.get("stream_config")
    if config is not None and not isinstance(config, StreamConfig):
        raise TypeError(f"stream_config: expected a StreamConfig, not {type(config).__name__}")
    return Request(
        kind=kind,
        body=body,
        config=config or defaults.config,
        timeout=timeout,
        forced=forced,
        parse_as=parse_as,
        schema=wanted if isinstance(wanted, Mapping) else None,
        on_truncation=on_truncation,
        content=encode(body),
        refusable=refusable,
        headers=checked_headers(call.get("headers")),
    )


def given_settings(
    options: Mapping[str, Any],
    timeout: float | NotGiven | None,
    stream_config: StreamConfig | None,
    on_truncation: Truncation | None,
) -> dict[str, Any]:
    """A call's settings. None resets a default, so arguments that were not given must be absent."""
    settings = dict(options)
    if timeout is not NOT_GIVEN:
        settings["timeout"] = timeout
    for name, value in (("stream_config", stream_config), ("on_truncation", on_truncation)):
        if value is not None:
            settings[name] = value
    return settings


def streams_internally(new: bool | None, old: bool | None) -> bool:
    """Whether to assemble the answer from a stream; `old` is the argument's former name, `stream`.

    Raises:
        TypeError: Both are given.
    """
    if new is not None and old is not None:
        raise TypeError("stream and stream_internally are the same argument: give stream_internally")
    return next((given for given in (new, old) if given is not None), True)
