"""Error classes that are both the core's and LangChain's.

LangChain handles the errors it knows (`ModelError`): its retry middleware retries the retryable ones, its summarization
reacts to a full context window. So each core error that leaves the adapter has a class that inherits from both:
`except LLMError` and `except ModelRateLimitError` both catch it, and it keeps `partial`, `status_code` and the other
attributes. The original error is its `__cause__`.
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
    """An error without a more specific class."""


class OllamaAuthenticationError(AuthenticationError, langchain.ModelAuthenticationError):
    """The API key is missing or wrong (401)."""


class OllamaPermissionDeniedError(AuthenticationError, langchain.ModelPermissionDeniedError):
    """The API key lacks permission for this request (403)."""


class OllamaInvalidRequestError(BadRequestError, langchain.ModelInvalidRequestError):
    """The server rejected the request as invalid."""


class OllamaModelNotFoundError(ModelNotFoundError, langchain.ModelNotFoundError):
    """The server does not have the model."""


class OllamaContextOverflowError(ContextWindowExceededError, langchain.ContextOverflowError):
    """The prompt does not fit the context window."""


class OllamaRateLimitError(ServerBusyError, langchain.ModelRateLimitError):
    """Too many requests (429)."""


class OllamaBusyError(ServerBusyError, langchain.ModelAPIError):
    """The server is overloaded (503)."""


class OllamaQuotaError(QuotaExceededError, langchain.ModelRateLimitError):
    """A quota is used up; retrying soon will not help."""

    is_retryable = False


class OllamaQueueFullError(QueueFullError, langchain.ModelRateLimitError):
    """Too many calls are waiting in the client, or a call waited too long (`max_queue`, `queue_timeout`)."""


class OllamaConnectionError(LLMConnectionError, langchain.ModelConnectionError, ConnectionError):
    """No connection to the server; also a `ConnectionError`, which langchain-ollama raises."""


class OllamaTimeoutError(LLMTimeoutError, langchain.ModelTimeoutError, ConnectionError):
    """A timeout expired.

    It is a `TimeoutError`, and a `ConnectionError` too: that is the only `OSError` that LangGraph's `RetryPolicy`
    retries.
    """


class OllamaStreamInterruptedError(StreamInterruptedError, langchain.ModelConnectionError):
    """The answer broke off before the model finished."""


class OllamaServerError(ServerError, langchain.ModelAPIError):
    """The server or its model runner failed; retryable if the failure may be temporary."""


class OllamaToolCallParseError(ToolCallParseError, langchain.ModelAPIError):
    """The server could not parse the model's tool call; a retry gives a new call."""


class OllamaMalformedResponseError(MalformedResponseError, langchain.ModelAPIError):
    """The response is not one that an Ollama server sends."""

    is_retryable = False


class OllamaOutputError(OutputValidationError, langchain.ModelError):
    """A forced tool call is missing or incomplete."""


# The first match is used, so the order matters.
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
    """What LangChain's tracers read from an error: the status, and a body with the message and the partial answer.

    Attributes:
        status_code: The HTTP status, if there was an error response.
        headers: Always empty.
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
        """The message and, if any of the answer was received, the partial answer."""
        return {"error": self.text, "partial": self._partial} if self._partial else {"error": self.text}


def translated(error: LLMError) -> LLMError:
    """Convert an error to one that is LangChain's too. Raise it `from` the original."""
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
    if "response" not in made.__dict__:  # an OutputValidationError has the core's response
        made.__dict__["response"] = ErrorResponse(error)
    if isinstance(made, OllamaServerError):
        made.__dict__["is_retryable"] = error.temporary
    return made
