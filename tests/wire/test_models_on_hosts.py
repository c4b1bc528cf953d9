"""Models on several hosts: listing, loading, preflight, and the calls that need a single host."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator

import pytest

from namel3ss_ollama import (
    LLMConnectionError,
    ModelNotFoundError,
    OllamaProvider,
    RetryPolicy,
    ServerError,
    instant_retries,
)
from namel3ss_ollama.testing import Gate, Model, OllamaServer, Reply

MODEL = "llama3.2"
ASK = [{"role": "user", "content": "count"}]


@pytest.fixture
def servers() -> Iterator[tuple[OllamaServer, OllamaServer]]:
    with OllamaServer() as one, OllamaServer() as two:
        yield one, two


@pytest.fixture
def one(servers: tuple[OllamaServer, OllamaServer]) -> OllamaServer:
    return servers[0]


@pytest.fixture
def two(servers: tuple[OllamaServer, OllamaServer]) -> OllamaServer:
    return servers[1]


@pytest.fixture
async def provider(one: OllamaServer, two: OllamaServer) -> AsyncIterator[OllamaProvider]:
    with instant_retries():
        async with OllamaProvider(MODEL, [one.url, two.url]) as provider:
            yield provider


def paths(server: OllamaServer, *of: str) -> list[str]:
    return [record.path for record in server.requests if record.path in of]


def loaded(server: OllamaServer, **facts: object) -> None:
    """Make a server report that it has the model in memory."""
    model = {"name": f"{MODEL}:latest", "size": 10, "size_vram": 10, "digest": "abc", **facts}
    server.reply(json={"models": [model]}, path="/api/ps")


# Listing


async def test_the_models_of_all_hosts_are_listed_with_their_host(provider, one, two) -> None:
    two.models.add(Model("other"))
    listed = [(model["name"], model["host"]) for model in await provider.list_models()]
    assert (f"{MODEL}:latest", one.url) in listed
    assert (f"{MODEL}:latest", two.url) in listed
    assert [host for name, host in listed if name == "other:latest"] == [two.url]


async def test_the_loaded_models_of_all_hosts_are_listed_with_their_host(provider, one, two) -> None:
    assert await provider.running_models() == []
    loaded(two)
    assert [(model["name"], model["host"]) for model in await provider.running_models()] == [
        (f"{MODEL}:latest", two.url)
    ]


async def test_one_host_has_no_host_key(one) -> None:
    async with OllamaProvider(MODEL, one.url) as provider:
        assert all("host" not in model for model in await provider.list_models())


@pytest.mark.parametrize("broken", ["refuses", "fails"])
async def test_a_host_that_fails_is_left_out_with_a_warning(provider, one, two, caplog, broken) -> None:
    one.refuse() if broken == "refuses" else one.fault("status", status=500, message="no disk", path="/api/tags")
    with caplog.at_level(logging.WARNING, "namel3ss_ollama"):
        assert {model["host"] for model in await provider.list_models()} == {two.url}
        await provider.list_models()
    assert [record.message for record in caplog.records if f"{one.url} is skipped" in record.message]
    assert next(state for state in provider.hosts() if state.url == one.url).up == (broken == "fails")


async def test_the_list_fails_if_all_hosts_fail(provider, one, two) -> None:
    one.refuse()
    two.refuse()
    with pytest.raises(LLMConnectionError):
        await provider.list_models()


async def test_the_first_host_that_is_up_is_asked(provider, one, two) -> None:
    assert await provider.version() == "0.9.3"
    assert await provider.exists()
    assert (await provider.show_model())["model_info"]["general.architecture"] == "llama"
    assert await provider.context_window(num_ctx=1024) == 1024
    assert not paths(two, "/api/show")
    assert len(paths(one, "/api/show")) == 3
    one.refuse()
    one.drop_connections()
    assert await provider.version() == "0.9.3"
    assert await provider.exists()
    assert await provider.context_window(num_ctx=1024) == 1024
    assert len(paths(two, "/api/show")) == 2


async def test_a_host_that_lacks_the_model_is_skipped(provider, one, two) -> None:
    one.models.remove(MODEL)
    assert await provider.exists()
    assert "completion" in (await provider.show_model())["capabilities"]
    two.models.remove(MODEL)
    assert not await provider.exists()
    with pytest.raises(ModelNotFoundError, match=f"none of {one.url}, {two.url}"):
        await provider.show_model()


async def test_available_means_any_host(provider, one, two) -> None:
    assert await provider.is_available()
    one.refuse()
    assert await provider.is_available()
    two.refuse()
    assert not await provider.is_available()


# Calls that change a server


async def test_calls_that_change_a_server_need_one(provider, one, two) -> None:
    def is_refused(name: str):
        return pytest.raises(ValueError, match=rf"{name}: .*OllamaProvider\('llama3.2', '{one.url}'\)")

    with is_refused("pull_model"):
        provider.pull_model()
    with is_refused("push_model"):
        provider.push_model()
    with is_refused("create_model"):
        await anext(provider.create_model("mario", from_model=MODEL))
    with is_refused("copy_model"):
        await provider.copy_model(MODEL, "copy")
    with is_refused("delete_model"):
        await provider.delete_model(MODEL)
    assert not one.requests
    assert not two.requests


# Memory


async def test_a_model_is_loaded_on_as_many_hosts_as_asked(provider, one, two) -> None:
    response = await provider.preload(hosts=2)
    assert response.finish_reason == "load"
    assert len(paths(one, "/api/generate")) == len(paths(two, "/api/generate")) == 1
    assert {model["host"] for model in await provider.running_models()} == {one.url, two.url}


async def test_a_model_is_loaded_on_one_host_by_default(provider, one, two) -> None:
    await provider.preload()
    assert len(paths(one, "/api/generate")) + len(paths(two, "/api/generate")) == 1


async def test_a_host_that_cannot_load_it_is_replaced_by_the_next(one, two) -> None:
    with OllamaServer() as three, instant_retries():
        async with OllamaProvider(MODEL, [one.url, two.url, three.url], retry=RetryPolicy.off()) as provider:
            one.fault("status", status=500, message="no memory", path="/api/generate")
            await provider.preload(hosts=2)
            assert len(paths(two, "/api/generate")) == len(paths(three, "/api/generate")) == 1
            assert len(paths(one, "/api/generate")) == 1
            two.fault("status", status=500, message="no memory", path="/api/generate")
            with pytest.raises(ServerError, match="no memory"):
                await provider.preload(hosts=3)


async def test_too_few_hosts_have_the_model(provider, one, two) -> None:
    two.models.remove(MODEL)
    with pytest.raises(ModelNotFoundError, match=f"on 2 hosts: those available with it are {one.url};"):
        await provider.preload(hosts=2)
    assert not paths(one, "/api/generate")


@pytest.mark.parametrize("hosts", [0, 3, 1.5])
async def test_a_wrong_number_of_hosts(provider, one, two, hosts) -> None:
    with pytest.raises((ValueError, TypeError), match=r"^hosts: "):
        await provider.preload(hosts=hosts)
    assert not one.requests
    assert not two.requests


async def test_one_server_is_one_host(one) -> None:
    async with OllamaProvider(MODEL, one.url) as provider:
        await provider.preload(hosts=1)
        with pytest.raises(ValueError, match=r"^hosts: expected at most 1"):
            await provider.preload(hosts=2)


async def test_a_model_is_unloaded_wherever_it_is_loaded(provider, one, two) -> None:
    await provider.preload(hosts=2)
    response = await provider.unload()
    assert response.finish_reason == "unload"
    assert await provider.running_models() == []
    for server in (one, two):
        sent = [record.payload for record in server.requests if record.path == "/api/generate"]
        assert [payload.get("keep_alive") for payload in sent] == [None, 0]
    assert all(not state.loaded for state in provider.hosts())


async def test_a_model_that_is_loaded_nowhere_is_unloaded_by_one_request(provider, one, two) -> None:
    loaded(two)
    await provider.unload()
    assert not paths(one, "/api/generate")
    assert len(paths(two, "/api/generate")) == 1
    two.reply(json={"models": []}, path="/api/ps")
    await provider.unload()
    assert len(paths(one, "/api/generate")) + len(paths(two, "/api/generate")) == 2


async def test_a_load_that_waits_for_its_host_blocks_no_other_request(provider, one, two) -> None:
    loaded(one)
    gate = Gate()
    one.on(path="/api/chat").reply(lambda _: Reply("slow", gate=gate))
    slow = asyncio.ensure_future(provider.achat(ASK))
    await one.wait_for_async(lambda _: gate.waiting == 1)
    loading = asyncio.ensure_future(provider.preload(hosts=2))
    await two.wait_for_async(lambda two: bool(paths(two, "/api/generate")) and provider.stats().queued == 1)
    # The load waits for the first host's only slot; other requests go to the second host.
    assert (await provider.achat(ASK)).host == two.url
    assert not slow.done()
    gate.open()
    assert (await slow).host == one.url
    await loading
    assert len(paths(one, "/api/generate")) == 1


# Preflight


async def test_preflight_names_the_host_of_each_problem(provider, one, two) -> None:
    assert await provider.preflight()
    two.models.remove(MODEL)
    found = await provider.preflight()
    assert [problem.what for problem in found.problems] == [f"{two.url}: the server does not have {MODEL}"]
    assert found.problems[0].remedy == f"`OLLAMA_HOST={two.url} ollama pull {MODEL}`"
    assert found.version == "0.9.3"
    assert "completion" in found.capabilities
    one.refuse()
    found = await provider.preflight()
    assert [problem.what for problem in found.problems] == [
        f"no server answers at {one.url}",
        f"{two.url}: the server does not have {MODEL}",
    ]
    assert (found.version, found.capabilities) == ("0.9.3", frozenset())


async def test_preflight_reports_missing_capabilities(provider, one, two) -> None:
    two.models.add(Model(MODEL, ("completion",)))
    found = await provider.preflight(capabilities=["tools"])
    assert [problem.what for problem in found.problems] == [f"{two.url}: {MODEL} cannot do 'tools'"]
    assert found.capabilities == {"completion"}


async def test_preflight_reports_differences(provider, one, two) -> None:
    two.reply(json={"models": [{"name": f"{MODEL}:latest", "size": 1, "digest": "f" * 64}]}, path="/api/tags")
    loaded(one, context_length=4096)
    loaded(two, context_length=8192)
    digest, window = (await provider.preflight()).problems
    assert digest.what.startswith(f"{MODEL}:latest is not the same model on all hosts (")
    assert f"{'f' * 12} on {two.url}" in digest.what
    assert digest.remedy == "pull it again where stale"
    assert f"(4096 tokens on {one.url}, 8192 tokens on {two.url})" in window.what
    assert window.remedy == "set num_ctx"
