"""The test server in a separate process, which can be killed, and whose memory is not the client's."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from namel3ss_ollama.testing import Fault, OllamaServer

__all__ = ["FAULTY", "TEXT", "ServerProcess"]

TEXT = "one two three four five six seven eight"
FAULTY: dict[str, Mapping[str, Any]] = {
    "cut": {},
    "reset_mid_stream": {"at_token": 3},
    "truncated": {},
    "error_line": {},
    "malformed_line": {},
    "stall_mid_stream": {},
    "stall_before_headers": {},
    "close_before_headers": {},
    "reset_before_headers": {},
    "html_page": {},
    "empty_body": {},
    "bomb": {"size": 2**20},
    "byte_chunks": {},
    "crlf": {},
    "gzip": {},
    "status": {"status": 503},
    "redirect": {"location": "http://127.0.0.1:9/"},
}
"""The faults that a prompt can request, as `[cut]`, and their options."""


class ServerProcess:
    """A server that answers `TEXT`, with a fault if the prompt names one.

    Args:
        port: Its port; 0 for a free one below those that the system gives out: no other program gets it when the server
            is killed.
        tokens_per_second: Its speed; None for no limit.
    """

    def __init__(self, port: int = 0, tokens_per_second: float | None = None) -> None:
        command = [sys.executable, __file__, str(port or free_port()), str(tokens_per_second or 0)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self._query("port"))
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _query(self, what: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def state(self) -> dict[str, int]:
        """Counts: requests, active requests, open connections."""
        return dict(self._query("state"))

    def kill(self) -> None:
        """Send SIGKILL, and wait until it has exited."""
        self._process.send_signal(signal.SIGKILL)
        self.close()

    def close(self) -> None:
        """Stop it; does nothing if it has exited."""
        self._process.communicate()


def free_port() -> int:
    """A free port that the system does not give out by itself (these begin at 32768 on Linux, at 49152 elsewhere)."""
    while True:
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(("127.0.0.1", port))
            return port


def serve(port: int, tokens_per_second: float | None) -> None:
    """Serve until standard input ends; each line on it is a query, each line on standard output a response."""
    with OllamaServer(None, port=port, tokens_per_second=tokens_per_second) as server:
        server.reply(TEXT, path="/api/chat")
        server.reply(TEXT, path="/api/generate")
        for name, options in FAULTY.items():
            server.on(contains=f"[{name}]").fault(Fault(name, **options))
        for line in sys.stdin:
            answer: object = server.port
            if line.strip() == "state":
                answer = {
                    "requests": len(server.requests),
                    "active": server.active_requests,
                    "open": server.open_connections,
                }
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve(int(sys.argv[1]), float(sys.argv[2]) or None)
