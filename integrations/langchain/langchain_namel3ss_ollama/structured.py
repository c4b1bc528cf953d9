"""Structured output: the parsers behind `with_structured_output`, none of which ends in a silent None.

LangChain's parsers complete JSON that was cut, and yield nothing where a stream ends without an object. Here an answer
that is not whole, or no object at all, is an `OutputParserException` that says what to do.
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
        schema: A pydantic class, a TypedDict class, a JSON schema, or a function's definition as OpenAI has it.
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
    """What OpenAI's `response_format` is as Ollama's `format`; None for plain text.

    Raises:
        ValueError: It is none that is known.
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
    """Holds a parser to its word: a whole object, or an error."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """As the parser does; never None for a whole answer."""
        result = [self._cleaned(result[0])]
        if not partial:
            self._check(result[0])
        value = super().parse_result(result, partial=partial)  # type: ignore[misc] # a mixin: a parser comes next
        if value is None and not partial:
            raise OutputParserException(f"the answer holds no object{_reason(result[0])}", llm_output=result[0].text)
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
    return f"; the model ended it with {info['done_reason']!r}" if info.get("done_reason") else ""


class _WholeJson(_Whole):
    def _cleaned(self, generation: Generation) -> Generation:
        """Without reasoning that the model wrote into its text."""
        found = json_in(generation.text)
        return generation if found == generation.text else generation.model_copy(update={"text": found})

    def _check(self, generation: Generation) -> None:
        """Refuse JSON that was cut: LangChain's parser would close its brackets."""
        text = generation.text.strip()
        if not text or text.startswith(("{", "[")) or _metadata(generation).get("format_error"):
            try:
                from_json(text)
            except ValueError as error:
                # Where it breaks is told, what it says is in `llm_output` alone.
                raise OutputParserException(
                    f"the answer is no whole JSON ({error}){_reason(generation)}", llm_output=generation.text
                ) from None


class WholeJsonParser(_WholeJson, JsonOutputParser):
    """JSON of no particular class."""


class WholePydanticParser(_WholeJson, PydanticOutputParser):  # type: ignore[type-arg] # of any class
    """JSON of a pydantic class."""


class WholeKeyToolParser(_Whole, JsonOutputKeyToolsParser):
    """The arguments of a call of one tool."""


class WholePydanticToolParser(_Whole, PydanticToolsParser):
    """The arguments of a call of one tool, as an instance of its class."""


def json_parser(schema: Any) -> JsonOutputParser:
    """The parser of an answer that is JSON."""
    if is_pydantic_class(schema):
        return WholePydanticParser(pydantic_object=schema)
    return WholeJsonParser()


def tool_parser(schema: Any, name: str) -> Any:
    """The parser of an answer that is a call of the tool `name`."""
    if is_pydantic_class(schema):
        return WholePydanticToolParser(tools=[schema], first_tool_only=True)
    return WholeKeyToolParser(key_name=name, first_tool_only=True)
