"""A request as a value, and its variants that are sent when a server refuses the first one."""

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
    """A request, and how to read its answer.

    Attributes:
        kind: The endpoint.
        body: The request body.
        config: Deadlines and limits.
        timeout: The limit for the call in seconds, including retries and the wait for a slot.
        forced: Names of the tools, one of which must be called.
        parameters: The schemas of the tools' arguments.
        parse_as: The type that the answer is validated against.
        schema: The JSON schema given as `format`, as the caller wrote it; None if there is none.
        asked: How a format or a forced call is requested: by the API's field, in the prompt, or in the prompt together
            with an invalid answer.
        on_truncation: Whether a cut prompt is a warning, an error, or ignored.
        content: The encoded body, shared by all attempts.
        headers: Headers in addition to those of every request.
        loads_only: Whether it only loads or unloads the model: not a generation, and not counted.
        refusable: Whether the server may be asked to refuse a prompt that is too long: `truncate` is not set, and
            truncation is not ignored.
        only: The host that it is for, of several; None for any.
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
        """The requested model."""
        return str(self.body["model"])

    def __repr__(self) -> str:
        return f"Request({self.kind}, {self.model!r})"  # the body contains the prompt

    @property
    def operation(self) -> str:
        """Its name in OpenTelemetry's conventions; "load" is not among them."""
        return "load" if self.loads_only else "chat" if self.kind == "chat" else "text_completion"

    def refusing(self) -> Request:
        """The request that asks the server to refuse a prompt that is too long, instead of cutting it."""
        if "truncate" in self.body:
            return self
        content = self.content and self.content[:-1] + b',"truncate":false}'  # an image is not encoded again
        return replace(self, body={**self.body, "truncate": False}, content=content)

    def cut_allowed(self) -> Request:
        """The request that lets the server cut the prompt."""
        body = {name: value for name, value in self.body.items() if name != "truncate"}
        return replace(self, body=body, content=encode(body), refusable=False)

    @property
    def wants_json(self) -> bool:
        """Whether the answer should be JSON, or a forced call, which is JSON, too."""
        return "format" in self.body or self.asked != "by field"

    def in_prompt(self) -> Request | None:
        """The request with its format, or the tools of a forced call, described in the prompt.

        None if it already is, or if the prompt is raw.
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
        """The request that shows the model its answer and what is wrong with it; None if it already did."""
        if self.asked != "in the prompt" or self.forced:
            return None
        body = show_fault(self.body, answer, fault)
        return replace(self, body=body, content=encode(body), asked="again")

    def begin_answer(self) -> Answer:
        """Its empty answer."""
        return Answer(self.kind, self.forced, self.parameters, formatted=self.wants_json)

    def without_content(self) -> Request:
        """The request without its content, once nothing can be sent again: images may take megabytes."""
        body = {name: value for name, value in self.body.items() if name not in _LARGE_FIELDS}
        return replace(self, body=body, content=None)
