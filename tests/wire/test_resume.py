"""Streams that break off and resume at another host: the servers write numbered words, and each arrives once.

A server reads the assistant's turn that it is given, and continues it, as a model would.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from namel3ss_ollama import (
    Host,
    Hosts,
    LLMError,
    LLMTimeoutError,
    OllamaProvider,
    RetryPolicy,
    ServerError,
    StreamConfig,
    StreamInterruptedError,
    instant_retries,
)
from namel3ss_ollama.testing import Gate, Model, OllamaServer, Record, Reply

COUNT = 24
WORDS = [f"w{number}" for number in range(COUNT)]
TEXT = " ".join(WORDS)
ASK = [{"role": "user", "content": "count"}]
OPEN = (
    "{{- range $i, $_ := .Messages }}{{- $last := eq (len (slice $.Messages $i)) 1 }}<|{{ .Role }}|>{{ .Content }}"
    '{{ if or (ne .Role "assistant") (not $last) }}<|end|>{{ end }}'
    '{{ if and $last (ne .Role "assistant") }}<|assistant|>{{ end }}{{- end }}'
)
CLOSED = "{{- range .Messages }}<|{{ .Role }}|>{{ .Content }}<|end|>{{ end }}<|assistant|>"
DIED = "model runner has unexpectedly stopped"
PERSISTENT = RetryPolicy(attempts=10, budget=None)
Make = Callable[..., OllamaProvider]


def counting(record: Record) -> Reply:
    """Reply with the words that the turn does not have yet."""
    last = record.payload["messages"][-1]
    had = last["content"] if last["role"] == "assistant" else ""
    assert TEXT.startswith(had)
    return Reply(TEXT[len(had) :])


def is_answer(record: Record) -> bool:
    return record.path == "/api/chat" and "_debug_render_only" not in record.payload


def chats(*servers: OllamaServer) -> list[dict[str, Any]]:
    """The bodies of the requests for an answer, in the order in which they came."""
    records = [record for server in servers for record in server.requests if is_answer(record)]
    return [record.payload for record in sorted(records, key=lambda record: record.time)]


def is_look_up(record: Record) -> bool:
    """Whether the request look_ups up how the template renders a turn."""
    return record.path == "/api/show" or (record.path == "/api/chat" and not is_answer(record))


def look_ups(*servers: OllamaServer) -> int:
    return sum(is_look_up(record) for server in servers for record in server.requests)


@pytest.fixture(params=["0.9.3", "0.12.6"], ids=["by the template", "by rendering"])
def version(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def servers(version: str) -> Iterator[list[OllamaServer]]:
    with ExitStack() as stack:
        made = [
            stack.enter_context(
                OllamaServer([Model("llama3.2", ("completion", "tools"), template=OPEN)], version=version)
            )
            for _ in range(3)
        ]
        for server in made:
            server.reply(counting, predicate=is_answer)
        yield made


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    made: list[OllamaProvider] = []

    def factory(*servers: OllamaServer, resume: Any = "auto", **settings: Any) -> OllamaProvider:
        hosts = Hosts([server.url for server in servers], resume=resume)
        made.append(OllamaProvider("llama3.2", hosts, **{"retry": PERSISTENT, **settings}))
        return made[-1]

    with instant_retries():
        yield factory
    for provider in made:
        assert (provider.stats().running, provider.stats().queued) == (0, 0)
        await provider.aclose()


async def read(stream: Any) -> str:
    return "".join([chunk.content async for chunk in stream])


def close_templates(*servers: OllamaServer) -> None:
    for server in servers:
        server.models.add(Model("llama3.2", ("completion", "tools"), template=CLOSED))


@pytest.mark.parametrize("fault", ["reset_mid_stream", "cut", "truncated", "half_close", "error_line"])
async def test_another_host_resumes(make: Make, servers: list[OllamaServer], fault: str) -> None:
    message = {"message": DIED} if fault == "error_line" else {}
    broken: list[str] = []

    def first(record: Record) -> bool:
        if is_answer(record) and not broken:
            broken.append(record.headers["host"])
            return True
        return False

    for server in servers:
        server.fault(fault, at_token=9, predicate=first, **message)
    provider = make(*servers)
    stream = provider.stream_chat(ASK, seed=3, max_tokens=100)
    assert await read(stream) == TEXT
    assert stream.text.split() == WORDS
    assert (stream.resumed, stream.end) == (1, "done")
    response = stream.response
    assert response is not None
    assert response.resumed == 1
    assert response.content == TEXT
    begun, ended = response.metadata["hosts"]
    assert begun == f"http://{broken[0]}"
    assert ended == response.host == stream.host != begun
    initial, rest = chats(*servers)
    assert rest["messages"] == [*ASK, {"role": "assistant", "content": " ".join(WORDS[:9])}]
    assert rest["options"] == {"seed": 12, "num_predict": 91}
    assert initial["options"] == {"seed": 3, "num_predict": 100}
    assert response.usage.completion_tokens == COUNT
    assert response.usage.total_tokens == response.metadata["prompt_eval_count"] + response.metadata["eval_count"]
    assert provider.stats().retries == 1
    assert provider.stats().streams_succeeded == 1
    assert provider.stats().completion_tokens == COUNT


@pytest.mark.parametrize("seed", range(6))
async def test_random_cuts_at_every_host(make: Make, servers: list[OllamaServer], seed: int) -> None:
    """Each server breaks off each answer but the last ones, after a few words or none."""
    chance = random.Random(seed)
    for server in servers:
        rule = server.on(predicate=is_answer)
        for _ in range(2):
            fault = chance.choice(["reset_mid_stream", "cut", "truncated", "half_close"])
            rule.fault(fault, at_token=chance.randint(1, 6), times=1)
        rule.reply(counting)
    stream = make(*servers).stream_chat(ASK)
    assert (await read(stream)).split() == WORDS
    assert stream.text == TEXT
    assert stream.resumed >= 1
    assert stream.response is not None
    assert len(stream.response.metadata["hosts"]) == stream.resumed + 1


@pytest.mark.slow
async def test_hosts_that_die_under_fifty_streams(make: Make, servers: list[OllamaServer]) -> None:
    """Two of three stop, one after the other, while all write answers. No stream is lost."""
    gate = Gate()

    def held(record: Record) -> Reply:
        begun = record.payload["messages"][-1]["role"] == "assistant"
        return Reply(counting(record).text, gates={} if begun else {5: gate})

    for server in servers:
        server.reset()
        server.reply(held, predicate=is_answer)
    hosts = Hosts([Host(server.url, slots=20) for server in servers], resume="auto")
    async with OllamaProvider("llama3.2", hosts, retry=PERSISTENT) as provider:
        await provider.look_at_hosts()
        streams = [provider.stream_chat(ASK) for _ in range(50)]
        reading = [asyncio.ensure_future(read(stream)) for stream in streams]
        for server in servers:  # each server signals only its own changes
            await server.wait_for_async(
                lambda _: sum(r.tokens_sent == 5 for s in servers for r in s.requests if is_answer(r)) == 50
            )
        begun = [sum(map(is_answer, server.requests)) for server in servers]
        for server in servers[:2]:
            await asyncio.to_thread(server.stop)
        gate.open()
        assert await asyncio.gather(*reading) == [TEXT] * 50
        assert sum(stream.resumed > 0 for stream in streams) == sum(begun[:2]) >= 20
        assert provider.stats().streams_succeeded == 50
        assert (provider.stats().running, provider.stats().queued) == (0, 0)


async def test_a_host_that_stalls(make: Make, servers: list[OllamaServer]) -> None:
    for server in servers:
        server.fault("stall_mid_stream", at_token=4, times=1, predicate=is_answer)
    stream = make(*servers, stream_config=StreamConfig(chunk_timeout=0.3)).stream_chat(ASK)
    assert await read(stream) == TEXT
    assert stream.resumed >= 1
    assert stream.response is not None
    assert len(stream.response.metadata["hosts"]) == stream.resumed + 1


async def test_a_single_host_resumes(make: Make, servers: list[OllamaServer]) -> None:
    server = servers[0]
    server.fault("reset_mid_stream", at_token=9, times=1, predicate=is_answer)
    stream = make(server).stream_chat(ASK)
    assert await read(stream) == TEXT
    assert stream.response is not None
    assert stream.response.metadata["hosts"] == [server.url] * 2


async def test_the_template_is_looked_up_once(make: Make, servers: list[OllamaServer]) -> None:
    server = servers[0]
    provider = make(server)
    for _ in range(3):
        server.fault("reset_mid_stream", at_token=9, times=1, predicate=is_answer)
        assert await read(provider.stream_chat(ASK)) == TEXT
    assert look_ups(server) == 1


async def test_nothing_is_looked_up_before_a_stream_breaks(make: Make, servers: list[OllamaServer]) -> None:
    assert await read(make(*servers).stream_chat(ASK)) == TEXT
    assert look_ups(*servers) == 0


async def test_a_turn_that_the_caller_started(make: Make, servers: list[OllamaServer]) -> None:
    server = servers[0]
    server.fault("reset_mid_stream", at_token=3, times=1, predicate=is_answer)
    begun = [*ASK, {"role": "assistant", "content": "w0 w1"}]
    assert await read(make(server).stream_chat(begun)) == TEXT.removeprefix("w0 w1")
    assert chats(server)[1]["messages"] == [*ASK, {"role": "assistant", "content": "w0 w1 w2 w3 w4"}]


@pytest.mark.parametrize("again", [" ", "\n", ""])
async def test_white_space_at_the_cut_comes_once(make: Make, servers: list[OllamaServer], again: str) -> None:
    server = servers[0]
    server.reset()
    answers = iter([Reply(["one", " "], error=DIED), Reply([f"{again}two", " three"])])
    server.reply(lambda _: next(answers), predicate=is_answer)
    stream = make(server).stream_chat(ASK)
    assert (await read(stream)).split() == ["one", "two", "three"]
    assert chats(server)[1]["messages"][-1] == {"role": "assistant", "content": "one"}


async def test_an_answer_of_white_space_begins_again_whatever_the_template(
    make: Make, servers: list[OllamaServer]
) -> None:
    server = servers[0]
    close_templates(server)
    server.reset()
    answers = iter([Reply([" "], error=DIED), Reply([" ", "one"])])
    server.reply(lambda _: next(answers), predicate=is_answer)
    stream = make(server).stream_chat(ASK, max_tokens=9)
    assert await read(stream) == " one"
    assert chats(server)[1]["messages"] == ASK
    assert chats(server)[1]["options"] == {"num_predict": 9}
    assert look_ups(server) == 0


# Streams that are not resumed


async def failure_of(stream: Any, had: str) -> LLMError:
    received: list[str] = []
    with pytest.raises(LLMError) as caught:
        async for chunk in stream:
            received.append(chunk.content)
    assert caught.value.partial is not None
    assert "".join(received) == caught.value.partial.content == stream.text == had
    assert stream.end == "error"
    assert stream.resumed == 0
    return caught.value


async def test_a_template_that_closes_the_turn(make: Make, servers: list[OllamaServer]) -> None:
    close_templates(*servers)
    for server in servers:
        server.fault("reset_mid_stream", at_token=9, predicate=is_answer)
    error = await failure_of(make(*servers).stream_chat(ASK), " ".join(WORDS[:9]))
    assert isinstance(error, StreamInterruptedError)
    assert error.message.endswith("; not resumed: the model's template closes the turn")
    assert len(chats(*servers)) == 1


async def test_a_server_that_does_not_show_its_template(make: Make, servers: list[OllamaServer]) -> None:
    server = servers[0]
    server.fault("reset_mid_stream", at_token=9, predicate=is_answer)
    server.reply(json={"model": "x", "message": {"content": "x"}, "done": True}, predicate=is_look_up)
    error = await failure_of(make(server).stream_chat(ASK), " ".join(WORDS[:9]))
    assert "cannot be found out" in error.message


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize(
    ("call", "why"),
    [
        ({"format": "json"}, "a grammar would begin again"),
        ({"tools": [TOOL]}, "it has tools"),
        ({"logprobs": True}, "it has logprobs"),
        ({"max_tokens": 9}, "max_tokens were reached"),
    ],
    ids=["format", "tools", "logprobs", "limit"],
)
async def test_options_that_prevent_resuming(
    make: Make, servers: list[OllamaServer], call: dict[str, Any], why: str
) -> None:
    server = servers[0]
    server.fault("reset_mid_stream", at_token=9, predicate=is_answer)
    error = await failure_of(make(server).stream_chat(ASK, **call), " ".join(WORDS[:9]))
    assert error.message.endswith(f"; not resumed: {why}")
    assert len(chats(server)) == 1


async def test_a_model_that_thinks(make: Make, servers: list[OllamaServer]) -> None:
    """Whether it was asked to or not: the answer shows it."""
    server = servers[0]
    server.reset()
    server.reply(TEXT, thinking="hm hm", error=DIED, predicate=is_answer)
    error = await failure_of(make(server).stream_chat(ASK), TEXT)
    assert isinstance(error, ServerError)
    assert error.message.endswith("; not resumed: the model thinks")


async def test_a_prompt_is_not_resumed(make: Make, servers: list[OllamaServer]) -> None:
    server = servers[0]
    server.reply(TEXT, error=DIED, path="/api/generate")
    error = await failure_of(make(server).stream_generate("count"), TEXT)
    assert error.message.endswith("; not resumed: only a chat is")


@pytest.mark.parametrize("settings", [{"resume": "off"}, {}], ids=["off", "another failure"])
async def test_failures_without_resuming(make: Make, servers: list[OllamaServer], settings: dict[str, Any]) -> None:
    for server in servers:
        if settings:
            server.fault("reset_mid_stream", at_token=9, predicate=is_answer)
        else:
            server.fault("malformed_line", at_token=9, predicate=is_answer)
    error = await failure_of(make(*servers, **settings).stream_chat(ASK), " ".join(WORDS[:9]))
    assert "not resumed" not in error.message
    assert len(chats(*servers)) == 1


async def test_another_model_of_that_name(make: Make, servers: list[OllamaServer]) -> None:
    """Its digest differs; the same host is asked again instead."""

    def other_digest(record: Record) -> Reply:
        port = record.headers["host"].rpartition(":")[2]
        return Reply(json={"models": [{"name": "llama3.2:latest", "digest": port, "size": 9}]})

    for server in servers:
        server.reply(other_digest, path="/api/tags")
    for server in servers:
        server.fault("truncated", at_token=9, times=1, predicate=is_answer)
    provider = make(*servers)
    await provider.look_at_hosts()
    stream = provider.stream_chat(ASK)
    assert await read(stream) == TEXT
    assert stream.response is not None
    begun, ended = stream.response.metadata["hosts"]
    assert begun == ended


async def test_a_window_that_is_too_small(make: Make, servers: list[OllamaServer]) -> None:
    """Unless prompt and partial text are known to fit the window, nothing is sent."""
    server = servers[0]
    server.fault("reset_mid_stream", at_token=9, predicate=is_answer)
    long = [{"role": "user", "content": "count to three " * 40}]
    error = await failure_of(make(server).stream_chat(long, num_ctx=130, on_truncation="ignore"), " ".join(WORDS[:9]))
    assert error.message.endswith(f"; not resumed: prompt and text may not fit the context window of {server.url}")


async def test_retries_that_are_off(make: Make, servers: list[OllamaServer]) -> None:
    server = servers[0]
    server.fault("reset_mid_stream", at_token=9, predicate=is_answer)
    error = await failure_of(make(server, retry=RetryPolicy.off()).stream_chat(ASK), " ".join(WORDS[:9]))
    assert error.message.endswith("; not resumed: RetryPolicy.attempts are used up")


async def test_a_budget_that_is_used_up(make: Make, servers: list[OllamaServer]) -> None:
    """The reserve has one more per slot, for the requests that fail with a host."""
    server = servers[0]
    server.fault("reset_mid_stream", at_token=9, predicate=is_answer)
    stream = make(server, retry=RetryPolicy(attempts=10, budget=0.0, budget_reserve=0)).stream_chat(ASK)
    with pytest.raises(StreamInterruptedError, match=r"; not resumed: the budget of RetryPolicy is used up$") as caught:
        await read(stream)
    assert caught.value.partial is not None
    assert caught.value.partial.content.split() == WORDS[:18]
    assert (stream.resumed, caught.value.partial.resumed) == (1, 1)
    assert caught.value.partial.metadata["hosts"] == [server.url] * 2


async def test_hosts_that_are_all_down(make: Make, servers: list[OllamaServer]) -> None:
    gate = Gate()
    server = servers[0]
    server.reset()
    server.reply(TEXT, gates={3: gate}, predicate=is_answer)
    provider = make(server, retry=RetryPolicy(attempts=2))
    stream = provider.stream_chat(ASK)
    received = [(await anext(stream)).content for _ in range(3)]
    await asyncio.to_thread(server.stop)
    with pytest.raises(StreamInterruptedError, match="not resumed: no host could resume: cannot connect") as caught:
        await anext(stream)
    assert caught.value.partial is not None
    assert caught.value.partial.content == "".join(received)
    assert caught.value.partial.host == server.url


async def test_stream_timeout_covers_all_parts(make: Make, servers: list[OllamaServer]) -> None:
    server = servers[0]
    server.reset()
    server.on(predicate=is_answer).sequence(Reply("w0 w1", error=DIED), Reply("w2", gate=Gate()))
    provider = make(server, stream_config=StreamConfig(stream_timeout=1.0))
    stream = provider.stream_chat(ASK)
    with pytest.raises(LLMTimeoutError) as caught:
        await read(stream)
    assert caught.value.deadline == "stream_timeout"
    assert caught.value.partial is not None


async def test_a_provider_that_is_closed(make: Make, servers: list[OllamaServer]) -> None:
    server = servers[0]
    server.reset()
    server.reply(Reply(TEXT, gates={3: Gate()}), predicate=is_answer)
    provider = make(server)
    stream = provider.stream_chat(ASK)
    for _ in range(3):
        await anext(stream)
    await provider.aclose()
    with pytest.raises(LLMError):
        await anext(stream)
    assert len(chats(server)) == 1


async def test_a_stream_that_is_cancelled_while_it_resumes(make: Make, servers: list[OllamaServer]) -> None:
    server = servers[0]
    server.reset()
    server.on(predicate=is_answer).sequence(Reply("w0 w1", error=DIED), Reply("w2", gate=Gate()))
    stream = make(server).stream_chat(ASK)
    reading = asyncio.ensure_future(read(stream))
    await server.wait_for_async(lambda _: len(chats(server)) == 2)
    stream.cancel()
    assert (await reading).split() == WORDS[:2]
    assert stream.end == "cancelled"


async def test_max_chunks_counts_all(make: Make, servers: list[OllamaServer]) -> None:
    server = servers[0]
    server.fault("reset_mid_stream", at_token=9, times=1, predicate=is_answer)
    stream = make(server, stream_config=StreamConfig(max_chunks=12)).stream_chat(ASK)
    assert (await read(stream)).split() == WORDS[:12]
    assert stream.end == "max_chunks"


def test_without_an_event_loop(servers: list[OllamaServer]) -> None:
    """A resumed stream keeps its slot: requests nested in it, in its thread, do not wait for one."""
    server = servers[0]
    server.fault("truncated", at_token=9, times=1, predicate=is_answer)
    with (
        instant_retries(),
        OllamaProvider("llama3.2", Hosts([server.url], resume="auto"), max_concurrent=1) as provider,
    ):
        stream = provider.stream(ASK)
        for number, _ in enumerate(stream):
            if number == 12:
                assert provider.generate("hi", timeout=10).finish_reason == "stop"
        assert stream.text == TEXT
        assert stream.resumed == 1
