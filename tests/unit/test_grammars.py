"""Variants of a schema: padded for its grammar, with escapes, and simplified."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from namel3ss_ollama.grammars import in_escapes, simplest, with_room
from namel3ss_ollama.schemas import ANYTHING, portable_schema

Schema = dict[str, Any]
INTEGER = {"type": "integer"}


def properties(count: int, name: str = "a_property_with_a_long_name") -> Schema:
    return {"type": "object", "properties": {f"{name}_{i}": {**INTEGER} for i in range(count)}}


def nested(levels: int) -> Schema:
    schema: Schema = {"type": "integer"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"child": schema, "name": {"type": "string"}}}
    return schema


@pytest.mark.parametrize(
    "schema", [properties(200), nested(50), portable_schema(nested(50))], ids=["wide", "deep", "sent"]
)
def test_a_schema_with_a_large_grammar_is_padded(schema: Schema) -> None:
    # Once wrong: Ollama 0.9.3 truncates the grammar at four times the schema's length, and rejects it.
    roomy = with_room(schema)
    assert len(roomy.pop("$comment")) > len(json.dumps(schema)) / 8
    assert roomy == schema


@pytest.mark.parametrize(
    "schema", [{}, INTEGER, properties(20), nested(5), {"enum": [f"value {i}" for i in range(200)]}]
)
def test_any_other_schema_is_unchanged(schema: Schema) -> None:
    assert with_room(schema) is schema


@pytest.mark.parametrize(
    ("schema", "escaped"),
    [
        ({"const": 'say "hi"'}, {"const": r"say \u0022hi\u0022"}),
        ({"enum": ["C:\\temp", "plain", 1, None]}, {"enum": [r"C:\u005ctemp", "plain", 1, None]}),
        ({"const": {'a"': ["b\n", "\x01"]}}, {"const": {r"a\u0022": [r"b\u000a", r"\u0001"]}}),
        ({"properties": {'a"': INTEGER}, "required": ['a"']},
         {"properties": {r"a\u0022": INTEGER}, "required": [r"a\u0022"]}),
        ({"$defs": {"D0": {"anyOf": [{"items": {"const": '"'}}]}}},
         {"$defs": {"D0": {"anyOf": [{"items": {"const": r"\u0022"}}]}}}),
        ({"additionalProperties": {"prefixItems": [{"const": '"'}]}},
         {"additionalProperties": {"prefixItems": [{"const": r"\u0022"}]}}),
        ({"properties": {"const": {"const": "é 日本 /"}}, "pattern": '^"$'},
         {"properties": {"const": {"const": "é 日本 /"}}, "pattern": '^"$'}),
    ],
)  # fmt: skip
def test_characters_that_json_escapes(schema: Schema, escaped: Schema) -> None:
    assert in_escapes(schema) == escaped


@pytest.mark.slow
@given(st.recursive(st.none() | st.integers() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)))
def test_a_compiler_that_escapes_nothing_writes_json_of_the_value(value: Any) -> None:
    sent = in_escapes({"const": value})["const"]
    written = json.dumps(sent, ensure_ascii=False).replace("\\\\", "\\")
    assert json.loads(written) == value


@pytest.mark.parametrize(
    ("schema", "simple"),
    [
        ({"type": "string", "pattern": "^a$", "maxLength": 3}, {"type": "string"}),
        ({"type": "integer", "minimum": 3}, INTEGER),
        ({"format": "date"}, ANYTHING),
        ({"enum": ["a", "b"]}, {"enum": ["a", "b"]}),
        ({"enum": ['"', 1, 2.5, None, True, [], {}]},
         {"type": ["object", "array", "string", "number", "integer", "boolean", "null"]}),
        ({"const": {'"': 1}}, {"type": ["object"]}),
        ({"properties": {'"': INTEGER, "a": INTEGER}, "required": ['"', "a"]},
         {"properties": {"a": INTEGER}, "required": ["a"], "additionalProperties": ANYTHING}),
        ({"items": {"type": "string", "format": "uuid"}, "minItems": 2}, {"items": {"type": "string"}}),
        ({"$ref": "#/$defs/D0", "$defs": {"D0": {"type": "string", "minLength": 1}}},
         {"$ref": "#/$defs/D0", "$defs": {"D0": {"type": "string"}}}),
        ({"patternProperties": {"^a": INTEGER}, "additionalProperties": INTEGER}, {"additionalProperties": INTEGER}),
        ({"type": "nothing"}, {"type": "nothing"}),
    ],
)  # fmt: skip
def test_the_simplest_form_has_only_types_and_names(schema: Schema, simple: Schema) -> None:
    assert simplest(schema) == simple
    assert simplest(simple) == simple
