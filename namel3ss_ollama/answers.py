"""An answer as it grows: lines in, chunks and finally a complete response out. No I/O.

The endpoints differ in where a line keeps its text (`message.content` or `response`), nothing else. A line costs
one pass: `absorb` only collects (for calls that return a complete response), `chunk` makes one small object a line.

When a grammar forces a tool call, the text of the answer is that call: it is held back and becomes a tool call at the
end, in whichever form the server returned it. Where a format was requested, reasoning that the model writes before its
JSON counts as reasoning, not as text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any, Literal

from namel3ss_ollama.arguments import Parameters, unwrapped
from namel3ss_ollama.calls import AnyCall, id_of, read_arguments, read_tool_call, read_tool_calls
from namel3ss_ollama.errors import LLMError, MalformedResponseError, OutputValidationError
from namel3ss_ollama.exact import read_json
from namel3ss_ollama.reasoning import ReasoningSplitter, json_in, split_reasoning
from namel3ss_ollama.reasons import reason_in_line
from namel3ss_ollama.types import InvalidToolCall, LLMResponse, StreamChunk, ToolCall, new_call_id, usage_of

__all__ = ["Answer", "ServerReportedError", "read_arguments", "read_tool_calls"]

Kind = Literal["chat", "generate"]
_COUNTS = ("prompt_eval_count", "prompt_eval_cached_count", "eval_count")
_DURATIONS = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")
_NOT_METADATA = frozenset({"message", "response", "thinking", "tool_calls", "logprobs", "model", "done"})


class ServerReportedError(Exception):
    """A line `{"error": ...}` in the stream; the client turns it into the corresponding LLMError."""


class Answer:
    """What has arrived of one answer.

    Args:
        kind: Which endpoint answers.
        forced: The names of the tools, one of which must be called, when a grammar enforces that.
        parameters: The schemas of the tools' arguments.
        formatted: Whether a format was requested, so that the answer is JSON.

    Attributes:
        earlier: How many of its tokens were generated before another server resumed it.
    """

    __slots__ = (
        "_forced", "_forced_seen", "_forced_thoughts", "_held", "_ids", "_kind", "_logprobs", "_parameters", "_parts",
        "_splitter", "_thought_the_call", "_thoughts", "_unusual", "calls", "earlier", "final", "formatted",
        "invalid_calls", "model", "time_to_first_token",
    )  # fmt: skip

    def __init__(
        self,
        kind: Kind,
        forced: Collection[str] = (),
        parameters: Parameters | None = None,
        *,
        formatted: bool = False,
    ) -> None:
        self._kind = kind
        self._parameters = parameters or {}
        self._forced = frozenset(forced)
        self.formatted = formatted
        self._splitter = ReasoningSplitter() if formatted or forced else None
        self._unusual = bool(forced) or formatted
        self._forced_seen: tuple[AnyCall, ...] = ()  # read, though maybe not delivered yet
        self._ids: set[str] = set()
        self._parts: list[str] = []
        self._held: list[str] = []
        self._forced_thoughts: list[str] = []  # read, though maybe not delivered yet
        self._thought_the_call = False
        self._thoughts: list[str] = []
        self._logprobs: list[dict[str, Any]] = []
        self.calls: tuple[ToolCall, ...] = ()
        self.invalid_calls: tuple[InvalidToolCall, ...] = ()
        self.final: dict[str, Any] | None = None
        self.earlier = 0
        self.model = ""
        self.time_to_first_token: float | None = None

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._parts)

    @property
    def pieces(self) -> tuple[str, ...]:
        """The text so far, as the pieces that arrived."""
        return tuple(self._parts)

    @property
    def thinks(self) -> bool:
        """Whether any reasoning has arrived."""
        return bool(self._thoughts)

    @property
    def held_text(self) -> str:
        """The text held back so far because a call was forced."""
        return "".join(self._held)

    def absorb(self, lines: Iterable[dict[str, Any]]) -> bool:
        """Collect lines; True when the last line of the answer was among them.

        Raises:
            ServerReportedError: The server reports an error in the stream.
            MalformedResponseError: A line is not of the endpoint's shape.
            OutputValidationError: The forced tool call is missing or incomplete.
        """
        for line in lines:
            content, thinking, calls = self._read(line)
            if content:
                self._parts.append(content)
            if thinking:
                self._thoughts.append(thinking)
            if calls:
                self._add(calls)
            if "logprobs" in line:
                self._logprobs.extend(line["logprobs"] or ())
            if line.get("done"):
                return True
        return False

    def chunk(self, line: dict[str, Any]) -> StreamChunk:
        """The chunk of a line. It becomes part of the answer with `deliver`.

        Raises:
            As `absorb`.
        """
        content, thinking, calls = self._read(line)
        if calls is _NO_CALLS:
            return StreamChunk(content, thinking, (), line)
        return StreamChunk(content, thinking, _valid(calls), line, None, _invalid(calls))

    def deliver(self, chunk: StreamChunk) -> None:
        """The chunk goes to the caller and becomes part of the answer."""
        if chunk.content:
            self._parts.append(chunk.content)
        if chunk.thinking:
            self._thoughts.append(chunk.thinking)
        if chunk.tool_calls:
            self.calls += chunk.tool_calls
        if chunk.invalid_tool_calls:
            self.invalid_calls += chunk.invalid_tool_calls
        if "logprobs" in chunk.raw:
            self._logprobs.extend(chunk.raw["logprobs"] or ())

    def _add(self, calls: tuple[AnyCall, ...]) -> None:
        self.calls += _valid(calls)
        self.invalid_calls += _invalid(calls)

    def _read(self, line: dict[str, Any]) -> tuple[str, str, tuple[AnyCall, ...]]:
        try:
            if "error" in line and (said := reason_in_line(line)) is not None:
                raise ServerReportedError(said)
            if self._kind == "chat":
                message = line["message"]
                content = message.get("content") or ""
            else:
                message = line
                content = line["response"] or ""
            thinking = message.get("thinking") or ""
            calls = message.get("tool_calls")
        except (KeyError, AttributeError, TypeError) as error:
            if (said := reason_in_line(line)) is not None:
                raise ServerReportedError(said) from None
            if line.get("done"):  # a bare last line: nothing but the reason and the counters
                content, thinking, calls = "", "", None
            else:
                raise _misshapen(self._kind) from error
        if content.__class__ is not str or thinking.__class__ is not str:
            raise _misshapen(self._kind)
        if not self.model:
            self.model = str(line.get("model") or "")
        if not calls and not self._unusual and not line.get("done") and "logprobs" not in line:
            return content, thinking, _NO_CALLS
        return self._read_rest(line, content, thinking, calls)

    def _read_rest(
        self, line: dict[str, Any], content: str, thinking: str, raw_calls: Any
    ) -> tuple[str, str, tuple[AnyCall, ...]]:
        calls = read_tool_calls(raw_calls, self._ids) if raw_calls else _NO_CALLS
        if not isinstance(line.get("logprobs") or [], list):
            raise _misshapen(self._kind)
        if self._splitter is not None:
            content, thinking = self._split(content, thinking, last=bool(line.get("done")))
        if self._forced:
            self._held.append(content)
            self._forced_thoughts.append(thinking)
            content = ""
            self._forced_seen += calls
            if calls:
                self._check_names(calls)  # before any of them is handed out
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

    def _typed(self, call: AnyCall) -> AnyCall:
        """A call with its arguments converted to the types of its tool's schema."""
        if not isinstance(call, ToolCall) or (schema := self._parameters.get(call.name)) is None:
            return call
        arguments = unwrapped(call.arguments, schema)
        return call if arguments is call.arguments else replace(call, arguments=arguments)

    def _split(self, content: str, thinking: str, *, last: bool) -> tuple[str, str]:
        """Text and reasoning of a line whose text may be reasoning."""
        splitter = self._splitter
        if splitter is None:
            return content, thinking
        thought, content = splitter.feed(content)
        if last:
            rest_of_thought, rest = splitter.finish()
            thought, content = thought + rest_of_thought, content + rest
        if splitter.state == "after":
            self._splitter = None
            self._unusual = bool(self._forced)
        return content, thinking + thought

    def _forced_calls(self, calls: tuple[AnyCall, ...], reason: str) -> tuple[AnyCall, ...]:
        """The calls that the last line completes, when a call was forced."""
        if not self._forced_seen:
            self._forced_seen = calls = (self._call_in_text(reason),)
            self._check_names(calls)
        return calls

    def _check_names(self, calls: tuple[AnyCall, ...]) -> None:
        for call in calls:
            if not isinstance(call, ToolCall) or call.name not in self._forced:
                raise OutputValidationError(
                    f"tool_choice asked for {' or '.join(sorted(self._forced))}, the model called another tool: the "
                    "server did not hold to `format`",
                    text=self.held_text,
                )

    def _call_in_text(self, reason: str) -> ToolCall:
        """The forced call, from the text, or from the thinking where there is no text."""
        held, thoughts = self.held_text, "".join(self._forced_thoughts)
        text = thoughts if thoughts and not held.strip() else held
        try:
            value = read_json(json_in(text) if text is held else text)  # reasoning may contain a draft of a call
            if not {"name", "arguments"} <= value.keys():
                raise ValueError("no call")
            call = read_tool_call(value, id_of(value) or new_call_id())
            if not isinstance(call, ToolCall):
                raise ValueError(call.error)
            self._thought_the_call = text is not held
            if thought := split_reasoning(text)[0]:  # that lacks its opening tag
                self._thoughts.append(thought)
            return call
        except (AttributeError, ValueError) as error:
            if reason == "length":
                advice = "it was cut by the token limit: raise max_tokens"
            elif not held and self._splitter is not None and self._splitter.state == "inside":
                advice = "the model did not finish thinking: pass think=False"
            else:
                advice = "the server did not hold to `format`"
            raise OutputValidationError(
                f"the forced tool call is incomplete ({len(held)} characters); {advice}",
                original_error=error,
                text=held,
            ) from error

    def response(self) -> LLMResponse:
        """The response so far; complete once `final` is set."""
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
            usage=usage_of(final or {}, self.earlier),
            finish_reason=reason,
            metadata=metadata,
            thinking="" if self._thought_the_call else "".join(self._thoughts),
            tool_calls=self.calls,
            logprobs=self._logprobs or None,
            invalid_tool_calls=self.invalid_calls,
        )

    def is_empty(self) -> bool:
        """Whether nothing has arrived."""
        return not (self._held or self.has_delivered() or self.final)

    def has_delivered(self) -> bool:
        """Whether anything that arrived was delivered."""
        return bool(self._parts or self._thoughts or self.calls or self.invalid_calls)


def _all(values: Iterable[object], *types: type) -> bool:
    return all(isinstance(value, types) for value in values)


def _add_rates(metadata: dict[str, Any]) -> None:
    for rate, count, duration in (
        ("tokens_per_second", "eval_count", "eval_duration"),
        ("prompt_tokens_per_second", "prompt_eval_count", "prompt_eval_duration"),
    ):
        if metadata.get(count) and metadata.get(duration):
            metadata[rate] = metadata[count] / metadata[duration] * 1e9


_NO_CALLS: tuple[AnyCall, ...] = ()


def _valid(calls: tuple[AnyCall, ...]) -> tuple[ToolCall, ...]:
    return tuple(call for call in calls if isinstance(call, ToolCall))


def _invalid(calls: tuple[AnyCall, ...]) -> tuple[InvalidToolCall, ...]:
    return tuple(call for call in calls if isinstance(call, InvalidToolCall))


def _misshapen(kind: Kind) -> LLMError:
    return MalformedResponseError(
        f"the server sent a line that is not of the shape of /api/{kind}; is this an Ollama server?"
    )
