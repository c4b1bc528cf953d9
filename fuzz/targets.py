"""Properties that must hold for any bytes: functions that take bytes and fail if the property does not hold.

`make fuzz` runs them with inputs from atheris, `tests/fuzz` with inputs from hypothesis.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from namel3ss_ollama.address import parse_address
from namel3ss_ollama.answers import Answer, ServerReportedError, read_arguments, read_tool_calls
from namel3ss_ollama.diagnosis import error_for_line, error_for_status
from namel3ss_ollama.errors import LLMError, MalformedResponseError
from namel3ss_ollama.messages import encode_messages
from namel3ss_ollama.streamer import LineDecoder, LineTooLongError, is_cut, parse_line
from namel3ss_ollama.types import ToolCall

LIMIT = 64


def decoder(data: bytes) -> None:
    """Bytes split anywhere give the lines between line feeds, up to the first that is too long."""
    size, data = (data[0] % 7 + 1, data[1:]) if data else (1, data)
    cutter = LineDecoder(LIMIT)
    lines: list[bytes] = []
    too_long = False
    try:
        for start in range(0, len(data), size):
            lines += cutter.feed(data[start : start + size])
        lines.append(cutter.finish())
    except LineTooLongError:
        too_long = True
    wanted = data.split(b"\n")
    assert lines == wanted[: len(lines)]
    assert too_long == any(len(line) > LIMIT for line in wanted)
    assert too_long or len(lines) == len(wanted)
    for line in wanted:
        with contextlib.suppress(MalformedResponseError):
            assert parse_line(line) is None or not is_cut(line)


def _objects(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.split(b"\n"):
        with contextlib.suppress(MalformedResponseError):
            value = parse_line(line)
            if value is not None:
                yield value


def _absorb(answer: Answer, line: dict[str, Any]) -> None:
    answer.absorb([line])


def _deliver(answer: Answer, line: dict[str, Any]) -> None:
    answer.deliver(answer.chunk(line))


def _outcome(read: Callable[[Answer, dict[str, Any]], None], answer: Answer, line: dict[str, Any]) -> type | None:
    try:
        read(answer, line)
    except (LLMError, ServerReportedError) as error:
        return type(error)
    return None


def messages(data: bytes) -> None:
    """Any lines give an answer, or one of the documented errors; the answer's parts can be sent back."""
    for kind in ("chat", "generate"):
        whole, streamed = Answer(kind), Answer(kind)
        for line in _objects(data):
            assert _outcome(_absorb, whole, line) == _outcome(_deliver, streamed, line)
        assert whole.text == streamed.text
        assert repr(whole.response())
        encode_messages([whole.response().message])
    for line in _objects(data):
        with contextlib.suppress(ValueError, TypeError):
            encode_messages([line])
    text = data.decode("utf-8", "replace")
    assert len(str(error_for_line(text, url="http://x"))) < 1000
    assert len(str(error_for_status(500, {}, data, url="http://x", model=None))) < 1000


def tool_calls(data: bytes) -> None:
    """Any JSON gives tool calls, or text if a name is missing; any text is parsed as arguments or kept unchanged."""
    with contextlib.suppress(orjson.JSONDecodeError):
        calls = read_tool_calls(orjson.loads(data))
        assert all(call.id and (call.name if isinstance(call, ToolCall) else call.text) for call in calls)
        assert len({call.id for call in calls}) == len(calls)
        encode_messages([{"role": "assistant", "content": "", "tool_calls": list(calls)}])
    text = data.decode("utf-8", "surrogatepass" if data.isascii() else "replace")
    arguments, broken = read_arguments(text)
    assert broken is None or (arguments, broken) == ({}, text)


def address(data: bytes) -> None:
    """Any text gives an address that parses to itself, or a `ValueError`."""
    text = data.decode("utf-8", "replace")
    for lenient in (False, True):
        with contextlib.suppress(ValueError):
            found = parse_address(text, lenient=lenient)
            assert found.url.isprintable()
            assert "@" not in found.url
            again = parse_address(found.url)
            assert (again.url, again.user, again.password) == (found.url, None, None)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "decoder": decoder,
    "messages": messages,
    "tool_calls": tool_calls,
    "address": address,
}
SEEDS: dict[str, list[bytes]] = {
    "decoder": [b'\x03{"a":1}\n\n{"b":"\xc3\xa9"}\r\n' + b"x" * 70],
    "messages": [
        b'{"model":"m","message":{"role":"assistant","content":"a","thinking":"b"},"done":false}\n'
        b'{"model":"m","message":{"content":"","tool_calls":[{"function":{"name":"f","arguments":{"a":1}}}]}}\n'
        b'{"model":"m","response":"x","done":true,"done_reason":"stop","eval_count":1,"prompt_eval_count":2}',
        b'{"error":{"message":"model \\"m\\" not found"}}',
        b'{"role":"user","content":"a","images":["aGk="]}',
    ],
    "tool_calls": [b'[{"id":"c","function":{"index":0,"name":"f","arguments":"{\\"a\\":1}"}}]', b'{"a":[1,"\\u00e9"]}'],
    "address": [b"http://user:pa%40ss@[::1]:80/a/b", b"0.0.0.0:x", b":1", b"ollama.com"],
}
