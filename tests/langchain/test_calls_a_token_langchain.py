"""Limits on the number of calls per token on LangChain's hot path."""

from __future__ import annotations

from calls import TOKENS, calls_per_token, replay_server

from langchain_namel3ss_ollama import ChatOllama


def test_astream() -> None:
    async def run() -> int:
        return sum([len(chunk.text) async for chunk in model.astream("Hi")])

    with replay_server() as url:
        model = ChatOllama(model="bench", base_url=url, num_predict=TOKENS)
        calls = calls_per_token(run)
    assert calls["ours"] <= 10, calls
    assert calls["all"] <= 46, calls


def test_stream() -> None:
    def run() -> int:
        return sum(len(chunk.text) for chunk in model.stream("Hi"))

    with replay_server() as url:
        model = ChatOllama(model="bench", base_url=url, num_predict=TOKENS)
        calls = calls_per_token(run)
    assert calls["ours"] <= 11, calls
    assert calls["all"] <= 48, calls


def test_ainvoke_calls_no_langchain_code() -> None:
    async def run() -> int:
        return len((await model.ainvoke("Hi")).text)

    with replay_server() as url:
        model = ChatOllama(model="bench", base_url=url, num_predict=TOKENS)
        calls = calls_per_token(run)
    assert calls["ours"] <= 2, calls
    assert calls["all"] <= 12, calls
