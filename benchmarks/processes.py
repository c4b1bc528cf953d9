"""The processes of a run: the server on one core, workers on another, and how to talk to them."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

_LONGEST_START = 60.0


def pin(part: Literal["server", "client"]) -> None:
    """Keep this process on one core, apart from the other part, where the system has two and can do so."""
    if not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1] if part == "server" else cores[0]})


def allow_many_files() -> None:
    """Raise the limit on open files, for thousands of connections, as far as that is allowed."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@contextmanager
def replay_server() -> Iterator[str]:
    """The address of a running replay server."""
    with _python("benchmarks.replay") as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"


class Worker:
    """A process that measures one client, and keeps it between measurements.

    Args:
        client: The client, as "module:function" inside `benchmarks.clients`.
        url: The server's address.
        without: A module that cannot be imported there.
    """

    def __init__(self, client: str, url: str, without: str = "") -> None:
        self._client = client
        self._running = _python("benchmarks.worker", client, url, without)
        self._process = self._running.__enter__()

    def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        """What a function of `benchmarks.worker` says.

        Raises:
            RuntimeError: The worker failed; its traceback is on standard error.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"what": what, **arguments}) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise RuntimeError(f"the worker of {self._client} failed at {what} {arguments}")
        result: dict[str, Any] = json.loads(answer)
        return result

    def close(self) -> None:
        """End the process."""
        self._running.__exit__(None, None, None)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def _python(module: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONHASHSEED": "0", "LANGSMITH_TRACING": "false", "NO_PROXY": "127.0.0.1"}
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        try:
            process.stdin.close()
        except BrokenPipeError:
            pass  # it has ended already
        try:
            process.wait(_LONGEST_START)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()
