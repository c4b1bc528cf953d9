"""Limits on the number of calls per token on LlamaIndex's hot path."""

from __future__ import annotations

from calls import TOKENS, calls_per_token, replay_server
from llama_index.core.base.llms.types import ChatMessage

from llama_index.llms.namel3ss_ollama import Ollama

ASK = [ChatMessage(role="user", content="Hi")]


def test_astream_chat() -> None:
    async def run() -> int:
        return sum([len(response.delta or "") async for response in await llm.astream_chat(ASK)])

    with replay_server() as url:
        llm = Ollama("bench", url, additional_kwargs={"num_predict": TOKENS})
        calls = calls_per_token(run)
    assert calls["ours"] <= 13, calls
    assert calls["all"] <= 40, calls


def test_stream_chat() -> None:
    def run() -> int:
        return sum(len(response.delta or "") for response in llm.stream_chat(ASK))

    with replay_server() as url:
        llm = Ollama("bench", url, additional_kwargs={"num_predict": TOKENS})
        calls = calls_per_token(run)
    assert calls["ours"] <= 13, calls
    assert calls["all"] <= 42, calls
