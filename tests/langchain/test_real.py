"""Typical applications, with answers of a real server: replayed from cassettes, and live if a server is running."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelRequest, wrap_model_call
from langchain_core.caches import InMemoryCache
from langchain_core.documents import Document
from langchain_core.exceptions import ModelNotFoundError
from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.utils.stream_lifecycle import assert_valid_event_stream
from langgraph.checkpoint.memory import InMemorySaver
from one_layer import one_layer
from pydantic import BaseModel

from langchain_namel3ss_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM
from namel3ss_ollama import OllamaProvider

TOOLS, THINKS, EMBEDS = "smollm2-tools:135m", "smollm2-think:135m", "all-minilm:22m"
QUESTION = "What is the capital of Portugal?"
Make = Callable[..., Any]
pytestmark = [pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore:.* is in beta")]


@pytest.fixture(params=["replayed", pytest.param("live", marks=pytest.mark.live)])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes models; live, their small copies, unless the answer needs a capable model (`sensible`)."""
    live = request.param == "live"
    provider = OllamaProvider("unset", request.getfixturevalue("copies")) if live else request.getfixturevalue("player")

    def build(cls: Any = ChatOllama, model: str = TOOLS, *, sensible: bool = False, **arguments: Any) -> Any:
        fixed = {"temperature": 0, "seed": 1, "num_predict": 16, "num_ctx": 2048, "provider": provider}
        return cls(model=one_layer(model) if live and not sensible else model, **{**fixed, **arguments})

    yield build
    provider.close()


class Weather(BaseModel):
    """The weather."""

    sky: Literal["blue", "grey"]
    degrees: int


def weather(city: Literal["Rome", "Oslo"]) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


async def test_a_chain(make: Make) -> None:
    chain = ChatPromptTemplate.from_template("Say {word}.") | make() | StrOutputParser()
    text = chain.invoke({"word": "hello"})
    assert text
    assert "".join(chain.stream({"word": "hello"})) == text
    assert await chain.ainvoke({"word": "hello"}) == text


def test_across_two_runs_and_inside_a_running_loop(make: Make) -> None:
    model = make(num_predict=4)

    async def both() -> str:
        answer = await model.ainvoke("Hi")
        assert model.invoke("Hi").content == answer.content
        return str(answer.content)

    assert asyncio.run(both()) == asyncio.run(both())


async def test_structured_output_by_grammar(make: Make) -> None:
    model = make(num_predict=64, sensible=True)
    for method in ("json_schema", "function_calling"):
        structured = model.with_structured_output(Weather, method=method)
        assert isinstance(structured.invoke("The sky is blue, 20 degrees."), Weather)
    assert isinstance([v async for v in structured.astream("The sky is blue, 20 degrees.")][-1], Weather)


def test_reasoning(make: Make) -> None:
    model = make(model=THINKS, reasoning=True, num_predict=40, sensible=True)
    answer = model.invoke(QUESTION)
    assert answer.additional_kwargs["reasoning_content"]
    pieces = list(model.stream(QUESTION))
    whole = pieces[0] + pieces[1:]
    assert whole.additional_kwargs == answer.additional_kwargs
    events = list(model.stream_events(QUESTION, version="v3"))
    assert_valid_event_stream(events)
    assert events[1]["content"]["type"] == "reasoning"


def test_fallbacks(make: Make) -> None:
    other = make()
    model = make(model="nope").with_fallbacks([other], exceptions_to_handle=(ModelNotFoundError,))
    assert model.invoke("Hi").response_metadata["model_name"] == other.model


async def test_a_cache_with_two_models(make: Make) -> None:
    cache = InMemoryCache()
    one, two = make(cache=cache), make(model=THINKS, cache=cache)
    first = one.invoke("Hi").response_metadata
    assert (await two.ainvoke("Hi")).response_metadata["model_name"] == two.model
    assert one.invoke("Hi").response_metadata["created_at"] == first["created_at"]


def test_a_retriever(make: Make) -> None:
    store = InMemoryVectorStore(make(OllamaEmbeddings, model=EMBEDS, num_predict=None, seed=None, temperature=None))
    store.add_documents([Document("Cats purr when they are happy."), Document("Trains run on rails.")])
    assert store.as_retriever(search_kwargs={"k": 1}).invoke("A kitten")[0].page_content.startswith("Cats")


def test_a_text_model(make: Make) -> None:
    model = make(OllamaLLM)
    assert "".join(model.stream("The sky is")) == model.invoke("The sky is")


def test_an_agent(make: Make) -> None:
    @wrap_model_call  # a model of this size calls no tool unless it must
    def first_the_tool(request: ModelRequest, handler: Any) -> Any:
        answered = isinstance(request.messages[-1], ToolMessage)
        return handler(request.override(tool_choice="none" if answered else "any"))

    agent = create_agent(
        make(num_predict=40, sensible=True), [weather], middleware=[first_the_tool], checkpointer=InMemorySaver()
    )
    config: Any = {"configurable": {"thread_id": "1"}}
    start: Any = {"messages": [HumanMessage("The weather in Rome?")]}
    pieces = [piece for piece, _ in agent.stream(start, config, stream_mode="messages")]
    assert any(isinstance(piece, AIMessageChunk) and piece.tool_call_chunks for piece in pieces)
    messages = agent.get_state(config).values["messages"]
    assert [message.type for message in messages] == ["human", "ai", "tool", "ai"]
    assert messages[1].tool_calls[0]["name"] == "weather"
    assert messages[2].content.startswith("sunny in ")
    assert messages[3].content


async def test_a_profile(make: Make) -> None:
    profile = await make().aload_profile()
    assert profile["tool_calling"]
    assert profile["max_input_tokens"] == 2048
    assert not make(model=EMBEDS).load_profile()["tool_calling"]
