"""`ChatOllama`: a LangChain chat model on the namel3ss-ollama core."""

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
"""The keyword that LangChain takes out of a call for its tracers."""
_NOT_FETCHED: dict[Kind, Image | Audio] = {
    Image: Image(b"\x89PNG"),
    # Ten seconds: a WAV file whose header gives a low byte rate.
    Audio: Audio(b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\0\0\0\0\xe8\x03\0\0" + bytes(10_000)),
}
"""Placeholders for media that are counted without being fetched."""
_FORMAT_AND_TOOLS = (
    "format (or response_format) and tools are both given: the grammar of the format leaves the model no way to call a "
    "tool; use a tool for the format too (ToolStrategy in agents, method='function_calling'), or a tool_choice"
)


class _Call(NamedTuple):
    """A call with the arguments that the core takes."""

    provider: OllamaProvider
    model: str
    reasoning: bool
    stand_ins: bool
    most_calls: int | None
    settings: dict[str, Any]

    def wanted(self) -> WantedCalls:
        """A filter for the tool calls of one answer."""
        return WantedCalls(stand_ins=self.stand_ins, most=self.most_calls)

    def events(self, message_id: str) -> EventMaker:
        """A maker for the events of the answer."""
        calls = self.wanted()
        return EventMaker(
            message_id, self.model, reasoning=self.reasoning, calls=calls, hosts=has_several(self.provider)
        )

    def unfit(self, error: LLMError) -> LLMResponse:
        """The answer of an error that concerns only its format, which the output parser then checks.

        Raises:
            LLMError: Any other error, as one of LangChain's `ModelError` classes too.
        """
        response = unfit_answer(error) if "format" in self.settings else None
        if response is None:
            raise translated(error) from error
        return response


class ChatOllama(OllamaSettings, BaseChatModel):
    """A chat model on an Ollama server; a drop-in for `langchain_ollama.ChatOllama`.

    All parameters are keyword-only: the fields below and those of `OllamaSettings`. What is not set is not sent. You
    can also pass any model setting per call (`model.invoke(..., temperature=0)`), or bind it.

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
    """Whether a model that supports it thinks before it answers: True, False, or one of its levels, such as "low",
    "medium", "high" or "max". None leaves it to the model. The reasoning is in
    `additional_kwargs["reasoning_content"]`, or in content blocks with `output_version="v1"`."""

    format: Literal["", "json"] | dict[str, Any] | None = None
    """"json", or a JSON schema that the answer must match."""

    logprobs: bool | None = None
    """Whether to return the log probabilities of the answer's tokens (newer servers)."""

    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    """How many alternatives to return for each token, with their log probabilities; enables `logprobs`."""

    streaming: bool = False
    """Whether `invoke` always streams internally. By default it does if a callback overrides `on_llm_new_token`; an
    explicit False disables that."""

    allow_image_urls: bool = False
    """Whether to fetch images and audio given as http or https URLs. Otherwise a URL raises `ValueError`: whoever
    writes the messages could make this machine send requests to any server it can reach (server-side request
    forgery)."""

    image_loader: Callable[[str], Any] | None = Field(default=None, exclude=True)
    """A function, sync or async, that fetches an image or audio: it takes the URL and returns bytes, an `Image` or an
    `Audio`. It replaces the built-in download, whatever `allow_image_urls` is."""

    max_image_bytes: int = Field(default=20_000_000, gt=0)
    """The maximum size of a fetched image or recording, in bytes."""

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
        """The environment variable that a deserialised model reads its API key from."""
        return {"api_key": "OLLAMA_API_KEY"}

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """True: `langchain_core.load` can restore it."""
        return True

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        """The cache key of the model: its current fields, and the defaults of a shared provider."""
        self.__dict__.pop("_serialized", None)  # LangChain caches the fields at the first call
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
        """Whether `invoke` streams internally; LangChain's own rule knows only its own handlers."""
        if super()._should_stream(async_api=async_api, run_manager=run_manager, **kwargs):
            return True
        return wants_tokens(run_manager) and not self._streaming_disabled(**kwargs)

    def _request(self, stop: list[str] | None, kwargs: Mapping[str, Any]) -> _Call:
        """Convert the arguments of a LangChain method to a call of the core.

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
                form = None  # a forced call wins over the constructor's format
        if form is not None:
            settings["format"] = form
        # A forced call answers a program, not an agent loop that could ask the model again.
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
            # LangChain reports every error but this one, so the run would stay open in tracers.
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

    # Streams. LangChain calls the callbacks for every yielded chunk; these methods must not.

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
        """The protocol events of an answer, without a message object per token."""
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
        """Async version of `_stream_chat_model_events`."""
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
        """Bind tools that the model may call.

        Args:
            tools: Anything that `convert_to_openai_tool` takes: functions, pydantic classes, LangChain tools, schemas.
            tool_choice: Which tool must be called: None or "auto" (the model decides), "none", "any", "required" or
                True (any tool), a tool's name, or its dict in OpenAI's or Anthropic's form. A grammar enforces it.
            strict: Passed to `convert_to_openai_tool`.
            parallel_tool_calls: False for at most one call per answer: if the model makes several, only the first is
                kept. The server has no such setting.
            **kwargs: Settings of a call, which are bound too.

        Raises:
            ValueError: `tool_choice` names no tool, or a tool is a built-in tool of another provider.
            TypeError: A keyword is unknown (the message names the nearest).
        """
        reject_unknown(kwargs, _OF_A_CALL | {_TRACED}, f"{type(self).__name__}.bind_tools")
        if parallel_tool_calls is not None:
            _most_calls(parallel_tool_calls)  # so that a wrong one raises here, not at the first call
            kwargs["parallel_tool_calls"] = parallel_tool_calls
        for tool in tools:
            _refuse_foreign(tool)
        definitions = [convert_to_openai_tool(tool, strict=strict) for tool in tools]
        if tool_choice is not None:
            core_tool_choice(tool_choice, definitions)  # so that a wrong one raises here, not at the first call
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
        """Make the model answer in a given schema.

        Args:
            schema: A pydantic class (answers are its instances), a TypedDict class, a JSON schema or an OpenAI
                function (answers are dicts).
            method: "json_schema" enforces the schema with a grammar; "function_calling" forces a call of a tool with
                that schema, with a grammar too; "json_mode" asks for any JSON, so the prompt must describe it.
            include_raw: Whether to return a dict of "raw" (the message), "parsed" and "parsing_error" instead.
            strict: Passed to `convert_to_openai_tool` with "function_calling"; a grammar is strict anyway.
            **kwargs: Not supported; any keyword raises.

        Raises:
            ValueError: An argument is wrong. The returned runnable raises `OutputParserException` for an answer that
                is incomplete or invalid; it never returns None instead.
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
            raise ValueError(f"method: expected 'json_schema', 'function_calling' or 'json_mode', not {method!r}")
        if not include_raw:
            return llm | parser
        parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
        failed = RunnablePassthrough.assign(parsed=lambda _: None)
        checked: Runnable[Any, Any] = parsed.with_fallbacks([failed], exception_key="parsing_error")
        return RunnableMap(raw=llm) | checked

    # The model itself

    def load_profile(self) -> ModelProfile:
        """Ask the server for the model's capabilities and context window, and store them as `profile`."""
        return run_sync(self._load_profile(self._provider_for(sync=True)))

    async def aload_profile(self) -> ModelProfile:
        """Async version of `load_profile`."""
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
        """The number of tokens of a text: an estimate from past answers, unless `custom_get_token_ids` is set.

        No tokenizer is downloaded and no request is sent. `provider.acount_tokens` asks the server.
        """
        if self.custom_get_token_ids is not None:
            return len(self.custom_get_token_ids(text))
        return self._provider_for(sync=True).count_tokens(text, model=self.model)

    def get_token_ids(self, text: str) -> list[int]:
        """The token ids that `custom_get_token_ids` returns.

        Raises:
            NotImplementedError: It is not set; Ollama's API returns no token ids.
        """
        if self.custom_get_token_ids is None:
            raise NotImplementedError("Ollama returns no token ids; set custom_get_token_ids, or use get_num_tokens")
        return self.custom_get_token_ids(text)

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """The number of tokens of messages and tools: an estimate from past answers.

        It includes what the model's template adds to messages, so `trim_messages(token_counter=model)` keeps a
        conversation inside the context window. It is exact for a conversation that the model has answered.
        """
        if not messages:
            return 0
        not_fetched = {url: _NOT_FETCHED[kind] for url, kind in media_urls(messages).items()}
        definitions = [tool if _is_definition(tool) else convert_to_openai_tool(tool) for tool in tools or ()]
        return self._provider_for(sync=True).count_tokens(
            to_core_messages(messages, not_fetched), definitions, model=self.model
        )


def _most_calls(parallel: object) -> int | None:
    """The maximum number of tool calls per answer; None for no limit."""
    if parallel is not None and not isinstance(parallel, bool):
        raise TypeError(f"parallel_tool_calls: expected True or False, not {parallel!r}")
    return 1 if parallel is False else None


def _refuse_foreign(tool: Any) -> None:
    """Refuse a built-in tool of another provider, which LangChain would convert to a function without parameters."""
    if isinstance(tool, Mapping) and not {"function", "parameters", "input_schema", "properties"} & tool.keys():
        kind = tool.get("type", "function")
        if kind not in {"function", "object", "custom"}:
            raise ValueError(f"tools: {kind!r:.40} is a built-in tool of another provider; Ollama takes functions")


def _is_definition(tool: Any) -> bool:
    return isinstance(tool, Mapping) and "function" in tool


def _message_id(run_manager: Any) -> str:
    return f"lc_run--{run_manager.run_id}" if run_manager is not None else ""
