"""Every fault on one of three hosts, and on all: which requests another host answers, and how many each host gets."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from farm import ASK, asked, farm, load, provider_of
from fault_table import ROWS, TEXT, Row, goes_elsewhere

from namel3ss_ollama import (
    AuthenticationError,
    LLMError,
    LLMTimeoutError,
    ModelNotFoundError,
    OllamaProvider,
    StreamConfig,
)
from namel3ss_ollama.testing import OllamaServer

LONGER = 5
DEADLINES = ("first_chunk_timeout", "chunk_timeout", "stream_timeout")
CELLS = [
    pytest.param(row, mode, id=f"{row.name}-{mode}")
    for row in ROWS
    for mode in ("whole", "streaming")
    # Outcomes that depend on timing are in the other table, and so are tool calls that any host's model may get wrong.
    if mode in row.modes and not row.whole.lossy and "tool call" not in row.note
]


@pytest.fixture(scope="module")
def all_servers() -> Iterator[list[OllamaServer]]:
    with farm(3) as servers:
        load(servers)
        yield servers


@pytest.fixture
def servers(all_servers: list[OllamaServer], monkeypatch: pytest.MonkeyPatch) -> list[OllamaServer]:
    for module, name in (("pool", "_BUSY_HOLDS"), ("limiter", "_PATIENCE")):
        monkeypatch.setattr(f"namel3ss_ollama.{module}.{name}", 0.01)
    for server in all_servers:
        server.reset()
        server.accept()
    return all_servers


def make_provider(servers: list[OllamaServer], row: Row) -> OllamaProvider:
    for server in servers:
        server.reply(row.reply, path="/api/chat")
    return provider_of(servers, eject=0.01, eject_max=0.02, **with_longer_deadlines(row.settings))


def with_longer_deadlines(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a row with longer deadlines, since the other hosts have to meet them."""
    result = dict(settings)
    if "timeout" in result:
        result["timeout"] *= LONGER
    if "stream_config" in result:
        config: StreamConfig = result["stream_config"]
        short = {name: seconds for name in DEADLINES if (seconds := getattr(config, name)) is not None and seconds < 1}
        result["stream_config"] = replace(config, **{name: LONGER * seconds for name, seconds in short.items()})
    return result


class FaultyHosts:
    """The hosts in the order in which they get requests, one of which has a fault.

    Args:
        servers: The hosts.
        row: The fault.
        which: Which of them has it: 0 for the first one that gets a request; None for all.
    """

    def __init__(self, servers: list[OllamaServer], row: Row, which: int | None) -> None:
        self.which = which
        self.order: dict[OllamaServer, None] = {}
        for server in servers:
            server.fault(
                row.fault,
                times=row.times,
                path="/api/chat",
                predicate=functools.partial(self._is_faulty, server),
                **row.options,
            )

    def _is_faulty(self, server: OllamaServer, _: object) -> bool:
        self.order.setdefault(server)
        return self.which is None or list(self.order).index(server) == self.which

    @property
    def counts(self) -> list[int]:
        """The number of requests that each got, in that order."""
        return asked(list(self.order))


async def ask(provider: OllamaProvider, mode: str) -> tuple[str, LLMError | None]:
    """The text that the caller received, and the error."""
    received = ""
    try:
        if mode == "whole":
            return (await provider.achat(ASK)).content, None
        async for chunk in provider.stream_chat(ASK):
            received += chunk.content
    except LLMError as error:
        return received, error
    return received, None


def fails(row: Row, mode: str) -> bool:
    """Whether a request to a host with this fault fails."""
    return bool(row.outcome(mode).error) or row.times is not None


def sent_per_request(row: Row) -> int:
    """How many requests a host gets for one: a second immediately where the pooled connection may be stale."""
    return 2 if row.fault in ("reset_before_headers", "close_before_headers") else 1


def run(
    provider: OllamaProvider, servers: list[OllamaServer], mode: str, calls: int = 1
) -> list[tuple[str, LLMError | None]]:
    async def main() -> list[tuple[str, LLMError | None]]:
        if calls > 1:
            await provider.look_at_hosts()  # all have the model loaded, so that no request waits for another
        results = await asyncio.gather(*(ask(provider, mode) for _ in range(calls)))
        assert (provider.stats().running, provider.stats().queued) == (0, 0)
        assert [state.in_flight for state in provider.hosts()] == [0] * len(servers)
        await provider.aclose()
        return results

    results = asyncio.run(asyncio.wait_for(main(), 20))
    for server in servers:
        server.wait_for(lambda s: s.active_requests == 0 and s.open_connections == 0)
    return results


@pytest.mark.timeout(30)
@pytest.mark.parametrize(("row", "mode"), CELLS)
def test_the_first_host_fails(
    servers: list[OllamaServer], row: Row, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    provider, outcome = make_provider(servers, row), row.outcome(mode)
    hosts = FaultyHosts(servers, row, 0)
    ((text, error),) = run(provider, servers, mode)
    if fails(row, mode) and goes_elsewhere(row, mode):
        assert (error, text) == (None, TEXT)
        assert hosts.counts == [sent_per_request(row), 1]
        assert provider.stats().retries == 1
    else:
        assert hosts.counts == [sent_per_request(row)]
        if outcome.error:
            assert isinstance(error, outcome.error)
        else:
            assert (error, text) == (None, outcome.partial)
    warned = [record for record in caplog.records if record.levelno > logging.INFO]
    assert len(warned) == (AuthenticationError in row.whole.error)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(("row", "mode"), CELLS)
def test_the_second_of_three_busy_hosts_fails(servers: list[OllamaServer], row: Row, mode: str) -> None:
    """Three concurrent requests: each host gets one, and a request that fails waits for another host."""
    provider, outcome = make_provider(servers, row), row.outcome(mode)
    hosts = FaultyHosts(servers, row, 1)
    results = run(provider, servers, mode, 3)
    errors = [error for _, error in results if error is not None]
    texts = [text for text, error in results if error is None]
    if fails(row, mode) and goes_elsewhere(row, mode):
        assert (errors, texts) == ([], [TEXT] * 3)
        assert sum(hosts.counts) == 3 + sent_per_request(row)
        assert provider.stats().retries == 1
    else:
        assert [isinstance(error, outcome.error) for error in errors] == [True] * bool(outcome.error)
        assert set(texts) <= {TEXT, outcome.partial}
        assert sum(hosts.counts) == 2 + sent_per_request(row)
    assert hosts.counts[1] == sent_per_request(row)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(("row", "mode"), CELLS)
def test_all_hosts_fail(servers: list[OllamaServer], row: Row, mode: str) -> None:
    provider, outcome = make_provider(servers, row), row.outcome(mode)
    hosts = FaultyHosts(servers, row, None)
    ((text, error),) = run(provider, servers, mode)
    if not outcome.error:
        assert (error, text) == (None, outcome.partial)
    else:
        assert isinstance(error, outcome.error)
    if not (fails(row, mode) and goes_elsewhere(row, mode)):
        assert hosts.counts == [sent_per_request(row)]
    elif outcome.attempts[-1] == 1:
        assert hosts.counts == [1, 1, 1]
    else:  # each once, then in two more rounds those that are available again
        assert len(hosts.counts) == 3
        assert all(1 <= count <= 3 * sent_per_request(row) for count in hosts.counts)
    assert provider.stats().retries <= 8
    if isinstance(error, LLMTimeoutError):
        assert error.deadline == outcome.deadline
    if isinstance(error, ModelNotFoundError):
        assert all(server.url in error.message for server in servers)
