"""Tools, an enforced `tool_choice`, and structured output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from pydantic import BaseModel, Field
from pydantic.v1 import BaseModel as BaseModelV1
from typing_extensions import TypedDict

from langchain_namel3ss_ollama import ChatOllama, OllamaOutputError
from namel3ss_ollama.schemas import portable_schema
from namel3ss_ollama.testing import OllamaServer, Reply, ToolCall

Make = Callable[..., ChatOllama]
Methods = ["json_schema", "function_calling", "json_mode"]


class Point(BaseModel):
    north: float


class Place(BaseModel):
    """A place."""

    city: str = Field(description="its name")
    at: Point = Point(north=0)
    near: Point | str | None = None


class PlaceV1(BaseModelV1):
    """A place."""

    city: str


class PlaceDict(TypedDict):
    """A place."""

    city: str


FUNCTION = {
    "name": "PlaceFunction",
    "description": "A place.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
SCHEMA = {"title": "PlaceSchema", "description": "A place.", **FUNCTION["parameters"]}


@tool
def weather(city: str, days: int = 1) -> str:
    """The weather.

    Args:
        city: Where.
        days: How long.
    """
    return f"{city}: sunny for {days}"


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def payload(server: OllamaServer) -> dict[str, Any]:
    return dict(server.requests[-1].payload)


def test_schemas_are_sent_in_full(chat: Make, ollama_server: OllamaServer) -> None:
    chat().bind_tools([weather, add, Place, PlaceV1, FUNCTION, SCHEMA]).invoke("Hi")
    functions = [t["function"] for t in payload(ollama_server)["tools"]]
    assert [f["name"] for f in functions] == ["weather", "add", "Place", "PlaceV1", "PlaceFunction", "PlaceSchema"]
    assert functions[0]["parameters"]["properties"]["days"] == {"default": 1, "type": "integer"}
    assert functions[2]["parameters"]["properties"]["at"]["properties"] == {"north": {"type": "number"}}
    assert "anyOf" in str(functions[2]["parameters"]["properties"]["near"])
    tree = {"$defs": {"node": {"type": "object", "properties": {"child": {"$ref": "#/$defs/node"}}}}}
    parameters = {"type": "object", "properties": {"root": {"$ref": "#/$defs/node"}}, **tree}
    chat().bind_tools([{"type": "function", "function": {"name": "grow", "parameters": parameters}}]).invoke("Hi")
    assert payload(ollama_server)["tools"][0]["function"]["parameters"] == {
        "type": "object",
        "properties": {"root": {"type": "object", "properties": {"child": {"type": "object"}}}},
    }
    chat().bind_tools([add], strict=True).invoke("Hi")
    assert "strict" not in payload(ollama_server)["tools"][0]["function"]  # Ollama has no such key


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("any", ["add", "weather"]),
        ("required", ["add", "weather"]),
        (True, ["add", "weather"]),
        ({"type": "any"}, ["add", "weather"]),
        ("add", ["add"]),
        ({"type": "function", "function": {"name": "add"}}, ["add"]),
        ({"type": "tool", "name": "add"}, ["add"]),
    ],
    ids=str,
)
async def test_a_choice_is_enforced_in_every_form(
    chat: Make, ollama_server: OllamaServer, choice: Any, names: list[str]
) -> None:
    model = chat(format="json").bind_tools([add, weather], tool_choice=choice)
    for answer in (model.invoke("Hi"), await model.ainvoke("Hi")):
        assert [call["name"] in names for call in answer.tool_calls] == [True]
        assert answer.content == ""
    assert sorted(n for n in ("add", "weather") if f"'{n}'" in str(payload(ollama_server)["format"])) == names
    pieces = list(model.stream("Hi"))
    assert [len(piece.tool_call_chunks) for piece in pieces] == [1]


def test_tools_of_a_call(chat: Make, ollama_server: OllamaServer) -> None:
    anthropic = {"name": "look", "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}}}
    answer = chat().invoke("Hi", tools=[add, Place, anthropic], tool_choice="look")
    assert answer.tool_calls[0]["name"] == "look"
    assert [t["function"]["name"] for t in payload(ollama_server)["tools"]] == ["add", "Place", "look"]


def test_other_choices(chat: Make, ollama_server: OllamaServer) -> None:
    for choice in (None, "auto", False):
        chat().bind_tools([add], tool_choice=choice).invoke("Hi")
        assert "tools" in payload(ollama_server)
        assert "format" not in payload(ollama_server)
    chat().bind_tools([add], tool_choice="none").invoke("Hi")
    assert "tools" not in payload(ollama_server)
    with pytest.raises(ValueError, match="'subtract' is neither"):
        chat().bind_tools([add], tool_choice="subtract")


def test_a_forced_call_cut_short_is_an_error(chat: Make, ollama_server: OllamaServer) -> None:
    ollama_server.reply('{"name": "add", "argu', done_reason="length")
    with pytest.raises(OllamaOutputError, match="max_tokens") as caught:
        chat().bind_tools([add], tool_choice="any").invoke("Hi")
    assert caught.value.text == '{"name": "add", "argu'


@pytest.mark.parametrize("version", ["v0", "v1"])
@pytest.mark.parametrize("together", [True, False])
async def test_parallel_calls(chat: Make, ollama_server: OllamaServer, version: str, together: bool) -> None:
    calls = [ToolCall("add", {"a": "1", "b": 2}, id="one"), ToolCall("add", {"a": 3}), ToolCall("add", "[1]", id="x")]
    ollama_server.reply("I add.", tool_calls=calls, tool_calls_in_one_line=together)
    model = chat(output_version=version).bind_tools([add])
    pieces = list(model.stream("Hi"))
    apieces = [piece async for piece in model.astream("Hi")]
    for answer in (model.invoke("Hi"), await model.ainvoke("Hi"), pieces[0] + pieces[1:], apieces[0] + apieces[1:]):
        assert isinstance(answer, AIMessage)
        assert [call["args"] for call in answer.tool_calls] == [{"a": "1", "b": 2}, {"a": 3}]
        assert answer.tool_calls[0]["id"] == "one"
        assert answer.tool_calls[1]["id"]
        assert [(call["id"], call["args"]) for call in answer.invalid_tool_calls] == [("x", "[1]")]
        assert answer.text == "I add."
        kinds = [block["type"] for block in answer.content_blocks]
        assert kinds.count("tool_call") == 2


def test_arguments_are_not_reinterpreted(chat: Make, ollama_server: OllamaServer) -> None:
    args = {"code": "[1, 2]", "json": '{"a": 1}', "functionName": "add", "big": 2**60, "none": None}
    ollama_server.reply(tool_calls=[ToolCall("add", args)])
    pieces = list(chat().stream("Hi"))
    for answer in (chat().invoke("Hi"), pieces[0] + pieces[1:]):
        assert answer.tool_calls[0]["args"] == args


@pytest.mark.parametrize("text", ['{"a": ', '{"a": 1', '{"a": 1}}', "{'a': 1}", "nonsense", '"text"', "[1]"])
def test_broken_arguments_are_not_repaired(chat: Make, ollama_server: OllamaServer, text: str) -> None:
    ollama_server.reply(tool_calls=[ToolCall("add", text)])
    pieces = list(chat().stream("Hi"))
    for answer in (chat().invoke("Hi"), pieces[0] + pieces[1:]):
        assert answer.tool_calls == []
        assert len(answer.invalid_tool_calls) == 1


@pytest.mark.parametrize(
    ("schema", "fits"),
    [
        (Place, lambda v: isinstance(v, Place) and v.city == "Rome"),
        (PlaceV1, lambda v: isinstance(v, PlaceV1) and v.city == "Rome"),
        (PlaceDict, lambda v: v == {"city": "Rome"}),
        (SCHEMA, lambda v: v == {"city": "Rome"}),
        (FUNCTION, lambda v: v == {"city": "Rome"}),
    ],
    ids=["pydantic", "pydantic-1", "typeddict", "schema", "function"],
)
@pytest.mark.parametrize("method", Methods)
async def test_structured_output(
    chat: Make, ollama_server: OllamaServer, method: Any, schema: Any, fits: Callable[[Any], bool]
) -> None:
    def answer(record: Any) -> Reply:
        form = record.payload["format"]
        if method == "function_calling":
            return Reply(tool_calls=[ToolCall(form["properties"]["name"]["const"], {"city": "Rome"})])
        assert form == "json" if method == "json_mode" else "city" in form["properties"]
        return Reply('{"city": "Rome"}')

    ollama_server.on(path="/api/chat").reply(answer)
    model = chat().with_structured_output(schema, method=method)
    values = [model.invoke("Where?"), await model.ainvoke("Where?"), list(model.stream("Where?"))[-1]]
    values.append([value async for value in model.astream("Where?")][-1])
    assert all(fits(value) for value in values)
    raw = chat().with_structured_output(schema, method=method, include_raw=True).invoke("Where?")
    assert isinstance(raw["raw"], AIMessage)
    assert fits(raw["parsed"])
    assert raw["parsing_error"] is None


@pytest.mark.parametrize("schema", [Place, SCHEMA], ids=["pydantic", "schema"])
@pytest.mark.parametrize(
    "reply",
    [
        Reply('{"city": "Ro', done_reason="length"),
        Reply(""),
        Reply("null"),
        Reply('{"city": "Rome"} and more'),
    ],
    ids=["cut", "empty", "null", "more"],
)
async def test_structured_output_is_never_a_silent_none(
    chat: Make, ollama_server: OllamaServer, schema: Any, reply: Reply
) -> None:
    ollama_server.on(path="/api/chat").reply(reply)
    for method in ("json_schema", "json_mode"):
        model = chat().with_structured_output(schema, method=method)
        with pytest.raises(OutputParserException) as caught:
            model.invoke("Where?")
        if reply.done_reason == "length":
            assert "max_tokens" in str(caught.value)
        with pytest.raises(OutputParserException):
            await model.ainvoke("Where?")
        with pytest.raises(OutputParserException):
            list(model.stream("Where?"))
        with pytest.raises(OutputParserException):
            [value async for value in model.astream("Where?")]
        raw = chat().with_structured_output(schema, method=method, include_raw=True).invoke("Where?")
        assert raw["parsed"] is None
        assert isinstance(raw["parsing_error"], OutputParserException)


@pytest.mark.parametrize("schema", [Place, SCHEMA], ids=["pydantic", "schema"])
def test_a_missing_call_is_an_error(chat: Make, ollama_server: OllamaServer, schema: Any) -> None:
    loaded = {"model": "m", "message": {"role": "assistant", "content": "I would rather talk."}, "done": True}
    ollama_server.reply(Reply(lines=[loaded]))
    model = chat().with_structured_output(schema, method="function_calling")
    with pytest.raises(OllamaOutputError):
        model.invoke("Where?")
    with pytest.raises(OllamaOutputError):
        list(model.stream("Where?"))


@pytest.mark.parametrize(
    ("wanted", "form"),
    [
        ({"type": "json_object"}, "json"),
        ({"type": "json_schema", "json_schema": {"name": "p", "schema": SCHEMA}}, portable_schema(SCHEMA)),
        ({"type": "text"}, None),
    ],
)
def test_response_format(chat: Make, ollama_server: OllamaServer, wanted: Any, form: Any) -> None:
    chat(format="json").invoke("Hi", response_format=wanted)
    assert payload(ollama_server).get("format") == form


def test_invalid_response_formats(chat: Make) -> None:
    with pytest.raises(ValueError, match="response_format"):
        chat().invoke("Hi", response_format={"type": "yaml"})
    with pytest.warns(UserWarning, match="response_format is ignored"):
        chat().invoke("Hi", response_format={"type": "json_object"}, format="json")


def test_wrong_arguments(chat: Make) -> None:
    with pytest.raises(ValueError, match="method"):
        chat().with_structured_output(Place, method="yaml")
    with pytest.raises(ValueError, match="schema"):
        chat().with_structured_output(None)
    with pytest.raises(ValueError, match="frozen"):
        chat().with_structured_output(Place, frozen=True)


def test_a_format_with_tools_warns(chat: Make, ollama_server: OllamaServer) -> None:
    with pytest.warns(UserWarning, match="no way to call a tool"):
        chat(format="json").bind_tools([add]).invoke("Hi")
    assert {"format", "tools"} <= payload(ollama_server).keys()
    with pytest.raises(ValueError, match="format"):
        chat().bind_tools([add], tool_choice="any").invoke("Hi", format="json")


SEVERAL = [ToolCall("add", {"a": n, "b": 1}, id=str(n)) for n in (1, 2, 3)]


@pytest.mark.parametrize("version", ["v0", "v1"])
@pytest.mark.parametrize(
    ("parallel", "ids"), [(False, ["1"]), (True, ["1", "2", "3"]), (None, ["1", "2", "3"])], ids=str
)
@pytest.mark.filterwarnings("ignore:.* is in beta")
async def test_parallel_tool_calls_can_be_disabled(
    chat: Make, ollama_server: OllamaServer, version: str, parallel: bool | None, ids: list[str]
) -> None:
    # Once wrong: bind_tools took it, and the call was a TypeError
    ollama_server.reply("Let me see.", tool_calls=SEVERAL)
    model: Any = chat(output_version=version)
    for bound in (
        model.bind_tools([add], parallel_tool_calls=parallel),
        model.bind(tools=[add], parallel_tool_calls=parallel),
    ):
        pieces = list(bound.stream("Hi"))
        apieces = [piece async for piece in bound.astream("Hi")]
        answers = [
            bound.invoke("Hi"),
            await bound.ainvoke("Hi"),
            pieces[0] + pieces[1:],
            apieces[0] + apieces[1:],
            bound.stream_events("Hi", version="v3").output,
        ]
        for answer in answers:
            assert [call["id"] for call in answer.tool_calls] == ids
            assert answer.text == "Let me see."
    assert "parallel_tool_calls" not in payload(ollama_server)


def test_bind_tools_rejects_unknown_keywords(chat: Make) -> None:
    with pytest.raises(TypeError, match="bind_tools got an unexpected keyword argument 'temprature'; did you mean"):
        chat().bind_tools([add], temprature=1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'cache_control'"):
        chat().bind_tools([add], cache_control={"type": "ephemeral"})
    with pytest.raises(TypeError, match="parallel_tool_calls: expected True or False, not 1"):
        chat().bind_tools([add], parallel_tool_calls=1)  # type: ignore[arg-type]  # a wrong value is what is tested
    for foreign in ({"type": "web_search_preview"}, {"type": "web_search_20250305", "name": "web_search"}):
        with pytest.raises(ValueError, match="tools: "):
            chat().bind_tools([add, foreign])
    assert chat().bind_tools([add], temperature=0, max_tokens=5, stop=["x"], format="", keep_alive=5)


@tool
def label(names: list[str], where: dict[str, Any], note: str) -> str:
    """Label things.

    Args:
        names: The names.
        where: Where they are.
        note: A note.
    """
    return f"{names!r} {where!r} {note!r}"


async def test_arguments_sent_as_text_are_converted(chat: Make, ollama_server: OllamaServer) -> None:
    # Once wrong: a list as text failed in the tool
    ollama_server.on(predicate=lambda record: record.payload["messages"][-1]["role"] == "tool").reply("Done.")
    sent = ToolCall("label", {"names": '["x"]', "where": '{"a": [1]}', "note": '["text"]'}, id="1")
    ollama_server.reply("", tool_calls=[sent])
    wanted = {"names": ["x"], "where": {"a": [1]}, "note": '["text"]'}
    model = chat().bind_tools([label])
    pieces = list(model.stream("Hi"))
    for answer in (model.invoke("Hi"), await model.ainvoke("Hi"), pieces[0] + pieces[1:]):
        assert answer.tool_calls[0]["args"] == wanted
    state = create_agent(chat(), [label]).invoke({"messages": [HumanMessage("Hi")]})
    assert state["messages"][2].content == """['x'] {'a': [1]} '["text"]'"""
