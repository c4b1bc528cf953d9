"""How an answer's objects become bytes: lines of JSON, as in Ollama's API, or server-sent events, as in OpenAI's."""

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
    """A way to write an answer.

    Attributes:
        content_type: The header of a stream.
        before: What precedes each object of a stream.
        after: What follows it.
        end: What ends a stream that did not fail.
        error: A refusal as an object.
    """

    content_type: str
    before: bytes
    after: bytes
    end: bytes
    error: Callable[[Refused], Json]

    def written(self, value: Json | Refused) -> bytes:
        """An object of a stream, or the refusal that breaks it off."""
        return self.before + orjson.dumps(self.error(value) if isinstance(value, Refused) else value) + self.after


_LINES = Framing("application/x-ndjson", b"", b"\n", b"", lambda refused: {"error": str(refused)})
_EVENTS = Framing("text/event-stream", b"data: ", b"\n\n", b"data: [DONE]\n\n", openai_api.error)
_STREAMED = frozenset({"/api/chat", "/api/generate", "/api/pull"})
_STREAMED_IF_WANTED = frozenset({"/v1/chat/completions", "/v1/completions"})


def framing(path: str) -> Framing:
    """How answers of a path are written."""
    return _EVENTS if path.startswith("/v1/") else _LINES


def streams(path: str, request: Json) -> bool:
    """Whether the answer to a request is a stream."""
    if path in _STREAMED:
        return request.get("stream") is not False
    return path in _STREAMED_IF_WANTED and request.get("stream") is True
