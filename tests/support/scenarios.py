"""Typical uses of the provider, as tests against the server behind the fixture `make`.

`tests/replay` runs these from cassettes, `tests/live` against a real server. `make(**settings)` creates a provider
whose default model is small, fast and deterministic.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from namel3ss_ollama import (
    BadRequestError,
    ContextWindowExceededError,
    LLMError,
    Message,
    ModelNotFoundError,
    OllamaProvider,
    StreamConfig,
    ToolCall,
)

Make = Callable[..., OllamaProvider]
CHAT, TOOLS, THINK, EMBED = "smollm2:135m", "smollm2-tools:135m", "smollm2-think:135m", "all-minilm:22m"
CAPITAL = "What is the capital of France?"


def weather(city: str) -> str:
    """The weather in a city.

    Args:
        city: The city's name.
    """
    return f"Sunny in {city}."


class Sum(BaseModel):
    """Add two numbers."""

    a: int
    b: int


class City(BaseModel):
    """A city."""

    name: str
    kind: Literal["city", "village"]


# The promised API, as written


@pytest.mark.server_only("the model is called llama3 there")
async def test_promised_snippet(make: Make) -> None:
    async with make(
        model="llama3", max_concurrent=10, temperature=0.7, max_tokens=12, top_p=0.9, num_ctx=2048, top_k=40, seed=1
    ) as provider:
        response = await provider.agenerate("Your prompt", system="Be brief.")
        assert response.content
        assert response.usage["total_tokens"] == response.usage["prompt_tokens"] + response.usage["completion_tokens"]
        assert response.finish_reason in ("stop", "length")
        assert response.model == "llama3"
        assert response.metadata["total_duration"] > 0
        assert response.metadata["tokens_per_second"] > 0
        assert response.metadata["time_to_first_token"] >= 0
        config = StreamConfig(stream_timeout=60.0, chunk_timeout=10.0, max_chunks=500)
        text = ""
        async for chunk in provider.stream_generate("Your prompt", stream_config=config):
            text += chunk.content
        assert text
        assert chunk.done


async def test_facts_come_back(make: Make) -> None:
    provider = make()
    response = await provider.agenerate(CAPITAL, max_tokens=12)
    assert "Paris" in response.content
    assert response.finish_reason in ("stop", "length")
    assert not response.truncated_prompt
    whole = await provider.achat([{"role": "user", "content": CAPITAL}], stream=False, max_tokens=12)
    streamed = await provider.achat([Message("user", CAPITAL)], max_tokens=12)
    assert whole.content == streamed.content
    assert whole.usage == streamed.usage


async def test_chunks_add_up_to_the_answer(make: Make) -> None:
    provider = make(max_tokens=12)
    stream = provider.stream_chat([{"role": "user", "content": CAPITAL}])
    pieces = [chunk.content async for chunk in stream]
    whole = await provider.achat([{"role": "user", "content": CAPITAL}])
    assert "".join(pieces) == stream.text == whole.content
    assert stream.end == "done"
    assert stream.usage == whole.usage


async def test_stop_and_seed(make: Make) -> None:
    provider = make(max_tokens=12)
    response = await provider.agenerate(CAPITAL, stop=["is"], seed=7)
    assert "is" not in response.content
    assert response.finish_reason == "stop"


async def test_a_prefix_is_continued(make: Make) -> None:
    """The last message is the assistant's: these models continue it."""
    history = [Message("user", CAPITAL), Message("assistant", "The capital of France is Par")]
    assert (await make().achat(history, max_tokens=4)).content.startswith("is")


# Structured output, tools, thinking


async def test_structured_output(make: Make) -> None:
    response = await make().achat([{"role": "user", "content": "Paris is a city."}], format=City, max_tokens=60)
    assert isinstance(response.parsed, City)
    text = (await make().achat([{"role": "user", "content": "A JSON object."}], format="json", max_tokens=20)).content
    assert text.lstrip().startswith(("{", "["))


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("choice", ["required", "Sum", "weather"])
async def test_tool_choice_holds(make: Make, choice: str, streaming: bool) -> None:
    """Even if the question has nothing to do with the tool."""
    ask: dict[str, Any] = {
        "messages": [{"role": "user", "content": "What is the weather in Rome?"}],
        "tools": [weather, Sum],
        "tool_choice": choice,
        "model": TOOLS,
        "max_tokens": 60,
    }
    provider = make()
    if streaming:
        stream = provider.stream_chat(**ask)
        chunks = [chunk async for chunk in stream]
        calls = [call for chunk in chunks for call in chunk.tool_calls]
        assert stream.response is not None
        response = stream.response
        assert list(response.tool_calls) == calls
        assert "".join(chunk.content for chunk in chunks) == ""
    else:
        response = await provider.achat(**ask)
    (call,) = response.tool_calls
    assert response.finish_reason == "tool_calls"
    assert call.id
    assert call.invalid_arguments is None
    assert call.name in (["Sum", "weather"] if choice == "required" else [choice])
    if call.name == "Sum":
        Sum.model_validate(call.arguments)
    else:
        assert isinstance(call.arguments["city"], str)


async def test_tool_choice_holds_without_a_template_for_tools(make: Make) -> None:
    """The server refuses tools for such a model; a forced call needs only the grammar."""
    provider = make(max_tokens=60)
    messages = [{"role": "user", "content": "What is two and three?"}]
    for _ in range(2):
        response = await provider.achat(messages, tools=[weather, Sum], tool_choice="Sum")
        (call,) = response.tool_calls
        assert call.name == "Sum"
        assert Sum.model_validate(call.arguments)
        assert response.content == ""
    system = [{"role": "system", "content": "You add."}, *messages]
    stream = provider.stream_chat(system, tools=[Sum], tool_choice="required")
    assert [call.name async for chunk in stream for call in chunk.tool_calls] == ["Sum"]


async def test_tool_choice_none_and_auto(make: Make) -> None:
    def get_weather(city: str) -> str:
        """The weather in a city.

        Args:
            city: The city's name.
        """
        return weather(city)

    messages = [{"role": "user", "content": "What is the weather in Rome?"}]
    none = await make().achat(messages, tools=[get_weather], tool_choice="none", model=TOOLS, max_tokens=30)
    assert none.tool_calls == ()
    # A model this small calls an optional tool for some questions only; which ones depends on the processor.
    for city in ("London", "Paris", "Oslo", "Berlin", "Lisbon", "Tokyo", "Madrid", "Cairo"):
        messages = [{"role": "user", "content": f"What is the weather in {city}?"}]
        auto = await make().achat(messages, tools=[get_weather], model=TOOLS, max_tokens=60)
        if auto.tool_calls:
            break
    (call,) = auto.tool_calls
    assert call.name == "get_weather"
    assert isinstance(call.arguments["city"], str)
    assert auto.finish_reason == "tool_calls"


async def test_a_tool_answers_and_the_model_goes_on(make: Make) -> None:
    provider = make(model=TOOLS, max_tokens=20)
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Rome?"}]
    asked = await provider.achat(messages, tools=[weather], tool_choice="weather", max_tokens=60)
    (call,) = asked.tool_calls
    answer = Message("tool", weather(**call.arguments), tool_call_id=call.id)
    after = await provider.achat([*messages, asked.message, answer])
    assert after.content
    assert after.finish_reason in ("stop", "length")


async def test_tools_on_a_model_without_them(make: Make) -> None:
    with pytest.raises(BadRequestError, match="does not support tools"):
        await make().achat([{"role": "user", "content": "x"}], tools=[weather])


async def test_thinking(make: Make) -> None:
    provider = make(model=THINK, max_tokens=60)
    # A model this small does not always think when asked to.
    for country in ("Portugal", "France", "Norway", "Greece", "Poland", "Egypt"):
        question = Message("user", f"What is the capital of {country}?")
        stream = provider.stream_chat([question], think=True)
        chunks = [chunk async for chunk in stream]
        assert stream.response is not None
        assert "".join(chunk.thinking for chunk in chunks) == stream.response.thinking
        if stream.response.thinking:
            break
    assert stream.response.thinking
    follow_up = [question, stream.response.message, Message("user", "And of Spain?")]
    assert (await provider.achat(follow_up, think=False)).thinking == ""


@pytest.mark.server_only("its refusals are worded differently")
async def test_the_server_refuses_unknown_options_and_schemas(make: Make) -> None:
    with pytest.raises(BadRequestError, match="temperature"):
        await make().agenerate("x", options={"temperature": "hot"})
    with pytest.raises(BadRequestError, match="schema"):
        await make().agenerate("x", format={"type": "nothing"})


async def test_recursive_schemas_with_awkward_names(make: Make) -> None:
    """A definition's name that a server's grammar compiler cannot handle is renamed before it is sent."""
    schema = {
        "$defs": {
            "my_node": {
                "type": "object",
                "properties": {
                    "value": {"type": "integer"},
                    "next": {"anyOf": [{"$ref": "#/$defs/my_node"}, {"type": "null"}]},
                },
                "required": ["value"],
            }
        },
        "type": "object",
        "properties": {"head": {"$ref": "#/$defs/my_node"}},
        "required": ["head"],
    }
    response = await make().achat([{"role": "user", "content": "A list of one."}], format=schema, max_tokens=30)
    assert response.content.lstrip().startswith("{")


# Models


@pytest.mark.server_only("it copies no models")
async def test_models(make: Make) -> None:
    provider = make()
    names = [model["name"] for model in await provider.list_models()]
    assert {CHAT, TOOLS, THINK, EMBED} <= set(names)
    assert await provider.version()
    assert await provider.is_available()
    assert await provider.preflight(TOOLS, capabilities=["completion", "tools"])
    assert not await provider.preflight(CHAT, capabilities=["tools"])
    await provider.copy_model(CHAT, "scenario-copy")
    assert (await provider.show_model("scenario-copy"))["model_info"]["general.architecture"] == "llama"
    await provider.delete_model("scenario-copy")
    with pytest.raises(ModelNotFoundError, match="ollama pull scenario-copy"):
        await provider.show_model("scenario-copy")


async def test_load_and_unload(make: Make) -> None:
    provider = make(model=TOOLS)
    assert (await provider.preload(num_ctx=2048)).finish_reason == "load"
    # Models of the same weights share a runner, which has the name of the one that was loaded first.
    same_weights = {CHAT, TOOLS, THINK, "llama3:latest"}
    assert same_weights & {model["name"] for model in await provider.running_models()}
    assert (await provider.unload()).finish_reason == "unload"


@pytest.mark.server_only("it creates no models")
async def test_create(make: Make) -> None:
    provider = make()
    statuses = [p["status"] async for p in provider.create_model("scenario-mario", from_model=CHAT, system="Mario.")]
    assert statuses[-1] == "success"
    assert (await provider.show_model("scenario-mario"))["system"] == "Mario."
    await provider.delete_model("scenario-mario")


async def test_embeddings(make: Make) -> None:
    provider = make(model=EMBED)
    together = await provider.embed(["a cat", "a kitten", "a law"], batch_size=2)
    cat, kitten, law = together.embeddings
    assert len(cat) == 384

    def likeness(one: list[float], other: list[float]) -> float:
        return sum(a * b for a, b in zip(one, other, strict=True))

    assert likeness(cat, kitten) > likeness(cat, law)
    with pytest.raises(BadRequestError, match="does not support"):
        await provider.agenerate("x")


@pytest.mark.server_only("it refuses a prompt that is too long, and does not truncate it")
async def test_truncated_prompts_are_noticed(make: Make) -> None:
    provider = make(num_ctx=256, max_tokens=1)
    cut = await provider.agenerate("word " * 400)
    assert cut.truncated_prompt
    assert cut.usage["prompt_tokens"] == 256
    assert not (await provider.agenerate("word " * 100)).truncated_prompt
    with pytest.raises(ContextWindowExceededError):
        await provider.agenerate("word " * 400, on_truncation="error")


async def test_a_reload_by_changed_options_warns_once(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    provider = make(max_tokens=1)
    for num_ctx in (512, 768, 512, 768):
        await provider.agenerate("Hi", num_ctx=num_ctx)
    assert caplog.text.count("because num_ctx changed between requests") == 1


# Deployment patterns


async def test_pattern_service_with_a_batch(make: Make) -> None:
    """A service holds a provider open and processes batches in which some fail."""
    provider = make(max_concurrent=2, max_tokens=4).open()
    try:
        seen: list[int] = []
        prompts = ["one", "two", [{"role": "user", "content": "three"}]]
        results = await provider.agenerate_batch(
            prompts, return_exceptions=True, on_result=lambda index, _: seen.append(index)
        )
        assert [bool(result.content) for result in results] == [True] * 3
        assert sorted(seen) == [0, 1, 2]
        failed = await provider.agenerate_batch(["x"], return_exceptions=True, model="no-such-model")
        assert [type(result) for result in failed] == [ModelNotFoundError]
        assert provider.stats().generations_succeeded == 3
    finally:
        await provider.aclose()


async def test_pattern_router_over_models(make: Make) -> None:
    providers = {"talk": make(max_tokens=8), "act": make(model=TOOLS, max_tokens=60)}

    async def route(question: str) -> str | tuple[ToolCall, ...]:
        if "weather" not in question:
            return (await providers["talk"].agenerate(question)).content
        messages = [{"role": "user", "content": question}]
        return (await providers["act"].achat(messages, tools=[weather], tool_choice="weather")).tool_calls

    assert isinstance(await route("Say hello."), str)
    (call,) = await route("The weather in Rome?")
    assert isinstance(call, ToolCall)
    assert call.name == "weather"


async def test_pattern_fallback_over_models(make: Make) -> None:
    tried: list[str] = []
    failures: list[LLMError] = []
    provider = make(max_tokens=8)
    answer = None
    for model in ("no-such-model", "nor-this-one", CHAT):
        tried.append(model)
        try:
            answer = await provider.agenerate("Say hello.", model=model)
            break
        except LLMError as error:
            failures.append(error)
    assert answer is not None
    assert answer.content
    assert tried[-1] == CHAT
    assert [error.status_code for error in failures] == [404, 404]


async def test_pattern_cancelled_stream(make: Make) -> None:
    """A stream with a timeout set by the application: it ends, and leaves nothing behind."""
    provider = make(max_concurrent=1, max_tokens=300)
    stream = provider.stream_generate("Tell a long story.")
    first = asyncio.Event()

    async def consume() -> None:
        async for _ in stream:
            first.set()
            await asyncio.Event().wait()  # the consumer stops reading

    task = asyncio.create_task(consume())
    await first.wait()
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(task, 0.01)
    while provider.stats().running:  # the connection is being closed: a few turns of the loop
        await asyncio.sleep(0)
    assert stream.end == "cancelled"
    assert stream.text
    assert (await provider.agenerate("Say hello.", max_tokens=2)).content


def test_sync_twins(make: Make) -> None:
    with make(max_tokens=8) as provider:
        whole = provider.generate(CAPITAL)
        assert "".join(chunk.content for chunk in provider.stream(CAPITAL)) == whole.content
        chat = provider.chat([{"role": "user", "content": CAPITAL}])
        assert chat.content
        assert [r.content for r in provider.batch([CAPITAL])] == [whole.content]
