"""Schemas are fitted to the server: to its version, and to what it has refused."""

from __future__ import annotations

import logging
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from namel3ss_ollama import BadRequestError, OllamaProvider, OutputValidationError
from namel3ss_ollama.testing import OllamaServer

NO_GRAMMAR = "Failed to create new sequence: unable to create sampling context\n"
ASK = [{"role": "user", "content": "Make one up."}]


class Quoting(BaseModel):
    """Names and values that JSON escapes."""

    mood: Literal['say "hi"']
    path: Literal["C:\\temp"]
    text: Literal["a\nb\x01"]
    key: bool = Field(alias='is "it"')


class Code(BaseModel):
    code: str = Field(pattern="^[A-Z]{3}$", max_length=3)


def provider_for(server: OllamaServer, **settings: Any) -> OllamaProvider:
    return OllamaProvider("llama3.2", server.url, **settings)


async def ask(provider: OllamaProvider, how: str, **options: Any) -> Any:
    """The response to a call of that method."""
    if how == "achat":
        return await provider.achat(ASK, **options)
    if how == "agenerate":
        return await provider.agenerate("Make one up.", **options)
    stream = provider.stream_chat(ASK, **options)
    async for _ in stream:
        pass
    return stream.response


def refuse_once(server: OllamaServer) -> None:
    server.reply("", error=NO_GRAMMAR, times=1)


HOW = pytest.mark.parametrize("how", ["achat", "agenerate", "stream_chat"])


@HOW
@pytest.mark.parametrize("version", ["0.9.3", "0.13.1", "0.13.2", "0.33.0-rc1", "0.0.0", "1.0.0"])
async def test_names_and_values_with_quotation_marks_work_on_every_version(version: str, how: str) -> None:
    # Once wrong: 0.9.3 makes no grammar where there is a quotation mark, and a wrong one where there is a backslash.
    with OllamaServer(version=version) as server:
        async with provider_for(server) as provider:
            response = await ask(provider, how, format=Quoting)
    assert response.parsed.model_dump(by_alias=True) == {
        "mood": 'say "hi"', "path": "C:\\temp", "text": "a\nb\x01", 'is "it"': False,
    }  # fmt: skip


@pytest.mark.parametrize("version", ["0.9.3", "0.13.2"])
async def test_a_tool_whose_name_and_arguments_have_quotation_marks_can_be_forced(version: str) -> None:
    tool = {"name": 'say "hi"', "parameters": Quoting.model_json_schema()}
    with OllamaServer(version=version) as server:
        async with provider_for(server) as provider:
            response = await provider.achat(ASK, tools=[tool], tool_choice="required")
    assert [(call.name, call.arguments["path"], call.arguments['is "it"']) for call in response.tool_calls] == [
        ('say "hi"', "C:\\temp", False)
    ]


async def test_the_version_is_requested_once_and_only_if_it_matters() -> None:
    with OllamaServer() as server:
        async with provider_for(server) as provider:
            await provider.achat(ASK, format=Code.model_json_schema())
            assert [request.path for request in server.requests] == ["/api/chat"]
            for _ in range(2):
                await provider.achat(ASK, format=Quoting)
    assert [request.path for request in server.requests][1:] == ["/api/version", "/api/chat", "/api/chat"]


async def test_an_unknown_version_is_no_obstacle() -> None:
    with OllamaServer(version="0.13.2") as server:
        server.reply(status=404, body="404 page not found", path="/api/version")
        async with provider_for(server) as provider:
            assert (await provider.achat(ASK, format=Quoting)).parsed.path == "C:\\temp"


@HOW
async def test_a_schema_that_is_refused_is_sent_in_its_simplest_form(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    # Once wrong: an error, though the simpler form holds the shape.
    with OllamaServer() as server:
        async with provider_for(server) as provider:
            refuse_once(server)
            server.reply('{"code": "ABC"}', times=1)
            response = await ask(provider, how, format=Code)
            assert response.parsed.code == "ABC"
            full, simple = (request.payload["format"] for request in server.requests)
            assert full["properties"]["code"] == {"type": "string", "pattern": "^[A-Z]{3}$", "maxLength": 3}
            assert simple["properties"]["code"] == {"type": "string"}
            assert [record.levelno for record in caplog.records] == [logging.WARNING]
            # The simpler form is remembered; the answer is still validated against the full schema.
            server.reply('{"code": "no"}')
            with pytest.raises(OutputValidationError):
                await ask(provider, how, format=Code)
    assert server.requests[2].payload["format"] == simple
    assert len(server.requests) == 3
    assert provider.stats().retries == 0


async def test_another_model_gets_the_full_schema() -> None:
    with OllamaServer() as server:
        async with provider_for(server) as provider:
            refuse_once(server)
            server.reply('{"code": "ABC"}')
            await provider.achat(ASK, format=Code)
            await provider.achat(ASK, format=Code, model="qwen3")
    assert "maxLength" in str(server.requests[2].payload["format"])


@pytest.mark.parametrize("schema", [{"type": "nothing"}, {"type": "object", "properties": {"a": {"type": "string"}}}])
async def test_a_schema_that_cannot_be_simplified_fails(schema: dict[str, Any]) -> None:
    with OllamaServer() as server:
        refuse_once(server)
        async with provider_for(server) as provider:
            with pytest.raises(BadRequestError, match="cannot compile this schema"):
                await provider.achat(ASK, format=schema)
    assert len(server.requests) == 1


async def test_a_simplest_form_that_is_refused_too_is_an_error() -> None:
    with OllamaServer() as server:
        for _ in range(3):
            refuse_once(server)
        async with provider_for(server) as provider:
            for count in (2, 3):
                with pytest.raises(BadRequestError, match="cannot compile this schema"):
                    await provider.achat(ASK, format=Code)
                assert len(server.requests) == count


async def test_a_refusal_for_another_reason_is_not_retried() -> None:
    with OllamaServer() as server:
        server.reply(json={"error": "the model says no"}, status=400)
        async with provider_for(server) as provider:
            with pytest.raises(Exception, match="says no"):
                await provider.achat(ASK, format=Code)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("version", "how", "thinks"),
    [
        ("0.9.3", "achat", False),
        ("0.12.3", "stream_chat", False),
        ("0.12.4", "achat", True),
        ("0.33.0", "stream_chat", True),
        ("0.33.0", "agenerate", False),
    ],
)
@pytest.mark.parametrize("wanted", [Code.model_json_schema(), "json"], ids=["schema", "json"])
async def test_a_model_thinks_before_a_format_where_the_server_lets_it(
    version: str, how: str, thinks: bool, wanted: Any, caplog: pytest.LogCaptureFixture
) -> None:
    # Once wrong: on 0.9.3 the answer is lost, each time.
    with OllamaServer(version=version) as server:
        async with OllamaProvider("qwen3", server.url, think=True) as provider:
            for _ in range(2):
                response = await ask(provider, how, format=wanted)
    assert {request.payload["think"] for request in server.requests if request.payload} == {thinks}
    assert bool(response.thinking) == thinks
    assert [record.levelno for record in caplog.records] == ([] if thinks else [logging.WARNING])


async def test_the_embedded_engine_is_not_taken_for_an_ollama_version(caplog: pytest.LogCaptureFixture) -> None:
    # Once wrong: it says this package's version, and was asked to think under its grammar, which loses the answer.
    with OllamaServer(version="0.33") as server:
        server.reply(path="/api/version", json={"version": "0.1.0+embedded"})
        async with OllamaProvider("qwen3", server.url, mirostat=1) as provider:
            response = await ask(provider, "achat", format=Quoting.model_json_schema(), think=True)
    body = server.requests[-1].payload
    assert body["think"] is False
    assert 'is "it"' in body["format"]["properties"], "its grammar compiler writes JSON's escapes itself"
    assert response.thinking == ""
    assert "qwen3 does not think under a `format`" in caplog.text
    assert "mirostat" not in caplog.text, "which the engine has, unlike Ollama from 0.7.0 on"
