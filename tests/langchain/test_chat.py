"""Answers and streams, sync and async: the requests, the responses, and the callbacks."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.callbacks import (
    AsyncCallbackHandler,
    BaseCallbackHandler,
    StreamingStdOutCallbackHandler,
    UsageMetadataCallbackHandler,
)
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGenerationChunk
from langchain_tests.utils.stream_lifecycle import assert_valid_event_stream
from pydantic import ValidationError

from langchain_namel3ss_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM, chunks
from langchain_namel3ss_ollama.connection import _KEPT
from namel3ss_ollama import LLMError, OllamaProvider, StreamConfig
from namel3ss_ollama.testing import Gate, OllamaServer, Reply, ToolCall

pytestmark = pytest.mark.filterwarnings("ignore:.* is in beta")
Make = Callable[..., ChatOllama]
COUNTERS = {"prompt_eval_count": 3, "eval_count": 2}


class Recorder(BaseCallbackHandler):
    def __init__(self) -> None:
        self.tokens: list[Any] = []
        self.chunks: list[Any] = []
        self.errors: list[tuple[BaseException, Any]] = []
        self.ended = 0
        self.started: list[Any] = []

    def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
        self.started.append((serialized, kwargs))

    def on_llm_new_token(self, token: Any, *, chunk: Any = None, **kwargs: Any) -> None:
        self.tokens.append(token)
        self.chunks.append(chunk)

    def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        self.errors.append((error, kwargs.get("response")))

    def on_llm_end(self, response: Any, **kwargs: Any) -> None:
        self.ended += 1


class WithoutTokens(BaseCallbackHandler):
    """A handler without a token callback."""

    def __init__(self) -> None:
        self.ended = 0
        self.errors: list[BaseException] = []

    def on_llm_end(self, response: Any, **kwargs: Any) -> None:
        self.ended += 1

    def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        self.errors.append(error)


class IgnoresLLM(Recorder):
    """A handler with a token callback that LangChain must not call."""

    ignore_llm = True  # type: ignore[assignment]  # a property in LangChain's class


class AsyncRecorder(AsyncCallbackHandler):
    def __init__(self) -> None:
        self.tokens: list[Any] = []
        self.errors: list[BaseException] = []

    async def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        self.tokens.append(token)

    async def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        self.errors.append(error)


def merged(pieces: list[AIMessageChunk]) -> AIMessageChunk:
    return pieces[0] + pieces[1:]


def body(server: OllamaServer) -> dict[str, Any]:
    return dict(server.requests[-1].payload)


async def answers(model: ChatOllama, **call: Any) -> list[AIMessage]:
    """The answers of all four methods to the same question."""
    return [
        await asyncio.to_thread(model.invoke, "Hi", **call),
        await model.ainvoke("Hi", **call),
        merged(await asyncio.to_thread(lambda: list(model.stream("Hi", **call)))),
        merged([piece async for piece in model.astream("Hi", **call)]),
    ]


async def test_all_methods_agree(chat: Make, ollama_server: OllamaServer) -> None:
    ollama_server.reply("Good day.", thinking="A greeting.", counters=COUNTERS, model="qwen3")
    for answer in await answers(chat("qwen3", reasoning=True)):
        assert answer.content == "Good day."
        assert answer.additional_kwargs == {"reasoning_content": "A greeting."}
        assert answer.usage_metadata == {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
        metadata = answer.response_metadata
        assert (metadata["model"], metadata["model_name"], metadata["model_provider"]) == ("qwen3", "qwen3", "ollama")
        assert (metadata["done"], metadata["done_reason"], metadata["eval_count"]) == (True, "stop", 2)
        assert metadata["logprobs"] is None
        assert [block["type"] for block in answer.content_blocks] == ["reasoning", "text"]
    bodies = [dict(record.payload) for record in ollama_server.requests]
    assert all(one == bodies[0] for one in bodies)


async def test_all_methods_agree_in_v1(chat: Make, ollama_server: OllamaServer) -> None:
    calls = [ToolCall("add", {"a": 1, "b": "ü"}, id="one"), ToolCall("add", {}, id="two")]
    ollama_server.reply("Good day.", thinking="A greeting.", tool_calls=calls, model="qwen3")
    for answer in await answers(chat("qwen3", output_version="v1")):
        assert isinstance(answer.content, list)
        blocks = [{k: v for k, v in block.items() if k != "index"} for block in answer.content]
        assert blocks == [
            {"type": "reasoning", "reasoning": "A greeting."},
            {"type": "text", "text": "Good day."},
            {"type": "tool_call", "id": "one", "name": "add", "args": {"a": 1, "b": "ü"}},
            {"type": "tool_call", "id": "two", "name": "add", "args": {}},
        ]
        assert [call["args"] for call in answer.tool_calls] == [{"a": 1, "b": "ü"}, {}]
        assert answer.response_metadata["output_version"] == "v1"


async def test_cached_tokens_are_input_token_details(chat: Make, ollama_server: OllamaServer) -> None:
    last = {"message": {"role": "assistant", "content": "Hi"}, "done": True, "done_reason": "stop", **COUNTERS}
    ollama_server.reply(lines=[{**last, "prompt_eval_cached_count": 2}])
    for answer in await answers(chat()):
        assert answer.usage_metadata is not None
        assert answer.usage_metadata["input_tokens"] == 3
        assert answer.usage_metadata["input_token_details"] == {"cache_read": 2}


def test_fields_without_a_keyword_are_merged(chat: Make, ollama_server: OllamaServer) -> None:
    model = chat(
        extra_body={"a": 1, "b": 2}, provider=OllamaProvider("llama3.2", ollama_server.url, extra_body={"c": 0})
    )
    model.invoke("Hi", extra_body={"b": 3})
    assert {"a": 1, "b": 3, "c": 0}.items() <= body(ollama_server).items()
    OllamaEmbeddings(model="all-minilm", base_url=ollama_server.url, extra_body={"a": 1}).embed_query("Hi")
    assert body(ollama_server)["a"] == 1
    OllamaLLM(model="llama3.2", base_url=ollama_server.url, extra_body={"a": 1}).invoke("Hi", extra_body={"a": None})
    assert "a" not in body(ollama_server)
    with pytest.raises(ValueError, match="extra_body: 'think' has an argument of its own"):
        chat(extra_body={"think": True})
    with pytest.raises(TypeError, match=r"^extra_body: expected a mapping"):
        model.invoke("Hi", extra_body="a")


async def test_reasoning_is_dropped_when_switched_off(chat: Make, ollama_server: OllamaServer) -> None:
    ollama_server.reply("Good day.", thinking="A greeting.", model="qwen3")
    for answer in await answers(chat("qwen3"), reasoning=False):
        assert answer.additional_kwargs == {}
    assert body(ollama_server)["think"] is False


@pytest.mark.parametrize("level", [True, "low", "high", "max", "minimal"])
def test_reasoning_has_levels(chat: Make, ollama_server: OllamaServer, level: bool | str) -> None:
    chat("qwen3", reasoning=level).invoke("Hi")
    assert body(ollama_server)["think"] == level


def test_unset_fields_are_not_sent(chat: Make, ollama_server: OllamaServer) -> None:
    chat().invoke("Hi", temperature=None, stop=None)
    assert body(ollama_server) == {"model": "llama3.2", "messages": [{"role": "user", "content": "Hi"}]}


def test_calls_override_the_constructor(chat: Make, ollama_server: OllamaServer) -> None:
    model = chat(temperature=0.1, top_k=5, stop=["a"], options={"new_option": 1}, max_tokens=7, keep_alive="1m")
    model.invoke("Hi", model="qwen3", temperature=0.9, options={"top_p": 0.5}, stop=["b"], keep_alive=0)
    sent = body(ollama_server)
    assert sent["model"] == "qwen3"
    assert sent["keep_alive"] == 0
    expected = {"temperature": 0.9, "top_k": 5, "stop": ["b"], "new_option": 1, "num_predict": 7, "top_p": 0.5}
    assert sent["options"] == expected
    model.bind(temperature=0.3, max_tokens=9).invoke("Hi", top_k=None, stop=[])
    expected = {"temperature": 0.3, "top_k": 5, "new_option": 1, "num_predict": 9}
    assert body(ollama_server)["options"] == expected


def test_unknown_keywords_name_the_nearest(chat: Make) -> None:
    with pytest.raises(TypeError, match="'temprature'; did you mean 'temperature'"):
        chat().invoke("Hi", temprature=1)
    with pytest.raises(TypeError, match="'reasonning'; did you mean 'reasoning'"):
        chat(reasonning=True)
    with pytest.raises(TypeError, match="give it once"):
        chat().invoke("Hi", temperature=1, options={"temperature": 2})
    with pytest.raises(TypeError, match="max_tokens and num_predict"):
        chat().invoke("Hi", max_tokens=1, num_predict=2)


@pytest.mark.parametrize("arguments", [{"temperature": -1}, {"num_ctx": 0}, {"on_truncation": "cut"}, {"timeout": 0}])
def test_wrong_values_fail_in_the_constructor(chat: Make, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        chat(**arguments)


async def test_token_callbacks_run_once_and_in_order(chat: Make, ollama_server: OllamaServer) -> None:
    ollama_server.reply(["a", "b", "c"])
    model = chat()
    for run in ("stream", "astream", "invoke", "ainvoke", "generate", "abatch"):
        handler, ahandler = Recorder(), AsyncRecorder()
        if run == "stream":
            yielded = [p.content for p in model.stream("Hi", {"callbacks": [handler]})]
        elif run == "astream":
            yielded = [p.content async for p in model.astream("Hi", {"callbacks": [handler, ahandler]})]
        elif run == "invoke":
            yielded = [model.invoke("Hi", {"callbacks": [handler]}).content]
        elif run == "ainvoke":
            yielded = [(await model.ainvoke("Hi", {"callbacks": [handler, ahandler]})).content]
        elif run == "generate":
            yielded = [model.generate([[HumanMessage("Hi")]], callbacks=[handler]).generations[0][0].text]
        else:
            yielded = [(await model.abatch(["Hi"], {"callbacks": [handler, ahandler]}))[0].content]
        assert handler.tokens == ["a", "b", "c", ""]
        assert [piece.message.content for piece in handler.chunks] == ["a", "b", "c", ""]
        assert handler.chunks[-1].message.chunk_position == "last"
        assert "".join(map(str, yielded)) == "abc"
        assert handler.ended == 1
        if run.startswith("a"):
            assert ahandler.tokens == handler.tokens


async def test_no_message_per_token_without_token_callbacks(
    chat: Make, ollama_server: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ollama_server.reply(["a", "b", "c"])
    made: list[str] = []
    monkeypatch.setattr(chunks, "_text_chunk", made.append)
    monkeypatch.setattr(chunks, "AIMessageChunk", lambda **_: made.append("message"))
    quiet, ignoring, handler = WithoutTokens(), IgnoresLLM(), Recorder()
    assert (await chat().ainvoke("Hi", {"callbacks": [quiet, ignoring]})).content == "abc"
    assert chat().invoke("Hi", {"callbacks": [quiet, ignoring, UsageMetadataCallbackHandler()]}).content == "abc"
    assert chat(streaming=False).invoke("Hi", {"callbacks": [handler]}).content == "abc"
    assert chat().invoke("Hi", {"callbacks": [handler]}, stream=False).content == "abc"
    assert chat(disable_streaming=True).invoke("Hi", {"callbacks": [handler]}).content == "abc"
    assert (made, ignoring.tokens, handler.tokens) == ([], [], [])
    assert (quiet.ended, handler.ended) == (2, 3)


@pytest.mark.parametrize("version", ["v0", "v1"])
async def test_token_callbacks_do_not_change_the_answer(chat: Make, ollama_server: OllamaServer, version: str) -> None:
    call = ToolCall("add", {"a": 1}, id="one")
    ollama_server.reply(["a", "b"], thinking="Hm.", tool_calls=[call], model="qwen3")
    model = chat("qwen3", output_version=version)
    plain = model.invoke("Hi")
    for answer in (
        model.invoke("Hi", {"callbacks": [Recorder()]}),
        await model.ainvoke("Hi", {"callbacks": [AsyncRecorder()]}),
    ):
        assert type(answer) is AIMessage
        assert [{**block, "index": 0} for block in answer.content_blocks] == [
            {**block, "index": 0} for block in plain.content_blocks
        ]
        assert answer.tool_calls == plain.tool_calls
        assert answer.additional_kwargs == plain.additional_kwargs
        assert answer.usage_metadata == plain.usage_metadata
        assert answer.response_metadata.keys() == plain.response_metadata.keys()


def test_text_is_streamed_to_standard_output(
    chat: Make, ollama_server: OllamaServer, capsys: pytest.CaptureFixture[str]
) -> None:
    # Once wrong: nothing was printed, since only `streaming=True` had `invoke` stream inside
    ollama_server.reply(["a", "b", "c"])
    for model in (chat(), OllamaLLM(model="llama3.2", base_url=ollama_server.url)):
        model.invoke("Hi", {"callbacks": [StreamingStdOutCallbackHandler()]})
        assert capsys.readouterr().out == "abc"


async def test_a_callback_set_on_an_instance_is_called(chat: Make, ollama_server: OllamaServer) -> None:
    ollama_server.reply(["a", "b"])
    handler: Any = BaseCallbackHandler()
    tokens: list[Any] = []
    handler.on_llm_new_token = lambda token, **_: tokens.append(token)
    await chat(callbacks=[handler]).ainvoke("Hi")
    assert tokens == ["a", "b", ""]


def test_a_quick_chunk_equals_a_constructed_one() -> None:
    quick = chunks._text_chunk("Hi")
    slow = ChatGenerationChunk(message=AIMessageChunk(content="Hi"))
    assert quick == slow
    assert quick.model_dump() == slow.model_dump()
    assert quick.message.model_fields_set == slow.message.model_fields_set
    assert quick.message.__dict__.keys() == slow.message.__dict__.keys()
    assert repr(quick) == repr(slow)
    other = chunks._text_chunk("Ho")
    other.message.additional_kwargs["x"] = 1
    other.message.tool_call_chunks.append({})
    assert chunks._text_chunk("Ha") == ChatGenerationChunk(message=AIMessageChunk(content="Ha"))
    assert (quick + slow).text == "HiHi"
    assert quick.message.model_copy(update={"content": "x"}).content == "x"


@pytest.mark.parametrize("version", ["v0", "v1"])
async def test_native_events_are_a_valid_stream(chat: Make, ollama_server: OllamaServer, version: str) -> None:
    calls = [ToolCall("add", {"a": 1}, id="one"), ToolCall("add", '{"a": ', id="two")]
    ollama_server.reply(["Good", " day."], thinking=["A", " greeting."], tool_calls=calls, model="qwen3")
    model = chat("qwen3", output_version=version)
    handler = Recorder()
    stream = model.stream_events("Hi", {"callbacks": [handler]}, version="v3")
    events = list(stream)
    assert_valid_event_stream(events)
    astream = await model.astream_events("Hi", version="v3")
    aevents = [event async for event in astream]
    assert_valid_event_stream(aevents)
    assert [e["event"] for e in events] == [e["event"] for e in aevents]
    for answer in (stream.output, await astream.output):
        assert [block["type"] for block in answer.content_blocks] == [
            "reasoning", "text", "tool_call", "invalid_tool_call"
        ]  # fmt: skip
        assert answer.text == "Good day."
        assert [(c["id"], c["args"]) for c in answer.tool_calls] == [("one", {"a": 1})]
        assert [(c["id"], c["args"]) for c in answer.invalid_tool_calls] == [("two", '{"a": ')]
        assert answer.response_metadata["model_name"] == "qwen3"
        assert answer.usage_metadata
    assert handler.ended == 1


def test_the_slot_is_released_before_the_events_end(chat: Make, ollama_server: OllamaServer) -> None:
    model = chat(max_concurrent=1)
    stream = model.stream_events("Hi", version="v3")
    for event in stream:
        if event["event"] == "message-finish":
            model.invoke("Hi")  # would wait forever for the only slot
    assert len(ollama_server.requests) == 2


async def test_events_of_version_2(chat: Make, ollama_server: OllamaServer) -> None:
    ollama_server.reply(["a", "b"])
    events = [event async for event in chat().astream_events("Hi", version="v2")]
    assert [e["data"]["chunk"].content for e in events if e["event"] == "on_chat_model_stream"] == ["a", "b", ""]
    assert events[-1]["data"]["output"].content == "ab"


async def test_abandoned_streams_are_closed(chat: Make, ollama_server: OllamaServer) -> None:
    gate = Gate()
    ollama_server.reply(["a", "b", "c"], gates={1: gate})
    model = chat(max_concurrent=1)
    for piece in model.stream("Hi"):
        assert piece.content == "a"
        break
    async for piece in model.astream("Hi"):
        assert piece.content == "a"
        break
    gate.open()
    assert (await model.ainvoke("Hi")).content == "abc"


@pytest.mark.parametrize("recorder", [AsyncRecorder, WithoutTokens])
async def test_a_cancelled_ainvoke_closes_its_run(chat: Make, ollama_server: OllamaServer, recorder: Any) -> None:
    gate = Gate()
    ollama_server.reply(["a", "b"], gates={1: gate})
    handler = recorder()
    task = asyncio.create_task(chat().ainvoke("Hi", {"callbacks": [handler]}))
    await asyncio.to_thread(ollama_server.wait_for, lambda _: gate.waiting == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [type(error) for error in handler.errors] == [asyncio.CancelledError]
    gate.open()


async def test_partial_text_reaches_the_callbacks(chat: Make, ollama_server: OllamaServer) -> None:
    ollama_server.reply(["a", "b", "c"])
    ollama_server.fault("error_line", at_token=2)
    model = chat(max_retries=0)
    for run in (
        lambda handler: model.invoke("Hi", {"callbacks": [handler]}),
        lambda handler: list(model.stream("Hi", {"callbacks": [handler]})),
        lambda handler: asyncio.run(model.ainvoke("Hi", {"callbacks": [handler]})),
    ):
        handler = Recorder()
        with pytest.raises(LLMError) as caught:
            await asyncio.to_thread(run, handler)
        assert caught.value.partial is not None
        assert caught.value.partial.content == "ab"
        error, response = handler.errors[0]
        assert isinstance(error, LLMError)
        assert "ab" in str(response.generations)


def test_a_load_only_response_is_an_answer(chat: Make, ollama_server: OllamaServer) -> None:
    ollama_server.reply(
        Reply(lines=[{"model": "llama3.2", "message": {"role": "assistant", "content": ""}, "done": True,
                      "done_reason": "load"}])
    )  # fmt: skip
    answer = chat().invoke("Hi")
    assert (answer.content, answer.response_metadata["done_reason"], answer.usage_metadata) == ("", "load", None)
    pieces = list(chat().stream("Hi"))
    assert [p.chunk_position for p in pieces] == ["last"]


async def test_max_chunks_ends_a_stream_with_a_last_chunk(chat: Make, ollama_server: OllamaServer) -> None:
    ollama_server.reply(["a", "b", "c"])
    model = chat(stream_config=StreamConfig(max_chunks=2))
    for pieces in (list(model.stream("Hi")), [p async for p in model.astream("Hi")]):
        whole = merged(pieces)
        assert (whole.content, whole.chunk_position) == ("ab", "last")
        assert whole.response_metadata["done_reason"] == "max_chunks"
        assert whole.response_metadata["model_name"] == "llama3.2"
    # The last line was read with the others, but never yielded: its counters are not reported.
    ollama_server.fault("lines_in_one_chunk")
    model = chat(stream_config=StreamConfig(max_chunks=3))
    for pieces in (list(model.stream("Hi")), [p async for p in model.astream("Hi")]):
        whole = merged(pieces)
        assert (whole.content, whole.response_metadata["done_reason"]) == ("abc", "max_chunks")
        assert whole.usage_metadata is None
        assert "eval_count" not in whole.response_metadata


@pytest.mark.parametrize("own", [{}, {"sync_client_kwargs": {"headers": {"x-sync": "1"}}}], ids=["one", "two"])
@pytest.mark.parametrize("cls", [ChatOllama, OllamaLLM, OllamaEmbeddings])
def test_models_made_for_each_request_share_a_connection(
    cls: Any,
    own: dict[str, Any],
    ollama_server: OllamaServer,
    recwarn: pytest.WarningsRecorder,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def use() -> None:
        model = cls(model="llama3.2", base_url=ollama_server.url, **own)
        if isinstance(model, OllamaEmbeddings):
            model.embed_query("Hi")
        else:
            model.invoke("Hi")

    async def within() -> None:
        before = ollama_server.connections
        for _ in range(3):
            model = cls(model="llama3.2", base_url=ollama_server.url, **own)
            await (model.aembed_query("Hi") if isinstance(model, OllamaEmbeddings) else model.ainvoke("Hi"))
        assert ollama_server.connections - before == 1

    for _ in range(3):
        use()
    assert ollama_server.connections == 1
    asyncio.run(within())
    ollama_server.wait_for(lambda s: s.open_connections == 1)
    assert (list(recwarn), caplog.text) == ([], "")


def test_providers_that_are_no_longer_kept_close_their_connections(chat: Make, ollama_server: OllamaServer) -> None:
    for seconds in range(_KEPT + 3):
        chat(timeout=100.0 + seconds).invoke("Hi")
    gc.collect()
    ollama_server.wait_for(lambda s: s.open_connections == _KEPT)


def test_models_with_equal_settings_share_a_provider(chat: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = chat(temperature=0.1)._provider_for(sync=True)
    assert chat(temperature=0.9)._provider_for(sync=False) is provider
    different: list[dict[str, Any]] = [
        {"model": "qwen3"}, {"timeout": 5.0}, {"max_concurrent": 1}, {"headers": {"x-a": "1"}}, {"api_key": "key"},
        {"max_retries": 0}, {"stream_config": StreamConfig(max_chunks=1)}, {"client_kwargs": {"verify": False}},
        {"on_truncation": "error"},
    ]  # fmt: skip
    others = [chat(**settings)._provider_for(sync=True) for settings in different]
    monkeypatch.setenv("OLLAMA_API_KEY", "another")
    others.append(chat()._provider_for(sync=True))
    assert len({provider, *others}) == len(different) + 2
    with pytest.raises(ValidationError, match="max_concurrent"):
        chat(max_concurrent=0)


async def test_logprobs(chat: Make, ollama_server: OllamaServer) -> None:
    ollama_server.reply(["a", "b"], logprobs=[-0.5, -1.0])
    for answer in await answers(chat(top_logprobs=1)):
        assert [token["logprob"] for token in answer.response_metadata["logprobs"]] == [-0.5, -1.0]
    assert body(ollama_server)["logprobs"] is True
    with pytest.raises(ValueError, match="top_logprobs"):
        chat(logprobs=False, top_logprobs=1)


def test_usage_is_counted(chat: Make, ollama_server: OllamaServer) -> None:
    ollama_server.reply("Hi.", counters=COUNTERS)
    counter = UsageMetadataCallbackHandler()
    chat().invoke("Hi", {"callbacks": [counter]})
    list(chat().stream("Hi", {"callbacks": [counter]}))
    assert counter.usage_metadata["llama3.2"]["total_tokens"] == 10


def test_a_cut_prompt_is_reported(chat: Make, ollama_server: OllamaServer) -> None:
    ollama_server.reply("Hi.", counters={"prompt_eval_count": 256})
    assert chat(num_ctx=256).invoke("Hi").response_metadata["truncated_prompt"] is True
    with pytest.raises(LLMError, match="num_ctx"):
        chat(num_ctx=256, on_truncation="error").invoke("Hi")


def test_streaming_can_be_switched_off(chat: Make, ollama_server: OllamaServer) -> None:
    ollama_server.reply(["a", "b"])
    for model in (chat(disable_streaming=True), chat(streaming=False)):
        assert [piece.content for piece in model.stream("Hi")] == ["ab"]


def test_event_loops_threads_and_a_running_loop(chat: Make, ollama_server: OllamaServer) -> None:
    ollama_server.reply("Hi.")
    model = chat()

    async def both() -> list[Any]:
        inside = model.invoke("Hi").content  # as in a notebook, whose loop is already running
        return [inside, *(answer.content for answer in await model.abatch(["Hi", "Ho"]))]

    assert asyncio.run(both()) == ["Hi."] * 3
    assert asyncio.run(both()) == ["Hi."] * 3
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(model.invoke("Hi").content)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["Hi."] * 4
    assert [answer.content for answer in model.batch(["Hi"] * 3)] == ["Hi."] * 3


def test_a_shared_provider_limits_all_its_models(ollama_server: OllamaServer) -> None:
    provider = OllamaProvider("llama3.2", ollama_server.url, max_concurrent=1, temperature=0.5)
    one, other = ChatOllama(provider=provider), ChatOllama(model="qwen3", provider=provider, top_k=3)
    assert one.model == "llama3.2"
    assert one.base_url == ollama_server.url
    one.invoke("Hi")
    assert body(ollama_server)["options"] == {"temperature": 0.5}
    other.invoke("Hi", timeout=5.0)
    assert body(ollama_server)["options"] == {"temperature": 0.5, "top_k": 3}
    assert provider.stats().generations_succeeded == 2
    with pytest.raises(ValueError, match="max_retries: belongs to the provider"):
        ChatOllama(provider=provider, max_retries=1)
    provider.close()
