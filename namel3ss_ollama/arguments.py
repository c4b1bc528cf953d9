"""Arguments that a model wrote as JSON text, where the tool's schema expects an array or an object. No I/O.

Only the schema distinguishes the list `'["x"]'` from the text `'["x"]'`: where text is allowed, it stays text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from namel3ss_ollama.exact import is_plain, read_json

__all__ = ["Parameters", "parameters_of", "unwrapped"]

Parameters = Mapping[str, Mapping[str, Any]]
"""The schemas of tools' arguments, by the tools' names."""
_TYPES: dict[str, type] = {"array": list, "object": dict}
_DEEPEST = 50
_NOT_TEXT = frozenset({"null", "integer", "number", "boolean"})


def parameters_of(tools: Sequence[Mapping[str, Any]]) -> Parameters:
    """The schema of each tool's arguments, for tools that have one.

    Args:
        tools: Definitions in the API's form.
    """
    functions = [tool["function"] for tool in tools]
    return {function["name"]: function["parameters"] for function in functions if function.get("parameters")}


def unwrapped(arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Arguments with JSON text converted to the type that the schema expects; the same object if nothing changed.

    Args:
        arguments: The arguments of a call.
        schema: The tool's schema for them.
    """
    return cast("Mapping[str, Any]", _read(arguments, schema, schema))


def _read(value: Any, schema: object, root: Mapping[str, Any], depth: int = 0) -> Any:
    branches = _branches(schema, root)
    if not branches or depth > _DEEPEST:
        return value
    if isinstance(value, str):
        value = _parsed(value, _wanted(branches))
    if isinstance(value, Mapping):
        entries = {name: _read(item, _property(branches, name), root, depth + 1) for name, item in value.items()}
        return entries if any(entries[name] is not value[name] for name in value) else value
    if isinstance(value, list):
        items = _keyword(branches, "items")
        read = [_read(item, items, root, depth + 1) for item in value]
        return read if any(new is not old for new, old in zip(read, value, strict=True)) else value
    return value


def _parsed(text: str, wanted: tuple[type, ...]) -> Any:
    """The value of a JSON text, if it has an expected type; else the text."""
    if not wanted:
        return text
    try:
        value = read_json(text)
    except ValueError:
        return text
    return value if isinstance(value, wanted) and is_plain(value) else text


def _branches(schema: object, root: Mapping[str, Any], depth: int = 0) -> list[Mapping[str, Any]]:
    """The schemas that a value may match: the members of a union, with references resolved; empty if unknown."""
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return []
    if isinstance(reference := schema.get("$ref"), str):
        return _branches(_resolved(reference, root), root, depth + 1)
    for union in ("anyOf", "oneOf"):
        if isinstance(members := schema.get(union), list):
            found = [_branches(member, root, depth + 1) for member in members]
            return [branch for branches in found for branch in branches] if all(found) else []
    if isinstance(parts := schema.get("allOf"), list) and len(parts) == 1 and "type" not in schema:
        return _branches(parts[0], root, depth + 1)
    return [schema]


def _resolved(reference: str, root: Mapping[str, Any]) -> object:
    found: object = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
    return found


def _wanted(branches: Sequence[Mapping[str, Any]]) -> tuple[type, ...]:
    """The expected types other than text; none where a branch allows text, or does not name a type."""
    wanted: set[type] = set()
    for branch in branches:
        kind = branch.get("type")
        for name in kind if isinstance(kind, list) else [kind]:
            if name in _TYPES:
                wanted.add(_TYPES[name])
            elif name not in _NOT_TEXT:
                return ()
    return tuple(wanted)


def _property(branches: Sequence[Mapping[str, Any]], name: str) -> object:
    for branch in branches:
        properties = branch.get("properties")
        if isinstance(properties, Mapping) and name in properties:
            return properties[name]
    return _keyword(branches, "additionalProperties")


def _keyword(branches: Sequence[Mapping[str, Any]], name: str) -> object:
    return next((branch[name] for branch in branches if name in branch), None)
