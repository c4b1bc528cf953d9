"""An `Answer` as exact bytes and waits on the socket: status line, headers, body with chunks or Content-Length.

The result is a list of steps for `protocol.py` to carry out in order. The bytes are written without an HTTP library,
since half of the faults are invalid HTTP that a library refuses to send. No I/O here.
"""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import NamedTuple, TypeAlias

from .answers import Answer, End, Hold, Part, Piece, Wait

__all__ = ["Send", "Status", "Step", "steps"]

_BUFFER = 2048  # Go's server sends a Content-Length for bodies up to this size, and chunks for longer ones.
_COALESCE = 16384
_PHRASES = {status.value: status.phrase for status in HTTPStatus}


class Send(NamedTuple):
    """Bytes for the socket in one write, and how many tokens the client has after it."""

    data: bytes
    tokens: int = 0


class Status(NamedTuple):
    """The next `Send` starts with a status line of this status."""

    status: int


Step: TypeAlias = Send | Status | Wait | Hold | End


def steps(answer: Answer, *, head_only: bool = False, http10: bool = False, close: bool = False) -> list[Step]:
    """What to do, in order.

    `head_only`: the request was HEAD. `http10`: no chunks, the end of the connection ends the body. `close`: announce
    it in the headers; the caller closes the connection.
    """
    plan: list[Step] = []
    if answer.delay:
        plan.append(Wait(answer.delay))
    if 0 in answer.gates:
        plan.append(Hold(answer.gates[0]))
    plan += answer.before
    chunked = _chunked(answer) and not http10
    head = _head(answer, chunked, http10, http10 or close)
    parts: list[Part] = [] if head_only else answer.parts
    writer = _Writer(plan, head, answer.status)
    tokens = 0
    rate = answer.tokens_per_second
    for part in parts:
        if not isinstance(part, Piece):
            writer.flush()
            plan.append(part)
            continue
        if rate and part.tokens:
            writer.flush(headers=False)
            plan.append(Wait(part.tokens / rate))
        if part.data:
            data = b"%x\r\n%b\r\n" % (len(part.data), part.data) if chunked else part.data
            writer.add(data, part.tokens, answer.flush or bool(rate))
        else:
            writer.tokens += part.tokens
        for position in range(tokens + 1, tokens + part.tokens + 1):
            if position in answer.gates:
                writer.flush(headers=False)
                plan.append(Hold(answer.gates[position]))
        tokens += part.tokens
    if chunked and parts is answer.parts:
        writer.add(b"0\r\n\r\n", 0, False)
    writer.flush()
    return plan if answer.drip is None else _dripping(plan, answer.drip)


class _Writer:
    """Joins data to be sent together into one write."""

    def __init__(self, plan: list[Step], head: bytes, status: int) -> None:
        self._plan = plan
        self._status = status
        self._head: bytes | None = head
        self._waiting: list[bytes] = []
        self._size = 0
        self.tokens = 0

    def add(self, data: bytes, tokens: int, flush: bool) -> None:
        self._waiting.append(data)
        self._size += len(data)
        self.tokens += tokens
        if flush or self._size >= _COALESCE:
            self.flush()

    def flush(self, headers: bool = True) -> None:
        """Write buffered data; also the headers if nothing else is buffered, unless `headers` is false."""
        if not self._waiting and (self._head is None or not headers):
            return
        if self._head is not None:
            self._waiting.insert(0, self._head)
            self._head = None
            self._plan.append(Status(self._status))
        self._plan.append(Send(b"".join(self._waiting), self.tokens))
        self._waiting, self._size, self.tokens = [], 0, 0


def _chunked(answer: Answer) -> bool:
    if answer.content_length is not None:
        return False
    return answer.streamed or sum(len(part.data) for part in answer.parts if isinstance(part, Piece)) > _BUFFER


def _head(answer: Answer, chunked: bool, http10: bool, close: bool) -> bytes:
    status = answer.status
    written = [f"HTTP/1.{0 if http10 else 1} {status} {_PHRASES.get(status, 'status code ' + str(status))}\r\n"]
    given = {name.lower() for name in answer.headers}
    written += [f"{name}: {value}\r\n" for name, value in answer.headers.items()]
    if "date" not in given:
        written.append(f"Date: {_date(int(time.time()))}\r\n")
    goodbye = close and "connection" not in given
    if chunked:
        written += [*(["Connection: close\r\n"] if goodbye else []), "Transfer-Encoding: chunked\r\n"]
        goodbye = False
    elif "content-length" not in given and not answer.streamed and status not in (204, 304):
        length = len(answer.body) if answer.content_length is None else answer.content_length
        written.append(f"Content-Length: {length}\r\n")
    if goodbye:
        written.append("Connection: close\r\n")
    return "".join([*written, "\r\n"]).encode("latin-1", "replace")


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_dates: dict[int, str] = {}


def _date(second: int) -> str:
    written = _dates.get(second)
    if written is None:
        _dates.clear()
        written = _dates[second] = _http_date(second)
    return written


def _http_date(second: int) -> str:
    # Not strftime: its names of days and months depend on the locale.
    moment = time.gmtime(second)
    day = _DAYS[moment.tm_wday]
    month = _MONTHS[moment.tm_mon - 1]
    return f"{day}, {moment.tm_mday:02d} {month} {moment.tm_year} {time.strftime('%H:%M:%S', moment)} GMT"


def _dripping(plan: list[Step], seconds: float) -> list[Step]:
    slow: list[Step] = []
    for step in plan:
        if isinstance(step, Send):
            last = len(step.data) - 1
            for index in range(len(step.data)):
                slow.append(Send(step.data[index : index + 1], step.tokens if index == last else 0))
                slow.append(Wait(seconds))
        else:
            slow.append(step)
    return slow
