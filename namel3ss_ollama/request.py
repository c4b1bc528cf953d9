"""A request as it will be sent: a value, and the variants of it that are sent when a server refuses the first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from namel3ss_ollama.answers import Answer, Kind
from namel3ss_ollama.arguments import Parameters
from namel3ss_ollama.client import encode
from namel3ss_ollama.fleet import Standing
from namel3ss_ollama.formats import ParseAs
from namel3ss_ollama.prompting import describe_format, describe_tools, show_fault
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
        schema: The JSON schema given as `format`, as the caller wrote it; None where it was none.
        asked: Where a format, or a forced call, is asked for: by the API's field, in the prompt, or in the prompt again
            beside an answer that was not valid.
        on_truncation: What a cut prompt is: a warning, an error, or nothing.
        content: The body as it goes over the wire, encoded once for all attempts.
        headers: Headers beside those of every request.
        loads_only: Whether it only loads or unloads the model: no generation, and counted nowhere.
        refusable: Whether the server may be asked to refuse a prompt that is too long: the caller did not say
            otherwise, and wants to know.
        only: The one of several hosts that it is for; None for any of them.
    """

    kind: Kind
    body: dict[str, Any]
    config: StreamConfig
    timeout: float | None = None
    forced: frozenset[str] = field(default_factory=frozenset[str])
    parameters: Parameters = field(default_factory=dict[str, Mapping[str, Any]])
    parse_as: ParseAs | None = None
    schema: Mapping[str, Any] | None = None
    asked: Literal["by field", "in the prompt", "again"] = "by field"
    on_truncation: Truncation = "warn"
    content: bytes | None = None
    headers: Mapping[str, str] | None = None
    loads_only: bool = False
    refusable: bool = False
    only: Standing | None = None

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

    @property
    def wants_json(self) -> bool:
        """Whether the answer is to be JSON, or a forced call, which is JSON too."""
        return "format" in self.body or self.asked != "by field"

    def in_prompt(self) -> Request | None:
        """The same request, with its format or the tools of a forced call described in the prompt.

        None where it is that already, or where the prompt is the caller's to the last character.
        """
        if self.asked != "by field" or self.body.get("raw"):
            return None
        if self.forced:
            body = describe_tools(self.body, self.forced)
        else:
            schema = self.parse_as.adapter.json_schema() if self.parse_as is not None else self.schema
            body = describe_format(self.body, schema or "json")
        return replace(self, body=body, content=encode(body), asked="in the prompt")

    def repairing(self, answer: str, fault: str) -> Request | None:
        """The same request, which shows the model its answer and what is wrong with it; None where it did already."""
        if self.asked != "in the prompt" or self.forced:
            return None
        body = show_fault(self.body, answer, fault)
        return replace(self, body=body, content=encode(body), asked="again")

    def begin_answer(self) -> Answer:
        """Its answer, of which nothing has come."""
        return Answer(self.kind, self.forced, self.parameters, formatted=self.wants_json)

    def without_content(self) -> Request:
        """What is needed once nothing can be sent again: a prompt with images may hold megabytes."""
        body = {name: value for name, value in self.body.items() if name not in _LARGE_FIELDS}
        return replace(self, body=body, content=None)
