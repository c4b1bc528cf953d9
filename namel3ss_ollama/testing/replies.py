"""Scripted replies and tool calls, validated when they are created."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypedDict, cast

from .gate import Gate

__all__ = ["COUNTERS", "Reply", "ReplyOptions", "ToolCall", "tokens_of"]

Decided: TypeAlias = str | float | Mapping[str, object]
"""A decision model's answer to a question."""
_TOKEN = re.compile(r"\s*[\w']{1,12}|\s*[^\w\s]|\s+")
COUNTERS = (
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_cached_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
)


def tokens_of(text: str | Sequence[str]) -> list[str]:
    """A text as tokens: a list as given, a string split into words and punctuation. Joined, they give the text.

    >>> tokens_of("Good day, Bob.")
    ['Good', ' day', ',', ' Bob', '.']
    """
    return _TOKEN.findall(text) if isinstance(text, str) else list(text)


@dataclass(frozen=True)
class ToolCall:
    """A tool call by the model.

    `arguments` is sent as an object if it is a mapping, as a JSON string if it is text: some models send
    `ToolCall("add", '{"a": 1}')`, broken ones `ToolCall("add", '{"a": ')`.
    """

    name: str
    arguments: Mapping[str, object] | str = field(default_factory=dict[str, object])
    id: str | None = None
    """None depends on the server's version: an id from 0.12.10 on, none before."""
    index: int | None = None
    """`function.index`; None depends on the server's version: its position from 0.12.6 on, none before."""

    def wire(self) -> dict[str, object]:
        """The object in `tool_calls`, in the server's order of fields."""
        function: dict[str, object] = {} if self.index is None else {"index": self.index}
        function["name"] = self.name
        function["arguments"] = self.arguments if isinstance(self.arguments, str) else dict(self.arguments)
        return {"function": function} if self.id is None else {"id": self.id, "function": function}


class ReplyOptions(TypedDict, total=False):
    """The keywords of `Reply`, for `server.reply(...)` and `rule.reply(...)`."""

    thinking: str | Sequence[str]
    tool_calls: Sequence[ToolCall | Mapping[str, object]]
    tool_calls_in_one_line: bool
    done_reason: str
    counters: Mapping[str, int | None]
    load_duration: int | None
    logprobs: Sequence[float] | None
    tokens_per_second: float | None
    delay: float
    gate: Gate | None
    gates: Mapping[int, Gate]
    error: str | None
    embeddings: Sequence[Sequence[float]] | None
    answers: Mapping[str, Decided] | None
    json: object
    lines: Sequence[object] | None
    body: str | bytes | None
    status: int
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Reply:
    """One scripted answer.

    For `/api/chat` and `/api/generate` it has `text`, `thinking` and `tool_calls`, streamed or not as the request asks;
    `embeddings` is for `/api/embed`, `answers` for `/v1/systemone`. Requests to other endpoints, and those that only
    load a model, do not use up such replies. `json` (one object), `lines` (NDJSON, each a JSON value or raw bytes) and
    `body` are for any endpoint: they are sent unchanged, whatever the request says. Raises `ValueError` naming the
    invalid argument.
    """

    text: str | Sequence[str] = ""
    """A string is split into word-like tokens; a list is sent token by token as given."""
    thinking: str | Sequence[str] = ""
    tool_calls: Sequence[ToolCall | Mapping[str, object]] = ()
    tool_calls_in_one_line: bool = False
    """Send all calls in one line; otherwise, one line each."""
    done_reason: str = "stop"
    counters: Mapping[str, int | None] = field(default_factory=dict[str, "int | None"])
    """Values for the last line's counters (durations in nanoseconds); None omits a counter."""
    load_duration: int | None = None
    """Nanoseconds; short for `counters={"load_duration": ...}`."""
    logprobs: Sequence[float] | None = None
    """One value per token of text, sent if the request asks for logprobs; None generates values."""
    tokens_per_second: float | None = None
    """None uses the server's setting, or no limit."""
    delay: float = 0.0
    """Seconds before the first byte."""
    gate: Gate | None = None
    """Holds the answer before the headers; short for `gates={0: gate}`."""
    gates: Mapping[int, Gate] = field(default_factory=dict[int, Gate])
    """Gates that hold the answer after that many tokens."""
    error: str | None = None
    """An error line after the tokens, instead of the last line; with `stream: false`, a 500."""
    embeddings: Sequence[Sequence[float]] | None = None
    answers: Mapping[str, Decided] | None = None
    """By question: the chosen option, the level of a score, the probability of a noul, or a complete answer."""
    json: object = None
    lines: Sequence[object] | None = None
    body: str | bytes | None = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        calls: list[ToolCall] = []
        for call in self.tool_calls:
            calls.append(call if isinstance(call, ToolCall) else _tool_call(call))
        object.__setattr__(self, "tool_calls", tuple(calls))
        unknown = [name for name in self.counters if name not in COUNTERS]
        if unknown:
            raise ValueError(f"counters: {unknown[0]!r} is none of {', '.join(COUNTERS)}")
        if self.tokens_per_second is not None and not self.tokens_per_second > 0:
            raise ValueError(f"tokens_per_second: {self.tokens_per_second} is not positive")
        if not self.delay >= 0:
            raise ValueError(f"delay: {self.delay} is negative")
        if any(position < 0 for position in self.gates):
            raise ValueError("gates: a position is negative; 0 is before the headers")
        if not 200 <= self.status <= 599:
            raise ValueError(f"status: {self.status} is not the status of a final answer (200 to 599)")
        whole = [n for n in ("json", "lines", "body") if getattr(self, n) is not None]
        content = self.text or self.thinking or self.tool_calls or self.error or self.embeddings is not None
        content = content or self.answers is not None
        if len(whole) > 1:
            raise ValueError(f"{whole[1]}: cannot be given together with {whole[0]}")
        if whole and content:
            raise ValueError(
                f"{whole[0]}: is the complete answer, so text, thinking, tool calls and error cannot be given with it"
            )
        if self.status != 200 and content:
            raise ValueError("status: needs json, lines or body; for errors see Fault('status')")
        _writable("json", self.json)
        for line in self.lines or ():
            if not isinstance(line, bytes):
                _writable("lines", line)

    @property
    def raw(self) -> bool:
        """Whether it is sent unchanged, on any endpoint."""
        return self.json is not None or self.lines is not None or self.body is not None or self.status != 200

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """`tool_calls`, each as a `ToolCall`."""
        return cast("tuple[ToolCall, ...]", self.tool_calls)


def _writable(name: str, value: object) -> None:
    try:
        json.dumps(value)
    except (TypeError, ValueError) as problem:
        raise ValueError(f"{name}: cannot be written as JSON: {problem}") from None


def _tool_call(value: Mapping[str, object]) -> ToolCall:
    inner = value.get("function", value)
    function = cast("Mapping[str, object]", inner) if isinstance(inner, Mapping) else value
    name, arguments, index = function.get("name"), function.get("arguments", {}), function.get("index")
    if not isinstance(name, str) or not isinstance(arguments, (str, Mapping)):
        raise ValueError("tool_calls: each needs a name, and arguments that are a mapping or a string")
    identifier = value.get("id")
    return ToolCall(
        name,
        cast("Mapping[str, object] | str", arguments),
        identifier if isinstance(identifier, str) else None,
        index if isinstance(index, int) else None,
    )
