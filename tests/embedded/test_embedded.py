"""The provider on the small real model in this process."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import httpx
import jsonschema
import pytest
from gguf_files import TEXT_MODEL, gguf, write_gguf
from pydantic import BaseModel

from namel3ss_ollama import (
    BadRequestError,
    ContextWindowExceededError,
    Message,
    ModelNotFoundError,
    OllamaProvider,
    ServerError,
    StreamChunk,
)
from namel3ss_ollama.embedded import EmbeddedTransport, binding, generation
from namel3ss_ollama.embedded.engine import shared_engine
from namel3ss_ollama.embedded.weights import kept

pytestmark = [pytest.mark.embedded, pytest.mark.usefixtures("weights")]
QUESTION = "What is the capital of France?"
ANSWER = "The capital of France is Paris."
NAME = "smollm2:135m"


@pytest.fixture
async def raw(weights: None) -> AsyncIterator[httpx.AsyncClient]:
    """The API itself."""
    async with httpx.AsyncClient(transport=EmbeddedTransport(), base_url="http://engine") as client:
        yield client


async def all_free() -> None:
    """Return when all computations have ended."""
    engine = shared_engine()

    async def wait() -> None:
        while engine._jobs or any(loaded.active for loaded in engine.running()):
            await asyncio.sleep(0.001)

    await asyncio.wait_for(wait(), 60)


# Answers


async def test_the_capital_of_france(provider: OllamaProvider) -> None:
    generated = await provider.agenerate(QUESTION)
    chatted = await provider.achat([Message("user", QUESTION)])
    for response in (generated, chatted):
        assert response.content == ANSWER
        assert response.finish_reason == "stop"
        assert response.usage == {"prompt_tokens": 16, "completion_tokens": 8, "total_tokens": 24}
        assert response.metadata["tokens_per_second"] > 0
        assert response.metadata["time_to_first_token"] > 0


async def test_streamed_it_is_the_same(provider: OllamaProvider) -> None:
    for stream in (provider.stream_generate(QUESTION), provider.stream_chat([Message("user", QUESTION)])):
        chunks: list[StreamChunk] = [chunk async for chunk in stream]
        assert "".join(chunk.content for chunk in chunks) == ANSWER
        assert len(chunks) > 5
        assert stream.end == "done"
        assert stream.usage == {"prompt_tokens": 16, "completion_tokens": 8, "total_tokens": 24}


def test_from_synchronous_code() -> None:
    with OllamaProvider(NAME, "embedded://", temperature=0) as provider:
        assert provider.generate(QUESTION).content == ANSWER
        assert "".join(chunk.content for chunk in provider.stream(QUESTION)) == ANSWER
        assert provider.chat([Message("user", QUESTION)]).content == ANSWER


async def test_counters_and_durations_are_measured(raw: httpx.AsyncClient) -> None:
    request = {"model": NAME, "prompt": QUESTION, "stream": False, "options": {"temperature": 0, "seed": 1}}
    answer = (await raw.post("/api/generate", json=request)).json()
    assert answer["response"] == ANSWER
    assert (answer["prompt_eval_count"], answer["eval_count"]) == (16, 8)
    parts = answer["load_duration"] + answer["prompt_eval_duration"] + answer["eval_duration"]
    assert answer["prompt_eval_duration"] > 0
    assert answer["eval_duration"] > 0
    assert parts <= answer["total_duration"] * 1.05


async def test_a_system_prompt_and_a_conversation(provider: OllamaProvider) -> None:
    messages = [Message("system", "You are a helpful assistant."), Message("user", "My name is Bob.")]
    messages += [Message("assistant", "Hello Bob!"), Message("user", "What is my name?")]
    assert "Bob" in (await provider.achat(messages, max_tokens=20)).content


async def test_the_beginning_of_an_answer_is_continued(provider: OllamaProvider) -> None:
    messages = [Message("user", QUESTION), Message("assistant", "The capital of France is")]
    assert (await provider.achat(messages)).content == " Paris."


# Options


async def test_stop(provider: OllamaProvider) -> None:
    response = await provider.agenerate(QUESTION, stop=[" of"])
    assert (response.content, response.finish_reason) == ("The capital", "stop")


async def test_a_number_of_tokens(provider: OllamaProvider) -> None:
    response = await provider.agenerate(QUESTION, max_tokens=3)
    assert (response.content, response.finish_reason) == ("The capital of", "length")
    assert response.usage["completion_tokens"] == 3


async def test_a_seed_repeats(provider: OllamaProvider) -> None:
    async def answer(seed: int) -> str:
        return (await provider.agenerate("Hi!", temperature=2.0, seed=seed, max_tokens=6)).content

    first = await answer(7)
    assert await answer(7) == first
    assert await answer(8) != first
    assert await answer(2**40 + 7) == first


async def test_logprobs(provider: OllamaProvider) -> None:
    response = await provider.agenerate(QUESTION, logprobs=True, top_logprobs=2, max_tokens=3)
    assert response.logprobs is not None
    assert [entry["token"] for entry in response.logprobs] == ["The", " capital", " of"]
    for entry in response.logprobs:
        assert entry["logprob"] <= 0
        likeliest, _ = entry["top_logprobs"]
        assert likeliest["token"] == entry["token"]


@pytest.mark.parametrize(
    "options",
    [{"num_predict": 2**31}, {"options": {"low_vram": True}}, {"options": {"mirostat": 7}}, {"options": {"x": 1}}],
)
async def test_options_that_the_engine_does_not_have(provider: OllamaProvider, options: dict[str, Any]) -> None:
    with pytest.raises(BadRequestError):
        await provider.agenerate(QUESTION, **options)


async def test_the_largest_repeat_last_n_costs_nothing(provider: OllamaProvider) -> None:
    for far in (-1, 2**31 - 1):
        response = await provider.agenerate(QUESTION, options={"repeat_last_n": far}, max_tokens=3)
        assert response.usage["completion_tokens"] == 3


# Formats


async def test_json(provider: OllamaProvider) -> None:
    response = await provider.agenerate('Answer {"a": 1}.', format="json", max_tokens=20)
    assert isinstance(json.loads(response.content) if response.finish_reason == "stop" else {}, dict)
    assert response.content.startswith("{")


class City(BaseModel):
    name: Literal["Paris", "Rome"]
    capital: bool


async def test_a_class(provider: OllamaProvider) -> None:
    response = await provider.agenerate("Paris, the capital of France.", format=City)
    assert isinstance(response.parsed, City)


NODE = {
    "type": "object",
    "properties": {"value": {"type": "boolean"}, "next": {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]}},
    "required": ["value", "next"],
}


@pytest.mark.parametrize(
    "schema",
    [
        {"const": {"a": [1, None, "x"]}},
        {"enum": ["red", 7, None]},
        {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3},
        {"type": "integer", "minimum": 3, "maximum": 17},
        {"type": "string", "pattern": "^[a-c]{2}[0-9]$"},
        {"type": "string", "format": "date"},
        {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
        {"type": ["boolean", "null"]},
        {"type": "object", "properties": {"\u00e9 \"'\n": {"type": "boolean"}}, "required": ["\u00e9 \"'\n"]},
        {"$ref": "#/$defs/n", "$defs": {"n": {"enum": ["a", "b"]}}},
    ],
    ids=lambda schema: str(schema)[:40],
)
async def test_awkward_schemas_are_enforced(provider: OllamaProvider, schema: dict[str, Any]) -> None:
    stream = provider.stream_generate("Choose.", format=schema, max_tokens=60)
    text = "".join([chunk.content async for chunk in stream])
    jsonschema.validate(json.loads(text), schema)


async def test_a_recursive_schema(provider: OllamaProvider) -> None:
    schema = {"$ref": "#/$defs/n", "$defs": {"n": NODE}}
    response = await provider.agenerate("Choose.", format=schema, max_tokens=12)
    assert response.content.startswith('{"value": ')


@pytest.mark.parametrize(
    "schema",
    [{"not": {}}, {"type": "x"}, {"$ref": "#/none"}, {"type": "string", "pattern": "("}, {"uniqueItems": True}],
    ids=str,
)
async def test_schemas_that_cannot_be_enforced_are_rejected(raw: httpx.AsyncClient, schema: dict[str, Any]) -> None:
    answer = await raw.post("/api/generate", json={"model": NAME, "prompt": "Choose.", "format": schema})
    assert answer.status_code == 400
    assert "invalid JSON schema in format" in answer.json()["error"]


# Tools


def weather(city: Literal["Paris", "Rome"]) -> str:
    """The weather in a city.

    Args:
        city: The city.
    """
    return city


def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: One.
        b: The other.
    """
    return a + b


@pytest.mark.parametrize("choice", ["weather", "required"])
async def test_a_tool_that_must_be_called(provider: OllamaProvider, choice: str) -> None:
    messages = [Message("user", "What is the weather in Rome?")]
    options: dict[str, Any] = {"tools": [weather, add], "tool_choice": choice, "max_tokens": 60}
    response = await provider.achat(messages, **options)
    stream = provider.stream_chat(messages, **options)
    streamed = [call async for chunk in stream for call in chunk.tool_calls]
    for (call,) in (response.tool_calls, streamed):
        assert call.name in ({"weather"} if choice == "weather" else {"weather", "add"})
        assert call.invalid_arguments is None
        assert set(call.arguments) == ({"city"} if call.name == "weather" else {"a", "b"})
    assert response.finish_reason == "tool_calls"


async def test_the_result_of_a_tool(provider: OllamaProvider) -> None:
    asked = await provider.achat([Message("user", "Rome?")], tools=[weather], tool_choice="weather", max_tokens=40)
    messages = [Message("user", "Rome?"), asked.message]
    messages.append(Message("tool", "Sunny.", tool_call_id=asked.tool_calls[0].id))
    assert (await provider.achat(messages, tools=[weather], tool_choice="none", max_tokens=5)).content


# Embeddings


def length(vector: list[float]) -> float:
    return sum(value * value for value in vector) ** 0.5


async def test_embeddings(provider: OllamaProvider) -> None:
    texts = ["a cat", "", "a kitten", "a" * 500]
    together = (await provider.embed(texts)).embeddings
    assert [length(vector) for vector in together] == pytest.approx([1.0] * 4, abs=1e-4)
    assert {len(vector) for vector in together} == {576}
    for text, vector in zip(texts, together, strict=True):
        if text:
            assert (await provider.embed(text)).embeddings[0] == pytest.approx(vector, abs=1e-4)
    cat, _, kitten, noise = together
    near, far = (sum(a * b for a, b in zip(cat, other, strict=True)) for other in (kitten, noise))
    assert near > far


async def test_embeddings_of_fewer_dimensions(provider: OllamaProvider) -> None:
    (whole,) = (await provider.embed("a cat")).embeddings
    (short,) = (await provider.embed("a cat", dimensions=8)).embeddings
    assert length(short) == pytest.approx(1.0, abs=1e-6)
    assert short == pytest.approx([value / length(whole[:8]) for value in whole[:8]], abs=1e-4)


async def test_a_text_that_is_too_long_to_embed(provider: OllamaProvider) -> None:
    with pytest.raises(ContextWindowExceededError, match="exceeds the context length"):
        await provider.embed("word " * 60, options={"num_ctx": 32})
    assert (await provider.embed("a cat", options={"num_ctx": 32})).embeddings


# Managing models


async def test_models_version_and_preflight(provider: OllamaProvider) -> None:
    assert [model["name"] for model in await provider.list_models()] == [NAME]
    shown = await provider.show_model()
    assert shown["capabilities"] == ["completion", "embedding", "tools"]
    assert shown["model_info"]["llama.context_length"] == 8192
    assert shown["details"]["parameter_size"] == "134.52M"
    assert (await provider.version()).endswith("+embedded")
    assert await provider.is_available()
    assert await provider.preflight(capabilities=["completion", "tools"])
    assert not await provider.preflight(capabilities=["vision"])
    assert [update["status"] async for update in provider.pull_model()][-1] == "success"


async def test_preload_and_unload(provider: OllamaProvider) -> None:
    async def loaded() -> list[dict[str, Any]]:
        # The process has one engine, so models of other tests may be loaded too.
        return [one for one in await provider.running_models() if one["name"] == NAME]

    await provider.preload()
    running = await loaded()
    assert 4096 in {one["context_length"] for one in running}
    assert min(one["size"] for one in running) > 98_362_432
    await provider.unload()
    assert await loaded() == []
    assert (await provider.agenerate(QUESTION, keep_alive=0)).content == ANSWER
    assert await loaded() == []


async def test_another_window_reloads_the_model(provider: OllamaProvider) -> None:
    assert (await provider.agenerate(QUESTION, num_ctx=256)).content == ANSWER
    with pytest.raises(ContextWindowExceededError, match="exceeds the context window of 256 tokens"):
        await provider.agenerate("word " * 300, num_ctx=256)
    assert (await provider.agenerate(QUESTION, num_ctx=256)).content == ANSWER


# Cancelled computations


class Counted:
    """Counts the events from the engine."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events = 0

        def complete(server: Any, request: dict[str, Any], take: Callable[[dict[str, Any]], bool]) -> None:
            def counting(event: dict[str, Any]) -> bool:
                self.events += 1
                return take(event)

            binding.complete(server, request, counting)

        monkeypatch.setattr(generation, "complete", complete)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


async def test_a_cancelled_stream_computes_at_most_one_token_more(provider: OllamaProvider, counted: Counted) -> None:
    stream = provider.stream_generate("Count to ten thousand.", max_tokens=4000, options={"repeat_penalty": 1.0})
    async for _ in stream:
        break
    await stream.aclose()
    at_that_time = counted.events
    await all_free()
    assert counted.events <= at_that_time + 1
    assert stream.end == "cancelled"
    assert (await provider.agenerate(QUESTION)).content == ANSWER


async def test_a_cancelled_long_prompt_is_not_computed_completely(provider: OllamaProvider, counted: Counted) -> None:
    asking = asyncio.ensure_future(
        provider.agenerate("word " * 1500, options={"num_batch": 32, "num_ctx": 2048}, max_tokens=5)
    )
    while not counted.events:
        await asyncio.sleep(0.001)
    asking.cancel()
    at_that_time = counted.events
    with pytest.raises(asyncio.CancelledError):
        await asking
    await all_free()
    assert counted.events <= at_that_time + 1
    assert counted.events < 1500 // 32


async def test_more_requests_than_slots(provider: OllamaProvider) -> None:
    answers = await asyncio.gather(*(provider.agenerate(QUESTION, max_tokens=2) for _ in range(4)))
    assert [answer.content for answer in answers] == ["The capital"] * 4
    assert shared_engine().slots == 2


# Errors


async def test_no_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NAMEL3SS_OLLAMA_CACHE", str(tmp_path))
    async with OllamaProvider(NAME, "embedded://") as provider:
        with pytest.raises(ModelNotFoundError, match=NAME):
            await provider.agenerate(QUESTION)
        assert await provider.list_models() == []


async def test_files_that_are_not_models(provider: OllamaProvider, tmp_path: Path) -> None:
    whole = kept(NAME).read_bytes()
    for name, data, message in [
        ("text", b"This is not a model at all.", "is not a GGUF file"),
        ("cut-in-header", whole[:100_000], "damaged or truncated"),
        ("cut-in-weights", whole[:30_000_000], "damaged or truncated"),
        ("cut-at-the-end", whole[:-1000], "could not be loaded: the file is damaged"),
        (
            "not-what-it-says",
            gguf({**TEXT_MODEL, "tokenizer.chat_template": "x"}),
            "could not be loaded: the file is damaged",
        ),
    ]:
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(data)
        with pytest.raises((BadRequestError, ServerError), match=message):
            await provider.agenerate(QUESTION, model=str(path))
    with pytest.raises(ModelNotFoundError):
        await provider.agenerate(QUESTION, model="unheard-of")
    assert (await provider.agenerate(QUESTION)).content == ANSWER


async def test_a_window_that_is_too_large_for_the_memory(provider: OllamaProvider, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "wide.gguf", {**TEXT_MODEL, "llama.context_length": 2**31 - 1})
    with pytest.raises(ServerError, match=r"model requires more system memory .* lower num_ctx"):
        await provider.preload(str(path), num_ctx=2**31 - 1)
    assert (await provider.agenerate(QUESTION)).content == ANSWER


async def test_a_file_by_its_path_has_its_own_template(tmp_path: Path) -> None:
    path = tmp_path / "copy.gguf"
    path.symlink_to(kept(NAME))
    async with OllamaProvider(str(path), "embedded://", temperature=0) as provider:
        raw = await provider.agenerate(QUESTION, raw=True, max_tokens=1)
        whole = await provider.agenerate(QUESTION, max_tokens=1)
        assert raw.usage["prompt_tokens"] == 7
        assert whole.usage["prompt_tokens"] > 16  # with a system prompt
        assert (await provider.show_model())["template"].startswith("{%")
        await provider.unload()


# Side effects


def listening() -> set[str]:
    """The inodes of this process's sockets that listen for TCP."""
    inodes = {line.split()[9] for file in ("tcp", "tcp6") for line in table(file) if line.split()[3] == "0A"}
    own = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            own.add(str(descriptor.readlink()).removeprefix("socket:[").removesuffix("]"))
        except FileNotFoundError:  # the descriptor that listed the folder
            continue
    return inodes & own


def table(name: str) -> list[str]:
    path = Path("/proc/self/net") / name
    return path.read_text().splitlines()[1:] if path.exists() else []


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="there is no /proc here")
async def test_no_socket_listens(provider: OllamaProvider) -> None:
    before = listening()
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        own.listen()
        assert len(listening()) == len(before) + 1  # it would be seen
    await provider.unload()
    assert (await provider.agenerate(QUESTION)).content == ANSWER
    assert listening() == before


# Event loops and threads


def test_several_event_loops_in_sequence() -> None:
    provider = OllamaProvider(NAME, "embedded://", temperature=0)

    async def ask() -> str:
        return (await provider.agenerate(QUESTION)).content

    assert [asyncio.run(ask()) for _ in range(2)] == [ANSWER] * 2
    provider.close()


def test_from_several_threads_at_once() -> None:
    with OllamaProvider(NAME, "embedded://", temperature=0) as provider, ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(provider.generate, QUESTION) for _ in range(3)]
        assert [one.result().content for one in asked] == [ANSWER] * 3
    for thread in threading.enumerate():
        if thread.name == "namel3ss-ollama-embedded":
            thread.join(60)  # it has delivered everything, and is about to end
            assert not thread.is_alive()
