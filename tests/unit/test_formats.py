"""`format`: what is sent for it, and how the answer is validated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Optional

import pytest
from pydantic import BaseModel, Field, TypeAdapter
from typing_extensions import TypedDict

from namel3ss_ollama.errors import OutputValidationError
from namel3ss_ollama.formats import parsed, read_format
from namel3ss_ollama.types import LLMResponse, Usage


class City(BaseModel):
    name: str
    code: str = Field(default="AAA", pattern="[A-Z]{3}")  # not anchored: no server's grammar enforces it


@dataclass
class Point:
    x: int


class Place(TypedDict):
    x: int


def answer(content: str, reason: str = "stop") -> LLMResponse:
    return LLMResponse(content, "m", Usage(prompt_tokens=1, completion_tokens=1, total_tokens=2), reason, {})


FORMATS: list[tuple[Any, str, Any]] = [
    (City, '{"name": "Bonn"}', City(name="Bonn")),
    (list[City], '[{"name": "Bonn"}]', [City(name="Bonn")]),
    (Literal["a", "b"], '"b"', "b"),
    (Optional[City], "null", None),  # noqa: UP045
    (City | None, '{"name": "Bonn"}', City(name="Bonn")),
    (Annotated[int, Field(ge=1)], "3", 3),
    (dict[str, int], '{"a": 1}', {"a": 1}),
    (tuple[int, str], '[1, "a"]', (1, "a")),
    (Point, '{"x": 1}', Point(1)),
    (Place, '{"x": 1}', {"x": 1}),
    (TypeAdapter(list[int]), "[1]", [1]),
    (Any, "[1]", [1]),
    (int, "1", 1),
]


@pytest.mark.parametrize(("form", "content", "value"), FORMATS, ids=[str(form)[:40] for form, *_ in FORMATS])
def test_pydantic_types_are_formats(form: Any, content: str, value: Any) -> None:
    schema, parse_as = read_format(form)
    assert isinstance(schema, dict)
    assert schema
    assert parse_as is not None
    assert parsed(parse_as, answer(content)) == value


@pytest.mark.parametrize(
    ("form", "name"),
    [
        (City, "City"),
        (list[int], r"list\[int\]"),
        (Literal["a"], r"Literal\['a'\]"),
        (TypeAdapter(list[int]), r"list\[int\]"),
    ],
)
def test_a_validation_error_names_the_type_and_quotes_nothing(form: Any, name: str) -> None:
    _, parse_as = read_format(form)
    assert parse_as is not None
    with pytest.raises(OutputValidationError, match=f"does not match {name} ") as caught:
        parsed(parse_as, answer('["secret"'))
    assert "secret" not in str(caught.value)
    assert caught.value.text == '["secret"'


def test_a_pattern_that_is_not_sent_is_validated() -> None:
    schema, parse_as = read_format(City)
    assert "pattern" not in str(schema)
    assert parse_as is not None
    with pytest.raises(OutputValidationError, match=r"invalid: code\)"):
        parsed(parse_as, answer('{"name": "Bonn", "code": "x"}'))


def test_a_key_that_the_model_wrote_is_not_quoted() -> None:
    # Once wrong: the location of an error has the keys of a dict, which the model wrote
    _, parse_as = read_format(dict[str, list[City]])
    assert parse_as is not None
    with pytest.raises(OutputValidationError, match=r"invalid: \*\.0\.name\)"):
        parsed(parse_as, answer('{"secret": [{"name": 5}]}'))


@pytest.mark.parametrize(
    ("reason", "thinking", "advice"),
    [
        ("length", True, "raise max_tokens"),
        ("stop", True, "pass think=False"),
        ("stop", False, "the text is in `text`"),
    ],
)
def test_the_advice_fits_the_cause(reason: str, thinking: bool, advice: str) -> None:
    _, parse_as = read_format(City)
    assert parse_as is not None
    parse_as.thinking = thinking
    with pytest.raises(OutputValidationError, match=advice):
        parsed(parse_as, answer("{{", reason))


class Calls(BaseModel):
    back: type


class Later(BaseModel):
    other: Unknown  # type: ignore[name-defined] # noqa: F821 # unresolvable on purpose


@pytest.mark.parametrize("form", [Calls, Later, list[Calls], TypeAdapter(Calls)])
def test_a_type_without_a_schema_is_named(form: Any) -> None:
    with pytest.raises(TypeError, match=r"^format: .*(Calls|Later).* has no JSON schema"):
        read_format(form)
