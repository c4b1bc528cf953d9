"""Hosts that die, hang and come back, under load: no call fails that another host can answer."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from farm import ASK, asked, farm, load, pool_of, provider_of
from server_process import TEXT, ServerProcess

from namel3ss_ollama import LLMError, OllamaProvider, RetryPolicy, StreamConfig, instant_retries
from namel3ss_ollama.testing import OllamaServer

pytestmark = pytest.mark.slow

SLOTS = 8


@pytest.fixture
def processes() -> Iterator[list[ServerProcess]]:
    with ExitStack() as stack:
        yield [stack.enter_context(ServerProcess(tokens_per_second=20)) for _ in range(3)]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL on Windows")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("transport", ["aiohttp", "httpx"])
@pytest.mark.parametrize("begun", [False, True])
async def test_one_of_three_is_killed_under_fifty_streams(
    processes: list[ServerProcess], transport: str, begun: bool
) -> None:
    """Twenty-four of fifty calls run, the others wait; the kill comes before or after the first chunks."""
    victim = processes[0]
    provider = provider_of([process.url for process in processes], slots=SLOTS, eject=60, transport=transport)
    received: dict[int, str] = {}
    first = asyncio.Event()

    async def stream(number: int) -> str:
        received[number] = ""
        async for chunk in provider.stream_chat(ASK):
            received[number] += chunk.content
            first.set()
        return received[number]

    async def complete() -> str:
        return (await provider.achat(ASK)).content

    streams = [asyncio.create_task(stream(number)) for number in range(50)]
    calls = [asyncio.create_task(complete()) for _ in range(10)]
    await asyncio.to_thread(until_busy, victim)
    if begun:
        await first.wait()
    await asyncio.to_thread(victim.kill)
    results = await asyncio.gather(*streams, return_exceptions=True)
    assert await asyncio.gather(*calls) == [TEXT] * 10

    broken = [number for number, result in enumerate(results) if isinstance(result, BaseException)]
    for number, result in enumerate(results):
        if number not in broken:
            assert result == TEXT
            continue
        # Only streams that had yielded a chunk fail, once, with the text so far.
        assert isinstance(result, LLMError)
        assert result.partial is not None
        assert received[number] == result.partial.content != ""
        assert TEXT.startswith(received[number])
        assert result.partial.host == victim.url
    assert len(broken) <= SLOTS
    assert len(broken) + provider.stats().retries >= 1  # the kill had an effect
    assert provider.stats().streams_failed == len(broken)
    assert [state.up for state in provider.hosts()] == [False, True, True]
    assert (provider.stats().running, provider.stats().queued) == (0, 0)
    await provider.aclose()


def until_busy(process: ServerProcess) -> None:
    while process.state()["active"] < SLOTS:
        pass


@pytest.mark.timeout(60)
@pytest.mark.parametrize("transport", ["aiohttp", "httpx"])
async def test_a_host_that_hung_recovers_with_one_good_answer(monkeypatch: pytest.MonkeyPatch, transport: str) -> None:
    monkeypatch.setattr("namel3ss_ollama.pool._WEDGED_HOLDS", 0.5)
    with farm(2) as servers, instant_retries():
        load(servers)
        config = StreamConfig(first_chunk_timeout=0.5)
        provider = provider_of(servers, slots=2, stream_config=config, transport=transport)
        url = await host_of(provider)
        at = next(server for server in servers if server.url == url)
        at.fault("stall_before_headers", path="/api/chat")
        answers = await asyncio.gather(*(provider.achat(ASK) for _ in range(8)))
        assert all(answer.host != at.url for answer in answers)
        assert asked([at])[0] <= 3  # the first, and no more than its slots
        standing = next(host for host in pool_of(provider).servers if host.url == at.url)
        assert (standing.is_out, standing.failures) == (True, 1)
        at.reset()
        while standing.failures:
            await asyncio.gather(*(provider.achat(ASK) for _ in range(3)))  # one more than the other host's slots
        assert asked([at])[0] >= 1
        assert provider.hosts()[servers.index(at)].why_not == ""
        await provider.aclose()


async def host_of(provider: OllamaProvider) -> str:
    return (await provider.achat(ASK)).host


@pytest.mark.timeout(60)
@pytest.mark.parametrize("transport", ["aiohttp", "httpx"])
async def test_all_hosts_down_and_back(transport: str) -> None:
    """However many calls wait, each host gets one request per interval, and the intervals grow."""

    def down(server: OllamaServer) -> None:
        server.fault("reset_before_headers", path="/api/chat")

    with farm(3) as servers, instant_retries():
        load(servers)
        policy = RetryPolicy(attempts=100, budget=None)
        provider = provider_of(servers, slots=4, eject=0.05, eject_max=0.4, retry=policy, transport=transport)
        for server in servers:
            down(server)
        tasks = [asyncio.create_task(provider.achat(ASK)) for _ in range(150)]
        hosts = list(pool_of(provider).servers)
        while any(host.failures < 4 for host in hosts):
            await asyncio.sleep(0.01)
        for host, count in zip(hosts, asked(servers), strict=True):
            # All slots at first, then one trial request each time; each may be resent on a new connection.
            assert count <= 2 * (4 + host.failures + 1)
        assert not any(task.done() for task in tasks)
        for server in servers:
            server.reset()
        answers = await asyncio.gather(*tasks)
        assert {answer.host for answer in answers} == {server.url for server in servers}
        assert [state.up for state in provider.hosts()] == [True] * 3
        assert sum(asked(servers)) >= 150 - 12
        await provider.aclose()
