"""The rows of a batch as values: their requests, their outcomes, and how a journal stores both. No I/O.

A row's fingerprint says whether an answer in a journal belongs to the request that would be sent now.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import orjson

from namel3ss_ollama.errors import LLMError, LLMTimeoutError, ServerError, StreamInterruptedError
from namel3ss_ollama.exact import read_json, write_json
from namel3ss_ollama.types import InvalidToolCall, LLMResponse, ToolCall, Usage

__all__ = ["BatchFailure", "BatchRow", "Outcome", "RowId", "State", "fingerprint", "is_deterministic"]

RowId = str | int
_NOT_THE_QUESTION = frozenset({"keep_alive", "stream"})
"""Fields of a request that do not affect its answer."""
_PASSING = (LLMTimeoutError, ServerError, StreamInterruptedError)
"""Failures that are not retried at once, but may not recur in the next run."""


class State(IntEnum):
    """The outcome of a row; journals contain the numbers.

    Attributes:
        ANSWERED: There is an answer.
        PASSING: It failed temporarily.
        FAILED: It failed permanently.
    """

    ANSWERED = 0
    PASSING = 1
    FAILED = 2


@dataclass(frozen=True, slots=True, repr=False)
class BatchFailure:
    """Why a row has no answer.

    Attributes:
        type: The error's class, such as "BadRequestError".
        message: Its text.
        temporary: Whether the row is retried in the next run.
        partial: The part of the answer that had arrived; None if nothing had.
    """

    type: str
    message: str
    temporary: bool
    partial: LLMResponse | None = None

    def __repr__(self) -> str:
        return f"BatchFailure({self.type}: {self.message})"


@dataclass(frozen=True, slots=True, repr=False)
class BatchRow:
    """A row of a batch.

    Attributes:
        id: The row's id.
        index: Its position in the input, from 0.
        answer: The answer; None if there is none. With a type as `format`, its `parsed` is set.
        vector: The vector of an embedded text; None if there is none.
        failure: Why there is neither.
        host: The address of the server that answered, without credentials; empty if none did.
        tokens: Prompt and answer tokens. Texts embedded in one request have equal shares of its tokens.
        seconds: The duration, including the wait for a slot.
    """

    id: RowId
    index: int
    answer: LLMResponse | None
    vector: list[float] | None
    failure: BatchFailure | None
    host: str
    tokens: int
    seconds: float

    def __repr__(self) -> str:
        state = "answered" if self.failure is None else self.failure.type
        return f"BatchRow({self.id!r}, index={self.index}, {state})"


@dataclass(frozen=True, slots=True, repr=False)
class Outcome:
    """The outcome of a row, as a journal stores it.

    Attributes:
        state: Whether there is an answer.
        content: The answer or failure as JSON, or a vector's numbers.
        host: The address of the server that answered.
        tokens: Prompt and answer tokens.
        seconds: The duration.
    """

    state: State
    content: bytes
    host: str = ""
    tokens: int = 0
    seconds: float = 0.0

    @classmethod
    def answered(cls, response: LLMResponse, seconds: float) -> Outcome:
        """The outcome of an answered row."""
        tokens = response.usage.total_tokens
        return cls(State.ANSWERED, write_json(_written(response)), response.host, tokens, seconds)

    @classmethod
    def embedded(cls, vector: list[float], host: str, tokens: int, seconds: float) -> Outcome:
        """The outcome of an embedded text."""
        return cls(State.ANSWERED, array("d", vector).tobytes(), host, tokens, seconds)

    @classmethod
    def failed(cls, error: Exception, seconds: float) -> Outcome:
        """The outcome of a failed row."""
        passing = isinstance(error, LLMError) and (error.temporary or isinstance(error, _PASSING))
        partial = error.partial if isinstance(error, LLMError) else None
        content = {
            "type": type(error).__name__,
            "message": str(error),
            "partial": None if partial is None else _written(partial),
        }
        return cls(State.PASSING if passing else State.FAILED, write_json(content), seconds=seconds)

    def row(self, id: RowId, index: int, *, vectors: bool) -> BatchRow:
        """The row, parsed.

        Args:
            id: Its id.
            index: Its position.
            vectors: Whether the batch embeds texts.
        """
        answer = vector = failure = None
        if self.state is not State.ANSWERED:
            read = read_json(self.content.decode())
            partial = read["partial"] and _read(read["partial"])
            failure = BatchFailure(read["type"], read["message"], self.state is State.PASSING, partial)
        elif vectors:
            numbers = array("d")
            numbers.frombytes(self.content)
            vector = numbers.tolist()
        else:
            answer = _read(read_json(self.content.decode()))
        return BatchRow(id, index, answer, vector, failure, self.host, self.tokens, self.seconds)


def fingerprint(digest: str, kind: str, body: Mapping[str, Any]) -> bytes:
    """16 bytes that identify what affects the answer: the model, the endpoint, and the request.

    Fields that only affect how an answer is delivered are ignored.

    Args:
        digest: The model's digest, as the server lists it.
        kind: The endpoint.
        body: The request's body.
    """
    asked = {name: value for name, value in body.items() if name not in _NOT_THE_QUESTION}
    try:
        text = orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # an integer of more than 64 bits
        text = write_json(asked)
    return hashlib.blake2b(b"\0".join((digest.encode(), kind.encode(), text)), digest_size=16).digest()


def is_deterministic(options: Mapping[str, Any]) -> bool:
    """Whether equal prompts get equal answers: the temperature is 0, or there is a seed."""
    return options.get("temperature") == 0 or options.get("seed") is not None


def _written(response: LLMResponse) -> dict[str, Any]:
    """An answer as JSON; `parsed` is omitted, since `format` recreates it."""
    written: dict[str, Any] = {
        "content": response.content,
        "model": response.model,
        "usage": dict(response.usage),
        "finish_reason": response.finish_reason,
        "metadata": response.metadata,
    }
    if response.tool_calls:
        written["tool_calls"] = [
            {
                "name": call.name,
                "arguments": dict(call.arguments),
                "id": call.id,
                "invalid_arguments": call.invalid_arguments,
            }
            for call in response.tool_calls
        ]
    if response.invalid_tool_calls:
        written["invalid_tool_calls"] = [
            {"text": call.text, "id": call.id, "error": call.error} for call in response.invalid_tool_calls
        ]
    for name in ("thinking", "logprobs", "truncated_prompt", "shifted_context", "host", "resumed"):
        if value := getattr(response, name):
            written[name] = value
    return written


def _read(written: Mapping[str, Any]) -> LLMResponse:
    fields = dict(written)
    fields["usage"] = Usage(**fields["usage"])
    fields["tool_calls"] = tuple(ToolCall(**call) for call in fields.get("tool_calls", ()))
    fields["invalid_tool_calls"] = tuple(InvalidToolCall(**call) for call in fields.get("invalid_tool_calls", ()))
    return LLMResponse(**fields)
