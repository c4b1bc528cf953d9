"""`ChatOllama`: a chat model of LangChain's that talks through the core."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field, model_validator
from typing_extensions import Self

from langchain_namel3ss_ollama._version import __version__
from langchain_namel3ss_ollama.blocks import Kind
from langchain_namel3ss_ollama.chunks import PROVIDER, ChunkMaker, generation_of, unfit_answer
from langchain_namel3ss_ollama.connection import has_several
from langchain_namel3ss_ollama.errors import translated
from langchain_namel3ss_ollama.events import EventMaker
from langchain_namel3ss_ollama.images import Loader, aload_media, load_media
from langchain_namel3ss_ollama.listeners import wants_tokens
from langchain_namel3ss_ollama.messages import media_urls, to_core_messages
from langchain_namel3ss_ollama.profile import profile_of
from langchain_namel3ss_ollama.settings import (
    CALL_FIELDS,
    OPTION_FIELDS,
    OllamaSettings,
    normalised,
    reject_unknown,
)
from langchain_namel3ss_ollama.stand_ins import WantedCalls, in_graph
from langchain_namel3ss_ollama.structured import (
    format_of,
    is_pydantic_class,
    json_parser,
    response_format,
    tool_parser,
)
from langchain_namel3ss_ollama.tool_choice import core_tool_choice
from namel3ss_ollama import (
    Audio,
    Image,
    LLMError,
    LLMResponse,
    Message,
    OllamaProvider,
    fetch_audio,
    fetch_image,
    run_sync,
)

if TYPE_CHECKING:
    from langchain_core.language_models import ModelProfile
    from langchain_protocol.protocol import MessagesData

__all__ = ["ChatOllama"]

_OF_A_CALL = OPTION_FIELDS | CALL_FIELDS | {
    "model", "model_name", "max_tokens", "options", "format", "response_format", "reasoning", "think", "logprobs",
    "top_logprobs", "tools", "tool_choice", "parallel_tool_calls", "strict", "stream",
}  # fmt: skip
_TRACED = "ls_structured_output_format"
"""What LangChain takes out of the keywords of a call for its tracers."""
_NOT_FETCHED: dict[Kind, Image | Audio] = {
    Image: Image(b"\x89PNG"),
    # Ten seconds, of a WAV with a low byte rate in its header.
    Audio: Audio(b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\0\0\0\0\xe8\x03\0\0" + bytes(10_000)),
}
"""Stands for what is counted without being fetched."""
_FORMAT_AND_TOOLS = (
    "format (or response_format) and tools are both given: the grammar of the format leaves the model no way to call a "
    "tool; use a tool for the format too (ToolStrategy in agents, method='function_calling'), or a tool_choice"
)


class _Call(NamedTuple):
    """A call as the core takes it."""

    provider: OllamaProvider
    model: str
    reasoning: bool
    stand_ins: bool
    most_calls: int | None
    settings: dict[str, Any]

    def wanted(self) -> WantedCalls:
        """Which calls of tools are passed on, for one answer."""
        return WantedCalls(stand_ins=self.stand_ins, most=self.most_calls)

    def events(self, message_id: str) -> EventMaker:
        """What makes the events of the answer."""
        calls = self.wanted()
        return EventMaker(
            message_id, self.model, reasoning=self.reasoning, calls=calls, hosts=has_several(self.provider)
        )

    def unfit(self, error: LLMError) -> LLMResponse:
        """The answer in a failure that is about nothing but its format: the parser behind the model judges it.

        Raises:
            LLMError: It is another failure; as LangChain's too.
        """
        response = unfit_answer(error) if "format" in self.settings else None
        if response is None:
            raise translated(error) from error
        return response


class ChatOllama(OllamaSettings, BaseChatModel):
    """A chat model on an Ollama server; a drop-in for `langchain_ollama.ChatOllama`.

    All parameters are keywords; the fields below and those of `OllamaSettings` say what there is. What is not set is
    not sent. Any of the model's settings can be given per call too (`model.invoke(..., temperature=0)`), or bound.

    Example:
        ```python
        from langchain_namel3ss_ollama import ChatOllama

        model = ChatOllama(model="llama3.2", temperature=0)
        print(model.invoke("Why is the sky blue?").text)
        ```

    Raises:
        TypeError: A keyword is unknown (the message names the nearest), or a value has the wrong type.
        ValueError: A value is out of range.
    """

    reasoning: bool | str | None = None
    """Whether a model that can shall think first: True, False, or a level that it has, such as "low", "medium", "high"
    or "max"; None leaves it to the model. What it thinks is in `additional_kwargs["reasoning_content"]`, or in blocks
    of the content with `output_version="v1"`."""

    format: Literal["", "json"] | dict[str, Any] | None = None
    """"json", or a JSON schema that the answer has to hold to."""

    logprobs: bool | None = None
    """Whether the answer's tokens come with their log probabilities (newer servers)."""

    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    """How many alternatives each token comes with; switches `logprobs` on."""

    streaming: bool = False
    """Whether `invoke` always streams inside. By default it does where a callback has an `on_llm_new_token` of its own;
    an explicit False switches streaming off."""

    allow_image_urls: bool = False
    """Whether images and audio that are given as http or https addresses are fetched. Otherwise an address is an
    error: whoever writes the messages could make this machine ask any server that it can reach."""

    image_loader: Callable[[str], Any] | None = Field(default=None, exclude=True)
    """Fetches an image or audio that is given as an address, instead of the built-in way and whatever
    `allow_image_urls` says: a function of the address that returns bytes, an `Image` or an `Audio`, plain or
    `async`."""

    max_image_bytes: int = Field(default=20_000_000, gt=0)
    """The most bytes of an image or a recording that is fetched."""

    @model_validator(mode="after")
    def _check_chat(self) -> Self:
        self._add_version("langchain-namel3ss-ollama", __version__)
        if self.top_logprobs is not None:
            if self.logprobs is False:
                raise ValueError("top_logprobs: is set but logprobs is False; set logprobs=True, or leave it out")
            self.__dict__["logprobs"] = True
        return self

    def _defaults_to_check(self) -> dict[str, Any]:
        checked = super()._defaults_to_check()
        for name, value in (("think", self.reasoning), ("format", self.format), ("logprobs", self.logprobs)):
            if value is not None:
                checked[name] = value
        return checked

    # What LangChain asks about a model

    @property
    def _llm_type(self) -> str:
        return "chat-ollama"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        identity = self._identity()
        for name in ("reasoning", "format", "logprobs", "top_logprobs"):
            if (value := getattr(self, name)) is not None:
                identity[name] = value
        return identity

    @property
    def lc_secrets(self) -> dict[str, str]:
        """The environment variable that a serialised model gets its key from."""
        return {"api_key": "OLLAMA_API_KEY"}

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """True: `langchain_core.load` can make it again."""
        return True

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        """What a cache knows the model by: its fields as they are now, and what a shared provider adds."""
        self.__dict__.pop("_serialized", None)  # LangChain keeps what was true at the first call
        known = super()._get_llm_string(stop=stop, **kwargs)
        return f"{known}---{defaults}" if (defaults := self._shared_defaults()) else known

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        given = normalised(kwargs)
        params = LangSmithParams(
            ls_provider=PROVIDER, ls_model_name=given.get("model") or self.model, ls_model_type="chat"
        )
        if (temperature := given.get("temperature", self.temperature)) is not None:
            params["ls_temperature"] = temperature
        if (limit := given.get("num_predict", self.num_predict)) is not None:
            params["ls_max_tokens"] = limit
        stops = stop or given.get("stop") or self.stop
        if stops:
            params["ls_stop"] = [stops] if isinstance(stops, str) else list(stops)
        return params

    # Calls

    def _should_stream(
        self,
        *,
        async_api: bool,
        run_manager: CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> bool:
        """Whether an answer is streamed inside `invoke`; LangChain's own rule knows only its own listeners."""
        if super()._should_stream(async_api=async_api, run_manager=run_manager, **kwargs):
            return True
        return wants_tokens(run_manager) and not self._streaming_disabled(**kwargs)

    def _request(self, stop: list[str] | None, kwargs: Mapping[str, Any]) -> _Call:
        """What LangChain hands to a method, as the core takes it.

        Raises:
            TypeError, ValueError: An argument is unknown or wrong.
        """
        reject_unknown(kwargs, _OF_A_CALL, type(self).__name__)
        given = normalised(kwargs)
        settings = self._settings_of_call(given, stop)
        settings["model"] = model = given.get("model") or self.model
        thinks = given.get("reasoning", given.get("think", self.reasoning))
        if thinks is not None:
            settings["think"] = thinks
        for name, default in (("logprobs", self.logprobs), ("top_logprobs", self.top_logprobs)):
            if (value := given.get(name, default)) is not None:
                settings[name] = value
        form = self._form(given)
        if given.get("tools"):
            tools = [tool if _is_definition(tool) else convert_to_openai_tool(tool) for tool in given["tools"]]
            settings["tools"] = tools
            choice = core_tool_choice(given.get("tool_choice"), tools)
            if choice is not None:
                settings["tool_choice"] = choice
            if choice is None and form is not None:
                warnings.warn(_FORMAT_AND_TOOLS, UserWarning, stacklevel=2)
            elif choice != "none" and not {"format", "response_format"} & given.keys():
                form = None  # that of the constructor gives way to the call that is forced
        if form is not None:
            settings["format"] = form
        # A forced call answers a program's question; nobody would ask the model again.
        stand_ins = "tools" in settings and "tool_choice" not in settings and in_graph()
        most_calls = _most_calls(given.get("parallel_tool_calls"))
        return _Call(self._provider_for(sync=True), model, thinks is not False, stand_ins, most_calls, settings)

    def _form(self, given: Mapping[str, Any]) -> Any:
        form = given.get("format")
        wanted = given.get("response_format")
        if wanted is not None:
            if form is not None:
                warnings.warn("response_format is ignored: format is given too", UserWarning, stacklevel=2)
            else:
                form = response_format(wanted) or ""
        if form is None:
            form = self.format
        return None if form == "" else form

    def _loaders(self) -> dict[Kind, Loader] | None:
        if self.image_loader is not None:
            return {Image: self.image_loader, Audio: self.image_loader}
        if not self.allow_image_urls:
            return None
        limits: dict[str, Any] = {"max_bytes": self.max_image_bytes, "timeout": min(30.0, self.timeout or 30.0)}
        return {Image: partial(fetch_image, **limits), Audio: partial(fetch_audio, **limits)}

    def _messages(self, messages: Sequence[BaseMessage]) -> list[Message]:
        loaders = self._loaders()
        fetched = load_media(messages, loaders, self.max_image_bytes) if loaders else None
        return to_core_messages(messages, fetched)

    async def _amessages(self, messages: Sequence[BaseMessage]) -> list[Message]:
        loaders = self._loaders()
        fetched = await aload_media(messages, loaders, self.max_image_bytes) if loaders else None
        return to_core_messages(messages, fetched)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = self._request(stop, kwargs)
        try:
            response = call.provider.chat(self._messages(messages), **call.settings)
        except LLMError as error:
            response = call.unfit(error)
        return self._result(response, call)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = self._request(stop, kwargs)._replace(provider=self._provider_for(sync=False))
        try:
            response = await call.provider.achat(await self._amessages(messages), **call.settings)
        except LLMError as error:
            response = call.unfit(error)
        return self._result(response, call)

    async def _agenerate_with_cache(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        try:
            return await super()._agenerate_with_cache(messages, stop=stop, run_manager=run_manager, **kwargs)
        except asyncio.CancelledError as error:
            # LangChain reports every failure but this one, and the run would stay open in its tracers.
            if run_manager is not None:
                await run_manager.on_llm_error(error, response=LLMResult(generations=[[]]))
            raise

    def _result(self, response: LLMResponse, call: _Call) -> ChatResult:
        v1 = self.output_version == "v1"
        generation = generation_of(
            response, v1=v1, reasoning=call.reasoning, calls=call.wanted(), hosts=has_several(call.provider)
        )
        return ChatResult(generations=[generation])

    def _maker(self, call: _Call) -> ChunkMaker:
        v1 = self.output_version == "v1"
        return ChunkMaker(v1=v1, reasoning=call.reasoning, calls=call.wanted(), hosts=has_several(call.provider))

    # Streams. LangChain calls the callbacks for what these yield; they must not.

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        call = self._request(stop, kwargs)
        maker = self._maker(call)
        try:
            with call.provider.stream(self._messages(messages), **call.settings) as stream:
                for piece in stream:
                    if (chunk := maker.chunk(piece)) is not None:
                        yield chunk
                if not maker.finished:
                    yield maker.cut(stream.partial, call.model)
        except LLMError as error:
            yield maker.last(call.unfit(error), call.model)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        call = self._request(stop, kwargs)._replace(provider=self._provider_for(sync=False))
        maker = self._maker(call)
        try:
            stream = call.provider.stream_chat(await self._amessages(messages), **call.settings)
            async with stream:
                async for piece in stream:
                    if (chunk := maker.chunk(piece)) is not None:
                        yield chunk
            if not maker.finished:
                yield maker.cut(stream.partial, call.model)
        except LLMError as error:
            yield maker.last(call.unfit(error), call.model)

    def _stream_chat_model_events(
        self,
        messages: list[BaseMessage],
        *,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[MessagesData]:
        """The protocol events of an answer, without a message object a token."""
        call = self._request(stop, kwargs)
        maker = call.events(_message_id(run_manager))
        try:
            with call.provider.stream(self._messages(messages), **call.settings) as stream:
                for piece in stream:
                    yield from maker.events(piece)
            yield from maker.finish(stream.partial)
        except LLMError as error:
            raise translated(error) from error

    async def _astream_chat_model_events(
        self,
        messages: list[BaseMessage],
        *,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[MessagesData]:
        """As `_stream_chat_model_events`."""
        call = self._request(stop, kwargs)._replace(provider=self._provider_for(sync=False))
        maker = call.events(_message_id(run_manager))
        try:
            stream = call.provider.stream_chat(await self._amessages(messages), **call.settings)
            async with stream:
                async for piece in stream:
                    for event in maker.events(piece):
                        yield event
            for event in maker.finish(stream.partial):
                yield event
        except LLMError as error:
            raise translated(error) from error

    # Tools and structured output

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: dict[str, Any] | str | bool | None = None,
        strict: bool | None = None,
        parallel_tool_calls: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """The model with tools that it may call.

        Args:
            tools: All that `convert_to_openai_tool` takes: functions, pydantic classes, LangChain's tools, schemas.
            tool_choice: Which must be called: None or "auto" (the model decides), "none", "any", "required" or True
                (some tool), a tool's name, or OpenAI's or Anthropic's dict of one. A grammar holds the model to it.
            strict: Passed to `convert_to_openai_tool`.
            parallel_tool_calls: False for at most one call an answer: of several that the model makes the first is
                kept. A server cannot be asked for that.
            **kwargs: Settings of a call, bound too.

        Raises:
            ValueError: `tool_choice` names no tool, or a tool is one that another provider runs on its side.
            TypeError: A keyword is none that a call takes (the message names the nearest).
        """
        reject_unknown(kwargs, _OF_A_CALL | {_TRACED}, f"{type(self).__name__}.bind_tools")
        if parallel_tool_calls is not None:
            _most_calls(parallel_tool_calls)  # a wrong one is an error here, not at the first call
            kwargs["parallel_tool_calls"] = parallel_tool_calls
        for tool in tools:
            _refuse_foreign(tool)
        definitions = [convert_to_openai_tool(tool, strict=strict) for tool in tools]
        if tool_choice is not None:
            core_tool_choice(tool_choice, definitions)  # a wrong one is an error here, not at the first call
            kwargs["tool_choice"] = tool_choice
        return super().bind(tools=definitions, **kwargs)

    def with_structured_output(
        self,
        schema: Any = None,
        *,
        method: Literal["function_calling", "json_mode", "json_schema"] = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """The model with answers of a given shape.

        Args:
            schema: A pydantic class (answers are its instances), a TypedDict class, a JSON schema or an OpenAI
                function (answers are dicts).
            method: "json_schema" holds the model to the schema by a grammar; "function_calling" makes it call a tool
                of that shape, by a grammar too; "json_mode" asks for any JSON, and the prompt must say which.
            include_raw: Whether to answer with a dict of "raw" (the message), "parsed" and "parsing_error" instead.
            strict: Passed to `convert_to_openai_tool` with "function_calling"; a grammar is strict anyway.
            **kwargs: None are known.

        Raises:
            ValueError: An argument is wrong. At the call: `OutputParserException` for an answer that is not whole or
                does not fit; never a None in silence.
        """
        if kwargs:
            raise ValueError(f"with_structured_output got unexpected arguments: {', '.join(sorted(kwargs))}")
        if schema is None and method != "json_mode":
            raise ValueError(f"schema: is needed with method={method!r}")
        traced: dict[str, Any] = {"kwargs": {"method": method}, "schema": schema}
        llm: Runnable[LanguageModelInput, AIMessage]
        parser: Runnable[Any, Any]
        if method == "function_calling":
            definition = convert_to_openai_tool(schema)
            name = definition["function"]["name"]
            traced["schema"] = definition
            llm = self.bind_tools([schema], tool_choice=name, strict=strict, ls_structured_output_format=traced)
            parser = tool_parser(schema, name)
        elif method == "json_schema":
            form = format_of(schema)
            if not is_pydantic_class(schema):
                traced["schema"] = form
            llm = self.bind(format=form, ls_structured_output_format=traced)
            parser = json_parser(schema)
        elif method == "json_mode":
            llm = self.bind(format="json", ls_structured_output_format=traced)
            parser = json_parser(schema)
        else:
            raise ValueError(f"method: {method!r} is none of 'json_schema', 'function_calling', 'json_mode'")
        if not include_raw:
            return llm | parser
        parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
        failed = RunnablePassthrough.assign(parsed=lambda _: None)
        checked: Runnable[Any, Any] = parsed.with_fallbacks([failed], exception_key="parsing_error")
        return RunnableMap(raw=llm) | checked

    # The model itself

    def load_profile(self) -> ModelProfile:
        """Ask the server what the model can do, and keep it as `profile`."""
        return run_sync(self._load_profile(self._provider_for(sync=True)))

    async def aload_profile(self) -> ModelProfile:
        """As `load_profile`."""
        return await self._load_profile(self._provider_for(sync=False))

    async def _load_profile(self, provider: OllamaProvider) -> ModelProfile:
        options = self._settings_of_call({}, None)
        try:
            shown = await provider.show_model(self.model)
            window = await provider.context_window(self.model, num_ctx=options.get("num_ctx"))
        except LLMError as error:
            raise translated(error) from error
        fetched = self._loaders() is not None
        self.profile = profile_of(self.model, shown, window, options.get("num_predict"), image_urls=fetched)
        return self.profile

    def get_num_tokens(self, text: str) -> int:
        """How many tokens a text has: an estimate that is learnt from answers, unless `custom_get_token_ids` is set.

        No tokenizer is downloaded, nothing is sent. `provider.acount_tokens` asks the server.
        """
        if self.custom_get_token_ids is not None:
            return len(self.custom_get_token_ids(text))
        return self._provider_for(sync=True).count_tokens(text, model=self.model)

    def get_token_ids(self, text: str) -> list[int]:
        """What `custom_get_token_ids` says.

        Raises:
            NotImplementedError: It is not set; Ollama's API tells no ids.
        """
        if self.custom_get_token_ids is None:
            raise NotImplementedError("Ollama tells no token ids; set custom_get_token_ids, or use get_num_tokens")
        return self.custom_get_token_ids(text)

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """How many tokens messages have, with the tools: an estimate that is learnt from answers.

        It includes what the model's template puts around messages, so `trim_messages(token_counter=model)` keeps a
        conversation inside the context window. Exact for a conversation that the model has answered.
        """
        if not messages:
            return 0
        not_fetched = {url: _NOT_FETCHED[kind] for url, kind in media_urls(messages).items()}
        definitions = [tool if _is_definition(tool) else convert_to_openai_tool(tool) for tool in tools or ()]
        return self._provider_for(sync=True).count_tokens(
            to_core_messages(messages, not_fetched), definitions, model=self.model
        )


def _most_calls(parallel: object) -> int | None:
    """How many calls of tools an answer may have, by `parallel_tool_calls`."""
    if parallel is not None and not isinstance(parallel, bool):
        raise TypeError(f"parallel_tool_calls: expected True or False, not {parallel!r}")
    return 1 if parallel is False else None


def _refuse_foreign(tool: Any) -> None:
    """Refuse a tool that another provider runs, which LangChain would make a function without parameters of."""
    if isinstance(tool, Mapping) and not {"function", "parameters", "input_schema", "properties"} & tool.keys():
        kind = tool.get("type", "function")
        if kind not in {"function", "object", "custom"}:
            raise ValueError(f"tools: {kind!r:.40} is a tool that another provider runs; Ollama takes functions")


def _is_definition(tool: Any) -> bool:
    return isinstance(tool, Mapping) and "function" in tool


def _message_id(run_manager: Any) -> str:
    return f"lc_run--{run_manager.run_id}" if run_manager is not None else ""
