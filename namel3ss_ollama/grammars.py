r"""The forms in which a schema is sent, by what the server's grammar compiler can do. Plain functions over values.

`schemas.py` writes the form that every compiler should accept. The other forms:

- `with_room`: a server before 0.30 gives the compiler a buffer of four times the schema's length, and truncates what
  does not fit, which breaks the grammar. A comment makes schemas with many or deep properties longer.
- `in_escapes`: a server before 0.13.2 does not escape a backslash in a name or a value. A quotation mark then ends the
  grammar's literal, and `C:\temp` becomes a tab. Characters that JSON has to escape are written as the escape itself
  (`\u0022`), which makes the model write JSON for the character.
- `simplest`: types and names only, for a server that refuses the schema. `excludes` says which values such a grammar
  rules out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from namel3ss_ollama.schemas import ANYTHING, Schema

__all__ = ["excludes", "in_escapes", "simplest", "with_room"]

_BUFFER = 30 * 1024
"""Bytes of a grammar that fit every buffer, in addition to its rules for numbers, strings and white space."""
_LARGEST_BUFFER = 1024 * 1024
_A_RULE = 64
"""The maximum number of bytes of a rule, without the names in it."""
_MENTIONS = 9
"""How often the name of a property's rule occurs in the grammar, at most."""
_KINDS = ("object", "array", "string", "number", "integer", "boolean", "null")
_OF_NAMES = frozenset({"$defs", "patternProperties", "properties"})
_OF_NODES = frozenset({"additionalProperties", "anyOf", "items", "oneOf", "prefixItems"})
_KEPT = frozenset(
    {"$comment", "$defs", "$ref", "additionalProperties", "anyOf", "const", "enum", "items", "oneOf", "prefixItems",
     "properties", "required", "type"}
)  # fmt: skip
"""The keywords of the simplest form."""


def with_room(schema: Schema) -> Schema:
    """The schema, long enough for a server's buffer to hold its grammar."""
    size = min(_size(schema, 4), _LARGEST_BUFFER)
    return {"$comment": " " * (size // 4), **schema} if size > _BUFFER else schema


def in_escapes(schema: Schema) -> Schema:
    r"""The schema for a compiler that escapes nothing; equal to the schema where nothing needs an escape.

    >>> in_escapes({"const": 'say "hi"'})
    {'const': 'say \\u0022hi\\u0022'}
    """

    def change(node: Schema) -> Schema:
        for key in ("const", "enum", "required"):
            if key in node:
                node[key] = _spelled(node[key])
        if isinstance(node.get("properties"), Mapping):
            node["properties"] = {_spelled(name): value for name, value in node["properties"].items()}
        return node

    return _changed_schema(schema, change)


def simplest(schema: Schema) -> Schema:
    """Types, properties and choices only, without names and values that need an escape."""

    def change(node: Schema) -> Schema:
        kept = {key: value for key, value in node.items() if key in _KEPT}
        for key in ("const", "enum"):
            if key in kept and _spelled(kept[key]) != kept[key]:
                value = kept.pop(key)
                values = value if key == "enum" and isinstance(value, list) else [value]
                kept["type"] = [kind for kind in _KINDS if any(_is_of(kind, each) for each in values)]
        properties = kept.get("properties")
        if isinstance(properties, Mapping):
            plain = {name: value for name, value in properties.items() if name == _spelled(name)}
            if len(plain) < len(properties):
                kept["properties"], kept["additionalProperties"] = plain, ANYTHING
                kept["required"] = [name for name in kept.get("required", ()) if name in plain]
        return kept if kept.keys() - {"$comment", "$defs", "required"} else {**kept, **ANYTHING}

    return _changed_schema(schema, change)


def excludes(schema: Schema, value: Any) -> bool:
    """Whether a schema's types, names and choices alone exclude a JSON value.

    >>> excludes({"type": "object", "required": ["name"]}, {"title": "Blue"})
    True
    """
    form = simplest(schema)
    return not _admits(form, value, form.get("$defs", {}))


def _admits(node: Any, value: Any, definitions: Mapping[str, Any]) -> bool:
    seen: set[str] = set()
    while isinstance(node, Mapping) and isinstance(ref := node.get("$ref"), str):
        name = ref.rpartition("/")[2]
        if name in seen or name not in definitions:
            return True
        seen.add(name)
        node = definitions[name]
    if not isinstance(node, Mapping):
        return True
    choices = [node["const"]] if "const" in node else node.get("enum")
    if isinstance(choices, list) and value not in choices:
        return False
    for key in ("anyOf", "oneOf"):
        if isinstance(node.get(key), list) and not any(_admits(each, value, definitions) for each in node[key]):
            return False
    kinds = node.get("type")
    if kinds is not None:
        kinds = [kinds] if isinstance(kinds, str) else kinds
        whole = isinstance(value, (int, float)) and not isinstance(value, bool) and value == value // 1
        if not any(_is_of(kind, value) or (whole and kind in ("integer", "number")) for kind in kinds):
            return False
    if isinstance(value, Mapping):
        properties = node.get("properties", {})
        return all(name in value for name in node.get("required", ())) and all(
            _admits(properties[name], each, definitions) for name, each in value.items() if name in properties
        )
    if isinstance(value, list):
        first = node.get("prefixItems", ())
        rest = node.get("items")
        return all(
            _admits(first[index] if index < len(first) else rest, each, definitions) for index, each in enumerate(value)
        )
    return True


def _changed_schema(schema: Schema, change: Callable[[Schema], Schema]) -> Schema:
    """A copy of a schema with each node changed, children first."""
    copy = {key: _changed(key, value, change) for key, value in schema.items()}
    return change(copy)


def _changed(key: str, value: Any, change: Callable[[Schema], Schema]) -> Any:
    """The value of a node's key, with the nodes in it changed."""
    if key in _OF_NAMES and isinstance(value, Mapping):
        return {name: _node(each, change) for name, each in value.items()}
    if key in _OF_NODES:
        return [_node(each, change) for each in value] if isinstance(value, list) else _node(value, change)
    return value


def _node(node: Any, change: Callable[[Schema], Schema]) -> Any:
    return _changed_schema(node, change) if isinstance(node, dict) else node


def _spelled(value: Any) -> Any:
    if isinstance(value, str):
        return "".join(f"\\u{ord(char):04x}" if char in '"\\' or char < " " else char for char in value)
    if isinstance(value, Mapping):
        return {_spelled(name): _spelled(each) for name, each in value.items()}
    return [_spelled(each) for each in value] if isinstance(value, (list, tuple)) else value


def _is_of(kind: str, value: Any) -> bool:
    """Whether a JSON value has a type of JSON Schema."""
    if isinstance(value, bool) or value is None:
        return kind == ("null" if value is None else "boolean")
    kinds: dict[str, type] = {"object": Mapping, "array": list, "string": str, "integer": int, "number": float}
    return kind in kinds and isinstance(value, kinds[kind])


def _size(node: Any, name: int) -> int:
    """The maximum size of a node's grammar in bytes, given the length of its rule's name."""
    if not isinstance(node, Mapping):
        return 0
    size = name + _A_RULE + 2 * len(str(node.get("pattern", "")))
    for key in ("const", "enum"):
        if key in node:
            size += 2 * len(str(node[key])) + 8
    for key in ("anyOf", "oneOf", "prefixItems", "items"):
        if isinstance(node.get(key), list):
            size += sum(_size(each, name + 9) + name + 12 for each in node[key])
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), Mapping):
            size += _size(node[key], name + 17) + 3 * name + 2 * _A_RULE
    for property_name, value in node.get("properties", {}).items():
        bytes_of_name = len(property_name.encode())
        path = name + bytes_of_name + 1
        size += _MENTIONS * path + 4 * bytes_of_name + 2 * _A_RULE + _size(value, path)
        if node.get("additionalProperties"):
            size += 24 * bytes_of_name  # the rule for names other than these
    for definition in node.get("$defs", {}).values():
        size += _size(definition, 4)
    kinds = node.get("type")
    if isinstance(kinds, list):
        size = size * max(len(kinds), 1)
    return size
