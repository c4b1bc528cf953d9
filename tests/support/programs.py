"""Programs that run in a separate interpreter, against this process's test server."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator

from namel3ss_ollama.testing import Gate, OllamaServer

__all__ = ["TEXT", "command", "prepare", "run", "started"]

TEXT = "one two three four five six"
PREFIX = f"""
import asyncio, gc, os, sys, threading
from namel3ss_ollama import *
p = OllamaProvider("llama3.2", transport=sys.argv[1], max_concurrent=4)
ask = [{{"role": "user", "content": "count"}}]
stall = [{{"role": "user", "content": "count [stall]"}}]
held = [{{"role": "user", "content": "count [held]"}}]
text = {TEXT!r}
"""
# On a slow machine, asyncio's debug mode logs "Executing ... took ... seconds".
SLOW = re.compile(r"^Executing <.*took \d+\.\d+ seconds\n", re.MULTILINE)


def prepare(server: OllamaServer, gate: Gate | None = None) -> dict[str, str]:
    """Make the server answer `TEXT`, stall in the answer to "[stall]", hold a pull, and hold answers to "[held]" at a
    gate; returns a program's environment."""
    server.reply(TEXT, contains="[held]", gate=gate)
    server.reply(TEXT, tokens_per_second=500)
    server.fault("stall_mid_stream", contains="[stall]", at_token=2)
    server.reply("", path="/api/pull", lines=[{"status": "pulling manifest"}], gates={1: Gate()})
    return {**os.environ, "OLLAMA_BASE_URL": server.url}


def command(code: str, transport: str = "aiohttp", before: str = "") -> list[str]:
    """The command that runs code in development mode, with warnings as errors, after `before` and with a provider."""
    script = textwrap.dedent(before) + PREFIX + textwrap.dedent(code)
    return [sys.executable, "-X", "dev", "-W", "error", "-c", script, transport]


def run(server: OllamaServer, code: str, transport: str = "aiohttp", before: str = "") -> None:
    """Run code by `command`; it must exit with code 0, and write nothing to standard error."""
    with started(server, code, transport, before):
        pass


@contextlib.contextmanager
def started(
    server: OllamaServer, code: str, transport: str = "aiohttp", before: str = "", gate: Gate | None = None
) -> Iterator[subprocess.Popen[str]]:
    """As `run`, during the `with` block."""
    process = subprocess.Popen(
        command(code, transport, before), stderr=subprocess.PIPE, text=True, env=prepare(server, gate)
    )
    try:
        yield process
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, SLOW.sub("", errors)) == (0, "")
