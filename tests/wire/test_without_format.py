"""Servers and models that do not honour `format` or a forced `tool_choice`."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from pydantic import BaseModel, Field

from namel3ss_ollama import BadRequestError, LLMResponse, OllamaProvider, OutputValidationError
from namel3ss_ollama.testing import OllamaServer, Reply, ToolCall

ASK = [{"role": "user", "content": "Which city?"}]
ROME = '{"name": "Rome", "people": 3}'
PROSE = "Rome, of course. It has three people."
WRONG = '{"city": "Rome"}'
NO_GRAMMAR = "Value is not callable: null; failed to parse grammar"


class City(BaseModel):
    """A city."""

    name: str = Field(description="its name in English")
    people: int = Field(ge=1)


SCHEMA = City.model_json_schema()
FORMATS = pytest.mark.parametrize("form", [City, SCHEMA, "json"], ids=["type", "schema", "json"])
HOW = pytest.mark.parametrize("how", ["achat", "agenerate", "at once"])
CITY = {"name": "city", "description": "Says a city.", "parameters": SCHEMA}
OTHER = {"name": "other", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}
CALL = '{"name": "city", "arguments": {"name": "Rome", "people": 3}}'


def provider_for(server: OllamaServer, **settings: Any) -> OllamaProvider:
    return OllamaProvider("llama3.2", server.url, **settings)


async def ask(provider: OllamaProvider, how: str, **options: Any) -> LLMResponse:
    if how == "agenerate":
        return await provider.agenerate("Which city?", **options)
    return await provider.achat(ASK, **options, stream_internally=how != "at once")


async def streamed(provider: OllamaProvider, **options: Any) -> tuple[list[Any], LLMResponse]:
    stream = provider.stream_chat(ASK, **options)
    chunks = [chunk async for chunk in stream]
    assert stream.response is not None
    return chunks, stream.response


def sent(server: OllamaServer) -> list[dict[str, Any]]:
    return [request.payload for request in server.requests if request.payload]


def system_of(body: dict[str, Any]) -> str:
    return str(body["system"] if "prompt" in body else body["messages"][0]["content"])


# Formats that are not enforced


@HOW
@FORMATS
async def test_a_format_that_is_ignored_is_described_in_the_prompt(
    ollama_server: OllamaServer, how: str, form: Any, caplog: pytest.LogCaptureFixture
) -> None:
    # Once wrong: OutputValidationError for a type, the prose as the answer for a schema.
    ollama_server.on().sequence(PROSE, ROME, ROME)
    async with provider_for(ollama_server) as provider:
        for _ in range(2):
            response = await ask(provider, how, format=form)
            assert json.loads(response.content) == {"name": "Rome", "people": 3}
            assert response.parsed == (City(name="Rome", people=3) if form is City else None)
        assert provider.stats().prompt_tokens > 2 * response.usage.prompt_tokens
    first, *others = sent(ollama_server)
    assert "format" in first
    for body in others:
        assert "format" not in body
        assert "JSON alone" in system_of(body)
        if form != "json":
            assert json.dumps(SCHEMA) in system_of(body)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert ROME not in caplog.text


async def test_the_callers_prompt_is_kept(ollama_server: OllamaServer) -> None:
    ollama_server.on().sequence(PROSE, ROME, PROSE, ROME)
    messages = [{"role": "system", "content": "Be brief."}, *ASK]
    async with provider_for(ollama_server, temperature=0.5) as provider:
        await provider.achat(messages, format=City)
        await provider.agenerate("Which?", system="Be brief.", format=City)
    assert messages[0] == {"role": "system", "content": "Be brief."}
    for body in sent(ollama_server)[1:]:
        assert system_of(body).startswith("Be brief.\n\nAnswer with JSON alone")
        assert body["options"] == {"temperature": 0.5}
    assert sent(ollama_server)[1]["messages"][1:] == ASK


@HOW
async def test_an_invalid_answer_is_shown_to_the_model_once(ollama_server: OllamaServer, how: str) -> None:
    ollama_server.on().sequence(PROSE, WRONG, ROME)
    async with provider_for(ollama_server) as provider:
        assert (await ask(provider, how, format=City)).parsed == City(name="Rome", people=3)
    last = sent(ollama_server)[-1]
    shown = last["prompt"] if how == "agenerate" else json.dumps(last["messages"][-2:])
    assert json.dumps(WRONG)[1:-1] in shown or WRONG in shown
    assert "name: Field required" in shown
    assert "format" not in last


@HOW
async def test_an_answer_that_stays_invalid_is_an_error_with_the_attempts(
    ollama_server: OllamaServer, how: str
) -> None:
    ollama_server.on().sequence(PROSE, PROSE, WRONG)
    async with provider_for(ollama_server) as provider:
        with pytest.raises(OutputValidationError, match=r"not enforced for llama3\.2.*described.*mistake") as caught:
            await ask(provider, how, format=City)
    assert caught.value.text == WRONG
    assert caught.value.response is not None
    assert caught.value.response.content == WRONG
    assert "Rome" not in str(caught.value)
    assert len(ollama_server.requests) == 3


@pytest.mark.parametrize("form", [SCHEMA, "json"], ids=["schema", "json"])
async def test_a_schema_is_checked_for_json_only(ollama_server: OllamaServer, form: Any) -> None:
    ollama_server.on().sequence(PROSE, PROSE, f"```json\n{WRONG}\n```", PROSE, PROSE)
    async with provider_for(ollama_server) as provider:
        assert (await provider.achat(ASK, format=form)).content == WRONG
        with pytest.raises(OutputValidationError, match=r"not JSON .*described in the prompt") as caught:
            await provider.achat(ASK, format=form)
    assert caught.value.text == PROSE
    assert len(ollama_server.requests) == 5


async def test_json_that_the_grammar_forbids_shows_an_ignored_format(ollama_server: OllamaServer) -> None:
    # Once wrong: keys that the model invented, in each call.
    ollama_server.on().sequence(WRONG, ROME)
    async with provider_for(ollama_server) as provider:
        assert (await provider.achat(ASK, format=SCHEMA)).content == ROME
    assert "format" not in sent(ollama_server)[1]


async def test_other_models_get_the_format_field(ollama_server: OllamaServer) -> None:
    ollama_server.on(model="llama3.2").sequence(PROSE, ROME)
    async with provider_for(ollama_server) as provider:
        await provider.achat(ASK, format=City)
        await provider.achat(ASK, format=City.model_json_schema(), model="qwen3")
    assert ["format" in body for body in sent(ollama_server)] == [True, False, True]


@pytest.mark.parametrize(
    "reply",
    [Reply(ROME[:10], done_reason="length"), Reply("", done_reason="length"), Reply(ROME[:10])],
    ids=["cut", "empty", "stop sequence"],
)
async def test_an_answer_that_was_cut_proves_no_ignored_format(ollama_server: OllamaServer, reply: Reply) -> None:
    ollama_server.reply(reply)
    async with provider_for(ollama_server) as provider:
        with pytest.raises(OutputValidationError):
            await provider.achat(ASK, format=City)
        with pytest.raises(OutputValidationError):
            await streamed(provider, format=City)
        assert (await provider.achat(ASK, format=SCHEMA)).content == reply.text
    assert len(ollama_server.requests) == 3
    assert all("format" in body for body in sent(ollama_server))


async def test_a_rule_beyond_grammars_proves_no_ignored_format(ollama_server: OllamaServer) -> None:
    class Even(BaseModel):
        number: float = Field(ge=2, multiple_of=2)

    ollama_server.reply('{"number": 1}')
    async with provider_for(ollama_server) as provider:
        for count in (1, 2):
            with pytest.raises(OutputValidationError, match=r"invalid: number\); the text is in `text`$"):
                await provider.achat(ASK, format=Even)
            assert len(ollama_server.requests) == count
    assert all("format" in body for body in sent(ollama_server))


async def test_a_cut_answer_to_a_described_schema_is_not_repaired(ollama_server: OllamaServer) -> None:
    ollama_server.on().sequence(PROSE, Reply(ROME[:10], done_reason="length"))
    async with provider_for(ollama_server) as provider:
        with pytest.raises(OutputValidationError, match=r"max_tokens.*described in the prompt"):
            await provider.achat(ASK, format=City)
    assert len(ollama_server.requests) == 2


async def test_a_raw_prompt_is_not_changed(ollama_server: OllamaServer) -> None:
    ollama_server.reply(PROSE)
    async with provider_for(ollama_server) as provider:
        for _ in range(2):
            with pytest.raises(OutputValidationError, match="raw prompt is not changed"):
                await provider.agenerate("Which?", raw=True, format=City)
    assert all("format" in body for body in sent(ollama_server))
    assert len(ollama_server.requests) == 2


async def test_a_valid_answer_costs_one_request(ollama_server: OllamaServer) -> None:
    async with provider_for(ollama_server) as provider:
        for form in (City, SCHEMA, "json"):
            await provider.achat(ASK, format=form)
            await streamed(provider, format=form)
    assert len(ollama_server.requests) == 6
    assert all(body["messages"] == ASK and "format" in body for body in sent(ollama_server))


# JSON that a server takes for thinking


@HOW
@FORMATS
async def test_json_in_thinking_is_the_answer_if_there_is_no_other(
    ollama_server: OllamaServer, how: str, form: Any
) -> None:
    # Once wrong: an empty answer.
    ollama_server.on().sequence(Reply("", thinking=ROME), Reply(ROME, thinking="Hm."))
    async with OllamaProvider("qwen3", ollama_server.url) as provider:
        response = await ask(provider, how, format=form, think=False)
        assert (response.content, response.thinking) == (ROME, "")
        assert response.parsed == (City(name="Rome", people=3) if form is City else None)
        assert len(ollama_server.requests) == 1
        response = await ask(provider, how, format=form, think=True)
        assert (response.content, response.thinking) == (ROME, "Hm.")
    assert ["format" in body for body in sent(ollama_server)] == [True, False]
    assert sent(ollama_server)[1]["think"] is True


@FORMATS
async def test_json_in_the_thinking_of_a_stream_is_in_its_last_chunk(ollama_server: OllamaServer, form: Any) -> None:
    ollama_server.reply("", thinking=ROME)
    async with OllamaProvider("qwen3", ollama_server.url) as provider:
        chunks, response = await streamed(provider, format=form)
    assert "".join(chunk.content for chunk in chunks) == response.content == ROME
    assert response.parsed == (City(name="Rome", people=3) if form is City else None)


async def test_json_within_thoughts_is_not_the_answer(ollama_server: OllamaServer) -> None:
    ollama_server.on().sequence(Reply("", thinking=f"Maybe\n```json\n{ROME}\n```\n?"), ROME)
    async with OllamaProvider("qwen3", ollama_server.url) as provider:
        assert (await provider.achat(ASK, format=City)).parsed == City(name="Rome", people=3)
    assert len(ollama_server.requests) == 2


# Streams


@FORMATS
async def test_a_stream_is_not_retried_after_its_first_chunk(ollama_server: OllamaServer, form: Any) -> None:
    ollama_server.on().sequence(PROSE, ROME)
    async with provider_for(ollama_server) as provider:
        with pytest.raises(OutputValidationError, match=r"next call describes.*had been handed out already") as caught:
            await streamed(provider, format=form)
        assert caught.value.text == PROSE
        assert len(ollama_server.requests) == 1
        _, response = await streamed(provider, format=form)
        assert response.content == ROME
    assert ["format" in body for body in sent(ollama_server)] == [True, False]


async def test_a_stream_is_retried_before_its_first_chunk(ollama_server: OllamaServer) -> None:
    ollama_server.on().sequence(Reply(""), Reply(""), ROME)
    async with provider_for(ollama_server, max_concurrent=1) as provider:
        chunks, response = await streamed(provider, format=City)
        assert response.parsed == City(name="Rome", people=3)
        assert "".join(chunk.content for chunk in chunks) == ROME
        await provider.achat(ASK)  # the slot was released
    assert len(ollama_server.requests) == 4


# A forced call


@pytest.mark.parametrize("status", [400, 500])
@pytest.mark.parametrize("how", ["achat", "at once", "stream"])
async def test_tools_and_a_grammar_that_conflict(ollama_server: OllamaServer, how: str, status: int) -> None:
    # Once wrong: BadRequestError, "simplify `format`".
    ollama_server.reply(json={"error": NO_GRAMMAR}, status=status, times=1)
    ollama_server.reply(CALL)
    async with provider_for(ollama_server) as provider:
        for _ in range(2):
            settings: Any = {"tools": [CITY, OTHER], "tool_choice": "city"}
            response = (
                (await streamed(provider, **settings))[1] if how == "stream" else await ask(provider, how, **settings)
            )
            assert [(call.name, call.arguments["people"]) for call in response.tool_calls] == [("city", 3)]
    first, *others = sent(ollama_server)
    assert "tools" in first
    assert len(others) == 2
    for body in others:
        assert "tools" not in body
        assert body["format"] == first["format"]
        assert "Says a city." in system_of(body)


async def test_a_grammar_error_in_a_line(ollama_server: OllamaServer) -> None:
    ollama_server.reply(lines=[{"error": NO_GRAMMAR}], times=1)
    ollama_server.reply(CALL)
    async with provider_for(ollama_server) as provider:
        _, response = await streamed(provider, tools=[CITY], tool_choice="required")
    assert response.tool_calls[0].name == "city"


async def test_a_grammar_that_is_refused_alone_too_is_an_error(ollama_server: OllamaServer) -> None:
    plain = {"name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}
    ollama_server.reply(json={"error": NO_GRAMMAR}, status=400)
    async with provider_for(ollama_server) as provider:
        with pytest.raises(BadRequestError, match="grammar"):
            await provider.achat(ASK, tools=[plain], tool_choice="f")
    assert len(ollama_server.requests) == 2


NO_CALL = [
    Reply(tool_calls=[ToolCall("other", {"x": 1})]),
    Reply('{"name": "other", "arguments": {"x": 1}}'),
    Reply(PROSE),
    Reply(""),
]


@pytest.mark.parametrize("how", ["achat", "at once", "stream"])
@pytest.mark.parametrize("reply", NO_CALL, ids=["other", "other in text", "prose", "empty"])
async def test_a_wrong_or_missing_call_is_retried_once(ollama_server: OllamaServer, how: str, reply: Reply) -> None:
    # Once wrong: OutputValidationError; a stream yielded the wrong call before.
    ollama_server.on().sequence(reply, CALL)
    settings: Any = {"tools": [CITY, OTHER], "tool_choice": "city"}
    async with provider_for(ollama_server) as provider:
        if how == "stream":
            chunks, response = await streamed(provider, **settings)
            assert [call.name for chunk in chunks for call in chunk.tool_calls] == ["city"]
        else:
            response = await ask(provider, how, **settings)
        assert [call.name for call in response.tool_calls] == ["city"]
        assert ["tools" in body for body in sent(ollama_server)] == [True, False]
        ollama_server.reset()
        ollama_server.reply(reply)
        with pytest.raises(OutputValidationError, match="the tools were described in the prompt"):
            await provider.achat(ASK, **settings)
    assert len(ollama_server.requests) == 1


@pytest.mark.parametrize("how", ["achat", "at once", "stream"])
async def test_a_forced_call_that_a_server_takes_for_thinking(ollama_server: OllamaServer, how: str) -> None:
    # Once wrong: it was retried in the prompt, and then was an error.
    ollama_server.reply("", thinking=CALL)
    settings: Any = {"tools": [CITY, OTHER], "tool_choice": "city", "model": "qwen3"}
    async with provider_for(ollama_server) as provider:
        response = (
            (await streamed(provider, **settings))[1] if how == "stream" else await ask(provider, how, **settings)
        )
    assert [(call.name, call.arguments["people"]) for call in response.tool_calls] == [("city", 3)]
    assert (response.content, response.thinking, response.finish_reason) == ("", "", "tool_calls")
    assert len(ollama_server.requests) == 1


@pytest.mark.parametrize("thoughts", [f"Maybe {CALL}?", f"Maybe\n```json\n{CALL}\n```\n?"])
async def test_a_forced_call_within_thoughts_is_not_a_call(ollama_server: OllamaServer, thoughts: str) -> None:
    ollama_server.on().sequence(Reply("", thinking=thoughts), Reply(CALL, thinking="Rome it is."))
    async with OllamaProvider("qwen3", ollama_server.url) as provider:
        response = await provider.achat(ASK, tools=[CITY], tool_choice="city")
    assert response.thinking == "Rome it is."
    assert len(ollama_server.requests) == 2


async def test_a_forced_call_that_was_cut_is_not_retried(ollama_server: OllamaServer) -> None:
    ollama_server.reply(CALL[:20], done_reason="length")
    async with provider_for(ollama_server) as provider:
        with pytest.raises(OutputValidationError, match="max_tokens"):
            await provider.achat(ASK, tools=[CITY], tool_choice="city")
    assert len(ollama_server.requests) == 1
