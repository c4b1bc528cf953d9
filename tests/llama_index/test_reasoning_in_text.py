"""Reasoning that a model writes before its JSON, in each mode of LlamaIndex's structured output."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core.prompts import PromptTemplate
from llama_index.core.types import PydanticProgramMode
from pydantic import BaseModel

from llama_index.llms.namel3ss_ollama import Ollama
from llama_index.llms.namel3ss_ollama.structured import StructuredOutputError
from namel3ss_ollama.testing import OllamaServer, Reply

PROMPT = PromptTemplate("Where?")
THOUGHT = 'Is {it} {"city": "Oslo"}?'


class Place(BaseModel):
    """A place."""

    city: str


def lines(*pieces: str) -> Reply:
    sent = [{"message": {"content": piece}, "done": False} for piece in pieces]
    return Reply(lines=[*sent, {"message": {"content": ""}, "done": True, "done_reason": "stop"}])


async def all_methods(llm: Ollama) -> list[Any]:
    return [
        llm.structured_predict(Place, PROMPT),
        await llm.astructured_predict(Place, PROMPT),
        list(llm.stream_structured_predict(Place, PROMPT))[-1],
        [item async for item in await llm.astream_structured_predict(Place, PROMPT)][-1],
    ]


MODES = [PydanticProgramMode.DEFAULT, PydanticProgramMode.LLM, PydanticProgramMode.FUNCTION]


@pytest.mark.parametrize("begin", ["<think>", ""])
@pytest.mark.parametrize("mode", MODES)
async def test_the_object_after_it_is_parsed(
    ollama_server: OllamaServer, llm: Ollama, mode: PydanticProgramMode, begin: str
) -> None:
    # Once wrong: an error each time
    call = '{"name": "Place", "arguments": {"city": "Rome"}}'
    text = f"{begin}{THOUGHT}</think>\n" + (call if mode is PydanticProgramMode.FUNCTION else '{"city": "Rome"}')
    ollama_server.reply(lines(text[:4], text[4:20], text[20:40], text[40:]))
    llm = llm.model_copy(update={"pydantic_program_mode": mode})
    assert await all_methods(llm) == [Place(city="Rome")] * 4


@pytest.mark.parametrize("mode", MODES[:2])
async def test_a_block_of_markdown(ollama_server: OllamaServer, llm: Ollama, mode: PydanticProgramMode) -> None:
    ollama_server.reply(lines("Here:\n```json\n", '{"city": "Rome"}', "\n```"))
    llm = llm.model_copy(update={"pydantic_program_mode": mode})
    assert await all_methods(llm) == [Place(city="Rome")] * 4


@pytest.mark.parametrize("mode", MODES[:2])
def test_reasoning_without_an_end_is_an_error(
    ollama_server: OllamaServer, llm: Ollama, mode: PydanticProgramMode
) -> None:
    ollama_server.reply(lines("<think>Is it", " Rome?"))
    llm = llm.model_copy(update={"pydantic_program_mode": mode})
    with pytest.raises(StructuredOutputError, match="nothing but its thinking"):
        llm.structured_predict(Place, PROMPT)
    with pytest.raises(StructuredOutputError, match="nothing but its thinking"):
        list(llm.stream_structured_predict(Place, PROMPT))
