"""How each fault changes a reply or an answer. Plain functions over values, no I/O.

Two kinds: a few change what the model says (`spoil_reply`), the others change the answer as it is sent
(`spoil_answer`). `FAULTS` in `faults.py` describes them; the tests fail if a fault listed there is not handled here.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from http import HTTPStatus

from .answers import Answer, End, Hold, Part, Piece, Wait, dumps, error
from .faults import Fault
from .replies import COUNTERS, Reply, ToolCall
from .versions import LLAMA_SERVER

__all__ = ["spoil_answer", "spoil_reply"]

_ERRORS = {
    400: "invalid character 'x' looking for beginning of value",
    401: "unauthorized",
    402: "payment required: add credit at https://ollama.com/settings",
    403: "forbidden",
    404: 'model "nope" not found, try pulling it first',
    408: "request timeout",
    413: "request body too large",
    429: "too many requests",
    502: "bad gateway",
    503: "server busy, please try again.  maximum pending requests exceeded",
    504: "gateway timeout",
}
_DIED = "process has terminated: exit status 2"
_PAGE = """<html>
<head><title>{title}</title></head>
<body>
<center><h1>{title}</h1></center>
<hr><center>nginx</center>
</body>
</html>
"""
_STRING = re.compile(rb'"(?:content|response|status|error)":"')


def spoil_reply(fault: Fault, reply: Reply, tool: ToolCall) -> Reply:
    """The reply with the fault applied; `tool` is called if the reply calls none."""
    if fault.name == "done_reason":
        return replace(reply, done_reason=fault.reason or "length")
    if fault.name == "missing_counter":
        gone = COUNTERS if fault.counter is None else (fault.counter,)
        return replace(reply, counters={**reply.counters, **dict.fromkeys(gone)})
    if fault.name.startswith("tool_arguments_"):
        kind = fault.name.removeprefix("tool_arguments_")
        calls = [replace(call, arguments=_arguments(call, kind)) for call in reply.calls or (tool,)]
        return replace(reply, tool_calls=calls, text=reply.text if reply.calls else "")
    if fault.name == "tool_name_missing":
        calls = [replace(call, name="") for call in reply.calls or (tool,)]
        return replace(reply, tool_calls=calls, text=reply.text if reply.calls else "")
    return reply


def _arguments(call: ToolCall, kind: str) -> dict[str, object] | str:
    given = call.arguments
    if kind == "empty":
        return "[]"
    if kind == "object":
        return json.loads(given) if isinstance(given, str) else dict(given)
    written = given if isinstance(given, str) else json.dumps(dict(given) or {"value": 1})
    return written if kind == "string" else written[: max(1, len(written) // 2)]


def spoil_answer(fault: Fault, answer: Answer, version: str) -> Answer:
    """The answer with the fault applied, with the texts of a server of this version."""
    if fault.name == "status" and fault.status in (None, 500) and not (fault.message or fault.body or fault.html):
        fault = replace(fault, message=f"{'llama-server' if LLAMA_SERVER.on(version) else 'llama runner'} {_DIED}")
    change = _CHANGES.get(fault.name)
    return answer if change is None else change(fault, answer)


def _place(fault: Fault, answer: Answer) -> tuple[list[Part], list[Part]]:
    """The parts before and after the fault's position."""
    parts = answer.parts
    if fault.at_byte is None and answer.streamed:
        wanted, index = (1 if fault.at_token is None else fault.at_token), 0
        count = 0
        # A position beyond the last token is just before the last line.
        while index < len(parts) - 1 and count < wanted:
            part = parts[index]
            count += part.tokens if isinstance(part, Piece) else 0
            index += 1
        return parts[:index], parts[index:]
    left = len(answer.body) // 2 if fault.at_byte is None else fault.at_byte
    for index, part in enumerate(parts):
        if isinstance(part, Piece):
            if left < len(part.data):
                head, tail = Piece(part.data[:left]), Piece(part.data[left:], part.tokens)
                return [*parts[:index], *([head] if left else [])], [tail, *parts[index + 1 :]]
            left -= len(part.data)
    return list(parts), []


def _insert(*new: Part) -> Callable[[Fault, Answer], Answer]:
    def change(fault: Fault, answer: Answer) -> Answer:
        before, after = _place(fault, answer)
        return replace(answer, parts=[*before, *new, *after])

    return change


def _first(*new: End) -> Callable[[Fault, Answer], Answer]:
    return lambda fault, answer: replace(answer, before=new)


def _pause(fault: Fault) -> Wait | Hold:
    return Hold(fault.gate) if fault.seconds is None else Wait(fault.seconds)


def _stall(fault: Fault, answer: Answer) -> Answer:
    if fault.name == "stall_before_headers":
        return replace(answer, before=(_pause(fault),))
    before, after = _place(fault, answer)
    return replace(answer, parts=[*before, _pause(fault), *after])


def _truncated(fault: Fault, answer: Answer) -> Answer:
    if fault.at_token is None and fault.at_byte is None and answer.streamed:
        return replace(answer, parts=answer.parts[:-1])
    return replace(answer, parts=_place(fault, answer)[0])


def _error_line(fault: Fault, answer: Answer) -> Answer:
    message = fault.message or "an error was encountered while running the model: unexpected EOF"
    if not answer.streamed:
        return _keeping_time(error(500, message), answer)
    line = Piece(dumps({"error": message}).encode() + b"\n")
    return replace(answer, parts=[*_place(fault, answer)[0], line])


def _malformed(fault: Fault, answer: Answer) -> Answer:
    if not answer.streamed:
        before, _ = _place(fault, answer)
        return replace(answer, parts=[*before, Piece(b"}}")])
    return _insert(Piece(b'{"model":"m","message":{"role":"assistant","content":\n'))(fault, answer)


def _into_string(new: Callable[[Fault], bytes]) -> Callable[[Fault, Answer], Answer]:
    """Insert bytes into the text of the piece after the position, or of the last one."""

    def change(fault: Fault, answer: Answer) -> Answer:
        if answer.streamed:
            before, after = _place(fault, answer)
        else:
            before, after = [], list(answer.parts)
        for index, part in enumerate(after):
            if isinstance(part, Piece) and part.data:
                found = _STRING.search(part.data) or re.search(rb'":"', part.data)
                place = found.end() if found else 0
                data = part.data[:place] + new(fault) + part.data[place:]
                after = [*after[:index], part._replace(data=data), *after[index + 1 :]]
                break
        return replace(answer, parts=[*before, *after])

    return change


def _one_chunk(fault: Fault, answer: Answer) -> Answer:
    tokens = sum(part.tokens for part in answer.parts if isinstance(part, Piece))
    return replace(answer, parts=[Piece(answer.body, tokens)])


def _byte_chunks(fault: Fault, answer: Answer) -> Answer:
    parts: list[Part] = []
    for part in answer.parts:
        if isinstance(part, Piece) and part.data:
            last = len(part.data) - 1
            parts += [Piece(part.data[i : i + 1], part.tokens if i == last else 0) for i in range(len(part.data))]
        else:
            parts.append(part)
    return replace(answer, parts=parts, streamed=True, flush=True)


def _each(change_line: Callable[[bytes], bytes]) -> Callable[[Fault, Answer], Answer]:
    def change(fault: Fault, answer: Answer) -> Answer:
        parts: list[Part] = [
            part._replace(data=change_line(part.data)) if isinstance(part, Piece) and part.data else part
            for part in answer.parts
        ]
        return replace(answer, parts=parts)

    return change


def _crlf(data: bytes) -> bytes:
    return (data[:-1] if data.endswith(b"\n") else data) + b"\r\n"


def _last(change_line: Callable[[Fault, Piece], list[Part]]) -> Callable[[Fault, Answer], Answer]:
    def change(fault: Fault, answer: Answer) -> Answer:
        last = answer.parts[-1] if answer.parts else Piece(b"")
        new = change_line(fault, last) if isinstance(last, Piece) else [last]
        return replace(answer, parts=[*answer.parts[:-1], *new])

    return change


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


def _keeping_time(new: Answer, old: Answer) -> Answer:
    return replace(new, delay=old.delay, gates={0: old.gates[0]} if 0 in old.gates else {})


def _page(fault: Fault, answer: Answer) -> Answer:
    page = _bytes(fault.body or _PAGE.format(title="Sign in to the network"))
    return _keeping_time(Answer([Piece(page)], headers={"Content-Type": "text/html"}), answer)


def _status(fault: Fault, answer: Answer) -> Answer:
    status = fault.status or 500
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    if fault.html:
        page = _PAGE.format(title=f"{status} {phrase}").encode()
        new = Answer([Piece(page)], status, {"Content-Type": "text/html"})
    elif fault.body is not None:
        kind = "application/json; charset=utf-8" if isinstance(fault.body, str) else "application/octet-stream"
        new = Answer([Piece(_bytes(fault.body))], status, {"Content-Type": kind})
    else:
        new = error(status, fault.message or _ERRORS.get(status, phrase.lower()))
    if fault.retry_after is not None:
        new.headers["Retry-After"] = str(fault.retry_after)
    new.headers.update(fault.headers or {})
    return _keeping_time(new, answer)


def _redirect(fault: Fault, answer: Answer) -> Answer:
    return _keeping_time(Answer([], fault.status or 307, {"Location": fault.location or ""}), answer)


def _gzip(fault: Fault, answer: Answer) -> Answer:
    packer = zlib.compressobj(wbits=31)
    parts: list[Part] = []
    for part in answer.parts:
        if isinstance(part, Piece) and part.data:
            parts.append(part._replace(data=packer.compress(part.data) + packer.flush(zlib.Z_SYNC_FLUSH)))
        else:
            parts.append(part)
    parts.append(Piece(packer.flush()))
    return replace(answer, parts=parts, headers={**answer.headers, "Content-Encoding": "gzip"})


@lru_cache(maxsize=2)
def _packed(size: int) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    block = b" " * 65536
    whole, rest = divmod(size, len(block))
    packed = [packer.compress(block) for _ in range(whole)]
    return b"".join([*packed, packer.compress(block[:rest]), packer.flush()])


def _bomb(fault: Fault, answer: Answer) -> Answer:
    body = _packed(fault.size or 16 * 2**20)
    return replace(answer, parts=[Piece(body)], headers={**answer.headers, "Content-Encoding": "gzip"})


def _length(fault: Fault, answer: Answer) -> Answer:
    size = fault.size or 10
    body = answer.body
    if fault.name == "content_length_long":
        return replace(answer, parts=[*answer.parts, End("close")], streamed=False, content_length=len(body) + size)
    return replace(answer, streamed=False, content_length=max(0, len(body) - size))


_CHANGES: dict[str, Callable[[Fault, Answer], Answer]] = {
    "refuse": _first(End("refuse")),
    "reset_before_headers": _first(End("reset")),
    "close_before_headers": _first(End("close")),
    "stall_before_headers": _stall,
    "reset_mid_stream": _insert(End("reset")),
    "half_close": _insert(End("half_close")),
    "stall_mid_stream": _stall,
    "slow_drip": lambda fault, answer: replace(answer, drip=0.01 if fault.seconds is None else fault.seconds),
    "truncated": _truncated,
    "cut": _insert(End("close")),
    "error_line": _error_line,
    "malformed_line": _malformed,
    "invalid_utf8": _into_string(lambda fault: b"\xff\xfe\xc3"),
    "half_character": _into_string(lambda fault: b"\\ud83d"),
    "lines_in_one_chunk": _one_chunk,
    "byte_chunks": _byte_chunks,
    "huge_line": _into_string(lambda fault: b"a" * (fault.size or 2**20)),
    "empty_lines": _each(lambda data: data + b"\n"),
    "crlf": _each(_crlf),
    "no_final_newline": _last(lambda fault, piece: [piece._replace(data=piece.data.rstrip(b"\n"))]),
    "extra_after_done": _last(lambda fault, piece: [piece, Piece(_bytes(fault.body or b"extra bytes\n"))]),
    "duplicate_done": _last(lambda fault, piece: [piece, piece._replace(tokens=0)]),
    "wrong_content_type": lambda fault, answer: replace(
        answer, headers={**answer.headers, "Content-Type": fault.content_type or "text/plain; charset=utf-8"}
    ),
    "html_page": _page,
    "empty_body": lambda fault, answer: replace(answer, parts=[], streamed=False),
    "status": _status,
    "redirect": _redirect,
    "gzip": _gzip,
    "bomb": _bomb,
    "content_length_long": _length,
    "content_length_short": _length,
}
