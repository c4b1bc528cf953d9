r"""JSON schemas for `format`, rewritten into what a server's grammar compiler takes. Plain functions over values.

Servers turn the schema into a grammar. Their compiler takes a part of JSON Schema, refuses some of the rest, and
with some patterns it crashes or never returns (seen on 0.9.3). So a schema is rewritten before it is sent:

- Definitions move to the root under short names, because a reference resolves against the root, and because the
  compiler fails on some names (an underscore in the name of a recursive definition).
- Annotations are dropped: a node of nothing but a title is refused.
- A node that accepts anything names all types: the compiler refuses `true`, and takes `{}` for an object.
- Unions and `allOf` take in what stands beside them, which the compiler would overlook.
- Patterns are rewritten where a plain form of them exists (`\d` becomes `[0-9]`), else dropped (`patterns.py`).
- Conditions (`not`, `if`, ...) and bounds beyond 64 bits are dropped: no grammar holds them.

What is dropped still holds where the answer is validated here, which is done against the full schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import unquote

from namel3ss_ollama.patterns import portable_pattern

__all__ = ["Schema", "hoist", "portable_schema"]

Schema = dict[str, Any]
_DROPPED = frozenset(
    {"$anchor", "$comment", "$id", "$schema", "$vocabulary", "contentEncoding", "contentMediaType", "contentSchema",
     "default", "deprecated", "description", "discriminator", "example", "examples", "externalDocs", "readOnly",
     "title", "writeOnly", "xml",
     "contains", "dependentRequired", "dependentSchemas", "else", "if", "maxContains", "minContains", "not",
     "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties"}
)  # fmt: skip
"""Annotations, and conditions that no grammar holds."""
_DEFINITIONS = ("$defs", "definitions")
_UNIONS = ("anyOf", "oneOf")
_BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
_LARGEST_BOUND = 2**63 - 1
_TYPES = ("object", "array", "string", "number", "boolean", "null")
_SHAPES = frozenset(
    {"$ref", "allOf", "anyOf", "const", "enum", "items", "oneOf", "pattern", "prefixItems", "properties", "type"}
)
"""Keys of which each says on its own what a value looks like."""
_FORMATS = ("date", "date-time", "time", "uuid")


def portable_schema(schema: Mapping[str, Any]) -> Schema:
    """A JSON schema for `format` that a server's grammar compiler takes. The argument is not changed.

    Raises:
        ValueError: A reference points to nothing in the schema.
    """
    definitions: dict[str, Schema] = {}
    root = hoist(schema, definitions)
    return {**root, "$defs": definitions} if definitions else root


def hoist(schema: Mapping[str, Any], definitions: dict[str, Schema]) -> Schema:
    """The schema rewritten, with all that its references point to put into `definitions` under short names.

    Raises:
        ValueError: A reference points to nothing in the schema.
    """
    return _Rewriting(schema, definitions).node(schema)


class _Rewriting:
    """One schema on its way into `definitions`, which several schemas may share."""

    def __init__(self, root: Mapping[str, Any], definitions: dict[str, Schema]) -> None:
        self._root = root
        self._definitions = definitions
        self._names: dict[str, str] = {}

    def node(self, node: Any) -> Schema:
        """A node of the schema; what is no schema at all is taken for one that accepts anything."""
        if not isinstance(node, Mapping):
            return {"type": list(_TYPES)}
        kept = {k: v for k, v in node.items() if k not in _DROPPED and k not in _DEFINITIONS and k[:2] != "x-"}
        kept = _flat(kept)
        for key in _UNIONS:
            if key in kept and len(kept) > 1:
                kept = {key: [_merged(kept, key, branch) for branch in kept[key] if branch is not False]}
        if "prefixItems" in kept:
            kept.pop("items", None)  # the compiler would read it in place of the tuple
        result = {key: value for key, old in kept.items() if (value := self._value(key, old)) is not None}
        shaped = _SHAPES & result.keys() or result.get("format") in _FORMATS
        if not shaped and result.get("additionalProperties", True) is True:
            result["type"] = list(_TYPES)
        return result

    def _value(self, key: str, value: Any) -> Any:
        """The value of a key of a node; None where the key is to be left out."""
        if key == "$ref":
            return f"#/$defs/{self._definition(value)}"
        if key in ("properties", "patternProperties") and isinstance(value, Mapping):
            return {name: self.node(each) for name, each in value.items() if each is not False}
        if key in ("anyOf", "oneOf", "allOf", "prefixItems") and isinstance(value, list):
            return [self.node(each) for each in value if each is not False]
        if key == "items":
            if isinstance(value, list):
                return [self.node(each) for each in value]
            return None if value is False else self.node(value)
        if key == "additionalProperties" and not isinstance(value, bool):
            return self.node(value)
        if key == "pattern":
            return portable_pattern(value)
        if key in _BOUNDS and isinstance(value, (int, float)) and abs(value) > _LARGEST_BOUND:
            return None
        return value

    def _definition(self, ref: object) -> str:
        target = _resolve(self._root, ref)
        name = self._names.get(str(ref))
        if name is None:
            name = self._names[str(ref)] = f"D{len(self._definitions)}"
            self._definitions[name] = {}  # taken before what is in it is looked at: it may refer to itself
            self._definitions[name] = self.node(target)
        return name


def _flat(node: Schema) -> Schema:
    """The node with its `allOf` merged in, where no key is there twice; the compiler reads `allOf` of objects only."""
    parts = node.get("allOf")
    if not isinstance(parts, list):
        return node
    flat = {key: value for key, value in node.items() if key != "allOf"}
    for part in parts:
        if not isinstance(part, Mapping):
            return node
        kept = {key: value for key, value in part.items() if key not in _DROPPED}
        if any(key in flat and flat[key] != value for key, value in kept.items()) or _DEFINITIONS[0] in kept:
            return node
        flat.update(kept)
    return flat if "$ref" not in flat or len(flat) == 1 or set(flat) == {"$ref", "type"} else node


def _merged(node: Schema, union: str, branch: Any) -> Any:
    """A branch of a union with what stands beside the union, where the branch is no reference."""
    if not isinstance(branch, Mapping) or "$ref" in branch:
        return branch
    merged = {**{key: value for key, value in node.items() if key != union}, **branch}
    for key in ("properties", "required"):
        beside, inside = node.get(key), branch.get(key)
        if isinstance(beside, Mapping) and isinstance(inside, Mapping):
            merged[key] = {**beside, **inside}
        elif isinstance(beside, list) and isinstance(inside, list):
            merged[key] = list(dict.fromkeys([*beside, *inside]))
    return merged


def _resolve(schema: Mapping[str, Any], ref: object) -> Any:
    """What a JSON pointer (RFC 6901) in a `$ref` points to."""
    node: Any = schema
    try:
        if not isinstance(ref, str) or not ref.startswith("#"):
            raise KeyError(ref)
        for step in unquote(ref[1:]).split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            node = node[int(key)] if isinstance(node, list) else node[key]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"a JSON schema refers to {ref!r:.100}, which is not in it") from error
    return cast("Any", node)
