"""The core's errors as LangChain's."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core import exceptions as langchain
from langchain_core.messages import HumanMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import RetryPolicy as GraphRetryPolicy

import namel3ss_ollama as core
from langchain_namel3ss_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM, errors
from namel3ss_ollama import StreamConfig
from namel3ss_ollama.testing import OllamaServer

Make = Callable[..., ChatOllama]

CASES: list[tuple[core.LLMError, type[Exception], bool]] = [
    (core.LLMConnectionError("x"), langchain.ModelConnectionError, True),
    (core.LLMTimeoutError("x", deadline="chunk_timeout"), langchain.ModelTimeoutError, True),
    (core.StreamInterruptedError("x"), langchain.ModelConnectionError, True),
    (core.ModelNotFoundError("x", status_code=404), langchain.ModelNotFoundError, False),
    (core.ServerBusyError("x", status_code=503), langchain.ModelAPIError, True),
    (core.ServerBusyError("x", status_code=429), langchain.ModelRateLimitError, True),
    (core.QuotaExceededError("x", status_code=429), langchain.ModelRateLimitError, False),
    (core.AuthenticationError("x", status_code=401), langchain.ModelAuthenticationError, False),
    (core.AuthenticationError("x", status_code=403), langchain.ModelPermissionDeniedError, False),
    (core.BadRequestError("x", status_code=400), langchain.ModelInvalidRequestError, False),
    (core.ContextWindowExceededError("x"), langchain.ContextOverflowError, False),
    (core.ServerError("x", status_code=500), langchain.ModelAPIError, False),
    (core.ServerError("x", status_code=500, temporary=True), langchain.ModelAPIError, True),
    (core.ToolCallParseError("x", status_code=500, text="{"), langchain.ModelAPIError, True),
    (core.MalformedResponseError("x"), langchain.ModelAPIError, False),
    (core.OutputValidationError("x"), langchain.ModelError, False),
    (core.QueueFullError("x"), langchain.ModelRateLimitError, True),
    (core.LLMError("x"), langchain.ModelError, False),
]


@pytest.mark.parametrize(("error", "kind", "retryable"), CASES, ids=lambda value: type(value).__name__)
def test_each_error_is_also_langchains(error: core.LLMError, kind: Any, retryable: bool) -> None:
    error.retry_after = 3.0
    made = errors.translated(error)
    assert isinstance(made, kind)
    assert isinstance(made, type(error))
    assert made.is_retryable is retryable
    assert str(made) == "x"
    assert (made.status_code, made.retry_after, made.temporary) == (error.status_code, 3.0, error.temporary)
    assert errors.translated(made) is made
    again = pickle.loads(pickle.dumps(made))
    assert type(again) is type(made)
    assert str(again) == "x"


def test_every_error_of_the_core_has_a_case() -> None:
    known = {type(error) for error, _, _ in CASES}
    assert known == {
        value for value in vars(core).values() if isinstance(value, type) and issubclass(value, core.LLMError)
    } - {core.JournalError}  # no model keeps a journal


async def test_every_method_raises_them(ollama_server: OllamaServer, chat: Make) -> None:
    ollama_server.fault("status", status=429, message="slow down")
    model = chat(max_retries=0)
    text = OllamaLLM(model="llama3.2", base_url=ollama_server.url, max_retries=0)
    vectors = OllamaEmbeddings(model="all-minilm", base_url=ollama_server.url, max_retries=0)
    calls: list[Callable[[], Any]] = [
        lambda: model.invoke("Hi"),
        lambda: list(model.stream("Hi")),
        lambda: list(model._stream_chat_model_events([HumanMessage("Hi")])),
        model.load_profile,
        lambda: text.invoke("Hi"),
        lambda: list(text.stream("Hi")),
        lambda: vectors.embed_query("Hi"),
    ]
    for call in calls:
        with pytest.raises(langchain.ModelRateLimitError) as caught:
            call()
        assert isinstance(caught.value, core.ServerBusyError)
        assert isinstance(caught.value.__cause__, core.ServerBusyError)
        assert caught.value.response.status_code == 429
        assert "slow down" in caught.value.response.json()["error"]
    with pytest.raises(langchain.ModelRateLimitError):
        await model.ainvoke("Hi")
    with pytest.raises(langchain.ModelRateLimitError):
        [piece async for piece in model.astream("Hi")]
    with pytest.raises(langchain.ModelRateLimitError):
        [event async for event in model._astream_chat_model_events([HumanMessage("Hi")])]
    with pytest.raises(langchain.ModelRateLimitError):
        await text.ainvoke("Hi")
    with pytest.raises(langchain.ModelRateLimitError):
        [piece async for piece in text.astream("Hi")]
    with pytest.raises(langchain.ModelRateLimitError):
        await vectors.aembed_query("Hi")


def test_an_incomplete_stream_is_an_error(ollama_server: OllamaServer, chat: Make) -> None:
    ollama_server.reply(["a", "b", "c"])
    ollama_server.fault("cut", at_token=2)
    model = chat(max_retries=0)
    for ask in (lambda: model.invoke("Hi"), lambda: list(model.stream("Hi"))):
        with pytest.raises(langchain.ModelConnectionError) as caught:
            ask()
        assert caught.value.response.json()["partial"]["content"] == "ab"
    assert chat(max_retries=2).max_retries == 2


def test_max_retries(ollama_server: OllamaServer, chat: Make) -> None:
    ollama_server.fault("status", status=503)
    with pytest.raises(langchain.ModelAPIError):
        chat(max_retries=2).invoke("Hi")
    assert len(ollama_server.requests) == 3


def test_no_server(chat: Make) -> None:
    with pytest.raises(langchain.ModelConnectionError, match="ollama serve"):
        chat(base_url="http://127.0.0.1:9", max_retries=0).invoke("Hi")


def test_a_graph_retries_temporary_errors(ollama_server: OllamaServer, chat: Make) -> None:
    # Once wrong: a timeout is an OSError, which LangGraph's default policy does not retry
    ollama_server.fault("stall_before_headers", times=1)
    config = StreamConfig(first_chunk_timeout=0.05)
    model = chat(max_retries=0, stream_config=config)

    def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    policy = GraphRetryPolicy(max_attempts=2, initial_interval=0.0, jitter=False)
    graph.add_node("ask", ask, retry_policy=policy)
    graph.add_edge(START, "ask")
    state = graph.compile().invoke({"messages": [HumanMessage("Hi")]})
    assert state["messages"][-1].content
    assert len(ollama_server.requests) == 2


def test_errors_are_also_builtin_exceptions(ollama_server: OllamaServer, chat: Make) -> None:
    ollama_server.fault("stall_before_headers")
    timed_out = chat(max_retries=0, stream_config=StreamConfig(first_chunk_timeout=0.05))
    for kind in (TimeoutError, langchain.ModelTimeoutError, core.LLMTimeoutError):
        with pytest.raises(kind):
            timed_out.invoke("Hi")
    with pytest.raises(ConnectionError):  # as langchain-ollama raises
        chat(base_url="http://127.0.0.1:9", max_retries=0).invoke("Hi")
    error = errors.translated(core.LLMTimeoutError("slow", deadline="chunk_timeout", seconds=5.0))
    again: Any = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.deadline, again.seconds) == (type(error), "slow", "chunk_timeout", 5.0)
    assert isinstance(again, (TimeoutError, ConnectionError))
