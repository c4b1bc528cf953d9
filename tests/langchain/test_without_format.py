"""Structured output on servers that ignore `format`, with each of LangChain's methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.exceptions import OutputParserException
from pydantic import BaseModel

from langchain_namel3ss_ollama import ChatOllama
from namel3ss_ollama.testing import OllamaServer, Reply, ToolCall

Make = Callable[..., ChatOllama]
PROSE = "Rome, of course."
ROME = '{"city": "Rome"}'
CALL = '{"name": "Place", "arguments": {"city": "Rome"}}'
NO_GRAMMAR = "failed to parse grammar"


class Place(BaseModel):
    """A place."""

    city: str


def fields(server: OllamaServer) -> list[set[str]]:
    return [{"format", "tools"} & (one.payload or {}).keys() for one in server.requests if one.path == "/api/chat"]


@pytest.mark.parametrize("first", [PROSE, '{"town": "Rome"}', "```json\n{}\n```"], ids=["prose", "keys", "fence"])
async def test_an_ignored_schema_is_described_in_the_prompt(
    chat: Make, ollama_server: OllamaServer, first: str
) -> None:
    # Once wrong: OutputParserException, each time.
    ollama_server.on().sequence(first, ROME)
    ollama_server.reply(ROME)
    chain = chat().with_structured_output(Place)
    assert chain.invoke("Where?") == await chain.ainvoke("Where?") == Place(city="Rome")
    assert list(chain.stream("Where?"))[-1] == Place(city="Rome")
    assert fields(ollama_server) == [{"format"}, set(), set(), set()]


async def test_json_in_thinking(chat: Make, ollama_server: OllamaServer) -> None:
    ollama_server.on().reply("", thinking=ROME)
    assert chat("qwen3").with_structured_output(Place).invoke("Where?") == Place(city="Rome")
    chain = chat("qwen3").with_structured_output(Place)
    assert list(chain.stream("Where?"))[-1] == Place(city="Rome")
    assert [value async for value in chain.astream("Where?")][-1] == Place(city="Rome")


async def test_the_parsers_error_lists_the_attempts(chat: Make, ollama_server: OllamaServer) -> None:
    ollama_server.reply(PROSE)
    chain = chat().with_structured_output(Place)
    with pytest.raises(OutputParserException, match="described in the prompt") as caught:
        chain.invoke("Where?")
    assert caught.value.llm_output == PROSE
    with pytest.raises(OutputParserException, match="described in the prompt"):
        await chain.ainvoke("Where?")
    with pytest.raises(OutputParserException, match="had been handed out already"):
        list(chain.stream("Where?"))
    with pytest.raises(OutputParserException, match="had been handed out already"):
        _ = [value async for value in chain.astream("Where?")]
    raw = chat().with_structured_output(Place, include_raw=True).invoke("Where?")
    assert raw["raw"].content == PROSE
    assert "described in the prompt" in raw["raw"].response_metadata["format_error"]
    assert isinstance(raw["parsing_error"], OutputParserException)


@pytest.mark.parametrize(
    "first",
    [
        Reply(json={"error": NO_GRAMMAR}, status=400),
        Reply(tool_calls=[ToolCall("Time", {})]),
        Reply(PROSE),
    ],
    ids=["grammar", "another", "none"],
)
@pytest.mark.parametrize("how", ["invoke", "stream"])
def test_a_forced_call_is_described_in_the_prompt(
    chat: Make, ollama_server: OllamaServer, first: Reply, how: str
) -> None:
    # Once wrong: OllamaInvalidRequestError, or OllamaOutputError.
    ollama_server.on().sequence(first, CALL)
    chain: Any = chat().with_structured_output(Place, method="function_calling")
    found = chain.invoke("Where?") if how == "invoke" else list(chain.stream("Where?"))[-1]
    assert found == Place(city="Rome")
    assert fields(ollama_server) == [{"format", "tools"}, {"format"}]
