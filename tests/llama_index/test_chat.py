"""All methods of complete and chat, against a server."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    MessageRole,
    TextBlock,
    ThinkingBlock,
)

from llama_index.embeddings.namel3ss_ollama import OllamaEmbedding
from llama_index.llms.namel3ss_ollama import Ollama, responses
from namel3ss_ollama import (
    AuthenticationError,
    LLMTimeoutError,
    ModelNotFoundError,
    OllamaProvider,
    RetryPolicy,
    ServerBusyError,
    StreamChunk,
    StreamConfig,
    StreamInterruptedError,
)
from namel3ss_ollama.testing import Gate, OllamaServer

ASK = [ChatMessage(role="user", content="Say something.")]
TOKENS = ["Good", " day,", "\n", " Böb", " \u2028", "!"]
TEXT = "".join(TOKENS)


def chats(llm: Ollama) -> list[ChatResponse]:
    """The complete answer from each of the four methods."""

    async def asynchronously() -> list[ChatResponse]:
        streamed = [response async for response in await llm.astream_chat(ASK)]
        return [await llm.achat(ASK), streamed[-1]]

    return [llm.chat(ASK), list(llm.stream_chat(ASK))[-1], *asyncio.run(asynchronously())]


def completions(llm: Ollama) -> list[CompletionResponse]:
    async def asynchronously() -> list[CompletionResponse]:
        streamed = [response async for response in await llm.astream_complete("Say something.")]
        return [await llm.acomplete("Say something."), streamed[-1]]

    return [
        llm.complete("Say something."),
        list(llm.stream_complete("Say something."))[-1],
        *asyncio.run(asynchronously()),
    ]


def test_all_methods_give_the_same_answer(ollama_server: OllamaServer, llm: Ollama) -> None:
    ollama_server.reply(TOKENS, thinking=["Let", " me"], counters={"prompt_eval_count": 7, "eval_count": 6})
    for response in chats(llm):
        assert response.message.blocks == [ThinkingBlock(content="Let me"), TextBlock(text=TEXT)]
        assert response.message.role == "assistant"
        assert response.raw["usage"] == {"prompt_tokens": 7, "completion_tokens": 6, "total_tokens": 13}
        assert response.raw["done_reason"] == "stop"
        assert response.raw["model"] == "llama3.2"
        assert json.loads(json.dumps(response.raw)) == response.raw
    for completion in completions(llm):
        assert completion.text == TEXT
        assert completion.raw["usage"]["total_tokens"] == 13


def test_a_stream_has_exact_deltas_and_cumulative_messages(ollama_server: OllamaServer, llm: Ollama) -> None:
    ollama_server.reply(TOKENS, thinking=["Let", " me"])
    responses = list(llm.stream_chat(ASK))
    assert [response.delta for response in responses] == ["", "", *TOKENS, ""]
    thought = [response.additional_kwargs["thinking_delta"] for response in responses]
    assert thought == ["Let", " me"] + [None] * (len(TOKENS) + 1)
    text = ""
    for response in responses:
        text += response.delta or ""
        assert response.message.content == text
    # Yielded responses do not change as the answer continues.
    assert responses[0].message.blocks == [ThinkingBlock(content="Let"), TextBlock(text="")]
    assert responses[2].message.blocks == [ThinkingBlock(content="Let me"), TextBlock(text="Good")]


def test_a_quick_response_equals_a_constructed_one(
    ollama_server: OllamaServer, llm: Ollama, monkeypatch: pytest.MonkeyPatch
) -> None:
    ollama_server.reply(TOKENS)
    quick = list(llm.stream_chat(ASK))
    monkeypatch.setattr(responses, "_text_response", constructed)
    slow = list(llm.stream_chat(ASK))
    assert len(quick) == len(slow) > len(TOKENS)
    for one, other in zip(quick[:-1], slow[:-1], strict=True):
        one.raw = other.raw  # the times in it differ
        assert one == other
        assert one.model_dump() == other.model_dump()
        assert one.model_dump_json() == other.model_dump_json()
        assert repr(one) == repr(other)
        for a, b in ((one, other), (one.message, other.message), (one.message.blocks[0], other.message.blocks[0])):
            assert a.model_fields_set == b.model_fields_set
            assert a.__dict__.keys() == b.__dict__.keys()
    quick[0].message.additional_kwargs["x"] = 1
    quick[0].message.blocks.append(TextBlock(text="y"))
    assert quick[1] == slow[1]
    assert quick[1].message.model_copy(update={"content": "x"}).blocks == slow[1].message.blocks


def constructed(text: str, chunk: StreamChunk) -> ChatResponse:
    message = ChatMessage(role=MessageRole.ASSISTANT, blocks=[TextBlock(text=text)], additional_kwargs={})
    extra = {"thinking_delta": None}
    return ChatResponse(message=message, delta=chunk.content, raw=chunk.raw, logprobs=None, additional_kwargs=extra)


async def test_completions_stream_as_chats_do(ollama_server: OllamaServer, llm: Ollama) -> None:
    ollama_server.reply(TOKENS)
    streamed = [response async for response in await llm.astream_complete("Hello")]
    assert [response.delta for response in streamed] == [*TOKENS, ""]
    assert [response.text for response in streamed][:2] == ["Good", "Good day,"]
    assert [response.delta for response in llm.stream_complete("Hello")] == [*TOKENS, ""]


def test_cached_tokens_are_in_the_usage(ollama_server: OllamaServer, llm: Ollama) -> None:
    counters = {"prompt_eval_count": 7, "prompt_eval_cached_count": 5, "eval_count": 1}
    last = {"message": {"role": "assistant", "content": "Hi"}, "done": True, "done_reason": "stop", **counters}
    ollama_server.on(path="/api/chat").reply(lines=[last])
    for response in (llm.chat(ASK), [*llm.stream_chat(ASK)][-1]):
        expected = {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8, "cached_tokens": 5}
        assert response.raw["usage"] == expected


def test_a_prompt_is_sent_as_a_users_message(ollama_server: OllamaServer, make_llm: Any, sent: Any) -> None:
    llm = make_llm(completion_to_prompt=lambda prompt: f"<{prompt}>")
    llm.complete("one")
    llm.complete("two", formatted=True)
    assert [body["messages"] for body in sent()] == [
        [{"role": "user", "content": "<one>"}],
        [{"role": "user", "content": "two"}],
    ]


def test_unset_fields_are_not_sent(ollama_server: OllamaServer, llm: Ollama, sent: Any) -> None:
    llm.chat(ASK)
    assert sent() == [{"model": "llama3.2", "messages": [{"role": "user", "content": "Say something."}]}]


def test_set_fields_are_sent(ollama_server: OllamaServer, make_llm: Any, sent: Any) -> None:
    llm = make_llm(
        "qwen3",
        temperature=0.5,
        context_window=2048,
        thinking="low",
        keep_alive=-1,
        additional_kwargs={"top_k": 3, "max_tokens": 9, "stop": ["x"]},
        on_truncation="error",
    )
    llm.chat(ASK)
    body = sent()[0]
    assert body["options"] == {"temperature": 0.5, "num_ctx": 2048, "top_k": 3, "num_predict": 9, "stop": ["x"]}
    assert (body["think"], body["keep_alive"], body["truncate"]) == ("low", -1, False)
    make_llm("qwen3", json_mode=True).chat(ASK)
    assert sent()[1]["format"] == "json"


@pytest.mark.parametrize("streamed", [False, True])
def test_a_providers_settings_are_the_defaults(ollama_server: OllamaServer, sent: Any, streamed: bool) -> None:
    settings = {"temperature": 0, "num_ctx": 777, "top_k": 3, "think": False, "keep_alive": "9m", "format": "json"}
    with OllamaProvider("llama3.2", ollama_server.url, **settings) as provider:
        llm = Ollama("llama3.2", provider=provider)
        if streamed:
            list(llm.stream_chat(ASK))
        else:
            llm.chat(ASK)
    body = sent()[0]
    assert body["options"] == {"temperature": 0, "num_ctx": 777, "top_k": 3}
    assert (body["think"], body["keep_alive"], body["format"]) == (False, "9m", "json")


def test_additional_kwargs_win_over_fields(make_llm: Any, sent: Any) -> None:
    make_llm(temperature=0.5, context_window=2048, additional_kwargs={"temperature": 0.1, "num_ctx": 99}).chat(ASK)
    assert sent()[0]["options"] == {"temperature": 0.1, "num_ctx": 99}


def test_a_calls_keywords_win(ollama_server: OllamaServer, make_llm: Any, sent: Any) -> None:
    llm = make_llm(
        "llama3.2", temperature=0.5, thinking=True, json_mode=True, additional_kwargs={"num_predict": 9, "top_k": 3}
    )
    ollama_server.models.add("other")
    llm.chat(
        ASK,
        model="other",
        temperature=0.0,
        think=False,
        max_tokens=4,
        options={"top_k": 5, "min_p": 0.1},
        stop="\n",
        format={"type": "object"},
        keep_alive="1m",
    )
    body = sent()[0]
    assert body["model"] == "other"
    assert body["options"] == {"temperature": 0.0, "num_predict": 4, "top_k": 5, "min_p": 0.1, "stop": ["\n"]}
    assert (body["think"], body["format"], body["keep_alive"]) == (False, {"type": "object"}, "1m")
    llm.additional_kwargs["top_k"] = 4  # a call's keywords do not persist, and fields can be changed
    llm.temperature = 0.25
    llm.chat(ASK, think=False)
    assert sent()[1]["options"] == {"temperature": 0.25, "num_predict": 9, "top_k": 4}


def test_an_unknown_keyword_is_an_error_that_names_the_nearest(llm: Ollama, ollama_server: OllamaServer) -> None:
    with pytest.raises(TypeError, match="'temprature'; did you mean 'temperature'"):
        llm.chat(ASK, temprature=1)
    with pytest.raises(TypeError, match="'temprature'; did you mean 'temperature'"):
        Ollama("llama3.2", temprature=1)
    with pytest.raises(TypeError, match="additional_kwargs"):
        Ollama("llama3.2", zzz=1)
    assert ollama_server.requests == []


@pytest.mark.parametrize("level", [False, "low", "max", "minimal"])
def test_thinking_has_the_levels_of_the_model(make_llm: Any, sent: Any, level: bool | str) -> None:
    make_llm("qwen3", thinking=level).chat(ASK)
    assert sent()[-1]["think"] == level


def test_fields_without_a_keyword_are_merged(make_llm: Any, sent: Any, ollama_server: OllamaServer) -> None:
    llm = make_llm(extra_body={"a": 1, "b": 2})
    llm.chat(ASK)
    assert {"a": 1, "b": 2}.items() <= sent()[-1].items()
    llm.complete("Hi", extra_body={"b": 3})
    assert {"a": 1, "b": 3}.items() <= sent()[-1].items()
    make_llm(additional_kwargs={"extra_body": {"a": 4}}).chat(ASK)
    assert sent()[-1]["a"] == 4
    OllamaEmbedding("all-minilm", ollama_server.url, extra_body={"a": 1}).get_text_embedding("Hi")
    assert sent("/api/embed")[-1]["a"] == 1
    with pytest.raises(ValueError, match=r"^extra_body: 'seed' has an argument of its own"):
        make_llm(extra_body={"seed": 1})
    with pytest.raises(TypeError, match=r"^extra_body: expected a mapping"):
        llm.chat(ASK, extra_body="a")


def test_an_invalid_level_fails_at_construction() -> None:
    with pytest.raises(ValueError, match=r"^think: expected True, False or a level"):
        Ollama("qwen3", thinking=" ")


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"additional_kwargs": {"num_predict": 1}, "temperature": -1}, "temperature"),
        ({"thinking": None, "context_window": 0}, None),
    ],
)
def test_invalid_values_fail_before_a_request(
    make_llm: Any, ollama_server: OllamaServer, settings: dict[str, Any], name: str | None
) -> None:
    llm = make_llm(**settings)
    if name is None:
        llm.chat(ASK)
        return
    with pytest.raises(ValueError, match=name):
        llm.chat(ASK)
    assert ollama_server.requests == []


def test_conflicting_settings() -> None:
    with pytest.raises(ValueError, match="request_timeout"):
        Ollama("llama3.2", request_timeout=1, stream_config=StreamConfig())
    provider = OllamaProvider("llama3.2", "http://127.0.0.1:1")
    for clash in ({"headers": {"a": "b"}}, {"max_concurrent": 3}, {"base_url": "http://x"}, {"retry": RetryPolicy()}):
        with pytest.raises(ValueError, match=next(iter(clash))):
            Ollama(provider=provider, **clash)
    with pytest.raises(ValueError, match="model"):
        Ollama()


def test_a_provider_sets_model_address_and_defaults(ollama_server: OllamaServer, sent: Any) -> None:
    provider = OllamaProvider("llama3.2", ollama_server.url, top_k=7)
    llm = Ollama(provider=provider, temperature=0.5)
    assert (llm.model, llm.base_url, llm.provider) == ("llama3.2", ollama_server.url, provider)
    llm.complete("hello")
    assert sent()[0]["options"] == {"temperature": 0.5, "top_k": 7}
    assert Ollama("smollm2:135m", provider=provider).complete("hello").raw["model"] == "smollm2:135m"


def test_an_ollama_client_sets_address_and_headers(ollama_server: OllamaServer) -> None:
    import ollama

    client = ollama.Client(host=ollama_server.url, headers={"X-Team": "blue"})
    llm = Ollama("llama3.2", client=client)
    llm.complete("hello")
    assert llm.base_url == ollama_server.url
    assert ollama_server.requests[0].headers["x-team"] == "blue"
    with pytest.raises(TypeError, match=r"ollama\.Client"):
        Ollama("llama3.2", client=object())


def test_logprobs(ollama_server: OllamaServer, llm: Ollama) -> None:
    ollama_server.reply(["a", "b"], logprobs=[-0.5, -1.5])
    whole = llm.chat(ASK, logprobs=True, top_logprobs=2)
    assert whole.logprobs is not None
    assert [[one.token for one in token] for token in whole.logprobs] == [["a", "a1"], ["b", "b1"]]
    assert (whole.logprobs[1][0].logprob, whole.logprobs[1][0].bytes) == (-1.5, [98])
    streamed = list(llm.stream_chat(ASK, logprobs=True))
    assert [[token[0].token for token in r.logprobs or ()] for r in streamed] == [["a"], ["b"], ["a", "b"]]
    assert llm.complete("x", logprobs=True).logprobs is not None
    assert llm.chat(ASK).logprobs is None


def test_a_load_only_response_is_an_empty_answer(ollama_server: OllamaServer, llm: Ollama) -> None:
    ollama_server.reply("", done_reason="load", counters={"prompt_eval_count": None, "eval_count": None})
    assert llm.chat(ASK).message.content == ""
    assert [r.delta for r in llm.stream_chat(ASK)] == [""]


def test_an_answer_round_trips(ollama_server: OllamaServer, llm: Ollama, sent: Any) -> None:
    ollama_server.reply("Fine.", thinking="Well")
    first = list(llm.stream_chat(ASK))[-1].message
    llm.chat([*ASK, first])
    assert sent()[1]["messages"][1] == {"role": "assistant", "content": "Fine.", "thinking": "Well"}


# Errors


def test_errors_are_the_cores(ollama_server: OllamaServer, make_llm: Any) -> None:
    llm = make_llm("nope")
    with pytest.raises(ModelNotFoundError):
        llm.chat(ASK)
    with pytest.raises(ModelNotFoundError):
        list(llm.stream_chat(ASK))
    with pytest.raises(ModelNotFoundError):
        asyncio.run(llm.acomplete("x"))
    ollama_server.fault("status", status=401)
    with pytest.raises(AuthenticationError):
        make_llm().chat(ASK)


def test_a_stream_that_ends_early_raises_with_the_partial_text(ollama_server: OllamaServer, llm: Ollama) -> None:
    ollama_server.reply(["one", " two", " three"])
    ollama_server.fault("cut", at_token=2)
    seen: list[str] = []
    with pytest.raises(StreamInterruptedError) as caught:
        for response in llm.stream_chat(ASK):
            seen.append(response.delta or "")
    assert seen == ["one", " two"]
    assert caught.value.partial is not None
    assert caught.value.partial.content == "one two"


def test_retries_are_the_cores(ollama_server: OllamaServer, make_llm: Any, sent: Any) -> None:
    ollama_server.fault("status", status=503, times=2)
    assert make_llm().complete("hello").text
    assert len(sent()) == 3
    ollama_server.fault("status", status=503)
    with pytest.raises(ServerBusyError):
        make_llm(retry=RetryPolicy.off()).complete("hello")
    assert len(sent()) == 4


def test_request_timeout_limits_the_wait_for_each_chunk(ollama_server: OllamaServer, make_llm: Any) -> None:
    gate = Gate()
    ollama_server.reply(["a", "b"], gates={1: gate})
    with pytest.raises(LLMTimeoutError, match="chunk_timeout") as caught:
        make_llm(request_timeout=0.2).complete("hello")
    assert caught.value.deadline == "chunk_timeout"
    gate.open()
    llm = make_llm(request_timeout=None)
    llm.request_timeout = 20
    assert llm.complete("hello").text == "ab"


# Threads and loops


async def test_sync_calls_work_inside_a_running_loop(llm: Ollama) -> None:
    assert llm.complete("hello").text == "You said: hello"
    assert list(llm.stream_complete("hello"))[-1].text == "You said: hello"


def test_one_llm_in_several_loops_and_threads(ollama_server: OllamaServer, llm: Ollama) -> None:
    def work(number: int) -> list[str]:
        async def ask() -> str:
            streamed = [r async for r in await llm.astream_complete(f"n{number}")]
            return streamed[-1].text

        return [asyncio.run(ask()), asyncio.run(ask()), llm.complete(f"n{number}").text]

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, range(8)))
    assert results == [[f"You said: n{n}"] * 3 for n in range(8)]


def test_copies_share_max_concurrent(ollama_server: OllamaServer, make_llm: Any) -> None:
    gate = Gate()
    ollama_server.reply("fine", gate=gate)
    llm = make_llm(max_concurrent=2)
    copies = [llm, llm.model_copy(), copy.deepcopy(llm), copy.copy(llm)]
    with ThreadPoolExecutor(4) as pool:
        try:
            futures = [pool.submit(one.complete, "hello") for one in copies]
            ollama_server.wait_for(lambda s: gate.waiting == 2)
            deadline = time.monotonic() + 10
            while llm.provider.stats().queued < 2:  # no event reports that
                assert time.monotonic() < deadline
                time.sleep(0.005)
            assert ollama_server.active_requests == 2
        finally:
            gate.open()
        assert [future.result().text for future in futures] == ["fine"] * 4


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_leaving_a_stream_closes_the_connection(
    ollama_server: OllamaServer, llm: Ollama, asynchronous: bool
) -> None:
    gate = Gate()
    ollama_server.reply(["one", "two", "three"], gates={2: gate})
    if asynchronous:
        stream = await llm.astream_chat(ASK)
        assert (await stream.__anext__()).delta == "one"
        await stream.aclose()
    else:
        for response in llm.stream_chat(ASK):
            assert response.delta == "one"
            break
    await ollama_server.wait_for_async(lambda s: s.requests[0].outcome == "client_closed")
    assert llm.provider.stats().running == 0


async def test_a_cancelled_task_closes_the_connection(ollama_server: OllamaServer, llm: Ollama) -> None:
    gate = Gate()
    ollama_server.reply("never", gate=gate)
    task = asyncio.create_task(llm.achat(ASK))
    await ollama_server.wait_for_async(lambda s: gate.waiting == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await ollama_server.wait_for_async(lambda s: s.requests[0].outcome == "client_closed")


def test_a_stream_can_be_read_in_another_thread(llm: Ollama) -> None:
    stream = llm.stream_complete("hello")
    texts: list[str] = []
    thread = threading.Thread(target=lambda: texts.extend(response.text for response in stream))
    thread.start()
    thread.join()
    assert texts[-1] == "You said: hello"


# Secrets and serialization

SECRETS = ("t0psecret", "k3y", "pa55")


def with_secrets(url: str) -> Ollama:
    address = url.replace("http://", "http://user:pa55@")
    return Ollama("llama3.2", address, headers={"X-Secret": "t0psecret"}, additional_kwargs={"top_k": 1})


def test_secrets_are_never_shown(ollama_server: OllamaServer, recorder: Any) -> None:
    llm = with_secrets(ollama_server.url)
    keyed = Ollama("llama3.2", ollama_server.url, api_key="k3y")
    for one in (llm, keyed):
        one.complete("hello")
        list(one.stream_chat(ASK))
        shown = [repr(one), str(one), repr(one.to_dict()), one.to_json(), repr(one.to_payload()), repr(one.provider)]
        shown += [repr(event) + event.model_dump_json() for event in recorder.events]
        for secret in SECRETS:
            assert secret not in "".join(shown)
    assert ollama_server.requests[0].headers["x-secret"] == "t0psecret"
    assert ollama_server.requests[0].headers["authorization"].startswith("Basic ")
    keyed_request = next(r for r in ollama_server.requests if "x-secret" not in r.headers)
    assert keyed_request.headers["authorization"] == "Bearer k3y"


def test_dict_and_json_round_trip(ollama_server: OllamaServer) -> None:
    llm = Ollama(
        "llama3.2",
        ollama_server.url,
        temperature=0.5,
        retry=RetryPolicy(attempts=2),
        stream_config=StreamConfig(chunk_timeout=3),
        additional_kwargs={"top_k": 1},
        max_concurrent=None,
    )
    for again in (Ollama.from_dict(llm.to_dict()), Ollama.from_json(llm.to_json())):
        assert again.to_dict() == llm.to_dict()
        assert again.retry == RetryPolicy(attempts=2)
        assert again.stream_config == StreamConfig(chunk_timeout=3)
        assert again.complete("hello").text == "You said: hello"
    assert llm.to_dict()["class_name"] == "Ollama_llm"


def test_an_unpickled_llm_works(ollama_server: OllamaServer, caplog: pytest.LogCaptureFixture) -> None:
    llm = Ollama("llama3.2", ollama_server.url, max_concurrent=2, retry=RetryPolicy(attempts=2), temperature=0.5)
    again = pickle.loads(pickle.dumps(llm))
    assert again.complete("hello").text
    assert again.to_dict() == llm.to_dict()
    assert again.provider is not llm.provider
    assert caplog.records == []


def test_the_address_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Ollama("llama3.2").base_url == "http://localhost:11434"
    monkeypatch.setenv("OLLAMA_HOST", "0.0.0.0:1234")
    assert Ollama("llama3.2").base_url == "http://127.0.0.1:1234"
    with pytest.raises(ValueError, match="base_url"):
        Ollama("llama3.2", "ftp://x")


def test_connection_settings_are_frozen(make_llm: Callable[..., Ollama]) -> None:
    with pytest.raises(ValueError, match="frozen"):
        make_llm().base_url = "http://elsewhere"
