"""What a server's version makes of a `format`: before 0.13.2 its grammar compiler does not escape names and values.

A quotation mark in one of them leaves the server without a grammar; a backslash comes out as it is in the schema, not
as JSON would escape it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from .values import as_list, as_object
from .versions import ESCAPES_LITERALS

__all__ = ["problem", "written"]

_NO_GRAMMAR = "Failed to create new sequence: unable to create sampling context\n"


def problem(schema: Mapping[str, object], version: str) -> str | None:
    """Why the server makes no grammar of a schema, in its own words; None if it does."""
    return _NO_GRAMMAR if not ESCAPES_LITERALS.on(version) and _has_quotation_mark(schema) else None


def written(text: str, version: str) -> str:
    """An answer that fits a schema, as JSON text, in the way that a server of this version would come to write it."""
    return text if ESCAPES_LITERALS.on(version) else text.replace("\\\\", "\\")


def _has_quotation_mark(node: object) -> bool:
    """Whether the name of a property or a value that the schema fixes has one in it."""
    if isinstance(node, list):
        return any(map(_has_quotation_mark, cast("list[object]", node)))
    schema = as_object(node)
    fixed = [*as_object(schema.get("properties")), schema.get("const"), *as_list(schema.get("enum"))]
    return any(_is_quoting(value) for value in fixed) or any(
        _has_quotation_mark(value if name not in ("properties", "$defs") else [*as_object(value).values()])
        for name, value in schema.items()
        if name not in ("const", "enum")
    )


def _is_quoting(value: object) -> bool:
    if isinstance(value, str):
        return '"' in value
    if isinstance(value, dict):
        return any(_is_quoting(each) for item in cast("dict[str, object]", value).items() for each in item)
    return any(map(_is_quoting, as_list(value)))
