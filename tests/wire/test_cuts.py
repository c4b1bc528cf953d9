"""Chats, prompts and answers that exceed the context window, on old and new servers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from namel3ss_ollama import ContextWindowExceededError, LLMResponse, OllamaProvider
from namel3ss_ollama.testing import OllamaServer

OLD, REFUSES, LLAMA_SERVER, HALVES, NEWEST = "0.9.3", "0.12.6", "0.30.0", "0.30.11", "0.33.0"
VERSIONS = [OLD, REFUSES, LLAMA_SERVER, HALVES, NEWEST]
TURN = "The keeper of the lighthouse wrote down the weather twice a day, and nobody asked to see the book. "
CHAT = [{"role": "assistant" if number % 2 else "user", "content": f"{number}: {TURN * 2}"} for number in range(61)]
PROMPT = TURN * 60
WINDOW = 512
Ask = Callable[..., Awaitable[LLMResponse]]


async def achat(provider: OllamaProvider, **settings: Any) -> LLMResponse:
    return await provider.achat(CHAT, **settings)


async def at_once(provider: OllamaProvider, **settings: Any) -> LLMResponse:
    return await provider.achat(CHAT, stream_internally=False, **settings)


async def stream_chat(provider: OllamaProvider, **settings: Any) -> LLMResponse:
    stream = provider.stream_chat(CHAT, **settings)
    async for _ in stream:
        pass
    assert stream.response is not None
    return stream.response


async def agenerate(provider: OllamaProvider, **settings: Any) -> LLMResponse:
    return await provider.agenerate(PROMPT, **settings)


async def chat(provider: OllamaProvider, **settings: Any) -> LLMResponse:
    return await asyncio.to_thread(provider.chat, CHAT, **settings)


async def stream(provider: OllamaProvider, **settings: Any) -> LLMResponse:
    def read() -> LLMResponse:
        answer = provider.stream(CHAT, **settings)
        for _ in answer:
            pass
        assert answer.response is not None
        return answer.response

    return await asyncio.to_thread(read)


WAYS = pytest.mark.parametrize(
    "ask", [achat, at_once, stream_chat, agenerate, chat, stream], ids=lambda ask: ask.__name__
)


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(version: str) -> Iterator[OllamaServer]:
    with OllamaServer(version=version) as server:
        yield server


def asked(server: OllamaServer) -> list[str]:
    return [record.path for record in server.requests]


@WAYS
async def test_a_cut_is_a_warning(server: OllamaServer, ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "namel3ss_ollama")
    async with OllamaProvider("llama3.2", server.url, num_ctx=WINDOW) as provider:
        for _ in range(3):
            response = await ask(provider)
            assert response.truncated_prompt
            assert response.content
            assert response.usage.prompt_tokens <= WINDOW
    warnings = [record.getMessage() for record in caplog.records if "cut to the context window" in record.getMessage()]
    assert len(warnings) == 1  # once per model
    assert "llama3.2: the prompt was cut" in warnings[0]
    assert "a window of 512" in warnings[0]


@WAYS
async def test_a_cut_is_an_error(server: OllamaServer, ask: Ask) -> None:
    async with OllamaProvider("llama3.2", server.url, num_ctx=WINDOW, on_truncation="error") as provider:
        with pytest.raises(ContextWindowExceededError, match="window") as caught:
            await ask(provider)
    assert caught.value.window == WINDOW
    assert caught.value.tokens is not None
    assert caught.value.tokens > WINDOW


@WAYS
async def test_a_cut_may_be_ignored(server: OllamaServer, ask: Ask) -> None:
    async with OllamaProvider("llama3.2", server.url, num_ctx=WINDOW, on_truncation="ignore") as provider:
        assert not (await ask(provider)).truncated_prompt
    assert len(server.requests) == 1
    assert "truncate" not in server.requests[0].json


@WAYS
async def test_a_fitting_prompt_is_one_request(server: OllamaServer, ask: Ask) -> None:
    async with OllamaProvider("llama3.2", server.url, num_ctx=32768) as provider:
        for _ in range(3):
            response = await ask(provider)
            assert not response.truncated_prompt
            assert not response.shifted_context
    paths = asked(server)
    assert len([path for path in paths if path in ("/api/chat", "/api/generate")]) == 3
    assert len(paths) <= 5  # one look-up of the window per model: the prompt exceeds small windows


async def test_short_prompts_cost_one_request(server: OllamaServer) -> None:
    async with OllamaProvider("llama3.2", server.url) as provider:
        for number in range(5):
            await provider.achat(CHAT[: number + 1])
    assert asked(server) == ["/api/chat"] * 5


async def test_a_server_that_can_refuse_did_not_cut_the_prompt(server: OllamaServer, version: str) -> None:
    """The estimate is far off: it takes a letter for a quarter of a token, but each word is one token here."""
    words = " ".join(["lighthouse"] * 300)
    async with OllamaProvider("llama3.2", server.url, num_ctx=WINDOW) as provider:
        response = await provider.achat([{"role": "user", "content": words}])
    assert response.truncated_prompt is (version == OLD)  # it never refuses: there is only the estimate


async def test_a_conversation_is_followed_until_it_is_cut(server: OllamaServer) -> None:
    flags: list[bool] = []
    async with OllamaProvider("llama3.2", server.url, num_ctx=WINDOW) as provider:
        history: list[Any] = []
        for number in range(20):
            history.append({"role": "user", "content": f"{number}: {TURN}"})
            response = await provider.achat(history)
            history.append(response.message)
            flags.append(response.truncated_prompt)
    counts = [len(record.text.split()) for record in server.requests if record.path == "/api/chat"]
    assert counts[-1] > WINDOW
    assert flags == sorted(flags)  # once cut, it stays cut
    assert flags.count(True) in (8, 9, 10, 11, 12, 13)


@pytest.mark.parametrize("shift", [None, False])
async def test_an_answer_past_the_window(server: OllamaServer, version: str, shift: bool | None) -> None:
    server.reply("word " * 600)
    async with OllamaProvider("llama3.2", server.url, num_ctx=WINDOW, shift=shift) as provider:
        response = await provider.achat([{"role": "user", "content": "Go on."}])
        assert not response.truncated_prompt
        if shift is False and version != OLD:
            assert (response.finish_reason, response.shifted_context) == ("length", False)
            return
        assert response.finish_reason == "stop"
        assert response.shifted_context is (shift is None)
        if shift is None:
            with pytest.raises(ContextWindowExceededError, match="forgot the beginning") as caught:
                await provider.achat([{"role": "user", "content": "Go on."}], on_truncation="error")
            assert caught.value.partial is not None
            assert len(caught.value.partial.content) == len("word " * 600)


async def test_a_refusal_sent_as_a_line_is_recognised(ollama_server: OllamaServer) -> None:
    refusal = {"error": "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it"}
    ollama_server.on(predicate=lambda record: record.payload.get("truncate") is False).reply(lines=[refusal])
    ollama_server.reply("Cut, but answered.")
    async with OllamaProvider("llama3.2", ollama_server.url) as provider:
        stream = provider.stream_chat(CHAT)
        assert "".join([chunk.content async for chunk in stream]) == "Cut, but answered."
        assert stream.response is not None
        assert stream.response.truncated_prompt
        with pytest.raises(ContextWindowExceededError) as caught:
            await provider.achat(CHAT, on_truncation="error")
    assert (caught.value.tokens, caught.value.window) == (5000, 4096)


@pytest.mark.parametrize("on_truncation", ["warn", "error"])
async def test_a_window_that_fills_up_during_an_answer_is_no_refusal(
    ollama_server: OllamaServer, on_truncation: Any
) -> None:
    # Once wrong: the same prompt was sent again, to be cut, though it had fit
    ollama_server.reply(lines=[{"message": {"content": "one "}}, {"error": "Context size has been exceeded."}])
    async with OllamaProvider("llama3.2", ollama_server.url, on_truncation=on_truncation) as provider:
        with pytest.raises(ContextWindowExceededError) as caught:
            await provider.achat(CHAT)
    assert caught.value.partial is not None
    assert caught.value.partial.content == "one "
    assert asked(ollama_server).count("/api/chat") == 1


# Counting


def look_up(day: int) -> str:
    """The weather on a day."""
    return f"rain on day {day}"


async def test_tokens_are_counted_without_a_request(ollama_server: OllamaServer) -> None:
    async with OllamaProvider("llama3.2", ollama_server.url) as provider:
        text, chat_count = provider.count_tokens(TURN * 10), provider.count_tokens(CHAT)
        assert not ollama_server.requests
        assert not text.exact
        assert text - text.margin < len(TURN.split()) * 10 < text + text.margin
        assert chat_count > provider.count_tokens(CHAT[:30])
        assert provider.count_tokens(CHAT, tools=[look_up]) > chat_count


async def test_an_answered_prompt_is_counted_exactly(ollama_server: OllamaServer) -> None:
    async with OllamaProvider("llama3.2", ollama_server.url) as provider:
        response = await provider.achat(CHAT[:5])
        count = provider.count_tokens(CHAT[:5])
        assert (count, count.exact, count.margin) == (response.usage.prompt_tokens, True, 0)
        assert not provider.count_tokens(CHAT[:6]).exact


@pytest.mark.parametrize("prompt", [TURN, CHAT[:3]], ids=["text", "chat"])
async def test_the_server_counts(ollama_server: OllamaServer, prompt: Any) -> None:
    async with OllamaProvider("llama3.2", ollama_server.url, temperature=0.5, format="json") as provider:
        count = await provider.acount_tokens(prompt)
        assert count.exact
        body = ollama_server.requests[0].json
        assert body["options"] == {"temperature": 0.5, "num_predict": 1}
        assert "format" not in body
        assert count == (await asyncio.to_thread(provider.sync.acount_tokens, prompt))


async def test_a_too_long_prompt_is_estimated(server: OllamaServer) -> None:
    async with OllamaProvider("llama3.2", server.url, num_ctx=WINDOW) as provider:
        count = await provider.acount_tokens(CHAT)
        assert not count.exact
        assert count > 1500


async def test_tools_need_a_conversation(ollama_server: OllamaServer) -> None:
    provider = OllamaProvider("llama3.2", ollama_server.url)
    with pytest.raises(TypeError, match=r"^tools: need a conversation"):
        provider.count_tokens("hi", tools=[len])
    with pytest.raises(TypeError, match=r"^tools: need a conversation"):
        await provider.acount_tokens("hi", tools=[len])
