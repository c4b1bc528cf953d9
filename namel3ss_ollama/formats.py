"""`format`: what is sent of it, and the answer read back. Plain functions over values.

Whatever pydantic's TypeAdapter takes is a format: a model, a dataclass, a TypedDict, `list[City]`, a Literal, an
Optional, an Annotated, or a TypeAdapter itself. The schema that is sent is rewritten for a server's grammar compiler;
the answer is validated against the full one.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from namel3ss_ollama.errors import OutputValidationError
from namel3ss_ollama.exact import read_json
from namel3ss_ollama.grammars import excludes
from namel3ss_ollama.reasoning import json_in, split_reasoning
from namel3ss_ollama.schemas import portable_schema
from namel3ss_ollama.streamer import is_cut
from namel3ss_ollama.types import LLMResponse

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = [
    "ParseAs", "check_json", "fault_of", "held_to", "parsed", "read_format", "take_from_thinking", "without_reasoning",
]  # fmt: skip

_MOST_PLACES = 5
_LONGEST_NAME = 100


class ParseAs:
    """What an answer is validated against.

    Attributes:
        type: What was given as `format`.
        name: Its name in error messages.
        adapter: Validates it.
        thinking: Whether the model was asked to think first, which some servers cannot combine with a grammar.
    """

    __slots__ = ("adapter", "name", "thinking", "type")

    def __init__(self, type: Any, name: str, adapter: TypeAdapter[Any]) -> None:
        self.type = type
        self.name = name
        self.adapter = adapter
        self.thinking = False


def read_format(value: Any) -> tuple[Any, ParseAs | None]:
    """What to send as `format`, and what to validate the answer against.

    Args:
        value: None or "" for no format, "json", a JSON schema, or a type that pydantic's TypeAdapter accepts.

    Raises:
        TypeError: It is none of these, or has no JSON schema.
        ValueError: The schema has a dangling reference.
    """
    if value is None or value == "":
        return None, None
    if value == "json":
        return "json", None
    if isinstance(value, Mapping):
        return _portable(value), None
    from pydantic import TypeAdapter  # slow to import, and not always needed
    from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

    if not (isinstance(value, (type, TypeAdapter)) or _is_type_form(value)):
        raise TypeError(
            "format: expected 'json', a JSON schema or a type that pydantic knows (a model, list[City], Literal[...]), "
            f"not {value!r:.60}"
        )
    name = _name(value)
    try:
        adapter: TypeAdapter[Any] = value if isinstance(value, TypeAdapter) else TypeAdapter(value)
        schema = adapter.json_schema()
    except (PydanticUserError, PydanticSchemaGenerationError, NameError) as error:
        reason = getattr(error, "message", str(error))
        raise TypeError(f"format: {name} has no JSON schema: {reason}") from error
    return _portable(schema), ParseAs(value, name, adapter)


def parsed(parse_as: ParseAs, response: LLMResponse) -> Any:
    """The answer, validated.

    Raises:
        OutputValidationError: It does not validate. The message names the type and the places, never the answer.
    """
    from pydantic import ValidationError

    text = response.content
    try:
        try:
            return parse_as.adapter.validate_json(text)
        except ValidationError:
            if (found := json_in(text)) == text:
                raise
            return parse_as.adapter.validate_json(found)
    except ValidationError as error:
        # Pydantic's own message would quote the answer: only the locations are named.
        known = _names_in(parse_as.adapter.json_schema())
        places = sorted({_place(e["loc"], known) for e in error.errors(include_url=False)})[:_MOST_PLACES]
        if response.finish_reason == "length":
            advice = "it was cut by the token limit: raise max_tokens"
        elif not text and response.thinking:
            advice = "the model wrote nothing but its thinking: pass think=False, or ask again"
        elif parse_as.thinking:
            advice = "this server may lose an answer when thinking under a `format`: pass think=False"
        else:
            advice = "the text is in `text`"
        raise OutputValidationError(
            f"the answer does not match {parse_as.name} (invalid: {', '.join(places)}); {advice}",
            original_error=error,
            text=text,
            response=response,
        ) from None  # a traceback would quote the answer; `original_error` has it


def check_json(response: LLMResponse) -> None:
    """Check that an answer is JSON, of any type. Cut answers, keys and values are left to the caller.

    Raises:
        OutputValidationError: The answer is not JSON. The message does not quote it.
    """
    text = response.content
    if was_cut(response):
        return
    try:
        read_json(json_in(text))
    except ValueError as error:
        advice = (
            "the model wrote nothing but its thinking: pass think=False, or ask again"
            if not text and response.thinking
            else "the text is in `text`"
        )
        raise OutputValidationError(
            f"the answer is not JSON ({len(text)} characters); {advice}",
            original_error=error,
            text=text,
            response=response,
        ) from None  # as in `parsed`


def was_cut(response: LLMResponse) -> bool:
    """Whether an answer is incomplete: cut by the token limit, or by a stop sequence within its JSON."""
    return response.finish_reason == "length" or is_cut(response.content.strip().encode(errors="replace"))


def held_to(form: Any, response: LLMResponse) -> bool:
    """Whether a format may have been enforced on an answer, judging by the answer.

    Args:
        form: The `format` that was sent.
        response: The answer.
    """
    if was_cut(response):
        return True
    try:
        value = read_json(response.content)  # no grammar produces a fence around it
    except ValueError:
        return False
    return not (isinstance(form, dict) and excludes(form, value))


def take_from_thinking(response: LLMResponse) -> bool:
    """Where there is no answer, use JSON that a server took for thinking; whether there was some."""
    if response.content.strip() or not response.thinking:
        return False
    try:
        read_json(response.thinking)
    except ValueError:
        return False
    response.content, response.thinking = response.thinking, ""
    return True


def fault_of(error: OutputValidationError) -> str:
    """What is wrong with an answer, for the model that wrote it; may quote the answer."""
    from pydantic import ValidationError

    found = error.original_error
    if not isinstance(found, ValidationError):
        return f"it is not JSON ({found})"
    faults = [(".".join(map(str, each["loc"])), each["msg"]) for each in found.errors(include_url=False)]
    return "; ".join(f"{place}: {fault}" if place else fault for place, fault in faults[:_MOST_PLACES])


def without_reasoning(response: LLMResponse) -> None:
    """Move reasoning without an opening tag out of the text; only its closing tag identifies it."""
    if "</think>" in response.content:
        thought, rest = split_reasoning(response.content)
        if thought and rest:
            response.content = rest
            response.thinking = response.thinking or thought


def _place(steps: tuple[int | str, ...], known: set[str]) -> str:
    """Where an answer is invalid. A key that the model wrote is shown as a star."""
    return ".".join(str(step) if isinstance(step, int) or step in known else "*" for step in steps) or "the top level"


def _names_in(schema: Any) -> set[str]:
    """All names of properties and definitions in a schema."""
    if isinstance(schema, list):
        return set().union(*map(_names_in, schema))
    if not isinstance(schema, dict):
        return set()
    names: set[str] = set()
    for key, value in schema.items():
        if key in ("properties", "$defs") and isinstance(value, dict):
            names |= value.keys()
        if key not in ("const", "default", "enum", "examples"):
            names |= _names_in(value)
    return names


def _portable(schema: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return portable_schema(schema)
    except ValueError as error:
        raise ValueError(f"format: {error}") from error


def _is_type_form(value: Any) -> bool:
    """Whether a value is a typing construct: list[int], int | None, Literal[...], a NewType, an alias."""
    return (
        typing.get_origin(value) is not None
        or value is Any
        or hasattr(value, "__supertype__")
        or (type(value).__name__ == "TypeAliasType")
    )


def _name(value: Any) -> str:
    from pydantic import TypeAdapter

    if isinstance(value, TypeAdapter):
        value = value._type  # the adapter has no public name for it
    if isinstance(value, type) and typing.get_origin(value) is None:
        return value.__name__
    text = str(value).replace("typing.", "").replace("typing_extensions.", "")
    return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}..."
