"""Every fault with every kind of call over both transports: the outcome in `fault_table`, and nothing left open."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_table import ROWS, Outcome, Row, in_langchain, report
from fronts import ASYNC, SYNC, Received
from langchain_core.exceptions import ModelError

from namel3ss_ollama import LLMError, LLMTimeoutError, OllamaProvider
from namel3ss_ollama.testing import FAULTS, OllamaServer

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
WRITE = "NAMEL3SS_WRITE_DOCS"
BREAKS = {
    "refuse", "reset_before_headers", "close_before_headers", "reset_mid_stream", "half_close", "cut",
    "stall_before_headers", "stall_mid_stream", "slow_drip",
}  # fmt: skip
"""Faults that leave a response incomplete: its connection must not return to the pool."""
LONGEST = 15.0
"""Limit in seconds for one cell. pytest's own timeout is longer, so that a hang fails only that cell."""


@pytest.fixture(scope="module")
def server() -> Iterator[OllamaServer]:
    with OllamaServer() as server:
        yield server


@pytest.mark.timeout(30)
@pytest.mark.parametrize("transport", ["aiohttp", "httpx"])
@pytest.mark.parametrize("style", ["async", "sync"])
@pytest.mark.parametrize(
    ("row", "front", "mode"),
    [
        pytest.param(row, front, mode, id=f"{row.name}-{front}-{mode}")
        for row in ROWS
        for front, mode in ASYNC
        if mode in row.modes
    ],
)
def test_cell(
    server: OllamaServer,
    row: Row,
    front: str,
    mode: str,
    style: str,
    transport: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server.reset()
    server.accept()
    server.reply(row.reply, path="/api/chat")
    server.fault(row.fault, times=row.times, path="/api/chat", **row.options)
    provider = OllamaProvider("llama3.2", server.url, transport=transport, **row.settings)
    received = Received()
    start = time.monotonic()
    wanted = row.outcome(mode)
    kept = 0 if wanted.error and row.fault in BREAKS else 1
    error = (run_async if style == "async" else run_sync)(provider, server, front, mode, received, kept)
    assert time.monotonic() - start < LONGEST
    server.wait_for(lambda s: s.open_connections == 0)

    check_attempts(provider, server, row, wanted)
    if wanted.error:
        assert error is not None, "an incomplete response was returned as complete"
        check_error(error, wanted, front, row)
        arrived = error.partial.content if isinstance(error, LLMError) and error.partial else ""
        assert received.text == (arrived.removesuffix(wanted.unread) if mode == "streaming" else "")
    else:
        assert error is None
        assert (received.text, received.finish, received.calls) == (wanted.partial, wanted.finish, list(wanted.calls))
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


def run_async(
    provider: OllamaProvider, server: OllamaServer, front: str, mode: str, received: Received, kept: int
) -> Exception | None:
    async def ask() -> Exception | None:
        error = None
        try:
            await ASYNC[front, mode](provider, received)
        except Exception as failure:
            error = failure
        assert (provider.stats().running, provider.stats().queued) == (0, 0)
        await server.wait_for_async(lambda s: s.active_requests == 0 and s.open_connections <= kept)
        await provider.aclose()
        return error

    return asyncio.run(ask())


def run_sync(
    provider: OllamaProvider, server: OllamaServer, front: str, mode: str, received: Received, kept: int
) -> Exception | None:
    error = None
    try:
        SYNC[front, mode](provider, received)
    except Exception as failure:
        error = failure
    assert (provider.stats().running, provider.stats().queued) == (0, 0)
    server.wait_for(lambda s: s.active_requests == 0 and s.open_connections <= kept)
    provider.close()
    return error


def check_attempts(provider: OllamaProvider, server: OllamaServer, row: Row, wanted: Outcome) -> None:
    assert provider.stats().retries + 1 in wanted.attempts
    if row.fault == "refuse":
        assert len(server.requests) == 1  # the others found the port closed
    else:
        assert len(server.requests) == provider.stats().retries + 1


def check_error(error: Exception, wanted: Outcome, front: str, row: Row) -> None:
    assert isinstance(error, LLMError)
    assert isinstance(error, wanted.error)
    if front == "LangChain":
        assert isinstance(error, ModelError)
        assert type(error).__name__ in {in_langchain(cls, row) for cls in wanted.error}
        original = error.__cause__
        assert isinstance(original, LLMError)
        assert isinstance(original, wanted.error)
        assert not isinstance(original, ModelError)
    partial = error.partial.content if error.partial else None
    assert partial == wanted.partial or (wanted.lossy and partial is None)
    assert error.partial is None or error.partial.finish_reason is None
    if isinstance(error, LLMTimeoutError):
        assert error.deadline == wanted.deadline


def test_the_table_has_every_fault_and_call() -> None:
    assert {row.fault for row in ROWS} == set(FAULTS)
    assert set(SYNC) == set(ASYNC)
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_the_page_matches_the_table() -> None:
    if os.environ.get(WRITE):
        PAGE.write_text(report(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == report(), "docs/reliability.md is stale: `make pages` regenerates it"
