"""OpenAI's API in front of the engine, as its clients receive it."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fake_binding import FakeBinding, Take, last, say, token
from gguf_files import gguf
from ollama_store import Store

from namel3ss_ollama.embedded import engine as engine_module
from namel3ss_ollama.embedded.serve import serving

CHAT, TEXT, VECTORS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
USER = {"role": "user", "content": "Hi!"}
CITY = {"type": "object", "properties": {"city": {"$ref": "#/$defs/City"}}, "$defs": {"City": {"type": "string"}}}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
CLOCK = {"type": "function", "function": {"name": "clock"}}
CALL = '{"name": "weather", "arguments": {"city": "Zürich"}}'
NAMED = (
    "{{ range .Messages }}<{{ .Role }} {{ .ToolName }}>{{ range .ToolCalls }}{{ .Function.Arguments.city }}{{ end }}"
    "{{ .Content }}{{ end }}{{ .Tools }}"
)
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def answers(text: str) -> Callable[[Any, Take], None]:
    """Makes the engine write a text."""
    return lambda request, take: say(take, text) and None


@pytest.fixture
def post(client: httpx.AsyncClient) -> Callable[..., Any]:
    """Request an answer in one piece."""

    async def post(path: str, status: int = 200, **body: Any) -> Any:
        response = await client.post(path, json={"model": "small", **body})
        assert (response.status_code, response.headers["content-type"]) == (status, "application/json"), response.text
        return response.json()

    return post


@pytest.fixture
def events(client: httpx.AsyncClient) -> Callable[..., Any]:
    """Request a stream; the last event is not parsed."""

    async def events(path: str, **body: Any) -> list[Any]:
        response = await client.post(path, json={"model": "small", "stream": True, **body})
        assert (response.status_code, response.headers["content-type"]) == (200, "text/event-stream")
        *found, end = response.text.split("\n\n")
        assert end == ""
        assert all(event.startswith("data: ") for event in found)
        return [event[6:] if event == "data: [DONE]" else json.loads(event[6:]) for event in found]

    return events


# Chat


async def test_chat_in_one_piece(post: Callable[..., Any]) -> None:
    answer = await post(CHAT, messages=[USER])
    assert answer.pop("id").startswith("chatcmpl-")
    assert type(answer.pop("created")) is int
    message = {"role": "assistant", "content": "Hello."}
    assert answer == {
        "object": "chat.completion",
        "model": "small",
        "system_fingerprint": "fp_ollama",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": USAGE,
    }


@pytest.mark.parametrize("counted", [True, False])
async def test_chat_in_pieces(events: Callable[..., Any], counted: bool) -> None:
    *chunks, done = await events(CHAT, messages=[USER], stream_options={"include_usage": counted})
    assert done == "[DONE]"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    if counted:
        usage = chunks.pop()
        assert (usage["choices"], usage["usage"]) == ([], USAGE)
    assert not any("usage" in chunk for chunk in chunks)
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [choice["delta"] for choice in choices] == [
        {"role": "assistant", "content": "Hel"},
        {"content": "lo."},
        {"content": ""},
    ]
    assert [choice["finish_reason"] for choice in choices] == [None, None, "stop"]


async def test_a_truncated_answer(post: Callable[..., Any], binding: FakeBinding) -> None:
    binding.answer = lambda request, take: (take(token("a")), take(last("length")))[0]
    answer = await post(CHAT, messages=[USER], max_tokens=1)
    assert answer["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("given", "field", "value"),
    [
        ({"max_tokens": 7}, "n_predict", 7),
        ({"max_tokens": 7, "max_completion_tokens": 8}, "n_predict", 8),
        ({"max_tokens": None}, "n_predict", -1),
        ({"temperature": 0}, "temperature", 0.0),
        ({}, "temperature", 0.5),  # the model's own
        ({"top_p": 0.3}, "top_p", 0.3),
        ({"seed": 5}, "seed", 5),
        ({"presence_penalty": 1.5}, "presence_penalty", 1.5),
        ({"frequency_penalty": 1.5}, "frequency_penalty", 1.5),
        ({"stop": "x"}, "stop", ["x"]),
        ({"stop": ["x", "y"]}, "stop", ["x", "y"]),
        ({"user": "me", "store": True, "n": 1, "logit_bias": {}, "parallel_tool_calls": True}, "n_predict", -1),
        ({"logprobs": True, "top_logprobs": 2}, "logprobs", 2),
    ],
)
async def test_options_for_the_engine(
    post: Callable[..., Any], binding: FakeBinding, given: dict[str, Any], field: str, value: object
) -> None:
    await post(CHAT, messages=[USER], **given)
    assert binding.requests[0][field] == value


async def test_log_probabilities(post: Callable[..., Any], binding: FakeBinding) -> None:
    entry = {"token": "a", "logprob": -0.5, "bytes": [97]}
    binding.answer = lambda request, take: (
        take(token("a", logprobs={"content": [{**entry, "id": 1, "top_logprobs": [entry]}]})),
        take(last()),
    )[0]
    answer = await post(CHAT, messages=[USER], logprobs=True, top_logprobs=1)
    assert answer["choices"][0]["logprobs"] == {"content": [{**entry, "top_logprobs": [entry]}]}


async def test_reasoning(post: Callable[..., Any], events: Callable[..., Any], binding: FakeBinding) -> None:
    binding.answer = lambda request, take: say(take, "<think>Hm.</think>", "Hello.") and None
    answer = await post(CHAT, messages=[USER], reasoning_effort="low")
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "Hello.", "reasoning": "Hm."}
    chunks = await events(CHAT, messages=[USER], reasoning_effort="high")
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "reasoning": "Hm."}


async def test_messages_of_every_kind(post: Callable[..., Any], binding: FakeBinding) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    await post(CHAT, messages=messages)
    assert binding.requests[0]["prompt"] == "[]<system>Be brief.<user>a\n\nb"


async def test_results_of_calls_have_their_tools_names(
    post: Callable[..., Any], binding: FakeBinding, store: Store
) -> None:
    store.add("registry.ollama.ai/library/named/latest", gguf(), template=NAMED)
    calls = [
        {"id": "c", "type": "function", "function": {"name": name, "arguments": '{"city": "Rome"}'}}
        for name in ("weather", "clock")
    ]
    results = [{"role": "tool", "tool_call_id": "c", "content": content} for content in ("sunny", "noon")]
    asked = {"role": "assistant", "content": None, "tool_calls": calls}
    await post(CHAT, model="named", messages=[USER, asked, *results])
    prompt = binding.requests[0]["prompt"]
    assert "<tool weather>sunny<tool clock>noon" in prompt
    assert "RomeRome" in prompt


# Tools and formats


async def test_calls_of_tools(post: Callable[..., Any], events: Callable[..., Any], binding: FakeBinding) -> None:
    binding.answer = answers(CALL)
    (choice,) = (await post(CHAT, messages=[USER], tools=[WEATHER]))["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
    assert call.pop("id").startswith("call_")
    assert call == {
        "index": 0,
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city":"Zürich"}'},
    }
    *chunks, done = await events(CHAT, messages=[USER], tools=[WEATHER])
    assert done == "[DONE]"
    choices = [chunk["choices"][0] for chunk in chunks]
    assert choices[0]["delta"]["role"] == "assistant"
    assert choices[0]["delta"]["tool_calls"][0]["function"]["name"] == "weather"
    assert [choice["finish_reason"] for choice in choices] == [None, "tool_calls"]
    assert all("json_schema" not in request for request in binding.requests)


async def test_no_tools_with_tool_choice_none(post: Callable[..., Any], binding: FakeBinding) -> None:
    await post(CHAT, messages=[USER], tools=[WEATHER], tool_choice="none")
    assert binding.requests[0]["prompt"].startswith("[]")


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", ["weather", "clock"]),
        ({"type": "function", "function": {"name": "clock"}}, ["clock"]),
        ({"type": "function", "function": {"name": "weather"}}, ["weather"]),
    ],
)
async def test_a_forced_call(post: Callable[..., Any], binding: FakeBinding, choice: object, names: list[str]) -> None:
    binding.answer = answers(CALL if "weather" in names else '{"name": "clock", "arguments": {}}')
    answer = await post(CHAT, messages=[USER], tools=[WEATHER, CLOCK], tool_choice=choice)
    assert answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == names[0]
    schema = binding.requests[0]["json_schema"]
    calls = schema.get("anyOf", [schema])
    assert [call["properties"]["name"]["const"] for call in calls] == names
    assert ("$defs" in schema) == ("weather" in names)
    assert all("$defs" not in call["properties"]["arguments"] for call in calls)


async def test_formats(post: Callable[..., Any], binding: FakeBinding) -> None:
    binding.answer = answers('{"city": "Rome"}')
    wanted = {"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": CITY}}
    answer = await post(CHAT, messages=[USER], response_format=wanted)
    assert json.loads(answer["choices"][0]["message"]["content"]) == {"city": "Rome"}
    await post(CHAT, messages=[USER], response_format={"type": "json_object"})
    await post(CHAT, messages=[USER], response_format={"type": "text"})
    schema, any_json, free = (request.get("json_schema") for request in binding.requests)
    assert schema["properties"] == CITY["properties"]
    assert any_json == {"type": "object"}
    assert free is None


# The other endpoints


async def test_completions(post: Callable[..., Any], events: Callable[..., Any], binding: FakeBinding) -> None:
    answer = await post(TEXT, prompt=["Hi!"], max_tokens=5)
    assert (answer["object"], answer["usage"]) == ("text_completion", USAGE)
    assert answer["choices"] == [{"index": 0, "text": "Hello.", "logprobs": None, "finish_reason": "stop"}]
    *chunks, usage, done = await events(TEXT, prompt="Hi!", stream_options={"include_usage": True})
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["Hel", "lo.", ""]
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert (usage["usage"], done) == (USAGE, "[DONE]")


async def test_embeddings(post: Callable[..., Any]) -> None:
    answer = await post(VECTORS, model="vectors", input=["a", "b"])
    assert answer == {
        "object": "list",
        "model": "vectors",
        "data": [{"object": "embedding", "index": index, "embedding": [3.0, 4.0]} for index in (0, 1)],
        "usage": {"prompt_tokens": 4, "total_tokens": 4},
    }
    packed = await post(VECTORS, model="vectors", input="a", encoding_format="base64", dimensions=1)
    assert struct.unpack("<f", base64.b64decode(packed["data"][0]["embedding"])) == (1.0,)


async def test_models(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/v1/models")).json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["plain:latest", "small:latest", "vectors:latest"]
    one = (await client.get("/v1/models/small")).json()
    created = one.pop("created")
    assert one == {"id": "small", "object": "model", "owned_by": "library"}
    assert created == listed["data"][1]["created"]
    none = await client.get("/v1/models/none")
    assert (none.status_code, none.json()["error"]["type"]) == (404, "not_found_error")


# Refusals


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        (CHAT, {}, "messages: must be a list of one message or more"),
        (CHAT, {"messages": []}, "messages: must be a list of one message or more"),
        (CHAT, {"messages": ["Hi!"]}, "messages: each must be an object"),
        (CHAT, {"messages": [{"role": "user", "content": 7}]}, "messages: each must be an object with a role and"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "type 'image_url' is not"),
        (CHAT, {"messages": [{"role": "user", "content": ["Hi!"]}]}, "a part of type None is not supported"),
        (CHAT, {"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "tool_calls must be a list of objects"),
        (CHAT, {"messages": [USER], "n": 2}, "n: not supported"),
        (CHAT, {"messages": [USER], "logit_bias": {"1": 2}}, "logit_bias: not supported"),
        (CHAT, {"messages": [USER], "max_tokens": 0}, "max_tokens: must be a positive integer"),
        (CHAT, {"messages": [USER], "max_completion_tokens": "7"}, "max_completion_tokens: must be a positive integer"),
        (CHAT, {"messages": [USER], "top_p": 2}, '"top_p" is out of range: it must be from 0 to 1'),
        (CHAT, {"messages": [USER], "stream": "yes"}, "stream: must be of type bool"),
        (CHAT, {"messages": [USER], "stream_options": []}, "stream_options: must be of type dict"),
        (CHAT, {"messages": [USER], "tools": ["weather"]}, "tools: each must be an object with a function"),
        (CHAT, {"messages": [USER], "tool_choice": "required"}, "there is no such tool"),
        (CHAT, {"messages": [USER], "tools": [WEATHER], "tool_choice": "some"}, 'tool_choice: must be "none"'),
        (CHAT, {"messages": [USER], "tools": [WEATHER], "tool_choice": {"function": {"name": "x"}}}, "no such tool"),
        (CHAT, {"messages": [USER], "response_format": {"type": "xml"}}, "its type must be text, json_object"),
        (CHAT, {"messages": [USER], "response_format": "json"}, "its type must be text, json_object"),
        (CHAT, {"messages": [USER], "response_format": {"type": "json_schema"}}, "an object with a schema"),
        (TEXT, {}, "prompt: must be one text"),
        (TEXT, {"prompt": ["a", "b"]}, "prompt: must be one text"),
        (TEXT, {"prompt": "a", "suffix": "b"}, "does not support insert"),
        (TEXT, {"prompt": "a", "echo": True}, "echo: not supported"),
        (TEXT, {"prompt": "a", "logprobs": 2}, "logprobs: supported only in /v1/chat/completions"),
        (VECTORS, {}, "input: must be a text"),
        (VECTORS, {"input": [1, 2]}, "invalid input type"),
        (VECTORS, {"input": "a", "encoding_format": "hex"}, 'encoding_format: must be "float" or "base64"'),
    ],
)
async def test_invalid_requests(post: Callable[..., Any], path: str, body: dict[str, Any], message: str) -> None:
    error = (await post(path, status=400, **body))["error"]
    assert message in error.pop("message")
    assert error == {"type": "invalid_request_error", "param": None, "code": None}


async def test_a_forced_call_excludes_a_format(post: Callable[..., Any]) -> None:
    wanted = {"tools": [WEATHER], "tool_choice": "required", "response_format": {"type": "json_object"}}
    error = (await post(CHAT, status=400, messages=[USER], **wanted))["error"]
    assert "exclude each other" in error["message"]


async def test_conflicting_definitions(post: Callable[..., Any]) -> None:
    other = {"function": {"name": "other", "parameters": {"$defs": {"City": {"type": "integer"}}}}}
    body = {"messages": [USER], "tools": [WEATHER, other], "tool_choice": "required"}
    error = (await post(CHAT, status=400, **body))["error"]
    assert "two of them define 'City'" in error["message"]


async def test_other_statuses(client: httpx.AsyncClient) -> None:
    absent = await client.post(CHAT, json={"model": "none", "messages": [USER]})
    assert absent.status_code == 404
    assert absent.json()["error"] == {
        "message": 'model "none" not found, try pulling it first',
        "type": "not_found_error",
        "param": None,
        "code": None,
    }
    for method, path, status in (("GET", CHAT, 405), ("POST", "/v1/models/small", 405), ("POST", "/v1/none", 404)):
        assert (await client.request(method, path)).status_code == status
    broken = await client.post(CHAT, content=b"{")
    assert (broken.status_code, broken.json()["error"]["type"]) == (400, "invalid_request_error")


async def test_a_stream_that_is_interrupted(events: Callable[..., Any], binding: FakeBinding) -> None:
    binding.answer = lambda request, take: (take(token("a")), take({"error": {"code": 500, "message": "broken"}}))[0]
    chunks = await events(CHAT, messages=[USER])
    assert chunks[0]["choices"][0]["delta"]["content"] == "a"
    assert chunks[-1] == {"error": {"message": "broken", "type": "api_error", "param": None, "code": None}}


# Over a socket


async def test_through_the_server(monkeypatch: pytest.MonkeyPatch, binding: FakeBinding, store: Store) -> None:
    process = engine_module._Process()
    monkeypatch.setattr(engine_module, "_process", process)
    async with serving(0) as url, httpx.AsyncClient(base_url=url) as client:
        request = {"model": "small", "messages": [USER], "stream": True}
        async with client.stream("POST", CHAT, json=request, headers={"authorization": "Bearer any"}) as response:
            assert response.headers["content-type"] == "text/event-stream"
            lines = [line async for line in response.aiter_lines() if line]
        assert lines[-1] == "data: [DONE]"
        assert (await client.get("/v1/models/small%3Alatest")).json()["id"] == "small:latest"
    process.engine().shut_down()


@pytest.mark.embedded
@pytest.mark.usefixtures("weights")
async def test_with_the_model() -> None:
    question = [{"role": "user", "content": "What is the capital of France?"}]
    async with serving(0) as url, httpx.AsyncClient(base_url=url, timeout=120) as client:
        body = {"model": "smollm2:135m", "messages": question, "temperature": 0, "max_tokens": 20}
        answer = (await client.post(CHAT, json=body)).json()
        assert answer["choices"][0]["message"]["content"] == "The capital of France is Paris."
        assert answer["usage"]["completion_tokens"] == 8
        forced = (await client.post(CHAT, json={**body, "tools": [WEATHER, CLOCK], "tool_choice": "required"})).json()
        (call,) = forced["choices"][0]["message"]["tool_calls"]
        assert call["function"]["name"] in ("weather", "clock")
        assert isinstance(json.loads(call["function"]["arguments"]), dict)
        vector = (await client.post(VECTORS, json={"model": "smollm2:135m", "input": "a cat"})).json()
        assert len(vector["data"][0]["embedding"]) == 576
