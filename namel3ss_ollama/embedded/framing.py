"""Serialises an answer's objects: as lines of JSON, as in Ollama's API, or as server-sent events, as in OpenAI's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import orjson

from namel3ss_ollama.embedded import openai_api
from namel3ss_ollama.embedded.refusal import Refused
from namel3ss_ollama.embedded.work import Json

__all__ = ["Framing", "framing", "streams"]


@dataclass(frozen=True)
class Framing:
    """A format for an answer.

    Attributes:
        content_type: The header of a stream.
        before: The prefix of each object of a stream.
        after: The suffix of each object of a stream.
        end: The end of a stream that did not fail.
        error: Converts a refusal to an object.
    """

    content_type: str
    before: bytes
    after: bytes
    end: bytes
    error: Callable[[Refused], Json]

    def written(self, value: Json | Refused) -> bytes:
        """An object of a stream, or the refusal that ends it early."""
        return self.before + orjson.dumps(self.error(value) if isinstance(value, Refused) else value) + self.after


_LINES = Framing("application/x-ndjson", b"", b"\n", b"", lambda refused: {"error": str(refused)})
_EVENTS = Framing("text/event-stream", b"data: ", b"\n\n", b"data: [DONE]\n\n", openai_api.error)
_STREAMED = frozenset({"/api/chat", "/api/generate", "/api/pull"})
_STREAMED_IF_WANTED = frozenset({"/v1/chat/completions", "/v1/completions"})


def framing(path: str) -> Framing:
    """The format of answers of a path."""
    return _EVENTS if path.startswith("/v1/") else _LINES


def streams(path: str, request: Json) -> bool:
    """Whether the answer to a request is a stream."""
    if path in _STREAMED:
        return request.get("stream") is not False
    return path in _STREAMED_IF_WANTED and request.get("stream") is True
