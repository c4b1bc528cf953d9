"""Keywords: where they are sent, when they are validated, and what subclasses may override."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage

from llama_index.embeddings.namel3ss_ollama import OllamaEmbedding
from llama_index.llms.namel3ss_ollama import Ollama
from llama_index.llms.namel3ss_ollama.keywords import CHAT_FIELDS, EMBED_FIELDS
from namel3ss_ollama.testing import OllamaServer

ASK = [ChatMessage(role="user", content="Say something.")]
WAYS = ["chat", "achat", "stream_chat", "astream_chat", "complete", "acomplete", "stream_complete", "astream_complete"]


async def ask(llm: Ollama, way: str, **keywords: Any) -> None:
    result = getattr(llm, way)("hi" if "complete" in way else ASK, **keywords)
    result = await result if way.startswith("a") else result
    if way.startswith("astream"):
        async for _ in result:
            pass
    elif way.startswith("stream"):
        list(result)


# In additional_kwargs


@pytest.mark.parametrize("way", WAYS)
async def test_request_fields_are_not_sent_as_options(make_llm: Any, sent: Any, way: str) -> None:
    extra = {"format": "json", "think": False, "keep_alive": "5m", "top_k": 3, "options": {"seed": 1}}
    await ask(make_llm("qwen3", additional_kwargs=extra, keep_alive="1h", thinking=True), way)
    body = sent()[0]
    assert (body["format"], body["think"], body["keep_alive"]) == ("json", False, "5m")
    assert body["options"] == {"top_k": 3, "seed": 1}


async def test_a_calls_keywords_win_over_them(make_llm: Any, sent: Any) -> None:
    llm = make_llm("qwen3", additional_kwargs={"format": "json", "think": True, "keep_alive": "5m"})
    await ask(llm, "chat", format={"type": "object"}, think=False, keep_alive=0)
    body = sent()[0]
    assert (body["format"], body["think"], body["keep_alive"]) == ({"type": "object"}, False, 0)


def test_a_forced_call_replaces_the_format(make_llm: Any, sent: Any) -> None:
    tool = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
    make_llm(additional_kwargs={"format": "json"}).chat(ASK, tools=[tool], tool_choice="required")
    assert sent()[0]["format"]["properties"]["name"] == {"const": "now"}


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("stream", "stream_chat"), ("model", "model="), ("thinking", "thinking="), ("timeout", "request_timeout="),
        ("request_timeout", "request_timeout="), ("tools", "tools="), ("tool_choice", "tool_choice="),
        ("system", "system_prompt="), ("headers", "headers="), ("extra_headers", "extra_headers="),
        ("context_window", "num_ctx"), ("json_mode", "format"), ("messages", "argument"), ("prompt", "argument"),
        ("response_format", "format"), ("base_url", "base_url="), ("api_key", "api_key="),
    ],
)  # fmt: skip
def test_misplaced_keywords_are_refused_with_advice(
    make_llm: Any, ollama_server: OllamaServer, name: str, advice: str
) -> None:
    with pytest.raises(ValueError, match=rf"additional_kwargs: {name!r} is not a runtime option; use .*{advice}"):
        make_llm(additional_kwargs={name: "x"})
    llm = make_llm()
    llm.additional_kwargs[name] = "x"
    with pytest.raises(ValueError, match=name):
        llm.complete("x")
    assert ollama_server.connections == 0


def test_embedding_kwargs(ollama_server: OllamaServer, sent: Any) -> None:
    extra = {"truncate": False, "keep_alive": "5m", "num_ctx": 64}
    OllamaEmbedding("all-minilm", ollama_server.url, ollama_additional_kwargs=extra).get_text_embedding("a")
    body = sent("/api/embed")[0]
    assert (body["truncate"], body["keep_alive"], body["options"]) == (False, "5m", {"num_ctx": 64})
    for name in ("format", "think", "headers", "model"):
        with pytest.raises(ValueError, match=f"ollama_additional_kwargs: {name!r} is not a runtime option"):
            OllamaEmbedding("all-minilm", ollama_additional_kwargs={name: "x"})


def test_the_fields_are_the_cores() -> None:
    """A new option of the core must be added here too."""
    expected = {"extra_body", "format", "think", "keep_alive", "logprobs", "top_logprobs", "shift", "truncate"}
    assert expected == CHAT_FIELDS
    assert {"dimensions", "extra_body", "keep_alive", "on_truncation", "truncate"} == EMBED_FIELDS


# In the constructor


def test_runtime_options_are_keywords(make_llm: Any, sent: Any) -> None:
    llm = make_llm(max_tokens=10, top_p=0.5, seed=3, num_ctx=2048, additional_kwargs={"seed": 4})
    llm.complete("x")
    assert sent()[0]["options"] == {"num_predict": 10, "top_p": 0.5, "seed": 4, "num_ctx": 2048}
    assert llm.max_tokens == 10
    assert Ollama.from_dict(llm.to_dict()).to_dict() == llm.to_dict()
    llm.max_tokens = 5
    llm.complete("x")
    assert sent()[1]["options"]["num_predict"] == 5
    llm.complete("x", max_tokens=7)
    llm.complete("x", options={"num_predict": 8})
    assert [body["options"]["num_predict"] for body in sent()[2:]] == [7, 8]


def test_embedding_options(ollama_server: OllamaServer, sent: Any) -> None:
    OllamaEmbedding("all-minilm", ollama_server.url, num_ctx=64).get_text_embedding("a")
    assert sent("/api/embed")[0]["options"] == {"num_ctx": 64}


@pytest.mark.parametrize(
    "settings",
    [{"max_tokens": 0}, {"max_tokens": "many"}, {"top_p": 3}, {"seed": 1.5}, {"num_ctx": 0}],
)
def test_invalid_values_fail_at_once(settings: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=next(iter(settings))):
        Ollama("llama3.2", **settings)


# Headers of a call


@pytest.mark.parametrize("way", WAYS)
async def test_a_call_has_its_own_headers(ollama_server: OllamaServer, make_llm: Any, way: str) -> None:
    llm = make_llm(headers={"X-Team": "red"}, context_window=2048)
    await ask(llm, way, extra_headers={"X-Tenant": "blue"}, headers={"X-More": "1", "X-Tenant": "green"})
    await ask(llm, way, extra_headers=None)
    own, usual = (record.headers for record in ollama_server.requests)
    assert (own["x-team"], own["x-tenant"], own["x-more"]) == ("red", "blue", "1")
    assert ("x-tenant" in usual, usual["x-team"]) == (False, "red")
    with pytest.raises(ValueError, match="headers"):
        await ask(llm, way, extra_headers={"X-Tenant": "a\nb"})


# Subclasses


def test_hooks_that_are_called(ollama_server: OllamaServer, sent: Any) -> None:
    class Seeded(Ollama):
        @property
        def _model_kwargs(self) -> dict[str, Any]:
            return {**super()._model_kwargs, "seed": 7, "temperature": 0.9, "num_ctx": 1024}

    class Instructed(OllamaEmbedding):
        def _format_query(self, query: str) -> str:
            return f"find {query}"

        def _format_text(self, text: str) -> str:
            return f"keep {text}"

    llm = Seeded("llama3.2", ollama_server.url, temperature=0.1, additional_kwargs={"top_k": 2})
    llm.complete("x")
    assert sent()[0]["options"] == {"seed": 7, "temperature": 0.9, "num_ctx": 1024, "top_k": 2}
    assert llm.metadata.context_window == 1024
    embedding = Instructed("all-minilm", ollama_server.url)
    embedding.get_query_embedding("a")
    embedding.get_text_embedding("b")
    embedding.get_text_embedding_batch(["c", "d"])
    assert [body["input"] for body in sent("/api/embed")] == [["find a"], ["keep b"], ["keep c", "keep d"]]


@pytest.mark.parametrize(
    "hook", ["_convert_to_ollama_messages", "_get_response_token_counts", "client", "async_client"]
)
def test_unused_hooks_are_refused(hook: str) -> None:
    with pytest.raises(TypeError, match=rf"Mine\.{hook}: is never called here.*; "):
        type("Mine", (Ollama,), {hook: lambda self: None, "__annotations__": {}})


def test_other_subclasses_work(ollama_server: OllamaServer) -> None:
    class Mine(Ollama):
        extra: int = 3

    class More(Mine):
        def chat(self, messages: Any, **kwargs: Any) -> Any:
            return super().chat([*messages, ChatMessage(role="user", content="More.")], **kwargs)

    llm = More("llama3.2", ollama_server.url, extra=4)
    assert llm.extra == 4
    assert llm.chat(ASK).message.content == "You said: More."
