"""Inside LangChain and LangGraph: chains, history, fallbacks, retries, agents, caches, tracers."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware, ModelRetryMiddleware
from langchain_core.caches import BaseCache
from langchain_core.chat_history import InMemoryChatMessageHistory
from langchain_core.exceptions import ModelAPIError, ModelNotFoundError
from langchain_core.load import dumps, loads
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.output_parsers import JsonOutputParser, StrOutputParser
from langchain_core.outputs import ChatGeneration
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import RunnableWithMessageHistory
from langchain_core.tracers.base import BaseTracer
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from pydantic import BaseModel

from langchain_namel3ss_ollama import ChatOllama
from namel3ss_ollama.testing import OllamaServer, Reply, ToolCall

Make = Callable[..., ChatOllama]
ROME = ToolCall("weather", {"city": "Rome"}, id="call_rome")


def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


class Report(BaseModel):
    """A report."""

    city: str
    sunny: bool


@pytest.fixture
def agent_server(ollama_server: OllamaServer) -> OllamaServer:
    """Replies with a tool call first, then with the final answer."""
    answered = ollama_server.on(predicate=lambda record: record.payload["messages"][-1]["role"] == "tool")
    answered.reply(["It", " is", " sunny."])
    ollama_server.on(contains="weather").reply("", thinking="Let me look.", tool_calls=[ROME])
    return ollama_server


async def test_a_chain_with_parsers(chat: Make, ollama_server: OllamaServer) -> None:
    ollama_server.reply('{"city": "Rome"}')
    prompt = ChatPromptTemplate.from_messages([("system", "You know {what}."), ("human", "Where?")])
    chain = prompt | chat() | StrOutputParser()
    assert chain.invoke({"what": "places"}) == '{"city": "Rome"}'
    assert "".join(chain.stream({"what": "places"})) == '{"city": "Rome"}'
    parsed = prompt | chat(format="json") | JsonOutputParser()
    assert await parsed.ainvoke({"what": "places"}) == {"city": "Rome"}
    assert [value async for value in parsed.astream({"what": "places"})][-1] == {"city": "Rome"}
    assert await chain.abatch([{"what": "a"}, {"what": "b"}]) == ['{"city": "Rome"}'] * 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*RunnableWithMessageHistory")
def test_a_history(chat: Make, ollama_server: OllamaServer) -> None:
    history = InMemoryChatMessageHistory()
    prompt = ChatPromptTemplate.from_messages([MessagesPlaceholder("history"), ("human", "{question}")])
    chain = RunnableWithMessageHistory(
        prompt | chat(), lambda: history, input_messages_key="question", history_messages_key="history",
        history_factory_config=[],
    )  # fmt: skip
    ollama_server.on(path="/api/chat").sequence("I am fine.", "As I said.")
    chain.invoke({"question": "How are you?"})
    chain.invoke({"question": "Really?"})
    sent = [m["content"] for m in ollama_server.requests[-1].payload["messages"]]
    assert sent == ["How are you?", "I am fine.", "Really?"]


async def test_fallbacks(chat: Make, ollama_server: OllamaServer) -> None:
    ollama_server.reply("I am here.")
    model = chat("nope").with_fallbacks([chat()], exceptions_to_handle=(ModelNotFoundError,))
    assert model.invoke("Hi").content == "I am here."
    assert (await model.ainvoke("Hi")).content == "I am here."
    assert "".join(str(piece.content) for piece in model.stream("Hi")) == "I am here."


async def test_retries_of_langchain(chat: Make, ollama_server: OllamaServer) -> None:
    ollama_server.fault("status", status=503, times=2)
    model = chat(max_retries=0).with_retry(
        retry_if_exception_type=(ModelAPIError,), wait_exponential_jitter=False, stop_after_attempt=3
    )
    assert (await model.ainvoke("Hi")).content
    assert len(ollama_server.requests) == 3


class SQLiteCache(BaseCache):
    """A cache in a file, as LangChain's is: keyed by prompt and model, values serialised."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path)
        self._db.execute("create table cache (prompt text, model text, value text)")

    def lookup(self, prompt: str, llm_string: str) -> Any:
        found = self._db.execute("select value from cache where prompt=? and model=?", (prompt, llm_string)).fetchall()
        return [loads(value, allowed_objects=[ChatGeneration, AIMessage]) for (value,) in found] or None

    def update(self, prompt: str, llm_string: str, return_val: Any) -> None:
        for value in return_val:
            self._db.execute("insert into cache values (?, ?, ?)", (prompt, llm_string, dumps(value)))

    def clear(self, **_: Any) -> None:
        self._db.close()


@pytest.mark.filterwarnings("ignore:.* is in beta")
def test_a_cache_in_sqlite_with_two_models(chat: Make, ollama_server: OllamaServer, tmp_path: Path) -> None:
    ollama_server.on(path="/api/chat").reply(lambda record: Reply(f"I am {record.model}.", thinking="Hm."))
    cache = SQLiteCache(tmp_path / "cache.sqlite")
    one, two = chat(cache=cache), chat("qwen3", cache=cache, reasoning=True)
    for _ in range(2):
        assert one.invoke("Who?").content == "I am llama3.2."
        answer = two.invoke("Who?")
        assert (answer.content, answer.additional_kwargs) == ("I am qwen3.", {"reasoning_content": "Hm."})
    assert len(ollama_server.requests) == 2
    cache.clear()


class Tracer(BaseTracer):
    """Keeps complete runs, as LangSmith's tracer does."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[Any] = []

    def _persist_run(self, run: Any) -> None:
        self.runs.append(run)


def test_a_tracer_gets_metadata_and_no_key(chat: Make, ollama_server: OllamaServer) -> None:
    tracer = Tracer()
    model = chat(api_key="s3cr3t", headers={"x-key": "s3cr3t"}, temperature=0.5)
    model.invoke("Hi", {"callbacks": [tracer]})
    list(model.stream("Hi", {"callbacks": [tracer]}))
    ollama_server.fault("status", status=500, message="it broke")
    with pytest.raises(ModelAPIError):
        model.invoke("Hi", {"callbacks": [tracer]})
    for run in tracer.runs:
        assert run.extra["metadata"]["ls_provider"] == "ollama"
        assert run.extra["invocation_params"]["temperature"] == 0.5
        assert run.serialized["id"][-1] == "ChatOllama"
        assert run.end_time is not None
        assert "s3cr3t" not in str(run)
    assert "it broke" in tracer.runs[-1].error
    assert "it broke" in str(tracer.runs[-1].outputs)


async def test_an_agent_with_a_tool(chat: Make, agent_server: OllamaServer) -> None:
    agent = create_agent(chat("qwen3", reasoning=True), [weather])
    for state in (
        agent.invoke({"messages": [HumanMessage("The weather in Rome?")]}),
        await agent.ainvoke({"messages": [HumanMessage("The weather in Rome?")]}),
    ):
        asked, result, answer = state["messages"][1:]
        assert [(c["id"], c["args"]) for c in asked.tool_calls] == [("call_rome", {"city": "Rome"})]
        assert isinstance(result, ToolMessage)
        assert answer.content == "It is sunny."
    sent = agent_server.requests[-1].payload["messages"]
    assert sent[1]["thinking"] == "Let me look."
    assert sent[2] == {"role": "tool", "content": "sunny in Rome", "tool_name": "weather", "tool_call_id": "call_rome"}


@pytest.mark.parametrize("version", ["v0", "v1"])
async def test_an_agent_streams_in_every_mode(chat: Make, agent_server: OllamaServer, version: str) -> None:
    agent = create_agent(chat("qwen3", output_version=version), [weather])
    start: Any = {"messages": [HumanMessage("The weather in Rome?")]}
    pieces = list(agent.stream(start, stream_mode="messages"))
    apieces = [piece async for piece in agent.astream(start, stream_mode="messages")]
    # Before Python 3.11, an async LangGraph node does not pass its callbacks to the model inside it.
    for found in (pieces, apieces) if sys.version_info >= (3, 11) else (pieces,):
        texts = [m.text for m, about in found if isinstance(m, AIMessageChunk) and about["langgraph_node"] == "model"]
        assert [text for text in texts if text] == ["It", " is", " sunny."]
        chunks = [m for m, _ in found if isinstance(m, AIMessageChunk) and m.tool_call_chunks]
        assert [c.tool_call_chunks[0]["name"] for c in chunks] == ["weather"]
    assert [list(update) for update in agent.stream(start, stream_mode="updates")] == [["model"], ["tools"], ["model"]]
    values = [len(value["messages"]) async for value in agent.astream(start, stream_mode="values")]
    assert values == [1, 2, 3, 4]


def test_an_agent_is_interrupted_and_resumed(chat: Make, agent_server: OllamaServer) -> None:
    agent = create_agent(
        chat("qwen3"),
        [weather],
        checkpointer=InMemorySaver(),
        middleware=[HumanInTheLoopMiddleware(interrupt_on={"weather": True})],
    )
    config: Any = {"configurable": {"thread_id": "1"}}
    state = agent.invoke({"messages": [HumanMessage("The weather in Rome?")]}, config)
    assert "__interrupt__" in state
    assert len(agent_server.requests) == 1
    state = agent.invoke(Command(resume={"decisions": [{"type": "approve"}]}), config)
    assert state["messages"][-1].content == "It is sunny."
    assert len(agent_server.requests) == 2


def test_an_agent_with_structured_output_calls_its_tools_too(chat: Make, ollama_server: OllamaServer) -> None:
    ollama_server.on(path="/api/chat").sequence(
        Reply(tool_calls=[ROME]), Reply(tool_calls=[ToolCall("Report", {"city": "Rome", "sunny": True})])
    )
    model = chat()
    model.load_profile()
    agent = create_agent(model, [weather], response_format=Report)
    # For structured output with a tool, LangChain forces "any" call, which a grammar enforces.
    state = agent.invoke({"messages": [HumanMessage("The weather in Rome?")]})
    assert state["structured_response"] == Report(city="Rome", sunny=True)
    asked = [record.payload for record in ollama_server.requests if record.path == "/api/chat"]
    assert all("anyOf" in payload["format"] for payload in asked)
    assert len(asked) == 2


def test_the_retry_middleware_skips_missing_models(chat: Make, ollama_server: OllamaServer) -> None:
    middleware = ModelRetryMiddleware(max_retries=2, initial_delay=0.0, jitter=False, on_failure="error")
    agent = create_agent(chat(max_retries=0), [], middleware=[middleware])
    start: Any = {"messages": [HumanMessage("Hi")]}
    ollama_server.fault("status", status=503, times=1)
    assert agent.invoke(start)["messages"][-1].content
    assert len(ollama_server.requests) == 2
    lost = create_agent(chat("nope", max_retries=0), [], middleware=[middleware])
    with pytest.raises(ModelNotFoundError):
        lost.invoke(start)
    assert len(ollama_server.requests) == 3  # asked once: retrying does not help if the model is missing


def test_a_store_retriever_and_an_answer(chat: Make, ollama_server: OllamaServer) -> None:
    from langchain_core.documents import Document
    from langchain_core.runnables import RunnablePassthrough
    from langchain_core.vectorstores import InMemoryVectorStore

    from langchain_namel3ss_ollama import OllamaEmbeddings

    store = InMemoryVectorStore(OllamaEmbeddings(model="all-minilm", base_url=ollama_server.url))
    store.add_documents([Document("cats purr"), Document("dogs bark")])
    prompt = ChatPromptTemplate.from_template("Known: {context}. {question}")

    def joined(found: list[Document]) -> str:
        return "; ".join(one.page_content for one in found)

    retriever = store.as_retriever(search_kwargs={"k": 1})
    chain: Any = {"context": retriever | joined, "question": RunnablePassthrough()} | prompt | chat()
    chain.invoke("cats purr")
    assert ollama_server.requests[-1].payload["messages"][0]["content"] == "Known: cats purr. cats purr"
