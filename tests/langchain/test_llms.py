"""`OllamaLLM`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import ModelAPIError

from langchain_namel3ss_ollama import OllamaLLM
from namel3ss_ollama import StreamConfig
from namel3ss_ollama.testing import OllamaServer, Reply


class Tokens(BaseCallbackHandler):
    def __init__(self) -> None:
        self.seen: dict[Any, list[str]] = {}

    def on_llm_new_token(self, token: str, *, chunk: Any = None, run_id: Any = None, **kwargs: Any) -> None:
        assert chunk.text == token
        self.seen.setdefault(run_id, []).append(token)


@pytest.fixture
def llm(ollama_server: OllamaServer) -> Any:
    return lambda **arguments: OllamaLLM(**{"model": "llama3.2", "base_url": ollama_server.url, **arguments})


async def test_all_methods_agree(llm: Any, ollama_server: OllamaServer) -> None:
    ollama_server.reply(["a", "b"], thinking="Hm.")
    model = llm(model="qwen3", reasoning=True, temperature=0, max_tokens=9)
    assert model.invoke("Hi") == await model.ainvoke("Hi") == "ab"
    assert "".join(model.stream("Hi")) == "".join([text async for text in model.astream("Hi")]) == "ab"
    bodies = [dict(record.payload) for record in ollama_server.requests]
    expected = {"model": "qwen3", "prompt": "Hi", "think": True, "options": {"temperature": 0, "num_predict": 9}}
    assert bodies == [expected] * 4
    info = model.generate(["Hi"]).generations[0][0].generation_info
    assert (info["thinking"], info["done_reason"], info["model_name"]) == ("Hm.", "stop", "qwen3")


async def test_batches_keep_their_order(llm: Any, ollama_server: OllamaServer) -> None:
    ollama_server.on(path="/api/generate").reply(lambda record: Reply(f"<{record.payload['prompt']}>"))
    model = llm(max_concurrent=2)
    assert model.batch(["a", "b", "c"]) == ["<a>", "<b>", "<c>"]
    assert await model.abatch(["a", "b", "c"]) == ["<a>", "<b>", "<c>"]
    tokens = Tokens()
    result = await model.agenerate(["a", "b"], callbacks=[tokens])
    assert [g[0].text for g in result.generations] == ["<a>", "<b>"]
    assert ["".join(texts) for texts in tokens.seen.values()] == ["<a>"]  # the run belongs to the first prompt
    assert [g[0].text for g in model.generate(["a", "b"], callbacks=[tokens]).generations] == ["<a>", "<b>"]


async def test_token_callbacks_run_once(llm: Any, ollama_server: OllamaServer) -> None:
    ollama_server.reply(["a", "b"])
    for run in ("invoke", "stream"):
        tokens = Tokens()
        config = {"callbacks": [tokens]}
        text = llm().invoke("Hi", config) if run == "invoke" else "".join(llm().stream("Hi", config))
        assert text == "ab"
        assert list(tokens.seen.values()) == [["a", "b", ""]]
    tokens = Tokens()
    assert "".join([text async for text in llm().astream("Hi", {"callbacks": [tokens]})]) == "ab"
    assert list(tokens.seen.values()) == [["a", "b", ""]]
    events = [event async for event in llm().astream_events("Hi", version="v2")]
    chunks = [e["data"]["chunk"] for e in events if e["event"] == "on_llm_stream"]
    assert "".join(map(str, chunks)) == "ab"


def test_fields_of_this_endpoint(llm: Any, ollama_server: OllamaServer) -> None:
    model = llm(model="codellama", stop=["x"], format="json")
    model.invoke("def f(", suffix="return 1", system="Code.", raw=True, stop=["y"], reasoning=False)
    sent = dict(ollama_server.requests[-1].payload)
    assert sent["suffix"] == "return 1"
    assert (sent["system"], sent["raw"], sent["format"], sent["think"]) == ("Code.", True, "json", False)
    assert sent["options"] == {"stop": ["y"]}
    with pytest.raises(TypeError, match="'sufix'; did you mean 'suffix'"):
        model.invoke("Hi", sufix="x")


def test_a_cache_distinguishes_models(llm: Any, ollama_server: OllamaServer) -> None:
    ollama_server.on(path="/api/generate").reply(lambda record: Reply(record.model))
    cache = InMemoryCache()
    one, two = llm(cache=cache), llm(model="qwen3", cache=cache)
    assert [one.invoke("Hi"), two.invoke("Hi"), one.invoke("Hi")] == ["llama3.2", "qwen3", "llama3.2"]
    assert len(ollama_server.requests) == 2


def test_two_event_loops(llm: Any) -> None:
    model = llm()
    assert asyncio.run(model.ainvoke("Hi")) == asyncio.run(model.ainvoke("Hi"))


async def test_one_failure_fails_all(llm: Any, ollama_server: OllamaServer) -> None:
    ollama_server.fault("status", status=500)
    with pytest.raises(ModelAPIError):
        await llm(max_retries=0).agenerate(["a", "b", "c"], callbacks=[Tokens()])


@pytest.mark.parametrize(("limit", "text"), [(2, ""), (7, "ab")])
async def test_max_chunks_ends_a_stream_with_a_last_chunk(
    llm: Any, ollama_server: OllamaServer, limit: int, text: str
) -> None:
    # Once wrong: nothing reported that the answer was truncated, and if all of it was dropped, IndexError was raised.
    ollama_server.reply(["a", "b", "c"], thinking=["t"] * 5)
    model = llm(reasoning=False, stream_config=StreamConfig(max_chunks=limit))
    for pieces in ([p async for p in model.astream("Hi")], list(model.stream("Hi"))):
        assert "".join(pieces) == text
    tokens = {"callbacks": [Tokens()]}
    for result in (model.generate(["Hi"], **tokens), await model.agenerate(["Hi"], **tokens)):
        (generation,) = result.generations[0]
        assert generation.text == text
        assert generation.generation_info["done_reason"] == "max_chunks"
        assert generation.generation_info["model_name"] == "llama3.2"
