"""OpenAI's endpoints on the test server: how it translates requests and responses, and its error messages."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from namel3ss_ollama.testing import Model, OllamaServer, Reply, ToolCall

HELLO = [{"role": "user", "content": "Hello."}]
TOOL = {"type": "function", "function": {"name": "weather", "description": "", "parameters": {"type": "object"}}}
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()


@pytest.fixture
def server() -> Iterator[OllamaServer]:
    models = [Model("llama3.2"), Model("seer", ("completion", "vision")), Model("all-minilm", ("embedding",))]
    with OllamaServer(models) as server:
        yield server


def ask(server: OllamaServer, **payload: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/chat/completions", json={"model": "llama3.2", "messages": HELLO, **payload})


def events(response: httpx.Response) -> list[Any]:
    assert response.headers["content-type"] == "text/event-stream"
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def test_one_answer(server: OllamaServer) -> None:
    server.reply(["Good", " day."])
    answer = ask(server).json()
    assert answer["object"] == "chat.completion"
    assert answer["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": "Good day."}, "finish_reason": "stop"}
    ]
    assert answer["usage"]["completion_tokens"] == 2
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + 2


def test_a_stream(server: OllamaServer) -> None:
    server.reply(["Good", " day."])
    *chunks, usage, done = events(ask(server, stream=True, stream_options={"include_usage": True}))
    assert done == "[DONE]"
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 2)
    assert [chunk["choices"][0]["delta"]["content"] for chunk in chunks] == ["Good", " day.", ""]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, "stop"]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert events(ask(server, stream=True))[-2]["choices"], "no usage unless it is asked for"


def test_an_error_in_a_stream_is_an_empty_chunk_without_done(server: OllamaServer) -> None:
    server.reply(["Good"], error="the model crashed")
    assert [chunk["choices"][0]["delta"]["content"] for chunk in events(ask(server, stream=True))] == ["Good", ""]


def test_tools_and_their_results(server: OllamaServer) -> None:
    server.reply(tool_calls=[ToolCall("weather", {"city": "Rome"}, id="call_1")], times=1)
    server.reply("Sunny.")
    choice = ask(server, tools=[TOOL]).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    (call,) = choice["message"]["tool_calls"]
    assert (call["id"], call["type"], call["function"]["name"]) == ("call_1", "function", "weather")
    assert json.loads(call["function"]["arguments"]) == {"city": "Rome"}
    messages = [*HELLO, choice["message"], {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}]
    assert ask(server, messages=messages).json()["choices"][0]["message"]["content"] == "Sunny."


def test_thinking(server: OllamaServer) -> None:
    server.reply(Reply("42", thinking="Hm."))
    assert ask(server).json()["choices"][0]["message"]["reasoning"] == "Hm."


def test_a_format_is_enforced(server: OllamaServer) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    content = ask(server, response_format=wanted).json()["choices"][0]["message"]["content"]
    assert isinstance(json.loads(content)["n"], int)


def test_only_max_tokens_limits_an_answer(server: OllamaServer) -> None:
    cut = ask(server, max_tokens=1).json()["choices"][0]
    assert cut["finish_reason"] == "length"
    whole = ask(server, max_completion_tokens=1).json()["choices"][0]
    assert whole["finish_reason"] == "stop", "the server ignores it"


def test_images(server: OllamaServer) -> None:
    def looking(url: str) -> httpx.Response:
        parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": url}}]
        return ask(server, model="seer", messages=[{"role": "user", "content": parts}])

    assert looking(f"data:image/png;base64,{PNG}").status_code == 200
    assert looking("https://example.com/a.png").json()["error"]["message"] == "invalid image input"


def test_embeddings(server: OllamaServer) -> None:
    def embed(**payload: Any) -> Any:
        return httpx.post(f"{server.url}/v1/embeddings", json={"model": "all-minilm", "input": "cat", **payload}).json()

    own = httpx.post(f"{server.url}/api/embed", json={"model": "all-minilm", "input": ["cat"]}).json()["embeddings"]
    (one,) = embed()["data"]
    assert (one["index"], one["embedding"]) == (0, own[0])
    packed = base64.b64decode(embed(encoding_format="base64")["data"][0]["embedding"])
    assert struct.unpack(f"<{len(own[0])}f", packed) == pytest.approx(own[0])
    assert embed(input=[])["error"]["message"] == "invalid input"


def test_models(server: OllamaServer) -> None:
    listed = httpx.get(f"{server.url}/v1/models").json()
    assert [model["id"] for model in listed["data"]] == ["llama3.2:latest", "seer:latest", "all-minilm:latest"]
    assert all(model["created"] > 1_600_000_000 for model in listed["data"])


@pytest.mark.parametrize(
    ("payload", "status", "kind"),
    [
        ({"model": "nope"}, 404, "not_found_error"),
        ({"messages": []}, 400, "invalid_request_error"),
        ({"model": "all-minilm"}, 400, "invalid_request_error"),
        ({"temperature": "hot"}, 500, "api_error"),
    ],
)
def test_refusals(server: OllamaServer, payload: dict[str, Any], status: int, kind: str) -> None:
    refused = ask(server, **payload)
    assert refused.status_code == status
    assert refused.json()["error"]["type"] == kind
    assert isinstance(refused.json()["error"]["message"], str)
