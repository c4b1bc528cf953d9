"""Structured output on servers that ignore `format`, with each of LlamaIndex's methods."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.types import PydanticProgramMode
from pydantic import BaseModel

from llama_index.llms.namel3ss_ollama import Ollama, StructuredOutputError
from namel3ss_ollama.testing import OllamaServer, Reply, ToolCall

PROMPT = PromptTemplate("A place in {country}.")
PROSE = "Rome, of course."
ROME = '{"city": "Rome"}'
CALL = '{"name": "Place", "arguments": {"city": "Rome"}}'


class Place(BaseModel):
    """A place."""

    city: str


def predicted(llm: Ollama, how: str) -> Any:
    """The predicted object."""

    async def streamed() -> Any:
        return [one async for one in await llm.astream_structured_predict(Place, PROMPT, country="Italy")][-1]

    if how == "sync":
        return llm.structured_predict(Place, PROMPT, country="Italy")
    if how == "async":
        return asyncio.run(llm.astructured_predict(Place, PROMPT, country="Italy"))
    if how == "stream":
        return list(llm.stream_structured_predict(Place, PROMPT, country="Italy"))[-1]
    return asyncio.run(streamed())


def fields(server: OllamaServer) -> list[set[str]]:
    return [{"format", "tools"} & (one.payload or {}).keys() for one in server.requests if one.path == "/api/chat"]


@pytest.mark.parametrize("how", ["sync", "async"])
@pytest.mark.parametrize("first", [PROSE, '{"town": "Rome"}'], ids=["prose", "keys"])
def test_an_ignored_schema_is_described_in_the_prompt(
    ollama_server: OllamaServer, llm: Ollama, first: str, how: str
) -> None:
    # Once wrong: StructuredOutputError, each time.
    ollama_server.on().sequence(first, ROME)
    ollama_server.reply(ROME)
    for way in (how, "stream", "async stream"):
        assert predicted(llm, way) == Place(city="Rome")
    assert fields(ollama_server) == [{"format"}, set(), set(), set()]


def test_a_structured_llm(ollama_server: OllamaServer, llm: Ollama) -> None:
    ollama_server.on().sequence(PROSE, PROSE, ROME)
    response = llm.as_structured_llm(Place).chat([ChatMessage(role="user", content="Where?")])
    assert response.raw == Place(city="Rome")


@pytest.mark.parametrize("how", ["sync", "async", "stream", "async stream"])
def test_json_in_thinking(ollama_server: OllamaServer, make_llm: Any, how: str) -> None:
    ollama_server.reply("", thinking=ROME)
    assert predicted(make_llm("qwen3"), how) == Place(city="Rome")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("sync", "described in the prompt"),
        ("async", "described in the prompt"),
        ("stream", "had been handed out already"),
        ("async stream", "had been handed out already"),
    ],
)
def test_the_error_lists_the_attempts(ollama_server: OllamaServer, llm: Ollama, how: str, message: str) -> None:
    ollama_server.reply(PROSE)
    with pytest.raises(StructuredOutputError, match=f"not a valid Place.*{message}") as caught:
        predicted(llm, how)
    assert caught.value.text == PROSE


@pytest.mark.parametrize("how", ["sync", "async", "stream", "async stream"])
@pytest.mark.parametrize(
    "first",
    [
        Reply(json={"error": "failed to parse grammar"}, status=400),
        Reply(tool_calls=[ToolCall("Time", {})]),
        Reply(PROSE),
    ],
    ids=["grammar", "another", "none"],
)
def test_a_forced_call_is_described_in_the_prompt(
    ollama_server: OllamaServer, make_llm: Any, first: Reply, how: str
) -> None:
    ollama_server.on().sequence(first, CALL)
    assert predicted(make_llm(pydantic_program_mode=PydanticProgramMode.FUNCTION), how) == Place(city="Rome")
    assert fields(ollama_server) == [{"format", "tools"}, {"format"}]
