"""Pickles: an unpickled object works, or reports on first use what it lacks, also inside other objects.

Unpickling must never raise, because of `IngestionPipeline(num_workers=2)`: a worker would die, the pool would start
another, and wait forever for the lost task.
"""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from llama_index.core.extractors import SummaryExtractor
from llama_index.core.schema import TextNode

from llama_index.embeddings.namel3ss_ollama import OllamaEmbedding
from llama_index.llms.namel3ss_ollama import Ollama
from namel3ss_ollama import OllamaProvider
from namel3ss_ollama.testing import OllamaServer

SECRET = "t0psecret"
LACKING: dict[str, dict[str, Any]] = {
    "key": {"api_key": SECRET},
    "headers": {"headers": {"X-Key": SECRET}},
}
SAYS = {"key": "set OLLAMA_API_KEY here", "headers": r"headers \(X-Key\)"}


def use(component: Any) -> Any:
    if isinstance(component, OllamaEmbedding):
        return component.get_text_embedding("a")
    if isinstance(component, SummaryExtractor):
        return component.extract([TextNode(text="a")])
    return component.complete("a").text


def make(what: str, url: str, **settings: Any) -> Any:
    if what == "embedding":
        return OllamaEmbedding("all-minilm", url, **settings)
    llm = Ollama("llama3.2", url, **settings)
    return SummaryExtractor(llm=llm, summaries=["self"], show_progress=False) if what == "extractor" else llm


@pytest.mark.parametrize("what", ["llm", "embedding", "extractor"])
@pytest.mark.parametrize("lacking", list(LACKING))
@pytest.mark.parametrize("times", [1, 2])
def test_missing_secrets_are_an_error_at_first_use(
    ollama_server: OllamaServer, what: str, lacking: str, times: int
) -> None:
    again = make(what, ollama_server.url, **LACKING[lacking])
    for _ in range(times):
        pickled = pickle.dumps(again)
        assert SECRET not in pickled.decode("latin-1")
        again = pickle.loads(pickled)
    with pytest.raises(ValueError, match=SAYS[lacking]):
        use(again)
    assert ollama_server.requests == []
    repr(again)


@pytest.mark.parametrize("what", ["llm", "embedding", "extractor"])
def test_a_key_in_the_environment_is_used(
    ollama_server: OllamaServer, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pickled = pickle.dumps(make(what, ollama_server.url, api_key=SECRET))
    monkeypatch.setenv("OLLAMA_API_KEY", "here")
    assert use(pickle.loads(pickled))
    assert ollama_server.requests[0].headers["authorization"] == "Bearer here"


def test_a_provider_that_cannot_be_pickled_is_named(ollama_server: OllamaServer) -> None:
    provider = OllamaProvider("llama3.2", ollama_server.url, proxy=f"http://user:{SECRET}@127.0.0.1:1")
    pickled = pickle.dumps(Ollama(provider=provider))
    assert SECRET not in pickled.decode("latin-1")
    with pytest.raises(ValueError, match=r"unpickled.*a proxy's password"):
        pickle.loads(pickled).complete("a")


def test_a_learned_window_is_pickled(ollama_server: OllamaServer) -> None:
    ollama_server.on(path="/api/ps").reply(json={"models": [{"name": "llama3.2:latest", "context_length": 2048}]})
    llm = Ollama("llama3.2", ollama_server.url).load()
    assert pickle.loads(pickle.dumps(llm)).metadata.context_window == llm.metadata.context_window == 2048
