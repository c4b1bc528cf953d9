"""The endpoints, with plain HTTP and with the `ollama` client.

The texts and shapes were recorded from Ollama 0.9.3.
"""

from __future__ import annotations

import hashlib
import json
import math

import httpx
import ollama
import pytest

from namel3ss_ollama.testing import DEFAULT_MODELS, Model, Models, OllamaServer, ToolCall

TOOL = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
}


@pytest.fixture
def http(server):
    with httpx.Client(base_url=server.url) as client:
        yield client


@pytest.fixture
def client(server):
    with ollama.Client(host=server.url) as client:
        yield client


def chat_lines(http, **more) -> list[dict]:
    payload = {"model": "llama3.2", "messages": [{"role": "user", "content": "hello"}], **more}
    response = http.post("/api/chat", json=payload)
    return [json.loads(line) for line in response.text.split("\n") if line]


# Chat and generate


def test_a_chat_stream_byte_for_byte(server, wire):
    server.reply("Hi <b>")
    seen = wire.ask()
    assert list(seen.headers) == ["content-type", "date", "connection", "transfer-encoding"]
    stamps = [line["created_at"] for line in seen.lines]
    assert stamps == sorted(stamps, key=lambda stamp: (stamp[:19], stamp[19:-1].ljust(10, "0")))
    lines = [line.replace(stamp, "T") for line, stamp in zip(seen.body.decode().split("\n"), stamps, strict=False)]
    head = '{"model":"llama3.2","created_at":"T","message":{"role":"assistant","content":'
    assert lines == [
        head + '"Hi"},"done":false}',
        head + '" \\u003c"},"done":false}',
        head + '"b"},"done":false}',
        head + '"\\u003e"},"done":false}',
        head + '""},"done_reason":"stop","done":true,"total_duration":62000000,"load_duration":20000000,'
        '"prompt_eval_count":1,"prompt_eval_duration":1000000,"eval_count":4,"eval_duration":40000000}',
    ]


def test_a_generate_stream(server, http):
    server.reply(["Hi"])
    response = http.post("/api/generate", json={"model": "llama3.2", "prompt": "x"})
    first, last = (json.loads(line) for line in response.text.splitlines())
    assert list(first) == ["model", "created_at", "response", "done"]
    assert list(last)[:6] == ["model", "created_at", "response", "done", "done_reason", "context"]
    response = http.post("/api/generate", json={"model": "llama3.2", "prompt": "x", "raw": True})
    assert "context" not in response.text


def test_with_the_ollama_client(server, client):
    server.reply("Hello there.", thinking="Hm.", tool_calls=[ToolCall("add", {"a": 1}), {"name": "f"}])
    whole = client.chat("llama3.2", [{"role": "user", "content": "x"}])
    assert (whole.message.content, whole.message.thinking, whole.done_reason) == ("Hello there.", "Hm.", "stop")
    assert [(c.function.name, c.function.arguments) for c in whole.message.tool_calls] == [("add", {"a": 1}), ("f", {})]
    parts = list(client.chat("llama3.2", [{"role": "user", "content": "x"}], stream=True))
    assert "".join(part.message.content for part in parts) == "Hello there."
    assert "".join(part.message.thinking or "" for part in parts) == "Hm."
    assert sum(len(part.message.tool_calls or ()) for part in parts) == 2
    assert parts[-1].eval_count == whole.eval_count == len(parts) - 1
    text = "".join(part.response for part in client.generate("llama3.2", "x", stream=True))
    assert text == "Hello there."


def test_text_is_returned_unchanged(server, http):
    text = 'a\u0085b\u2028c\x00\n\t  \u00e9\u4e2d\U0001f600 "q" & <x>\'s'
    server.reply(text)
    assert "".join(line["message"]["content"] for line in chat_lines(http)) == text
    assert chat_lines(http, stream=False)[0]["message"]["content"] == text


def test_forms_of_tool_calls(server, http):
    calls = [ToolCall("a", {"x": 1}, id="call_1", index=0), {"id": "call_2", "function": {"name": "b", "index": 1}}]
    server.reply(tool_calls=calls, times=1)
    server.reply(tool_calls=calls, tool_calls_in_one_line=True, times=1)
    server.reply(tool_calls=[ToolCall("c", '{"broken": ')])
    lines = chat_lines(http)
    assert [len(line["message"].get("tool_calls", ())) for line in lines] == [1, 1, 0]
    assert lines[0]["message"]["content"] == ""
    first = {"id": "call_1", "function": {"index": 0, "name": "a", "arguments": {"x": 1}}}
    assert lines[0]["message"]["tool_calls"] == [first]
    assert [len(line["message"].get("tool_calls", ())) for line in chat_lines(http)] == [2, 0]
    assert chat_lines(http)[0]["message"]["tool_calls"][0]["function"]["arguments"] == '{"broken": '


def test_counters(server, http):
    server.reply("a b", load_duration=3, counters={"eval_count": None, "prompt_eval_count": 7}, done_reason="length")
    last = chat_lines(http)[-1]
    assert (last["load_duration"], last["prompt_eval_count"], last["done_reason"]) == (3, 7, "length")
    assert "eval_count" not in last


def test_logprobs(server, http):
    server.reply(["a", "\u00e9"], logprobs=[-0.5])
    lines = chat_lines(http, logprobs=True, top_logprobs=2)
    assert [line.get("logprobs", [{}])[0].get("token") for line in lines] == ["a", "\u00e9", None]
    assert lines[0]["logprobs"][0]["logprob"] == -0.5
    one = lines[1]["logprobs"][0]
    assert one["bytes"] == [195, 169]
    assert one["logprob"] < 0
    assert len(one["top_logprobs"]) == 2
    assert len(chat_lines(http, logprobs=True, stream=False)[0]["logprobs"]) == 2
    assert not any("logprobs" in line for line in chat_lines(http))


def test_a_scripted_error(server, http):
    server.reply("a b", error="out of memory")
    assert chat_lines(http)[-1] == {"error": "out of memory"}
    assert len(chat_lines(http)) == 3
    response = http.post("/api/generate", json={"model": "llama3.2", "prompt": "x", "stream": False})
    assert (response.status_code, response.json()) == (500, {"error": "out of memory"})


def test_without_a_script(http):
    lines = chat_lines(http)
    assert "".join(line["message"]["content"] for line in lines) == "You said: hello"
    assert chat_lines(http, options={"num_predict": 2})[-1]["done_reason"] == "length"
    assert len(chat_lines(http, options={"num_predict": 2})) == 3
    thinking = chat_lines(http, model="qwen3", think=True)
    assert thinking[0]["message"]["thinking"]
    assert list(thinking[0]["message"]) == ["role", "content", "thinking"]
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    assert json.loads(chat_lines(http, format=schema, stream=False)[0]["message"]["content"]) == {"n": 0}
    assert chat_lines(http, format="json", stream=False)[0]["message"]["content"] == "{}"


def test_loading_and_unloading(http):
    def running() -> list[str]:
        return [model["name"] for model in http.get("/api/ps").json()["models"]]

    assert running() == []
    response = http.post("/api/generate", json={"model": "llama3.2"})
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    assert (response.json()["done_reason"], response.json()["response"]) == ("load", "")
    assert running() == ["llama3.2:latest"]
    response = http.post("/api/chat", json={"model": "llama3.2", "keep_alive": 0})
    assert list(response.json()) == ["model", "created_at", "message", "done_reason", "done"]
    assert (response.json()["done_reason"], running()) == ("unload", [])
    http.post("/api/chat", json={"model": "llama3.2", "messages": [], "keep_alive": "1h30m"})
    http.post("/api/chat", json={"model": "smollm2:135m", "keep_alive": -1})
    assert running() == ["llama3.2:latest", "smollm2:135m"]


# Invalid requests

CASES = [
    ("chat", {"model": "nope"}, 404, 'model "nope" not found, try pulling it first'),
    ("generate", {"model": "nope"}, 404, "model 'nope' not found"),
    ("embed", {"model": "nope", "input": "x"}, 404, 'model "nope" not found, try pulling it first'),
    ("show", {"model": "nope"}, 404, "model 'nope' not found"),
    ("chat", {}, 400, "model is required"),
    ("chat", b"", 400, "missing request body"),
    ("chat", b"{bad", 400, "invalid character 'b' looking for beginning of object key string"),
    ("chat", b"hello", 400, "invalid character 'h' looking for beginning of value"),
    ("chat", b'{"model":"a"', 400, "unexpected EOF"),
    ("chat", b"\xff", 400, "invalid character '\\u00ff' looking for beginning of value"),
    ("chat", [], 400, "json: cannot unmarshal array into Go value of type api.ChatRequest"),
    (
        "chat",
        {"model": 3},
        400,
        "json: cannot unmarshal number into Go struct field ChatRequest.model of type string",
    ),
    (
        "generate",
        {"model": "llama3.2", "stream": "x"},
        400,
        "json: cannot unmarshal string into Go struct field GenerateRequest.stream of type bool",
    ),
    ("chat", {"model": "all-minilm"}, 400, '"all-minilm" does not support chat'),
    ("generate", {"model": "all-minilm"}, 400, '"all-minilm" does not support generate'),
    (
        "chat",
        {"model": "smollm2:135m", "tools": [TOOL]},
        400,
        "registry.ollama.ai/library/smollm2:135m does not support tools",
    ),
    (
        "generate",
        {"model": "llama3.2", "think": True},
        400,
        "registry.ollama.ai/library/llama3.2:latest does not support thinking",
    ),
    (
        "generate",
        {"model": "llama3.2", "suffix": "x"},
        400,
        "registry.ollama.ai/library/llama3.2:latest does not support insert",
    ),
    (
        "chat",
        {"model": "llama3.2", "options": {"temperature": "x"}},
        500,
        'option "temperature" must be of type float32',
    ),
    ("chat", {"model": "llama3.2", "options": {"num_ctx": "x"}}, 500, 'option "num_ctx" must be of type integer'),
    ("chat", {"model": "llama3.2", "options": {"stop": "x"}}, 500, 'option "stop" must be of type array'),
    ("chat", {"model": "llama3.2", "keep_alive": "x"}, 400, 'time: invalid duration "x"'),
    ("embed", {"model": "all-minilm", "input": [1]}, 400, "invalid input type"),
    ("pull", {}, 400, "invalid model name"),
    ("push", {}, 400, "model is required"),
    ("copy", {"source": "nope", "destination": "x"}, 404, 'model "nope" not found'),
    ("create", {"model": "x", "stream": False}, 400, "neither 'from' or 'files' was specified"),
    ("create", {}, 400, "invalid model name"),
]


@pytest.mark.parametrize(("path", "payload", "status", "message"), CASES)
def test_errors(http, path, payload, status, message):
    content = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    response = http.post(f"/api/{path}", content=content)
    assert (response.status_code, response.json()) == (status, {"error": message})
    assert response.headers["content-type"].startswith("application/json")


@pytest.mark.parametrize("stream", [True, False])
def test_a_bad_format(http, stream):
    payload = {"model": "llama3.2", "prompt": "x", "format": "yaml", "stream": stream}
    response = http.post("/api/generate", json=payload)
    assert response.status_code == (200 if stream else 500)
    message = 'invalid format: "\\"yaml\\""; expected "json" or a valid JSON Schema object'
    assert response.json() == {"error": message}


def test_paths_and_methods(http):
    response = http.get("/nothing")
    assert (response.status_code, response.text, response.headers["content-type"]) == (
        404,
        "404 page not found",
        "text/plain",
    )
    response = http.delete("/api/chat")
    assert (response.status_code, response.text, response.headers["allow"]) == (405, "405 method not allowed", "POST")
    assert http.post("/api/tags").headers["allow"] == "HEAD, GET"
    response = http.head("/")
    assert (response.status_code, response.text, response.headers["content-length"]) == (200, "", "17")
    assert http.get("/").headers["content-type"] == "text/plain; charset=utf-8"
    assert http.get("/api/version").json() == {"version": "0.9.3"}


# Embeddings


def test_embeddings(http):
    def embed(given, **more):
        return http.post("/api/embed", json={"model": "all-minilm", "input": given, **more}).json()

    answer = embed(["a", "b", "a"])
    assert list(answer) == ["model", "embeddings", "total_duration", "load_duration", "prompt_eval_count"]
    a, b, again = answer["embeddings"]
    assert a == again != b
    assert len(a) == 384
    assert math.isclose(math.hypot(*a), 1, abs_tol=1e-6)
    assert embed("a")["embeddings"] == [a]
    assert embed("a", dimensions=8)["embeddings"] == [a], "a server of that version ignores dimensions"
    assert embed([]) == {"model": "all-minilm", "embeddings": []}
    old = http.post("/api/embeddings", json={"model": "all-minilm", "prompt": "a"}).json()
    assert old == {"embedding": a}
    assert http.post("/api/embeddings", json={"model": "all-minilm", "prompt": ""}).json() == {"embedding": []}


def test_a_long_response_is_chunked_as_in_go(http):
    response = http.post("/api/embed", json={"model": "all-minilm", "input": "a"})
    assert response.headers["transfer-encoding"] == "chunked"
    response = http.post("/api/embed", json={"model": "all-minilm", "input": []})
    assert "content-length" in response.headers


def test_embeddings_of_fewer_dimensions():
    with OllamaServer(version="0.11.11") as server:
        payload = {"model": "all-minilm", "input": "a", "dimensions": 8}
        (short,) = httpx.post(f"{server.url}/api/embed", json=payload).json()["embeddings"]
    assert len(short) == 8
    assert math.isclose(math.hypot(*short), 1, abs_tol=1e-6)


# Models


def test_the_list_of_models(server, client):
    assert [model.model for model in client.list().models] == [model.name for model in DEFAULT_MODELS]
    server.models.add("mine")
    shown = client.show("mine")
    assert shown.capabilities == ["completion", "tools"]
    assert shown.modelinfo["general.architecture"] == "llama"
    assert shown.modelinfo["llama.context_length"] == 8192
    assert "stop" in shown.parameters
    client.copy("mine", "copy:1")
    assert client.show("copy:1").capabilities == ["completion", "tools"]
    client.delete("mine")
    with pytest.raises(ollama.ResponseError, match="not found") as caught:
        client.delete("mine")
    assert caught.value.status_code == 404
    client.create("tuned", from_="copy:1", system="Be brief.")
    assert "tuned:latest" in [model.model for model in client.list().models]


def test_pull_and_push(client):
    steps = list(client.pull("new", stream=True))
    assert (steps[0].status, steps[-1].status) == ("pulling manifest", "success")
    sizes = [step.completed for step in steps if step.completed]
    assert sizes == sorted(sizes)
    assert sizes[-1] == steps[1].total
    assert steps[1].digest.startswith("sha256:")
    assert client.pull("other").status == "success"
    assert "new:latest" in [model.model for model in client.list().models]
    assert list(client.push("new", stream=True))[-1].status == "success"
    with pytest.raises(ollama.ResponseError, match="no such file"):
        list(client.push("absent", stream=True))


def test_scripted_progress(server, client):
    server.reply(lines=[{"status": "a", "total": 2, "completed": 1}, {"error": "disk full"}], path="/api/pull")
    with pytest.raises(ollama.ResponseError, match="disk full"):
        list(client.pull("new", stream=True))


def test_blobs(http):
    digest = "sha256:" + hashlib.sha256(b"hello").hexdigest()
    assert http.head(f"/api/blobs/{digest}").status_code == 404
    assert http.post(f"/api/blobs/{digest}", content=b"other").json()["error"].startswith("digest mismatch")
    assert http.post(f"/api/blobs/{digest}", content=b"hello").status_code == 201
    assert http.post(f"/api/blobs/{digest}", content=b"hello").status_code == 200
    assert http.head(f"/api/blobs/{digest}").status_code == 200
    assert http.post("/api/blobs/x", content=b"").json() == {"error": "invalid digest format"}


def test_any_model():
    with OllamaServer(models=None) as server, ollama.Client(host=server.url) as client:
        answer = client.chat("what:ever", [{"role": "user", "content": "x"}], tools=[TOOL], think=True)
        assert answer.message.content == "You said: x"
        assert answer.message.thinking
        assert "embedding" in client.show("another").capabilities
        assert client.list().models == []
        client.pull("real")
        assert [model.model for model in client.list().models] == ["real:latest"]


def test_copy_create_and_ps_with_unusual_requests(server, http):
    assert http.post("/api/copy", json={}).json() == {"error": 'source "" is invalid'}
    assert http.post("/api/copy", json={"source": "llava"}).json() == {"error": 'destination "" is invalid'}
    lines = http.post("/api/create", json={"model": "x", "from": "nope"}).text.splitlines()
    assert json.loads(lines[-1]) == {"error": "pull model manifest: file does not exist"}
    http.post("/api/create", json={"model": "x", "from": "llava", "template": "T", "stream": False})
    assert http.post("/api/show", json={"model": "x"}).json()["template"] == "T"
    assert http.delete("/api/delete").json() == {"error": "missing request body"}
    assert http.post("/api/show", json={}).json() == {"error": "model is required"}
    http.post("/api/chat", json={"model": "x", "keep_alive": "1ms"})
    http.post("/api/chat", json={"model": "llava", "keep_alive": "0"})
    server.models.remove("x")
    assert http.get("/api/ps").json() == {"models": []}


def test_the_registry():
    models = Models(["a", Model("b:1", ("embedding",), embedding_length=3)])
    assert [model.name for model in models] == ["a:latest", "b:1"]
    assert len(models) == 2
    assert "a" in models
    assert "b" not in models
    assert models.get("") is None
    models.remove("a:latest")
    with pytest.raises(KeyError):
        models.remove("a")
    for arguments, named in (
        ({"name": ""}, "name"),
        ({"name": "x", "capabilities": ("dance",)}, "capabilities"),
        ({"name": "x", "context_length": 0}, "context_length"),
        ({"name": "x", "embedding_length": 0}, "embedding_length"),
    ):
        with pytest.raises(ValueError, match=rf"^{named}: "):
            Model(**arguments)
