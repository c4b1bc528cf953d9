"""Reasoning that a model writes before its JSON, with each method of structured output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import HumanMessage
from pydantic import BaseModel

from langchain_namel3ss_ollama import ChatOllama
from namel3ss_ollama.testing import OllamaServer, Reply

Make = Callable[..., ChatOllama]
THOUGHT = "Is {it} Rome?"


class Place(BaseModel):
    """A place."""

    city: str


def written(method: str) -> str:
    return '{"name": "Place", "arguments": {"city": "Rome"}}' if method == "function_calling" else '{"city": "Rome"}'


def lines(*pieces: str) -> Reply:
    sent = [{"message": {"content": piece}, "done": False} for piece in pieces]
    return Reply(lines=[*sent, {"message": {"content": ""}, "done": True, "done_reason": "stop"}])


@pytest.mark.parametrize("version", ["v0", "v1"])
@pytest.mark.parametrize("begin", ["<think>", ""])
@pytest.mark.parametrize("method", ["json_schema", "json_mode", "function_calling"])
async def test_the_object_after_it_is_parsed(
    chat: Make, ollama_server: OllamaServer, method: Any, begin: str, version: str
) -> None:
    # Once wrong: an error each time
    text = f"{begin}{THOUGHT}</think>\n{written(method)}"
    ollama_server.reply(lines(text[:4], text[4:20], text[20:40], text[40:]))
    chain = chat(output_version=version).with_structured_output(Place, method=method)
    assert chain.invoke("Where?") == await chain.ainvoke("Where?") == Place(city="Rome")
    assert list(chain.stream("Where?"))[-1] == Place(city="Rome")
    assert [item async for item in chain.astream("Where?")][-1] == Place(city="Rome")
    raw = chat().with_structured_output(Place, method=method, include_raw=True).invoke("Where?")
    assert raw["parsing_error"] is None
    assert raw["raw"].additional_kwargs["reasoning_content"] == THOUGHT


@pytest.mark.parametrize("method", ["json_schema", "json_mode"])
def test_reasoning_without_an_end_is_an_error(chat: Make, ollama_server: OllamaServer, method: Any) -> None:
    ollama_server.reply(lines("<think>Is it", " Rome?"))
    chain = chat().with_structured_output(Place, method=method)
    with pytest.raises(OutputParserException, match="reasoning=False"):
        chain.invoke("Where?")
    with pytest.raises(OutputParserException, match="reasoning=False"):
        list(chain.stream("Where?"))


async def test_an_agent_with_provider_strategy(chat: Make, ollama_server: OllamaServer) -> None:
    ollama_server.reply(lines(f"<think>{THOUGHT}</think>", '{"city": "Rome"}'))
    agent = create_agent(chat(), [], response_format=ProviderStrategy(Place))
    start: Any = {"messages": [HumanMessage("Where?")]}
    assert agent.invoke(start)["structured_response"] == Place(city="Rome")
    assert (await agent.ainvoke(start))["structured_response"] == Place(city="Rome")
    streamed = list(agent.stream(start, stream_mode=["values", "messages"]))
    assert [v for mode, v in streamed if mode == "values"][-1]["structured_response"] == Place(city="Rome")
