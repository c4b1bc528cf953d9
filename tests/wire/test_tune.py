"""`provider.tune` against the test server: its requests, its results, and its clean-up."""

from __future__ import annotations

import pytest

from namel3ss_ollama import OllamaProvider, Tuning
from namel3ss_ollama.testing import OllamaServer

pytestmark = pytest.mark.slow


async def test_a_server_of_known_capacity() -> None:
    with OllamaServer(num_parallel=1, tokens_per_second=20, version="0.12.0", context_length=4096) as server:
        server.reply("one two three four five six seven eight")
        async with OllamaProvider("llama3.2", server.url, max_concurrent=1, temperature=0) as provider:
            found = await provider.tune(budget=20, most=2, windows=[8192])
    assert isinstance(found, Tuning)
    assert found.seconds < 20
    assert [row.at_once for row in found.at_once] == [1, 2]
    one, two = found.at_once
    assert found["max_concurrent"].value == found.slots == 1
    assert (one.queue_wait or 0.0) < 0.01 < (two.queue_wait or 0.0)
    assert max(one.tokens_per_second, two.tokens_per_second) < 20
    assert [row.num_ctx for row in found.windows] == [4096, 8192]
    asked = [record for record in server.requests if record.payload.get("prompt")]
    assert {record.payload["options"]["temperature"] for record in asked} == {0}
    assert {record.payload["options"].get("num_ctx") for record in asked} == {None, 8192}
    assert server.active_requests == 0
    loads = [r for r in server.requests if r.path == "/api/generate" and not r.payload.get("prompt")]
    assert [record.payload.get("options", {}).get("num_ctx") for record in loads] == [None, 8192, None]
    assert provider.stats().completion_tokens == 0  # its answers are not counted


def test_the_blocking_twin(ollama_server: OllamaServer) -> None:
    with OllamaProvider("llama3.2", ollama_server.url) as provider:
        found = provider.sync.tune("smollm2:135m", budget=3, most=1, windows=())
    assert found.model == "smollm2:135m"
    assert found.host == ollama_server.url
    assert found["max_concurrent"].value == 1


@pytest.mark.parametrize(
    ("keywords", "error", "words"),
    [
        ({"budget": 0}, ValueError, "budget"),
        ({"budget": None}, TypeError, "budget"),
        ({"most": 2.5}, TypeError, "most"),
        ({"windows": [0]}, ValueError, "windows"),
        ({"windows": 4096}, TypeError, "windows"),
        ({"model": ""}, ValueError, "model"),
    ],
)
async def test_invalid_arguments_fail_before_a_request(ollama_server, keywords, error, words) -> None:
    async with OllamaProvider("llama3.2", ollama_server.url) as provider:
        with pytest.raises(error, match=words):
            await provider.tune(**keywords)
    assert not ollama_server.requests


async def test_several_hosts_are_refused(ollama_server: OllamaServer) -> None:
    async with OllamaProvider("llama3.2", [ollama_server.url, "http://127.0.0.1:9"]) as provider:
        with pytest.raises(ValueError, match=r"tune: measures one server, .* make one with the address"):
            await provider.tune()
    assert not ollama_server.requests
