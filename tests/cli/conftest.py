"""A server, the command line in this process, and the command line in a subprocess, with and without a terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from namel3ss_ollama.cli.app import app
from namel3ss_ollama.testing import Model, OllamaServer, Record

# In a subprocess: with the default handling of SIGINT (a test run may ignore it), and, if standard input
# is a terminal, with that as the controlling terminal, so that the byte 3 becomes SIGINT.
START = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
if os.isatty(0):
    os.close(os.open(os.ttyname(0), os.O_RDWR))
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
TIMEOUT = 60


@pytest.fixture
def server() -> Iterator[OllamaServer]:
    """Two models; one of them for chat."""
    models = [Model("tiny", ("completion", "tools")), Model("vectors", ("embedding",), family="bert")]
    with OllamaServer(models) as server:
        yield server


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, server: OllamaServer, tmp_path: Path) -> None:
    unset = (
        "OLLAMA_HOST",
        "OLLAMA_HOSTS",
        "OLLAMA_MODEL",
        "OLLAMA_API_KEY",
        "NO_COLOR",
        "FORCE_COLOR",
        "TTY_COMPATIBLE",
        "COLUMNS",
    )
    for name in (*unset, "NAMEL3SS_OLLAMA_HISTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OLLAMA_BASE_URL", server.url)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def _logging(restored_logging: None) -> None:
    """The command shows the core's warnings from its start on."""


@pytest.fixture
def run() -> Run:
    """Run the command line in this process; a traceback fails the test."""

    def run(*args: str, input: str | bytes | None = None) -> Result:
        return CliRunner().invoke(app, args, input=input, catch_exceptions=False)

    return run


@pytest.fixture
def chats(server: OllamaServer) -> Callable[[], list[Record]]:
    """The requests for answers so far."""
    return lambda: [record for record in server.requests if record.path == "/api/chat"]


@dataclass
class Terminal:
    """A process on its own terminal."""

    process: subprocess.Popen[bytes]
    master: int
    seen: str = ""
    """Output that `expect` has not consumed yet."""
    all: str = field(default="")

    def expect(self, text: str) -> str:
        """Wait for a text; returns the output before it."""
        while text not in self.seen:
            ready, _, _ = select.select([self.master], [], [], TIMEOUT)
            assert ready, f"{text!r} does not come; what came is {self.all!r}"
            try:
                data = os.read(self.master, 65536)
            except OSError:  # on Linux, when the other end was closed
                data = b""
            assert data, f"{text!r} did not come; what came is {self.all!r}"
            self.seen += data.decode()
            self.all += data.decode()
        before, _, self.seen = self.seen.partition(text)
        return before

    def read_rest(self) -> None:
        """Read all output until the process ends."""
        try:
            while data := os.read(self.master, 65536):
                self.all += data.decode()
        except OSError:  # on Linux, when the other end was closed
            pass

    def send(self, text: str) -> None:
        os.write(self.master, text.encode())

    def interrupt(self) -> None:
        """Press Ctrl-C until the process ends: readline misses one that arrives just before it waits."""
        for _ in range(TIMEOUT):
            self.send("\x03")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(1)
                return

    def wait(self) -> int:
        return self.process.wait(TIMEOUT)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    """Run Python with these arguments on a terminal."""
    opened: list[Terminal] = []

    def start(*args: str) -> Terminal:
        master, slave = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-c", START, *args], stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        os.close(slave)
        opened.append(Terminal(process, master))
        return opened[-1]

    yield start
    for one in opened:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()
        os.close(one.master)


@pytest.fixture
def process() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Run Python with these arguments, with pipes at all ends."""
    opened: list[subprocess.Popen[str]] = []

    def start(*args: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", START, *args]
        opened.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True))
        return opened[-1]

    yield start
    for one in opened:
        if one.poll() is None:
            one.kill()
        one.communicate()
