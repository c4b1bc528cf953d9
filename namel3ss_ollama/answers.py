"""An answer as it grows: lines in, chunks and at last a whole response out. No I/O.

The endpoints differ in where a line keeps its text (`message.content` or `response`), nothing else. A line costs
one pass: `absorb` only collects (for calls that want the whole), `chunks` makes one small object a line.

When a tool call was forced by a grammar, the text of the answer is that call, or will be: it is held back, and
comes out as a tool call at the end, whichever way the server returned it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

import orjson

from namel3ss_ollama.arguments import Parameters, unwrapped
from namel3ss_ollama.diagnosis import reported
from namel3ss_ollama.errors import LLMError, MalformedResponseError, OutputValidationError
from namel3ss_ollama.types import LLMResponse, StreamChunk, ToolCall, new_call_id, usage_of

__all__ = ["Answer", "ServerReportedError", "read_tool_calls"]

Kind = Literal["chat", "generate"]
_COUNTS = ("prompt_eval_count", "eval_count")
_DURATIONS = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")
_NOT_METADATA = frozenset({"message", "response", "thinking", "tool_calls", "logprobs", "model", "done"})


class ServerReportedError(Exception):
    """A line `{"error": ...}` in the stream; the client turns it into the LLMError it stands for."""


class Answer:
    """What has arrived of one answer.

    Args:
        kind: Which endpoint answers.
        forced: The names of the tools of which one must be called, when a grammar enforces that.
        parameters: The schemas of the tools' arguments.
    """

    __slots__ = ("_forced", "_forced_seen", "_held", "_kind", "_logprobs", "_parameters", "_parts", "_thoughts",
                 "calls", "final", "model", "time_to_first_token")  # fmt: skip

    def __init__(self, kind: Kind, forced: Collection[str] = (), parameters: Parameters | None = None) -> None:
        self._kind = kind
        self._parameters = parameters or {}
        self._forced = frozenset(forced)
        self._forced_seen: tuple[ToolCall, ...] = ()  # read, though maybe not delivered yet
        self._parts: list[str] = []
        self._held: list[str] = []
        self._thoughts: list[str] = []
        self._logprobs: list[dict[str, Any]] = []
        self.calls: tuple[ToolCall, ...] = ()
        self.final: dict[str, Any] | None = None
        self.model = ""
        self.time_to_first_token: float | None = None

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._parts)

    @property
    def held_text(self) -> str:
        """What was held back of a forced call so far."""
        return "".join(self._held)

    def absorb(self, lines: Iterable[dict[str, Any]]) -> bool:
        """Collect lines; True when the last line of the answer was among them.

        Raises:
            ServerReportedError: The server reports an error in the stream.
            MalformedResponseError: A line is not of the endpoint's shape.
            OutputValidationError: A forced tool call did not come out.
        """
        for line in lines:
            content, thinking, calls = self._read(line)
            if content:
                self._parts.append(content)
            if thinking:
                self._thoughts.append(thinking)
            if calls:
                self.calls += calls
            if "logprobs" in line:
                self._logprobs.extend(line["logprobs"] or ())
            if line.get("done"):
                return True
        return False

    def chunk(self, line: dict[str, Any]) -> StreamChunk:
        """The chunk of a line. The answer does not grow by it until `deliver`.

        Raises:
            As `absorb`.
        """
        content, thinking, calls = self._read(line)
        return StreamChunk(content, thinking, calls, line)

    def deliver(self, chunk: StreamChunk) -> None:
        """The chunk goes to the caller: it is part of the answer from now on."""
        if chunk.content:
            self._parts.append(chunk.content)
        if chunk.thinking:
            self._thoughts.append(chunk.thinking)
        if chunk.tool_calls:
            self.calls += chunk.tool_calls
        if "logprobs" in chunk.raw:
            self._logprobs.extend(chunk.raw["logprobs"] or ())

    def _read(self, line: dict[str, Any]) -> tuple[str, str, tuple[ToolCall, ...]]:
        try:
            if "error" in line:
                raise ServerReportedError(reported(line["error"]))
            if self._kind == "chat":
                message = line["message"]
                content = message.get("content") or ""
            else:
                message = line
                content = line["response"] or ""
            thinking = message.get("thinking") or ""
            calls = message.get("tool_calls")
        except (KeyError, AttributeError, TypeError) as error:
            if line.get("done"):  # a bare last line: nothing but the reason and the counters
                content, thinking, calls = "", "", None
            else:
                raise _misshapen(self._kind) from error
        if content.__class__ is not str or thinking.__class__ is not str:
            raise _misshapen(self._kind)
        if not self.model:
            self.model = str(line.get("model") or "")
        if not calls and not self._forced and not line.get("done") and "logprobs" not in line:
            return content, thinking, ()
        return self._read_rest(line, content, thinking, calls)

    def _read_rest(
        self, line: dict[str, Any], content: str, thinking: str, raw_calls: Any
    ) -> tuple[str, str, tuple[ToolCall, ...]]:
        calls = read_tool_calls(raw_calls) if raw_calls else ()
        if not isinstance(line.get("logprobs") or [], list):
            raise _misshapen(self._kind)
        if self._forced:
            self._held.append(content)
            content = ""
            self._forced_seen += calls
        if line.get("done"):
            counts = (line.get(name) for name in _COUNTS)
            durations = (line.get(name) for name in _DURATIONS)
            if not (_all(counts, int, type(None)) and _all(durations, int, float, type(None))):
                raise _misshapen(self._kind)
            self.final = line
            self.model = str(line.get("model") or self.model)
            if self._forced:
                calls = self._forced_calls(calls, str(line.get("done_reason")))
        return content, thinking, tuple(map(self._typed, calls))

    def _typed(self, call: ToolCall) -> ToolCall:
        """A call with its arguments in the types that its tool's schema wants."""
        schema = self._parameters.get(call.name)
        if schema is None or (arguments := unwrapped(call.arguments, schema)) is call.arguments:
            return call
        return replace(call, arguments=arguments)

    def _forced_calls(self, calls: tuple[ToolCall, ...], reason: str) -> tuple[ToolCall, ...]:
        """The calls that come out with the last line, when a call was forced."""
        if not self._forced_seen:
            self._forced_seen = calls = (_call_in_text(self.held_text, reason),)
        for call in self._forced_seen:
            if call.name not in self._forced:
                raise OutputValidationError(
                    f"tool_choice asked for {' or '.join(sorted(self._forced))}, the model called another tool; "
                    "the server ignores `format`: is it an Ollama server of version 0.5 or newer?",
                    text=self.held_text,
                )
        return calls

    def response(self) -> LLMResponse:
        """The response as far as it has come; whole once `final` is there."""
        final = self.final
        metadata: dict[str, Any] = {}
        reason: str | None = None
        if final is not None:
            metadata = {k: v for k, v in final.items() if k not in _NOT_METADATA}
            reason = "tool_calls" if self.calls else (final.get("done_reason") or "stop")
            _add_rates(metadata)
        if self.time_to_first_token is not None:
            metadata["time_to_first_token"] = self.time_to_first_token
        return LLMResponse(
            content=self.text or (self.held_text if final is None else ""),
            model=self.model,
            usage=usage_of(final or {}),
            finish_reason=reason,
            metadata=metadata,
            thinking="".join(self._thoughts),
            tool_calls=self.calls,
            logprobs=self._logprobs or None,
        )

    def is_empty(self) -> bool:
        """Whether nothing has arrived."""
        return not (self._parts or self._held or self._thoughts or self.calls or self.final)


def _all(values: Iterable[object], *types: type) -> bool:
    return all(isinstance(value, types) for value in values)


def _add_rates(metadata: dict[str, Any]) -> None:
    for rate, count, duration in (
        ("tokens_per_second", "eval_count", "eval_duration"),
        ("prompt_tokens_per_second", "prompt_eval_count", "prompt_eval_duration"),
    ):
        if metadata.get(count) and metadata.get(duration):
            metadata[rate] = metadata[count] / metadata[duration] * 1e9


def read_tool_calls(raw: Any) -> tuple[ToolCall, ...]:
    """Tool calls as the server sends them. Arguments that are no JSON object stay text, marked as such.

    Raises:
        MalformedResponseError: A call has no function or no name.
    """
    try:
        return tuple(_read_tool_call(call) for call in raw)
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise MalformedResponseError(
            "the server sent a tool call without a function's name", original_error=error
        ) from error


def _read_tool_call(raw: dict[str, Any]) -> ToolCall:
    function = raw["function"]
    arguments, invalid = read_arguments(function.get("arguments"))
    return ToolCall(_name(function["name"]), arguments, raw.get("id") or new_call_id(), invalid)


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a function's name is text")
    return value


def read_arguments(value: Any) -> tuple[dict[str, Any], str | None]:
    """Arguments as an object and None, or an empty object and the text that is no JSON object."""
    if isinstance(value, Mapping):
        return dict(value), None
    if value is None or value == "":
        return {}, None
    if not isinstance(value, str):
        return {}, json.dumps(value, ensure_ascii=False)
    try:
        parsed = orjson.loads(value)
    except orjson.JSONDecodeError:
        return {}, value
    return (parsed, None) if isinstance(parsed, dict) else ({}, value)


def _call_in_text(text: str, reason: str) -> ToolCall:
    """The forced call that the server returned as text."""
    try:
        value = orjson.loads(text)
        arguments, invalid = read_arguments(value["arguments"])
        return ToolCall(_name(value["name"]), arguments, invalid_arguments=invalid)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        advice = (
            "it was cut by the token limit: raise max_tokens"
            if reason == "length"
            else "the server did not hold to `format`"
        )
        raise OutputValidationError(
            f"the forced tool call did not come out whole ({len(text)} characters); {advice}",
            original_error=error,
            text=text,
        ) from error


def _misshapen(kind: Kind) -> LLMError:
    return MalformedResponseError(
        f"the server sent a line that is not of the shape of /api/{kind}; is this an Ollama server?"
    )
