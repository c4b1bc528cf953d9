r"""JSON schemas for `format`, rewritten into what a server's grammar compiler takes. Plain functions over values.

Servers compile the schema into a grammar. Their compiler supports a part of JSON Schema, refuses some of the rest, and
with some patterns it crashes or never returns (seen on 0.9.3). So a schema is rewritten before it is sent:

- Definitions move to the root under short names, because a reference resolves against the root, and because the
  compiler fails on some names (an underscore in the name of a recursive definition).
- Annotations are dropped: a node with only a title is refused.
- A node that accepts anything lists all types: the compiler refuses `true`, and treats `{}` as an object.
- Keywords next to a union move into its branches, since the compiler would ignore them; `oneOf` becomes `anyOf`, which
  is the same for a grammar, and `allOf` becomes one schema.
- Patterns are rewritten where a plain form of them exists (`\d` becomes `[0-9]`), else dropped (`patterns.py`).
- Conditions (`not`, `if`, ...) and unknown formats are dropped: no grammar expresses them, and some compilers refuse
  them.
- Bounds beyond 32 bits are dropped, because 0.9.3 uses their lower half, and so are counts over 2,000, which newer
  servers refuse and for which older ones use too much memory.

Dropped constraints still apply when the answer is validated here, which is done against the full schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import unquote

from namel3ss_ollama.patterns import portable_pattern

__all__ = ["ANYTHING", "Schema", "hoist", "portable_schema", "with_references_resolved"]

Schema = dict[str, Any]
_DROPPED = frozenset(
    {"$anchor", "$comment", "$id", "$schema", "$vocabulary", "contentEncoding", "contentMediaType", "contentSchema",
     "default", "deprecated", "description", "discriminator", "example", "examples", "externalDocs", "readOnly",
     "title", "writeOnly", "xml",
     "contains", "dependentRequired", "dependentSchemas", "else", "if", "maxContains", "minContains", "not",
     "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties", "uniqueItems"}
)  # fmt: skip
"""Annotations, and conditions that no grammar expresses."""
_DEFINITIONS = ("$defs", "definitions")
_UNIONS = ("anyOf", "oneOf")
_LOWER_BOUNDS = frozenset({"minimum", "exclusiveMinimum"})
_UPPER_BOUNDS = frozenset({"maximum", "exclusiveMaximum"})
_LARGEST_BOUND = 2**31 - 1
_LEAST_COUNTS = frozenset({"minLength", "minItems"})
_MOST_COUNTS = frozenset({"maxLength", "maxItems"})
_LARGEST_COUNT = 2000
_TYPES = ("object", "array", "string", "number", "boolean", "null")
ANYTHING: Schema = {"type": [*_TYPES]}
"""A node that accepts any value."""
_SHAPES = frozenset(
    {"$ref", "allOf", "anyOf", "const", "enum", "items", "oneOf", "pattern", "prefixItems", "properties", "type"}
)
"""Keys of which each says on its own what a value looks like."""
_SHAPED_FORMATS = frozenset({"date", "date-time", "time", "uuid"})
_FORMATS = _SHAPED_FORMATS | {"duration", "email", "hostname", "ipv4", "ipv6", "uri"}
_UUIDS = frozenset(f"uuid{version}" for version in range(1, 9))
_OF_NODES = frozenset(
    {"additionalProperties", "allOf", "anyOf", "contains", "else", "if", "items", "not", "oneOf", "prefixItems",
     "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties"}
)  # fmt: skip
"""Keys with a node, or a list of nodes."""
_OF_NAMED_NODES = frozenset({"dependentSchemas", "patternProperties", "properties"})
_OUTLINE = ("type", "title", "description", "enum")
"""The keywords kept of a node whose reference is not followed."""
_MOST_NODES = 5000
"""If the resolved form has more nodes, further references are replaced by outlines."""


def portable_schema(schema: Mapping[str, Any]) -> Schema:
    """A JSON schema for `format` that a server's grammar compiler accepts. The argument is not changed.

    Raises:
        ValueError: A reference is dangling, or the schema is nested too deeply.
    """
    definitions: dict[str, Schema] = {}
    root = hoist(schema, definitions)
    if "" in root.get("properties", ()):
        # The compiler names a rule after the path to a property, and treats the one without a name as the root.
        definitions[f"D{len(definitions)}"] = root
        root = {"$ref": f"#/$defs/D{len(definitions) - 1}"}
    return {**root, "$defs": definitions} if definitions else root


def hoist(schema: Mapping[str, Any], definitions: dict[str, Schema]) -> Schema:
    """The rewritten schema, with the targets of its references in `definitions` under short names.

    Raises:
        ValueError: A reference points to nothing in the schema, or it is nested too deeply.
    """
    try:
        return _Rewriting(schema, definitions).node(schema)
    except RecursionError as error:
        raise ValueError("a JSON schema is nested too deeply") from error


class _Rewriting:
    """Rewrites one schema, with `definitions` that several schemas may share."""

    def __init__(self, root: Mapping[str, Any], definitions: dict[str, Schema]) -> None:
        self._root = root
        self._definitions = definitions
        self._names: dict[str, str] = {}

    def node(self, node: Any) -> Schema:
        """A node of the schema; an invalid node is treated as one that accepts anything."""
        if not isinstance(node, Mapping):
            return {"type": list(_TYPES)}
        kept = self._flat(node, frozenset())
        for key in _UNIONS:
            if key in kept and len(kept) > 1:
                kept = {key: [_merged(kept, key, branch) for branch in kept[key] if branch is not False]}
        if "prefixItems" in kept:
            kept.pop("items", None)  # the compiler would read it instead of the tuple
        elif kept.get("type") == "array" and "items" not in kept and kept.keys() & {"minItems", "maxItems"}:
            kept["items"] = {}  # without it the compiler ignores them
        values = kept.get("patternProperties")
        if isinstance(values, Mapping) and values and not kept.keys() & {"properties", "additionalProperties"}:
            # The compiler ignores the patterns; the values should at least have the right type.
            kinds = [*values.values()]
            kept["additionalProperties"] = kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
        result = {key: value for key, old in kept.items() if (value := self._value(key, old)) is not None}
        if "oneOf" in result and "anyOf" not in result:
            result["anyOf"] = result.pop("oneOf")  # the same to a grammar, and some compilers refuse the former
        shaped = _SHAPES & result.keys() or result.get("format") in _SHAPED_FORMATS
        if not shaped and result.get("additionalProperties", True) is True:
            result["type"] = list(_TYPES)
        return result

    def _flat(self, node: Mapping[str, Any], inside: frozenset[str]) -> Schema:
        """The node without annotations, and with its `allOf` merged in: the compiler reads that of objects only.

        Args:
            node: The node.
            inside: The references that are being merged in, of which none may be merged into itself.
        """
        flat = {k: v for k, v in node.items() if k not in _DROPPED and k not in _DEFINITIONS and k[:2] != "x-"}
        parts = flat.pop("allOf", None)
        if not isinstance(parts, list):
            return flat
        references = [part for part in parts if isinstance(part, Mapping) and "$ref" in part]
        if len(references) == len(parts) == 1 and flat.keys() <= {"type"}:
            return {"$ref": references[0]["$ref"]}
        for part in parts:
            flat = _both(flat, self._part(part, inside))
        return flat

    def _part(self, part: Any, inside: frozenset[str]) -> Schema:
        """A part of an `allOf`, flat; nothing where it is no schema, or refers to what it is a part of."""
        if not isinstance(part, Mapping):
            return {}
        if "$ref" not in part:
            return self._flat(part, inside)
        reference = str(part["$ref"])
        return {} if reference in inside else self._part(_resolve(self._root, part["$ref"]), inside | {reference})

    def _value(self, key: str, value: Any) -> Any:
        """The value of a key of a node; None where the key is to be left out."""
        if key == "$ref":
            return f"#/$defs/{self._definition(value)}"
        if key in ("properties", "patternProperties") and isinstance(value, Mapping):
            return {name: self.node(each) for name, each in value.items() if each is not False}
        if key in ("anyOf", "oneOf", "prefixItems") and isinstance(value, list):
            return [self.node(each) for each in value if each is not False] or None
        if key == "items":
            if isinstance(value, list):
                return [self.node(each) for each in value]
            return None if value is False else self.node(value)
        if key == "additionalProperties" and not isinstance(value, bool):
            return self.node(value)
        if key == "pattern":
            return portable_pattern(value)
        if key == "format":
            return "uuid" if value in _UUIDS else value if value in _FORMATS else None
        return _portable_limit(key, value)

    def _definition(self, ref: object) -> str:
        target = _resolve(self._root, ref)
        name = self._names.get(str(ref))
        if name is None:
            name = self._names[str(ref)] = f"D{len(self._definitions)}"
            self._definitions[name] = {}  # taken before what is in it is looked at: it may refer to itself
            self._definitions[name] = self.node(target)
        return name


def with_references_resolved(schema: Mapping[str, Any]) -> Schema:
    """A schema with its references replaced by their targets, and thus without definitions; for `tools`.

    Keywords next to a reference override those of its target. A reference to an enclosing node is replaced by that
    node's outline (type, title, description), so that recursion ends; so are all references once the schema has become
    very large. A reference to another document is kept, together with the definitions.

    Raises:
        ValueError: A reference points to nothing in the schema, or it is nested too deeply.
    """
    try:
        if not _refers(schema):
            return dict(schema)
        resolving = _Resolving(schema)
        resolved: Schema = resolving.node(schema, frozenset({"#"}))
    except RecursionError as error:
        raise ValueError("a JSON schema is nested too deeply") from error
    if not resolving.leaves_any:
        resolved = {key: value for key, value in resolved.items() if key not in _DEFINITIONS}
    return resolved


def _refers(node: Any) -> bool:
    """Whether a schema contains a reference, or something that looks like one."""
    if isinstance(node, Mapping):
        return "$ref" in node or any(map(_refers, node.values()))
    return isinstance(node, list) and any(map(_refers, node))


class _Resolving:
    """Resolves the references of one schema."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._nodes = 0
        self.leaves_any = False

    def node(self, node: Any, inside: frozenset[str]) -> Any:
        """A node of the schema.

        Args:
            node: The node; what is none (True, False) stays as it is.
            inside: The references whose targets it stands in.
        """
        if not isinstance(node, Mapping):
            return node
        self._nodes += 1
        reference = node.get("$ref")
        if isinstance(reference, str):
            if reference == "#" or reference.startswith("#/"):
                return self._target(node, reference, inside)
            self.leaves_any = True
        return {key: self._value(key, value, inside) for key, value in node.items()}

    def _target(self, node: Mapping[str, Any], reference: str, inside: frozenset[str]) -> Any:
        """What a reference points to, with what stands beside the reference."""
        target = _resolve(self._root, reference)
        beside = {key: value for key, value in node.items() if key != "$ref"}
        if not isinstance(target, Mapping):
            return beside or target
        if reference in inside or self._nodes > _MOST_NODES:
            target = {key: target[key] for key in _OUTLINE if key in target}
        return self.node({**target, **beside}, inside | {reference})

    def _value(self, key: str, value: Any, inside: frozenset[str]) -> Any:
        if key in _OF_NAMED_NODES and isinstance(value, Mapping):
            return {name: self.node(each, inside) for name, each in value.items()}
        if key not in _OF_NODES:
            return value
        return [self.node(each, inside) for each in value] if isinstance(value, list) else self.node(value, inside)


def _portable_limit(key: str, value: Any) -> Any:
    """A bound or a count as the compiler takes it; None where it is to be left out. Anything else as it is."""
    if key in _LOWER_BOUNDS or key in _UPPER_BOUNDS:
        return None if isinstance(value, (int, float)) and abs(value) > _LARGEST_BOUND else value
    if key in _LEAST_COUNTS:
        return min(value, _LARGEST_COUNT) if isinstance(value, int) else None
    if key in _MOST_COUNTS:
        return value if isinstance(value, int) and value <= _LARGEST_COUNT else None
    return value


def _both(one: Schema, other: Schema) -> Schema:
    """A schema for what fits both. Where no single key says so, `one` holds."""
    both = {**other, **one}
    for key in one.keys() & other.keys():
        first, second = one[key], other[key]
        if isinstance(first, Mapping) and isinstance(second, Mapping):
            if key in ("properties", "patternProperties"):
                shared = {name: _both_of(first[name], second[name]) for name in first.keys() & second.keys()}
                both[key] = {**first, **second, **shared}
        elif isinstance(first, list) and isinstance(second, list):
            if key == "required":
                both[key] = [*first, *(name for name in second if name not in first)]
            elif key in ("enum", "type"):
                both[key] = [value for value in first if value in second] or first
        elif key == "type":
            both[key] = first if isinstance(first, str) else second
        elif isinstance(first, (int, float)) and isinstance(second, (int, float)):
            if key in _LOWER_BOUNDS or key in _LEAST_COUNTS:
                both[key] = max(first, second)
            elif key in _UPPER_BOUNDS or key in _MOST_COUNTS:
                both[key] = min(first, second)
    return both


def _both_of(one: Any, other: Any) -> Any:
    if isinstance(one, Mapping) and isinstance(other, Mapping) and "$ref" not in one and "$ref" not in other:
        return _both(dict(one), dict(other))
    return other if one is True else one


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
