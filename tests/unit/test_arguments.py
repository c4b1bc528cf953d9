"""Arguments that a model sent as JSON text, converted to the types in the tool's schema."""

from __future__ import annotations

from typing import Any

import pytest

from namel3ss_ollama.answers import Answer
from namel3ss_ollama.arguments import parameters_of, unwrapped

LIST: dict[str, Any] = {"type": "array", "items": {"type": "string"}}
OBJECT: dict[str, Any] = {"type": "object", "properties": {"tags": LIST, "note": {"type": "string"}}}
NULL = {"type": "null"}


def one(schema: object, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"x": schema}, **more}


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        (LIST, '["x"]', ["x"]),
        (LIST, ' ["x"]\n', ["x"]),
        (LIST, "[]", []),
        (OBJECT, '{"note": "n"}', {"note": "n"}),
        (OBJECT, '{"tags": "[\\"x\\"]", "note": "[1]"}', {"tags": ["x"], "note": "[1]"}),
        ({"anyOf": [LIST, NULL]}, '["x"]', ["x"]),
        ({"oneOf": [OBJECT, LIST]}, '["x"]', ["x"]),
        ({"type": ["array", "null"]}, "[1]", [1]),
        ({"allOf": [{"$ref": "#/$defs/L"}], "description": "d"}, '["x"]', ["x"]),
        ({"$ref": "#/$defs/L"}, '["x"]', ["x"]),
        ({"type": "array", "items": OBJECT}, '["{\\"note\\": \\"n\\"}"]', [{"note": "n"}]),
        ({"type": "object", "additionalProperties": LIST}, '{"a": "[]"}', {"a": []}),
        ({"type": "object"}, '{"id": 18446744073709551616}', {"id": 18446744073709551616}),
    ],
)
def test_text_is_converted_to_the_schemas_type(schema: object, text: str, value: object) -> None:
    # Once wrong: a list sent as text failed in the tool
    assert unwrapped({"x": text}, one(schema, **{"$defs": {"L": LIST}})) == {"x": value}


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "string"}, '["x"]'),
        ({"anyOf": [LIST, {"type": "string"}]}, '["x"]'),
        ({"type": ["array", "string"]}, '["x"]'),
        ({}, '["x"]'),
        ({"description": "anything"}, '["x"]'),
        (True, '["x"]'),
        ({"enum": ['["x"]', "y"]}, '["x"]'),
        ({"anyOf": [LIST, {"$ref": "#/$defs/nowhere"}]}, '["x"]'),
        ({"$ref": "#/$defs/circle"}, '["x"]'),
        (LIST, "x, y"),
        (LIST, '["x"'),
        (LIST, '{"x": 1}'),
        (OBJECT, '["x"]'),
        (LIST, "null"),
        (LIST, "[NaN]"),
        (LIST, "[" * 100_000),
        ({"type": "integer"}, "[1]"),
        ({"type": "integer"}, "1"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_other_text_is_unchanged(schema: object, text: str) -> None:
    arguments = {"x": text}
    circle = {"$ref": "#/$defs/circle"}
    assert unwrapped(arguments, one(schema, **{"$defs": {"circle": circle}})) is arguments


def test_unknown_and_valid_arguments_are_unchanged() -> None:
    arguments = {"x": ["a"], "y": "[1]"}
    assert unwrapped(arguments, one(LIST)) is arguments
    assert unwrapped(arguments, {"type": "object"}) is arguments


def test_a_deep_value_of_a_recursive_schema() -> None:
    node = {"type": "object", "properties": {"child": {"$ref": "#"}}}
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"child": deep}
    assert unwrapped(deep, node) is deep


def test_an_answer_knows_the_tools_of_its_request() -> None:
    tools = [{"function": {"name": "add", "parameters": one(LIST)}}, {"function": {"name": "now"}}]
    answer = Answer("chat", (), parameters_of(tools))
    calls = [
        {"id": name, "function": {"name": name, "arguments": {"x": '["x"]'}}} for name in ("add", "now", "unknown")
    ]
    chunk = answer.chunk({"message": {"content": "", "tool_calls": calls}, "done": False})
    assert [call.arguments["x"] for call in chunk.tool_calls] == [["x"], '["x"]', '["x"]']
    assert [call.id for call in chunk.tool_calls] == ["add", "now", "unknown"]
