"""Instrumentation events, spans, legacy callbacks and the token counter: each call is reported once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload, TokenCountingHandler
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.rate_limiter import BaseRateLimiter

from llama_index.llms.namel3ss_ollama import Ollama
from namel3ss_ollama import ModelNotFoundError, StreamInterruptedError
from namel3ss_ollama.testing import OllamaServer

ASK = [ChatMessage(role="user", content="Say something.")]
COUNTERS = {"prompt_eval_count": 7, "eval_count": 3}


def _chat(llm: Ollama) -> None:
    llm.chat(ASK)


def _stream_chat(llm: Ollama) -> None:
    list(llm.stream_chat(ASK))


def _achat(llm: Ollama) -> None:
    asyncio.run(llm.achat(ASK))


def _astream_chat(llm: Ollama) -> None:
    async def read() -> None:
        async for _ in await llm.astream_chat(ASK):
            pass

    asyncio.run(read())


def _complete(llm: Ollama) -> None:
    llm.complete("Say something.")


def _stream_complete(llm: Ollama) -> None:
    list(llm.stream_complete("Say something."))


def _acomplete(llm: Ollama) -> None:
    asyncio.run(llm.acomplete("Say something."))


def _astream_complete(llm: Ollama) -> None:
    async def read() -> None:
        async for _ in await llm.astream_complete("Say something."):
            pass

    asyncio.run(read())


CALLS = [_chat, _stream_chat, _achat, _astream_chat, _complete, _stream_complete, _acomplete, _astream_complete]
Call = Callable[[Ollama], None]


class Seen(BaseCallbackHandler):
    """Records what legacy callbacks receive."""

    def __init__(self) -> None:
        super().__init__([], [])
        self.starts: list[tuple[CBEventType, dict[str, Any]]] = []
        self.ends: list[tuple[CBEventType, dict[str, Any]]] = []

    def on_event_start(self, event_type: CBEventType, payload: Any = None, *args: Any, **kwargs: Any) -> str:
        self.starts.append((event_type, payload))
        return ""

    def on_event_end(self, event_type: CBEventType, payload: Any = None, *args: Any, **kwargs: Any) -> None:
        self.ends.append((event_type, payload))

    def start_trace(self, trace_id: str | None = None) -> None: ...

    def end_trace(self, trace_id: str | None = None, trace_map: Any = None) -> None: ...


@pytest.mark.parametrize("call", CALLS)
def test_each_event_once(ollama_server: OllamaServer, make_llm: Any, recorder: Any, spans: Any, call: Call) -> None:
    ollama_server.reply(["a", "b"], counters=COUNTERS)
    seen = Seen()
    llm = make_llm(callback_manager=CallbackManager([seen]))
    call(llm)
    kind = "LLMCompletion" if "complete" in call.__name__ else "LLMChat"
    middle = [f"{kind}InProgressEvent"] if "stream" in call.__name__ else []
    names = [name for name in recorder.names if not name.startswith("Span")]
    assert names == [f"{kind}StartEvent", *middle, f"{kind}EndEvent"]
    start, end = recorder.of(f"{kind}StartEvent")[0], recorder.of(f"{kind}EndEvent")[0]
    assert start.model_dict["model_name"] == "llama3.2"
    assert end.response.raw["usage"]["total_tokens"] == 10
    if middle:
        deltas = [event.response.delta for event in recorder.of(middle[0])]
        assert deltas == ["a", "b", ""]
    assert [kind for kind, _ in seen.starts] == [CBEventType.LLM]
    assert [kind for kind, _ in seen.ends] == [CBEventType.LLM]
    key = EventPayload.COMPLETION if "complete" in call.__name__ else EventPayload.RESPONSE
    assert seen.ends[0][1][key].raw["usage"]["total_tokens"] == 10
    method = call.__name__[1:]
    assert [span.id_.split("-")[0] for span in spans.completed_spans] == [f"Ollama.{method}"]
    assert start.span_id == spans.completed_spans[0].id_
    assert spans.open_spans == {}


@pytest.mark.parametrize("call", CALLS)
def test_the_token_counter_gets_the_servers_numbers_once(
    ollama_server: OllamaServer, make_llm: Any, call: Call
) -> None:
    ollama_server.reply(["a", "b"], counters=COUNTERS)
    counter = TokenCountingHandler(tokenizer=lambda text: pytest.fail("it should not have to count itself"))
    call(make_llm(callback_manager=CallbackManager([counter])))
    assert (counter.prompt_llm_token_count, counter.completion_llm_token_count) == (7, 3)
    assert len(counter.llm_token_counts) == 1


@pytest.mark.parametrize("call", CALLS)
def test_failures_are_reported(
    ollama_server: OllamaServer, make_llm: Any, recorder: Any, spans: Any, call: Call
) -> None:
    ollama_server.reply(["a", "b"])
    ollama_server.fault("cut", at_token=1)
    seen = Seen()
    with pytest.raises(StreamInterruptedError):
        call(make_llm(callback_manager=CallbackManager([seen])))
    assert isinstance(seen.ends[0][1][EventPayload.EXCEPTION], StreamInterruptedError)
    assert len(seen.ends) == 1
    if "stream" in call.__name__:
        assert [type(e.exception) for e in recorder.of("ExceptionEvent")] == [StreamInterruptedError]
    else:
        assert len(spans.dropped_spans) == 1


def test_a_failure_before_the_stream_is_reported(make_llm: Any) -> None:
    seen = Seen()
    with pytest.raises(ModelNotFoundError):
        list(make_llm("nope", callback_manager=CallbackManager([seen])).stream_chat(ASK))
    assert isinstance(seen.ends[0][1][EventPayload.EXCEPTION], ModelNotFoundError)


class Counted(BaseRateLimiter):
    """Counts calls, and never waits."""

    def __init__(self) -> None:
        self.acquired = 0

    def acquire(self) -> None:
        self.acquired += 1

    async def async_acquire(self) -> None:
        self.acquired += 1


@pytest.mark.parametrize("call", CALLS)
def test_the_rate_limiter_is_used_once(make_llm: Any, call: Call) -> None:
    limiter = Counted()
    call(make_llm(rate_limiter=limiter))
    assert limiter.acquired == 1


def test_embedding_events(embedding: Any, recorder: Any) -> None:
    seen = Seen()
    embedding.callback_manager = CallbackManager([seen])
    embedding.get_text_embedding_batch(["a", "b"])
    asyncio.run(embedding.aget_query_embedding("a"))
    assert [n for n in recorder.names if n.startswith("Embed")] == ["EmbeddingStartEvent", "EmbeddingEndEvent"] * 2
    assert [kind for kind, _ in seen.ends] == [CBEventType.EMBEDDING] * 2
