"""The smallest instance of a schema, and the examples in the documentation."""

from __future__ import annotations

import doctest
import importlib

import pytest

from namel3ss_ollama.testing import minimal_instance

OBJECT = {"type": "object"}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "string"}, ""),
        ({"type": "string", "minLength": 3}, "aaa"),
        ({"type": "string", "format": "date"}, "2000-01-01"),
        ({"type": "integer"}, 0),
        ({"type": "integer", "minimum": 3}, 3),
        ({"type": "integer", "exclusiveMinimum": 3}, 4),
        ({"type": "integer", "exclusiveMinimum": 0}, 1),
        ({"type": "integer", "maximum": -2}, -2),
        ({"type": "integer", "exclusiveMaximum": 0}, -1),
        ({"type": "integer", "minimum": 5, "multipleOf": 4}, 8),
        ({"type": "number", "exclusiveMinimum": 1, "exclusiveMaximum": 2}, 1.5),
        ({"type": "number", "exclusiveMinimum": 1}, 2),
        ({"type": "number", "exclusiveMaximum": -1}, -2),
        ({"type": "number", "minimum": 0.5}, 0.5),
        ({"type": "boolean"}, False),
        ({"type": "null"}, None),
        ({"type": ["integer", "null"]}, 0),
        ({"enum": ["b", "a"]}, "b"),
        ({"const": {"x": 1}}, {"x": 1}),
        ({"type": "array", "items": {"type": "integer"}}, []),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 2}, [0, 0]),
        ({"type": "array", "prefixItems": [{"const": 1}], "items": {"const": 2}, "minItems": 3}, [1, 2, 2]),
        ({"type": "object", "properties": {"a": {"type": "string"}}}, {}),
        ({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}, {"a": ""}),
        ({"properties": {"b": {"const": 2}, "a": {"const": 1}}, "required": ["a", "b"]}, {"b": 2, "a": 1}),
        ({"type": "object", "required": ["x"], "additionalProperties": {"type": "integer"}}, {"x": 0}),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, 0),
        ({"oneOf": [{"type": "string"}, {"type": "null"}], "minLength": 2}, "aa"),
        ({"allOf": [{"type": "integer", "minimum": 2}, {"minimum": 5}]}, 5),
        ({"allOf": [{"enum": [1, 2, 3]}, {"enum": [3, 2]}]}, 2),
        (
            {
                "allOf": [
                    {"properties": {"a": {"const": 1}}, "required": ["a"]},
                    {"properties": {"b": {"const": 2}}, "required": ["b"]},
                ]
            },
            {"a": 1, "b": 2},
        ),
        ({"$ref": "#/$defs/N", "$defs": {"N": {"type": "integer", "minimum": 1}}}, 1),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"const": 1}}}, 1),
        ({"items": {"$ref": "#/prefixItems/0"}, "prefixItems": [{"const": 7}], "minItems": 2}, [7, 7]),
        ({"$ref": "#/nowhere"}, {}),
        ({"maxLength": 3}, ""),
        ({"minimum": 1}, 1),
        ({}, {}),
        (True, {}),
        (False, None),
    ],
)
def test_minimal(schema, value):
    found = minimal_instance(schema)
    assert found == value
    assert type(found) is type(value)


def test_a_recursive_schema_terminates():
    node = {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]}}}
    schema = {"$ref": "#/$defs/Node", "$defs": {"Node": {**node, "required": ["next"]}}}
    value, depth = minimal_instance(schema), 0
    while value is not None:
        assert isinstance(value, dict)
        value, depth = value["next"], depth + 1
    assert depth < 10
    minimal_instance({"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}})
    endless = {"type": "object", "properties": {"x": {"$ref": "#"}}, "required": ["x"]}
    assert isinstance(minimal_instance(endless), dict)


def test_schemas_from_pydantic():
    pydantic = pytest.importorskip("pydantic")

    class City(pydantic.BaseModel):
        name: str = pydantic.Field(min_length=2)
        people: int = pydantic.Field(gt=0)
        twin: City | None

    class Answer(pydantic.BaseModel):
        cities: list[City] = pydantic.Field(min_length=1)
        sure: bool
        share: float = pydantic.Field(ge=0.5, lt=1)

    City.model_rebuild(_types_namespace={"City": City})
    Answer.model_validate(minimal_instance(Answer.model_json_schema()))


@pytest.mark.parametrize("name", ["", ".schema", ".models", ".replies"])
def test_the_examples(name):
    module = importlib.import_module(f"namel3ss_ollama.testing{name}")
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert result.attempted
    assert not result.failed
