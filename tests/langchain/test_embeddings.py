"""Vectors."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_namel3ss_ollama import OllamaEmbeddings
from namel3ss_ollama.testing import OllamaServer


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


async def test_nothing_is_no_request(embeddings: Any, ollama_server: OllamaServer) -> None:
    assert embeddings().embed_documents([]) == []
    assert await embeddings().aembed_documents([]) == []
    assert ollama_server.requests == []


async def test_instructions(embeddings: Any, ollama_server: OllamaServer) -> None:
    model = embeddings(query_instruction="query: ", document_instruction="passage: ")
    await model.aembed_query("x")
    assert ollama_server.requests[-1].payload["input"] == ["query: x"]
    await model.aembed_documents(["x"])
    assert ollama_server.requests[-1].payload["input"] == ["passage: x"]


def test_two_runs(embeddings: Any) -> None:
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
