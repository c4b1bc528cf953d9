"""Renders a conversation to the text that the model continues.

Two kinds of templates: Ollama's own (`gotemplate.py`), which a model of its store or the catalogue has, and the one
inside a GGUF file, in Jinja, rendered as by transformers, which introduced them: sandboxed, with `messages`,
`tools`, `add_generation_prompt`, the special tokens, and `raise_exception`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from namel3ss_ollama.embedded.gotemplate import GoTemplate, TemplateError
from namel3ss_ollama.embedded.refusal import Refused
from namel3ss_ollama.embedded.store import Model

__all__ = ["capabilities", "chat_prompt", "go_prompt"]

Json = Mapping[str, Any]
_MARK = "\x00response\x00"


def capabilities(model: Model) -> list[str]:
    """The capabilities of a model: "completion", "tools", "thinking", "embedding"."""
    if model.header.embeds_only:
        return ["embedding"]
    can = ["completion", "embedding"]
    if model.template:
        template = _go(model.template)
        if template.mentions("Tools"):
            can.append("tools")
        if template.mentions("Thinking"):
            can.append("thinking")
    else:
        if "tools" in model.header.chat_template:
            can.append("tools")
        if "<think>" in model.header.chat_template:
            can.append("thinking")
    return can


def chat_prompt(
    model: Model,
    messages: Sequence[Json],
    *,
    tools: Sequence[Json] = (),
    think: bool | str | None = None,
    template: str = "",
) -> str:
    """The prompt of a conversation.

    Args:
        model: The model; its system prompt and first messages come first.
        messages: Messages of the API: role, content and so on.
        tools: Tool definitions of the API.
        think: The request's `think`.
        template: A template to use instead of the model's, in Ollama's language.

    Raises:
        Refused: There is no template, or it cannot be rendered.
    """
    history = [
        {**message, "role": message.get("role") or "user", "content": message.get("content") or ""}
        for message in (*model.messages, *messages)
    ]
    if model.system and not any(message.get("role") == "system" for message in messages):
        history.insert(0, {"role": "system", "content": model.system})
    source = template or model.template
    try:
        if source:
            return go_prompt(source, history, tools=tools, think=think)
        return _from_jinja(model, history, tools, think)
    except TemplateError as error:
        raise Refused(400, f"{model.name}: {error}") from error


@lru_cache(maxsize=32)
def _go(source: str) -> GoTemplate:
    return GoTemplate(source)


def go_prompt(
    source: str, messages: Sequence[Json], *, tools: Sequence[Json] = (), think: bool | str | None = None
) -> str:
    """Render a conversation with a template in Ollama's language.

    Args:
        source: The template.
        messages: Messages of the API, each with a role and a content.
        tools: As in `chat_prompt`.
        think: As in `chat_prompt`.

    Raises:
        TemplateError: It is malformed, or cannot be rendered.
    """
    template = _go(source)
    turns = [_message(message) for message in _merged(messages)]
    common = {"Tools": list(map(_tool, tools)), "Think": bool(think), "IsThinkSet": think is not None}
    common["ThinkLevel"] = think if isinstance(think, str) else ""
    system = "\n\n".join(message["Content"] for message in turns if message["Role"] == "system")
    if template.mentions("Messages"):
        return template.render({**common, "System": system, "Messages": turns, "Response": ""})
    return "".join(_turns(template, turns, common))


def _turns(template: GoTemplate, messages: list[dict[str, Any]], common: Json) -> Iterator[str]:
    """Render the older kind of template, with a system prompt, a prompt and a response, once per turn."""
    turn = dict.fromkeys(_PARTS, "")
    for message in messages:
        part = {"system": "System", "assistant": "Response"}.get(message["Role"], "Prompt")
        if any(turn[other] for other in _PARTS[_PARTS.index(part) :]):
            yield _turn(template, turn, common)
            turn = dict.fromkeys(_PARTS, "")
        turn[part] = message["Content"]
    yield _turn(template, turn, common, last=True)


_PARTS = ("System", "Prompt", "Response")
"""In the order within a turn."""


def _turn(template: GoTemplate, turn: dict[str, str], common: Json, *, last: bool = False) -> str:
    """Render a turn; the last one ends with the response, which the model continues."""
    if not last and template.mentions("Response"):
        return template.render({**common, **turn})
    before, _, _ = template.render({**common, **turn, "Response": _MARK}).partition(_MARK)
    return before + turn["Response"]


def _merged(history: Sequence[Json]) -> Iterator[Json]:
    """Merge consecutive messages of one role, as Ollama does for a template."""
    last: Json | None = None
    for message in history:
        plain = message["role"] in ("user", "system")
        if last is not None and plain and last["role"] == message["role"]:
            last = {**last, "content": f"{last['content']}\n\n{message['content']}"}
            continue
        if last is not None:
            yield last
        last = message
    if last is not None:
        yield last


def _message(message: Json) -> dict[str, Any]:
    return {
        "Role": message["role"],
        "Content": message["content"],
        "Thinking": message.get("thinking") or "",
        "ToolName": message.get("tool_name") or "",
        "ToolCalls": [
            {"ID": call.get("id", ""), "Function": {"Name": f.get("name", ""), "Arguments": _arguments(f)}}
            for call in message.get("tool_calls") or ()
            for f in (call["function"],)
        ],
    }


def _tool(tool: Json) -> dict[str, Any]:
    """A tool under both kinds of names: Go's for the template's fields, the API's for printing the object."""
    function = dict(tool["function"])
    if isinstance(parameters := function.get("parameters"), Mapping):
        function["parameters"] = _ordered(parameters, _PARAMETERS)
    named: dict[str, Any] = _named({**tool, "function": function})
    return named


_PARAMETERS = ("type", "$defs", "items", "required", "properties")
"""The order in which Ollama's server writes a tool's parameters, to which small models are sensitive."""


def _ordered(value: Json, keys: Sequence[str]) -> Json:
    return {**{key: value[key] for key in keys if key in value}, **value}


class _Named(dict[str, Any]):
    """An object of the API whose fields a template can access by Go's names: `.Function.Name` for `function.name`."""

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name, super().get(name.lower(), default))


def _named(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _Named({key: _named(item) for key, item in value.items()})
    return list(map(_named, value)) if isinstance(value, list) else value


def _arguments(function: Json) -> Any:
    given = function.get("arguments") or {}
    return given if isinstance(given, Mapping) else _parsed(given)


def _parsed(text: object) -> Any:
    try:
        return json.loads(str(text))
    except ValueError:
        return str(text)


def _from_jinja(model: Model, history: list[dict[str, Any]], tools: Sequence[Json], think: Any) -> str:
    header = model.header
    if not header.chat_template:
        raise Refused(400, f"{model.name} has no chat template: use generate with raw=true, or give a template")
    messages = list(map(_with_parsed_arguments, history))
    continued = ""
    if messages and messages[-1]["role"] == "assistant" and not messages[-1].get("tool_calls"):
        continued = messages.pop()["content"]
    template = _jinja(header.chat_template)
    options = {} if think is None else {"enable_thinking": bool(think)}
    bos, eos = (header.special_tokens.get(name, "") for name in ("bos", "eos"))
    try:
        text: str = template.render(
            messages=messages,
            tools=list(tools) or None,
            add_generation_prompt=True,
            bos_token=bos,
            eos_token=eos,
            **options,
        )
    except Exception as error:  # the template is a program from the weights: it can fail in any way
        raise TemplateError(f"its chat template cannot be rendered: {error}") from error
    # Tokenising adds the first token itself, if the model is set up for it.
    return (text.removeprefix(bos) if header.adds_bos else text) + continued


def _with_parsed_arguments(message: dict[str, Any]) -> dict[str, Any]:
    if not message.get("tool_calls"):
        return message
    calls = [{**call, "function": {**call["function"], "arguments": _arguments(call["function"])}}
             for call in message["tool_calls"]]  # fmt: skip
    return {**message, "tool_calls": calls}


@lru_cache(maxsize=8)
def _jinja(source: str) -> Any:
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = _now
    try:
        return environment.from_string(source)
    except (jinja2.TemplateError, RecursionError) as error:
        raise TemplateError(f"its chat template cannot be parsed: {error}") from error


def _tojson(value: Any, indent: int | None = None, **options: Any) -> str:
    """JSON as transformers writes it; Jinja's own filter escapes HTML."""
    return json.dumps(value, indent=indent, **{"ensure_ascii": False, **options})


def _now(layout: str) -> str:
    import datetime

    return datetime.datetime.now().strftime(layout)
