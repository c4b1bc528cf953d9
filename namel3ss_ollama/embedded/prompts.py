"""From a conversation to the text that the weights continue.

Two kinds of templates: Ollama's own (`gotemplate.py`), which a model of its store or the catalogue has, and the one
inside a GGUF file, in Jinja, rendered as the library does that made the custom (transformers): sandboxed, with
`messages`, `tools`, `add_generation_prompt`, the special tokens, and `raise_exception`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from namel3ss_ollama.embedded.gotemplate import GoTemplate, TemplateError
from namel3ss_ollama.embedded.refusal import Refused
from namel3ss_ollama.embedded.store import Model

__all__ = ["capabilities", "chat_prompt"]

Json = Mapping[str, Any]
_MARK = "\x00response\x00"


def capabilities(model: Model) -> list[str]:
    """What a model can do: "completion", "tools", "thinking", "embedding"."""
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
        model: The model, whose system prompt and first messages come first.
        messages: Objects of the API: role, content and so on.
        tools: Definitions of the API.
        think: What the request says.
        template: Another template than the model's, in Ollama's language.

    Raises:
        Refused: There is no template, or it cannot be filled in with this.
    """
    history = [dict(message) for message in (*model.messages, *messages)]
    if model.system and not any(message.get("role") == "system" for message in messages):
        history.insert(0, {"role": "system", "content": model.system})
    source = template or model.template
    try:
        if source:
            return _from_go(_go(source), history, tools, think)
        return _from_jinja(model, history, tools, think)
    except TemplateError as error:
        raise Refused(400, f"{model.name}: {error}") from error


@lru_cache(maxsize=32)
def _go(source: str) -> GoTemplate:
    return GoTemplate(source)


def _from_go(template: GoTemplate, history: list[dict[str, Any]], tools: Sequence[Json], think: Any) -> str:
    messages = [_message(message) for message in _merged(history)]
    common = {"Tools": list(map(_tool, tools)), "Think": bool(think), "IsThinkSet": think is not None}
    common["ThinkLevel"] = think if isinstance(think, str) else ""
    system = "\n\n".join(message["Content"] for message in messages if message["Role"] == "system")
    if template.mentions("Messages"):
        return template.render({**common, "System": system, "Messages": messages, "Response": ""})
    return "".join(_turns(template, messages, common))


def _turns(template: GoTemplate, messages: list[dict[str, Any]], common: Json) -> Iterator[str]:
    """The older kind of template, which knows a system prompt, a prompt and a response, rendered a turn each."""
    turn = {"System": "", "Prompt": "", "Response": ""}
    names = {"system": "System", "assistant": "Response"}
    for index, message in enumerate(messages):
        turn[names.get(message["Role"], "Prompt")] = message["Content"]
        last = index == len(messages) - 1
        if message["Role"] != "assistant" and not last:
            continue
        given = turn["Response"]
        text = template.render({**common, **turn, "Response": _MARK})
        before, found, after = text.partition(_MARK)
        yield before + given + ("" if last else after if found else "")
        turn = {"System": "", "Prompt": "", "Response": ""}


def _merged(history: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Messages of one role in a row as one, as Ollama hands them to a template."""
    last: dict[str, Any] | None = None
    for message in history:
        plain = message.get("role") in ("user", "system") and not message.get("images")
        if last is not None and plain and last.get("role") == message["role"]:
            last = {**last, "content": f"{last.get('content', '')}\n\n{message.get('content', '')}"}
            continue
        if last is not None:
            yield last
        last = message
    if last is not None:
        yield last


def _message(message: Json) -> dict[str, Any]:
    return {
        "Role": message.get("role", "user"),
        "Content": message.get("content") or "",
        "Thinking": message.get("thinking") or "",
        "ToolName": message.get("tool_name") or "",
        "ToolCalls": [
            {"ID": call.get("id", ""), "Function": {"Name": f.get("name", ""), "Arguments": _arguments(f)}}
            for call in message.get("tool_calls") or ()
            for f in (call.get("function") or {},)
        ],
    }


def _tool(tool: Json) -> dict[str, Any]:
    """A tool under both kinds of names: Go's for the template's fields, the API's where it prints the whole."""
    function = dict(tool.get("function") or {})
    if isinstance(parameters := function.get("parameters"), Mapping):
        function["parameters"] = _Named(_ordered(parameters, _PARAMETERS))
    return _Named({**tool, "function": _Named(function)})


_PARAMETERS = ("type", "$defs", "items", "required", "properties")
"""In which order Ollama's server writes a tool's parameters, which a small model notices."""


def _ordered(value: Json, keys: Sequence[str]) -> Json:
    return {**{key: value[key] for key in keys if key in value}, **value}


class _Named(dict[str, Any]):
    """An object of the API whose fields a template finds under Go's names: `.Function.Name` for `function.name`."""

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name, super().get(name.lower(), default))


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
    for message in history:
        for call in message.get("tool_calls") or ():
            call["function"] = {**call.get("function", {}), "arguments": _arguments(call.get("function") or {})}
    continued = history[-1]["content"] if history and history[-1].get("role") == "assistant" else None
    template = _jinja(header.chat_template)
    options = {} if think is None else {"enable_thinking": bool(think)}
    import jinja2

    try:
        text: str = template.render(
            messages=history[:-1] if continued is not None else history,
            tools=list(tools) or None,
            add_generation_prompt=True,
            bos_token=header.special_tokens.get("bos", ""),
            eos_token=header.special_tokens.get("eos", ""),
            **options,
        )
    except (jinja2.TemplateError, TypeError, KeyError) as error:
        raise TemplateError(f"its chat template cannot be filled in: {error}") from error
    # The weights put their first token there themselves, where they are made to.
    if header.metadata.get("tokenizer.ggml.add_bos_token") and (bos := header.special_tokens.get("bos")):
        text = text.removeprefix(bos)
    return text + (continued or "")


@lru_cache(maxsize=8)
def _jinja(source: str) -> Any:
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = _now
    try:
        return environment.from_string(source)
    except jinja2.TemplateError as error:
        raise TemplateError(f"its chat template is not understood: {error}") from error


def _now(layout: str) -> str:
    import datetime

    return datetime.datetime.now().strftime(layout)
