"""The garbage collector may run anywhere, within every lock and in any thread: nothing deadlocks or leaks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parents[1] / "support" / "collector.py"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("transport", ["aiohttp", "httpx"])
def test_abandoned_requests_are_collected_within_any_method(transport: str) -> None:
    # Once wrong: a finalizer waited for a lock that its own thread held, or for the background loop, which waited for
    # the lock that the finalizer's thread held; or it raised, and "Exception ignored in" was its only trace
    ended = subprocess.run([sys.executable, PROGRAM, transport], capture_output=True, text=True, timeout=100)
    assert ended.stderr == ""  # neither a hang, which the watchdog reports, nor an ignored exception
    assert ended.returncode == 0
    figures = json.loads(ended.stdout)
    assert figures["running"] == figures["queued"] == 0
    assert all(figures["collections"].values())
    assert sum(count > 0 for count in figures["within locks"].values()) > 12
    assert sum(figures["within locks"].values()) > 100
    # Abandoned requests and three streams that were not exhausted count as cancelled; one missed its deadline.
    assert figures["cancelled"] == figures["made"] + 3
    assert figures["succeeded"] == figures["answers"]
    assert figures["failed"] == 1
