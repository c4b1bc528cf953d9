"""Tools: their definitions from whatever people have, and the grammar that makes a `tool_choice` hold.

The API has no `tool_choice`. It has `format`, a JSON schema that constrains decoding by a grammar, also together
with `tools`. So a forced choice sends `{"name": <const>, "arguments": <the tool's parameters>}`, a union over
the tools that may be called; which of them the model fills in is its own business, that it does is not.

Schemas that people write are sent to the model as they are. Those that go into a grammar are rewritten in one
way, which changes nothing that they accept: definitions are moved to the root under short names, because a
reference resolves against the root, and because a server's grammar compiler fails on some names (seen on 0.9.3
with an underscore in the name of a recursive definition).
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from pydantic import BaseModel, TypeAdapter

__all__ = ["ToolLike", "describe_in_prompt", "forced_format", "names_of", "portable_schema", "tool_definition"]

Schema = dict[str, Any]
ToolLike = Mapping[str, Any] | type[BaseModel] | Callable[..., Any]


def tool_definition(tool: ToolLike) -> Schema:
    """A tool as the API takes it.

    Args:
        tool: A definition of the API's (`{"type": "function", "function": {...}}`), its inner part alone
            (`{"name", "description", "parameters"}`), a pydantic model (its fields are the parameters), or a
            function (signature and docstring give name, description and parameters).

    Raises:
        TypeError: It is none of these.
        ValueError: It has no name.
    """
    if isinstance(tool, Mapping):
        return _from_mapping(tool)
    if isinstance(tool, type):
        if issubclass(tool, BaseModel):
            return _from_model(tool)
    elif callable(tool):
        return _from_function(tool)
    raise TypeError(
        f"tools: expected a JSON schema of a function, a pydantic model class or a function, not {tool!r:.80}"
    )


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
    function = tool.get("function") if "function" in tool else tool
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
        raise ValueError('tools: a schema needs {"name": ..., "parameters": ...}, alone or under "function"')
    if function is tool:
        return {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}
    return {"type": "function", **tool}


def _from_model(model: type[BaseModel]) -> Schema:
    schema = model.model_json_schema()
    schema.pop("title", None)
    description = schema.pop("description", None)
    return _definition(model.__name__, description, schema)


def _from_function(function: Callable[..., Any]) -> Schema:
    from docstring_parser import parse  # only who hands in functions pays for its import

    name = getattr(function, "__name__", "") or type(function).__name__
    try:
        schema = TypeAdapter[Any](function).json_schema()  # type: ignore[arg-type] # of a function: its arguments
    except Exception as error:
        raise TypeError(
            f"tools: no JSON schema for the signature of {name}(): {type(error).__name__}; annotate its parameters "
            "with types that pydantic knows, or pass a schema"
        ) from error
    if schema.get("type") != "object":
        raise TypeError(f"tools: {name}() has parameters that cannot be named in a call (positional-only or *args)")
    schema.pop("additionalProperties", None)
    documentation = parse(inspect.getdoc(function) or "")
    properties = cast("dict[str, Schema]", schema.setdefault("properties", {}))
    for parameter in documentation.params:
        if parameter.description and parameter.arg_name in properties:
            properties[parameter.arg_name].setdefault("description", " ".join(parameter.description.split()))
    for prop in properties.values():
        prop.pop("title", None)
    description = "\n\n".join(filter(None, [documentation.short_description, documentation.long_description]))
    return _definition(name, description, schema)


def choose(definitions: Sequence[Schema], tool_choice: str | None) -> tuple[list[Schema], list[Schema]]:
    """Which tools to send, and of which one must be called.

    Returns:
        The definitions to send, and those that a grammar must force (empty when nothing is forced).

    Raises:
        ValueError: The choice names no tool, or there are no tools to choose from.
    """
    sent = list(definitions)
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
        if parameters.get("properties") or "$ref" in parameters or "anyOf" in parameters or "allOf" in parameters:
            arguments = _hoist(parameters, hoisted)
        else:
            arguments = {"const": {}}  # a grammar of an object without properties lets a small model pad for ever
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": function["name"]}, "arguments": arguments},
                "required": ["name", "arguments"],
            }
        )
    schema: Schema = calls[0] if len(calls) == 1 else {"anyOf": calls}
    return {**schema, "$defs": hoisted} if hoisted else schema


def describe_in_prompt(body: Mapping[str, Any]) -> Schema:
    """The body of a chat for a model whose template knows no tools: they are described in the system message instead.

    Only where a grammar forces the call, so that the answer is one whatever the model makes of the description.
    """
    functions = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in body["tools"])
    text = (
        "Answer with one call of a function, as JSON with the keys name and arguments. The functions, each with the "
        f"schema of its arguments:\n{functions}"
    )
    messages = [dict(message) for message in body["messages"]]
    if messages[0]["role"] == "system":
        messages[0]["content"] = "\n\n".join(filter(None, [messages[0]["content"], text]))
    else:
        messages.insert(0, {"role": "system", "content": text})
    return {**{k: v for k, v in body.items() if k != "tools"}, "messages": messages}


def portable_schema(schema: Mapping[str, Any]) -> Schema:
    """A JSON schema for `format` that a server's grammar compiler takes: its definitions under plain names."""
    definitions = {**schema.get("$defs", {}), **schema.get("definitions", {})}
    if all(name.isalnum() and name.isascii() for name in definitions):
        return dict(schema)
    hoisted: dict[str, Schema] = {}
    root = _hoist(schema, hoisted)
    return {**root, "$defs": hoisted}


def _hoist(schema: Mapping[str, Any], hoisted: dict[str, Schema]) -> Schema:
    """The schema with its definitions moved into `hoisted` under short names, and its references following."""
    definitions: dict[str, Schema] = {}
    for section in ("$defs", "definitions"):
        for name, definition in schema.get(section, {}).items():
            definitions[f"#/{section}/{name}"] = definition
    renamed = {ref: f"D{len(hoisted) + i}" for i, ref in enumerate(definitions)}
    if _refers_to_root(schema):
        renamed["#"] = f"D{len(hoisted) + len(renamed)}"

    def rewrite(node: Any, *, names: bool = False) -> Any:
        if isinstance(node, list):
            return [rewrite(item) for item in node]
        if not isinstance(node, Mapping):
            return node
        result: Schema = {}
        for key, value in cast("Mapping[str, Any]", node).items():
            if key == "$ref" and not names and value in renamed:
                result[key] = f"#/$defs/{renamed[value]}"
            elif key in ("const", "enum", "default", "examples") and not names:
                result[key] = value
            else:
                result[key] = rewrite(value, names=key in ("properties", "patternProperties") and not names)
        return result

    root = {k: v for k, v in schema.items() if k not in ("$defs", "definitions")}
    for ref, name in renamed.items():
        hoisted[name] = {}  # taken, so that the names of the next tool's definitions differ
        hoisted[name] = rewrite(root if ref == "#" else definitions[ref])
    return cast("Schema", rewrite(root))


def _refers_to_root(node: Any) -> bool:
    if isinstance(node, Mapping):
        mapping = cast("Mapping[str, Any]", node)
        return mapping.get("$ref") == "#" or any(_refers_to_root(value) for value in mapping.values())
    return isinstance(node, list) and any(_refers_to_root(item) for item in node)
