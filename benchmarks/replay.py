"""A server that answers like Ollama, as fast as the client can read: `python -m benchmarks.replay`.

It is a separate process, so that its work is not counted as the client's. Answers are rendered once and cached: one
HTTP chunk per line, written in large pieces with the socket's flow control. `options.num_predict` is the number of
tokens. It prints its port, and exits when its standard input ends.

The model "held" sends the first half of its answer and then nothing, until the client disconnects; "stepped" sends one
write per token, each in a separate iteration of the event loop, so that many streams progress together; "paced" also
pauses before each write, so that tokens arrive one by one, as from a real model; "timed" sends everything after `TIMED`
seconds; "live" writes a token every `1 / RATE` seconds until the client disconnects, each of which is the time of its
write; "typical" sends its first token after `FIRST` seconds and then one every 0.02 seconds, to any number of clients.
"""

from __future__ import annotations

import asyncio
import functools
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.processes import pin

WORD = " word"
VECTOR_LENGTH = 384
MODELS = ("bench", "held", "live", "paced", "stepped", "timed", "typical")
TIMED = 1.0
"""Seconds that an answer of the model "timed" takes."""
FIRST = 0.25
"""Seconds until the first token of the model "typical"."""
RATE = 20
"""Tokens per second of the model "live"."""
_TICKS = 50
"""The number of groups of "live" streams; each is written together, one after another within `1 / RATE` seconds."""
_WINDOW = 256 * 1024
_PIECE = 64 * 1024
_PAUSES = {"paced": 0.002, "typical": 0.02}
_ONE_AT_A_TIME = ("stepped", *_PAUSES)
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
_COUNTERS = {
    "total_duration": 1_000_000_000,
    "load_duration": 1_000_000,
    "prompt_eval_count": 7,
    "prompt_eval_duration": 10_000_000,
    "eval_duration": 900_000_000,
}


def line(kind: str, text: str, **rest: Any) -> bytes:
    """One line of an answer."""
    content = {"response": text} if kind == "generate" else {"message": {"role": "assistant", "content": text}}
    value = {"model": "bench", "created_at": "2025-01-01T00:00:00.123456789Z", **content, "done": False, **rest}
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def last_line(kind: str, text: str, tokens: int, **rest: Any) -> bytes:
    """The line that ends an answer."""
    return line(kind, text, done=True, done_reason="stop", eval_count=tokens, **_COUNTERS, **rest)


def framed(data: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


@functools.cache
def streamed(kind: str, tokens: int) -> tuple[bytes, ...]:
    """A streamed answer, in pieces to write."""
    whole = _HEAD + framed(line(kind, WORD)) * tokens + framed(last_line(kind, "", tokens)) + b"0\r\n\r\n"
    return tuple(whole[i : i + _PIECE] for i in range(0, len(whole), _PIECE))


@functools.cache
def stepped(kind: str, tokens: int) -> tuple[bytes, ...]:
    """The same answer, with one write per token."""
    first = _HEAD + framed(line(kind, WORD))
    last = framed(last_line(kind, "", tokens)) + b"0\r\n\r\n"
    return (first, *(framed(line(kind, WORD)) for _ in range(tokens - 1)), last)


@functools.cache
def whole(kind: str, tokens: int) -> tuple[bytes, ...]:
    """The answer to `"stream": false`."""
    return (_plain(last_line(kind, WORD * tokens, tokens)),)


@functools.cache
def called(kind: str, stream: bool) -> tuple[bytes, ...]:
    """An answer that calls a tool."""
    call = {"function": {"name": "weather", "arguments": {"city": "Bergen", "days": 3}}}
    return _structured(kind, stream, {"role": "assistant", "content": "", "tool_calls": [call]})


@functools.cache
def formatted(kind: str, stream: bool) -> tuple[bytes, ...]:
    """An answer in the form of a schema."""
    return _structured(kind, stream, {"role": "assistant", "content": '{"city": "Bergen", "days": 3}'})


def _structured(kind: str, stream: bool, message: dict[str, Any]) -> tuple[bytes, ...]:
    first, last = line(kind, "", message=message), last_line(kind, "", 12)
    if not stream:
        return (_plain(last_line(kind, "", 12, message=message)),)
    return (_HEAD + framed(first) + framed(last) + b"0\r\n\r\n",)


@functools.cache
def embedded(texts: int) -> tuple[bytes, ...]:
    """Vectors."""
    vector = [round(0.001 * i - 0.19, 8) for i in range(VECTOR_LENGTH)]
    value = {"model": "bench", "embeddings": [vector] * texts, "prompt_eval_count": texts}
    return (_plain(json.dumps(value, separators=(",", ":")).encode()),)


@functools.cache
def running() -> tuple[bytes, ...]:
    """The answer of /api/ps, with windows large enough for the longest answer."""
    models = [{"name": name, "model": name, "context_length": _WINDOW} for name in MODELS]
    return (_plain(json.dumps({"models": models}).encode()),)


def _plain(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    return head + body


class Live:
    """Writes the tokens of all "live" streams, in groups, by one timer: a timer for each would limit the server."""

    def __init__(self) -> None:
        self._groups: list[set[asyncio.Transport]] = [set() for _ in range(_TICKS)]
        self._tick = 0
        self._due = 0.0

    def add(self, transport: asyncio.Transport) -> None:
        """Begin to write to a connection."""
        transport.write(_HEAD)
        if not any(self._groups):
            self._due = asyncio.get_running_loop().time()
            self._schedule()
        min(self._groups, key=len).add(transport)

    def discard(self, transport: asyncio.Transport) -> None:
        """Stop writing to a connection."""
        for group in self._groups:
            group.discard(transport)

    def _schedule(self) -> None:
        self._due += 1 / RATE / _TICKS
        asyncio.get_running_loop().call_at(self._due, self._write)

    def _write(self) -> None:
        before, after = _LIVE
        for transport in self._groups[self._tick]:
            transport.write(b"%b%016d%b" % (before, time.monotonic_ns(), after))
        self._tick = (self._tick + 1) % _TICKS
        if any(self._groups):
            self._schedule()


_LIVE = framed(line("chat", "0" * 16)).split(b"0" * 16)
"""The chunk of a token, before and after its text of 16 digits."""


class Connection(asyncio.Protocol):
    """One connection: requests in, rendered answers out."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._received = b""
        self._unwritten: Iterator[bytes] | None = None
        self._paused = False
        self._one_at_a_time = False
        self._pause = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        request, *headers = head.split(b"\r\n")
        lengths = [h.partition(b":")[2] for h in headers if h.lower().startswith(b"content-length:")]
        length = int(lengths[0]) if lengths else 0
        if len(rest) < length:
            return
        self._received = rest[length:]
        self._answer(request.split()[1].decode(), json.loads(rest[:length] or b"{}"))

    def _answer(self, path: str, body: dict[str, Any]) -> None:
        tokens = int((body.get("options") or {}).get("num_predict") or 100)
        kind = path.rpartition("/")[2]
        held = body.get("model") == "held"
        self._one_at_a_time = body.get("model") in _ONE_AT_A_TIME
        self._pause = _PAUSES.get(body.get("model", ""), 0.0)
        if kind == "embed":
            pieces = embedded(len(body["input"]) if isinstance(body["input"], list) else 1)
        elif kind == "ps":
            pieces = running()
        elif body.get("model") == "live":
            self._live.add(self._transport)
            return
        elif kind not in ("chat", "generate"):
            pieces = (_plain(b"{}"),)
        elif body.get("tools") or body.get("format"):
            pieces = (called if body.get("tools") else formatted)(kind, body.get("stream") is not False)
        elif body.get("stream") is False:
            pieces = whole(kind, tokens)
        else:
            pieces = stepped(kind, tokens) if self._one_at_a_time or held else streamed(kind, tokens)
        self._unwritten = iter(pieces[: len(pieces) // 2] if held else pieces)
        delay = {"timed": TIMED, "typical": FIRST}.get(body.get("model", ""))
        if delay is not None and kind in ("chat", "generate"):
            asyncio.get_running_loop().call_later(delay, self._write)
        else:
            self._write()

    def _write(self) -> None:
        while self._unwritten is not None and not self._paused:
            piece = next(self._unwritten, None)
            if piece is None:
                self._unwritten = None
                return
            self._transport.write(piece)
            if self._one_at_a_time:
                loop = asyncio.get_running_loop()
                if self._pause:
                    loop.call_later(self._pause, self._write)
                else:
                    loop.call_soon(self._write)
                return

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if not self._one_at_a_time:
            self._write()
        else:
            asyncio.get_running_loop().call_soon(self._write)

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwritten = None
        self._live.discard(self._transport)


async def serve() -> None:
    """Serve on a free port of the loopback address until standard input ends."""
    loop = asyncio.get_running_loop()
    live = Live()
    server = await loop.create_server(lambda: Connection(live), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    pin("server")
    asyncio.run(serve())
