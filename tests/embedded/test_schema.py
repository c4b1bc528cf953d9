"""`format`: schemas that the engine enforces like Ollama, and those that it rejects rather than ignores."""

from __future__ import annotations

from typing import Any

import pytest

from namel3ss_ollama.embedded.refusal import Refused
from namel3ss_ollama.embedded.schema import compiled


def without_layout(schema: dict[str, Any] | None) -> dict[str, Any]:
    assert schema is not None
    return {key: value for key, value in schema.items() if key != "x-guidance"}


@pytest.mark.parametrize("wanted", [None, ""])
def test_no_format(wanted: object) -> None:
    assert compiled(wanted) is None


def test_any_json() -> None:
    assert compiled("json") == {"type": "object"}
    assert without_layout(compiled({})) == {}


def test_objects_have_only_the_properties_that_they_name() -> None:
    inner = {"type": "object", "properties": {"x": {"type": "integer"}}}
    schema = {
        "type": "object",
        "properties": {"a": inner, "properties": {"type": "string"}, "b": {"type": "array", "items": inner}},
        "$defs": {"d": inner},
    }
    closed = {**inner, "additionalProperties": False}
    assert without_layout(compiled(schema)) == {
        "type": "object",
        "properties": {"a": closed, "properties": {"type": "string"}, "b": {"type": "array", "items": closed}},
        "$defs": {"d": closed},
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {}, "additionalProperties": {"type": "integer"}},
        {"type": "object", "additionalProperties": True},
        {"type": "object"},
        {"const": {"properties": {"a": 1}}},
        {"enum": [{"properties": {}}, 1]},
        {"type": "array", "minItems": 1, "maxItems": 10_000},
        {"const": {"maxItems": 10**9}},
    ],
)
def test_other_schemas_are_unchanged(schema: dict[str, Any]) -> None:
    assert without_layout(compiled(schema)) == schema


@pytest.mark.parametrize("wanted", ["xml", 7, [], True])
def test_an_invalid_format(wanted: object) -> None:
    with pytest.raises(Refused, match="invalid format") as refused:
        compiled(wanted)
    assert refused.value.status == 400


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param({"type": "unheard of"}, id="an unknown type"),
        pytest.param({"$ref": "#/$defs/none"}, id="a reference to nothing"),
        pytest.param({"$ref": "https://example.com/schema"}, id="a reference elsewhere"),
        pytest.param({"not": {"type": "string"}}, id="not"),
        pytest.param({"type": "string", "pattern": "("}, id="an invalid pattern"),
        pytest.param({"type": "array", "uniqueItems": True}, id="unique items"),
        pytest.param({"if": {"type": "string"}, "then": {"const": "a"}}, id="a condition"),
        pytest.param(nested(2000), id="deep nesting"),
        pytest.param({"type": "array", "minItems": 10**9}, id="a billion items"),
        pytest.param({"anyOf": [{"type": "array", "maxItems": 10_001}]}, id="more items than a grammar allows"),
    ],
)
def test_what_cannot_be_enforced_is_rejected(schema: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="invalid JSON schema in format") as refused:
        compiled(schema)
    assert refused.value.status == 400
