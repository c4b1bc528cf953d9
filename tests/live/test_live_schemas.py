"""Schemas of every kind as `format` and as a forced call's arguments: a real server's grammar compiler takes them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, Optional
from uuid import UUID

import pytest
from one_layer import one_layer
from pydantic import BaseModel, Field, create_model
from schema_table import FULL, ROWS, Row

from namel3ss_ollama import OllamaProvider, OutputValidationError

# The compiler is the same whatever the model, and so is what is sent over either transport.
pytestmark = [pytest.mark.usefixtures("copies"), pytest.mark.parametrize("make", ["aiohttp"], indirect=True)]
TOOLS, THINK = "smollm2-tools:135m", "smollm2-think:135m"
"""For calls with texts of any length, which the one-layer copies never end."""
CHAT_COPY, TOOLS_COPY, THINK_COPY = map(one_layer, ("smollm2:135m", TOOLS, THINK))
SOME = 40
"""Enough tokens to show how the compiler handles a schema, if the answer need not be complete."""
ASK = [{"role": "user", "content": "Make one up."}]
Make = Callable[..., OllamaProvider]


class Colour(Enum):
    """A colour."""

    red = "red"
    blue = "blue"


class my_node(BaseModel):  # the compiler fails on an underscore in the name
    """A list."""

    value: int
    next: my_node | None = Field(default=None, description="The rest.")


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(9, ge=0, le=9)


class Dog(BaseModel):
    kind: Literal["dog"]


TYPES: dict[str, Any] = {
    "Any": Any,
    "object": object,
    "an enum": Colour,
    "recursion": my_node,
    "a constant": Literal["x"],
    "Decimal": Decimal,
    "datetime": datetime,
    "date": date,
    "timedelta": timedelta,
    "UUID": UUID,
    "dict[str, int]": dict[str, int],
    "dict[str, Any]": dict[str, Any],
    "a list of Any": list[Any],
    "a bounded list of Any": Annotated[list[Any], Field(max_length=2)],
    "a tuple": tuple[int, Any],
    "or None": Optional[int],  # noqa: UP045 -- the older spelling is a separate case
    "a bounded number or None": Annotated[int, Field(ge=0, le=99)] | None,
    "Any or None": Any | None,
    "a union of models": Annotated[Cat | Dog, Field(discriminator="kind")],
    "a model": Cat,
    "annotations": Annotated[str, Field(title="T", description="D", examples=["e"], deprecated=True)],
    "bounds": Annotated[int, Field(ge=1, le=99)],
    "a bound beyond 64 bits": Annotated[int, Field(ge=1, lt=2**63)],
    "a pattern": Annotated[str, Field(pattern=r"^[A-Z]{3}$")],
    "a pattern with a class": Annotated[str, Field(pattern=r"^\d{4}-\d{2}$")],
    "a pattern with groups": Annotated[str, Field(pattern=r"^(?:a|b)+-[\w.]{1,5}$")],
    "a pattern of anything": Annotated[str, Field(pattern=r"^x.{0,5}$")],
    "a pattern without anchors": Annotated[str, Field(pattern="[A-Z]{3}")],
    "a pattern of Unicode": Annotated[str, Field(pattern=r"^\p{L}+$")],
}

SCHEMAS: dict[str, dict[str, Any]] = {
    "true": {"type": "object", "properties": {"a": True}, "required": ["a"]},
    "false": {"type": "object", "properties": {"a": False, "b": {"type": "integer"}}},
    "items of anything": {"type": "object", "properties": {"a": {"type": "array", "items": True}}},
    "a tuple that ends": {
        "type": "object",
        "properties": {"a": {"type": "array", "prefixItems": [{"type": "integer"}], "items": False}},
    },
    "one of two is required": {
        "type": "object",
        "properties": {"x": {"type": "integer"}, "y": {"type": "integer"}},
        "anyOf": [{"required": ["x"]}, {"required": ["y"]}],
    },
    "allOf a reference": {
        "type": "object",
        "properties": {"a": {"allOf": [{"$ref": "#/$defs/E"}], "default": "u"}},
        "$defs": {"E": {"enum": ["u", "v"], "title": "E"}},
    },
    "itself": {"type": "object", "properties": {"n": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}},
    "not": {"type": "object", "properties": {"a": {"not": {"type": "string"}}}},
    "a look-ahead": {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(?!a).*$"}}},
    "a bracket alone": {"type": "object", "properties": {"a": {"type": "string", "pattern": "^a]$"}}},
    "what annotations are called": {
        "type": "object",
        "properties": {"title": {"type": "string"}, "default": {"title": "D"}, "pattern": {"type": "integer"}},
        "required": ["title", "default"],
    },
}

HELD = {
    "a constant", "an enum", "a model", "a union of models", "bounds", "a pattern", "a pattern with a class",
    "a pattern with groups", "a pattern of anything", "a bounded number or None", "UUID",
}  # fmt: skip
"""What a grammar enforces completely and in few tokens, so that even a small model's answer validates."""


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.kind)
async def test_the_table_in_the_docs(make: Make, row: Row) -> None:
    try:
        response = await make(model=CHAT_COPY).achat(ASK, format=row.of, max_tokens=60)
    except OutputValidationError as error:
        assert row.held != FULL or "cut by the token limit" in str(error)  # noqa: PT017 -- either is right
    else:
        assert response.content
        # A number is complete wherever it is cut.
        assert isinstance(row.of, dict) or response.finish_reason == "stop" or isinstance(response.parsed, (int, float))


async def test_names_and_values_with_quotation_marks_as_a_forced_call(make: Make) -> None:
    tool = {
        "name": 'say "hi"',
        "parameters": {"type": "object", "properties": {'a "b"': {"const": "C:\\temp\n"}}, "required": ['a "b"']},
    }
    response = await make(model=TOOLS_COPY).achat(ASK, tools=[tool], tool_choice="required", max_tokens=250)
    assert [(call.name, call.arguments) for call in response.tool_calls] == [('say "hi"', {'a "b"': "C:\\temp\n"})]


@pytest.mark.server_only("it has no model that thinks")
@pytest.mark.parametrize("wanted", [Literal["a", "b"], "json"], ids=["type", "json"])
async def test_a_format_of_a_model_that_is_to_think(make: Make, wanted: Any) -> None:
    provider = make(model=THINK_COPY, think=True)
    assert (await provider.achat(ASK, format=wanted, max_tokens=40)).content
    assert (await provider.agenerate("Make one up.", format=wanted, max_tokens=40)).content
    stream = provider.stream_chat(ASK, format=wanted, max_tokens=40)
    assert "".join([chunk.content async for chunk in stream])


@pytest.mark.parametrize("name", TYPES)
async def test_a_type_as_format(make: Make, name: str) -> None:
    provider, model = make(model=CHAT_COPY), create_model("Answer", a=(TYPES[name], ...))
    if name in HELD:
        assert isinstance((await provider.achat(ASK, format=model, max_tokens=250)).parsed, model)
        return
    try:
        text = (await provider.achat(ASK, format=model, max_tokens=SOME)).content
    except OutputValidationError as error:
        text = error.text
    assert text.lstrip().startswith("{")


@pytest.mark.parametrize("name", TYPES)
async def test_a_type_as_the_argument_of_a_forced_call(make: Make, name: str) -> None:
    tool = create_model("Tool", a=(TYPES[name], ...))
    provider = make(model=TOOLS_COPY)
    limit = 250 if name in HELD else SOME
    asked = provider.achat(ASK, tools=[tool], tool_choice="required", max_tokens=limit)
    if name not in HELD:  # the model may generate more than that
        with contextlib.suppress(OutputValidationError):
            await asked
        return
    assert [(call.name, set(call.arguments)) for call in (await asked).tool_calls] == [("Tool", {"a"})]


@pytest.mark.parametrize("name", SCHEMAS)
async def test_a_schema_as_format_and_as_parameters(make: Make, name: str) -> None:
    provider, schema = make(model=CHAT_COPY), SCHEMAS[name]
    response = await provider.agenerate("Make one up.", format=schema, max_tokens=20)
    assert response.content.lstrip().startswith("{")
    if name in ("true", "false"):
        return  # as parameters the server rejects these before any grammar: it decodes a tool's properties into objects
    tool = {"name": "f", "inputSchema": schema}
    with contextlib.suppress(OutputValidationError):  # the model may generate more than that
        await provider.achat(ASK, tools=[tool], tool_choice="f", model=TOOLS_COPY, max_tokens=60)


async def test_an_unannotated_function_can_be_forced(make: Make) -> None:
    def lookup(key, table: str) -> None:  # type: ignore[no-untyped-def] # a parameter without a type is what is tested
        """Look up.

        Args:
            key: What to look for.
            table: Where.
        """

    response = await make(model=TOOLS).achat(ASK, tools=[lookup], tool_choice="required", max_tokens=200)
    assert set(response.tool_calls[0].arguments) == {"key", "table"}


@pytest.mark.server_only("it has no model that thinks")
async def test_a_forced_call_of_a_model_that_is_to_think(make: Make) -> None:
    def weather(city: Literal["Rome", "Oslo"]) -> None:
        """The weather."""

    for provider, call in ((make(model=THINK, think=True), {}), (make(model=THINK), {"think": True})):
        response = await provider.achat(ASK, tools=[weather], tool_choice="weather", max_tokens=80, **call)
        assert response.tool_calls[0].arguments["city"] in ("Rome", "Oslo")
