"""Several hosts: selection, waiting and failover. The faults themselves are in tests/matrix."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
from farm import ASK, MODEL, asked, farm, load, pool_of, provider_of

from namel3ss_ollama import (
    AuthenticationError,
    BadRequestError,
    LLMConnectionError,
    LLMTimeoutError,
    ModelNotFoundError,
    OllamaProvider,
    QueueFullError,
    RetryPolicy,
    ServerBusyError,
    StreamConfig,
    instant_retries,
)
from namel3ss_ollama.hosts import Host, Hosts
from namel3ss_ollama.testing import Gate, Model, OllamaServer

Make = Callable[..., OllamaProvider]
HANGS = StreamConfig(first_chunk_timeout=0.5)


@pytest.fixture
def servers(request: pytest.FixtureRequest) -> Iterator[list[OllamaServer]]:
    with farm(getattr(request, "param", 3)) as servers:
        load(servers)
        yield servers


@pytest.fixture
async def make(servers: list[OllamaServer], transport: str) -> AsyncIterator[Make]:
    """Makes providers for the servers; afterwards no connection may be open."""
    made: list[OllamaProvider] = []

    def factory(**settings: Any) -> OllamaProvider:
        hosts = settings.pop("hosts", servers)
        made.append(provider_of(hosts, **{"transport": transport, **settings}))
        return made[-1]

    with instant_retries():
        yield factory
    for provider in made:
        assert (provider.stats().running, provider.stats().queued) == (0, 0)
        assert [state.in_flight for state in provider.hosts()] == [0] * len(provider.hosts())
        await provider.aclose()
    for server in servers:
        if server.running:
            await server.wait_for_async(lambda s: s.open_connections == 0)


def up(provider: OllamaProvider) -> list[bool]:
    return [state.up for state in provider.hosts()]


def by_url(servers: list[OllamaServer], url: str) -> OllamaServer:
    return next(server for server in servers if server.url == url)


# Answers


async def test_an_answer_names_its_host(make: Make, servers: list[OllamaServer]) -> None:
    provider = make()
    answer = await provider.achat(ASK)
    (at,) = [server for server in servers if asked([server]) == [1]]
    assert answer.host == at.url
    stream = provider.stream_chat(ASK)
    assert stream.host == ""
    texts = [chunk.content async for chunk in stream]
    assert "".join(texts) == answer.content
    assert stream.host in [server.url for server in servers]
    assert sum(asked(servers)) == 2


@pytest.mark.parametrize("servers", [2, 5], indirect=True)
async def test_concurrent_requests_are_spread_within_each_hosts_slots(make: Make, servers: list[OllamaServer]) -> None:
    gate = Gate()
    for server in servers:
        server.reply("fine", gate=gate, path="/api/chat")
    provider = make(slots=2)
    count = 2 * len(servers)
    tasks = [asyncio.create_task(provider.achat(ASK)) for _ in range(count + 3)]
    for server in servers:
        await server.wait_for_async(lambda s: s.active_requests == 2)
    assert (provider.stats().running, provider.stats().queued) == (count, 3)
    gate.open()
    assert {answer.content for answer in await asyncio.gather(*tasks)} == {"fine"}


async def test_a_conversation_stays_at_its_host(make: Make, servers: list[OllamaServer]) -> None:
    provider = make()
    pool_of(provider).dispatcher._fleet.rng.random = iter([0.9, 0.1, 0.5, 0.7] * 20).__next__  # type: ignore[method-assign] -- a random choice would differ
    hosts = []
    messages = [{"role": "user", "content": "one"}]
    for turn in range(5):
        answer = await provider.achat(messages)
        hosts.append(answer.host)
        messages += [{"role": "assistant", "content": answer.content}, {"role": "user", "content": f"and {turn}"}]
    assert len(set(hosts)) == 1


async def test_a_model_is_used_where_it_is_loaded(make: Make, servers: list[OllamaServer]) -> None:
    load(servers[2:], "qwen3")
    provider = make()
    for _ in range(3):
        assert (await provider.achat(ASK, model="qwen3")).host == servers[2].url
    assert (await provider.achat(ASK, model="qwen3:latest")).host == servers[2].url


async def test_different_windows_are_warned_of_once(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    with (
        farm(1, version="0.30.0", context_length=4096) as small,
        farm(2, version="0.30.0", context_length=32768) as large,
    ):
        hosts = [*small, *large]
        load(hosts)
        provider = make(hosts=hosts, refresh=0.01)
        for _ in range(5):
            await provider.look_at_hosts()
            await provider.achat(ASK)
        (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert warning.startswith(
            "llama3.2:latest does not have the same context window on all hosts (4096 tokens on http://"
        )
        assert warning.endswith("): set num_ctx")
        (known,) = pool_of(provider).differing(MODEL)
        assert str(known).endswith("and 1 more): set num_ctx")
        await provider.aclose()


async def test_a_host_that_loaded_a_model_is_looked_at(make: Make) -> None:
    with farm(2) as cold:
        for server in cold:
            server.reply("fine", load_duration=3 * 10**9, path="/api/chat")
        provider = make(hosts=cold, refresh=60)
        at = by_url(cold, (await provider.achat(ASK)).host)
        await at.wait_for_async(lambda s: asked([s], "/api/ps") == [2])
        standing = next(host for host in pool_of(provider).servers if host.url == at.url)
        while not standing.loaded.get(f"{MODEL}:latest") or not standing.loaded[f"{MODEL}:latest"].digest:
            await asyncio.sleep(0.001)
        assert standing.pace[f"{MODEL}:latest"].load == 3.0
        await provider.aclose()


async def test_hosts_with_paths_and_keys_of_their_own(servers: list[OllamaServer], transport: str) -> None:
    hosts = Hosts(
        [
            Host(servers[0].url, api_key="one"),
            Host(servers[1].url, headers={"x-of": "two"}),
            f"http://me:three@{servers[2].url[7:]}",
        ]
    )
    async with OllamaProvider(MODEL, hosts, api_key="all", headers={"x-for": "all"}, transport=transport) as provider:
        await provider.look_at_hosts()
        sent = [server.requests[-1].headers for server in servers]
        assert [headers.get("authorization", "")[:9] for headers in sent] == ["Bearer on", "Bearer al", "Basic bWU"]
        assert [headers.get("x-of") for headers in sent] == [None, "two", None]
        assert {headers.get("x-for") for headers in sent} == {"all"}


async def test_a_custom_client_is_used_for_all_hosts(servers: list[OllamaServer]) -> None:
    async with httpx.AsyncClient() as client:
        provider = OllamaProvider(MODEL, [server.url for server in servers], http_client=client)
        await asyncio.gather(*(provider.achat(ASK) for _ in range(3)))
        assert asked(servers) == [1, 1, 1]
        await provider.aclose()
        assert not client.is_closed


async def test_embeddings_fail_over_too(make: Make, servers: list[OllamaServer]) -> None:
    for server in servers[:2]:
        server.fault("status", status=503, path="/api/embed")
    provider = make()
    answer = await provider.embed(["a", "b"], model="all-minilm")
    assert len(answer.embeddings) == 2
    assert asked(servers, "/api/embed")[2] == 1
    assert max(asked(servers, "/api/embed")) == 1


async def test_stats_by_host(make: Make, servers: list[OllamaServer]) -> None:
    servers[0].fault("status", status=503, path="/api/chat")
    provider = make()
    await asyncio.gather(*(provider.achat(ASK) for _ in range(6)))
    _ = [chunk async for chunk in provider.stream_chat(ASK)]
    stats = provider.stats()
    one, two, three = (stats.by_host[server.url] for server in servers)
    assert (one.succeeded, one.failed, one.total_tokens) == (0, asked(servers)[0], 0)
    assert two.failed == three.failed == 0
    assert two.succeeded + three.succeeded == stats.generations_succeeded == 7
    assert two.total_tokens + three.total_tokens == stats.total_tokens > 0
    assert sum(numbers.queue_seconds for numbers in stats.by_host.values()) == pytest.approx(stats.queue_seconds)


# Failures before the first chunk


@pytest.mark.parametrize("streaming", [False, True])
async def test_failover_is_immediate_and_tries_each_host_once(
    make: Make, servers: list[OllamaServer], streaming: bool
) -> None:
    refusing = servers[:2]
    for server in refusing:
        server.refuse()
    provider = make(eject=60)
    if streaming:
        answer = "".join([chunk.content async for chunk in provider.stream_chat(ASK)])
    else:
        answer = (await provider.achat(ASK)).content
    assert answer
    assert asked(servers) == [0, 0, 1]
    assert up(provider) == [False, False, True]
    assert all("cannot connect" in state.why_not for state in provider.hosts()[:2])


async def test_a_host_that_dies_between_two_requests_fails_no_call(make: Make, servers: list[OllamaServer]) -> None:
    provider = make(eject=60)
    first = await provider.achat(ASK)
    at = by_url(servers, first.host)
    at.fault("reset_before_headers", path="/api/chat")
    answers = [await provider.achat(ASK) for _ in range(4)]
    assert first.host not in {answer.host for answer in answers}
    assert up(provider).count(False) == 1


@pytest.mark.parametrize("status", [503, 429])
async def test_a_busy_host_pauses_for_its_retry_after(make: Make, servers: list[OllamaServer], status: int) -> None:
    servers[0].fault("status", status=status, retry_after=30, path="/api/chat")
    servers[1].refuse()
    servers[2].refuse()
    provider = make(eject=0.05)
    with pytest.raises(LLMConnectionError):
        await provider.achat(ASK, timeout=5)
    state = provider.hosts()[0]
    assert not state.up
    assert "takes no more requests" in state.why_not
    standing = next(iter(pool_of(provider).servers))
    assert 10 < standing.out_until - time.monotonic() <= 30
    assert standing.failures == 0
    assert asked(servers)[0] == 1


async def test_a_missing_model_is_not_requested_again(make: Make, servers: list[OllamaServer]) -> None:
    provider = make()
    await provider.look_at_hosts()
    for server in servers[:2]:  # deleted since the look-up
        server.models.remove(MODEL)
    for _ in range(5):
        assert (await provider.achat(ASK)).host == servers[2].url
    assert max(asked(servers)[:2]) <= 1
    assert up(provider) == [True] * 3


async def test_a_model_that_all_hosts_lack(make: Make, servers: list[OllamaServer]) -> None:
    provider = make()
    with pytest.raises(ModelNotFoundError, match="ollama pull nope") as caught:
        await provider.achat(ASK, model="nope")
    assert f"(it is on none of {', '.join(server.url for server in servers)})" in caught.value.message
    assert asked(servers) == [1, 1, 1]
    with pytest.raises(ModelNotFoundError, match="it is on none of"):
        await provider.achat(ASK, model="nope")
    assert sum(asked(servers)) == 4  # one request, for its error


async def test_a_model_pulled_since_is_found(make: Make, servers: list[OllamaServer]) -> None:
    provider = make()
    await provider.look_at_hosts()
    servers[1].models.add(Model("new"))
    assert (await provider.achat(ASK, model="new")).host == servers[1].url


async def test_a_host_that_is_down_may_have_a_missing_model(make: Make, servers: list[OllamaServer]) -> None:
    # Once wrong: "model not found" while the host that has it restarted
    provider = make(eject=0.05, eject_max=0.1)
    await provider.look_at_hosts()
    for server in servers[1:]:
        server.models.remove(MODEL)
    servers[0].refuse()
    ask = asyncio.create_task(provider.achat(ASK))
    for server in servers[1:]:
        await server.wait_for_async(lambda s: asked([s]) == [1])
    servers[0].accept()
    assert (await ask).host == servers[0].url


async def test_a_refused_key_is_warned_of_once_and_fails_over(
    make: Make, servers: list[OllamaServer], caplog: pytest.LogCaptureFixture
) -> None:
    servers[0].fault("status", status=401, path="/api/chat")
    provider = make()
    for _ in range(5):
        await asyncio.gather(*(provider.achat(ASK) for _ in range(3)))
    assert asked(servers)[0] == 1
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.getMessage().startswith(f"{servers[0].url} refused access (401")
    assert record.getMessage().endswith("; trying the other hosts")


async def test_a_key_that_all_hosts_refuse_fails_at_once(make: Make, servers: list[OllamaServer]) -> None:
    for server in servers:
        server.fault("status", status=401, path="/api/chat")
    provider = make()
    for calls in (3, 4, 5):
        with pytest.raises(AuthenticationError):
            await asyncio.wait_for(provider.achat(ASK), 5)
        assert sum(asked(servers)) == calls


async def test_a_bad_request_goes_to_one_host(make: Make, servers: list[OllamaServer]) -> None:
    for server in servers:
        server.fault("status", status=400, path="/api/chat")
    provider = make()
    with pytest.raises(BadRequestError):
        await provider.achat(ASK)
    assert sum(asked(servers)) == 1
    assert up(provider) == [True] * 3


async def test_without_retries_there_is_no_failover(make: Make, servers: list[OllamaServer]) -> None:
    for server in servers:
        server.fault("status", status=503, path="/api/chat")
    provider = make(retry=RetryPolicy.off())
    with pytest.raises(ServerBusyError):
        await provider.achat(ASK)
    assert sum(asked(servers)) == 1
    assert provider.stats().retries == 0


async def test_failover_uses_the_retry_budget(make: Make, servers: list[OllamaServer]) -> None:
    for server in servers:
        server.fault("status", status=500, message="llama runner process has terminated", path="/api/chat")
    provider = make(retry=RetryPolicy(budget=0.0, budget_reserve=1))  # plus one per slot, of which there are three
    for _ in range(6):
        with pytest.raises(Exception, match="runner process"):
            await provider.achat(ASK)
    assert provider.stats().retries == 4
    assert sum(asked(servers)) == 6 + 4


# Hosts that hang


async def test_a_hanging_host_is_left_for_another(make: Make, servers: list[OllamaServer]) -> None:
    # Once wrong: the missed deadline counted against the next host as well
    provider = make(stream_config=HANGS)
    first = await provider.achat(ASK)
    at = by_url(servers, first.host)
    at.fault("stall_before_headers", path="/api/chat")  # /api/ps still answers
    answers = [await provider.achat(ASK) for _ in range(4)]
    assert first.host not in {answer.host for answer in answers}
    assert asked([at]) == [2]
    assert up(provider).count(False) == 1
    standing = next(host for host in pool_of(provider).servers if host.url == at.url)
    assert 10 < standing.out_until - time.monotonic() <= 1.2 * 30


async def test_a_stream_that_stalls_before_its_first_chunk_fails_over(make: Make, servers: list[OllamaServer]) -> None:
    provider = make(stream_config=HANGS)
    at = by_url(servers, (await provider.achat(ASK)).host)
    at.fault("stall_before_headers", path="/api/chat")
    stream = provider.stream_chat(ASK, timeout=10)
    assert "".join([chunk.content async for chunk in stream])
    assert stream.host != at.url


async def test_a_stream_that_stalls_later_takes_its_host_out(make: Make, servers: list[OllamaServer]) -> None:
    provider = make(stream_config=StreamConfig(chunk_timeout=0.5))
    at = by_url(servers, (await provider.achat(ASK)).host)
    at.fault("stall_mid_stream", path="/api/chat")
    stream = provider.stream_chat(ASK)
    with pytest.raises(LLMTimeoutError, match="chunk_timeout"):
        _ = [chunk async for chunk in stream]
    assert asked([at]) == [2]
    assert up(provider).count(False) == 1
    assert (await provider.achat(ASK)).host != at.url


@pytest.mark.parametrize("servers", [2], indirect=True)
async def test_the_last_host_is_not_taken_out(make: Make, servers: list[OllamaServer]) -> None:
    provider = make(stream_config=HANGS)
    for server in servers:
        server.fault("stall_before_headers", path="/api/chat")
    with pytest.raises(LLMTimeoutError, match="first_chunk_timeout"):
        await provider.achat(ASK)
    assert asked(servers) == [1, 1]
    assert up(provider).count(True) == 1
    for server in servers:
        server.reset()
    assert (await asyncio.wait_for(provider.achat(ASK), 5)).content  # without half a minute's wait


async def test_a_loading_host_is_awaited_and_the_others_do_not_load(make: Make) -> None:
    with farm(2) as cold:
        for server in cold:
            server.fault("stall_before_headers", path="/api/chat")
        provider = make(hosts=cold, stream_config=HANGS)
        with pytest.raises(LLMTimeoutError, match="first_chunk_timeout"):
            await provider.achat(ASK)
        assert sum(asked(cold)) == 1
        assert up(provider) == [True, True]
        await provider.aclose()


async def test_timeout_covers_all_hosts(make: Make, servers: list[OllamaServer]) -> None:
    provider = make(stream_config=StreamConfig(first_chunk_timeout=0.6))
    for server in servers:
        server.fault("stall_before_headers", path="/api/chat")
    began = time.monotonic()
    with pytest.raises(LLMTimeoutError, match="timeout of 1 s"):
        await provider.achat(ASK, timeout=1)
    assert time.monotonic() - began < 5
    assert sum(asked(servers)) == 2


# All hosts down


async def test_waiting_requests_get_the_first_host_that_is_back(make: Make, servers: list[OllamaServer]) -> None:
    for server in servers:
        server.refuse()
    provider = make(eject=0.2, eject_max=0.3, retry=RetryPolicy(attempts=30, budget=None))
    tasks = [asyncio.create_task(provider.achat(ASK)) for _ in range(5)]
    while up(provider) != [False] * 3:
        await asyncio.sleep(0.01)
    servers[1].accept()
    assert {answer.host for answer in await asyncio.gather(*tasks)} == {servers[1].url}


async def test_a_new_request_waits_while_all_hosts_are_down(make: Make, servers: list[OllamaServer]) -> None:
    for server in servers:
        server.refuse()
    provider = make(eject=0.5, retry=RetryPolicy.off())
    await provider.look_at_hosts()
    assert up(provider) == [False] * 3
    for server in servers:
        server.accept()
    assert (await provider.achat(ASK)).content


@pytest.mark.parametrize(
    ("limits", "error", "match"),
    [
        (
            {"timeout": 0.3},
            LLMTimeoutError,
            r"timeout of 0.3 s passed; .* \(no host is available: http://\S+: cannot connect",
        ),
        ({"queue_timeout": 0.3}, QueueFullError, r"^no host was available within queue_timeout=0.3 s \(http://\S+: "),
    ],
)
async def test_the_wait_for_a_host_times_out_with_the_hosts_error(
    make: Make, servers: list[OllamaServer], limits: dict[str, float], error: type[Exception], match: str
) -> None:
    for server in servers:
        server.refuse()
    provider = make(eject=30, **limits)
    await provider.look_at_hosts()
    with pytest.raises(error, match=match):
        await provider.achat(ASK)


async def test_a_recovering_host_gets_one_request_until_it_succeeds(make: Make, servers: list[OllamaServer]) -> None:
    provider = make(hosts=servers[:1], slots=4, eject=0.2, eject_max=0.2)
    servers[0].refuse()
    await provider.look_at_hosts()
    gate = Gate()
    servers[0].reply("fine", gate=gate, path="/api/chat")
    servers[0].accept()
    tasks = [asyncio.create_task(provider.achat(ASK)) for _ in range(6)]
    await servers[0].wait_for_async(lambda _: gate.waiting == 1)
    assert (provider.stats().running, provider.stats().queued) == (1, 5)
    gate.step()
    await servers[0].wait_for_async(lambda _: gate.waiting == 4)
    gate.open()
    await asyncio.gather(*tasks)
    assert provider.hosts()[0].why_not == ""


async def test_a_nested_request_does_not_wait_for_the_stream_around_it(make: Make, servers: list[OllamaServer]) -> None:
    provider = make(hosts=servers[:2])
    outer = [provider.stream_chat(ASK) for _ in range(2)]
    async with outer[0], outer[1]:
        for stream in outer:
            await stream.__anext__()
        assert (await asyncio.wait_for(provider.achat(ASK), 5)).content


@pytest.mark.parametrize("style", ["async", "sync"])
def test_requests_nested_in_a_stream_that_failed_over(servers: list[OllamaServer], transport: str, style: str) -> None:
    for server in servers[:2]:
        server.fault("reset_before_headers", path="/api/chat")
    provider = provider_of(servers, eject=60, transport=transport)

    async def ask() -> list[str]:
        return [(await provider.achat(ASK)).host async for _ in provider.stream_chat(ASK)]

    if style == "async":
        hosts = asyncio.run(asyncio.wait_for(ask(), 10))
    else:
        hosts = [provider.chat(ASK, timeout=10).host for _ in provider.stream(ASK)]
    assert set(hosts) == {servers[2].url}
    assert (provider.stats().running, provider.stats().queued) == (0, 0)
    provider.close()


# Failures after the first chunk


async def test_a_stream_that_breaks_is_not_retried(make: Make, servers: list[OllamaServer]) -> None:
    for server in servers:
        server.fault("cut", path="/api/chat")
    provider = make()
    received = ""
    with pytest.raises(Exception, match="broke in the middle") as caught:
        async for chunk in provider.stream_chat(ASK):
            received += chunk.content
    assert received
    assert caught.value.partial.content == received  # type: ignore[attr-defined] -- of an LLMError
    assert caught.value.partial.host in [server.url for server in servers]  # type: ignore[attr-defined] -- as above
    assert sum(asked(servers)) == 1
