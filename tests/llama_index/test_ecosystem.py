"""LlamaIndex's components with the LLM and the embeddings: retrieval, chat, routing, agents, workflows, evaluation.

The server's replies are scripted. The tests check that requests and answers between LlamaIndex and the server are
complete, and in the expected form.
"""

# No `from __future__ import annotations`: LlamaIndex does not resolve string annotations of tools and steps.

import asyncio
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Document, SimpleDirectoryReader, SummaryIndex, VectorStoreIndex
from llama_index.core.agent.workflow import AgentStream, AgentWorkflow, FunctionAgent, ReActAgent, ToolCallResult
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.evaluation import FaithfulnessEvaluator
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.node_parser import SentenceSplitter, TokenTextSplitter
from llama_index.core.query_engine import RouterQueryEngine, SubQuestionQueryEngine
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.schema import TextNode
from llama_index.core.selectors import LLMSingleSelector, PydanticSingleSelector
from llama_index.core.tools import QueryEngineTool
from llama_index.core.workflow import Context, Event, StartEvent, StopEvent, Workflow, step
from packaging.version import Version
from pydantic import BaseModel

from llama_index.embeddings.namel3ss_ollama import OllamaEmbedding
from llama_index.llms.namel3ss_ollama import Ollama
from namel3ss_ollama.schemas import portable_schema
from namel3ss_ollama.testing import Gate, OllamaServer, Reply, ToolCall

# Raised by LlamaIndex's workflows, when an agent inspects its attributes.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince211")

TEXTS = {
    "rome.txt": "Rome is the capital of Italy. It has three million people.",
    "paris.txt": "Paris is the capital of France. It has two million people.",
    "oslo.txt": "Oslo is the capital of Norway. It is on a fjord.",
}


@pytest.fixture
def index(tmp_path: Path, embedding: OllamaEmbedding) -> VectorStoreIndex:
    for name, text in TEXTS.items():
        (tmp_path / name).write_text(text)
    documents = SimpleDirectoryReader(str(tmp_path)).load_data()
    return VectorStoreIndex.from_documents(documents, embed_model=embedding, transformations=[SentenceSplitter()])


# Retrieval

# Before 0.14.24, a synthesizer ignores the LLM's context window; before 0.14.25, it streams the answer in one piece.
not_on_older_synthesizers = pytest.mark.skipif(
    Version(version("llama-index-core")) < Version("0.14.25"), reason="LlamaIndex's own synthesizers, before 0.14.25"
)


def test_rag(ollama_server: OllamaServer, llm: Ollama, index: VectorStoreIndex, sent: Any) -> None:
    ollama_server.reply("It is Rome.", contains="capital of Italy?")
    response = index.as_query_engine(llm=llm, similarity_top_k=3).query("What is the capital of Italy?")
    assert str(response) == "It is Rome."
    assert len(response.source_nodes) == 3
    prompt = sent()[0]["messages"][-1]["content"]
    assert all(text in prompt for text in TEXTS.values())
    assert len(sent("/api/embed")) == 2


@not_on_older_synthesizers
def test_rag_streaming(ollama_server: OllamaServer, llm: Ollama, index: VectorStoreIndex) -> None:
    gate = Gate()
    ollama_server.reply(["It", " is", " Rome."], gates={1: gate})
    response: Any = index.as_query_engine(llm=llm, streaming=True).query("What is the capital of Italy?")
    tokens = iter(response.response_gen)
    assert next(tokens) == "It"  # while the server still holds back the rest
    gate.open()
    assert list(tokens) == [" is", " Rome.", ""]


@not_on_older_synthesizers
async def test_rag_async_and_async_streaming(ollama_server: OllamaServer, llm: Ollama, index: VectorStoreIndex) -> None:
    ollama_server.reply(["It", " is", " Rome."])
    response = await index.as_query_engine(llm=llm).aquery("What is the capital of Italy?")
    assert str(response) == "It is Rome."
    streaming: Any = await index.as_query_engine(llm=llm, streaming=True).aquery("What is the capital of Italy?")
    assert [token async for token in streaming.async_response_gen()] == ["It", " is", " Rome.", ""]


@not_on_older_synthesizers
def test_summaries_take_several_calls(ollama_server: OllamaServer, make_llm: Any, sent: Any) -> None:
    ollama_server.reply("a summary")
    # The context window limits the text of one call: a small window needs several calls.
    llm = make_llm(context_window=600, additional_kwargs={"num_predict": 50})
    nodes = [TextNode(text="word " * 300) for _ in range(4)]
    response = SummaryIndex(nodes).as_query_engine(llm=llm, response_mode="tree_summarize", use_async=False).query("?")
    assert str(response) == "a summary"
    assert len(sent()) >= 4
    assert all(len(body["messages"][-1]["content"].split()) < 600 for body in sent())


def test_a_structured_answer_of_a_query_engine(
    ollama_server: OllamaServer, llm: Ollama, index: VectorStoreIndex
) -> None:
    class Capital(BaseModel):
        """A capital."""

        city: str

    ollama_server.reply('{"city": "Rome"}')
    engine = index.as_query_engine(llm=llm, output_cls=Capital)
    response: Any = engine.query("What is the capital of Italy?")
    assert response.response == Capital(city="Rome")


def test_a_chat_engine_remembers(ollama_server: OllamaServer, llm: Ollama, index: VectorStoreIndex, sent: Any) -> None:
    ollama_server.sequence("It is Rome.", "What of Paris?", "It is Paris.")
    engine = index.as_chat_engine(chat_mode="condense_plus_context", llm=llm, memory=ChatMemoryBuffer.from_defaults())
    assert str(engine.chat("Italy's capital?")) == "It is Rome."
    assert "".join(engine.stream_chat("And France's?").response_gen) == "It is Paris."
    assert [message.content for message in engine.chat_history] == [
        "Italy's capital?",
        "It is Rome.",
        "And France's?",
        "It is Paris.",
    ]
    condensing, last = sent()[1], sent()[2]
    assert "It is Rome." in condensing["messages"][-1]["content"]
    assert [message["role"] for message in last["messages"]] == ["system", "user", "assistant", "user"]


async def test_a_chat_engine_asynchronously(ollama_server: OllamaServer, llm: Ollama, index: VectorStoreIndex) -> None:
    ollama_server.sequence("It is Rome.", "It is Paris.")
    engine = index.as_chat_engine(chat_mode="context", llm=llm, memory=ChatMemoryBuffer.from_defaults())
    assert str(await engine.achat("Italy's capital?")) == "It is Rome."
    stream = await engine.astream_chat("And France's?")
    assert "".join([token async for token in stream.async_response_gen()]) == "It is Paris."


# Routing: structured output


def _tools(llm: Ollama, index: VectorStoreIndex) -> list[QueryEngineTool]:
    engine = index.as_query_engine(llm=llm)
    return [
        QueryEngineTool.from_defaults(engine, name="cities", description="About cities"),
        QueryEngineTool.from_defaults(engine, name="people", description="About people"),
    ]


@pytest.mark.parametrize("selector", [LLMSingleSelector, PydanticSingleSelector])
def test_a_router(ollama_server: OllamaServer, llm: Ollama, index: VectorStoreIndex, selector: Any) -> None:
    if selector is LLMSingleSelector:
        ollama_server.reply('[{"choice": 2, "reason": "people"}]', times=1)
    else:
        call = ToolCall("SingleSelection", {"index": 2, "reason": "people"})
        ollama_server.reply(tool_calls=[call], times=1)
    ollama_server.reply("Three million.")
    engine = RouterQueryEngine.from_defaults(_tools(llm, index), llm=llm, selector=selector.from_defaults(llm=llm))
    response = engine.query("How many people has Rome?")
    assert str(response) == "Three million."
    assert response.metadata is not None
    assert response.metadata["selector_result"].selections[0].index == 1


def test_sub_questions(ollama_server: OllamaServer, llm: Ollama, index: VectorStoreIndex) -> None:
    items = [
        {"sub_question": "How many people has Rome?", "tool_name": "people"},
        {"sub_question": "Where is Oslo?", "tool_name": "cities"},
    ]
    ollama_server.reply(f"```json\n{json.dumps({'items': items})}\n```", times=1)
    ollama_server.reply("Three million.", contains="Query: How many people has Rome?")
    ollama_server.reply("On a fjord.", contains="Query: Where is Oslo?")
    ollama_server.reply("Both are capitals.")
    engine = SubQuestionQueryEngine.from_defaults(
        _tools(llm, index), llm=llm, question_gen=LLMQuestionGenerator.from_defaults(llm=llm), use_async=True
    )
    response = engine.query("Compare Rome and Oslo.")
    assert str(response) == "Both are capitals."
    context = "\n".join(node.node.get_content() for node in response.source_nodes)
    assert "Three million." in context
    assert "On a fjord." in context


# Ingestion


@pytest.mark.parametrize("asynchronous", [False, True])
def test_ingestion_of_a_thousand_nodes(ollama_server: OllamaServer, asynchronous: bool, sent: Any) -> None:
    embedding = OllamaEmbedding("all-minilm", ollama_server.url, embed_batch_size=100, max_concurrent=4)
    pipeline = IngestionPipeline(transformations=[embedding])
    nodes = [TextNode(text=f"Node number {n}.") for n in range(1000)]
    done = asyncio.run(pipeline.arun(nodes=nodes)) if asynchronous else pipeline.run(nodes=nodes)
    assert [node.get_content() for node in done] == [node.text for node in nodes]
    assert all(node.embedding is not None and len(node.embedding) == 384 for node in done)
    bodies = sent("/api/embed")
    assert [len(body["input"]) for body in bodies] == [100] * 10
    assert done[321].embedding == embedding.get_text_embedding("Node number 321.")
    assert embedding.provider.stats().queued == 0


def test_ingestion_of_documents_with_a_splitter(ollama_server: OllamaServer, embedding: OllamaEmbedding) -> None:
    pipeline = IngestionPipeline(transformations=[TokenTextSplitter(chunk_size=64, chunk_overlap=0), embedding])
    nodes = pipeline.run(documents=[Document(text="One sentence is here. " * 100)])
    assert len(nodes) > 5
    assert all(node.embedding for node in nodes)


# Agents


def weather(city: str) -> str:
    """The weather in a city."""
    return f"{city} is sunny."


def population(city: str) -> int:
    """How many people live in a city."""
    return 3


BOTH = [ToolCall("weather", {"city": "Rome"}), ToolCall("weather", {"city": "Oslo"})]


async def _events(handler: Any) -> list[Any]:
    return [event async for event in handler.stream_events()]


@pytest.mark.parametrize("streaming", [True, False])
async def test_function_agent(ollama_server: OllamaServer, make_llm: Any, sent: Any, streaming: bool) -> None:
    first = Reply("Let me see.", thinking="Hm", tool_calls=BOTH)
    ollama_server.sequence(first, Reply(["Both", " are", " sunny."], thinking="So"))
    llm = make_llm("qwen3", thinking=True)
    agent = FunctionAgent(tools=[weather, population], llm=llm, streaming=streaming, system_prompt="Be kind.")
    handler = agent.run("The weather in Rome and Oslo?")
    events = await _events(handler)
    result = await handler
    assert str(result) == "Both are sunny."
    results = [event for event in events if isinstance(event, ToolCallResult)]
    assert sorted(str(event.tool_output.content) for event in results) == ["Oslo is sunny.", "Rome is sunny."]
    if streaming:
        streams = [event for event in events if isinstance(event, AgentStream)]
        assert "".join(event.delta for event in streams) == "Let me see.Both are sunny."
        assert [event.thinking_delta for event in streams if event.thinking_delta] == ["Hm", "So"]
        assert streams[-1].raw["usage"]["total_tokens"] > 0
        assert all(json.dumps(event.raw) for event in streams)
    # The second request has the entire first turn: thinking, text, both calls with ids, and each answer's call id.
    assistant, *answers = sent()[1]["messages"][2:]
    assert (assistant["content"], assistant["thinking"]) == ("Let me see.", "Hm")
    calls = {call["id"]: call["function"]["arguments"]["city"] for call in assistant["tool_calls"]}
    assert len(calls) == 2
    for answer in answers:
        assert answer["tool_name"] == "weather"
        assert answer["content"] == f"{calls[answer['tool_call_id']]} is sunny."


async def test_function_agent_one_call_at_a_time(ollama_server: OllamaServer, llm: Ollama) -> None:
    ollama_server.sequence(Reply(tool_calls=BOTH), "Rome is sunny.")
    agent = FunctionAgent(tools=[weather], llm=llm, allow_parallel_tool_calls=False)
    handler = agent.run("The weather in Rome and Oslo?")
    results = [event for event in await _events(handler) if isinstance(event, ToolCallResult)]
    assert [event.tool_kwargs for event in results] == [{"city": "Rome"}]


async def test_function_agent_with_a_first_tool_and_an_output_class(
    ollama_server: OllamaServer, llm: Ollama, sent: Any
) -> None:
    class Weather(BaseModel):
        """The weather."""

        city: str
        sunny: bool

    ollama_server.reply('{"city": "Rome", "sunny": true}', contains="format the output")
    ollama_server.sequence('{"name": "weather", "arguments": {"city": "Rome"}}', "It is sunny.")
    agent = FunctionAgent(tools=[population, weather], llm=llm, initial_tool_choice="weather", output_cls=Weather)
    result = await agent.run("Rome?")
    assert result.structured_response == {"city": "Rome", "sunny": True}
    first, second, last = sent()
    assert first["format"]["properties"]["name"] == {"const": "weather"}
    assert "format" not in second
    assert last["format"] == portable_schema(Weather.model_json_schema())


async def test_agent_workflow_handoff(ollama_server: OllamaServer, llm: Ollama, sent: Any) -> None:
    handoff = ToolCall("handoff", {"to_agent": "forecaster", "reason": "it knows"})
    ollama_server.sequence(Reply(tool_calls=[handoff]), Reply(tool_calls=BOTH[:1]), "Rome is sunny.")
    host = FunctionAgent(name="host", description="greets", llm=llm, tools=[], can_handoff_to=["forecaster"])
    forecaster = FunctionAgent(name="forecaster", description="knows the weather", llm=llm, tools=[weather])
    workflow = AgentWorkflow(agents=[host, forecaster], root_agent="host")
    handler = workflow.run("The weather in Rome?")
    events = await _events(handler)
    assert str(await handler) == "Rome is sunny."
    assert {event.current_agent_name for event in events if isinstance(event, AgentStream)} == {"host", "forecaster"}
    assert [tool["function"]["name"] for tool in sent()[0]["tools"]] == ["handoff"]


async def test_react_agent(ollama_server: OllamaServer, llm: Ollama, sent: Any) -> None:
    ollama_server.sequence(
        'Thought: I need a tool.\nAction: weather\nAction Input: {"city": "Rome"}\n',
        "Thought: I can answer.\nAnswer: It is sunny.",
    )
    agent = ReActAgent(tools=[weather], llm=llm)
    handler = agent.run("The weather in Rome?")
    events = await _events(handler)
    assert str(await handler) == "It is sunny."
    streamed = "".join(event.delta for event in events if isinstance(event, AgentStream))
    assert streamed.startswith("Thought: I need a tool.\nAction: weather\nAction Input:")
    assert "Observation: Rome is sunny." in sent()[1]["messages"][-1]["content"]
    assert "tools" not in sent()[0]


async def test_an_agent_continues_a_stored_history(ollama_server: OllamaServer, llm: Ollama, sent: Any) -> None:
    ollama_server.sequence(Reply(tool_calls=BOTH[:1]), "Rome is sunny.", "I said so.")
    agent = FunctionAgent(tools=[weather], llm=llm)
    memory = ChatMemoryBuffer.from_defaults()
    await agent.run("The weather in Rome?", memory=memory)
    stored = [message.model_dump_json() for message in memory.get_all()]
    restored = ChatMemoryBuffer.from_defaults([ChatMessage.model_validate_json(one) for one in stored])
    assert str(await agent.run("Sure?", memory=restored)) == "I said so."
    before, after = sent()[1]["messages"], sent()[2]["messages"]
    assert [message["role"] for message in after] == ["user", "assistant", "tool", "assistant", "user"]
    assert after[:3] == before


# Workflows


class _Question(Event):
    number: int


class _Answer(Event):
    text: str


class _Parallel(Workflow):
    """Asks several questions at once."""

    def __init__(self, llm: Ollama, **settings: Any) -> None:
        super().__init__(**settings)
        self.llm = llm

    @step
    async def begin(self, ctx: Context, event: StartEvent) -> _Question | None:
        for number in range(4):
            ctx.send_event(_Question(number=number))
        return None

    @step(num_workers=4)
    async def ask(self, event: _Question) -> _Answer:
        return _Answer(text=(await self.llm.acomplete(f"number {event.number}")).text)

    @step
    async def end(self, ctx: Context, event: _Answer) -> StopEvent | None:
        answers = ctx.collect_events(event, [_Answer] * 4)
        return StopEvent(result=sorted(answer.text for answer in answers)) if answers else None


async def test_a_workflow_with_parallel_steps(ollama_server: OllamaServer, llm: Ollama) -> None:
    gate = Gate()
    ollama_server.reply(lambda record: Reply(record.text, gate=gate))
    handler = _Parallel(llm, timeout=20).run()
    await ollama_server.wait_for_async(lambda s: gate.waiting == 4)  # all at once
    gate.open()
    assert await handler == [f"number {n}" for n in range(4)]


# Evaluation


@pytest.mark.parametrize(("verdict", "passing"), [("YES", True), ("NO", False)])
async def test_faithfulness(ollama_server: OllamaServer, llm: Ollama, verdict: str, passing: bool) -> None:
    ollama_server.reply(verdict)
    evaluator = FaithfulnessEvaluator(llm=llm)
    result = await evaluator.aevaluate(query="?", response="Rome is big.", contexts=["Rome has three million people."])
    assert (result.passing, result.score) == (passing, float(passing))


async def test_memory_that_does_not_fit_is_left_out(ollama_server: OllamaServer, make_llm: Any, sent: Any) -> None:
    memory = ChatMemoryBuffer.from_defaults(token_limit=60)
    for n in range(20):
        memory.put(ChatMessage(role="user", content=f"Question {n}, with some words to it."))
        memory.put(ChatMessage(role="assistant", content=f"Answer {n}, with some words to it."))
    agent = FunctionAgent(tools=[weather], llm=make_llm())
    await agent.run("And now?", memory=memory)
    contents = [message["content"] for message in sent()[0]["messages"]]
    assert 1 <= len(contents) < 20
    assert contents[-1] == "And now?"
