"""Structured output: the four methods of LlamaIndex's LLMs, with a grammar where LlamaIndex leaves it to the LLM.

In `PydanticProgramMode.DEFAULT` the class's JSON schema is sent as `format`, and the server can decode nothing else; in
`LLM` the prompt describes the schema, in LlamaIndex's words. The other modes use LlamaIndex's own programs. The tool
call for the object is forced, also in streams, where LlamaIndex itself would leave it to the model. In every mode, a
truncated or invalid answer raises `StructuredOutputError`, and a stream that finishes has yielded a valid object.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, cast

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ThinkingBlock
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined] # it is re-exported there
from llama_index.core.instrumentation.events.llm import (
    LLMStructuredPredictEndEvent,
    LLMStructuredPredictInProgressEvent,
    LLMStructuredPredictStartEvent,
)
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.output_parsers import PydanticOutputParser
from llama_index.core.program.utils import FlexibleModel, create_flexible_model, get_program_for_llm
from llama_index.core.prompts import BasePromptTemplate, ChatPromptTemplate, PromptTemplate
from llama_index.core.types import BasePydanticProgram, Model, PydanticProgramMode
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from namel3ss_ollama import OutputValidationError, json_in

__all__ = ["StructuredOutputError", "StructuredOutputs", "an_answer_came"]

dispatcher = get_dispatcher(__name__)
_answers: ContextVar[list[None] | None] = ContextVar("_answers", default=None)
"""For the running program: an item per answer received."""
_PARSE_AGAIN = 128


class StructuredOutputError(OutputValidationError, ValueError):
    """The answer is not an object of the requested class; `text` is the answer as the model wrote it.

    It is a core error, and also a `ValueError`, which LlamaIndex's programs raise.
    """


class StructuredOutputs(FunctionCallingLLM):
    """Adds structured output to an LLM; the subclass provides `chat` and its siblings."""

    _calls_must_be_valid: bool = PrivateAttr(default=False)
    """Whether an invalid tool call raises even if no tool call is required."""

    def structured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """Answer a prompt with an object.

        Args:
            output_cls: A pydantic class.
            prompt: The prompt template.
            llm_kwargs: Keywords for `chat`.
            **prompt_args: The variables of the template.

        Raises:
            StructuredOutputError: The answer is not such an object.
            LLMError: The request failed.
        """
        dispatcher.event(
            LLMStructuredPredictStartEvent(output_cls=output_cls, template=prompt, template_args=prompt_args)
        )
        if plan := self._plan(output_cls, prompt, llm_kwargs, prompt_args):
            with _naming_unfit_answers(output_cls):
                result = plan.result(self.chat(plan.messages, **plan.keywords))
        else:
            program = self._program(output_cls, prompt)
            with _Naming(output_cls):
                result = _of_class(output_cls, program(llm_kwargs=dict(llm_kwargs or {}), **prompt_args))
        dispatcher.event(LLMStructuredPredictEndEvent(output=result))
        return result

    async def astructured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """Async version of `structured_predict`."""
        dispatcher.event(
            LLMStructuredPredictStartEvent(output_cls=output_cls, template=prompt, template_args=prompt_args)
        )
        if plan := self._plan(output_cls, prompt, llm_kwargs, prompt_args):
            with _naming_unfit_answers(output_cls):
                result = plan.result(await self.achat(plan.messages, **plan.keywords))
        else:
            template: BasePromptTemplate = prompt
            if self.pydantic_program_mode == PydanticProgramMode.FUNCTION:
                # LlamaIndex's program ignores the system prompt in asynchronous calls without streaming.
                template = ChatPromptTemplate(self._extend_messages(prompt.format_messages(llm=self, **prompt_args)))
                prompt_args = {}
            program = self._program(output_cls, template)
            with _Naming(output_cls):
                result = _of_class(output_cls, await program.acall(llm_kwargs=dict(llm_kwargs or {}), **prompt_args))
        dispatcher.event(LLMStructuredPredictEndEvent(output=result))
        return result

    def stream_structured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Model | FlexibleModel, None, None]:
        """Answer a prompt with an object, as a stream: partial objects, and finally a valid one.

        Arguments and errors are those of `structured_predict`. A partial object has the class's fields as attributes,
        None for those not yet received, and is an instance of the class itself as soon as it is valid.
        """
        dispatcher.event(
            LLMStructuredPredictStartEvent(output_cls=output_cls, template=prompt, template_args=prompt_args)
        )
        last: Any = None
        objects = self._structured_stream_call(output_cls, prompt, llm_kwargs, **prompt_args)
        for last in cast("Generator[Model | FlexibleModel, None, None]", objects):
            dispatcher.event(LLMStructuredPredictInProgressEvent(output=last))
            yield last
        dispatcher.event(LLMStructuredPredictEndEvent(output=_of_class(output_cls, last)))

    async def astream_structured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Model | FlexibleModel, None]:
        """Async version: `async for object in await llm.astream_structured_predict(...)`."""

        async def gen() -> AsyncGenerator[Model | FlexibleModel, None]:
            dispatcher.event(
                LLMStructuredPredictStartEvent(output_cls=output_cls, template=prompt, template_args=prompt_args)
            )
            last: Any = None
            objects = await self._structured_astream_call(output_cls, prompt, llm_kwargs, **prompt_args)
            async for last in cast("AsyncGenerator[Model | FlexibleModel, None]", objects):
                dispatcher.event(LLMStructuredPredictInProgressEvent(output=last))
                yield last
            dispatcher.event(LLMStructuredPredictEndEvent(output=_of_class(output_cls, last)))

        return gen()

    # LlamaIndex's own streams, and its StructuredLLM, use these two methods too.

    def _structured_stream_call(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Model | list[Model] | FlexibleModel | list[FlexibleModel], None, None]:
        plan = self._plan(output_cls, prompt, llm_kwargs, prompt_args)
        if plan is None:
            program = self._program(output_cls, prompt, **self._forcing())
            with _naming_cut_answers(output_cls):
                yield from program.stream_call(llm_kwargs=dict(llm_kwargs or {}), **prompt_args)
            return
        growing = _GrowingObject(plan)
        response = None
        with _naming_unfit_answers(output_cls):
            for response in self.stream_chat(plan.messages, **plan.keywords):
                if (partial := growing.add(response)) is not None:
                    yield partial
        yield plan.result(response)

    async def _structured_astream_call(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Model | list[Model] | FlexibleModel | list[FlexibleModel], None]:
        async def gen() -> AsyncGenerator[Model | list[Model] | FlexibleModel | list[FlexibleModel], None]:
            plan = self._plan(output_cls, prompt, llm_kwargs, prompt_args)
            if plan is None:
                program = self._program(output_cls, prompt, **self._forcing())
                with _naming_cut_answers(output_cls):
                    async for item in await program.astream_call(llm_kwargs=dict(llm_kwargs or {}), **prompt_args):
                        yield item
                return
            growing = _GrowingObject(plan)
            response = None
            with _naming_unfit_answers(output_cls):
                async for response in await self.astream_chat(plan.messages, **plan.keywords):
                    if (partial := growing.add(response)) is not None:
                        yield partial
            yield plan.result(response)

        return gen()

    def _plan(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None,
        prompt_args: dict[str, Any],
    ) -> _Plan[Model] | None:
        """What to send, and how to parse the answer; None if a LlamaIndex program does that."""
        if self.pydantic_program_mode == PydanticProgramMode.DEFAULT:
            keywords = {**(llm_kwargs or {}), "format": output_cls.model_json_schema()}
            messages = self._get_messages(prompt, **prompt_args)
            return _Plan(output_cls, messages, keywords, output_cls.model_validate_json, in_text=False)
        if self.pydantic_program_mode == PydanticProgramMode.LLM:
            parser = PydanticOutputParser(output_cls=output_cls)
            template = prompt.model_copy()
            template.output_parser = parser
            messages = self._extend_messages(template.format_messages(llm=self, **prompt_args))
            return _Plan(output_cls, messages, dict(llm_kwargs or {}), parser.parse, in_text=True)
        return None

    def _program(
        self, output_cls: type[Model], prompt: BasePromptTemplate, **settings: Any
    ) -> BasePydanticProgram[Model]:
        # Copies: programs modify the prompt that they are given, and in a stream they ignore an invalid call.
        llm = self.model_copy()
        llm._calls_must_be_valid = True
        mode = self.pydantic_program_mode
        return get_program_for_llm(output_cls, prompt.model_copy(), llm, pydantic_program_mode=mode, **settings)

    def _forcing(self) -> dict[str, Any]:
        """Settings that make a program force its tool call in a stream, where LlamaIndex does not."""
        return {"tool_choice": "required"} if self.pydantic_program_mode == PydanticProgramMode.FUNCTION else {}


@dataclass(frozen=True)
class _Plan(Generic[Model]):
    """How to get an object without a program.

    Attributes:
        output_cls: Its class.
        messages: The messages to send.
        keywords: The keywords of the call.
        parse: Converts the answer's text to the object; raises `ValueError`.
        in_text: Whether other text may surround the object.
    """

    output_cls: type[Model]
    messages: list[ChatMessage]
    keywords: dict[str, Any]
    parse: Callable[[str], Model]
    in_text: bool

    def result(self, response: ChatResponse | None) -> Model:
        """Parse an answer.

        Raises:
            StructuredOutputError: It is not an object of the class.
        """
        text = (response.message.content if response else None) or ""
        try:
            return self._parsed(text)
        except ValueError as error:
            raise self._failure(text, response, error) from None  # a traceback would quote the answer

    def _parsed(self, text: str) -> Model:
        found = json_in(text)
        try:
            return self.parse(found if self.in_text else text)
        except ValueError:
            if self.in_text or found == text:
                raise
            return self.parse(found)

    def _failure(self, text: str, response: ChatResponse | None, error: ValueError) -> StructuredOutputError:
        raw = response.raw if response is not None and isinstance(response.raw, dict) else {}
        places = "the top level"
        if isinstance(error, ValidationError):
            places = ", ".join(sorted({".".join(map(str, e["loc"])) or places for e in error.errors()})[:5])
        thought = response is not None and any(isinstance(b, ThinkingBlock) for b in response.message.blocks)
        if (not text and thought) or (text and not json_in(text)):
            why = "the model wrote nothing but its thinking: ask again, or pass think=False"
        elif not text:
            why = "it is empty"
        elif raw.get("done_reason") == "length":
            why = "it was cut by the token limit: raise num_predict (max_tokens)"
        else:
            why = "what the model wrote is in `text`"
        return StructuredOutputError(
            f"the answer is not a valid {self.output_cls.__name__} (at {places}); {why}",
            original_error=error,
            text=text,
        )


def _of_class(output_cls: type[Model], result: Any) -> Model:
    """Check the result of a program.

    Raises:
        StructuredOutputError: It is not an object of the class.
    """
    if isinstance(result, output_cls):
        return result
    kind = "nothing" if result is None else f"a {type(result).__name__}"
    text = result.model_dump_json() if isinstance(result, BaseModel) else ""
    raise StructuredOutputError(f"the answer is not a valid {output_cls.__name__}: it was parsed as {kind}", text=text)


def an_answer_came() -> None:
    """Record, for the running program if any, that its LLM has answered: later errors concern the answer."""
    answers = _answers.get()
    if answers is not None:
        answers.append(None)


class _Naming:
    """Converts errors of LlamaIndex's programs about an answer to one error that names the class; others pass."""

    def __init__(self, output_cls: type[BaseModel]) -> None:
        self._output_cls = output_cls
        self._came: list[None] = []

    def __enter__(self) -> None:
        self._token = _answers.set(self._came)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        _answers.reset(self._token)
        if isinstance(error, OutputValidationError):
            raise _named(self._output_cls, error) from error
        if isinstance(error, (ValueError, TypeError)) and self._came:
            raise StructuredOutputError(
                f"the answer is not a valid {self._output_cls.__name__}; LlamaIndex's error message, which quotes the "
                "answer, is in `text`",
                original_error=error,
                text=str(error),
            ) from None


@contextmanager
def _naming_cut_answers(output_cls: type[BaseModel]) -> Generator[None, None, None]:
    """Like `_Naming`, for a program that streams, which does not itself report an invalid answer."""
    try:
        yield
    except OutputValidationError as error:
        raise _named(output_cls, error) from error


@contextmanager
def _naming_unfit_answers(output_cls: type[BaseModel]) -> Generator[None, None, None]:
    """Like `_naming_cut_answers`, for the LLM itself; without the cause, as for an answer that is parsed here."""
    try:
        yield
    except StructuredOutputError:
        raise
    except OutputValidationError as error:
        raise _named(output_cls, error) from None


def _named(output_cls: type[BaseModel], error: OutputValidationError) -> StructuredOutputError:
    return StructuredOutputError(
        f"the answer is not a valid {output_cls.__name__}: {error.message}",
        original_error=error,
        text=error.text,
        response=error.response,
    )


class _GrowingObject(Generic[Model]):
    """The object so far, from a growing text.

    Each update parses the text from the beginning, so a longer text needs more new characters before the next update:
    the total work stays linear in the length, and a stream of short objects still yields one per token.
    """

    def __init__(self, plan: _Plan[Model]) -> None:
        self._plan = plan
        self._flexible = create_flexible_model(plan.output_cls)
        self._length = 0
        self._value: Any = None

    def add(self, response: ChatResponse) -> Model | FlexibleModel | None:
        """The object if it has changed; otherwise None."""
        text = response.message.content or ""
        if (len(text) - self._length) * _PARSE_AGAIN <= len(text):
            return None
        self._length = len(text)
        if self._plan.in_text:
            text = json_in(text)
            text = text[max(text.find("{"), 0) : text.rfind("}") + 1 or None]
        try:
            value = from_json(text, allow_partial="trailing-strings")
        except ValueError:
            return None
        if not isinstance(value, dict) or value == self._value:
            return None
        self._value = value
        try:
            return self._plan.output_cls.model_validate(value)
        except ValidationError:
            return self._flexible.model_validate(value)
