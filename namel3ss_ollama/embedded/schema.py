"""`format`: the schema that constrains an answer, as Ollama's server interprets it, translated for llguidance."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from namel3ss_ollama.embedded.refusal import Refused

__all__ = ["compiled"]

Schema = dict[str, Any]
_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""A fixed layout: given the choice, a small model fills its answer with whitespace."""
_MAPPINGS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_COUNTS = frozenset({"minItems", "maxItems"})
_MOST_ITEMS = 10_000
"""A grammar has a rule for each item: a billion of them would exhaust the machine's memory and kill the process."""
_PLAIN = frozenset({"const", "enum", "default", "examples"})


def compiled(wanted: object) -> Schema | None:
    """The schema for the engine; None if the answer is unconstrained.

    Args:
        wanted: The request's `format`: "json", a schema, or nothing.

    Raises:
        Refused: It is not a schema, or has a constraint that the engine cannot enforce and would ignore.
    """
    if wanted in (None, ""):
        return None
    if wanted == "json":
        return {"type": "object"}
    if not isinstance(wanted, dict):
        raise Refused(400, f'invalid format: {wanted!r}; expected "json" or a valid JSON Schema object')
    from llguidance import LLMatcher

    try:
        schema = {**cast("Schema", _closed(wanted)), "x-guidance": _LAYOUT}
        problem = LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(json.dumps(schema)))
    except RecursionError as error:
        raise Refused(400, "invalid JSON schema in format: it is nested too deeply") from error
    if problem:
        raise Refused(400, f"invalid JSON schema in format: {problem}")
    return schema


def _closed(node: Any) -> Any:
    """A schema whose objects allow only the properties that it names, unless it says otherwise, as in Ollama."""
    if isinstance(node, list):
        return [_closed(item) for item in node]
    if not isinstance(node, Mapping):
        return node
    closed: Schema = {}
    for key, value in node.items():
        if key in _COUNTS and isinstance(value, (int, float)) and value > _MOST_ITEMS:
            raise Refused(
                400, f"invalid JSON schema in format: {key} is out of range: it must be from 0 to {_MOST_ITEMS}"
            )
        if key in _PLAIN:
            closed[key] = value
        elif key in _MAPPINGS and isinstance(value, Mapping):
            closed[key] = {name: _closed(inner) for name, inner in value.items()}
        else:
            closed[key] = _closed(value)
    if "properties" in closed and not closed.keys() & {"additionalProperties", "patternProperties", "allOf"}:
        closed["additionalProperties"] = False
    return closed
