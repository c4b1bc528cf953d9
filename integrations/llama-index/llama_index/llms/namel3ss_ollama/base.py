"""`Ollama`: an LLM for LlamaIndex on the namel3ss-ollama core.

Requests, retries and timeouts are the core's. This module converts LlamaIndex's calls to the core's, and the core's
answers to LlamaIndex's. LlamaIndex's decorators emit its events and callbacks, once per call: `complete` and its
siblings don't go through `chat`, which would emit them twice and count tokens twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, cast

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
)
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.llm import ToolSelection
from typing_extensions import Self

from llama_index.llms.namel3ss_ollama.connection import (
    Where,
    WhereField,
    connect,
    deadlines,
    has_several,
    in_words_of,
    pickled,
    refuse_hooks,
    unpickle,
)
from llama_index.llms.namel3ss_ollama.images import Media, fetch_media, need_reading, on_the_web
from llama_index.llms.namel3ss_ollama.keywords import (
    CHAT_FIELDS,
    check_options,
    one_layer,
    reject_unknown,
    split,
    take_options,
)
from llama_index.llms.namel3ss_ollama.messages import to_core
from llama_index.llms.namel3ss_ollama.responses import GrowingAnswer, chat_response, completion_of
from llama_index.llms.namel3ss_ollama.structured import StructuredOutputs, an_answer_came
from llama_index.llms.namel3ss_ollama.tools import choice_of, definitions_of, force_single_tool_call, selections
from llama_index.llms.namel3ss_ollama.window import Windows, num_output
from namel3ss_ollama import (
    LLMResponse,
    LLMTimeoutError,
    OllamaProvider,
    RetryPolicy,
    RuntimeOptions,
    Stream,
    StreamConfig,
    SyncStream,
    run_sync,
)

if TYPE_CHECKING:
    from llama_index.core.tools.types import BaseTool

__all__ = ["Ollama", "force_single_tool_call"]

_NAMES = {"preload()": "load()"}
"""Names in the core's errors, and what they are called here."""
_HOOKS = {
    "_convert_to_ollama_messages": "change the messages before chat and its siblings",
    "_get_response_token_counts": "read response.raw['usage']",
    "async_client": "pass provider=",
    "client": "pass provider=",
}
"""Methods that subclasses may override in llama-index-llms-ollama, but that nothing calls here."""
F = TypeVar("F", bound=Callable[..., Any])


def _chat(method: F) -> F:
    """Emit LlamaIndex's events and callbacks around a method, and keep its type, which their decorator loses."""
    return cast(F, llm_chat_callback()(method))


def _completion(method: F) -> F:
    return cast(F, llm_completion_callback()(method))


class _Ask(NamedTuple):
    """A call with the arguments that the core takes."""

    messages: list[dict[str, Any]]
    settings: dict[str, Any]
    single_call: bool


class Ollama(StructuredOutputs):
    """A model on an Ollama server.

    Neither the constructor nor `metadata` opens a connection or sends a request. You can use an object from any thread
    and any event loop. The keywords of a call override what is set here: `temperature`, `options`, `stop`, `think`,
    `format`, `model`, `max_tokens` and all other keywords of `OllamaProvider.achat`.

    Args:
        model: The model's name; that of `provider` by default.
        base_url: The server's address; by default OLLAMA_HOSTS, else OLLAMA_BASE_URL, else OLLAMA_HOST, else
            http://localhost:11434. Several addresses (a list of strings or `Host`, or a `Hosts`) are several servers:
            each request goes to the best one for it, and to another if that fails. They are stored as a `Hosts`.
        temperature: The sampling temperature.
        context_window: The context window in tokens, sent as `num_ctx`. By default (-1) it is not sent and the server's
            own applies, which `metadata` has after `load()`, `aload()` or the first answer. Query engines, chat engines
            and memories read it when they are constructed.
        request_timeout: The timeout in seconds for the first chunk of an answer and between two chunks; short for a
            `stream_config`. By default the core's timeouts apply.
        prompt_key: Not used; for compatibility.
        json_mode: Whether answers must be JSON.
        additional_kwargs: More runtime options (`top_p`, `seed`, `stop`, ...), sent unchanged. Request fields among
            them (`format`, `think`, `keep_alive`, ...) are sent as such.
        client: An `ollama.Client` whose address and headers to use; for compatibility.
        async_client: Like `client`.
        is_function_calling_model: Whether the model can call tools.
        keep_alive: How long the model stays loaded: "5m", seconds, 0, or -1 for good.
        thinking: Whether, or how much, the model thinks before it answers: True, False, or one of its levels, such as
            "low", "medium", "high" or "max".
        headers: Additional headers for every request; not in reprs, events or `to_dict`.
        api_key: Sent as `Authorization: Bearer`; OLLAMA_API_KEY by default. Not in reprs, events or `to_dict`.
        max_tokens: The maximum number of tokens of an answer, sent as `num_predict`.
        max_concurrent: How many requests run at once; the others wait. "auto" adapts to the server: 10 requests may
            wait for their first token, or as many as are being answered, if these are more. With several hosts it means
            their slots. None for no limit.
        retry: When and how often to retry a failed request.
        stream_config: Timeouts and limits of each request.
        on_truncation: What to do if the server truncates the prompt to its context window: "warn", "error", "ignore".
        provider: An `OllamaProvider` to use, with its address, limits, retries and defaults.
        extra_body: Request fields, other than runtime options, without a keyword, such as those of a newer server.
            Merged with those of a call or in `additional_kwargs`, which win.
        allow_image_urls: Whether to fetch images and audio given as URLs, from any server that this machine can reach.
        max_image_bytes: The maximum size of a fetched image or recording, in bytes.
        **kwargs: The fields of LlamaIndex's LLMs: `callback_manager`, `system_prompt`, `output_parser`,
            `pydantic_program_mode`, `rate_limiter`, ...; and runtime options (`top_p`, `seed`, `num_ctx`, ...), which
            are validated and stored in `additional_kwargs`.

    Raises:
        TypeError: A keyword is unknown.
        ValueError: A value is invalid.

    Example:
        ```python
        llm = Ollama("llama3.2", temperature=0.2)
        print(llm.complete("Why is the sky blue?"))
        ```
    """

    base_url: WhereField = Field(default=None, description="The address of the server, or of several.", frozen=True)
    model: str = Field(description="The Ollama model to use.")
    temperature: float | None = Field(default=None, description="The temperature to use for sampling.")
    context_window: int = Field(default=-1, description="The context window in tokens; -1 for the server's own.")
    request_timeout: float | None = Field(default=None, description="The timeout for each chunk, in seconds.")
    prompt_key: str = Field(default="prompt", description="Not used.")
    json_mode: bool = Field(default=False, description="Whether answers must be JSON.")
    additional_kwargs: dict[str, Any] = Field(default_factory=dict, description="More runtime options.")
    is_function_calling_model: bool = Field(default=True, description="Whether the model can call tools.")
    keep_alive: float | str | None = Field(default=None, description="How long the model stays loaded.")
    thinking: bool | str | None = Field(
        default=None, description="Whether, or how much, the model thinks before it answers."
    )
    headers: dict[str, str] | None = Field(
        default=None, description="Additional headers for every request.", exclude=True, repr=False, frozen=True
    )
    api_key: str | None = Field(default=None, description="A bearer token.", exclude=True, repr=False, frozen=True)
    max_tokens: int | None = Field(default=None, description="The maximum number of tokens of an answer.")
    max_concurrent: int | Literal["auto"] | None = Field(
        default="auto", description="How many requests run at once.", frozen=True
    )
    retry: RetryPolicy | None = Field(default=None, description="When failed requests are retried.", frozen=True)
    stream_config: StreamConfig | None = Field(default=None, description="Timeouts and limits of each request.")
    on_truncation: Literal["warn", "error", "ignore"] | None = Field(
        default=None, description="What to do if the server truncates the prompt."
    )
    extra_body: dict[str, Any] | None = Field(default=None, description="Request fields without a keyword.")
    allow_image_urls: bool = Field(default=False, description="Whether to fetch images and audio given as URLs.")
    max_image_bytes: int = Field(default=20_000_000, gt=0, description="The maximum size of a fetched file, in bytes.")

    _provider: OllamaProvider = PrivateAttr()
    _refusal: str | None = PrivateAttr(default=None)
    """Why no request can be sent, if a pickle could not contain the provider."""
    _windows: Windows = PrivateAttr(default_factory=Windows)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse hooks that are never called."""
        super().__pydantic_init_subclass__(**kwargs)
        refuse_hooks(cls, _HOOKS)

    def __init__(
        self,
        model: str | None = None,
        base_url: Where | None = None,
        temperature: float | None = None,
        context_window: int = -1,
        request_timeout: float | None = None,
        prompt_key: str = "prompt",
        json_mode: bool = False,
        additional_kwargs: dict[str, Any] | None = None,
        client: Any = None,
        async_client: Any = None,
        is_function_calling_model: bool = True,
        keep_alive: float | str | None = None,
        thinking: bool | str | None = None,
        headers: dict[str, str] | None = None,
        *,
        api_key: str | None = None,
        max_tokens: int | None = None,
        max_concurrent: int | Literal["auto"] | None = "auto",
        retry: RetryPolicy | None = None,
        stream_config: StreamConfig | None = None,
        on_truncation: Literal["warn", "error", "ignore"] | None = None,
        provider: OllamaProvider | None = None,
        extra_body: dict[str, Any] | None = None,
        allow_image_urls: bool = False,
        max_image_bytes: int = 20_000_000,
        **kwargs: Any,
    ) -> None:
        options = {**take_options(kwargs, type(self).model_fields), **(additional_kwargs or {})}
        hint = "runtime options go into additional_kwargs={...}, other settings of a provider into provider=..."
        reject_unknown(kwargs, type(self).model_fields, type(self).__name__, hint)
        base_url, headers = _of_client(client if client is not None else async_client, base_url, headers)
        if model is None and provider is not None:
            model = provider.model
        fields: dict[str, Any] = {
            "model": model,
            "base_url": base_url,
            "temperature": temperature,
            "context_window": context_window,
            "request_timeout": request_timeout,
            "prompt_key": prompt_key,
            "json_mode": json_mode,
            "additional_kwargs": options,
            "is_function_calling_model": is_function_calling_model,
            "keep_alive": keep_alive,
            "thinking": thinking,
            "headers": headers,
            "api_key": api_key,
            "max_tokens": max_tokens,
            "max_concurrent": max_concurrent,
            "retry": retry,
            "stream_config": stream_config,
            "on_truncation": on_truncation,
            "extra_body": extra_body,
            "allow_image_urls": allow_image_urls,
            "max_image_bytes": max_image_bytes,
        }
        super().__init__(**fields, **kwargs)
        deadlines(self.request_timeout, self.stream_config)
        one_layer({}, self.additional_kwargs, {}, CHAT_FIELDS)
        check_options({"max_tokens": max_tokens, "think": self.thinking, "extra_body": extra_body})
        self._provider = connect(
            self.model,
            provider,
            base_url=self.base_url,
            api_key=api_key,
            headers=headers,
            max_concurrent=max_concurrent,
            # From `to_dict` it comes as a dict, which the field has converted to a policy.
            retry=self.retry,
        )
        # Without the credentials that an address may contain: this field is displayed.
        self.__dict__["base_url"] = self._provider.where

    def __getstate__(self) -> dict[Any, Any]:
        """Pickle the provider, as the core pickles it (without secrets), and the other fields."""
        return {**pickled(super().__getstate__(), self._provider, self._refusal), "windows": self._windows.known}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Restore the state with `unpickle`."""
        unpickle(self, state, ("max_concurrent", "retry"))
        self._refusal = state["refusal"]
        self._windows = Windows(state["windows"])

    @classmethod
    def class_name(cls) -> str:
        """The name in LlamaIndex's serialization and traces: that of the class this one replaces."""
        return "Ollama_llm"

    @property
    def provider(self) -> OllamaProvider:
        """The provider that does the work.

        Raises:
            ValueError: The object was unpickled, and the pickle could not contain the provider.
        """
        if self._refusal is not None:
            raise ValueError(f"this {type(self).__name__} was unpickled without its provider: {self._refusal}")
        return self._provider

    @property
    def client(self) -> OllamaProvider:
        """The provider, which works in synchronous code too."""
        return self.provider

    @property
    def async_client(self) -> OllamaProvider:
        """The provider."""
        return self.provider

    # What is known about the model

    @property
    def metadata(self) -> LLMMetadata:
        """What LlamaIndex sizes prompts and memory by, without any I/O.

        `num_output` is at most an eighth of the window, or 256, whatever `num_predict` is, because LlamaIndex subtracts
        it from the room for a prompt.
        """
        window = self.get_context_window()
        return LLMMetadata(
            context_window=window,
            num_output=num_output(self._option("num_predict", "max_tokens"), window),
            model_name=self.model,
            is_chat_model=True,
            is_function_calling_model=self.is_function_calling_model,
        )

    def get_context_window(self) -> int:
        """The context window in tokens, as far as it is known, without any I/O; see `load`."""
        return self._windows.get(self.model, self._num_ctx())

    def load(self) -> Self:
        """Load the model now and ask for its context window; returns the LLM itself.

        Raises:
            LLMError: The server cannot be reached, or does not have the model.
        """
        run_sync(self.aload())
        return self

    async def aload(self) -> Self:
        """Async version of `load`.

        Raises:
            LLMError: The server cannot be reached, or does not have the model.
        """
        # Load first: newer servers report the window only of a loaded model.
        settings = self._one_layer({"keep_alive": self.keep_alive})
        known = ("options", "keep_alive", *RuntimeOptions.__annotations__)
        await self.provider.preload(self.model, **{name: settings[name] for name in known if name in settings})
        await self._windows.learn(self.provider, self.model, self._num_ctx())
        return self

    def _option(self, *names: str) -> Any:
        """A runtime option as it will be sent, including the provider's defaults, by its names."""
        own = split(self._model_kwargs, CHAT_FIELDS)[1]
        defaults = self._provider.options
        for options in (own, defaults, defaults.get("options") or {}):
            for name in names:
                if options.get(name) is not None:
                    return options[name]
        return None

    def tokenizer(self, text: str) -> list[int]:
        """A list as long as a text has tokens, for `Settings.tokenizer`, `ChatMemoryBuffer` and the like.

        The count is the provider's estimate, calibrated on the token usage of past answers. Nothing is sent or
        downloaded, and the numbers are not token ids, which Ollama does not return.
        """
        return list(range(self.provider.count_tokens(text, model=self.model)))

    def _num_ctx(self) -> int | None:
        asked = self._option("num_ctx")
        return asked if isinstance(asked, int) else None

    def _wants_window(self, ask: _Ask) -> bool:
        """Whether to ask for the window after this answer; True once per model."""
        return ask.settings["model"] == self.model and self._windows.wanted(self.model, self._num_ctx())

    # From LlamaIndex's calls to the core's

    def _options(self) -> dict[str, Any]:
        """The runtime options that are fields."""
        return {
            "temperature": self.temperature,
            "num_ctx": self.context_window if self.context_window > 0 else None,
            "max_tokens": self.max_tokens,
        }

    @property
    def _model_kwargs(self) -> dict[str, Any]:
        """The runtime options of every call; subclasses may override it, as with llama-index-llms-ollama."""
        fields = {name: value for name, value in self._options().items() if value is not None}
        return {**fields, **self.additional_kwargs}

    def _one_layer(self, call: Mapping[str, Any]) -> dict[str, Any]:
        extra = dict(self._model_kwargs)
        # Values that equal the fields are passed as keywords, which the core validates.
        fields = {
            name: extra.pop(name)
            for name, value in self._options().items()
            if name not in self.additional_kwargs and name in extra and extra[name] == value
        }
        return one_layer(fields, extra, call, CHAT_FIELDS)

    def _ask(self, messages: Sequence[ChatMessage], kwargs: Mapping[str, Any]) -> _Ask:
        fetched = run_sync(self._fetch(messages)) if on_the_web(messages) else {}
        return self._ask_with(messages, kwargs, fetched)

    async def _aask(self, messages: Sequence[ChatMessage], kwargs: Mapping[str, Any]) -> _Ask:
        fetched = await self._fetch(messages) if on_the_web(messages) else {}
        if need_reading(messages):
            return await asyncio.to_thread(self._ask_with, messages, kwargs, fetched)
        return self._ask_with(messages, kwargs, fetched)

    async def _fetch(self, messages: Sequence[ChatMessage]) -> dict[str, Media]:
        return await fetch_media(messages, self.max_image_bytes) if self.allow_image_urls else {}

    def _ask_with(
        self, messages: Sequence[ChatMessage], kwargs: Mapping[str, Any], fetched: Mapping[str, Media]
    ) -> _Ask:
        call = dict(kwargs)
        parallel = call.pop("allow_parallel_tool_calls", True)
        choice = choice_of(call.pop("tool_choice", None), required=bool(call.pop("tool_required", False)))
        if (headers := call.pop("extra_headers", None)) is not None:  # a keyword of LlamaIndex's OpenAI package
            call["headers"] = {**call["headers"], **headers} if call.get("headers") else headers
        settings = self._one_layer(call)
        settings.setdefault("model", self.model)
        extra = settings.get("extra_body", {})
        if self.extra_body and isinstance(extra, Mapping):  # the core rejects anything else
            settings["extra_body"] = {**self.extra_body, **extra}
        forced = choice not in (None, "auto", "none")
        if forced and call.get("format") is None:
            settings.pop("format", None)  # a forced call has its own format
        for name, value in (
            ("tool_choice", choice),
            ("think", self.thinking),
            ("keep_alive", self.keep_alive),
            ("stream_config", deadlines(self.request_timeout, self.stream_config)),
            ("on_truncation", self.on_truncation),
            ("format", "json" if self.json_mode and not forced else None),
        ):
            if value is not None:
                settings.setdefault(name, value)
        return _Ask(to_core(messages, fetched), settings, not parallel)

    # Answers, for the decorated methods below

    async def _answer(self, ask: _Ask) -> ChatResponse:
        with self._own_words():
            response: LLMResponse = await self.provider.achat(ask.messages, **ask.settings)
        an_answer_came()
        if self._wants_window(ask):
            await self._windows.learn_quietly(self.provider, self.model)
        return chat_response(response, single_call=ask.single_call, hosts=has_several(self.provider))

    # The core's stream is created when the method is called, so that invalid arguments raise there, and its span
    # belongs to the trace of the call. The request is sent on the first iteration.

    def _stream(self, ask: _Ask) -> ChatResponseGen:
        return self._read(ask, self.provider.stream(ask.messages, **ask.settings))

    def _growing(self, ask: _Ask) -> GrowingAnswer:
        return GrowingAnswer(
            single_call=ask.single_call,
            for_program=self._calls_must_be_valid,
            hosts=has_several(self.provider),
        )

    def _read(self, ask: _Ask, stream: SyncStream) -> ChatResponseGen:
        answer = self._growing(ask)
        with self._own_words(), stream:
            for chunk in stream:
                yield answer.add(chunk)
        if (last := answer.settled()) is not None:
            yield last
        if self._wants_window(ask):
            run_sync(self._windows.learn_quietly(self.provider, self.model))

    def _astream(self, ask: _Ask) -> ChatResponseAsyncGen:
        return self._aread(ask, self.provider.stream_chat(ask.messages, **ask.settings))

    async def _aread(self, ask: _Ask, stream: Stream) -> ChatResponseAsyncGen:
        answer = self._growing(ask)
        with self._own_words():
            async with stream:
                async for chunk in stream:
                    yield answer.add(chunk)
        if (last := answer.settled()) is not None:
            yield last
        if self._wants_window(ask):
            await self._windows.learn_quietly(self.provider, self.model)

    @contextmanager
    def _own_words(self) -> Iterator[None]:
        try:
            yield
        except LLMTimeoutError as error:
            in_words_of(_NAMES, error, one_deadline=self.stream_config is None)
            raise

    def _prompt(self, prompt: str, formatted: bool) -> list[ChatMessage]:
        if not formatted and self.completion_to_prompt is not None:
            prompt = self.completion_to_prompt(prompt)
        return [ChatMessage(role=MessageRole.USER, content=prompt)]

    # LlamaIndex's interface

    @_chat
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a conversation.

        Args:
            messages: The conversation.
            **kwargs: `tools`, `tool_choice`, `tool_required`, `allow_parallel_tool_calls`, and all keywords of
                `OllamaProvider.achat`; they override the settings of the LLM.

        Raises:
            LLMError: The request failed.
            TypeError, ValueError: An argument is wrong; no request was sent.
        """
        return run_sync(self._answer(self._ask(messages, kwargs)))

    @_chat
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Async version of `chat`."""
        return await self._answer(await self._aask(messages, kwargs))

    @_chat
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Like `chat`, as a stream: each response has the entire message so far, and the new text in `delta`.

        `additional_kwargs["thinking_delta"]` is the new part of the reasoning. `logprobs` are those of the delta; in
        the last response, those of all tokens.
        """
        return self._stream(self._ask(messages, kwargs))

    @_chat
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """Async version of `stream_chat`: `async for response in await llm.astream_chat(messages)`."""
        return self._astream(await self._aask(messages, kwargs))

    @_completion
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a prompt, which is sent as a user message.

        Args:
            prompt: The text.
            formatted: Whether the prompt is sent unchanged; if not, `completion_to_prompt` is applied first.
            **kwargs: As for `chat`.
        """
        return completion_of(run_sync(self._answer(self._ask(self._prompt(prompt, formatted), kwargs))))

    @_completion
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Async version of `complete`."""
        return completion_of(await self._answer(self._ask(self._prompt(prompt, formatted), kwargs)))

    @_completion
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """Like `complete`, as a stream."""
        responses = self._stream(self._ask(self._prompt(prompt, formatted), kwargs))

        def completions() -> CompletionResponseGen:
            for response in responses:
                yield completion_of(response)

        return completions()

    @_completion
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        """Async version of `stream_complete`: `async for response in await llm.astream_complete(prompt)`."""
        responses = self._astream(self._ask(self._prompt(prompt, formatted), kwargs))

        async def completions() -> CompletionResponseAsyncGen:
            async for response in responses:
                yield completion_of(response)

        return completions()

    # Tools

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        messages = list(chat_history or [])
        if isinstance(user_msg, str):
            user_msg = ChatMessage(role=MessageRole.USER, content=user_msg)
        if user_msg is not None:
            messages.append(user_msg)
        return {
            "messages": messages,
            "tools": definitions_of(tools) or None,
            # LlamaIndex itself applies it only to complete answers; passed on, it applies to streams too.
            "allow_parallel_tool_calls": allow_parallel_tool_calls,
            **kwargs,
            "tool_choice": choice_of(kwargs.get("tool_choice"), required=tool_required),
        }

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """The tool calls of a response.

        Without `error_on_no_tool_call`, which agents set to False, an invalid call becomes a call of a tool that does
        not exist, whose name describes the error; an agent reports it to the model and continues.

        Raises:
            ValueError: There are no tool calls, and `error_on_no_tool_call` is true.
            OutputValidationError: A tool call is invalid, and `error_on_no_tool_call` is true.
        """
        calls = selections(response, strict=error_on_no_tool_call or self._calls_must_be_valid)
        if not calls and error_on_no_tool_call:
            raise ValueError("Expected at least one tool call, but got 0 tool calls.")
        return calls


def _of_client(
    client: Any, base_url: Where | None, headers: dict[str, str] | None
) -> tuple[Where | None, dict[str, str] | None]:
    """Take address and headers from an `ollama.Client` or `AsyncClient`, unless they are given."""
    inner = getattr(client, "_client", None)
    if client is None:
        return base_url, headers
    if inner is None or not hasattr(inner, "base_url"):
        raise TypeError(f"client: expected an ollama.Client, not {type(client).__name__}; or pass provider=...")
    if headers is None:
        # Not the headers that every client of that package sends.
        usual = {"accept", "accept-encoding", "connection", "content-type", "user-agent"}
        headers = {name: value for name, value in inner.headers.items() if name.lower() not in usual} or None
    return (str(inner.base_url) if base_url is None else base_url), headers
