"""What a server's version makes of a `format`.

Before 0.13.2 its grammar compiler does not escape names and values: a quotation mark in one of them leaves the server
without a grammar; a backslash comes out as it is in the schema, not as JSON would escape it. Some versions do not hold
some models to it at all, or look for the JSON in the wrong place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from . import versions
from .answers import llama_server_error
from .models import Model
from .values import as_list, as_object
from .versions import ESCAPES_LITERALS

__all__ = ["clash", "holds", "is_taken_for_thinking", "problem", "written"]

_NO_GRAMMAR = "Failed to create new sequence: unable to create sampling context\n"


def problem(schema: Mapping[str, object], version: str) -> str | None:
    """Why the server makes no grammar of a schema, in its own words; None if it does."""
    return _NO_GRAMMAR if not ESCAPES_LITERALS.on(version) and _has_quotation_mark(schema) else None


def written(text: str, version: str) -> str:
    """An answer that fits a schema, as JSON text, in the way that a server of this version would come to write it."""
    return text if ESCAPES_LITERALS.on(version) else text.replace("\\\\", "\\")


def clash(payload: Mapping[str, object], model: Model, version: str) -> str | None:
    """Why the server makes no grammar of a `format` beside `tools`; None if it does."""
    if not (model.call_grammar and payload.get("tools") and payload.get("format")):
        return None
    if not versions.CALL_GRAMMAR.on(version):
        return None
    return llama_server_error("Failed to initialize samplers: failed to parse grammar", 400, "invalid_request_error")


def holds(payload: Mapping[str, object], model: Model, version: str, *, chat: bool) -> bool:
    """Whether a model that the server runs itself is held to the request's `format`."""
    if model.format == "safetensors" and not versions.MLX_FORMAT.on(version):
        return False
    unthinking = chat and _thinks_by_parser(model) and payload.get("think") is False
    return not (unthinking and versions.UNTHINKING_FORMAT.on(version))


def is_taken_for_thinking(
    payload: Mapping[str, object], model: Model, version: str, *, chat: bool, think: bool
) -> bool:
    """Whether the JSON under a `format` comes as `thinking`, which the prompt has begun and no JSON ends."""
    by_parser = bool(payload.get("format")) and not chat and think and _thinks_by_parser(model)
    return by_parser and versions.FORMAT_IN_THINKING.on(version)


def _thinks_by_parser(model: Model) -> bool:
    return bool(model.parser) and "thinking" in model.capabilities


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
