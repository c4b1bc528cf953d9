"""Models: listing, pulling (also over broken connections), creating, copying, deleting, loading, embeddings."""

from __future__ import annotations

import base64
import itertools
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from namel3ss_ollama import (
    AuthenticationError,
    LLMConnectionError,
    LLMError,
    MalformedResponseError,
    ModelNotFoundError,
    OllamaProvider,
    ServerError,
    StreamInterruptedError,
)
from namel3ss_ollama.server import _QUICK
from namel3ss_ollama.streamer import Watch
from namel3ss_ollama.testing import Gate, OllamaServer, Record, Reply

ASK = [{"role": "user", "content": "count"}]
STEPS: list[object] = [
    {"status": "pulling manifest"},
    {"status": "pulling abc", "digest": "sha256:abc", "total": 10, "completed": 4},
    {"status": "pulling abc", "digest": "sha256:abc", "total": 10, "completed": 10},
    {"status": "success"},
]


async def test_lists(provider: Any, ollama_server: OllamaServer) -> None:
    assert "llama3.2:latest" in [m["name"] for m in await provider.list_models()]
    assert (await provider.show_model())["model_info"]["general.architecture"] == "llama"
    assert "completion" in (await provider.show_model("llama3.2", verbose=True))["capabilities"]
    assert await provider.version() == "0.9.3"
    await provider.preload()
    assert [m["name"] for m in await provider.running_models()] == ["llama3.2:latest"]
    assert await provider.is_available()
    with pytest.raises(ModelNotFoundError, match="ollama pull nope"):
        await provider.show_model("nope")
    ollama_server.refuse()
    assert not await provider.is_available()


async def test_a_missing_or_malformed_list(provider: Any, ollama_server: OllamaServer) -> None:
    ollama_server.sequence(Reply(json={"models": None}), Reply(json={"models": "no"}))
    assert await provider.list_models() == []
    with pytest.raises(MalformedResponseError):
        await provider.list_models()


async def test_pull_reports_progress(provider: Any, ollama_server: OllamaServer) -> None:
    ollama_server.reply("", path="/api/pull", lines=STEPS)
    assert [p async for p in provider.pull_model()] == STEPS
    assert ollama_server.requests[-1].payload == {"model": "llama3.2"}
    assert [p async for p in provider.pull_model("other", insecure=True)] == STEPS
    assert ollama_server.requests[-1].payload == {"model": "other", "insecure": True}


@pytest.mark.parametrize("fault", ["cut", "reset_mid_stream", "truncated"])
async def test_pull_survives_a_cut_connection(provider: Any, ollama_server: OllamaServer, fault: str) -> None:
    """Five cuts exceed the policy's attempts, but each attempt makes progress, so the pull continues."""
    completed = itertools.count()

    def attempt(_: Record) -> Reply:
        done = next(completed)
        lines = [STEPS[0], {"status": "pulling abc", "digest": "sha256:abc", "total": 10, "completed": done}]
        return Reply(lines=lines if fault == "truncated" and done < 5 else [*lines, *STEPS[2:]])

    ollama_server.on(path="/api/pull").reply(attempt)
    if fault != "truncated":
        ollama_server.fault(fault, path="/api/pull", times=5, at_byte=120)
    progress = [p["status"] async for p in provider.pull_model()]
    assert progress[-1] == "success"
    assert progress.count("success") == 1
    assert len(ollama_server.requests) == 6


async def test_pull_gives_up_without_progress(provider: Any, ollama_server: OllamaServer) -> None:
    ollama_server.fault("reset_before_headers", path="/api/pull")
    with pytest.raises(LLMConnectionError):
        [p async for p in provider.pull_model()]
    assert len(ollama_server.requests) == 3


async def test_the_first_lines_of_an_attempt_are_no_progress(provider: Any, ollama_server: OllamaServer) -> None:
    # Once wrong: "pulling manifest" counted as progress, and an unreachable registry was retried forever.
    lines = [*STEPS[:2], {"error": 'Get "https://registry.ollama.ai/v2/": dial tcp: connect: connection refused'}]
    ollama_server.reply("", path="/api/pull", lines=lines)
    with pytest.raises(LLMError, match="connection refused"):
        [p async for p in provider.pull_model()]
    # The first attempt counts as progress; then come the policy's attempts.
    assert len(ollama_server.requests) == 3


async def test_an_error_line_ends_a_pull(provider: Any, ollama_server: OllamaServer) -> None:
    ollama_server.reply("", path="/api/pull", lines=[STEPS[0], {"error": "pull model manifest: file does not exist"}])
    with pytest.raises(LLMError, match="manifest"):
        [p async for p in provider.pull_model()]
    assert len(ollama_server.requests) == 1


async def test_push(provider: Any, ollama_server: OllamaServer) -> None:
    ollama_server.reply("", path="/api/push", lines=STEPS)
    assert [p async for p in provider.push_model("me/mine")][-1] == {"status": "success"}


async def test_create_from_a_model_and_from_files(provider: Any, ollama_server: OllamaServer, tmp_path: Path) -> None:
    progress = provider.create_model(
        "mario", from_model="llama3.2", system="You are Mario.", parameters={"temperature": 0}, messages=ASK
    )
    assert [p async for p in progress][-1]["status"] == "success"
    body = ollama_server.requests[-1].payload
    assert body["from"] == "llama3.2"
    assert body["messages"] == ASK
    weights = tmp_path / "weights.gguf"
    weights.write_bytes(b"w" * 3_000_000)
    [p async for p in provider.create_model("mine", files={"a.gguf": weights, "b": b"bytes"}, quantize="q4_K_M")]
    uploads = [r for r in ollama_server.requests if r.method == "POST" and "/api/blobs/" in r.path]
    assert [len(r.body) for r in uploads] == [3_000_000, 5]
    assert ollama_server.requests[-1].payload["files"].keys() == {"a.gguf", "b"}
    before = len(uploads)
    [p async for p in provider.create_model("again", files={"a.gguf": weights})]
    assert len([r for r in ollama_server.requests if r.method == "POST" and "/api/blobs/" in r.path]) == before
    with pytest.raises(ValueError, match="from_model"):
        [p async for p in provider.create_model("x")]


async def test_create_with_fields_of_newer_servers(provider: Any, ollama_server: OllamaServer) -> None:
    given: dict[str, Any] = {
        "renderer": "qwen3-coder", "parser": "qwen3-coder", "requires": "0.14.0", "info": {"general.name": "Mine"},
        "draft_quantize": "q8_0", "remote_host": "https://example.org",
    }  # fmt: skip
    draft = {"draft.gguf": b"draft"}
    [p async for p in provider.create_model("mine", from_model="llama3.2", draft_files=draft, **given)]
    body = ollama_server.requests[-1].payload
    assert given.items() <= body.items()
    (digest,) = body["draft_files"].values()
    assert [r.path for r in ollama_server.requests if r.method == "POST"] == [f"/api/blobs/{digest}", "/api/create"]
    with pytest.raises(ValueError, match=r"^create_model: give from_model, or files"):
        [p async for p in provider.create_model("mine", draft_files=draft)]


async def test_whether_a_model_exists(provider: Any, ollama_server: OllamaServer) -> None:
    assert await provider.exists()
    assert await provider.exists("qwen3:latest")
    assert not await provider.exists("nope")
    with pytest.raises(ValueError, match=r"^model: 'a b' is not a model's name"):
        await provider.exists("a b")
    ollama_server.reply(path="/api/show", status=500, json={"error": "disk failure"})
    with pytest.raises(ServerError, match="disk failure"):
        await provider.exists()


async def test_a_creation_that_ends_early(provider: Any, ollama_server: OllamaServer) -> None:
    ollama_server.reply("", path="/api/create", lines=[{"status": "creating"}])
    with pytest.raises(StreamInterruptedError):
        [p async for p in provider.create_model("x", from_model="llama3.2")]


async def test_a_slow_upload_is_not_stalled(
    make: Any, ollama_server: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Once wrong: the inactivity timeout applied to the entire upload.
    moments: list[float] = []
    alive = Watch.alive
    monkeypatch.setattr(Watch, "alive", lambda watch: (moments.append(1.0), alive(watch)))
    [p async for p in make().create_model("mine", files={"a": b"w" * 3_000_000})]
    assert len(moments) == 3


async def test_a_refused_upload(provider: Any, ollama_server: OllamaServer) -> None:
    ollama_server.fault("status", status=403)
    with pytest.raises(AuthenticationError):
        [p async for p in provider.create_model("x", files={"a": b"x"})]


async def test_copy_and_delete(provider: Any) -> None:
    await provider.copy_model("llama3.2", "backup")
    assert "backup:latest" in [m["name"] for m in await provider.list_models()]
    await provider.delete_model("backup")
    assert "backup:latest" not in [m["name"] for m in await provider.list_models()]
    with pytest.raises(ModelNotFoundError):
        await provider.delete_model("backup")


async def test_preload_and_unload(make: Any, ollama_server: OllamaServer) -> None:
    provider = make(num_ctx=4096, temperature=0.5, format="json")
    response = await provider.preload(keep_alive="10m")
    assert (response.content, response.finish_reason) == ("", "load")
    sent = ollama_server.requests[-1].payload
    assert sent == {"model": "llama3.2", "keep_alive": "10m", "options": {"num_ctx": 4096, "temperature": 0.5}}
    assert (await provider.unload()).finish_reason == "unload"


async def test_embeddings_keep_their_order(make: Any, ollama_server: OllamaServer) -> None:
    provider = make(model="all-minilm")
    texts = [f"text {i}" for i in range(25)]
    together = await provider.embed(texts, batch_size=4)
    assert len(ollama_server.requests) == 7
    alone = [(await provider.embed(text)).embeddings[0] for text in texts[:3]]
    assert together.embeddings[:3] == alone
    assert len(together.embeddings) == 25
    assert together.usage["prompt_tokens"] > 0
    ollama_server.reply(embeddings=[[0.5] * 8], times=1)
    short = await provider.embed(
        "x", dimensions=8, truncate=False, keep_alive="1m", options={"num_ctx": 256}, timeout=9
    )
    assert len(short.embeddings[0]) == 8
    sent = ollama_server.requests[-1].payload
    assert (sent["dimensions"], sent["truncate"], sent["options"]) == (8, False, {"num_ctx": 256})
    assert provider.stats().embeddings_succeeded == 11
    assert provider.stats().generations_succeeded == 0


async def test_embeddings_use_the_providers_load_options(make: Any, ollama_server: OllamaServer) -> None:
    # Once wrong: `embed` sent none of the provider's options, against its docstring.
    provider = make(model="all-minilm", num_ctx=512, num_gpu=0, temperature=0.5, keep_alive="1h")
    await provider.embed("x")
    sent = ollama_server.requests[-1].payload
    assert (sent["keep_alive"], sent["options"]) == ("1h", {"num_ctx": 512, "num_gpu": 0})
    await provider.embed("x", keep_alive="1m", options={"num_ctx": 256})
    sent = ollama_server.requests[-1].payload
    assert (sent["keep_alive"], sent["options"]) == ("1m", {"num_ctx": 256, "num_gpu": 0})


@pytest.mark.parametrize(
    "answer",
    [
        {"embeddings": [None]}, {"embeddings": [1]}, {"embeddings": [[]]}, {"embeddings": [["a"]]},
        {"embeddings": [[1.0]], "prompt_eval_count": "x"},
    ],
)  # fmt: skip
async def test_malformed_embeddings(make: Any, ollama_server: OllamaServer, answer: dict[str, Any]) -> None:
    ollama_server.reply("", path="/api/embed", json={"model": "all-minilm", **answer})
    with pytest.raises(MalformedResponseError, match=r"not a (list of numbers|number)"):
        await make(model="all-minilm").embed("a")


@pytest.mark.parametrize("vectors", [[[1.0]], [[1.0], [1.0, 2.0]], "no"])
async def test_wrong_numbers_of_vectors(make: Any, ollama_server: OllamaServer, vectors: object) -> None:
    ollama_server.reply("", path="/api/embed", json={"model": "all-minilm", "embeddings": vectors})
    with pytest.raises(MalformedResponseError):
        await make(model="all-minilm").embed(["a", "b"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input": []}, "at least one"),
        ({"input": [1]}, r"input\[0\]"),
        ({"input": "x", "batch_size": 0}, "batch_size"),
        ({"input": "x", "dimensions": -1}, "dimensions"),
        ({"input": "x", "model": ""}, "model"),
    ],
)
async def test_bad_embedding_arguments_send_nothing(
    provider: Any, ollama_server: OllamaServer, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        await provider.embed(**arguments)
    assert ollama_server.requests == []


async def test_one_bad_batch_ends_the_others(make: Any, ollama_server: OllamaServer) -> None:
    ollama_server.fault("status", status=400, contains="bad")
    with pytest.raises(LLMError):
        await make(model="all-minilm").embed(["a", "b", "bad", "c"], batch_size=1)


async def test_preflight(make: Any, ollama_server: OllamaServer) -> None:
    good = await make().preflight(capabilities=["completion", "tools"])
    assert good
    assert (good.version, good.problems) == ("0.9.3", ())
    assert "ready" in str(good)
    unable = await make().preflight(capabilities=["vision"])
    assert not unable.ok
    assert "cannot do 'vision'" in str(unable)
    missing = await make().preflight("nope")
    assert "ollama pull nope" in str(missing)
    ollama_server.fault("status", status=400, path="/api/show", times=1)
    assert "cannot show" in str(await make().preflight())
    ollama_server.refuse()
    absent = await make().preflight()
    assert "ollama serve" in str(absent)
    assert absent.version is None


async def test_headers_key_and_prefix(make: Any, ollama_server: OllamaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_API_KEY", "from-environment")
    await make().version()
    assert ollama_server.requests[-1].headers["authorization"] == "Bearer from-environment"
    await make(api_key="given", headers={"X-Team": "blue"}).version()
    assert ollama_server.requests[-1].headers["authorization"] == "Bearer given"
    assert ollama_server.requests[-1].headers["x-team"] == "blue"
    host = ollama_server.url.removeprefix("http://")
    await make(base_url=f"http://me:se%40cret@{host}").version()
    expected = "Basic " + base64.b64encode(b"me:se@cret").decode()
    assert ollama_server.requests[-1].headers["authorization"] == expected
    prefixed = make(base_url=f"{ollama_server.url}/ollama/")
    with pytest.raises(LLMError):
        await prefixed.version()
    assert ollama_server.requests[-1].path == "/ollama/api/version"
    with pytest.raises(ValueError, match="api_key"):
        make(base_url=f"http://me:secret@{host}", api_key="k")
    with pytest.raises(ValueError, match="headers"):
        make(headers={"X-Bad": "a\r\nX-Injected: 1"})
    with pytest.raises(ValueError, match="api_key"):
        make(api_key="a\nb")


async def test_a_custom_transport_and_client() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"version": request.headers.get("x-mine", "none")})

    provider = OllamaProvider("m", "http://ollama.test", transport=httpx.MockTransport(answer))
    assert await provider.version() == "none"
    await provider.aclose()
    assert await provider.version() == "none"  # the transport outlives the client
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer), headers={"x-mine": "1"}) as client:
        mine = OllamaProvider("m", "http://ollama.test", http_client=client)
        assert await mine.version() == "1"
        await mine.aclose()
        assert not client.is_closed


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": ""}, ValueError, "model"),
        ({"model": 3}, TypeError, "model"),
        ({"model": "m", "max_concurrent": 0}, ValueError, "max_concurrent"),
        ({"model": "m", "max_queue": -1}, ValueError, "max_queue"),
        ({"model": "m", "timeout": float("nan")}, ValueError, "timeout"),
        ({"model": "m", "temperature": float("nan")}, ValueError, "temperature"),
        ({"model": "m", "temprature": 1.0}, TypeError, "'temperature'"),
        ({"model": "m", "base_url": "http://:x"}, ValueError, "base_url"),
        ({"model": "m", "on_truncation": "maybe"}, ValueError, "on_truncation"),
        ({"model": "m", "transport": "carrier pigeon"}, ValueError, "transport"),
        ({"model": "m", "max_tokens": 1, "num_predict": 1}, TypeError, "max_tokens"),
    ],
)
def test_bad_constructor_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        OllamaProvider(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"messages": []}, ValueError, "messages"),
        ({"messages": [{"role": "User", "content": "x"}]}, ValueError, "role"),
        ({"messages": "hello"}, TypeError, "messages"),
        ({"messages": ASK, "images": ["x"]}, TypeError, "images"),
        ({"messages": ASK, "tool_choice": "required"}, ValueError, "tool_choice"),
        ({"messages": ASK, "num_ctx": -1}, ValueError, "num_ctx"),
        ({"messages": ASK, "timeout": 0}, ValueError, "timeout"),
        ({"messages": ASK, "stream_config": {"chunk_timeout": 1}}, TypeError, "stream_config"),
    ],
)
async def test_bad_call_arguments_send_nothing(
    provider: Any, ollama_server: OllamaServer, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        await provider.achat(**arguments)
    with pytest.raises(error, match=message):
        provider.stream_chat(**arguments)
    with pytest.raises(ValueError, match="surrogate"):
        await provider.agenerate("\ud800")
    assert ollama_server.requests == []


async def test_the_window_look_up_keeps_to_the_calls_timeout(make: Any, ollama_server: OllamaServer) -> None:
    gate = Gate()
    ollama_server.on(path="/api/show").reply(lambda _: Reply(json={}, gate=gate))
    ollama_server.reply("Hello", path="/api/generate", counters={"prompt_eval_count": 200})
    longest = _QUICK.first_chunk_timeout  # the limit of the look-up, which must not be reached
    assert longest is not None
    began = time.monotonic()
    try:
        answer = await make().agenerate("hi", timeout=0.3)  # the gate does not open
        assert answer.content == "Hello"
        stream = make().stream_generate("hi", timeout=0.3)
        assert "".join([chunk.content async for chunk in stream]) == "Hello"
        assert stream.end == "done"
    finally:
        gate.open()
    assert time.monotonic() - began < longest


async def test_context_window(make: Any, ollama_server: OllamaServer) -> None:
    assert await make().context_window() is None  # the trained length alone does not determine the window
    assert await make(num_ctx=2048).context_window() == 2048
    assert await make().context_window(num_ctx=10**6) == 131_072
    running = {"models": [{"name": "llama3.2:latest", "context_length": 4096}]}
    ollama_server.reply("", path="/api/ps", json=running)
    assert await make().context_window("llama3.2") == 4096
    assert make(temperature=0.5, max_tokens=3).options == {"temperature": 0.5, "max_tokens": 3}


async def test_preload_takes_options_without_a_keyword(provider: Any, ollama_server: OllamaServer) -> None:
    await provider.preload(options={"flash": True}, num_ctx=512)
    assert ollama_server.requests[-1].payload["options"] == {"num_ctx": 512, "flash": True}
    with pytest.raises(TypeError, match="'num_ctx'"):
        await provider.preload(num_ctxx=1)
