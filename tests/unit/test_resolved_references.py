"""Schemas of tools whose references are resolved before they are sent."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from pydantic import BaseModel, Field

from namel3ss_ollama.prepare import Defaults, chat_request
from namel3ss_ollama.schemas import with_references_resolved
from namel3ss_ollama.settings import StreamConfig
from namel3ss_ollama.tools import as_sent, tool_definition

ADDRESS = {"type": "object", "properties": {"street": {"type": "string"}}, "required": ["street"]}
DEFINITIONS = {"Address": ADDRESS, "Many": {"type": "array", "items": {"$ref": "#/$defs/Address"}}}


class Person(BaseModel):
    name: str
    friend: Person | None = None
    children: list[Person] = []


class Address(BaseModel):
    street: str


class Move(BaseModel):
    to: Address = Field(description="Where to")
    old: list[Address] = []


def resolved(node: dict[str, Any], **more: Any) -> Any:
    schema = {"type": "object", "properties": {"x": node}, "$defs": DEFINITIONS, **more}
    before = copy.deepcopy(schema)
    result = with_references_resolved(schema)
    assert schema == before
    assert "$defs" not in result
    return result["properties"]["x"]


def asked(**call: Any) -> dict[str, Any]:
    defaults = Defaults("m", {}, StreamConfig(), None, "warn")
    return chat_request(defaults, [{"role": "user", "content": "x"}], call).body


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ({"$ref": "#/$defs/Address"}, ADDRESS),
        ({"$ref": "#/$defs/Many"}, {"type": "array", "items": ADDRESS}),
        ({"$ref": "#/$defs/Address", "description": "Home"}, {**ADDRESS, "description": "Home"}),
        ({"anyOf": [{"$ref": "#/$defs/Address"}, {"type": "null"}]}, {"anyOf": [ADDRESS, {"type": "null"}]}),
        ({"additionalProperties": {"$ref": "#/$defs/Address"}}, {"additionalProperties": ADDRESS}),
        ({"prefixItems": [{"$ref": "#/$defs/Address"}, True]}, {"prefixItems": [ADDRESS, True]}),
        ({"const": {"$ref": "#/$defs/Address"}}, {"const": {"$ref": "#/$defs/Address"}}),
        ({"properties": {"$ref": {"type": "string"}}}, {"properties": {"$ref": {"type": "string"}}}),
    ],
)  # fmt: skip
def test_a_reference_is_replaced_by_its_target(node: dict[str, Any], expected: object) -> None:
    also = {"required": ["x"], "additionalProperties": {"$ref": "#/$defs/Address"}}
    assert resolved(node, **also) == expected


def test_a_schema_without_references_is_unchanged() -> None:
    schema = {"type": "object", "properties": {"x": {"type": "string"}}, "$defs": DEFINITIONS["Address"]}
    assert with_references_resolved(schema) == schema


def test_a_recursive_schema_ends_with_an_outline() -> None:
    outline = {"type": "object", "title": "Person"}
    sent = as_sent(tool_definition(Person))["function"]["parameters"]
    assert sent["properties"]["name"]["type"] == "string"
    assert sent["properties"]["children"]["items"] == outline
    assert sent["properties"]["friend"]["anyOf"] == [outline, {"type": "null"}]
    assert "$ref" not in json.dumps(sent)
    itself = with_references_resolved({"type": "object", "properties": {"next": {"$ref": "#"}}})
    assert itself["properties"]["next"] == {"type": "object"}
    loop = {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}
    assert with_references_resolved({"properties": {"x": {"$ref": "#/$defs/a"}}, "$defs": loop}) == {
        "properties": {"x": {}}
    }


def test_exponential_references_are_limited() -> None:
    names = range(40)  # each refers to the next one twice: 2 to the 40th nodes
    twice = {
        f"d{n}": {"type": "object", "properties": {key: {"$ref": f"#/$defs/d{n + 1}"} for key in "ab"}} for n in names
    }
    definitions = {**twice, "d40": {"type": "string"}}
    sent = with_references_resolved({"properties": {"x": {"$ref": "#/$defs/d0"}}, "$defs": definitions})
    assert len(json.dumps(sent)) < 1_000_000
    assert "$ref" not in json.dumps(sent)


@pytest.mark.parametrize("reference", ["https://example.org/schema.json", "#address"])
def test_other_references_and_their_definitions_are_kept(reference: str) -> None:
    schema = {"properties": {"x": {"$ref": reference}, "y": {"$ref": "#/$defs/Address"}}, "$defs": DEFINITIONS}
    expected = {"properties": {"x": {"$ref": reference}, "y": ADDRESS}, "$defs": DEFINITIONS}
    assert with_references_resolved(schema) == expected


def test_an_unresolvable_reference_names_the_tool() -> None:
    tool = {"name": "f", "parameters": {"properties": {"x": {"$ref": "#/$defs/No"}}}}
    with pytest.raises(ValueError, match=r"^tools: f: a JSON schema refers to '#/\$defs/No', which is not in it$"):
        asked(tools=[tool])


def test_a_schema_that_is_nested_too_deeply_is_rejected() -> None:
    schema: dict[str, Any] = {"$ref": "#"}
    for _ in range(100_000):
        schema = {"items": schema}
    with pytest.raises(ValueError, match="nested too deeply"):
        with_references_resolved(schema)


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_chat_sends_nested_models_in_full(choice: str) -> None:
    body = asked(tools=[Move], tool_choice=choice)
    properties = body["tools"][0]["function"]["parameters"]["properties"]
    assert properties["to"]["properties"]["street"]["type"] == "string"
    assert properties["to"]["description"] == "Where to"
    assert properties["old"]["items"]["required"] == ["street"]
    assert "$ref" not in json.dumps(body["tools"])
