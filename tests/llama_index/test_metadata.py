"""`metadata` and the context window."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from llama_index.core import SummaryIndex, VectorStoreIndex
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.schema import TextNode

from llama_index.embeddings.namel3ss_ollama import OllamaEmbedding
from llama_index.llms.namel3ss_ollama import Ollama
from namel3ss_ollama import ModelNotFoundError, OllamaProvider
from namel3ss_ollama.testing import Model, OllamaServer, Reply

ASK = [ChatMessage(role="user", content="Say something.")]


def test_it_does_no_io(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("it opens a socket"))
    llm = Ollama("llama3.2", "http://192.0.2.1", additional_kwargs={"num_predict": 50})
    metadata = llm.metadata
    assert metadata.model_dump() == {
        "context_window": 3900,
        "num_output": 50,
        "is_chat_model": True,
        "is_function_calling_model": True,
        "model_name": "llama3.2",
        "system_role": "system",
    }
    assert llm.to_payload() == {"class_name": "Ollama_llm", **metadata.model_dump()}


@pytest.mark.parametrize(
    ("settings", "window", "output"),
    [
        ({}, 3900, 256),
        ({"context_window": 1000}, 1000, 256),
        ({"additional_kwargs": {"num_ctx": 500, "num_predict": -1}}, 500, 250),
        ({"context_window": 1000, "additional_kwargs": {"num_ctx": 500, "max_tokens": 9}}, 500, 9),
        ({"additional_kwargs": {"num_predict": 3700}}, 3900, 487),
        ({"max_tokens": 100}, 3900, 100),
        ({"max_tokens": 100, "additional_kwargs": {"num_predict": 50}}, 3900, 50),
        ({"num_ctx": 8192, "max_tokens": 100_000}, 8192, 1024),
        ({"context_window": 1}, 1, 1),
        ({"provider": OllamaProvider("llama3.2", num_ctx=2000, max_tokens=40)}, 2000, 40),
        ({"provider": OllamaProvider("llama3.2", options={"num_ctx": 2000, "num_predict": 40})}, 2000, 40),
    ],
)
def test_explicit_settings(settings: dict[str, Any], window: int, output: int) -> None:
    metadata = Ollama("llama3.2", **settings).metadata
    assert (metadata.context_window, metadata.num_output) == (window, output)


def test_is_function_calling_model() -> None:
    assert not Ollama("llama3.2", is_function_calling_model=False).metadata.is_function_calling_model


@pytest.mark.parametrize(
    ("length", "parameters", "num_ctx", "expected"),
    [
        (131072, "", None, 3900),
        (512, "", None, 512),
        (512, "", 4096, 512),
        (131072, "num_ctx 8192", None, 8192),
        (131072, "num_ctx 8192", 100, 100),
    ],
)
def test_which_window_is_in_force(
    ollama_server: OllamaServer, length: int, parameters: str, num_ctx: int | None, expected: int
) -> None:
    ollama_server.models.add(Model("mine", context_length=length, parameters=parameters))
    ollama_server.on(path="/api/ps").reply(json={"models": []})  # an older server does not report the window in use
    llm = Ollama("mine", ollama_server.url, context_window=num_ctx or -1)
    assert llm.load().metadata.context_window == expected
    llm.context_window = 99  # a new value applies
    assert llm.metadata.context_window == 99


def test_a_newer_server_reports_the_window_in_use(ollama_server: OllamaServer) -> None:
    ollama_server.models.add(Model("mine", context_length=32768, parameters="num_ctx 6000"))
    running = [{"name": "mine:latest", "context_length": 2048}]
    ollama_server.on(path="/api/ps").reply(json={"models": running})
    assert Ollama("mine", ollama_server.url).load().metadata.context_window == 2048


def test_the_window_of_a_given_provider_is_used(ollama_server: OllamaServer) -> None:
    llm = Ollama(provider=OllamaProvider("llama3.2", ollama_server.url, num_ctx=1234))
    assert llm.load().metadata.context_window == 1234


def test_loading_takes_options_without_a_keyword(ollama_server: OllamaServer) -> None:
    Ollama("llama3.2", ollama_server.url, additional_kwargs={"numa": True, "num_gpu": 0}).load()
    assert ollama_server.requests[0].payload["options"] == {"numa": True, "num_gpu": 0}


def _configured(server: OllamaServer) -> Ollama:
    server.models.add(Model("mine", context_length=32768, parameters="num_ctx 6000"))
    return Ollama("mine", server.url)


def test_load_learns_the_window_and_loads_the_model(ollama_server: OllamaServer) -> None:
    llm = _configured(ollama_server)
    assert llm.load() is llm
    assert llm.metadata.context_window == 6000
    assert [record.path for record in ollama_server.requests] == ["/api/generate", "/api/show", "/api/ps"]
    assert ollama_server.requests[0].payload == {"model": "mine"}


async def test_aload_uses_the_options_of_answers(ollama_server: OllamaServer) -> None:
    llm = Ollama("llama3.2", ollama_server.url, context_window=2048, keep_alive="1h", temperature=0.5)
    await llm.aload()
    assert ollama_server.requests[0].payload == {
        "model": "llama3.2",
        "keep_alive": "1h",
        "options": {"num_ctx": 2048, "temperature": 0.5},
    }
    with pytest.raises(ModelNotFoundError):
        await Ollama("nope", ollama_server.url).aload()


@pytest.mark.parametrize("way", ["chat", "stream_chat", "achat", "astream_chat"])
def test_the_first_answer_finds_the_window(ollama_server: OllamaServer, way: str, sent: Any) -> None:
    llm = _configured(ollama_server)

    async def ask() -> None:
        if way == "achat":
            await llm.achat(ASK)
        else:
            async for _ in await llm.astream_chat(ASK):
                pass

    for _ in range(2):
        if way == "chat":
            llm.chat(ASK)
        elif way == "stream_chat":
            list(llm.stream_chat(ASK))
        else:
            asyncio.run(ask())
        assert llm.metadata.context_window == 6000
    assert (len(sent("/api/show")), len(sent())) == (1, 2)
    assert "options" not in sent()[0]


def test_no_answer_fails_for_lack_of_the_window(ollama_server: OllamaServer, sent: Any) -> None:
    ollama_server.on(path="/api/show").reply(Reply(status=500, json={"error": "no"}))
    llm = _configured(ollama_server)
    assert llm.chat(ASK).message.content
    assert llm.chat(ASK).message.content
    assert llm.metadata.context_window == 3900
    assert len(sent("/api/show")) == 1


def test_a_configured_window_is_not_queried(ollama_server: OllamaServer, sent: Any) -> None:
    Ollama("llama3.2", ollama_server.url, context_window=1000).chat(ASK)
    assert sent("/api/show") == []
    assert sent()[0]["options"] == {"num_ctx": 1000}


def test_another_models_window_is_not_queried(ollama_server: OllamaServer, llm: Ollama, sent: Any) -> None:
    llm.chat(ASK, model="smollm2:135m")
    assert sent("/api/show") == []


# Query and chat engines


@pytest.mark.parametrize("limit", [3000, 3700, 100_000])
@pytest.mark.parametrize("settings", [{}, {"context_window": 4096}], ids=["unknown window", "known window"])
def test_a_token_limit_does_not_increase_an_engines_calls(
    ollama_server: OllamaServer, make_llm: Any, sent: Any, limit: int, settings: dict[str, Any]
) -> None:
    nodes = [TextNode(text=f"word{n} " * 450) for n in range(8)]  # about 900 tokens each

    def calls(llm: Ollama) -> int:
        before = len(sent())
        SummaryIndex(nodes).as_query_engine(llm=llm, use_async=False).query("?")
        return len(sent()) - before

    plain = calls(make_llm(**settings))
    assert calls(make_llm(max_tokens=limit, **settings)) == plain
    assert sent()[-1]["options"]["num_predict"] == limit


@pytest.mark.parametrize("mode", ["simple", "context", "condense_question", "condense_plus_context"])
def test_a_token_limit_leaves_a_chat_engine_room(
    embedding: OllamaEmbedding, make_llm: Any, sent: Any, mode: Any
) -> None:
    llm = make_llm(max_tokens=3900)
    index = VectorStoreIndex([TextNode(text="Rome is in Italy.")], embed_model=embedding)
    memory = ChatMemoryBuffer.from_defaults(llm=llm)
    if mode == "simple":
        engine: Any = SimpleChatEngine.from_defaults(llm=llm, memory=memory)
    else:
        engine = index.as_chat_engine(mode, llm=llm, memory=memory)
    assert engine.chat("Where is Rome?").response
    assert engine.chat("And Oslo?").response


def test_tokens_for_memories_and_splitters(ollama_server: OllamaServer) -> None:
    llm = Ollama("llama3.2", base_url=ollama_server.url)
    assert llm.tokenizer("") == []
    text = "understanding " * 40
    assert llm.tokenizer(text) == list(range(llm.provider.count_tokens(text)))
    memory = ChatMemoryBuffer.from_defaults(token_limit=200, tokenizer_fn=llm.tokenizer)
    for number in range(30):
        memory.put(ChatMessage(f"{number}: what does a whale eat, and how much of it in a day?"))
    kept = memory.get()
    assert 3 < len(kept) < 20
    assert kept[-1].content is not None
    assert kept[-1].content.startswith("29:")
