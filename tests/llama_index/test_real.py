"""Typical applications, with answers of a real server: replayed from cassettes, and live if a server is running.

The models are small: answers are well-formed, whatever they say.
"""

# No `from __future__ import annotations`: LlamaIndex does not resolve string annotations of tools and steps.

import asyncio
import contextlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import pytest
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.agent.workflow import AgentStream, AgentWorkflow, FunctionAgent, ReActAgent, ToolCallResult
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.evaluation import FaithfulnessEvaluator
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.node_parser import TokenTextSplitter
from llama_index.core.prompts import PromptTemplate
from llama_index.core.query_engine import RouterQueryEngine
from llama_index.core.schema import TextNode
from llama_index.core.selectors import PydanticSingleSelector
from llama_index.core.tools import FunctionTool, QueryEngineTool
from llama_index.core.types import PydanticProgramMode
from llama_index.core.workflow import Context, Event, StartEvent, StopEvent, Workflow, step
from one_layer import one_layer
from pydantic import BaseModel

from llama_index.embeddings.namel3ss_ollama import OllamaEmbedding
from llama_index.llms.namel3ss_ollama import Ollama, StructuredOutputError
from namel3ss_ollama import ModelNotFoundError, OllamaProvider

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince211"),
]

ASK = [ChatMessage(role="user", content="Name a river. Answer in three words.")]
LIMIT: dict[str, Any] = {"num_predict": 24, "seed": 1}


Make = Callable[..., Any]


@pytest.fixture(params=["replayed", pytest.param("live", marks=pytest.mark.live)])
def make(request: pytest.FixtureRequest) -> Make:
    """Makes LLMs and embeddings that talk to a real server, or to its cassette.

    Live, they are small copies of the models, unless the answer needs a capable model (`sensible`).
    """
    replayed = request.param == "replayed"
    url = request.getfixturevalue("cassette" if replayed else "copies")

    def build(
        model: str = "smollm2:135m",
        *,
        cls: Any = Ollama,
        max_concurrent: int = 2,
        sensible: bool = False,
        **settings: Any,
    ) -> Any:
        # vcrpy hooks in below httpx; requests and responses are the same over either transport
        transport: Any = "httpx" if replayed else "aiohttp"
        name = model if replayed or sensible else one_layer(model)
        provider = OllamaProvider(name, url, transport=transport, max_concurrent=max_concurrent)
        fixed = {"temperature": 0.0, "additional_kwargs": LIMIT} if cls is Ollama else {}
        return cls(provider=provider, **{**fixed, **settings})

    return build


@pytest.fixture
def vectors(make: Make) -> OllamaEmbedding:
    embedding: OllamaEmbedding = make("all-minilm:22m", cls=OllamaEmbedding)
    return embedding


@pytest.fixture
def index(vectors: OllamaEmbedding) -> VectorStoreIndex:
    texts = ["Rome is the capital of Italy.", "Paris is the capital of France.", "Oslo lies on a fjord in Norway."]
    splitter = TokenTextSplitter(chunk_size=64, chunk_overlap=0)
    return VectorStoreIndex.from_documents(
        [Document(text=text) for text in texts], embed_model=vectors, transformations=[splitter]
    )


def test_all_ways_agree(make: Make) -> None:
    counter = TokenCountingHandler(tokenizer=lambda text: pytest.fail("it should not have to count itself"))
    llm = make(callback_manager=CallbackManager([counter]))

    async def asynchronously() -> list[str]:
        streamed = [response async for response in await llm.astream_chat(ASK)]
        assert "".join(response.delta for response in streamed) == streamed[-1].message.content
        return [str((await llm.achat(ASK)).message.content), str(streamed[-1].message.content)]

    texts = [llm.chat(ASK).message.content, list(llm.stream_chat(ASK))[-1].message.content]
    texts += asyncio.run(asynchronously()) + asyncio.run(asynchronously())
    assert texts[0]
    assert len(set(texts)) == 1
    usage = llm.complete(ASK[0].content or "").raw["usage"]
    assert usage["prompt_tokens"] > 5
    assert counter.prompt_llm_token_count == 7 * usage["prompt_tokens"]


def test_threads(make: Make) -> None:
    llm = make(max_concurrent=2)
    with ThreadPoolExecutor(3) as pool:
        texts = list(pool.map(lambda _: llm.complete("Name a river.", max_tokens=4).text, range(3)))
    assert len(set(texts)) == 1


@pytest.mark.server_only("it reports the window in use, as newer servers do")
def test_the_window_and_a_missing_model(make: Make) -> None:
    assert make(sensible=True).load().metadata.context_window == 3900  # this server does not report the window in use
    assert (
        make(context_window=10**6, sensible=True).load().metadata.context_window == 2048 * 4
    )  # limited by the model's own
    with pytest.raises(ModelNotFoundError, match="ollama pull"):
        make("no-such-model").complete("Hello")


def test_thinking(make: Make) -> None:
    responses = list(make("smollm2-think:135m", sensible=True).stream_chat(ASK, think=True))
    thought = "".join(response.additional_kwargs["thinking_delta"] or "" for response in responses)
    blocks = {type(block).__name__ for block in responses[-1].message.blocks}
    assert ("ThinkingBlock" in blocks) == bool(thought)


class City(BaseModel):
    """A city."""

    name: str
    size: Literal["small", "large"]


@pytest.mark.parametrize("mode", [PydanticProgramMode.DEFAULT, PydanticProgramMode.FUNCTION])
def test_structured_output(make: Make, mode: Any) -> None:
    limit = {"num_predict": 80, "seed": 1}
    llm = make("smollm2-tools:135m", sensible=True, pydantic_program_mode=mode, additional_kwargs=limit)
    prompt = PromptTemplate("Name a city in {country}.")
    assert isinstance(llm.structured_predict(City, prompt, country="Italy"), City)
    assert isinstance(list(llm.stream_structured_predict(City, prompt, country="Italy"))[-1], City)

    async def asynchronously() -> list[Any]:
        streamed = [one async for one in await llm.astream_structured_predict(City, prompt, country="Italy")]
        return [await llm.astructured_predict(City, prompt, country="Italy"), streamed[-1]]

    assert all(isinstance(one, City) for one in asyncio.run(asynchronously()))
    if mode == PydanticProgramMode.DEFAULT:
        with pytest.raises(StructuredOutputError, match=r"not a valid City.*cut by the token limit"):
            llm.structured_predict(City, prompt, {"max_tokens": 3}, country="Italy")


def weather(city: str) -> str:
    """The weather in a city."""
    return f"It is sunny in {city}."


def test_a_forced_tool_and_its_answer(make: Make) -> None:
    llm = make("smollm2-tools:135m", sensible=True, additional_kwargs={"num_predict": 60, "seed": 1})
    tool = FunctionTool.from_defaults(weather)
    history = [ChatMessage(role="user", content="The weather in Rome?")]
    for response in (
        llm.chat_with_tools([tool], chat_history=history, tool_required=True),
        list(llm.stream_chat_with_tools([tool], chat_history=history, tool_choice="weather"))[-1],
    ):
        selection = llm.get_tool_calls_from_response(response)[0]
        assert selection.tool_name == "weather"
        assert isinstance(selection.tool_kwargs["city"], str)
        extra = {"tool_call_id": selection.tool_id}
        answer = ChatMessage(role="tool", content="sunny", additional_kwargs=extra)
        assert llm.chat([*history, response.message, answer]).raw["done"]


async def test_agents(make: Make) -> None:
    llm = make("smollm2-tools:135m", sensible=True, additional_kwargs={"num_predict": 60, "seed": 1})
    agent = FunctionAgent(tools=[weather], llm=llm, initial_tool_choice="weather", max_iterations=2)
    for runner in (agent, AgentWorkflow(agents=[agent], root_agent=agent.name)):
        handler = runner.run("The weather in Rome?", max_iterations=2, early_stopping_method="generate")
        events = [event async for event in handler.stream_events()]
        await handler
        assert any(isinstance(event, ToolCallResult) for event in events)
        assert all(json.dumps(event.raw) for event in events if isinstance(event, AgentStream))


async def test_react_agent(make: Make) -> None:
    handler = ReActAgent(tools=[weather], llm=make(sensible=True)).run(
        "Say hello.", max_iterations=1, early_stopping_method="generate"
    )
    streams = [event async for event in handler.stream_events() if isinstance(event, AgentStream)]
    await handler
    assert streams
    assert streams[-1].response


async def test_retrieval(make: Make, index: VectorStoreIndex) -> None:
    llm = make(sensible=True)
    nodes = await index.as_retriever(similarity_top_k=1).aretrieve("Which town is on a fjord?")
    assert "Oslo" in nodes[0].get_content()
    response = await index.as_query_engine(llm=llm, similarity_top_k=1).aquery("Capital of Italy?")
    streaming: Any = index.as_query_engine(llm=llm, similarity_top_k=1, streaming=True).query("Capital of Italy?")
    assert "".join(streaming.response_gen) == str(response)
    chat = index.as_chat_engine(chat_mode="context", llm=llm, memory=ChatMemoryBuffer.from_defaults())
    first = await chat.achat("Capital of Italy?")
    stream = await chat.astream_chat("And of France?")
    assert "".join([token async for token in stream.async_response_gen()])
    assert chat.chat_history[1].content == str(first)


def test_routing_and_evaluation(make: Make, index: VectorStoreIndex) -> None:
    llm = make("smollm2-tools:135m", sensible=True, additional_kwargs={"num_predict": 60, "seed": 1})
    engine = index.as_query_engine(llm=llm, similarity_top_k=1)
    tools = [QueryEngineTool.from_defaults(engine, name="cities", description="About cities")]
    router = RouterQueryEngine.from_defaults(tools, llm=llm, selector=PydanticSingleSelector.from_defaults(llm=llm))
    # A model this small may choose something that does not exist; the test checks the form of its choice.
    with contextlib.suppress(IndexError):
        assert str(router.query("Capital of Italy?"))
    result = FaithfulnessEvaluator(llm=llm).evaluate(query="?", response="Rome.", contexts=["Rome is in Italy."])
    assert result.passing in (True, False)


class _Question(Event):
    text: str


class _Answer(Event):
    text: str


class _Parallel(Workflow):
    """Asks several questions at once."""

    def __init__(self, llm: Ollama, **settings: Any) -> None:
        super().__init__(**settings)
        self.llm = llm

    @step
    async def begin(self, ctx: Context, event: StartEvent) -> _Question | None:
        for country in ("Italy", "France", "Norway", "Greece", "Poland", "Egypt"):
            ctx.send_event(_Question(text=f"Name a city in {country}."))
        return None

    @step(num_workers=3)
    async def ask(self, event: _Question) -> _Answer:
        return _Answer(text=(await self.llm.acomplete(event.text, max_tokens=6)).text)

    @step
    async def end(self, ctx: Context, event: _Answer) -> StopEvent | None:
        answers = ctx.collect_events(event, [_Answer] * 3)
        return StopEvent(result=[answer.text for answer in answers]) if answers else None


async def test_a_workflow_with_parallel_steps(make: Make) -> None:
    answers = await _Parallel(make(context_window=2048, max_concurrent=3, sensible=True), timeout=300).run()
    assert len(answers) == 3
    assert all(answers)


def test_ingestion(vectors: OllamaEmbedding) -> None:
    vectors.embed_batch_size = 3
    nodes = [TextNode(text=f"Node {n}") for n in range(8)]
    done = IngestionPipeline(transformations=[vectors]).run(nodes=nodes)
    assert {len(node.embedding or []) for node in done} == {384}
    alone = vectors.get_text_embedding("Node 5")
    assert vectors.similarity(alone, done[5].embedding or []) > 0.999
    assert asyncio.run(vectors.aget_query_embedding("Node 5")) == pytest.approx(alone, abs=1e-4)
