"""The outcome of each fault of a server: the one table behind the matrix tests and docs/reliability.md.

A row is a fault and its outcome in three modes: `whole` (a complete answer, assembled by the client from a stream),
`streaming` (chunks as they arrive) and `one_object` (`stream_internally=False`: assembled by the server). What a row
omits follows from the rest: a stream is never retried once a chunk was delivered, and an answer that comes as one
object leaves nothing in `partial`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from langchain_namel3ss_ollama.errors import translated
from namel3ss_ollama import (
    AuthenticationError,
    BadRequestError,
    ContextWindowExceededError,
    LLMConnectionError,
    LLMError,
    LLMTimeoutError,
    MalformedResponseError,
    ModelNotFoundError,
    QuotaExceededError,
    RetryPolicy,
    ServerBusyError,
    ServerError,
    StreamConfig,
    StreamInterruptedError,
    ToolCallParseError,
)
from namel3ss_ollama.testing import Reply

__all__ = ["MODES", "ROWS", "TEXT", "Outcome", "Row", "goes_elsewhere", "in_langchain", "report"]

TEXT = "one two three four five six"
MODES = ("whole", "streaming", "one_object")
_SHORT = 0.1
"""The deadline, in seconds, where a stall is the fault."""


_PLAIN = Reply(TEXT)
_CALL = '{"city": "Ro'
_CANNOT_READ = f"error parsing tool call: raw='{_CALL}', err=unexpected end of JSON input"


@dataclass(frozen=True)
class Outcome:
    """The required outcome of a call.

    Attributes:
        error: The error that must be raised, one of several if timing decides; empty for an answer.
        attempts: The required number of attempts, one of several if timing decides.
        partial: The text that the error carries, None for none; for an answer, the complete text.
        finish: The `done_reason` of an answer.
        calls: The tool calls of an answer: name, arguments, arguments that are broken.
        deadline: The deadline that must have passed.
        lossy: Whether `partial` may also be empty, because timing decides.
        unread: The end of `partial` that was never delivered: a call that the server could not parse.
    """

    error: tuple[type[LLMError], ...] = ()
    attempts: tuple[int, ...] = (1,)
    partial: str | None = None
    finish: str = "stop"
    calls: tuple[tuple[str, Mapping[str, Any], bool], ...] = ()
    deadline: str | None = None
    lossy: bool = False
    unread: str = ""


@dataclass(frozen=True)
class Row:
    """A fault, and its required outcome.

    Attributes:
        fault: Its name.
        whole: The outcome of a complete answer.
        options: The fault's options.
        times: The number of requests that have it; None for all.
        settings: The provider's settings.
        stream: The outcome of a stream, if it does not follow from `whole`.
        single: The outcome of an answer as one object, if it does not follow.
        note: Shown in the report in place of the options.
        reply: The answer without the fault.
        modes: The modes that the row applies to.
    """

    fault: str
    whole: Outcome
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    times: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    stream: Outcome | None = None
    single: Outcome | None = None
    note: str = ""
    reply: Reply = _PLAIN
    modes: tuple[str, ...] = MODES

    def outcome(self, mode: str) -> Outcome:
        """The required outcome in one of `MODES`."""
        if mode == "streaming":
            if self.stream is not None:
                return self.stream
            return replace(self.whole, attempts=(1,)) if self.whole.error and self.whole.partial else self.whole
        if mode == "one_object":
            return self.single or (replace(self.whole, partial=None) if self.whole.error else self.whole)
        return self.whole

    @property
    def name(self) -> str:
        """For the test's id and the report."""
        options = self.note or ", ".join(f"{k}={v}" for k, v in self.options.items() if k not in ("size", "location"))
        times = "" if self.times is None else " once" if self.times == 1 else f" {self.times} times"
        return f"{self.fault}{f' ({options})' if options else ''}{times}"


_OF_THE_HOST = (LLMConnectionError, ServerBusyError, ModelNotFoundError, AuthenticationError, QuotaExceededError)
_SILENCE = ("first_chunk_timeout", "chunk_timeout")


def goes_elsewhere(row: Row, mode: str) -> bool:
    """Whether a request goes to another host if one of several has this fault."""
    outcome = row.outcome(mode)
    if "retry" in row.settings or (mode == "streaming" and outcome.error and outcome.partial):
        return False
    return (
        not outcome.error
        or outcome.error[0] in _OF_THE_HOST
        or outcome.deadline in _SILENCE
        # Another server does not have a temporary fault of this one. (A call that cannot be parsed is the model's.)
        or (row.whole.attempts[-1] > 1 and outcome.error[0] is not ToolCallParseError and not row.whole.lossy)
    )


def fails(error: type[LLMError], attempts: int = 1, partial: str | None = None) -> Outcome:
    return Outcome((error,), (attempts,), partial)


def answers(attempts: int = 1, text: str = TEXT, finish: str = "stop") -> Outcome:
    return Outcome((), (attempts,), text, finish)


def times_out(deadline: str, partial: str | None = None) -> Outcome:
    return Outcome((LLMTimeoutError,), (1,), partial, deadline=deadline)


def cannot_read(attempts: int, arrived: str = "") -> Outcome:
    return Outcome((ToolCallParseError,), (attempts,), arrived + _CALL, unread=_CALL)


def status(code: int, outcome: Outcome, note: str = "", **options: Any) -> Row:
    return Row("status", outcome, {"status": code, **options}, note=f"{code}{', ' if note else ''}{note}")


def calls(fault: str, arguments: Mapping[str, Any], *, broken: bool = False, name: str = "weather") -> Row:
    outcome = Outcome(partial="", calls=((name, arguments, broken),))
    call = {"function": {"name": "weather", "arguments": {"city": "Rome"}}}
    return Row(fault, outcome, reply=Reply(tool_calls=[call]))


def stalls(fault: str, outcome: Outcome, modes: tuple[str, ...] = MODES, **options: Any) -> Row:
    """With a single short deadline, that of the outcome; nothing else ends the wait."""
    deadline = str(outcome.deadline)
    setting = {"timeout": _SHORT} if deadline == "timeout" else {"stream_config": StreamConfig(**{deadline: _SHORT})}
    note = f"against {deadline}" + (f", {options['seconds']} s between bytes" if "seconds" in options else "")
    return Row(fault, outcome, options, settings=setting, modes=modes, note=note)


_LIMITED = {"stream_config": StreamConfig(max_line_bytes=500_000)}
_BODY_LIMITED = "a limit of 500 kB"
_IMPATIENT = {"retry": RetryPolicy.off()}
_NO_ROOM = "a prompt that is too long"
_TOO_LONG = "input length (5000 tokens) exceeds the model's maximum context length (4096 tokens)"
_OF_LLAMA_SERVER = (
    '{"error":{"code":400,"message":"request (5000 tokens) exceeds the available context size (4096 tokens), try '
    'increasing it","type":"exceed_context_size_error","n_prompt_tokens":5000,"n_ctx":4096}}'
)
_NO_CLOUD = "ollama cloud is disabled: remote inference is unavailable"
_NO_CALL = "a tool call that the server cannot read"
_MALFORMED = fails(MalformedResponseError)
_BROKEN = fails(LLMConnectionError, 3)

ROWS = [
    # The connection
    Row("refuse", fails(LLMConnectionError, 3)),
    Row("reset_before_headers", fails(LLMConnectionError, 3)),
    Row("reset_before_headers", answers(3), times=2),
    Row("reset_before_headers", fails(LLMConnectionError), settings=_IMPATIENT, note="retries off"),
    Row("close_before_headers", fails(LLMConnectionError, 3)),
    Row("reset_mid_stream", fails(StreamInterruptedError, 3, "one"), single=_BROKEN),
    Row("reset_mid_stream", answers(3), times=2, stream=fails(StreamInterruptedError, 1, "one")),
    Row("half_close", fails(StreamInterruptedError, 3, "one"), single=_BROKEN),
    Row("cut", fails(StreamInterruptedError, 3, "one"), single=_BROKEN),
    Row("cut", answers(3), times=2, stream=fails(StreamInterruptedError, 1, "one")),
    # Silence
    stalls("stall_before_headers", times_out("first_chunk_timeout")),
    stalls("stall_before_headers", times_out("stream_timeout")),
    stalls("stall_before_headers", times_out("timeout")),
    stalls("stall_mid_stream", times_out("chunk_timeout", "one"), ("whole", "streaming")),
    stalls("stall_mid_stream", times_out("first_chunk_timeout"), ("one_object",)),
    stalls("slow_drip", times_out("first_chunk_timeout"), seconds=0.005),
    Row("slow_drip", answers(), {"seconds": 0.0}, note="without waits"),
    # The end of the answer
    Row("truncated", fails(StreamInterruptedError, 1, TEXT)),
    Row("truncated", fails(StreamInterruptedError, 1, "one two"), {"at_token": 2}),
    Row("empty_body", fails(StreamInterruptedError)),
    Row("no_final_newline", answers()),
    Row("extra_after_done", answers(), single=_MALFORMED),
    Row("duplicate_done", answers(), single=_MALFORMED),
    Row("content_length_long", answers(), single=_BROKEN),
    Row(
        "content_length_short",
        # The rest of the body looks like the next response: timing decides which error is raised.
        Outcome((StreamInterruptedError, MalformedResponseError), (1, 2, 3), TEXT, lossy=True),
        stream=Outcome((StreamInterruptedError, MalformedResponseError), (1, 2, 3), TEXT, lossy=True),
    ),
    # Lines
    Row("error_line", fails(ServerError, 3, "one")),
    Row("error_line", answers(3), times=2, stream=fails(ServerError, 1, "one")),
    Row(
        "error_line",
        cannot_read(2, "one"),
        {"message": _CANNOT_READ},
        note=_NO_CALL,
        stream=cannot_read(1, "one"),
        single=cannot_read(2),
    ),
    Row(
        "error_line",
        answers(2),
        {"message": _CANNOT_READ},
        times=1,
        note=_NO_CALL,
        stream=cannot_read(1, "one"),
    ),
    Row("error_line", fails(ContextWindowExceededError, 1, "one"), {"message": _TOO_LONG}, note=_NO_ROOM),
    Row("malformed_line", fails(MalformedResponseError, 1, "one")),
    Row("invalid_utf8", fails(MalformedResponseError, 1, "one")),
    Row("half_character", answers(text=f"one\ufffd{TEXT[3:]}"), single=answers(text=f"\ufffd{TEXT}")),
    Row("huge_line", fails(MalformedResponseError, 1, "one"), settings=_LIMITED, note=_BODY_LIMITED),
    Row("lines_in_one_chunk", answers()),
    Row("byte_chunks", answers()),
    Row("empty_lines", answers()),
    Row("crlf", answers()),
    # The body
    Row("html_page", _MALFORMED),
    Row("wrong_content_type", answers()),
    Row("gzip", answers()),
    Row("bomb", _MALFORMED, settings=_LIMITED, note=_BODY_LIMITED),
    # The status
    status(400, fails(BadRequestError)),
    status(401, fails(AuthenticationError)),
    status(402, fails(QuotaExceededError)),
    status(403, fails(AuthenticationError)),
    status(403, fails(AuthenticationError), "a cloud that is switched off", message=_NO_CLOUD),
    status(404, fails(BadRequestError), "no such path", body="404 page not found"),
    status(404, fails(ModelNotFoundError), "no such model", message="model 'llama3.2' not found"),
    status(404, fails(ModelNotFoundError), "as gateways say it", body='{"detail": "Model \'llama3.2\' was not found"}'),
    status(408, fails(ServerBusyError, 3)),
    status(413, fails(BadRequestError)),
    status(429, fails(ServerBusyError, 3)),
    status(429, fails(ServerBusyError, 3), "Retry-After: 1", retry_after=1),
    status(429, fails(ServerBusyError), "Retry-After: 3600", retry_after=3600),
    status(429, fails(QuotaExceededError), "a quota", message="you have reached your weekly usage limit"),
    status(500, fails(ServerError, 3), "the runner died", message="llama runner process has terminated: exit status 2"),
    status(500, fails(BadRequestError), "a wrong option", message='option "temperature" must be of type float32'),
    *(
        replace(row, stream=row.whole, single=row.whole)
        for row in [
            status(500, cannot_read(2), _NO_CALL, message=_CANNOT_READ),
            replace(status(500, answers(2), _NO_CALL, message=_CANNOT_READ), times=1),
        ]
    ),
    status(400, fails(ContextWindowExceededError), f"{_NO_ROOM}, as llama-server says it", message=_OF_LLAMA_SERVER),
    status(500, fails(ContextWindowExceededError), f"{_NO_ROOM}, as MLX says it", message=_TOO_LONG),
    status(500, fails(ServerError), "a reason that stays", message="pull model manifest: no network"),
    status(502, fails(ServerError, 3), "a proxy's page", html=True),
    status(503, fails(ServerBusyError, 3)),
    replace(status(503, answers(3)), times=2),
    status(504, fails(ServerError, 3), "a proxy's page", html=True),
    status(520, fails(ServerError, 3), "as those to 524 of Cloudflare", html=True),
    Row("redirect", fails(BadRequestError), {"location": "http://127.0.0.1:9/"}),
    # The content of the answer
    Row("done_reason", answers(finish="length"), {"reason": "length"}),
    Row("done_reason", answers(finish="load"), {"reason": "load"}),
    Row("done_reason", answers(finish="unload"), {"reason": "unload"}),
    Row("missing_counter", answers()),
    Row("missing_counter", answers(), {"counter": "prompt_eval_count"}),
    calls("tool_arguments_object", {"city": "Rome"}),
    calls("tool_arguments_string", {"city": "Rome"}),
    calls("tool_arguments_broken", {}, broken=True),
    calls("tool_arguments_empty", {}),
    calls("tool_name_missing", {}, broken=True, name=""),
]


_HEAD = """# Reliability

What becomes of each fault that a server, a proxy or a network can have. A complete answer is assembled from a stream,
so that a stall is noticed and a failure carries what had arrived. A stream yields chunks as they arrive, and is never
retried after its first chunk. With `stream_internally=False` the server sends the answer as one object. The retry
policy is the default one: 3 attempts.

In every cell, in addition:

- the call ends: at once, or when the named deadline passes;
- an incomplete answer is never returned as if it were complete: it is an error, and `partial` holds what had arrived;
- the slot is free again, no request is in flight at the server, and a connection is kept only if its answer was read to
  the end;
- nothing is retried that time cannot heal.

The last column is for a provider with several hosts of which one has the fault: whether a complete answer comes from
another one instead. A stream moves to another host for the same faults, until its first chunk. If all hosts have the
fault, the outcome is that of a complete answer, and each host is asked once before any is asked again.

LlamaIndex's `Ollama` raises these errors as they are. LangChain's `ChatOllama` raises the class named in the last
column but one: it is the core's class and LangChain's kind of error at once, and the core's error is its `__cause__`.

| fault | complete answer | stream | one object | in LangChain | another host |
| --- | --- | --- | --- | --- | --- |
"""
_FOOT = """
The faults are those of `namel3ss_ollama.testing` ([testing.md](testing.md) describes each), so that an application can
be held against the same table.

<!-- Made out of tests/support/fault_table.py, whose every row is run in each way to ask: provider, LangChain and
LlamaIndex, whole and streaming, async and sync, over aiohttp and httpx. `make pages` writes it. -->
"""


def report() -> str:
    """The page docs/reliability.md."""
    lines = [f"| {' | '.join([_shown(row), *_cells(row), _in_langchain(row), _elsewhere(row)])} |" for row in ROWS]
    return _HEAD + "\n".join(lines) + "\n" + _FOOT


def _shown(row: Row) -> str:
    fault, more, rest = row.name.partition(" ")
    return f"`{fault}`{more}{rest}"


def _cells(row: Row) -> Iterator[str]:
    for mode in MODES:
        yield _described(row.outcome(mode)) if mode in row.modes else ""


def _described(outcome: Outcome) -> str:
    attempts = f", {outcome.attempts[-1]} attempts" if len(outcome.attempts) == 1 and outcome.attempts[0] > 1 else ""
    if outcome.calls:
        name, _, broken = outcome.calls[0]
        if not name:
            return "the answer, the call beside it as text"
        return "the call, its arguments marked as broken" if broken else "the call"
    if not outcome.error:
        changed = ", U+FFFD in the half's place" if "\ufffd" in str(outcome.partial) else ""
        return f"the answer{changed}{f' ({outcome.finish})' if outcome.finish != 'stop' else ''}{attempts}"
    error = " or ".join(f"`{cls.__name__}`" for cls in outcome.error)
    deadline = f" when `{outcome.deadline}` passes" if outcome.deadline else ""
    return f"{error}{deadline}{_carried(outcome)}{attempts}"


def _carried(outcome: Outcome) -> str:
    """The contents of an error's `partial`."""
    if outcome.partial == TEXT:
        return " with all the text"
    arrived = (outcome.partial or "").removesuffix(outcome.unread)
    carried = [*(["what had come"] if arrived else []), *(["the call"] if outcome.unread else [])]
    return f" with {' and '.join(carried)}" if carried else ""


def in_langchain(error: type[LLMError], row: Row) -> str:
    """The name of LangChain's class for an error."""
    return type(translated(error("x", status_code=row.options.get("status")))).__name__


def _elsewhere(row: Row) -> str:
    if row.note == _NO_CALL or (not row.whole.error and row.times is None):
        return ""  # the model is asked again, on any host with a free slot
    return "yes" if goes_elsewhere(row, "whole") else "no"


def _in_langchain(row: Row) -> str:
    errors = row.whole.error or row.outcome("streaming").error
    return " or ".join(f"`{in_langchain(error, row)}`" for error in errors)
