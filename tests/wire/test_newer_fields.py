"""Request and response fields of newer servers, over the wire."""

from __future__ import annotations

from typing import Any

import pytest

from namel3ss_ollama.testing import OllamaServer

LEVELS = {"thinking": {"values": [False, "low", "xhigh"], "default": "low"}}


# The levels of thinking


async def test_any_level_is_sent_while_the_levels_are_unknown(provider: Any, ollama_server: OllamaServer) -> None:
    await provider.agenerate("Hi", model="qwen3", think="xhigh")
    assert [record.path for record in ollama_server.requests] == ["/api/generate"]
    assert ollama_server.requests[0].payload["think"] == "xhigh"


async def test_a_level_that_a_known_model_lacks_is_refused(provider: Any, ollama_server: OllamaServer) -> None:
    ollama_server.on(path="/api/show").reply(json=LEVELS)
    await provider.show_model("qwen3")
    sent = len(ollama_server.requests)
    with pytest.raises(ValueError, match=r"^think: qwen3:latest has no level 'high'; .* False, 'low', 'xhigh'$"):
        await provider.agenerate("Hi", model="qwen3:latest", think="high")
    with pytest.raises(ValueError, match=r"^think: qwen3 has no level 'high'"):
        provider.stream_chat([{"role": "user", "content": "Hi"}], model="qwen3", think="high")
    assert len(ollama_server.requests) == sent
    for think in ("xhigh", True, False):
        await provider.agenerate("Hi", model="qwen3", think=think)
        assert ollama_server.requests[-1].payload["think"] == think


@pytest.mark.parametrize("thinking", [None, {"values": None}, {"values": []}, "on"])
async def test_a_model_whose_levels_are_no_longer_listed_takes_any(
    provider: Any, ollama_server: OllamaServer, thinking: object
) -> None:
    ollama_server.on(path="/api/show").reply(json=LEVELS, times=1).reply(json={"thinking": thinking})
    await provider.show_model("qwen3")
    await provider.show_model("qwen3")
    await provider.agenerate("Hi", model="qwen3", think="high")
    assert ollama_server.requests[-1].payload["think"] == "high"


# Options that a server ignores


async def test_an_option_that_the_server_lacks_is_warned_of_without_a_request(
    provider: Any, ollama_server: OllamaServer, caplog: pytest.LogCaptureFixture
) -> None:
    await provider.agenerate("Hi", mirostat=1)
    assert [record.path for record in ollama_server.requests] == ["/api/generate"]
    assert not caplog.records
    await provider.version()
    for _ in range(2):
        await provider.agenerate("Hi", mirostat=1)
        await provider.embed("Hi", model="all-minilm", options={"tfs_z": 1})
    assert [record.args[0] for record in caplog.records] == ["mirostat", "tfs_z"]
    assert [record.path for record in ollama_server.requests].count("/api/version") == 1
    assert ollama_server.requests[-2].payload["options"] == {"mirostat": 1}


# Fields without a keyword


async def test_fields_without_a_keyword_are_sent(make: Any, ollama_server: OllamaServer) -> None:
    provider = make(extra_body={"a": 1})
    await provider.achat([{"role": "user", "content": "Hi"}], extra_body={"b": [2]})
    assert {"a": 1, "b": [2]}.items() <= ollama_server.requests[-1].payload.items()
    async with provider.stream_generate("Hi") as stream:
        assert [chunk async for chunk in stream]
    assert ollama_server.requests[-1].payload["a"] == 1
    await provider.embed(["Hi", "you"], model="all-minilm", extra_body={"normalize": False}, batch_size=1)
    for record in ollama_server.requests[-2:]:
        assert record.payload["normalize"] is False
        assert "a" not in record.payload
    for name in ("input", "dimensions", "num_ctx"):
        with pytest.raises(ValueError, match=f"^extra_body: '{name}' has an argument of its own"):
            await provider.embed("Hi", extra_body={name: 1})
