"""What can go wrong, one class for each thing a program would do differently.

`LLMError` is the root. Every error says in its message what happened and what to do next; none of them
quotes a prompt, an answer or a key. Errors that end a generation carry what had arrived in `partial`.
Arguments that cannot be right (an empty model name, NaN, an unknown role) are not here: those are plain
`ValueError` and `TypeError`, raised before any request is sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from namel3ss_ollama.rows import BatchRow
    from namel3ss_ollama.types import LLMResponse

__all__ = [
    "AuthenticationError",
    "BadRequestError",
    "ContextWindowExceededError",
    "JournalError",
    "LLMConnectionError",
    "LLMError",
    "LLMTimeoutError",
    "MalformedResponseError",
    "ModelNotFoundError",
    "OutputValidationError",
    "QueueFullError",
    "QuotaExceededError",
    "ServerBusyError",
    "ServerError",
    "StreamInterruptedError",
    "ToolCallParseError",
]


class LLMError(Exception):
    """Anything that kept a request from being answered in full.

    Attributes:
        provider: Who failed: always "ollama" here, so that a program with several providers can tell.
        status_code: The HTTP status, when an HTTP answer is what failed.
        original_error: The exception underneath, when there was one (also set as `__cause__`).
        partial: What had arrived of the answer before it failed, or None when nothing had.
        retry_after: Seconds the server asked to wait, when it said so.
        temporary: Whether the same request may succeed later; only such failures are retried.
        prompt_index: In a batch: the index of the prompt that failed, from 0. None elsewhere. Not in the message.
        index: In `embed`: the index of the text that is at fault, from 0. None elsewhere, and where no one text is.

    See docs/troubleshooting.md#llmerror
    """

    temporary: bool = False

    def __init__(
        self,
        message: str,
        provider: str = "ollama",
        status_code: int | None = None,
        original_error: BaseException | None = None,
        *,
        partial: LLMResponse | None = None,
        retry_after: float | None = None,
        temporary: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.provider = provider
        self.status_code = status_code
        self.original_error = original_error
        self.partial = partial
        self.retry_after = retry_after
        self.prompt_index: int | None = None
        self.index: int | None = None
        if temporary is not None:
            self.temporary = temporary
        if original_error is not None:
            self.__cause__ = original_error

    @property
    def message(self) -> str:
        """The text of the error."""
        return str(self.args[0])

    def __reduce__(self) -> tuple[Any, ...]:
        # BaseException pickles `args` alone, which would drop everything but the message.
        state = {k: v for k, v in self.__dict__.items() if k != "original_error"}
        return type(self)._restore, (self.args, state)

    @classmethod
    def _restore(cls, args: tuple[Any, ...], state: dict[str, Any]) -> LLMError:
        error = cls.__new__(cls)
        error.args = args
        error.__dict__.update(state, original_error=None)
        return error


class LLMConnectionError(LLMError, ConnectionError):
    """No connection to the server, or it broke before anything of the answer came; a builtin `ConnectionError` too.

    See docs/troubleshooting.md#llmconnectionerror
    """

    temporary = True


class LLMTimeoutError(LLMError, TimeoutError):
    """A deadline passed.

    Attributes:
        deadline: Which one: "connect", "first_chunk_timeout", "chunk_timeout", "tool_call_timeout", "stream_timeout" or
            "timeout".
        seconds: How long it was.

    See docs/troubleshooting.md#llmtimeouterror
    """

    deadline: str
    seconds: float

    def __init__(
        self,
        message: str,
        provider: str = "ollama",
        status_code: int | None = None,
        original_error: BaseException | None = None,
        *,
        deadline: str = "timeout",
        seconds: float = 0.0,
        partial: LLMResponse | None = None,
    ) -> None:
        # A connection that was not made can be tried again; a model that stalls most likely stalls again.
        super().__init__(
            message, provider, status_code, original_error, partial=partial, temporary=deadline == "connect"
        )
        self.deadline = deadline
        self.seconds = seconds


class ModelNotFoundError(LLMError):
    """The server does not have the model; the message says how to pull it.

    See docs/troubleshooting.md#modelnotfounderror
    """


class ServerBusyError(LLMError):
    """The server is there but takes no more for now (503, 429 and the like): try again later.

    See docs/troubleshooting.md#serverbusyerror
    """

    temporary = True


class QuotaExceededError(LLMError):
    """A quota of a hosted account is used up; waiting a few seconds will not help.

    See docs/troubleshooting.md#quotaexceedederror
    """


class AuthenticationError(LLMError):
    """The server wants a key, or another one (401, 403).

    See docs/troubleshooting.md#authenticationerror
    """


class BadRequestError(LLMError):
    """The server refused the request as it is; sending it again will not help.

    See docs/troubleshooting.md#badrequesterror
    """


class ContextWindowExceededError(LLMError):
    """The prompt does not fit the context window, and `on_truncation="error"` forbids cutting it.

    Attributes:
        tokens: How many tokens the prompt has, as the server says, else about; None where neither is known.
        window: The context window, in tokens; None where it is not known.

    See docs/troubleshooting.md#contextwindowexceedederror
    """

    tokens: int | None
    window: int | None

    def __init__(
        self,
        message: str,
        provider: str = "ollama",
        status_code: int | None = None,
        original_error: BaseException | None = None,
        *,
        partial: LLMResponse | None = None,
        tokens: int | None = None,
        window: int | None = None,
    ) -> None:
        super().__init__(message, provider, status_code, original_error, partial=partial)
        self.tokens = tokens
        self.window = window


class ServerError(LLMError):
    """The server failed (5xx), or the model's runner did.

    See docs/troubleshooting.md#servererror
    """


class ToolCallParseError(ServerError):
    """The server could not read the tool call that its model wrote, so the answer is lost.

    The model writes another call when it is asked again, so the request is sent once more (`RetryPolicy.call_retries`),
    as long as nothing reached the caller. `partial` ends with the call, after what had arrived before it.

    Attributes:
        text: The call as the model wrote it, as far as the server quotes it; empty where it does not.

    See docs/troubleshooting.md#toolcallparseerror
    """

    temporary = True
    text: str

    def __init__(
        self,
        message: str,
        provider: str = "ollama",
        status_code: int | None = None,
        original_error: BaseException | None = None,
        *,
        partial: LLMResponse | None = None,
        text: str = "",
    ) -> None:
        super().__init__(message, provider, status_code, original_error, partial=partial)
        self.text = text


class MalformedResponseError(LLMError):
    """What came is not what an Ollama server sends: a proxy's page, broken JSON, a line without end.

    See docs/troubleshooting.md#malformedresponseerror
    """


class StreamInterruptedError(LLMError):
    """The stream ended before the model was done; `partial` holds what had arrived.

    See docs/troubleshooting.md#streaminterruptederror
    """


class OutputValidationError(LLMError):
    """The answer does not validate against the type given as `format`.

    Attributes:
        text: The answer as the model wrote it.
        response: The whole response, `parsed` being None.
        tried: What was tried beside `format`, which did not hold the model to it; empty where nothing was. The message
            ends with it.

    See docs/troubleshooting.md#outputvalidationerror
    """

    text: str
    tried: str = ""
    response: LLMResponse | None

    def __init__(
        self,
        message: str,
        provider: str = "ollama",
        status_code: int | None = None,
        original_error: BaseException | None = None,
        *,
        text: str = "",
        response: LLMResponse | None = None,
    ) -> None:
        super().__init__(message, provider, status_code, original_error, partial=response)
        self.text = text
        self.response = response


class QueueFullError(LLMError):
    """The provider's own queue is full (`max_queue`), or the wait in it was too long (`queue_timeout`).

    See docs/troubleshooting.md#queuefullerror
    """


class JournalError(LLMError):
    """A batch's journal cannot be used: it is another batch's, in use, damaged, or the disk is full.

    All rows that were written before are kept.

    Attributes:
        unwritten: The row that was answered and could not be written; None where there was none.

    See docs/troubleshooting.md#journalerror
    """

    unwritten: BatchRow | None = None
