"""The core's hot path: a limit on the function calls per token."""

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


# httpx yields each HTTP chunk separately: what aiohttp returns from one read is one read per token there.
@pytest.mark.parametrize(("transport", "ours", "every"), [("aiohttp", 7, 18), ("httpx", 17, 60)])
def test_stream_chat(transport: str, ours: int, every: int) -> None:
    async def run() -> int:
        async with provider(url, transport) as made:
            return sum([len(chunk.content) async for chunk in made.stream_chat(ASK)])

    with replay_server() as url:
        calls = calls_per_token(run)
    assert calls["ours"] <= ours, calls
    assert calls["all"] <= every, calls


def test_one_token_per_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real model's tokens arrive one per read. A coroutine counts again each time it is resumed."""
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
    assert reads >= 1.5 * tokens  # over two runs; on a busy machine some tokens share a read
    older = sys.version_info < (3, 11)  # no `Task.cancelling` there: a function of ours stands in
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
