"""`Ollama`: an LLM for LlamaIndex on the namel3ss-ollama core.

What goes over the wire, when it is tried again and how long it may take is the core's. Here LlamaIndex's calls become
the core's and its answers LlamaIndex's. LlamaIndex's decorators emit its events and callbacks, once for each call:
`complete` and its siblings don't go through `chat`, which would emit them twice and count tokens twice.
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
    MAX_CONCURRENT,
    UNSET,
    Where,
    WhereField,
    bound_of,
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
"""Names in the core's errors that are others here."""
_HOOKS = {
    "_convert_to_ollama_messages": "change the messages before chat and its siblings",
    "_get_response_token_counts": "read response.raw['usage']",
    "async_client": "pass provider=",
    "client": "pass provider=",
}
"""What llama-index-llms-ollama calls and subclasses may override; nothing here would call it."""
F = TypeVar("F", bound=Callable[..., Any])


def _chat(method: F) -> F:
    """LlamaIndex's events and callbacks around a method that keeps its type, which their decorator does not."""
    return cast(F, llm_chat_callback()(method))


def _completion(method: F) -> F:
    return cast(F, llm_completion_callback()(method))


class _Ask(NamedTuple):
    """A call, ready for the core."""

    messages: list[dict[str, Any]]
    settings: dict[str, Any]
    single_call: bool


class Ollama(StructuredOutputs):
    """A model on an Ollama server.

    Nothing is sent or opened at construction, and nothing by `metadata`. An object works from any thread and any
    event loop. Every keyword of a call wins over what is set here: `temperature`, `options`, `stop`, `think`,
    `format`, `model`, `max_tokens` and all other keywords of `OllamaProvider.achat`.

    Args:
        model: The model's name; that of `provider` by default.
        base_url: Where the server is; else OLLAMA_HOSTS, else OLLAMA_BASE_URL, else OLLAMA_HOST, else
            http://localhost:11434. Several addresses (a list of them or of `Host`, or a `Hosts`) are several servers:
            each request goes to the one that is best for it, and to another if that fails. They are kept as a `Hosts`.
        temperature: The sampling temperature.
        context_window: The context window in tokens, sent as `num_ctx`. Not set (-1), nothing is sent and the
            server's own holds; `metadata` learns it by `load()`, `aload()` or the first answer. Query engines, chat
            engines and memories read it when they are made.
        request_timeout: How long the server may say nothing, in seconds, before the first piece of an answer and
            between two; short for a `stream_config`. By default the core's deadlines hold.
        prompt_key: Not used; for compatibility.
        json_mode: Whether answers have to be JSON.
        additional_kwargs: More runtime options (`top_p`, `seed`, `stop`, ...). They go out as they are; request fields
            among them (`format`, `think`, `keep_alive`, ...) go where they belong.
        client: An `ollama.Client` whose address and headers to use; for compatibility.
        async_client: As `client`.
        is_function_calling_model: Whether the model can call tools.
        keep_alive: How long the model stays loaded: "5m", seconds, 0, or -1 for good.
        thinking: Whether, or how much, the model thinks before it answers: True, False, or a level that it has, such
            as "low", "medium", "high" or "max".
        headers: More headers for every request; in no repr, event or `to_dict`.
        api_key: Sent as `Authorization: Bearer`; else OLLAMA_API_KEY. In no repr, event or `to_dict`.
        max_tokens: The most tokens of an answer, sent as `num_predict`.
        max_concurrent: How many requests run at once; None for no bound. 10 by default; with several hosts, their
            slots.
        retry: How often and when a failed request is sent again.
        stream_config: Deadlines and limits of each request.
        on_truncation: What to do when the server cut the prompt to its context window: "warn", "error", "ignore".
        provider: An `OllamaProvider` to use, with its address, limits, retries and defaults.
        extra_body: Fields of the request beside the runtime options that have no keyword, such as those of a newer
            server; those of a call, or in `additional_kwargs`, win one by one.
        allow_image_urls: Whether images and audio given as a URL are fetched, by this machine from any server it can
            reach.
        max_image_bytes: The most bytes of an image or a recording that is fetched.
        **kwargs: The fields of LlamaIndex's LLMs: `callback_manager`, `system_prompt`, `output_parser`,
            `pydantic_program_mode`, `rate_limiter`, ...; and runtime options (`top_p`, `seed`, `num_ctx`, ...), which
            are checked and kept in `additional_kwargs`.

    Raises:
        TypeError: A keyword is unknown.
        ValueError: A value cannot be right.

    Example:
        ```python
        llm = Ollama("llama3.2", temperature=0.2)
        print(llm.complete("Why is the sky blue?"))
        ```
    """

    base_url: WhereField = Field(default=None, description="Where the server is, or several are.", frozen=True)
    model: str = Field(description="The Ollama model to use.")
    temperature: float | None = Field(default=None, description="The temperature to use for sampling.")
    context_window: int = Field(default=-1, description="The context window in tokens; -1 for the server's own.")
    request_timeout: float | None = Field(default=None, description="Seconds that the server may say nothing.")
    prompt_key: str = Field(default="prompt", description="Not used.")
    json_mode: bool = Field(default=False, description="Whether answers have to be JSON.")
    additional_kwargs: dict[str, Any] = Field(default_factory=dict, description="More runtime options.")
    is_function_calling_model: bool = Field(default=True, description="Whether the model can call tools.")
    keep_alive: float | str | None = Field(default=None, description="How long the model stays loaded.")
    thinking: bool | str | None = Field(
        default=None, description="Whether, or how much, the model thinks before it answers."
    )
    headers: dict[str, str] | None = Field(
        default=None, description="More headers for every request.", exclude=True, repr=False, frozen=True
    )
    api_key: str | None = Field(default=None, description="A bearer key.", exclude=True, repr=False, frozen=True)
    max_tokens: int | None = Field(default=None, description="The most tokens of an answer.")
    max_concurrent: int | None = Field(
        default=MAX_CONCURRENT, description="How many requests run at once.", frozen=True
    )
    retry: RetryPolicy | None = Field(default=None, description="When failed requests are sent again.", frozen=True)
    stream_config: StreamConfig | None = Field(default=None, description="Deadlines and limits of each request.")
    on_truncation: Literal["warn", "error", "ignore"] | None = Field(
        default=None, description="What to do when the server cut the prompt."
    )
    extra_body: dict[str, Any] | None = Field(default=None, description="Fields of the request without a keyword.")
    allow_image_urls: bool = Field(default=False, description="Whether images and audio given as a URL are fetched.")
    max_image_bytes: int = Field(default=20_000_000, gt=0, description="The most bytes of what is fetched.")

    _provider: OllamaProvider = PrivateAttr()
    _refusal: str | None = PrivateAttr(default=None)
    """Why nothing can be sent; out of a pickle that could not hold the provider."""
    _windows: Windows = PrivateAttr(default_factory=Windows)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse hooks that nothing calls."""
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
        max_concurrent: int | None = UNSET,
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
        hint = "runtime options go into additional_kwargs={...}, what else a provider takes into provider=..."
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
            "max_concurrent": MAX_CONCURRENT if max_concurrent is UNSET else max_concurrent,
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
            # Out of `to_dict` it comes as a dict, and the field has made a policy of it.
            retry=self.retry,
        )
        # Without the credentials that an address may hold: this field is shown.
        self.__dict__["base_url"] = self._provider.where
        self.__dict__["max_concurrent"] = bound_of(self._provider, max_concurrent)

    def __getstate__(self) -> dict[Any, Any]:
        """What is pickled: the provider, by the core's rules about secrets, and the other fields."""
        return {**pickled(super().__getstate__(), self._provider, self._refusal), "windows": self._windows.known}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """As `unpickle`."""
        unpickle(self, state, ("max_concurrent", "retry"))
        self._refusal = state["refusal"]
        self._windows = Windows(state["windows"])

    @classmethod
    def class_name(cls) -> str:
        """The name that LlamaIndex's serialization and traces know; that of the class this one replaces."""
        return "Ollama_llm"

    @property
    def provider(self) -> OllamaProvider:
        """The provider that does the work.

        Raises:
            ValueError: This object comes out of a pickle, which could not hold the provider.
        """
        if self._refusal is not None:
            raise ValueError(f"this {type(self).__name__} comes out of a pickle: {self._refusal}")
        return self._provider

    @property
    def client(self) -> OllamaProvider:
        """The provider; it is for synchronous code too."""
        return self.provider

    @property
    def async_client(self) -> OllamaProvider:
        """The provider."""
        return self.provider

    # What is known of the model

    @property
    def metadata(self) -> LLMMetadata:
        """What LlamaIndex sizes prompts and memory by. Never any I/O.

        `num_output` is at most an eighth of the window, or 256, whatever `num_predict` is: LlamaIndex takes it away
        from the room for a prompt.
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
        """The context window in tokens, as far as it is known. Never any I/O; see `load`."""
        return self._windows.get(self.model, self._num_ctx())

    def load(self) -> Self:
        """Load the model now and learn its context window; returns the LLM itself.

        Raises:
            LLMError: The server or the model is not there.
        """
        run_sync(self.aload())
        return self

    async def aload(self) -> Self:
        """As `load`.

        Raises:
            LLMError: The server or the model is not there.
        """
        # Loading first: newer servers tell only of a loaded model with which window it runs.
        settings = self._one_layer({"keep_alive": self.keep_alive})
        known = ("options", "keep_alive", *RuntimeOptions.__annotations__)
        await self.provider.preload(self.model, **{name: settings[name] for name in known if name in settings})
        await self._windows.learn(self.provider, self.model, self._num_ctx())
        return self

    def _option(self, *names: str) -> Any:
        """A runtime option as it will be sent, by its names, the provider's included."""
        own = split(self._model_kwargs, CHAT_FIELDS)[1]
        defaults = self._provider.options
        for options in (own, defaults, defaults.get("options") or {}):
            for name in names:
                if options.get(name) is not None:
                    return options[name]
        return None

    def tokenizer(self, text: str) -> list[int]:
        """As many numbers as a text has tokens, about: for `Settings.tokenizer`, `ChatMemoryBuffer` and the like.

        The estimate of the provider, learnt from the counts in the model's answers. Nothing is sent or downloaded, and
        the numbers are no ids: Ollama tells none.
        """
        return list(range(self.provider.count_tokens(text, model=self.model)))

    def _num_ctx(self) -> int | None:
        asked = self._option("num_ctx")
        return asked if isinstance(asked, int) else None

    def _wants_window(self, ask: _Ask) -> bool:
        """Whether the window is to be asked for after this answer; True once a model."""
        return ask.settings["model"] == self.model and self._windows.wanted(self.model, self._num_ctx())

    # From LlamaIndex's calls to the core's

    def _options(self) -> dict[str, Any]:
        """Runtime options that are fields here."""
        return {
            "temperature": self.temperature,
            "num_ctx": self.context_window if self.context_window > 0 else None,
            "max_tokens": self.max_tokens,
        }

    @property
    def _model_kwargs(self) -> dict[str, Any]:
        """The runtime options of every call; a subclass may override it, as it may with llama-index-llms-ollama."""
        fields = {name: value for name, value in self._options().items() if value is not None}
        return {**fields, **self.additional_kwargs}

    def _one_layer(self, call: Mapping[str, Any]) -> dict[str, Any]:
        extra = dict(self._model_kwargs)
        # What is as the fields say goes as keywords, which the core checks.
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
        if (headers := call.pop("extra_headers", None)) is not None:  # as of OpenAI's package
            call["headers"] = {**call["headers"], **headers} if call.get("headers") else headers
        settings = self._one_layer(call)
        settings.setdefault("model", self.model)
        extra = settings.get("extra_body", {})
        if self.extra_body and isinstance(extra, Mapping):  # the core refuses what is none
            settings["extra_body"] = {**self.extra_body, **extra}
        forced = choice not in (None, "auto", "none")
        if forced and call.get("format") is None:
            settings.pop("format", None)  # a forced call is a format of its own
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

    # The core's stream is made when the method is called, so that what is wrong with the arguments comes out there, and
    # its span belongs to the trace of the call; the request is sent at the first step.

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
        """The next turn of a conversation.

        Args:
            messages: The conversation.
            **kwargs: `tools`, `tool_choice`, `tool_required`, `allow_parallel_tool_calls`, and all keywords of
                `OllamaProvider.achat`; they win over what the LLM was made with.

        Raises:
            LLMError: What kept the answer from coming.
            TypeError, ValueError: An argument is wrong; nothing was sent.
        """
        return run_sync(self._answer(self._ask(messages, kwargs)))

    @_chat
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """As `chat`."""
        return await self._answer(await self._aask(messages, kwargs))

    @_chat
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """As `chat`, as it comes: each response has the whole message so far and in `delta` what is new.

        `additional_kwargs["thinking_delta"]` is what is new of the thinking. `logprobs` are those of the delta, in
        the last response those of all tokens.
        """
        return self._stream(self._ask(messages, kwargs))

    @_chat
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """As `stream_chat`: `async for response in await llm.astream_chat(messages)`."""
        return self._astream(await self._aask(messages, kwargs))

    @_completion
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """The answer to a prompt, sent as a user's message.

        Args:
            prompt: The text.
            formatted: Whether the text is the prompt as it is; if not, `completion_to_prompt` makes the prompt of it.
            **kwargs: As those of `chat`.
        """
        return completion_of(run_sync(self._answer(self._ask(self._prompt(prompt, formatted), kwargs))))

    @_completion
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """As `complete`."""
        return completion_of(await self._answer(self._ask(self._prompt(prompt, formatted), kwargs)))

    @_completion
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """As `complete`, as it comes."""
        responses = self._stream(self._ask(self._prompt(prompt, formatted), kwargs))

        def completions() -> CompletionResponseGen:
            for response in responses:
                yield completion_of(response)

        return completions()

    @_completion
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        """As `stream_complete`: `async for response in await llm.astream_complete(prompt)`."""
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
            # LlamaIndex checks only answers that come whole; passed on, it holds in streams too.
            "allow_parallel_tool_calls": allow_parallel_tool_calls,
            **kwargs,
            "tool_choice": choice_of(kwargs.get("tool_choice"), required=tool_required),
        }

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """The tools that a response asks to run.

        Without `error_on_no_tool_call`, as agents have it, a call that cannot be made asks for a tool that does not
        exist, whose name says what is wrong; an agent tells the model so and goes on.

        Raises:
            ValueError: There are none, and `error_on_no_tool_call`.
            OutputValidationError: A call cannot be made, and `error_on_no_tool_call`.
        """
        calls = selections(response, strict=error_on_no_tool_call or self._calls_must_be_valid)
        if not calls and error_on_no_tool_call:
            raise ValueError("Expected at least one tool call, but got 0 tool calls.")
        return calls


def _of_client(
    client: Any, base_url: Where | None, headers: dict[str, str] | None
) -> tuple[Where | None, dict[str, str] | None]:
    """Address and headers of an `ollama.Client` or `AsyncClient`, where they are not given."""
    inner = getattr(client, "_client", None)
    if client is None:
        return base_url, headers
    if inner is None or not hasattr(inner, "base_url"):
        raise TypeError(f"client: expected an ollama.Client, not {type(client).__name__}; or pass provider=...")
    if headers is None:
        # Those that every client of that package sends are not the user's.
        usual = {"accept", "accept-encoding", "connection", "content-type", "user-agent"}
        headers = {name: value for name, value in inner.headers.items() if name.lower() not in usual} or None
    return (str(inner.base_url) if base_url is None else base_url), headers
