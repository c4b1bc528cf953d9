"""Tools: their definitions in every common form, and the grammar that enforces a `tool_choice`.

The API has no `tool_choice`. It has `format`, a JSON schema that constrains decoding by a grammar, also together
with `tools`. So a forced choice sends `{"name": <const>, "arguments": <the tool's parameters>}`, a union over the
tools that may be called: the model chooses among them, but it has to call one.

Definitions are sent to the model as written, except that references are replaced by their targets, because servers drop
references in properties. The schema in `format` is rewritten for the server's grammar compiler; `schemas.py` does both.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from namel3ss_ollama.schemas import Schema, hoist, with_references_resolved
from namel3ss_ollama.settings import reject_unknown

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["ToolLike", "as_sent", "forced_format", "names_of", "tool_definition"]

_OF_NO_ARGUMENTS = frozenset(
    {"type", "properties", "required", "title", "description", "$schema", "additionalProperties"}
)
"""A schema with only these keys, and no properties, describes a tool without arguments."""
_KEYS = frozenset({"type", "function"})
_FUNCTION_KEYS = frozenset({"name", "description", "parameters"})
_TAKEN_KEYS = _FUNCTION_KEYS | {"strict", "inputSchema", "annotations", "outputSchema", "title", "_meta", "icons"}
"""Accepted keys of a function: the API's, OpenAI's (`strict`) and an MCP tool's (the rest)."""
ToolLike: TypeAlias = "Mapping[str, Any] | type[BaseModel] | Callable[..., Any]"


def tool_definition(tool: ToolLike) -> Schema:
    """A tool in the API's form.

    Args:
        tool: A definition in the API's form (`{"type": "function", "function": {...}}`), its inner part alone
            (`{"name", "description", "parameters"}`), a pydantic model (its fields are the parameters), or a
            function (signature and docstring give name, description and parameters). OpenAI's `strict` is dropped;
            an MCP tool's `inputSchema` becomes `parameters`, and its other keys are dropped.

    Raises:
        TypeError: It is none of these, or has an unknown key (the message names the closest known one).
        ValueError: It has no name, or its type is not "function".
    """
    if isinstance(tool, Mapping):
        return _from_mapping(tool)
    if isinstance(tool, type):
        from pydantic import BaseModel  # slow to import, and not always needed

        if issubclass(tool, BaseModel):
            return _from_model(tool)
    elif callable(tool):
        return _from_function(tool)
    raise TypeError(
        f"tools: expected a JSON schema of a function, a pydantic model class or a function, not {tool!r:.80}"
    )


def as_sent(definition: Schema) -> Schema:
    """A definition with the references in its parameters resolved; see `with_references_resolved`.

    Raises:
        ValueError: A reference is dangling; the message names the tool.
    """
    function = definition["function"]
    if not (parameters := function.get("parameters")):
        return definition
    try:
        resolved = with_references_resolved(parameters)
    except ValueError as error:
        raise ValueError(f"tools: {function['name']}: {error}") from error
    return {**definition, "function": {**function, "parameters": resolved}}


def names_of(definitions: Sequence[Schema]) -> list[str]:
    """The names of tools, in order.

    Raises:
        ValueError: Two tools have one name.
    """
    names = [str(d["function"]["name"]) for d in definitions]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"tools: two tools are named {name!r}")
    return names


def _definition(name: str, description: str | None, parameters: Schema) -> Schema:
    function: Schema = {"name": name}
    if description:
        function["description"] = description
    function["parameters"] = parameters
    return {"type": "function", "function": function}


def _from_mapping(tool: Mapping[str, Any]) -> Schema:
    outer = "function" in tool
    function = tool["function"] if outer else tool
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
        raise ValueError('tools: a schema needs {"name": ..., "parameters": ...}, alone or under "function"')
    name = function["name"]
    if outer:
        reject_unknown(tool, _KEYS | {"strict"}, f"tools: {name}", 'a tool has "type" and "function"')
    if tool.get("type", "function") != "function":
        raise ValueError(f"tools: {name} has the type {tool['type']!r:.40}; only 'function' is known")
    inner = {key: value for key, value in function.items() if outer or key != "type"}
    reject_unknown(inner, _TAKEN_KEYS, f"tools: {name}", 'a function has "name", "description" and "parameters"')
    if "parameters" in inner and "inputSchema" in inner:
        raise TypeError(f"tools: {name} has both parameters and inputSchema, which are one; give one of them")
    if "inputSchema" in inner:
        inner["parameters"] = inner.pop("inputSchema")
    parameters = inner.get("parameters")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise TypeError(f"tools: {name}: parameters must be a JSON schema, not {type(parameters).__name__}")
    return {"type": "function", "function": {key: inner[key] for key in inner if key in _FUNCTION_KEYS}}


def _from_model(model: type[BaseModel]) -> Schema:
    schema = model.model_json_schema()
    schema.pop("title", None)
    description = schema.pop("description", None)
    return _definition(model.__name__, description, schema)


def _from_function(function: Callable[..., Any]) -> Schema:
    from docstring_parser import parse  # imported only if functions are given
    from pydantic import TypeAdapter

    plain = function.func if isinstance(function, functools.partial) else function
    name = getattr(plain, "__name__", "") or type(plain).__name__
    try:
        schema = TypeAdapter[Any](plain).json_schema()  # type: ignore[arg-type] # of a function: its arguments
    except Exception as error:
        raise TypeError(
            f"tools: no JSON schema for the signature of {name}(): {type(error).__name__}; annotate its parameters "
            "with types that pydantic supports, or pass a schema"
        ) from error
    if schema.get("type") != "object":
        raise TypeError(f"tools: {name}() has parameters that cannot be named in a call (positional-only or *args)")
    schema.pop("additionalProperties", None)
    properties = cast("dict[str, Schema]", schema.setdefault("properties", {}))
    if isinstance(function, functools.partial):
        _drop_filled_in(function, schema)
    documentation = parse(inspect.getdoc(plain) or "")
    for parameter in documentation.params:
        if parameter.description and parameter.arg_name in properties:
            properties[parameter.arg_name].setdefault("description", " ".join(parameter.description.split()))
    for prop in properties.values():
        prop.pop("title", None)
    description = "\n\n".join(filter(None, [documentation.short_description, documentation.long_description]))
    return _definition(name, description, schema)


def _drop_filled_in(function: functools.partial[Any], schema: Schema) -> None:
    """Remove arguments from a schema that a `functools.partial` already provides."""
    filled = {*list(schema["properties"])[: len(function.args)], *function.keywords}
    for name in filled:
        schema["properties"].pop(name, None)
    required = [name for name in schema.pop("required", []) if name not in filled]
    if required:
        schema["required"] = required


def choose(
    definitions: Sequence[Schema], tool_choice: str | Mapping[str, Any] | None
) -> tuple[list[Schema], list[Schema]]:
    """Which tools to send, and which of them must be called.

    Args:
        definitions: All tools.
        tool_choice: "auto", "required", "none", a tool's name, or OpenAI's form of a name
            (`{"type": "function", "function": {"name": ...}}`).

    Returns:
        The definitions to send, and those that a grammar must force (empty when nothing is forced).

    Raises:
        ValueError: The choice names no tool, or there are no tools to choose from.
    """
    sent = list(definitions)
    if isinstance(tool_choice, Mapping):
        function = tool_choice.get("function")
        name = function.get("name") if isinstance(function, Mapping) else None
        if tool_choice.keys() != {"type", "function"} or tool_choice["type"] != "function" or not isinstance(name, str):
            raise ValueError(
                'tool_choice: expected {"type": "function", "function": {"name": ...}}, or a string such as "required"'
            )
        if name not in names_of(sent):
            raise ValueError(f"tool_choice: there is no tool {name!r} (there are: {', '.join(names_of(sent))})")
        return sent, [d for d in sent if d["function"]["name"] == name]
    if tool_choice is None or tool_choice == "auto":
        return sent, []
    if tool_choice == "none":
        return [], []
    if not sent:
        raise ValueError(f"tool_choice: {tool_choice!r} needs tools; pass tools=[...]")
    if tool_choice == "required":
        return sent, sent
    chosen = [d for d in sent if d["function"]["name"] == tool_choice]
    if not chosen:
        known = ", ".join(names_of(sent))
        raise ValueError(f"tool_choice: {tool_choice!r} is neither 'auto', 'required', 'none' nor a tool ({known})")
    return sent, chosen


def forced_format(definitions: Sequence[Schema]) -> Schema:
    """The schema of a call of one of the tools, for `format`."""
    hoisted: dict[str, Schema] = {}
    calls: list[Schema] = []
    for definition in definitions:
        function = definition["function"]
        parameters = cast("Schema", function.get("parameters") or {})
        if (
            parameters.keys() <= _OF_NO_ARGUMENTS
            and not parameters.get("properties")
            and parameters.get("additionalProperties") in (None, False)
        ):
            arguments: Schema = {"const": {}}  # a grammar of an object without properties lets a small model pad it
        else:
            arguments = hoist(parameters, hoisted)
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": function["name"]}, "arguments": arguments},
                "required": ["name", "arguments"],
            }
        )
    schema: Schema = calls[0] if len(calls) == 1 else {"anyOf": calls}
    return {**schema, "$defs": hoisted} if hoisted else schema
