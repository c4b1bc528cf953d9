"""A request as it will be sent: a value, and the variants of it that are sent when a server refuses the first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from namel3ss_ollama.answers import Answer, Kind
from namel3ss_ollama.arguments import Parameters
from namel3ss_ollama.client import encode
from namel3ss_ollama.formats import ParseAs
from namel3ss_ollama.settings import StreamConfig, Truncation

__all__ = ["Request"]

_LARGE_FIELDS = ("messages", "prompt", "images", "system", "suffix", "context", "tools", "format")


@dataclass(frozen=True, slots=True, repr=False)
class Request:
    """A request as it will be sent, and what to make of its answer.

    Attributes:
        kind: Which endpoint.
        body: The request's body.
        config: Deadlines and limits.
        timeout: A bound on the call, retries and the wait for a slot included, in seconds.
        forced: Names of the tools of which one must be called.
        parameters: The schemas of the tools' arguments.
        parse_as: The type that the answer must validate against.
        on_truncation: What a cut prompt is: a warning, an error, or nothing.
        content: The body as it goes over the wire, encoded once for all attempts.
        headers: Headers beside those of every request.
        loads_only: Whether it only loads or unloads the model: no generation, and counted nowhere.
        refusable: Whether the server may be asked to refuse a prompt that is too long: the caller did not say
            otherwise, and wants to know.
    """

    kind: Kind
    body: dict[str, Any]
    config: StreamConfig
    timeout: float | None = None
    forced: frozenset[str] = field(default_factory=frozenset[str])
    parameters: Parameters = field(default_factory=dict[str, Mapping[str, Any]])
    parse_as: ParseAs | None = None
    on_truncation: Truncation = "warn"
    content: bytes | None = None
    headers: Mapping[str, str] | None = None
    loads_only: bool = False
    refusable: bool = False

    @property
    def model(self) -> str:
        """The model that is asked for."""
        return str(self.body["model"])

    def __repr__(self) -> str:
        return f"Request({self.kind}, {self.model!r})"  # the body holds the prompt

    @property
    def operation(self) -> str:
        """What OpenTelemetry's conventions call this; "load" is none of theirs."""
        return "load" if self.loads_only else "chat" if self.kind == "chat" else "text_completion"

    def refusing(self) -> Request:
        """The same request, which asks the server to refuse a prompt that is too long rather than cut it."""
        if "truncate" in self.body:
            return self
        content = self.content and self.content[:-1] + b',"truncate":false}'  # an image is not encoded again
        return replace(self, body={**self.body, "truncate": False}, content=content)

    def cut_allowed(self) -> Request:
        """The same request, which lets the server cut the prompt."""
        body = {name: value for name, value in self.body.items() if name != "truncate"}
        return replace(self, body=body, content=encode(body), refusable=False)

    def begin_answer(self) -> Answer:
        """Its answer, of which nothing has come."""
        return Answer(self.kind, self.forced, self.parameters, formatted="format" in self.body)

    def without_content(self) -> Request:
        """What is needed once nothing can be sent again: a prompt with images may hold megabytes."""
        body = {name: value for name, value in self.body.items() if name not in _LARGE_FIELDS}
        return replace(self, body=body, content=None)
