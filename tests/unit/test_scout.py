"""Which status requests hosts get, and how often: none while there is nothing to do."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from namel3ss_ollama.dispatcher import Dispatcher
from namel3ss_ollama.errors import LLMConnectionError, LLMError, LLMTimeoutError, ServerError
from namel3ss_ollama.fleet import Fleet, Loaded, Standing
from namel3ss_ollama.scout import Scout
from namel3ss_ollama.server import Server

Virtual = Callable[[Any], Any]
PS = {"models": [{"name": "m", "digest": "d1", "size": 10, "size_vram": 5, "context_length": 4096, "expires_at": "t"}]}
TAGS = {"models": [{"name": "m:latest", "model": "m:latest", "size": 10, "digest": "d1"}]}


class FakeServer:
    """A server with two endpoints, which respond after a delay or with an error."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = self.version = self
        self.asked: Counter[str] = Counter()
        self.now = self.most = 0
        self.seconds = 0.0
        self.failure: Exception | None = None
        self.running: Any = PS
        self.text = ""

    async def ask_quickly(self, ask: Callable[[Any], Awaitable[Any]], within: Any) -> Any:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(self.seconds)
            if self.failure is not None:
                raise self.failure
            return await ask(None)
        finally:
            self.now -= 1

    async def ps(self, _: Any) -> Any:
        self.asked["ps"] += 1
        return self.running

    async def tags(self, _: Any) -> Any:
        self.asked["tags"] += 1
        return TAGS

    async def ask(self) -> None:
        self.text = "0.30.0"


class Case:
    """Hosts with a scout on the running loop's clock."""

    def __init__(self, count: int = 2, refresh: float = 5.0) -> None:
        clock = asyncio.get_running_loop().time
        self.hosts = [Standing(f"http://{number}") for number in range(count)]
        self.fleet = Fleet(self.hosts)
        self.dispatcher = Dispatcher(self.fleet, clock=clock)
        self.servers = [FakeServer(host.url) for host in self.hosts]
        self.news = 0
        servers = {host: cast("Server", server) for host, server in zip(self.hosts, self.servers, strict=True)}
        self.scout = Scout(servers, self.dispatcher, refresh, self.on_news)

    def on_news(self) -> None:
        self.news += 1

    @property
    def asked(self) -> list[dict[str, int]]:
        return [dict(server.asked) for server in self.servers]


def test_no_requests_while_there_is_nothing_to_do(virtual: Virtual) -> None:
    async def scenario() -> None:
        case = Case()
        await asyncio.sleep(1000)
        assert case.asked == [{}, {}]
        await case.scout.know()
        assert case.asked == [{"ps": 1, "tags": 1}] * 2
        await asyncio.sleep(1000)
        assert case.asked == [{"ps": 1, "tags": 1}] * 2
        assert len(asyncio.all_tasks()) == 1

    virtual(scenario())


def test_the_state_of_hosts_is_known_before_the_first_request(virtual: Virtual) -> None:
    async def scenario() -> None:
        case = Case()
        case.servers[0].running = {"models": []}
        await case.scout.know()
        one, other = case.hosts
        assert one.loaded == {}
        assert other.loaded == {"m:latest": Loaded("d1", 10, 5, 4096, "t")}
        assert other.pulled == {"m:latest": (10, "d1")}
        assert other.version == "0.30.0"

    virtual(scenario())


@pytest.mark.parametrize("refresh", [1.0, 5.0, 20.0])
def test_a_host_is_asked_no_more_often_than_allowed(virtual: Virtual, refresh: float) -> None:
    async def scenario() -> None:
        case = Case(refresh=refresh)
        for _ in range(3000):  # ten requests a second, for five minutes
            await case.scout.know()
            await asyncio.sleep(0.1)
        for server in case.servers:
            assert 300 / (refresh * 1.1) - 2 <= server.asked["ps"] <= 300 / refresh + 1
            assert 300 / 60 - 1 <= server.asked["tags"] <= 300 / 60 + 1
            assert server.most == 1

    virtual(scenario())


def test_a_slow_host_gets_one_request_at_a_time_and_a_short_wait(virtual: Virtual) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        case = Case()
        case.servers[0].seconds = 1.5
        start = loop.time()
        await asyncio.gather(*(case.scout.know() for _ in range(20)))
        assert loop.time() - start == pytest.approx(0.5)
        assert [server.most for server in case.servers] == [1, 1]
        assert case.hosts[1].loaded
        assert not case.hosts[0].loaded
        await asyncio.sleep(5)
        assert case.hosts[0].loaded

    virtual(scenario())


def test_recent_state_is_used_without_waiting(virtual: Virtual) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        case = Case()
        await case.scout.know()
        for server in case.servers:
            server.seconds = 0.3
        for waited, pause in ((0.0, 6.0), (0.3, 20.0)):
            await asyncio.sleep(pause)
            start = loop.time()
            await case.scout.know()
            assert loop.time() - start == pytest.approx(waited)
            await asyncio.sleep(1)

    virtual(scenario())


def test_a_clock_near_zero_is_not_recent_state(virtual: Virtual) -> None:
    # Once wrong: within seconds of the machine's start, nothing was waited for
    async def scenario() -> None:
        case = Case()
        case.dispatcher.clock = lambda: 1.0
        case.servers[0].seconds = 0.1
        await case.scout.know()
        assert case.hosts[0].loaded

    virtual(scenario())


@pytest.mark.parametrize("error", [LLMConnectionError("connection refused"), LLMTimeoutError("x", deadline="connect")])
def test_an_unreachable_host_is_ejected(virtual: Virtual, error: LLMError) -> None:
    async def scenario() -> None:
        case = Case()
        case.servers[0].failure = error
        await case.scout.know()
        await asyncio.sleep(0)
        assert [host.is_out for host in case.hosts] == [True, False]
        assert case.hosts[0].why_out == str(error)
        # It gets no requests until its ejection ends, and each ejection is longer.
        lengths = []
        for _ in range(5):
            lengths.append(case.hosts[0].out_until - case.dispatcher.clock())
            asked = case.servers[0].most
            case.dispatcher.look(lambda *_: None)
            await case.scout.know()
            assert case.servers[0].most == asked
            await asyncio.sleep(lengths[-1] + 6)
            case.dispatcher.look(lambda *_: None)
            await case.scout.know()
            await asyncio.sleep(0.1)
        assert lengths == sorted(lengths)
        assert lengths[-1] > 8

    virtual(scenario())


@pytest.mark.parametrize(
    "error", [ServerError("x", status_code=500), LLMTimeoutError("x", deadline="first_chunk_timeout"), ValueError("x")]
)
def test_a_host_without_known_state_still_gets_requests(
    virtual: Virtual, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def scenario() -> None:
        case = Case()
        case.servers[0].failure = error
        await case.scout.know()
        assert not case.hosts[0].is_out
        assert case.scout.is_silent(case.hosts[0]) is isinstance(error, LLMTimeoutError)
        case.servers[0].failure = None
        await asyncio.sleep(6)
        await case.scout.know()
        await asyncio.sleep(0.1)
        assert case.hosts[0].loaded
        assert not case.scout.is_silent(case.hosts[0])

    virtual(scenario())
    assert {record.levelno for record in caplog.records} <= {logging.DEBUG}


def test_a_host_is_asked_again_after_it_has_loaded(virtual: Virtual) -> None:
    async def scenario() -> None:
        case = Case()
        await case.scout.know()
        case.scout.again(case.hosts[0])
        await asyncio.sleep(0.1)
        assert case.asked == [{"ps": 2, "tags": 1}, {"ps": 1, "tags": 1}]

    virtual(scenario())


def test_all_hosts_are_asked_on_demand_even_ejected_ones(virtual: Virtual) -> None:
    async def scenario() -> None:
        case = Case(3)
        case.dispatcher.change(lambda fleet, now: fleet.eject(case.hosts[0], now, "it failed", seconds=60))
        await case.scout.look()
        await case.scout.look()
        assert case.asked == [{"ps": 2, "tags": 2}] * 3
        # A hung server answers this as well, so it is no reason to send it requests.
        assert case.hosts[0].is_out
        assert case.hosts[0].why_out == "it failed"

    virtual(scenario())


def test_only_changes_are_reported(virtual: Virtual) -> None:
    async def scenario() -> None:
        case = Case()
        await case.scout.look()
        assert case.news == 2
        for _ in range(5):
            await case.scout.look()
        assert case.news == 2
        case.servers[1].running = {"models": [{**PS["models"][0], "context_length": 8192}]}
        await case.scout.look()
        assert case.news == 3

    virtual(scenario())


def test_a_look_clears_the_models_that_a_host_lacked(virtual: Virtual) -> None:
    async def scenario() -> None:
        case = Case()
        now = case.dispatcher.clock()
        case.dispatcher.change(lambda fleet, _: fleet.without(case.hosts[0], "m:latest", now + 1000, missing=True))
        assert not case.hosts[0].has("m:latest", now)
        await case.scout.look()
        assert case.hosts[0].has("m:latest", now)
        assert case.hosts[0].may_have("m:latest", now)

    virtual(scenario())


@pytest.mark.parametrize("answer", [{}, {"models": None}, {"models": [5, {}, {"name": 3}]}, {"models": "x"}])
def test_malformed_answers(virtual: Virtual, answer: Any) -> None:
    async def scenario() -> None:
        case = Case()
        case.servers[0].running = answer
        await case.scout.know()
        assert case.hosts[0].loaded == {}
        assert case.hosts[0].asked_at is not None

    virtual(scenario())


def test_a_look_up_left_by_a_stopped_loop_does_not_block() -> None:
    # Once wrong: the host was never asked again by any other loop
    loops = [asyncio.new_event_loop() for _ in range(2)]
    host = Standing("http://0")
    dispatcher, server = Dispatcher(Fleet([host])), FakeServer("http://0")
    scout = Scout({host: cast("Server", server)}, dispatcher, 5.0, lambda: None)
    server.seconds = 60
    loops[0].run_until_complete(scout.know())
    server.seconds = 0
    loops[1].run_until_complete(scout.know())
    assert host.loaded
    for loop in loops:
        loop.close()


def test_a_forked_child_asks_by_itself() -> None:
    host = Standing("http://0")
    scout = Scout({host: cast("Server", FakeServer("http://0"))}, Dispatcher(Fleet([host])), 5.0, lambda: None)

    async def scenario() -> None:
        scout._begin(host)
        scout.after_fork()
        assert scout._asking == {}
        await scout.know()
        assert host.loaded

    asyncio.run(scenario())
