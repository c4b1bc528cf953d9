"""The faults by name: a description, the options, and their validation.

Names and options are data; `spoil.py` implements them. An unknown name, or an option that a fault does not take, raises
`ValueError` at the line of the test that wrote it.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, TypedDict

if TYPE_CHECKING:
    from .gate import Gate

__all__ = ["FAULTS", "Fault", "FaultInfo", "FaultOptions"]


class FaultInfo(NamedTuple):
    """One line about a fault, and the options it takes."""

    about: str
    options: tuple[str, ...] = ()


_AT = ("at_token", "at_byte")

FAULTS: Mapping[str, FaultInfo] = MappingProxyType(
    {
        "refuse": FaultInfo("the connection is reset and the port closed: new connections are refused"),
        "reset_before_headers": FaultInfo("TCP reset before any byte of the answer"),
        "close_before_headers": FaultInfo("connection closed before any byte of the answer"),
        "stall_before_headers": FaultInfo(
            "nothing is sent until the gate opens, the seconds are over or the client disconnects",
            ("gate", "seconds"),
        ),
        "reset_mid_stream": FaultInfo("TCP reset within the body", _AT),
        "half_close": FaultInfo("the server closes its sending side within the body and keeps reading", _AT),
        "stall_mid_stream": FaultInfo(
            "silence within the body until the gate opens, the seconds are over or the client disconnects",
            (*_AT, "gate", "seconds"),
        ),
        "slow_drip": FaultInfo("headers and body byte by byte, `seconds` (0.01) apart", ("seconds",)),
        "truncated": FaultInfo("the body ends properly, but without its last line", _AT),
        "cut": FaultInfo("connection closed within the body, without the last chunk", _AT),
        "error_line": FaultInfo('a line {"error": ...} ends the stream; a 500 where not streamed', (*_AT, "message")),
        "malformed_line": FaultInfo("a line that is not JSON", _AT),
        "invalid_utf8": FaultInfo("bytes within a string that are not UTF-8", _AT),
        "half_character": FaultInfo("half of a surrogate pair within a string, as an escape", _AT),
        "lines_in_one_chunk": FaultInfo("all lines in one HTTP chunk"),
        "byte_chunks": FaultInfo("every byte of the body is a separate HTTP chunk and write"),
        "huge_line": FaultInfo("a line of more than `size` bytes (1 MiB)", (*_AT, "size")),
        "empty_lines": FaultInfo("an empty line after each line"),
        "crlf": FaultInfo("lines end with CR LF"),
        "no_final_newline": FaultInfo("the last line has no line end"),
        "extra_after_done": FaultInfo("bytes after the last line (`body`)", ("body",)),
        "duplicate_done": FaultInfo("the last line is sent twice"),
        "wrong_content_type": FaultInfo("`content_type` (text/plain) instead of the right one", ("content_type",)),
        "html_page": FaultInfo("status 200 and a page of HTML, as from a login portal", ("body",)),
        "empty_body": FaultInfo("status 200 and no body"),
        "status": FaultInfo(
            "`status` (500) and an error as Ollama writes it, as a proxy's HTML (`html`), or `body`",
            ("status", "message", "body", "headers", "retry_after", "html"),
        ),
        "redirect": FaultInfo("`status` (307) to `location`", ("status", "location")),
        "gzip": FaultInfo("the body gzipped, with Content-Encoding"),
        "bomb": FaultInfo("a small gzipped body that unpacks to `size` bytes (16 MiB)", ("size",)),
        "content_length_long": FaultInfo("Content-Length is `size` (10) bytes more than are sent; then FIN", ("size",)),
        "content_length_short": FaultInfo("Content-Length is `size` (10) bytes less than are sent", ("size",)),
        "done_reason": FaultInfo('the last line\'s done_reason is `reason` ("length")', ("reason",)),
        "missing_counter": FaultInfo("the last line lacks `counter`, or all counters", ("counter",)),
        "tool_arguments_string": FaultInfo("the arguments of tool calls are JSON in a string"),
        "tool_arguments_object": FaultInfo("the arguments of tool calls are an object, as they should be"),
        "tool_arguments_broken": FaultInfo("the arguments of tool calls are a truncated string"),
        "tool_arguments_empty": FaultInfo("the arguments of tool calls are an empty list, in a string"),
        "tool_name_missing": FaultInfo("the names of tool calls are empty"),
    }
)
"""Every fault by name. Faults at a position in the body take `at_token` (after that many tokens of a stream, 1 by
default; in an answer of one object, the middle) or `at_byte` (after that many body bytes)."""


class FaultOptions(TypedDict, total=False):
    """The keywords of `Fault`, for `server.fault(...)` and `rule.fault(...)`."""

    at_token: int | None
    at_byte: int | None
    gate: Gate | None
    seconds: float | None
    message: str | None
    body: str | bytes | None
    size: int | None
    content_type: str | None
    status: int | None
    headers: Mapping[str, str] | None
    retry_after: float | str | None
    html: bool | None
    location: str | None
    reason: str | None
    counter: str | None


@dataclass(frozen=True)
class Fault:
    """One fault with its options; `FAULTS` lists the options of each. Raises `ValueError` naming the invalid option."""

    name: str
    at_token: int | None = field(default=None, kw_only=True)
    at_byte: int | None = field(default=None, kw_only=True)
    gate: Gate | None = field(default=None, kw_only=True)
    seconds: float | None = field(default=None, kw_only=True)
    message: str | None = field(default=None, kw_only=True)
    body: str | bytes | None = field(default=None, kw_only=True)
    size: int | None = field(default=None, kw_only=True)
    """Bytes."""
    content_type: str | None = field(default=None, kw_only=True)
    status: int | None = field(default=None, kw_only=True)
    headers: Mapping[str, str] | None = field(default=None, kw_only=True)
    retry_after: float | str | None = field(default=None, kw_only=True)
    """The Retry-After header: seconds, or a date as text."""
    html: bool | None = field(default=None, kw_only=True)
    location: str | None = field(default=None, kw_only=True)
    reason: str | None = field(default=None, kw_only=True)
    counter: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        info = FAULTS.get(self.name)
        if info is None:
            near = difflib.get_close_matches(self.name, FAULTS, n=3, cutoff=0.4) or sorted(FAULTS)
            raise ValueError(f"name: there is no fault {self.name!r}; nearest: {', '.join(near)}")
        for one in fields(self)[1:]:
            if getattr(self, one.name) is not None and one.name not in info.options:
                takes = ", ".join(info.options) or "no options"
                raise ValueError(f"{one.name}: the fault {self.name!r} does not take it (it takes {takes})")
        if self.at_token is not None and self.at_byte is not None:
            raise ValueError("at_byte: cannot be given together with at_token")
        for name, value in (
            ("at_token", self.at_token),
            ("at_byte", self.at_byte),
            ("seconds", self.seconds),
        ):
            if value is not None and not value >= 0:
                raise ValueError(f"{name}: {value} is negative")
        if self.size is not None and self.size < 1:
            raise ValueError(f"size: {self.size} is not positive")
        if self.gate is not None and self.seconds is not None:
            raise ValueError("seconds: cannot be given together with gate")
        if self.name == "redirect":
            if self.location is None:
                raise ValueError("location: a redirect needs a location")
            if self.status is not None and self.status not in (301, 302, 303, 307, 308):
                raise ValueError(f"status: {self.status} is not a redirect (301, 302, 303, 307, 308)")
        elif self.status is not None and not 200 <= self.status <= 599:
            raise ValueError(f"status: {self.status} is not the status of a final answer (200 to 599)")
        if self.html and self.body is not None:
            raise ValueError("body: cannot be given together with html")
