"""Kinds of schemas, what is sent of each, and what a server's grammar enforces: docs/schemas.md and the live tests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Literal, Optional
from uuid import UUID

from pydantic import AnyUrl, BaseModel, ConfigDict, Field, TypeAdapter, create_model

from namel3ss_ollama.grammars import with_room
from namel3ss_ollama.schemas import portable_schema

FULL = "in full"


class Colour(Enum):
    red = "red"
    blue = "blue"


class Level(IntEnum):
    low = 1
    high = 2


class my_node(BaseModel):  # the grammar compiler fails on an underscore in the name
    value: int
    next: my_node | None = None


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(9, ge=0, le=9)


class Dog(BaseModel):
    kind: Literal["dog"]


class Empty(BaseModel):
    pass


class Aliased(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: int = Field(alias='the "name"')


DEEP: dict[str, Any] = {"type": "integer"}
for _ in range(50):
    DEEP = {"type": "object", "properties": {"child": DEEP, "note": {"type": "string"}}, "required": ["child"]}
WIDE = create_model("Wide", **{f"a_property_with_a_long_name_{i}": (Cat | None, None) for i in range(200)})  # type: ignore[call-overload] # made up


@dataclass(frozen=True)
class Row:
    """A kind of schema.

    Attributes:
        kind: Its name on the page.
        of: A type, or a JSON schema.
        held: What the grammar of a server 0.9.3 enforces of it.
        left: What only pydantic checks.
        shown: Whether its schema is short enough for the page.
    """

    kind: str
    of: Any
    held: str = FULL
    left: str = ""
    shown: bool = True

    @property
    def schema(self) -> dict[str, Any]:
        """Its full schema."""
        return dict(self.of) if isinstance(self.of, Mapping) else TypeAdapter(self.of).json_schema()

    @property
    def sent(self) -> dict[str, Any]:
        """What is sent of it."""
        return with_room(portable_schema(self.schema))


def text(**bounds: Any) -> Any:
    """A string with bounds."""
    return Annotated[str, Field(**bounds)]


def number(kind: type, **bounds: Any) -> Any:
    """A number with bounds."""
    return Annotated[kind, Field(**bounds)]


_TYPE = "the type"
ROWS = [
    Row("`str`, `int`, `float`, `bool`, `None`", int),
    Row("`Any`, `object`", Any),
    Row("`Optional`, `X | None`", Optional[int]),  # noqa: UP045
    Row("`Literal`, `const`", Literal["a", 1, None]),
    Row("`Enum`", Colour),
    Row("`IntEnum`", Level),
    Row("names and values with quotation marks, backslashes, line breaks", Literal['say "hi"', "C:\\temp", "a\nb"]),
    Row("a model", Cat),
    Row("a model without fields", Empty),
    Row("`Field(alias=...)`, `extra='allow'`", Aliased),
    Row("a recursive model, nested `$defs`", my_node),
    Row("a union of models, `discriminator`", Annotated[Cat | Dog, Field(discriminator="kind")]),
    Row("50 levels", DEEP, shown=False),
    Row("200 properties", WIDE, shown=False),
    Row("`list[int]`", list[int]),
    Row("`min_length`, `max_length` of a list", Annotated[list[int], Field(min_length=1, max_length=3)]),
    Row("`set[int]`", set[int], "a list", "duplicates, which it drops"),
    Row("`tuple[int, str]`", tuple[int, str]),
    Row("`dict[str, int]`", dict[str, int]),
    Row("`dict` with a pattern for its keys", dict[text(pattern="^[a-z]+$"), int], "the values", "the keys"),
    Row("`min_length`, `max_length` of a string, up to 2,000", text(min_length=2, max_length=5)),
    Row("longer than that", text(max_length=5000), _TYPE, "the length"),
    Row("`ge`, `le` of an `int`, up to 31 bits", number(int, ge=1, le=99)),
    Row("`gt`, `lt` of an `int`", number(int, gt=0, lt=10)),
    Row("bounds beyond 31 bits", number(int, ge=1, le=2**40), "the other bound", "the bound"),
    Row("bounds of a `float`", number(float, ge=0, le=1), _TYPE, "the bounds"),
    Row("`multiple_of`", number(int, multiple_of=5), _TYPE, "the multiple"),
    Row("a pattern from `^` to `$` of characters, classes, groups, repetitions", text(pattern=r"^\d{4}-(?:a|b)+$")),
    Row("any other pattern: look-aheads, no anchors", text(pattern="[A-Z]{3}"), _TYPE, "the pattern"),
    Row("`Decimal`", Decimal, "a number or text", "the text"),
    Row("`date`", date, "the digits", "the day of the month"),
    Row("`datetime`", datetime, "the digits", "the day of the month"),
    Row("`time`", time),
    Row("`timedelta`", timedelta, _TYPE, "the form"),
    Row("`UUID`", UUID, "the digits", "the version"),
    Row("`AnyUrl`, `EmailStr`, other formats", AnyUrl, _TYPE, "the form"),
    Row("`allOf`", {"allOf": [{"$ref": "#/$defs/A"}, {"maximum": 5}], "$defs": {"A": {"type": "integer"}}}),
    Row("`oneOf`", {"oneOf": [{"type": "integer"}, {"type": "string"}]}, "any of them", "that it is one"),
    Row("`not`, `if`, `contains`, `dependentRequired`", {"type": "string", "not": {"const": "a"}}, _TYPE,
        "the condition"),
    Row("`patternProperties`", {"type": "object", "patternProperties": {"^a": {"type": "integer"}}}, "the values",
        "the names"),
    Row("`minProperties`, `maxProperties`",
        {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 1}, "the values",
        "the number"),
]  # fmt: skip

_HEAD = """# Schemas

What a server's grammar enforces of a schema that is sent as `format`, or as the parameters of a tool that `tool_choice`
forces. The rest is validated when the answer is complete: a type (a model, a dataclass, `list[City]`) by pydantic, in
full, and `OutputValidationError` has the invalid text. For a JSON schema in a `dict`, only the second column applies:
the answer is checked to be JSON and returned as text. Validate the rest yourself, for example with the package
`jsonschema`. The arguments of a call are validated by the tool or the framework that runs it.

Tested on a server 0.9.3 with models of 135 million parameters.

| kind | the grammar enforces | pydantic also checks | sent as |
| --- | --- | --- | --- |
"""
_FOOT = """
- **A schema that the server refuses** is sent once more with only types and names, and from then on for that model; a
  warning says so. If that is refused too, `BadRequestError` has the server's message.
- **Quotation marks, backslashes and control characters** in names and values: servers before 0.13.2 produce no grammar
  for them, or a wrong one. To such a server, they are sent as JSON escapes. If a schema has any, the server's version
  is requested, at most once a minute.
- **Large schemas**: servers before 0.30 reserve four times the length of a schema for its grammar. A schema whose
  grammar may be longer is padded with a comment of spaces.
- **Thinking**: a chat with `think=True` and a `format` thinks first on servers from 0.12.4. On older ones, and in
  `agenerate` on all, the grammar applies from the first token on, so `think=False` is sent, with a warning. A forced
  call is always made without thinking.
- **A server that ignores `format`** (cloud models, older MLX runners) is detected from the first answer: it is not
  JSON, or has keys or types that the grammar does not allow. From then on, the schema is described in the system
  message for that model, and a warning says so. An invalid answer is sent back to the model once, with the error; after
  that, `OutputValidationError` says what was tried, and has the last answer. For a schema in a `dict`, the answer is
  only checked to be JSON. A truncated answer, or one that only pydantic rejects, is no evidence about the server.
- **JSON in `thinking`**, with an empty text, is used as the answer. The next request describes the schema, so that
  the model can think before it answers.
- **Streams** are retried only until the first chunk was delivered. After that, the error says so, and the next call
  describes the schema. In a stream, JSON from `thinking` is the content of the last chunk.
- **A raw prompt** (`raw=True`) is never changed.
- **Tools and a grammar together**: if a server refuses that, or answers a forced call with another tool or none, then
  from then on the tools are described in the system message for that model, and only the grammar is sent.
- **Length**: a model may fill `str` or `list` without end; limit that by `max_tokens` or `max_length`.

<!-- Generated by `make pages` from tests/support/schema_table.py, whose rows tests/live runs on a server. -->
"""


def page() -> str:
    """The page docs/schemas.md."""
    return _HEAD + "".join(f"| {' | '.join(_cells(row))} |\n" for row in ROWS) + _FOOT


def _cells(row: Row) -> list[str]:
    sent = f"`{json.dumps(row.sent, ensure_ascii=False)}`" if row.shown else ""
    return [cell.replace("|", "\\|") for cell in (row.kind, row.held, row.left, sent)]
