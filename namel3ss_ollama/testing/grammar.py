"""How a version of the server handles a `format`.

Before 0.13.2 its grammar compiler does not escape names and values: with a quotation mark in one of them, there is no
grammar; a backslash is output as in the schema, without JSON's escape. Some versions do not enforce it for some models,
or look for the JSON in the wrong place.
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
    """The server's error if it cannot compile a grammar from a schema; None if it can."""
    return _NO_GRAMMAR if not ESCAPES_LITERALS.on(version) and _has_quotation_mark(schema) else None


def written(text: str, version: str) -> str:
    """JSON text that matches a schema, as a server of this version would write it."""
    return text if ESCAPES_LITERALS.on(version) else text.replace("\\\\", "\\")


def clash(payload: Mapping[str, object], model: Model, version: str) -> str | None:
    """The server's error if it cannot combine a `format` with `tools`; None if it can."""
    if not (model.call_grammar and payload.get("tools") and payload.get("format")):
        return None
    if not versions.CALL_GRAMMAR.on(version):
        return None
    return llama_server_error("Failed to initialize samplers: failed to parse grammar", 400, "invalid_request_error")


def holds(payload: Mapping[str, object], model: Model, version: str, *, chat: bool) -> bool:
    """Whether the server enforces the request's `format` for a model that it runs itself."""
    if model.format == "safetensors" and not versions.MLX_FORMAT.on(version):
        return False
    unthinking = chat and _thinks_by_parser(model) and payload.get("think") is False
    return not (unthinking and versions.UNTHINKING_FORMAT.on(version))


def is_taken_for_thinking(
    payload: Mapping[str, object], model: Model, version: str, *, chat: bool, think: bool
) -> bool:
    """Whether the JSON for a `format` arrives as `thinking`, which the prompt has opened and no JSON closes."""
    by_parser = bool(payload.get("format")) and not chat and think and _thinks_by_parser(model)
    return by_parser and versions.FORMAT_IN_THINKING.on(version)


def _thinks_by_parser(model: Model) -> bool:
    return bool(model.parser) and "thinking" in model.capabilities


def _has_quotation_mark(node: object) -> bool:
    """Whether a property's name or a fixed value of the schema contains a quotation mark."""
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
