"""Embeddings."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_namel3ss_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM
from namel3ss_ollama import ContextWindowExceededError, MalformedResponseError, OllamaProvider
from namel3ss_ollama.testing import OllamaServer

LONG = " ".join(f"word{index}" for index in range(3000))


@pytest.fixture
def embeddings(ollama_server: OllamaServer) -> Any:
    return lambda **arguments: OllamaEmbeddings(model="all-minilm", base_url=ollama_server.url, **arguments)


def test_order_and_batches(embeddings: Any, ollama_server: OllamaServer) -> None:
    model = embeddings(batch_size=2, dimensions=None, num_ctx=512, keep_alive="1m", truncate=False, options={"new": 1})
    texts = ["a", "b", "c", "d", "e"]
    vectors = model.embed_documents(texts)
    assert [model.embed_query(text) for text in texts] == vectors
    assert len(ollama_server.requests) == 3 + 5
    sent = dict(ollama_server.requests[0].payload)
    assert sent.pop("input") in (["a", "b"], ["c", "d"], ["e"])
    expected = {"model": "all-minilm", "truncate": False, "keep_alive": "1m", "options": {"num_ctx": 512, "new": 1}}
    assert sent == expected


async def test_no_texts_no_request(embeddings: Any, ollama_server: OllamaServer) -> None:
    assert embeddings().embed_documents([]) == []
    assert await embeddings().aembed_documents([]) == []
    assert ollama_server.requests == []


async def test_instructions(embeddings: Any, ollama_server: OllamaServer) -> None:
    model = embeddings(query_instruction="query: ", document_instruction="passage: ")
    await model.aembed_query("x")
    assert ollama_server.requests[-1].payload["input"] == ["query: x"]
    await model.aembed_documents(["x"])
    assert ollama_server.requests[-1].payload["input"] == ["passage: x"]


def test_two_event_loops(embeddings: Any) -> None:
    model = embeddings()
    assert asyncio.run(model.aembed_query("x")) == asyncio.run(model.aembed_query("x")) == model.embed_query("x")


async def test_a_vector_store(embeddings: Any) -> None:
    store = InMemoryVectorStore(embeddings())
    store.add_documents([Document("cats purr"), Document("dogs bark")])
    retriever = store.as_retriever(search_kwargs={"k": 1})
    assert [found.page_content for found in retriever.invoke("cats purr")] == ["cats purr"]
    assert [found.page_content for found in await retriever.ainvoke("dogs bark")] == ["dogs bark"]


def test_wrong_arguments(embeddings: Any) -> None:
    with pytest.raises(ValueError, match="dimensions"):
        embeddings(dimensions=0)
    with pytest.raises(TypeError, match="'batch_size'"):
        embeddings(batchsize=3)


@pytest.fixture(params=["embed", "aembed"])
def documents(request: pytest.FixtureRequest) -> Any:
    """Vectors of documents, synchronously and asynchronously."""

    def embedded(model: OllamaEmbeddings, texts: list[str]) -> list[list[float]]:
        if request.param == "embed":
            return model.embed_documents(texts)
        return asyncio.run(model.aembed_documents(texts))

    return embedded


def test_texts_that_are_too_long(
    embeddings: Any, documents: Any, ollama_server: OllamaServer, caplog: pytest.LogCaptureFixture
) -> None:
    texts = ["short", LONG]
    ignored = documents(embeddings(on_truncation="ignore"), texts)
    assert caplog.records == []
    assert documents(embeddings(), texts) == ignored
    assert f"input[1] ({len(LONG):,} characters)" in caplog.text
    split = documents(embeddings(on_truncation="split"), texts)
    assert split[0] == ignored[0]
    assert split[1] != ignored[1]
    assert all("truncate" not in one.payload or one.payload["truncate"] is False for one in ollama_server.requests)
    for settings in ({"on_truncation": "error"}, {"truncate": False}, {"truncate": False, "on_truncation": "split"}):
        with pytest.raises(ContextWindowExceededError, match=r"^input\[1\]") as caught:
            documents(embeddings(**settings), texts)
        assert caught.value.index == 1
    assert documents(embeddings(truncate=True, on_truncation="error"), texts) == ignored


def test_a_query_that_is_too_long(embeddings: Any) -> None:
    model = embeddings(on_truncation="split")
    assert model.embed_query(LONG) == asyncio.run(model.aembed_query(LONG)) == model.embed_documents([LONG])[0]
    with pytest.raises(ContextWindowExceededError):
        embeddings(on_truncation="error").embed_query(LONG)


def test_the_providers_policy_is_the_default(ollama_server: OllamaServer) -> None:
    with OllamaProvider("all-minilm", ollama_server.url, on_truncation="error") as provider:
        model = OllamaEmbeddings(model="all-minilm", provider=provider)
        with pytest.raises(ContextWindowExceededError):
            model.embed_query(LONG)
        assert OllamaEmbeddings(model="all-minilm", provider=provider, on_truncation="split").embed_query(LONG)


def test_unknown_policies(embeddings: Any, ollama_server: OllamaServer) -> None:
    with pytest.raises(ValueError, match="'warn', 'error', 'ignore' or 'split'"):
        embeddings(on_truncation="cut")
    for chat in (ChatOllama, OllamaLLM):
        with pytest.raises(ValueError, match=r"'split' is for embed\(\) alone"):
            chat(model="llama3.2", base_url=ollama_server.url, on_truncation="split")


def test_dimensions_that_the_server_ignores(embeddings: Any, documents: Any) -> None:
    with pytest.raises(MalformedResponseError, match="384 dimensions, not of 128"):
        documents(embeddings(dimensions=128), ["a", "b"])


def test_one_bad_text_is_named(embeddings: Any, documents: Any, ollama_server: OllamaServer) -> None:
    ollama_server.fault("status", status=500, message="json: unsupported value: NaN", contains="poison")
    with pytest.raises(Exception, match=r"^input\[2\] \(6 characters\): ") as caught:
        documents(embeddings(), ["a", "b", "poison", "d"])
    assert caught.value.index == 2
