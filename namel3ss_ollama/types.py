"""The values that go in and come out: messages, tool calls, chunks, responses. Images and audio are in `media.py`.

Plain frozen classes over values; nothing here does I/O. Chunks are made once a token, so `StreamChunk` is a bare object
with slots: no validation, no copies.
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
"""The roles that every model's template knows. Some know more, such as Granite's "control"."""
_ROLES = frozenset(get_args(Role))


class Usage(dict[str, int]):
    """Tokens of one generation: a dict of counts, which are attributes as well.

    A counter that the server left out counts as 0 (`metadata` has them as sent), but for `cached_tokens`, which is then
    None, and no key of the dict.

    Args:
        prompt_tokens: Tokens of the prompt, the cached ones included.
        completion_tokens: Tokens of the answer.
        total_tokens: Both together.
        cached_tokens: Tokens of the prompt that the server had in its cache, so that it need not compute them.
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
        """Tokens of the prompt."""
        return self["prompt_tokens"]

    @property
    def completion_tokens(self) -> int:
        """Tokens of the answer."""
        return self["completion_tokens"]

    @property
    def total_tokens(self) -> int:
        """Tokens of prompt and answer together."""
        return self["total_tokens"]

    @property
    def cached_tokens(self) -> int | None:
        """Tokens of the prompt that the server had in its cache; None where it does not say, as older ones."""
        return self.get("cached_tokens")

    def plus(self, other: Usage) -> Usage:
        """The tokens of both."""
        return Usage(**{name: self.get(name, 0) + other.get(name, 0) for name in {**self, **other}})

    def __reduce__(self) -> tuple[Any, ...]:
        # A dict's pickle would make the object without the arguments that it needs.
        return _restored_usage, (dict(self),)


def _restored_usage(counts: dict[str, int]) -> Usage:
    return Usage(**counts)


def usage_of(final: Mapping[str, Any], earlier: int = 0) -> Usage:
    """The usage that the last line of an answer tells.

    Args:
        final: That line.
        earlier: How many tokens of the answer were in the prompt, because another server had begun it.
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
    """An id for a tool call that the server sent without one; unique in every process."""
    return f"call_{uuid.uuid4().hex}"


@dataclass(frozen=True, slots=True, repr=False)
class ToolCall:
    """A call that the model asks for.

    Attributes:
        name: The tool's name.
        arguments: The arguments as an object; empty when they were not valid JSON.
        id: The server's id where it sent one, else one made here; goes back as `tool_call_id`.
        invalid_arguments: The text as the model wrote it, when it was not a JSON object; else None.
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
        """Why the call cannot be made, to answer the model with; None when it can."""
        return None if self.invalid_arguments is None else "the arguments are not a JSON object"

    def __repr__(self) -> str:
        # What a model wrote is private, and a repr ends up in logs.
        return f"ToolCall({self.name!r}, {len(self.arguments)} arguments, id={self.id!r})"


def checked_role(role: object, where: str = "role:") -> str:
    """A role; one that is not known is passed on, for the model's template to know.

    Args:
        role: What was given.
        where: How the error calls it.

    Raises:
        ValueError: It is no text, empty, or a known one in other letters, which no template would find.
    """
    meant = role.strip().lower() if isinstance(role, str) else ""
    if not isinstance(role, str) or not meant or (meant in _ROLES and role != meant):
        known = ", ".join(get_args(Role))
        raise ValueError(f"{where} {role!r:.40} is unknown; use one of {known}, or one that the model's template knows")
    return role


@dataclass(frozen=True, slots=True, repr=False)
class InvalidToolCall:
    """What came as a call of a tool, but names none.

    Attributes:
        text: The call as it was sent, as JSON.
        id: As that of a `ToolCall`.
        error: Why the call cannot be made, to answer the model with.
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
        role: "system", "user", "assistant" or "tool", or another that the model's template knows.
        content: The text.
        images: Pictures, for models that can see.
        thinking: The reasoning that led to an assistant's turn, to hand it back.
        tool_calls: The calls that an assistant's turn asked for.
        tool_name: In a tool's turn: which tool answered.
        tool_call_id: In a tool's turn: which call it answers.
        invalid_tool_calls: What came as calls with an assistant's turn, but names no tool.
        audio: Recordings (WAV or MP3), for models that can hear.

    Raises:
        TypeError: The content is no text.
        ValueError: The role is empty, or a known one in other letters ("User").
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
        content: The text of this piece; may be empty.
        thinking: Reasoning text of this piece; may be empty.
        tool_calls: Calls that arrived whole with this piece.
        invalid_tool_calls: What came as calls with this piece, but names no tool.
        raw: The server's line, decoded. Read it, do not change it.
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
        """Whether this is the last chunk; then `response` holds the whole answer."""
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
        """Log probabilities of this piece's tokens, where asked for and sent."""
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
    """A whole answer, or as much of one as had arrived.

    Attributes:
        content: The text.
        model: The model, as the server names it.
        usage: prompt_tokens, completion_tokens, total_tokens, as attributes and as keys; cached_tokens where the server
            counts them.
        finish_reason: The server's `done_reason` ("stop", "length", "load", "unload"), "tool_calls" when
            the answer asks for tools, or None when the answer is not complete.
        metadata: Durations as the server sent them (nanoseconds: total_duration, load_duration,
            prompt_eval_duration, eval_duration), its counters, `created_at`, and what follows from them:
            tokens_per_second, prompt_tokens_per_second, time_to_first_token (seconds, measured here).
        thinking: The model's reasoning; empty when it sent none.
        tool_calls: The calls that the answer asks for.
        parsed: The answer as the type given as `format`; None when the answer asks for tools first.
        logprobs: Log probabilities of all tokens, where asked for and sent.
        truncated_prompt: Whether the server cut the prompt to fit its context window.
        shifted_context: Whether prompt and answer together were longer than the context window, so that the server
            dropped the oldest half of what the model had read while it answered.
        invalid_tool_calls: What came as calls, but names no tool.
        host: The address of the server that answered, without credentials; empty where none is known.
        resumed: How often the answer broke off and another host went on with it (`Hosts(resume="auto")`). Then `usage`
            is of prompt and answer as if one host had given it, each chunk before the break counted as a token, and
            `metadata["hosts"]` has the addresses of all of them; the durations and counters in `metadata` are the last
            one's alone.
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
        """The answer as a message, to put into the next request's history."""
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
    """Vectors of texts.

    Attributes:
        embeddings: One vector a text, in the order of the texts.
        model: The model, as the server names it.
        usage: prompt_tokens and total_tokens of all texts together.
        truncated: Indices of the texts that were cut to the context window (`on_truncation="warn"`).
        metadata: The server's total_duration and load_duration in nanoseconds, each the sum of all requests.
        host: The address of the server that answered (of several, the last that did), without credentials.
    """

    embeddings: list[list[float]]
    model: str
    usage: Usage
    truncated: tuple[int, ...] = ()
    metadata: dict[str, int] = field(default_factory=dict[str, int])
    host: str = ""

    def __repr__(self) -> str:
        return f"EmbedResponse(model={self.model!r}, {len(self.embeddings)} vectors, usage={self.usage})"
