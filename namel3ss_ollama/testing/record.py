"""The test server's record of a request.

A record is created when a request has been read completely, and updated while it is answered: the server's thread
writes to it, a test reads from it. Each field is replaced in one assignment, so a reader sees the old or the new value
and needs no lock. To wait for a change, use `OllamaServer.wait_for`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Literal

from .values import as_list, as_object

__all__ = ["Outcome", "Record"]

Outcome = Literal["active", "complete", "client_closed", "fault", "server_stopped"]
"""How a request ended. `active`: not yet. `complete`: the complete answer went to the kernel. `client_closed`: the
client disconnected before that. `fault`: a scripted fault ran to its end. `server_stopped`: `stop()` came first."""


@dataclass(eq=False)
class Record:
    """One request and its outcome."""

    method: str
    path: str
    """The target without its query."""
    query: str
    raw_headers: tuple[tuple[str, str], ...]
    """Names in lower case, in the order sent."""
    body: bytes
    connection: int
    """The number of its connection, counted from 1 in the order accepted."""
    time: float
    """When it had been read completely: seconds on `time.monotonic()`, for differences."""
    http_version: str = "1.1"
    number: int = 0
    """Counted from 1 in the order received."""
    status: int | None = None
    """The status sent; None if no status line was sent."""
    bytes_sent: int = 0
    """Bytes written to the socket, headers and framing included."""
    tokens_sent: int = 0
    """The number of lines sent with text, thinking or a tool call; for `stream: false`, their number in the object."""
    outcome: Outcome = "active"
    fault: str | None = None
    """The name of the fault that was applied, if any."""
    ended: float | None = None
    """When the answer ended, on the same clock as `time`."""
    queued: float = 0.0
    """Seconds that it waited for a slot (`num_parallel`)."""
    kept_tools: list[dict[str, object]] = field(default_factory=list[dict[str, object]])
    """The tools of a chat as the server's version keeps them: what the model's template sees."""
    headers: dict[str, str] = field(init=False)
    """By name in lower case; the last one if a name is repeated."""

    def __post_init__(self) -> None:
        self.headers = dict(self.raw_headers)
        self._json: object = _UNREAD

    @property
    def json(self) -> object:
        """The body as JSON, or None if it is empty or not JSON."""
        if self._json is _UNREAD:
            try:
                self._json = json.loads(self.body)
            except ValueError:
                self._json = None
        return self._json

    @property
    def payload(self) -> dict[str, object]:
        """The body as a JSON object; empty if it is anything else."""
        return as_object(self.json)

    @property
    def model(self) -> str:
        """The model the request names, or an empty string."""
        payload = self.payload
        name = payload.get("model") or payload.get("name")
        return name if isinstance(name, str) else ""

    @property
    def text(self) -> str:
        """The text of the request, joined by newlines: system, prompt, input, messages, or the state and questions."""
        payload = self.payload
        found: list[str] = []
        for key in ("system", "prompt", "suffix"):
            value = payload.get(key)
            if isinstance(value, str):
                found.append(value)
        value = payload.get("input")
        contents = [as_object(message).get("content") for message in as_list(payload.get("messages"))]
        for one in [value, *as_list(value), *contents]:
            if isinstance(one, str):
                found.append(one)
        for key in ("state", "questions"):  # a text, or any JSON
            value = payload.get(key)
            if value is not None:
                found.append(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        return "\n".join(found)

    def __repr__(self) -> str:
        fault = f" ({self.fault})" if self.fault else ""
        return (
            f"<Record {self.number} {self.method} {self.path} on connection {self.connection}: status {self.status}, "
            f"{self.outcome}{fault}, {self.tokens_sent} tokens, {self.bytes_sent} bytes>"
        )


_UNREAD = object()
