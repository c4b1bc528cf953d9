"""`OllamaEmbedding`: embeddings for LlamaIndex on the namel3ss-ollama core.

LlamaIndex splits texts into batches of `embed_batch_size` and passes all of them at once; the provider's
`max_concurrent` limits how many are sent at a time. A batch of long texts is split further. The core finds the text
that a server refuses; here its error becomes one with the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.callbacks.base import CallbackManager
from llama_index.core.constants import DEFAULT_EMBED_BATCH_SIZE

from llama_index.llms.namel3ss_ollama.connection import (
    Where,
    WhereField,
    connect,
    deadlines,
    in_words_of,
    pickled,
    refuse_hooks,
    unpickle,
)
from llama_index.llms.namel3ss_ollama.keywords import EMBED_FIELDS, one_layer, reject_unknown, split, take_options
from namel3ss_ollama import (
    BadRequestError,
    ContextWindowExceededError,
    EmbedResponse,
    LLMError,
    LLMTimeoutError,
    MalformedResponseError,
    OllamaProvider,
    RetryPolicy,
    ServerError,
    StreamConfig,
    run_sync,
)

__all__ = ["BadInputError", "OllamaEmbedding", "TooLongInputError"]

_TRANSPORT = ("verify", "cert", "proxy", "trust_env")
_REFUSALS = (BadRequestError, ContextWindowExceededError, ServerError)
"""Errors that a single text may cause."""
_NAMES = {"batch_size": "embed_batch_size", "batch_chars": "max_batch_chars"}
"""Names in the core's errors, and what they are called here."""
_HOOKS = {"_async_client": "pass provider=", "_client": "pass provider="}
"""Methods that subclasses may override in llama-index-embeddings-ollama, but that nothing calls here."""


class BadInputError(BadRequestError):
    """The server embeds the other texts of a batch, but not this one.

    Attributes:
        text: The text.
        index: Its position in the batch, from 0.
    """

    text: str = ""


class TooLongInputError(BadInputError, ContextWindowExceededError):
    """A text of a batch exceeds the context window, and must not be truncated."""


class OllamaEmbedding(BaseEmbedding):
    """An embedding model on an Ollama server.

    The constructor opens no connection. You can use an object from any thread and any event loop.

    Args:
        model_name: The model's name; that of `provider` by default.
        base_url: The server's address; by default OLLAMA_HOSTS, else OLLAMA_BASE_URL, else OLLAMA_HOST, else
            http://localhost:11434. Several addresses (a list of strings or `Host`, or a `Hosts`) are several servers:
            each request goes to the best one for it, and to another if that fails. They are stored as a `Hosts`.
        embed_batch_size: How many texts to send per request, up to 2048.
        ollama_additional_kwargs: Runtime options (`num_ctx`, ...). Request fields among them (`truncate`, `dimensions`,
            `keep_alive`) are sent as such.
        query_instruction: A prefix for each query, separated by a space.
        text_instruction: A prefix for each text, separated by a space.
        callback_manager: LlamaIndex's callback manager.
        client_kwargs: `headers`, `timeout` (seconds or an `httpx.Timeout`), `verify`, `cert`, `proxy` and `trust_env`,
            as for an HTTP client; for compatibility.
        keep_alive: How long the model stays loaded: "5m", seconds, 0, or -1 for good.
        dimensions: The dimensions of the vectors, for models that support several.
        truncate: Sent unchanged: True makes the server truncate texts that are too long, silently; False makes it
            refuse them. By default `on_truncation` decides.
        on_truncation: What to do with a text that exceeds the context window: "warn" (embed its beginning, log a
            warning), "error", "ignore", or "split" (embed it in pieces and average their vectors). By default the
            provider's setting: "warn".
        extra_body: Request fields without a keyword, such as those of a newer server.
        max_batch_chars: How many characters to send per request; a longer text is sent alone.
        headers: Additional headers for every request; not in reprs, events or `to_dict`.
        api_key: Sent as `Authorization: Bearer`; OLLAMA_API_KEY by default. Not in reprs, events or `to_dict`.
        max_concurrent: How many requests run at once; the others wait. "auto" adapts to the server: 10 requests may
            wait for their first token, or as many as are being answered, if these are more. With several hosts it means
            their slots. None for no limit.
        retry: When and how often to retry a failed request.
        request_timeout: The timeout in seconds for each wait for the server; short for a `stream_config`.
        stream_config: Timeouts of each request.
        provider: An `OllamaProvider` to use, with its address, limits and retries.
        **kwargs: The fields of LlamaIndex's embeddings: `num_workers`, `embeddings_cache`, `rate_limiter`; and runtime
            options (`num_ctx`, ...), which are validated and stored in `ollama_additional_kwargs`.

    Raises:
        TypeError: A keyword is unknown.
        ValueError: A value is invalid.

    Example:
        ```python
        embedding = OllamaEmbedding("nomic-embed-text", text_instruction="search_document:")
        vector = embedding.get_text_embedding("The sky is blue.")
        ```
    """

    base_url: WhereField = Field(default=None, description="The address of the server, or of several.", frozen=True)
    model_name: str = Field(description="The Ollama model to use.")
    embed_batch_size: int = Field(
        default=DEFAULT_EMBED_BATCH_SIZE, description="How many texts to send per request.", gt=0, le=2048
    )
    ollama_additional_kwargs: dict[str, Any] = Field(default_factory=dict, description="Runtime options.")
    query_instruction: str | None = Field(default=None, description="A prefix for each query.")
    text_instruction: str | None = Field(default=None, description="A prefix for each text.")
    keep_alive: float | str | None = Field(default=None, description="How long the model stays loaded.")
    dimensions: int | None = Field(default=None, description="The dimensions of the vectors.", gt=0)
    truncate: bool | None = Field(default=None, description="Whether a text that is too long is truncated or refused.")
    on_truncation: Literal["warn", "error", "ignore", "split"] | None = Field(
        default=None, description="What to do with a text that exceeds the context window."
    )
    extra_body: dict[str, Any] | None = Field(default=None, description="Request fields without a keyword.")
    max_batch_chars: int = Field(default=200_000, description="How many characters to send per request.", gt=0)
    headers: dict[str, str] | None = Field(
        default=None, description="Additional headers for every request.", exclude=True, repr=False, frozen=True
    )
    api_key: str | None = Field(default=None, description="A bearer token.", exclude=True, repr=False, frozen=True)
    max_concurrent: int | Literal["auto"] | None = Field(
        default="auto", description="How many requests run at once.", frozen=True
    )
    retry: RetryPolicy | None = Field(default=None, description="When failed requests are retried.", frozen=True)
    request_timeout: float | None = Field(
        default=None, description="The timeout for each wait for the server, in seconds.", frozen=True
    )
    stream_config: StreamConfig | None = Field(default=None, description="Timeouts of each request.", frozen=True)
    client_kwargs: dict[str, Any] | None = Field(
        default=None, description="As for an HTTP client.", exclude=True, repr=False, frozen=True
    )

    _provider: OllamaProvider = PrivateAttr()
    _refusal: str | None = PrivateAttr(default=None)
    """Why no request can be sent, if a pickle could not contain the provider."""
    _lengths: dict[tuple[str, int | None], int] = PrivateAttr(default_factory=dict)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse hooks that are never called."""
        super().__pydantic_init_subclass__(**kwargs)
        refuse_hooks(cls, _HOOKS)

    def __init__(
        self,
        model_name: str | None = None,
        base_url: Where | None = None,
        embed_batch_size: int = DEFAULT_EMBED_BATCH_SIZE,
        ollama_additional_kwargs: dict[str, Any] | None = None,
        query_instruction: str | None = None,
        text_instruction: str | None = None,
        callback_manager: CallbackManager | None = None,
        client_kwargs: dict[str, Any] | None = None,
        keep_alive: float | str | None = None,
        *,
        dimensions: int | None = None,
        truncate: bool | None = None,
        on_truncation: Literal["warn", "error", "ignore", "split"] | None = None,
        extra_body: dict[str, Any] | None = None,
        max_batch_chars: int = 200_000,
        headers: dict[str, str] | None = None,
        api_key: str | None = None,
        max_concurrent: int | Literal["auto"] | None = "auto",
        retry: RetryPolicy | None = None,
        request_timeout: float | None = None,
        stream_config: StreamConfig | None = None,
        provider: OllamaProvider | None = None,
        **kwargs: Any,
    ) -> None:
        options = {**take_options(kwargs, type(self).model_fields), **(ollama_additional_kwargs or {})}
        split(options, EMBED_FIELDS, "ollama_additional_kwargs")
        hint = "runtime options go into ollama_additional_kwargs={...}, other settings of a provider into provider=..."
        reject_unknown(kwargs, type(self).model_fields, type(self).__name__, hint)
        if model_name is None and provider is not None:
            model_name = provider.model
        fields: dict[str, Any] = {
            "model_name": model_name,
            "base_url": base_url,
            "embed_batch_size": embed_batch_size,
            "ollama_additional_kwargs": options,
            "query_instruction": query_instruction,
            "text_instruction": text_instruction,
            "callback_manager": callback_manager or CallbackManager([]),
            "client_kwargs": client_kwargs,
            "keep_alive": keep_alive,
            "dimensions": dimensions,
            "truncate": truncate,
            "on_truncation": on_truncation,
            "extra_body": extra_body,
            "max_batch_chars": max_batch_chars,
            "headers": headers,
            "api_key": api_key,
            "max_concurrent": max_concurrent,
            "retry": retry,
            "request_timeout": request_timeout,
            "stream_config": stream_config,
        }
        super().__init__(**fields, **kwargs)
        more = _of_client(client_kwargs or {})
        headers = {**dict(more.pop("headers", {})), **(headers or {})} or None
        config = deadlines(more.pop("timeout", None), self.stream_config, "client_kwargs: timeout")
        if request_timeout is not None:
            config = deadlines(request_timeout, self.stream_config)
        if config is not None:
            more["stream_config"] = config
        self._provider = connect(
            self.model_name,
            provider,
            base_url=self.base_url,
            api_key=api_key,
            headers=headers,
            max_concurrent=max_concurrent,
            retry=self.retry,
            **more,
        )
        # Without the credentials that an address may contain: this field is displayed.
        self.__dict__["base_url"] = self._provider.where

    def __getstate__(self) -> dict[Any, Any]:
        """Pickle the provider, as the core pickles it (without secrets), and the other fields."""
        return pickled(super().__getstate__(), self._provider, self._refusal)

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Restore the state with `unpickle`."""
        unpickle(self, state, ("max_concurrent", "retry", "request_timeout", "stream_config"))
        self._refusal = state["refusal"]

    @classmethod
    def class_name(cls) -> str:
        """The name in LlamaIndex's serialization and traces: that of the class this one replaces."""
        return "OllamaEmbedding"

    @property
    def provider(self) -> OllamaProvider:
        """The provider that does the work.

        Raises:
            ValueError: The object was unpickled, and the pickle could not contain the provider.
        """
        if self._refusal is not None:
            raise ValueError(f"this {type(self).__name__} was unpickled without its provider: {self._refusal}")
        return self._provider

    # Vectors of unformatted texts

    def get_general_text_embedding(self, texts: str) -> list[float]:
        """The vector of a text, without an instruction."""
        return run_sync(self.aget_general_text_embedding(texts))

    async def aget_general_text_embedding(self, prompt: str) -> list[float]:
        """Async version of `get_general_text_embedding`."""
        return (await self.aget_general_text_embeddings([prompt]))[0]

    def get_general_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        """The vectors of texts, without an instruction, in the order of the texts."""
        return run_sync(self.aget_general_text_embeddings(texts))

    async def aget_general_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        """Async version of `get_general_text_embeddings`.

        Raises:
            TooLongInputError: A text exceeds the context window, and must not be truncated.
            BadInputError: The server refuses one of several texts.
            MalformedResponseError: The server sent vectors of the wrong number or length.
            LLMError: The request failed.
        """
        if not texts:
            return []
        vectors = (await self._request(texts)).embeddings
        self._check_lengths(vectors)
        return vectors

    # The text to send for a query or text; subclasses may override it, as with llama-index-embeddings-ollama.

    def _format_query(self, query: str) -> str:
        return _instructed(self.query_instruction, query)

    def _format_text(self, text: str) -> str:
        return _instructed(self.text_instruction, text)

    # LlamaIndex's interface

    def _get_query_embedding(self, query: str) -> list[float]:
        return self.get_general_text_embedding(self._format_query(query))

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await self.aget_general_text_embedding(self._format_query(query))

    def _get_text_embedding(self, text: str) -> list[float]:
        return self.get_general_text_embedding(self._format_text(text))

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await self.aget_general_text_embedding(self._format_text(text))

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self.get_general_text_embeddings([self._format_text(text) for text in texts])

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await self.aget_general_text_embeddings([self._format_text(text) for text in texts])

    # Requests

    async def _request(self, texts: list[str]) -> EmbedResponse:
        fields = {
            "truncate": self.truncate,
            "on_truncation": self.on_truncation,
            "dimensions": self.dimensions,
            "keep_alive": self.keep_alive,
            "extra_body": self.extra_body,
        }
        settings = one_layer(fields, self.ollama_additional_kwargs, {}, EMBED_FIELDS)
        try:
            return await self.provider.embed(
                texts,
                model=self.model_name,
                batch_size=self.embed_batch_size,
                batch_chars=self.max_batch_chars,
                **settings,
            )
        except LLMTimeoutError as error:
            in_words_of(_NAMES, error, one_deadline=self.stream_config is None)
            raise
        except _REFUSALS as error:
            if error.index is None:
                raise
            raise _bad_input(texts[error.index], error.index, error) from error

    def _check_lengths(self, vectors: list[list[float]]) -> None:
        """Reject vectors of different lengths, or of another length than earlier ones: an index cannot store them."""
        known = self._lengths.setdefault((self.model_name, self.dimensions), self.dimensions or len(vectors[0]))
        for vector in vectors:
            if len(vector) != known:
                wanted = "as `dimensions` says" if self.dimensions else "as before"
                raise MalformedResponseError(
                    f"{self.model_name} sent a vector of {len(vector)} dimensions, not of {known} {wanted}"
                )


def _bad_input(text: str, index: int, error: LLMError) -> BadInputError:
    cls = TooLongInputError if isinstance(error, ContextWindowExceededError) else BadInputError
    bad = cls(error.message, status_code=error.status_code, original_error=error)
    bad.text, bad.index = text, index
    return bad


def _instructed(instruction: str | None, text: str) -> str:
    return f"{instruction.strip()} {text}" if instruction else text


def _of_client(client_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of an HTTP client that a provider supports.

    Raises:
        TypeError: A keyword is not supported.
    """
    known = ("headers", "timeout", *_TRANSPORT)
    hint = f"known are {', '.join(known)}; for others pass provider=OllamaProvider(...)"
    reject_unknown(client_kwargs, known, "client_kwargs", hint)
    return {name: value for name, value in client_kwargs.items() if value is not None}
