"""`OllamaEmbedding`: embeddings for LlamaIndex on the namel3ss-ollama core.

LlamaIndex cuts texts into batches of `embed_batch_size` and hands over all of them at once; how many are sent at a
time is the provider's `max_concurrent`. A batch is cut further where its texts are long. The core finds the text that a
server refuses; here its error becomes one that holds the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.callbacks.base import CallbackManager
from llama_index.core.constants import DEFAULT_EMBED_BATCH_SIZE

from llama_index.llms.namel3ss_ollama.connection import (
    MAX_CONCURRENT,
    UNSET,
    Where,
    WhereField,
    bound_of,
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
"""What may be one text's fault."""
_NAMES = {"batch_size": "embed_batch_size", "batch_chars": "max_batch_chars"}
"""Names in the core's errors that are others here."""
_HOOKS = {"_async_client": "pass provider=", "_client": "pass provider="}
"""What llama-index-embeddings-ollama calls and subclasses may override; nothing here would call it."""


class BadInputError(BadRequestError):
    """The server embeds the other texts of a batch, but not this one.

    Attributes:
        text: The text.
        index: Where it is in its batch, from 0.
    """

    text: str = ""


class TooLongInputError(BadInputError, ContextWindowExceededError):
    """A text of a batch does not fit the context window, and is not to be cut."""


class OllamaEmbedding(BaseEmbedding):
    """An embedding model on an Ollama server.

    Nothing is sent or opened at construction. An object works from any thread and any event loop.

    Args:
        model_name: The model's name; that of `provider` by default.
        base_url: Where the server is; else OLLAMA_HOSTS, else OLLAMA_BASE_URL, else OLLAMA_HOST, else
            http://localhost:11434. Several addresses (a list of them or of `Host`, or a `Hosts`) are several servers:
            each request goes to the one that is best for it, and to another if that fails. They are kept as a `Hosts`.
        embed_batch_size: How many texts go into one request, up to 2048.
        ollama_additional_kwargs: Runtime options (`num_ctx`, ...). Request fields among them (`truncate`, `dimensions`,
            `keep_alive`) go where they belong.
        query_instruction: Put before each query, with a blank between.
        text_instruction: Put before each text, with a blank between.
        callback_manager: LlamaIndex's.
        client_kwargs: `headers`, `timeout` (seconds or an `httpx.Timeout`), `verify`, `cert`, `proxy` and `trust_env`,
            as of an HTTP client; for compatibility.
        keep_alive: How long the model stays loaded: "5m", seconds, 0, or -1 for good.
        dimensions: How long the vectors shall be, for models that can choose.
        truncate: Sent as it is: True has the server cut texts that are too long, without a word; False makes them an
            error. By default `on_truncation` decides.
        on_truncation: What becomes of a text that does not fit the context window: "warn" (its beginning is embedded, a
            warning is logged), "error", "ignore", or "split" (it is embedded in pieces, and its vector is their mean).
            By default as the provider says: "warn".
        extra_body: Fields of the request that have no keyword, such as those of a newer server.
        max_batch_chars: How many characters go into one request; a longer text goes alone.
        headers: More headers for every request; in no repr, event or `to_dict`.
        api_key: Sent as `Authorization: Bearer`; else OLLAMA_API_KEY. In no repr, event or `to_dict`.
        max_concurrent: How many requests run at once; None for no bound. 10 by default; with several hosts, their
            slots.
        retry: How often and when a failed request is sent again.
        request_timeout: How long the server may say nothing, in seconds; short for a `stream_config`.
        stream_config: Deadlines of each request.
        provider: An `OllamaProvider` to use, with its address, limits and retries.
        **kwargs: The fields of LlamaIndex's embeddings: `num_workers`, `embeddings_cache`, `rate_limiter`; and runtime
            options (`num_ctx`, ...), which are checked and kept in `ollama_additional_kwargs`.

    Raises:
        TypeError: A keyword is unknown.
        ValueError: A value cannot be right.

    Example:
        ```python
        embedding = OllamaEmbedding("nomic-embed-text", text_instruction="search_document:")
        vector = embedding.get_text_embedding("The sky is blue.")
        ```
    """

    base_url: WhereField = Field(default=None, description="Where the server is, or several are.", frozen=True)
    model_name: str = Field(description="The Ollama model to use.")
    embed_batch_size: int = Field(
        default=DEFAULT_EMBED_BATCH_SIZE, description="How many texts go into one request.", gt=0, le=2048
    )
    ollama_additional_kwargs: dict[str, Any] = Field(default_factory=dict, description="Runtime options.")
    query_instruction: str | None = Field(default=None, description="Put before each query.")
    text_instruction: str | None = Field(default=None, description="Put before each text.")
    keep_alive: float | str | None = Field(default=None, description="How long the model stays loaded.")
    dimensions: int | None = Field(default=None, description="How long the vectors shall be.", gt=0)
    truncate: bool | None = Field(default=None, description="Whether a text that is too long is cut or refused.")
    on_truncation: Literal["warn", "error", "ignore", "split"] | None = Field(
        default=None, description="What becomes of a text that does not fit the context window."
    )
    extra_body: dict[str, Any] | None = Field(default=None, description="Fields of the request without a keyword.")
    max_batch_chars: int = Field(default=200_000, description="How many characters go into one request.", gt=0)
    headers: dict[str, str] | None = Field(
        default=None, description="More headers for every request.", exclude=True, repr=False, frozen=True
    )
    api_key: str | None = Field(default=None, description="A bearer key.", exclude=True, repr=False, frozen=True)
    max_concurrent: int | None = Field(
        default=MAX_CONCURRENT, description="How many requests run at once.", frozen=True
    )
    retry: RetryPolicy | None = Field(default=None, description="When failed requests are sent again.", frozen=True)
    request_timeout: float | None = Field(
        default=None, description="Seconds that the server may say nothing.", frozen=True
    )
    stream_config: StreamConfig | None = Field(default=None, description="Deadlines of each request.", frozen=True)
    client_kwargs: dict[str, Any] | None = Field(
        default=None, description="As of an HTTP client.", exclude=True, repr=False, frozen=True
    )

    _provider: OllamaProvider = PrivateAttr()
    _refusal: str | None = PrivateAttr(default=None)
    """Why nothing can be sent; out of a pickle that could not hold the provider."""
    _lengths: dict[tuple[str, int | None], int] = PrivateAttr(default_factory=dict)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse hooks that nothing calls."""
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
        max_concurrent: int | None = UNSET,
        retry: RetryPolicy | None = None,
        request_timeout: float | None = None,
        stream_config: StreamConfig | None = None,
        provider: OllamaProvider | None = None,
        **kwargs: Any,
    ) -> None:
        options = {**take_options(kwargs, type(self).model_fields), **(ollama_additional_kwargs or {})}
        split(options, EMBED_FIELDS, "ollama_additional_kwargs")
        hint = "runtime options go into ollama_additional_kwargs={...}, what else a provider takes into provider=..."
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
            "max_concurrent": MAX_CONCURRENT if max_concurrent is UNSET else max_concurrent,
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
        # Without the credentials that an address may hold: this field is shown.
        self.__dict__["base_url"] = self._provider.where
        self.__dict__["max_concurrent"] = bound_of(self._provider, max_concurrent)

    def __getstate__(self) -> dict[Any, Any]:
        """What is pickled: the provider, by the core's rules about secrets, and the other fields."""
        return pickled(super().__getstate__(), self._provider, self._refusal)

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """As `unpickle`."""
        unpickle(self, state, ("max_concurrent", "retry", "request_timeout", "stream_config"))
        self._refusal = state["refusal"]

    @classmethod
    def class_name(cls) -> str:
        """The name that LlamaIndex's serialization and traces know; that of the class this one replaces."""
        return "OllamaEmbedding"

    @property
    def provider(self) -> OllamaProvider:
        """The provider that does the work.

        Raises:
            ValueError: This object comes out of a pickle, which could not hold the provider.
        """
        if self._refusal is not None:
            raise ValueError(f"this {type(self).__name__} comes out of a pickle: {self._refusal}")
        return self._provider

    # Vectors of texts as they are

    def get_general_text_embedding(self, texts: str) -> list[float]:
        """The vector of a text, without an instruction."""
        return run_sync(self.aget_general_text_embedding(texts))

    async def aget_general_text_embedding(self, prompt: str) -> list[float]:
        """As `get_general_text_embedding`."""
        return (await self.aget_general_text_embeddings([prompt]))[0]

    def get_general_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        """The vectors of texts, without an instruction, in the order of the texts."""
        return run_sync(self.aget_general_text_embeddings(texts))

    async def aget_general_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        """As `get_general_text_embeddings`.

        Raises:
            TooLongInputError: A text does not fit the context window, and is not to be cut.
            BadInputError: The server refuses one of several texts.
            MalformedResponseError: It sent vectors of another number or length than it should.
            LLMError: It failed.
        """
        if not texts:
            return []
        vectors = (await self._request(texts)).embeddings
        self._check_lengths(vectors)
        return vectors

    # What is sent of a query or text; subclasses may override it, as they may with llama-index-embeddings-ollama.

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
        """Refuse vectors that don't go with each other, or with those that came before: an index cannot hold them."""
        known = self._lengths.setdefault((self.model_name, self.dimensions), self.dimensions or len(vectors[0]))
        for vector in vectors:
            if len(vector) != known:
                wanted = "as `dimensions` says" if self.dimensions else "as those before"
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
    """What of an HTTP client's keywords a provider has.

    Raises:
        TypeError: One is none of these.
    """
    known = ("headers", "timeout", *_TRANSPORT)
    hint = f"known are {', '.join(known)}; for more pass provider=OllamaProvider(...)"
    reject_unknown(client_kwargs, known, "client_kwargs", hint)
    return {name: value for name, value in client_kwargs.items() if value is not None}
