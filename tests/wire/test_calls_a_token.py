"""The core's hot path keeps its shape: so many calls a token, and no more."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from calls import TOKENS, calls_per_token, replay_server

from namel3ss_ollama import OllamaProvider
from namel3ss_ollama.exchange import Exchange

ASK = [{"role": "user", "content": "Hi"}]


def provider(url: str, transport: str = "aiohttp") -> OllamaProvider:
    return OllamaProvider("bench", url, transport=transport, max_tokens=TOKENS)


# httpx hands each HTTP chunk on by itself, so that what aiohttp makes one read of is one a token there.
@pytest.mark.parametrize(("transport", "ours", "every"), [("aiohttp", 7, 18), ("httpx", 17, 60)])
def test_stream_chat(transport: str, ours: int, every: int) -> None:
    async def run() -> int:
        async with provider(url, transport) as made:
            return sum([len(chunk.content) async for chunk in made.stream_chat(ASK)])

    with replay_server() as url:
        calls = calls_per_token(run)
    assert calls["ours"] <= ours, calls
    assert calls["all"] <= every, calls


def test_tokens_that_come_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """From a model that computes, each token is a read of its own. A coroutine counts again when it is resumed."""
    tokens, reads = 200, 0
    lines = Exchange.lines

    def counted(exchange: Exchange) -> Any:
        nonlocal reads
        reads += 1
        return lines(exchange)

    async def run() -> int:
        async with OllamaProvider("paced", url, max_tokens=tokens) as made:
            return sum([len(chunk.content) async for chunk in made.stream_chat(ASK)])

    monkeypatch.setattr(Exchange, "lines", counted)
    with replay_server() as url:
        calls = calls_per_token(run, tokens)
    assert reads >= 1.5 * tokens  # of two runs; on a busy machine some come together
    older = sys.version_info < (3, 11)  # tasks do not count their cancellations there: a function of ours does
    assert calls["ours"] <= 20 + older, calls
    assert calls["all"] <= 70 + older, calls


def test_achat() -> None:
    async def run() -> int:
        async with provider(url) as made:
            return len((await made.achat(ASK)).content)

    with replay_server() as url:
        calls = calls_per_token(run)
    assert calls["ours"] <= 2, calls
    assert calls["all"] <= 12, calls


def test_stream() -> None:
    def run() -> int:
        return sum(len(chunk.content) for chunk in made.stream(ASK))

    with replay_server() as url, provider(url) as made:
        calls = calls_per_token(run)
    assert calls["ours"] <= 7, calls
    assert calls["all"] <= 18, calls
