"""A chat that a real server cuts is detected in every kind of call, by the provider and both adapters."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from llama_index.core.llms import ChatMessage
from one_layer import one_layer

from langchain_namel3ss_ollama import ChatOllama
from llama_index.llms.namel3ss_ollama import Ollama
from namel3ss_ollama import ContextWindowExceededError, OllamaProvider
from namel3ss_ollama.settings import Truncation

pytestmark = pytest.mark.server_only("it is about how a server cuts")
MODEL, WINDOW = one_layer("smollm2:135m"), 512
TURN = "The keeper of the lighthouse wrote down the weather twice a day, and nobody asked to see the book. " * 2
TEXTS = [f"{number}: {TURN}" for number in range(61)]
CHAT = [{"role": "assistant" if number % 2 else "user", "content": text} for number, text in enumerate(TEXTS)]
FOR_LANGCHAIN = [(AIMessage if number % 2 else HumanMessage)(text) for number, text in enumerate(TEXTS)]
FOR_LLAMA_INDEX = [ChatMessage.model_validate(message) for message in CHAT]
"""About 3,000 tokens, in a window of 512."""


async def through_the_provider(url: str, policy: Truncation, *, streaming: bool, blocking: bool) -> bool:
    async with OllamaProvider(MODEL, url, num_ctx=WINDOW, max_tokens=1, on_truncation=policy) as provider:
        if not streaming:
            asked = asyncio.to_thread(provider.chat, CHAT) if blocking else provider.achat(CHAT)
            return (await asked).truncated_prompt
        if blocking:
            last = (await asyncio.to_thread(lambda: list(provider.stream(CHAT))))[-1]
        else:
            last = [chunk async for chunk in provider.stream_chat(CHAT)][-1]
        assert last.response is not None
        return last.response.truncated_prompt


async def through_langchain(url: str, policy: Truncation, *, streaming: bool, blocking: bool) -> bool:
    model = ChatOllama(model=MODEL, base_url=url, num_ctx=WINDOW, num_predict=1, on_truncation=policy)
    if not streaming:
        asked = asyncio.to_thread(model.invoke, FOR_LANGCHAIN) if blocking else model.ainvoke(FOR_LANGCHAIN)
        metadata = (await asked).response_metadata
    elif blocking:
        metadata = (await asyncio.to_thread(lambda: list(model.stream(FOR_LANGCHAIN))))[-1].response_metadata
    else:
        metadata = [chunk async for chunk in model.astream(FOR_LANGCHAIN)][-1].response_metadata
    return metadata.get("truncated_prompt") is True


async def through_llama_index(url: str, policy: Truncation, *, streaming: bool, blocking: bool) -> bool:
    llm = Ollama(model=MODEL, base_url=url, context_window=WINDOW, num_predict=1, on_truncation=policy)
    if not streaming:
        asked = asyncio.to_thread(llm.chat, FOR_LLAMA_INDEX) if blocking else llm.achat(FOR_LLAMA_INDEX)
        last = await asked
    elif blocking:
        last = (await asyncio.to_thread(lambda: list(llm.stream_chat(FOR_LLAMA_INDEX))))[-1]
    else:
        last = [response async for response in await llm.astream_chat(FOR_LLAMA_INDEX)][-1]
    return last.raw.get("truncated_prompt") is True


Ask = Callable[..., Awaitable[bool]]


@pytest.mark.parametrize("streaming", [False, True], ids=["answer", "stream"])
@pytest.mark.parametrize("blocking", [False, True], ids=["async", "sync"])
@pytest.mark.parametrize("ask", [through_the_provider, through_langchain, through_llama_index])
async def test_a_chat_that_the_server_cuts(copies: str, ask: Ask, streaming: bool, blocking: bool) -> None:
    how: dict[str, Any] = {"streaming": streaming, "blocking": blocking}
    assert await ask(copies, "warn", **how)
    assert not await ask(copies, "ignore", **how)
    with pytest.raises(ContextWindowExceededError) as caught:
        await ask(copies, "error", **how)
    assert caught.value.window == WINDOW
    assert caught.value.tokens is not None
    assert caught.value.tokens > 2 * WINDOW
