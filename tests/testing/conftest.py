"""A client on a raw socket, which shows exactly what the server sent and how the connection ended."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from namel3ss_ollama.testing import OllamaServer

CHAT = {"model": "llama3.2", "messages": [{"role": "user", "content": "hello"}]}


@dataclass
class Seen:
    """A response as received."""

    data: bytes
    reset: bool
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    body: bytes = b""
    complete: bool = False
    """The body is complete according to its framing."""
    rest: bytes = b""
    """Data after the body."""

    def __post_init__(self) -> None:
        head, found, body = self.data.partition(b"\r\n\r\n")
        if not found:
            return
        first, *others = head.decode().split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in others)}
        if self.headers.get("transfer-encoding") == "chunked":
            while True:
                size, found, after = body.partition(b"\r\n")
                if not found or len(after) < int(size, 16) + 2:
                    break
                length = int(size, 16)
                if length == 0:
                    self.complete, self.rest = True, after[2:]
                    break
                self.chunks.append(after[:length])
                body = after[length + 2 :]
            self.body = b"".join(self.chunks)
        else:
            length = int(self.headers.get("content-length", len(body)))
            self.complete = len(body) >= length
            self.body, self.rest = body[:length], body[length:]

    @property
    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self.body.split(b"\n") if line.strip()]

    @property
    def text(self) -> str:
        return "".join(line.get("message", {}).get("content", "") for line in self.lines)


def request_bytes(
    payload: object = CHAT, path: str = "/api/chat", method: str = "POST", headers: str = "Connection: close\r\n"
) -> bytes:
    body = payload if isinstance(payload, bytes) else b"" if payload is None else json.dumps(payload).encode()
    return f"{method} {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def read_all(sock: socket.socket) -> Seen:
    """Read until the server closes the connection."""
    data = b""
    while True:
        try:
            got = sock.recv(65536)
        except ConnectionResetError:
            return Seen(data, reset=True)
        if not got:
            return Seen(data, reset=False)
        data += got


def read_until(sock: socket.socket, end: bytes) -> bytes:
    data = b""
    while end not in data:
        got = sock.recv(65536)
        assert got, f"the connection ended before {end!r}: {data!r}"
        data += got
    return data


@dataclass
class Wire:
    """Raw sockets connected to one server."""

    server: OllamaServer
    opened: list[socket.socket] = field(default_factory=list)

    request_bytes = staticmethod(request_bytes)
    read_all = staticmethod(read_all)
    read_until = staticmethod(read_until)

    def connect(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.server.port), timeout=20)
        self.opened.append(sock)
        return sock

    def send(self, payload: object = CHAT, path: str = "/api/chat", **options: str) -> socket.socket:
        sock = self.connect()
        sock.sendall(request_bytes(payload, path, **options))
        return sock

    def ask(self, payload: object = CHAT, path: str = "/api/chat", **options: str) -> Seen:
        with self.send(payload, path, **options) as sock:
            return read_all(sock)


@pytest.fixture
def server() -> Iterator[OllamaServer]:
    with OllamaServer() as server:
        yield server


@pytest.fixture
def wire(server: OllamaServer) -> Iterator[Wire]:
    wire = Wire(server)
    yield wire
    for sock in wire.opened:
        sock.close()


@pytest.fixture
def chat() -> Callable[..., dict]:
    """Builds the JSON object of a chat request."""
    return lambda **more: {**CHAT, **more}
