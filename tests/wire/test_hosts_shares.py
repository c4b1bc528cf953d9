"""Hosts of speeds 1:2:5: each gets its share, its slots are busy, and it never has more requests than slots.

Time is simulated: in each tick the hosts that are due answer one request, and the next tick comes when the
released slot is in use again. So nothing here depends on the speed of the machine.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest
from farm import ASK, asked, farm, load, provider_of

from namel3ss_ollama.testing import Gate, OllamaServer, Record, Reply

PERIODS = (10, 5, 2)
"""Ticks that a host takes for an answer with each of its slots: speeds of 1:2:5."""
SPEEDS = (1, 2, 5)


class PacedHost:
    """A test server that answers when it is due."""

    def __init__(self, server: OllamaServer, period: int, slots: int) -> None:
        self.server = server
        self.period = period
        self.slots = slots
        self.gate = Gate()
        self.most = 0
        server.reply(self._reply, path="/api/chat")

    def _reply(self, _: Record) -> Reply:
        self.most = max(self.most, self.server.active_requests)
        return Reply("fine", gate=self.gate)

    @property
    def waiting(self) -> int:
        """Requests that it has started."""
        return self.gate.waiting

    async def answer(self, count: int) -> None:
        """Answer so many, and wait until the caller has them."""
        ended = sum(record.outcome == "complete" for record in self.server.requests)
        self.gate.step(count)
        await self.server.wait_for_async(
            lambda s: sum(record.outcome == "complete" for record in s.requests) == ended + count
        )


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize("slots", [1, 2])
async def test_each_host_gets_its_share(slots: int) -> None:
    calls = 160
    with farm(3) as servers, ExitStack() as stack:
        load(servers)
        provider = provider_of(servers, slots=slots)
        await provider.look_at_hosts()
        hosts = [PacedHost(server, period, slots) for server, period in zip(servers, PERIODS, strict=True)]
        for host in hosts:
            stack.callback(host.gate.open)
        tasks = [asyncio.create_task(provider.achat(ASK)) for _ in range(calls)]

        async def until_busy() -> None:
            """Wait until every slot is in use or nothing is queued; fails if that does not happen."""
            for _ in range(5000):
                if all(host.waiting == slots for host in hosts) or not provider.stats().queued:
                    return
                await asyncio.sleep(0.001)
            raise AssertionError([host.waiting for host in hosts])

        tick = idle = 0
        while provider.stats().queued < calls - 3 * slots:
            await asyncio.sleep(0.001)
        while provider.stats().queued:
            await until_busy()
            tick += 1
            idle += sum(slots - host.waiting for host in hosts)
            for host in hosts:
                if tick % host.period == 0:
                    await host.answer(slots)
        counts = asked(servers)  # includes the requests in flight, one per slot
        for count, speed in zip(counts, SPEEDS, strict=True):
            assert (count - slots) / (calls - 3 * slots) == pytest.approx(speed / sum(SPEEDS), rel=0.1)
        assert idle <= 0.05 * tick * 3 * slots
        assert [host.most for host in hosts] == [slots] * 3
        for host in hosts:
            host.gate.open()
        assert {answer.content for answer in await asyncio.gather(*tasks)} == {"fine"}
        assert provider.stats().retries == 0
        await provider.aclose()
