"""The smallest instance of a JSON schema.

What a server with constrained decoding would answer: used if a request has a schema in `format` and the test scripted
nothing. Covers common schemas, such as pydantic's: types, enum, const, default, anyOf, oneOf, allOf, $ref into the same
document, required properties, lengths and bounds. Patterns are not solved: such a string only has the right length.
A recursive schema ends at its first optional or nullable position.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

from .values import as_list, as_object

__all__ = ["minimal"]

_DEPTH = 12
_FORMATS = {
    "date": "2000-01-01",
    "date-time": "2000-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "email": "a@example.com",
    "uri": "http://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "ipv4": "127.0.0.1",
    "ipv6": "::1",
}


def minimal(schema: object) -> object:
    """A JSON value that is valid for `schema`, as small as the schema allows; `None` for the schema `False`.

    >>> minimal({"type": "object", "properties": {"n": {"type": "integer", "minimum": 3}}, "required": ["n"]})
    {'n': 3}
    """
    return _value(schema, schema, 0)


def _value(schema: object, root: object, depth: int) -> object:
    if not isinstance(schema, Mapping):
        return {} if schema is True else None
    node = _flat(cast("Mapping[str, object]", schema), root, 0)
    if "const" in node:
        return node["const"]
    choices = as_list(node.get("enum"))
    if choices:
        return choices[0]
    for key in ("anyOf", "oneOf"):
        options = as_list(node.get(key))
        if options:
            return _value(_choose(options, node, key, depth), root, depth)
    kind = _kind(node, depth)
    if kind == "object":
        return _object(node, root, depth)
    if kind == "array":
        return _array(node, root, depth)
    if kind == "string":
        return _string(node)
    if kind in ("integer", "number"):
        return _number(node, kind == "integer")
    return False if kind == "boolean" else None


def _flat(node: Mapping[str, object], root: object, hops: int) -> dict[str, object]:
    """The node with its $ref followed and its allOf merged in."""
    merged = {key: value for key, value in node.items() if key not in ("$ref", "allOf")}
    parts: list[object] = []
    reference = node.get("$ref")
    if isinstance(reference, str) and hops < 50:
        parts.append(_resolve(reference, root))
    parts.extend(as_list(node.get("allOf")))
    for part in parts:
        if isinstance(part, Mapping):
            _merge(merged, _flat(cast("Mapping[str, object]", part), root, hops + 1))
    return merged


def _merge(into: dict[str, object], other: Mapping[str, object]) -> None:
    for key, value in other.items():
        old = into.get(key)
        if key == "properties" and isinstance(old, dict) and isinstance(value, dict):
            into[key] = {**cast("dict[str, object]", value), **cast("dict[str, object]", old)}
        elif key == "required" and isinstance(old, list) and isinstance(value, list):
            names = [*cast("list[object]", old), *cast("list[object]", value)]
            into[key] = list(dict.fromkeys(cast("list[str]", names)))
        elif key == "enum" and isinstance(old, list) and isinstance(value, list):
            allowed = cast("list[object]", value)
            into[key] = [one for one in cast("list[object]", old) if one in allowed]
        elif key in ("minimum", "exclusiveMinimum", "minLength", "minItems") and isinstance(old, (int, float)):
            into[key] = max(old, value) if isinstance(value, (int, float)) else old
        elif key in ("maximum", "exclusiveMaximum", "maxLength", "maxItems") and isinstance(old, (int, float)):
            into[key] = min(old, value) if isinstance(value, (int, float)) else old
        else:
            into.setdefault(key, value)


def _resolve(reference: str, root: object) -> object:
    """The schema that `#/$defs/Name` refers to; an empty schema if there is none."""
    found = root
    for part in reference.lstrip("#").split("/"):
        if not part:
            continue
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping):
            found = cast("Mapping[str, object]", found).get(key, {})
        elif isinstance(found, list) and key.isdigit() and int(key) < len(cast("list[object]", found)):
            found = cast("list[object]", found)[int(key)]
        else:
            return {}
    return found


def _choose(options: list[object], node: Mapping[str, object], key: str, depth: int) -> object:
    """The first branch, merged with its sibling keys; at depth, the shortest one, null."""
    chosen = options[0]
    if depth >= _DEPTH // 2:
        for option in options:
            if as_object(option).get("type") == "null":
                chosen = option
    rest = {name: value for name, value in node.items() if name != key}
    return {"allOf": [chosen, rest]} if set(rest) - {"title", "description", "default", "$defs"} else chosen


def _kind(node: Mapping[str, object], depth: int) -> str:
    kind = node.get("type")
    if isinstance(kind, list) and kind:
        kinds = cast("list[object]", kind)
        kind = "null" if depth >= _DEPTH // 2 and "null" in kinds else kinds[0]
    if isinstance(kind, str):
        return kind
    for name, keys in (
        ("object", ("properties", "required", "additionalProperties")),
        ("array", ("items", "prefixItems", "minItems")),
        ("string", ("minLength", "maxLength", "pattern", "format")),
        ("number", ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")),
    ):
        if any(key in node for key in keys):
            return name
    return "object"


def _object(node: Mapping[str, object], root: object, depth: int) -> dict[str, object]:
    names = as_list(node.get("required"))
    known = as_object(node.get("properties"))
    if depth >= _DEPTH:
        return {}
    ordered = [name for name in known if name in names] + [
        name for name in names if isinstance(name, str) and name not in known
    ]
    extra = node.get("additionalProperties", True)
    return {name: _value(known.get(name, extra), root, depth + 1) for name in ordered}


def _array(node: Mapping[str, object], root: object, depth: int) -> list[object]:
    heads = as_list(node.get("prefixItems"))
    least = node.get("minItems")
    count = least if isinstance(least, int) else 0
    if depth >= _DEPTH:
        return []
    items = node.get("items", True)
    return [_value(heads[i] if i < len(heads) else items, root, depth + 1) for i in range(count)]


def _string(node: Mapping[str, object]) -> str:
    form = node.get("format")
    if isinstance(form, str) and form in _FORMATS:
        return _FORMATS[form]
    least = node.get("minLength")
    return "a" * least if isinstance(least, int) else ""


def _number(node: Mapping[str, object], whole: bool) -> int | float:
    low, high = _bound(node, "minimum"), _bound(node, "maximum")
    above, below = _bound(node, "exclusiveMinimum"), _bound(node, "exclusiveMaximum")
    step = _bound(node, "multipleOf") or (1 if whole else None)
    floor = max((x for x in (low, above) if x is not None), default=None)
    ceiling = min((x for x in (high, below) if x is not None), default=None)
    open_floor = above is not None and floor == above
    open_ceiling = below is not None and ceiling == below
    value: float = 0
    if floor is not None and (floor > 0 or (floor == 0 and open_floor)):
        value = floor
        if step:
            value = math.ceil(floor / step) * step
            value += step if open_floor and value == floor else 0
        elif open_floor:
            value = (floor + ceiling) / 2 if ceiling is not None else floor + 1
    elif ceiling is not None and (ceiling < 0 or (ceiling == 0 and open_ceiling)):
        value = ceiling
        if step:
            value = math.floor(ceiling / step) * step
            value -= step if open_ceiling and value == ceiling else 0
        elif open_ceiling:
            value = (floor + ceiling) / 2 if floor is not None else ceiling - 1
    return int(value) if whole or value == int(value) else value


def _bound(node: Mapping[str, object], key: str) -> int | float | None:
    value = node.get(key)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
