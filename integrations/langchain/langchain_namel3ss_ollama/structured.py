"""Structured output: the parsers behind `with_structured_output`, which never return None silently.

LangChain's parsers complete truncated JSON, and yield nothing if a stream ends without an object. Here an incomplete
answer, or one without an object, raises an `OutputParserException` that says what to do.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import BaseMessage, BaseMessageChunk
from langchain_core.output_parsers import (
    JsonOutputKeyToolsParser,
    JsonOutputParser,
    PydanticOutputParser,
    PydanticToolsParser,
)
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation
from langchain_core.utils.function_calling import convert_to_json_schema
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel
from pydantic_core import from_json
from typing_extensions import is_typeddict

from namel3ss_ollama import json_in

__all__ = ["format_of", "is_pydantic_class", "json_parser", "response_format", "tool_parser"]


def is_pydantic_class(schema: Any) -> bool:
    """Whether it is a model class of pydantic 1 or 2."""
    return isinstance(schema, type) and is_basemodel_subclass(schema)


def format_of(schema: Any) -> dict[str, Any]:
    """The JSON schema to send for a schema of any kind.

    Args:
        schema: A pydantic class, a TypedDict class, a JSON schema, or a function definition in OpenAI's form.
    """
    if is_pydantic_class(schema):
        found: dict[str, Any] = schema.model_json_schema() if issubclass(schema, BaseModel) else schema.schema()
        return found
    if isinstance(schema, Mapping) and not {"function", "parameters", "input_schema"} & schema.keys():
        return dict(schema)
    found = convert_to_json_schema(schema)
    if is_typeddict(schema) and "required" not in found:
        found["required"] = list(found.get("properties", {}))
    return found


def response_format(value: Any) -> Any:
    """Convert OpenAI's `response_format` to Ollama's `format`; None for plain text.

    Raises:
        ValueError: The form is unknown.
    """
    if is_pydantic_class(value):
        return format_of(value)
    if isinstance(value, Mapping):
        kind = value.get("type")
        if kind == "text":
            return None
        if kind == "json_object":
            return "json"
        if kind == "json_schema":
            envelope = value.get("json_schema")
            schema = envelope.get("schema") if isinstance(envelope, Mapping) else value.get("schema")
            if isinstance(schema, Mapping):
                return dict(schema)
    raise ValueError(
        'response_format: expected {"type": "json_schema", "json_schema": {"schema": {...}}}, {"type": "json_object"}, '
        '{"type": "text"} or a pydantic class'
    )


class _Whole:
    """Makes a parser return a complete object, or raise."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """Parse like the base class, but raise instead of returning None for a complete answer."""
        result = [self._cleaned(result[0])]
        if not partial:
            self._check(result[0])
        value = super().parse_result(result, partial=partial)  # type: ignore[misc] # a mixin: a parser comes next
        if value is None and not partial:
            raise OutputParserException(f"the answer contains no object{_reason(result[0])}", llm_output=result[0].text)
        return value

    def _cleaned(self, generation: Generation) -> Generation:
        return generation

    def _check(self, generation: Generation) -> None:
        pass

    def _transform(self, input: Iterator[str | BaseMessage]) -> Iterator[Any]:
        seen: list[Any] = []

        def kept() -> Iterator[str | BaseMessage]:
            for chunk in input:
                seen.append(chunk)
                yield chunk

        yield from super()._transform(kept())  # type: ignore[misc] # as above
        self.parse_result([_merged(seen)])

    async def _atransform(self, input: AsyncIterator[str | BaseMessage]) -> AsyncIterator[Any]:
        seen: list[Any] = []

        async def kept() -> AsyncIterator[str | BaseMessage]:
            async for chunk in input:
                seen.append(chunk)
                yield chunk

        async for value in super()._atransform(kept()):  # type: ignore[misc] # as above
            yield value
        self.parse_result([_merged(seen)])


def _merged(seen: list[Any]) -> Generation:
    if seen and all(isinstance(chunk, BaseMessageChunk) for chunk in seen):
        return ChatGenerationChunk(message=seen[0] + seen[1:] if len(seen) > 1 else seen[0])
    if len(seen) == 1 and isinstance(seen[0], BaseMessage):
        return ChatGeneration(message=seen[0])
    return Generation(text="".join(chunk if isinstance(chunk, str) else chunk.text for chunk in seen))


def _reason(generation: Generation) -> str:
    info = _metadata(generation)
    tried = f"; {info['format_error']}" if info.get("format_error") else ""
    return f"{_cause(generation, info)}{tried}"


def _metadata(generation: Generation) -> dict[str, Any]:
    return generation.message.response_metadata if isinstance(generation, ChatGeneration) else {}


def _cause(generation: Generation, info: Mapping[str, Any]) -> str:
    if info.get("done_reason") == "length":
        return "; it was cut by the token limit: raise max_tokens"
    thought = isinstance(generation, ChatGeneration) and generation.message.additional_kwargs.get("reasoning_content")
    if thought and not generation.text:
        return "; the model wrote nothing but its reasoning: pass reasoning=False, or ask again"
    return f"; the finish reason is {info['done_reason']!r}" if info.get("done_reason") else ""


class _WholeJson(_Whole):
    def _cleaned(self, generation: Generation) -> Generation:
        """Strip reasoning that the model wrote into its text."""
        found = json_in(generation.text)
        return generation if found == generation.text else generation.model_copy(update={"text": found})

    def _check(self, generation: Generation) -> None:
        """Reject truncated JSON: LangChain's parser would close its brackets."""
        text = generation.text.strip()
        if not text or text.startswith(("{", "[")) or _metadata(generation).get("format_error"):
            try:
                from_json(text)
            except ValueError as error:
                # The message gives the position; the text itself is only in `llm_output`.
                raise OutputParserException(
                    f"the answer is not complete JSON ({error}){_reason(generation)}", llm_output=generation.text
                ) from None


class WholeJsonParser(_WholeJson, JsonOutputParser):
    """Parses JSON without a class."""


class WholePydanticParser(_WholeJson, PydanticOutputParser):  # type: ignore[type-arg] # of any class
    """Parses JSON into a pydantic class."""


class WholeKeyToolParser(_Whole, JsonOutputKeyToolsParser):
    """Returns the arguments of a call of one tool."""


class WholePydanticToolParser(_Whole, PydanticToolsParser):
    """Returns the arguments of a call of one tool as an instance of its class."""


def json_parser(schema: Any) -> JsonOutputParser:
    """The parser for a JSON answer."""
    if is_pydantic_class(schema):
        return WholePydanticParser(pydantic_object=schema)
    return WholeJsonParser()


def tool_parser(schema: Any, name: str) -> Any:
    """The parser for an answer that calls the tool `name`."""
    if is_pydantic_class(schema):
        return WholePydanticToolParser(tools=[schema], first_tool_only=True)
    return WholeKeyToolParser(key_name=name, first_tool_only=True)
