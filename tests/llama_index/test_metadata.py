"""`metadata` and the context window."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage

from llama_index.llms.namel3ss_ollama import Ollama
from llama_index.llms.namel3ss_ollama.window import Window, window_of
from namel3ss_ollama import ModelNotFoundError
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
        ({"additional_kwargs": {"num_ctx": 500, "num_predict": -1}}, 500, 256),
        ({"context_window": 1000, "additional_kwargs": {"num_ctx": 500, "max_tokens": 9}}, 500, 9),
    ],
)
def test_what_the_user_sets(settings: dict[str, Any], window: int, output: int) -> None:
    metadata = Ollama("llama3.2", **settings).metadata
    assert (metadata.context_window, metadata.num_output) == (window, output)


def test_is_function_calling_model() -> None:
    assert not Ollama("llama3.2", is_function_calling_model=False).metadata.is_function_calling_model


@pytest.mark.parametrize(
    ("window", "num_ctx", "expected"),
    [
        (Window(), None, 3900),
        (Window(), 100, 100),
        (Window(trained=131072), None, 3900),
        (Window(trained=512), None, 512),
        (Window(trained=512), 4096, 512),
        (Window(configured=8192, trained=131072), None, 8192),
        (Window(running=2048, configured=8192, trained=131072), None, 2048),
        (Window(running=2048, configured=8192, trained=131072), 100, 100),
    ],
)
def test_which_window_is_in_force(window: Window, num_ctx: int | None, expected: int) -> None:
    assert window.in_force(num_ctx) == expected


def test_what_a_server_tells() -> None:
    shown = {
        "model_info": {"general.architecture": "qwen3", "qwen3.context_length": 40960, "x.context_length": 1},
        "parameters": 'stop      "x"\nnum_ctx                        4096\ntop_k 1',
    }
    running = [{"name": "b:latest", "context_length": 1}, {"name": "a:latest", "context_length": 2048}]
    assert window_of("a", shown, running) == Window(2048, 4096, 40960)
    assert window_of("c", {"model_info": None, "parameters": None}, running) == Window()


def _configured(server: OllamaServer) -> Ollama:
    server.models.add(Model("mine", context_length=32768, parameters="num_ctx 6000"))
    return Ollama("mine", server.url)


def test_load_learns_the_window_and_loads_the_model(ollama_server: OllamaServer) -> None:
    llm = _configured(ollama_server)
    assert llm.load() is llm
    assert llm.metadata.context_window == 6000
    assert [record.path for record in ollama_server.requests] == ["/api/generate", "/api/show", "/api/ps"]
    assert ollama_server.requests[0].payload == {"model": "mine"}


async def test_aload_loads_with_the_options_that_answers_will_use(ollama_server: OllamaServer) -> None:
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
def test_the_first_answer_tells_the_window(ollama_server: OllamaServer, way: str, sent: Any) -> None:
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


def test_no_answer_fails_for_want_of_the_window(ollama_server: OllamaServer, sent: Any) -> None:
    ollama_server.on(path="/api/show").reply(Reply(status=500, json={"error": "no"}))
    llm = _configured(ollama_server)
    assert llm.chat(ASK).message.content
    assert llm.chat(ASK).message.content
    assert llm.metadata.context_window == 3900
    assert len(sent("/api/show")) == 1


def test_who_sets_the_window_is_not_asked_for_it(ollama_server: OllamaServer, sent: Any) -> None:
    Ollama("llama3.2", ollama_server.url, context_window=1000).chat(ASK)
    assert sent("/api/show") == []
    assert sent()[0]["options"] == {"num_ctx": 1000}


def test_a_call_to_another_model_does_not_tell(ollama_server: OllamaServer, llm: Ollama, sent: Any) -> None:
    llm.chat(ASK, model="smollm2:135m")
    assert sent("/api/show") == []
