"""The input and output types: messages, tool calls, chunks, responses. Images and audio are in `media.py`.

Plain frozen classes; nothing here does I/O. One chunk is created per token, so `StreamChunk` is a bare object with
slots: no validation, no copies.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from namel3ss_ollama.media import Audio, Image

__all__ = [
    "EmbedResponse",
    "InvalidToolCall",
    "LLMResponse",
    "Message",
    "Role",
    "StreamChunk",
    "ToolCall",
    "Usage",
    "checked_role",
]

Role = Literal["system", "user", "assistant", "tool"]
"""The roles that every model's template supports. Some support more, such as Granite's "control"."""
_ROLES = frozenset(get_args(Role))


class Usage(dict[str, int]):
    """The token usage of a generation: a dict of counts, which are attributes as well.

    A counter that the server omits counts as 0 (`metadata` has the original counters), except `cached_tokens`, which is
    then None and missing from the dict.

    Args:
        prompt_tokens: Prompt tokens, including cached ones.
        completion_tokens: Answer tokens.
        total_tokens: Their sum.
        cached_tokens: Prompt tokens that the server read from its cache instead of evaluating them.
    """

    __slots__ = ()

    def __init__(
        self, *, prompt_tokens: int, completion_tokens: int, total_tokens: int, cached_tokens: int | None = None
    ) -> None:
        super().__init__(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, total_tokens=total_tokens)
        if cached_tokens is not None:
            self["cached_tokens"] = cached_tokens

    @property
    def prompt_tokens(self) -> int:
        """Prompt tokens."""
        return self["prompt_tokens"]

    @property
    def completion_tokens(self) -> int:
        """Answer tokens."""
        return self["completion_tokens"]

    @property
    def total_tokens(self) -> int:
        """Prompt and answer tokens."""
        return self["total_tokens"]

    @property
    def cached_tokens(self) -> int | None:
        """Prompt tokens read from the server's cache; None if the server does not report them, as older ones."""
        return self.get("cached_tokens")

    def plus(self, other: Usage) -> Usage:
        """The sum of two usages."""
        return Usage(**{name: self.get(name, 0) + other.get(name, 0) for name in {**self, **other}})

    def __reduce__(self) -> tuple[Any, ...]:
        # A dict's pickle would create the object without its required arguments.
        return _restored_usage, (dict(self),)


def _restored_usage(counts: dict[str, int]) -> Usage:
    return Usage(**counts)


def usage_of(final: Mapping[str, Any], earlier: int = 0) -> Usage:
    """The usage from the last line of an answer.

    Args:
        final: That line.
        earlier: How many answer tokens were part of the prompt, because another server had begun the answer.
    """
    prompt = final.get("prompt_eval_count") or 0
    completion = final.get("eval_count") or 0
    moved = min(earlier, prompt)
    cached = final.get("prompt_eval_cached_count")
    return Usage(
        prompt_tokens=prompt - moved,
        completion_tokens=completion + moved,
        total_tokens=prompt + completion,
        cached_tokens=cached if cached is None else min(cached, prompt - moved),
    )


def new_call_id() -> str:
    """An id for a tool call that the server sent without one; unique across processes."""
    return f"call_{uuid.uuid4().hex}"


@dataclass(frozen=True, slots=True, repr=False)
class ToolCall:
    """A tool call requested by the model.

    Attributes:
        name: The tool's name.
        arguments: The arguments as an object; empty if they were not valid JSON.
        id: The server's id if it sent one, otherwise a generated one; sent back as `tool_call_id`.
        invalid_arguments: The text that the model wrote, if it was not a JSON object; otherwise None.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    id: str = field(default_factory=new_call_id)
    invalid_arguments: str | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("tool_calls: a tool call needs a name")

    @property
    def error(self) -> str | None:
        """Why the call is invalid, as an answer to the model; None if it is valid."""
        return None if self.invalid_arguments is None else "the arguments are not a JSON object"

    def __repr__(self) -> str:
        # Model output is private, and a repr ends up in logs.
        return f"ToolCall({self.name!r}, {len(self.arguments)} arguments, id={self.id!r})"


def checked_role(role: object, where: str = "role:") -> str:
    """Check a role; an unknown one is passed on, since the model's template may support it.

    Args:
        role: The given role.
        where: Its name in error messages.

    Raises:
        ValueError: It is not a text, is empty, or is a known role in another case, which no template would match.
    """
    meant = role.strip().lower() if isinstance(role, str) else ""
    if not isinstance(role, str) or not meant or (meant in _ROLES and role != meant):
        known = ", ".join(get_args(Role))
        raise ValueError(f"{where} {role!r:.40} is unknown; use one of {known}, or one that the model's template knows")
    return role


@dataclass(frozen=True, slots=True, repr=False)
class InvalidToolCall:
    """A tool call without a tool's name.

    Attributes:
        text: The call as it was sent, as JSON.
        id: As in `ToolCall`.
        error: Why the call is invalid, as an answer to the model.
    """

    text: str
    id: str = field(default_factory=new_call_id)
    error: str = "the call names no tool"

    def __repr__(self) -> str:
        return f"InvalidToolCall({len(self.text)} characters, id={self.id!r})"


@dataclass(frozen=True, slots=True, repr=False)
class Message:
    """One turn of a conversation.

    Attributes:
        role: "system", "user", "assistant" or "tool", or another role that the model's template supports.
        content: The text.
        images: Images, for vision models.
        thinking: The reasoning of an assistant's turn.
        tool_calls: The tool calls of an assistant's turn.
        tool_name: In a tool's turn: the tool that answered.
        tool_call_id: In a tool's turn: the call that it answers.
        invalid_tool_calls: The calls of an assistant's turn that name no tool.
        audio: Recordings (WAV or MP3), for audio models.

    Raises:
        TypeError: The content is not a text.
        ValueError: The role is empty, or a known one in another case ("User").
    """

    role: str
    content: str = ""
    images: Sequence[Image | bytes | os.PathLike[str] | str] = ()
    thinking: str | None = None
    tool_calls: Sequence[ToolCall] = ()
    tool_name: str | None = None
    tool_call_id: str | None = None
    invalid_tool_calls: Sequence[InvalidToolCall] = ()
    audio: Sequence[Audio | bytes | os.PathLike[str] | str] = ()

    def __post_init__(self) -> None:
        checked_role(self.role)
        if not isinstance(self.content, str):
            raise TypeError(f"content: expected text, not {type(self.content).__name__}")

    def __repr__(self) -> str:
        return f"Message({self.role!r}, {len(self.content)} characters)"


class StreamChunk:
    """A piece of an answer, as it arrives.

    Attributes:
        content: The text of this chunk; may be empty.
        thinking: The reasoning text of this chunk; may be empty.
        tool_calls: Tool calls that arrived with this chunk.
        invalid_tool_calls: Calls of this chunk that name no tool.
        raw: The server's line, decoded; read-only.
    """

    __slots__ = ("content", "invalid_tool_calls", "raw", "response", "thinking", "tool_calls")

    content: str
    thinking: str
    tool_calls: tuple[ToolCall, ...]
    raw: dict[str, Any]
    response: LLMResponse | None
    invalid_tool_calls: tuple[InvalidToolCall, ...]

    def __init__(
        self,
        content: str,
        thinking: str,
        tool_calls: tuple[ToolCall, ...],
        raw: dict[str, Any],
        response: LLMResponse | None = None,
        invalid_tool_calls: tuple[InvalidToolCall, ...] = (),
    ) -> None:
        self.content = content
        self.thinking = thinking
        self.tool_calls = tool_calls
        self.raw = raw
        self.response = response
        self.invalid_tool_calls = invalid_tool_calls

    @property
    def done(self) -> bool:
        """Whether this is the last chunk; if so, the stream's `response` is complete."""
        return self.response is not None

    @property
    def finish_reason(self) -> str | None:
        """Why the model stopped; None before the last chunk."""
        return self.response.finish_reason if self.response else None

    @property
    def usage(self) -> Usage | None:
        """Tokens used; None before the last chunk."""
        return self.response.usage if self.response else None

    @property
    def logprobs(self) -> list[dict[str, Any]] | None:
        """Log probabilities of this chunk's tokens, if requested and supported."""
        return self.raw.get("logprobs")

    @property
    def model(self) -> str:
        """The model, as the server names it."""
        return str(self.raw.get("model", ""))

    def __repr__(self) -> str:
        # Answers are private: a repr ends up in logs.
        return f"StreamChunk({len(self.content)} characters{', done' if self.done else ''})"


@dataclass(slots=True)
class LLMResponse:
    """A complete answer, or the part of one that had arrived.

    Attributes:
        content: The text.
        model: The model, as the server names it.
        usage: prompt_tokens, completion_tokens, total_tokens, as attributes and as keys; cached_tokens if the server
            counts them.
        finish_reason: The server's `done_reason` ("stop", "length", "load", "unload"), "tool_calls" if
            the answer calls tools, or None if the answer is not complete.
        metadata: Durations as the server sent them (nanoseconds: total_duration, load_duration,
            prompt_eval_duration, eval_duration), its counters, `created_at`, and values derived from them:
            tokens_per_second, prompt_tokens_per_second, time_to_first_token (seconds, measured here).
        thinking: The model's reasoning; empty if there is none.
        tool_calls: The tool calls of the answer.
        parsed: The answer as the type given as `format`; None if the answer calls tools first.
        logprobs: Log probabilities of all tokens, if requested and supported.
        truncated_prompt: Whether the server cut the prompt to fit its context window.
        shifted_context: Whether prompt and answer together exceeded the context window, so that the server dropped the
            oldest half of the tokens during generation.
        invalid_tool_calls: Calls that name no tool.
        host: The address of the server that answered, without credentials; empty if unknown.
        resumed: How often the answer broke off and was resumed on another host (`Hosts(resume="auto")`). Then `usage`
            is that of prompt and answer as if from one host, with each chunk before a break counted as one token, and
            `metadata["hosts"]` lists all their addresses; durations and other counters in `metadata` are those of the
            last host.
    """

    content: str
    model: str
    usage: Usage
    finish_reason: str | None
    metadata: dict[str, Any]
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    parsed: Any = None
    logprobs: list[dict[str, Any]] | None = None
    truncated_prompt: bool = False
    shifted_context: bool = False
    invalid_tool_calls: tuple[InvalidToolCall, ...] = ()
    host: str = ""
    resumed: int = 0

    @property
    def message(self) -> Message:
        """The answer as a message, for the history of the next request."""
        return Message(
            role="assistant",
            content=self.content,
            thinking=self.thinking or None,
            tool_calls=self.tool_calls,
            invalid_tool_calls=self.invalid_tool_calls,
        )

    def __repr__(self) -> str:
        return (
            f"LLMResponse(model={self.model!r}, {len(self.content)} characters, {len(self.tool_calls)} tool "
            f"calls, finish_reason={self.finish_reason!r}, usage={self.usage})"
        )

    def __str__(self) -> str:
        return self.content


@dataclass(frozen=True, slots=True, repr=False)
class EmbedResponse:
    """The embeddings of texts.

    Attributes:
        embeddings: One vector per text, in the order of the texts.
        model: The model, as the server names it.
        usage: prompt_tokens and total_tokens of all texts.
        truncated: Indices of the texts that were cut to the context window (`on_truncation="warn"`).
        metadata: The server's total_duration and load_duration in nanoseconds, summed over all requests.
        host: The address of the server that answered (the last one of several), without credentials.
    """

    embeddings: list[list[float]]
    model: str
    usage: Usage
    truncated: tuple[int, ...] = ()
    metadata: dict[str, int] = field(default_factory=dict[str, int])
    host: str = ""

    def __repr__(self) -> str:
        return f"EmbedResponse(model={self.model!r}, {len(self.embeddings)} vectors, usage={self.usage})"
