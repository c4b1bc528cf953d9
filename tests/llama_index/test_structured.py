"""Structured output in all modes, and with all methods."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.program.utils import FlexibleModel
from llama_index.core.prompts import ChatPromptTemplate, PromptTemplate
from llama_index.core.types import BaseOutputParser, PydanticProgramMode
from pydantic import BaseModel, RootModel

from llama_index.llms.namel3ss_ollama import Ollama, StructuredOutputError
from namel3ss_ollama import LLMError, ModelNotFoundError
from namel3ss_ollama.schemas import portable_schema
from namel3ss_ollama.testing import OllamaServer, ToolCall


class Song(BaseModel):
    """A song."""

    title: str
    seconds: int


class Album(BaseModel):
    """An album."""

    name: str
    songs: list[Song]


PROMPT = PromptTemplate("An album about {topic}.")
JSON = '{"name": "Blue", "songs": [{"title": "Sea", "seconds": 61}, {"title": "Sky", "seconds": 62}]}'
ALBUM = Album.model_validate_json(JSON)
MODES = [PydanticProgramMode.DEFAULT, PydanticProgramMode.FUNCTION, PydanticProgramMode.LLM]


def methods(llm: Ollama, cls: type[Any] = Album, **settings: Any) -> list[Callable[[], list[Any]]]:
    """The resulting objects, from each of the four methods."""

    async def read() -> list[Any]:
        return [one async for one in await llm.astream_structured_predict(cls, PROMPT, settings, topic="blue")]

    return [
        lambda: [llm.structured_predict(cls, PROMPT, settings, topic="blue")],
        lambda: [asyncio.run(llm.astructured_predict(cls, PROMPT, settings, topic="blue"))],
        lambda: list(llm.stream_structured_predict(cls, PROMPT, settings, topic="blue")),
        lambda: asyncio.run(read()),
    ]


def script(server: OllamaServer, mode: PydanticProgramMode, text: str = JSON, **options: Any) -> None:
    if mode == PydanticProgramMode.FUNCTION:
        import json

        server.reply(tool_calls=[ToolCall("Album", json.loads(text))], **options)
    else:
        server.reply(text, **options)


@pytest.mark.parametrize("mode", MODES)
def test_all_methods_in_all_modes(ollama_server: OllamaServer, make_llm: Any, sent: Any, mode: Any) -> None:
    script(ollama_server, mode)
    for method in methods(make_llm(pydantic_program_mode=mode, system_prompt="Be blue.")):
        *partial, last = method()
        assert last == ALBUM
        assert all(isinstance(one, (Album, FlexibleModel)) for one in partial)
    for body in sent():
        system, user = body["messages"]
        assert system == {"role": "system", "content": "Be blue."}
        assert user["content"].startswith("An album about blue.")
        if mode == PydanticProgramMode.DEFAULT:
            assert body["format"] == portable_schema(Album.model_json_schema())
        elif mode == PydanticProgramMode.FUNCTION:
            assert body["format"]["properties"]["name"] == {"const": "Album"}  # forced, in streams too
        else:
            assert "format" not in body


def test_a_server_without_a_script_answers_the_schema(llm: Ollama) -> None:
    for method in methods(llm):
        assert method()[-1] == Album(name="", songs=[])


def test_partial_objects_grow(ollama_server: OllamaServer, llm: Ollama) -> None:
    ollama_server.reply(list(JSON))
    *partial, last = llm.stream_structured_predict(Album, PROMPT, topic="blue")
    assert last == ALBUM
    names = [one.name for one in partial]
    assert names[:6] == [None, "", "B", "Bl", "Blu", "Blue"]
    assert isinstance(partial[0], FlexibleModel)
    assert next(one.songs for one in partial if isinstance(one, Album)) == []
    songs = [len(one.songs or []) for one in partial]
    assert songs == sorted(songs)
    assert songs[-1] == 2


def test_partial_parsing_takes_linear_time(
    ollama_server: OllamaServer, llm: Ollama, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llama_index.llms.namel3ss_ollama import structured

    parsed: list[int] = []
    real = structured.from_json

    def from_json(text: str, **options: Any) -> Any:
        parsed.append(len(text))
        return real(text, **options)

    monkeypatch.setattr(structured, "from_json", from_json)
    long = '{"title": "' + "la " * 8000 + '", "seconds": 1}'
    ollama_server.reply([long[i : i + 4] for i in range(0, len(long), 4)])
    *_, last = llm.stream_structured_predict(Song, PROMPT, topic="blue")
    assert last == Song.model_validate_json(long)
    assert len(parsed) < 1000
    assert sum(parsed) < 200 * len(long)


def test_a_root_model_has_no_partial_objects(ollama_server: OllamaServer, llm: Ollama) -> None:
    class Numbers(RootModel[list[int]]):
        """Numbers."""

    ollama_server.reply("[1, 2, 3]")
    assert list(llm.stream_structured_predict(Numbers, PROMPT, topic="x")) == [Numbers([1, 2, 3])]


@pytest.mark.parametrize("mode", MODES)
def test_events(ollama_server: OllamaServer, make_llm: Any, recorder: Any, mode: Any) -> None:
    script(ollama_server, mode)
    for i, method in enumerate(methods(make_llm(pydantic_program_mode=mode))):
        recorder.events.clear()
        method()
        names = [name for name in recorder.names if "Structured" in name]
        assert names[0] == "LLMStructuredPredictStartEvent"
        assert names[-1] == "LLMStructuredPredictEndEvent"
        assert ("LLMStructuredPredictInProgressEvent" in names) == (i >= 2)
        assert len(recorder.of("LLMStructuredPredictStartEvent")) == 1
        assert recorder.of("LLMStructuredPredictEndEvent")[0].output == ALBUM
        assert len(recorder.of("LLMChatStartEvent")) == 1


@pytest.mark.parametrize("mode", MODES)
def test_spans_once(ollama_server: OllamaServer, make_llm: Any, spans: Any, mode: Any) -> None:
    script(ollama_server, mode)
    make_llm(pydantic_program_mode=mode).structured_predict(Album, PROMPT, topic="x")
    names = [span.id_.split("-")[0] for span in spans.completed_spans]
    assert names.count("Ollama.structured_predict") == 1
    assert names.count("Ollama.chat") == 1


@pytest.mark.parametrize("mode", [PydanticProgramMode.DEFAULT, PydanticProgramMode.LLM])
@pytest.mark.parametrize("text", ['{"name": "Blue"}', "no object at all", ""], ids=["invalid", "text", "empty"])
def test_an_invalid_answer_is_an_error_that_names_the_class_and_keeps_the_text(
    ollama_server: OllamaServer, make_llm: Any, mode: Any, text: str
) -> None:
    ollama_server.reply(text)
    for method in methods(make_llm(pydantic_program_mode=mode)):
        with pytest.raises(StructuredOutputError, match="not a valid Album") as caught:
            method()
        assert isinstance(caught.value, (LLMError, ValueError))
        assert caught.value.text == text
        assert text == "" or text not in str(caught.value)
        assert caught.value.__cause__ is None


def test_an_invalid_call_is_an_error_that_names_the_class(ollama_server: OllamaServer, make_llm: Any) -> None:
    ollama_server.reply(tool_calls=[ToolCall("Album", {"name": "Blue"})])
    for method in methods(make_llm(pydantic_program_mode=PydanticProgramMode.FUNCTION)):
        with pytest.raises(StructuredOutputError, match="not a valid Album") as caught:
            method()
        assert "Blue" in caught.value.text or "songs" in caught.value.text


@pytest.mark.parametrize("mode", MODES)
def test_a_truncated_answer_is_an_error(ollama_server: OllamaServer, make_llm: Any, mode: Any) -> None:
    cut = '{"name": "Album", "arguments": {"name"' if mode == PydanticProgramMode.FUNCTION else JSON[:40]
    ollama_server.reply([cut], done_reason="length")
    for method in methods(make_llm(pydantic_program_mode=mode)):
        with pytest.raises(StructuredOutputError, match=r"not a valid Album.*cut by the token limit") as caught:
            method()
        assert caught.value.text == cut


@pytest.mark.parametrize("mode", MODES)
def test_the_callers_prompt_is_not_changed(ollama_server: OllamaServer, make_llm: Any, mode: Any) -> None:
    script(ollama_server, mode)
    before = PROMPT.model_copy(deep=True)
    for method in methods(make_llm(pydantic_program_mode=mode)):
        method()
    assert PROMPT.output_parser is before.output_parser is None
    assert PROMPT.format(topic="x") == before.format(topic="x")


@pytest.mark.parametrize("mode", MODES)
def test_other_errors_propagate(make_llm: Any, mode: Any, ollama_server: OllamaServer) -> None:
    for method in methods(make_llm("nope", pydantic_program_mode=mode)):
        with pytest.raises(ModelNotFoundError):
            method()
    for method in methods(make_llm(pydantic_program_mode=mode), temprature=1):
        with pytest.raises(TypeError, match="temperature"):
            method()
    for method in methods(make_llm(pydantic_program_mode=mode), temperature=-1):
        with pytest.raises(ValueError, match="temperature") as caught:
            method()
        assert not isinstance(caught.value, StructuredOutputError)


@pytest.mark.parametrize(
    ("settings", "keywords", "error"),
    [
        ({"is_function_calling_model": False}, {}, ValueError),
        ({}, {"chat_history": []}, TypeError),
        ({}, {"extra_headers": {"X A": "b"}}, ValueError),
        ({}, {"temperature": -1}, ValueError),
    ],
    ids=str,
)
def test_configuration_errors_are_not_llm_errors(
    ollama_server: OllamaServer, make_llm: Any, settings: Any, keywords: Any, error: type[Exception]
) -> None:
    for method in methods(make_llm(pydantic_program_mode=PydanticProgramMode.FUNCTION, **settings), **keywords):
        with pytest.raises(error) as caught:
            method()
        assert not isinstance(caught.value, LLMError)
    assert ollama_server.requests == []


@pytest.mark.parametrize("mode", MODES)
def test_keywords_are_passed_on_and_not_changed(
    ollama_server: OllamaServer, make_llm: Any, sent: Any, mode: Any
) -> None:
    script(ollama_server, mode)
    llm = make_llm(pydantic_program_mode=mode)
    keywords = {"temperature": 0.0, "think": False}
    llm.structured_predict(Album, PROMPT, keywords, topic="x")
    list(llm.stream_structured_predict(Album, PROMPT, keywords, topic="x"))
    assert keywords == {"temperature": 0.0, "think": False}
    assert [(body["options"], body["think"]) for body in sent()] == [({"temperature": 0.0}, False)] * 2


def test_text_around_the_object_is_ignored(ollama_server: OllamaServer, make_llm: Any) -> None:
    ollama_server.reply(["Here it is:\n", "```json\n", JSON[:50], JSON[50:], "\n```", " Nice?"])
    for method in methods(make_llm(pydantic_program_mode=PydanticProgramMode.LLM)):
        *partial, last = method()
        assert last == ALBUM
        assert [one.name for one in partial] == ["Blue"] * len(partial)


def test_thinking_is_not_part_of_the_object(ollama_server: OllamaServer, make_llm: Any) -> None:
    ollama_server.reply(JSON, thinking="{not json")
    for method in methods(make_llm("qwen3", thinking=True)):
        assert method()[-1] == ALBUM


class _Instructs(BaseOutputParser):
    """Extends prompts."""

    def parse(self, output: str) -> Any:
        return output

    def format(self, query: str) -> str:
        return f"{query} In blue."


def test_an_output_parser_of_the_llm_formats_the_prompt(ollama_server: OllamaServer, make_llm: Any, sent: Any) -> None:
    script(ollama_server, PydanticProgramMode.DEFAULT)
    make_llm(output_parser=_Instructs()).structured_predict(Album, PROMPT, topic="x")
    assert sent()[0]["messages"][0]["content"] == "An album about x. In blue."


def test_as_structured_llm(ollama_server: OllamaServer, llm: Ollama, sent: Any) -> None:
    script(ollama_server, PydanticProgramMode.DEFAULT)
    structured = llm.as_structured_llm(Album)
    ask = [ChatMessage(role="user", content="Say {something}.")]

    async def asynchronously() -> list[Any]:
        streamed = [response async for response in await structured.astream_chat(ask)]
        return [await structured.achat(ask, temperature=0.0), streamed[-1], await structured.acomplete("x")]

    responses = [structured.chat(ask), list(structured.stream_chat(ask))[-1], *asyncio.run(asynchronously())]
    assert [response.raw for response in responses] == [ALBUM] * 5
    assert sent()[2]["format"] == portable_schema(Album.model_json_schema())
    assert sent()[0]["messages"][0]["content"] == "Say {something}."
    with pytest.raises(StructuredOutputError):
        ollama_server.reset()
        ollama_server.reply("{}")
        structured.chat(ask)


def test_messages_as_a_prompt(ollama_server: OllamaServer, llm: Ollama, sent: Any) -> None:
    script(ollama_server, PydanticProgramMode.DEFAULT)
    template = ChatPromptTemplate([ChatMessage(role="system", content="About {topic}"), ChatMessage(content="Go")])
    assert llm.structured_predict(Album, template, topic="blue") == ALBUM
    assert [message["content"] for message in sent()[0]["messages"]] == ["About blue", "Go"]


def test_leaving_a_stream_of_objects_closes_the_connection(ollama_server: OllamaServer, llm: Ollama) -> None:
    from namel3ss_ollama.testing import Gate

    ollama_server.reply(list(JSON), gates={12: Gate()})
    for one in llm.stream_structured_predict(Album, PROMPT, topic="x"):
        assert one.name is None
        break
    ollama_server.wait_for(lambda s: s.requests[0].outcome == "client_closed")
