"""The core's errors as LangChain's.

LangChain acts on the kinds of failure it knows (`ModelError`): its retry middleware tries again what is retryable, its
summarization reacts to a context that is full. So each error of the core that leaves the adapter is of a class that is
both: `except LLMError` and `except ModelRateLimitError` hold alike; `partial`, `status_code` and the rest are there.
The original is its `__cause__`.
"""

from __future__ import annotations

from typing import Any

from langchain_core import exceptions as langchain

from namel3ss_ollama import (
    AuthenticationError,
    BadRequestError,
    ContextWindowExceededError,
    LLMConnectionError,
    LLMError,
    LLMTimeoutError,
    MalformedResponseError,
    ModelNotFoundError,
    OutputValidationError,
    QueueFullError,
    QuotaExceededError,
    ServerBusyError,
    ServerError,
    StreamInterruptedError,
    ToolCallParseError,
)

__all__ = [
    "OllamaAuthenticationError",
    "OllamaBusyError",
    "OllamaConnectionError",
    "OllamaContextOverflowError",
    "OllamaError",
    "OllamaInvalidRequestError",
    "OllamaMalformedResponseError",
    "OllamaModelNotFoundError",
    "OllamaOutputError",
    "OllamaPermissionDeniedError",
    "OllamaQueueFullError",
    "OllamaQuotaError",
    "OllamaRateLimitError",
    "OllamaServerError",
    "OllamaStreamInterruptedError",
    "OllamaTimeoutError",
    "OllamaToolCallParseError",
    "translated",
]


class OllamaError(LLMError, langchain.ModelError):
    """A failure of no particular kind."""


class OllamaAuthenticationError(AuthenticationError, langchain.ModelAuthenticationError):
    """The server wants a key, or another one (401)."""


class OllamaPermissionDeniedError(AuthenticationError, langchain.ModelPermissionDeniedError):
    """The key does not allow this (403)."""


class OllamaInvalidRequestError(BadRequestError, langchain.ModelInvalidRequestError):
    """The server refused the request as it is."""


class OllamaModelNotFoundError(ModelNotFoundError, langchain.ModelNotFoundError):
    """The server does not have the model."""


class OllamaContextOverflowError(ContextWindowExceededError, langchain.ContextOverflowError):
    """The prompt does not fit the context window."""


class OllamaRateLimitError(ServerBusyError, langchain.ModelRateLimitError):
    """Too many requests (429)."""


class OllamaBusyError(ServerBusyError, langchain.ModelAPIError):
    """The server takes no more for now (503)."""


class OllamaQuotaError(QuotaExceededError, langchain.ModelRateLimitError):
    """A quota is used up; trying again soon will not help."""

    is_retryable = False


class OllamaQueueFullError(QueueFullError, langchain.ModelRateLimitError):
    """Too many calls wait on this side already (`max_queue`, `queue_timeout`)."""


class OllamaConnectionError(LLMConnectionError, langchain.ModelConnectionError, ConnectionError):
    """No connection to the server; a `ConnectionError`, as langchain-ollama raises one."""


class OllamaTimeoutError(LLMTimeoutError, langchain.ModelTimeoutError, ConnectionError):
    """A deadline passed.

    A `TimeoutError`, and a `ConnectionError` too: LangGraph's `RetryPolicy` tries again what is one, and no other
    `OSError`.
    """


class OllamaStreamInterruptedError(StreamInterruptedError, langchain.ModelConnectionError):
    """The answer ended before the model was done."""


class OllamaServerError(ServerError, langchain.ModelAPIError):
    """The server failed, or the model's runner did; retryable when that can heal."""


class OllamaToolCallParseError(ToolCallParseError, langchain.ModelAPIError):
    """The server could not read the tool call that its model wrote; another attempt brings another call."""


class OllamaMalformedResponseError(MalformedResponseError, langchain.ModelAPIError):
    """What came is not what an Ollama server sends."""

    is_retryable = False


class OllamaOutputError(OutputValidationError, langchain.ModelError):
    """A forced tool call did not come out whole."""


# In this order: the first that the error is an instance of counts.
_CLASSES: tuple[tuple[type[LLMError], type[LLMError]], ...] = (
    (LLMConnectionError, OllamaConnectionError),
    (LLMTimeoutError, OllamaTimeoutError),
    (StreamInterruptedError, OllamaStreamInterruptedError),
    (ModelNotFoundError, OllamaModelNotFoundError),
    (ContextWindowExceededError, OllamaContextOverflowError),
    (QuotaExceededError, OllamaQuotaError),
    (QueueFullError, OllamaQueueFullError),
    (ServerBusyError, OllamaBusyError),
    (AuthenticationError, OllamaAuthenticationError),
    (BadRequestError, OllamaInvalidRequestError),
    (MalformedResponseError, OllamaMalformedResponseError),
    (OutputValidationError, OllamaOutputError),
    (ToolCallParseError, OllamaToolCallParseError),
    (ServerError, OllamaServerError),
)
_BY_STATUS: dict[int, type[LLMError]] = {403: OllamaPermissionDeniedError, 429: OllamaRateLimitError}


class ErrorResponse:
    """What LangChain's tracers read of an error: the status, and a body with the message and what had arrived.

    Attributes:
        status_code: The HTTP status, where one failed.
        headers: None are kept.
        text: The error's message.
    """

    def __init__(self, error: LLMError) -> None:
        self.status_code = error.status_code
        self.headers: dict[str, str] = {}
        self.text = error.message
        partial = error.partial
        self._partial = partial and {
            "content": partial.content,
            "thinking": partial.thinking,
            "tool_calls": [{"name": c.name, "args": dict(c.arguments), "id": c.id} for c in partial.tool_calls],
        }

    def json(self) -> dict[str, Any]:
        """The message and, where something had arrived, that."""
        return {"error": self.text, "partial": self._partial} if self._partial else {"error": self.text}


def translated(error: LLMError) -> LLMError:
    """The error as one of LangChain's too. Raise it `from` the original."""
    if isinstance(error, langchain.ModelError):
        return error
    cls: type[LLMError] = OllamaError
    for known, ours in _CLASSES:
        if isinstance(error, known):
            cls = ours
            break
    if isinstance(error, (AuthenticationError, ServerBusyError)):
        cls = _BY_STATUS.get(error.status_code or 0, cls)
    made = cls.__new__(cls, *error.args)
    made.args = error.args
    made.__dict__.update(error.__dict__)
    if "response" not in made.__dict__:  # an OutputValidationError has the core's
        made.__dict__["response"] = ErrorResponse(error)
    if isinstance(made, OllamaServerError):
        made.__dict__["is_retryable"] = error.temporary
    return made
