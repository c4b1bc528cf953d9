"""Values that describe an answer before it is serialised, and JSON as Ollama's server writes it.

An `Answer` is a status, headers and an ordered list of parts: pieces of body (each a line of a stream, or the single
object of a unary answer), and the pauses and endings that faults insert. Nothing here does I/O.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from .gate import Gate

__all__ = [
    "JSON_TYPE",
    "NDJSON_TYPE",
    "TEXT_TYPE",
    "Answer",
    "End",
    "Hold",
    "Part",
    "Piece",
    "Wait",
    "dumps",
    "error",
    "lines",
    "llama_server_error",
    "now",
    "text",
    "unary",
]

JSON_TYPE = "application/json; charset=utf-8"
NDJSON_TYPE = "application/x-ndjson"
TEXT_TYPE = "text/plain"


class Piece(NamedTuple):
    """Body bytes that belong together, and how many tokens they complete. Empty data is a token not visible yet."""

    data: bytes
    tokens: int = 0


class Wait(NamedTuple):
    """Seconds to wait."""

    seconds: float


class Hold(NamedTuple):
    """Wait for a gate; None waits until the client disconnects or the server stops."""

    gate: Gate | None


class End(NamedTuple):
    """End here. `close`: FIN. `reset`: RST. `half_close`: FIN, but keep reading. `refuse`: RST and stop listening."""

    how: Literal["close", "reset", "half_close", "refuse"]


Part: TypeAlias = Piece | Wait | Hold | End


@dataclass
class Answer:
    """What to send."""

    parts: list[Part]
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict[str, str])
    """Content type and the like; Date and the framing are added when it is written."""
    streamed: bool = False
    """Each piece is a separate HTTP chunk, flushed immediately."""
    content_length: int | None = None
    """A false Content-Length."""
    drip: float | None = None
    """Seconds between bytes, for everything that is sent."""
    flush: bool = False
    """Write each piece to the socket separately, even without a pause between them."""
    delay: float = 0.0
    """Seconds before the first byte."""
    tokens_per_second: float | None = None
    gates: Mapping[int, Gate] = field(default_factory=dict[int, "Gate"])
    """Hold after this many tokens; 0 is before the headers."""
    before: tuple[Wait | Hold | End, ...] = ()
    """What to do before the headers are sent."""

    @property
    def body(self) -> bytes:
        """The complete body."""
        return b"".join(part.data for part in self.parts if isinstance(part, Piece))


_ESCAPES = str.maketrans(
    {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
    | {chr(code): "\ufffd" for code in range(0xD800, 0xE000)}
)
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def dumps(value: object) -> str:
    """JSON as Go writes it: no whitespace, `<`, `>`, `&` escaped, everything else unchanged."""
    written = _encode(value)
    return written if written.isascii() and _plain(written) else written.translate(_ESCAPES)


def _plain(written: str) -> bool:
    return "<" not in written and ">" not in written and "&" not in written


def now() -> str:
    """The time in UTC with nanoseconds, trailing zeros dropped, as in `created_at`."""
    seconds, nanos = divmod(time.time_ns(), 1_000_000_000)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    fraction = f"{nanos:09d}".rstrip("0")
    return f"{stamp}.{fraction}Z" if fraction else f"{stamp}Z"


def unary(value: object, status: int = 200, content_type: str = JSON_TYPE) -> Answer:
    """One JSON object."""
    return Answer([Piece(dumps(value).encode())], status, {"Content-Type": content_type})


def error(status: int, message: str, **more: str) -> Answer:
    """An error in Ollama's format: `{"error": "..."}`, with the fields of `more`."""
    return unary({"error": message, **more}, status)


def llama_server_error(
    message: str, code: int = 500, kind: str = "server_error", **more: int
) -> str:  # ollama 0.30: llm/llama_server.go, statusErrorMessage
    """The text of an error from llama-server: its JSON, which servers from 0.30 on pass through.

    >>> llama_server_error("Failed to parse grammar", 400, "invalid_request_error")
    '{"error":{"code":400,"message":"Failed to parse grammar","type":"invalid_request_error"}}'
    """
    return _encode({"error": {"code": code, "message": message, "type": kind, **more}})


def text(status: int, message: str, content_type: str = TEXT_TYPE) -> Answer:
    """Plain text."""
    return Answer([Piece(message.encode())], status, {"Content-Type": content_type})


def lines(values: Sequence[object]) -> Answer:
    """A stream with one JSON value per line."""
    last = len(values) - 1
    parts: list[Part] = [Piece(dumps(one).encode() + b"\n", int(i < last)) for i, one in enumerate(values)]
    return Answer(parts, headers={"Content-Type": NDJSON_TYPE}, streamed=True)
