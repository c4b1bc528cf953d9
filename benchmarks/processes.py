"""The processes of a run: the server on one core, workers on another, and communication with them."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

_LONGEST_START = 60.0
_RAY = Path(__file__).parents[1] / ".venv-ray" / "bin" / "python"
"""Ray's environment, created by `make test-ray`."""
NO_RAY = "Ray's rows were skipped: they need Linux and `.venv-ray`, which `make test-ray` creates."


def has_ray() -> bool:
    """Whether Ray can be measured: its environment exists, and /proc, which has the times of its processes."""
    return _RAY.exists() and Path("/proc/self/stat").exists()


def environment() -> dict[str, str]:
    """The environment of measured processes."""
    return {
        **os.environ,
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "",  # imported modules are compiled once, as in an installation
        "LANGSMITH_TRACING": "false",
        "NO_PROXY": "127.0.0.1",
    }


def pin(part: Literal["server", "client"]) -> None:
    """Pin this process to one core, separate from the other part's, if the system has two and supports it."""
    if not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1] if part == "server" else cores[0]})


def allow_many_files() -> None:
    """Raise the limit on open files, for thousands of connections, as far as allowed."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@contextmanager
def replay_server() -> Iterator[str]:
    """The address of a running replay server."""
    with _python("benchmarks.replay") as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"


class Worker:
    """A process that measures clients, and keeps them between measurements; Ray's runs in a separate environment.

    Args:
        library: The module of `benchmarks.clients` that they are in.
        url: The server's address.
        without: A module that cannot be imported there.
        loop: The module that has the event loop.
    """

    def __init__(self, library: str, url: str, without: str = "", loop: str = "asyncio") -> None:
        self._library = library
        python = _RAY if library == "ray" else None
        self._running = _python("benchmarks.worker", library, url, without, loop, python=python)
        self._process = self._running.__enter__()

    def ask(self, what: str, name: str, **arguments: Any) -> dict[str, Any]:
        """Run a measurement of a client, or another function of the library.

        Args:
            what: The method of `benchmarks.worker.Bench`.
            name: The function, as "library:function".
            **arguments: Other arguments of the method.

        Raises:
            RuntimeError: The worker failed; its traceback is on standard error.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps([what, name.partition(":")[2], arguments]) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise RuntimeError(f"the worker of {self._library} failed at {what} of {name}, {arguments}")
        result: dict[str, Any] = json.loads(answer)
        return result

    def close(self) -> None:
        """End the process."""
        self._running.__exit__(None, None, None)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def owner_of(name: str) -> str:
    """The worker of a function: the clients that ours is compared with in a framework have separate processes."""
    library, _, function = name.partition(":")
    return f"{library}:theirs" if function.startswith("theirs") else library


class Workers:
    """The workers of a run, one for each measured package; started when first needed, and kept.

    Args:
        url: The server's address.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._workers: dict[str, Worker] = {}
        self._stack = ExitStack()

    def start(self, names: Iterable[str]) -> None:
        """Start the workers of these concurrently, since their imports take seconds."""
        for name in names:
            if (owner := owner_of(name)) not in self._workers:
                library = owner.partition(":")[0]
                self._workers[owner] = self._stack.enter_context(Worker(library, self.url))

    def ask(self, what: str, name: str, **arguments: Any) -> dict[str, Any]:
        """As `Worker.ask`, of the right worker."""
        self.start([name])
        return self._workers[owner_of(name)].ask(what, name, **arguments)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


@contextmanager
def _python(module: str, *arguments: str, python: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [python or sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
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
