"""Invalid tool calls: the answer arrives, with the call as invalid, and an agent reports it to the model."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from langchain_namel3ss_ollama import ChatOllama
from langchain_namel3ss_ollama.arguments import original_arguments
from namel3ss_ollama.testing import OllamaServer, Reply

Make = Callable[..., ChatOllama]
BIG = 123456789012345678901234567890


def weather(city: str = "nowhere") -> str:
    """Tell the weather.

    Args:
        city: Where.
    """
    return f"sunny in {city}"


def line(content: str, *calls: Any, done: bool = False) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, **({"tool_calls": list(calls)} if calls else {})}
    return {"model": "llama3.2", "message": message, "done": done, **({"done_reason": "stop"} if done else {})}


def flawed(*calls: Any, text: str = "Let me see.") -> Reply:
    return Reply(lines=[line(text, *calls), line("", done=True)])


def call(name: Any, arguments: Any, call_id: Any = None) -> dict[str, Any]:
    return {"id": call_id, "function": {"name": name, "arguments": arguments}}


def merged(pieces: list[Any]) -> AIMessage:
    return pieces[0] + pieces[1:] if len(pieces) > 1 else pieces[0]


async def all_methods(model: Any) -> list[AIMessage]:
    return [
        model.invoke("Hi"),
        await model.ainvoke("Hi"),
        merged(list(model.stream("Hi"))),
        merged([piece async for piece in model.astream("Hi")]),
    ]


BROKEN = [
    pytest.param(call("weather", '{"city": '), "weather", '{"city": ', id="arguments-cut"),
    pytest.param(call("weather", [1]), "weather", "[1]", id="arguments-list"),
    pytest.param(call("", {"city": "Rome"}), None, None, id="name-empty"),
    pytest.param(call(None, {"city": "Rome"}), None, None, id="name-null"),
    pytest.param({"function": None}, None, None, id="function-null"),
    pytest.param(None, None, None, id="call-null"),
]


@pytest.mark.parametrize("version", ["v0", "v1"])
@pytest.mark.parametrize(("sent", "name", "args"), BROKEN)
async def test_the_text_arrives_and_the_call_is_invalid(
    chat: Make, ollama_server: OllamaServer, version: str, sent: Any, name: str | None, args: str | None
) -> None:
    ollama_server.reply(flawed(sent, call("weather", {"city": "Oslo"}, "good")))
    for answer in await all_methods(chat(output_version=version).bind_tools([weather])):
        assert answer.text == "Let me see."
        assert [(c["id"], c["name"], c["args"]) for c in answer.tool_calls] == [("good", "weather", {"city": "Oslo"})]
        (invalid,) = answer.invalid_tool_calls
        assert (invalid["name"] or None) == name
        assert invalid["id"]
        if args is not None:
            assert original_arguments(invalid["args"] or "") == args


@pytest.mark.parametrize("arguments", [[], None, "", "  ", "[]", "null", {}, "{}"])
async def test_no_arguments_in_any_form(chat: Make, ollama_server: OllamaServer, arguments: Any) -> None:
    ollama_server.reply(flawed(call("weather", arguments)))
    for answer in await all_methods(chat().bind_tools([weather])):
        assert ([c["args"] for c in answer.tool_calls], answer.invalid_tool_calls) == ([{}], [])


@pytest.mark.parametrize("arguments", [{"n": BIG, "m": [-BIG]}, f'{{"n": {BIG}, "m": [-{BIG}]}}'])
async def test_large_integers_round_trip(chat: Make, ollama_server: OllamaServer, arguments: Any) -> None:
    # Once wrong: 1.2345678901234568e+29, and a ValueError when the history went back
    ollama_server.reply(flawed(call("weather", arguments, "c")))
    model = chat().bind_tools([weather])
    for answer in await all_methods(model):
        assert answer.tool_calls[0]["args"] == {"n": BIG, "m": [-BIG]}
        model.invoke([HumanMessage("Hi"), answer, ToolMessage("1", tool_call_id="c")])
        assert str(BIG).encode() in ollama_server.requests[-1].body


@pytest.mark.parametrize("version", ["v0", "v1"])
@pytest.mark.parametrize("text", ["", "Let me see."])
@pytest.mark.parametrize(("sent", "name", "args"), BROKEN)
async def test_an_agent_reports_it_and_continues(
    chat: Make, ollama_server: OllamaServer, version: str, text: str, sent: Any, name: str | None, args: str | None
) -> None:
    # Once wrong: the run ended there, with an empty last message
    agent = create_agent(chat(output_version=version), [weather])
    start: Any = {"messages": [HumanMessage("The weather in Rome?")]}

    def play() -> None:
        ollama_server.reset()
        ollama_server.on(path="/api/chat").sequence(
            flawed(sent, text=text), flawed(call("weather", {"city": "Rome"})), "It is sunny."
        )

    async def check(messages: list[Any]) -> None:
        assert [m.text for m in messages][-2:] == ["sunny in Rome", "It is sunny."]
        report = messages[2]
        assert isinstance(report, ToolMessage)
        assert report.status == "error"
        assert ("not a JSON object" if name else "names no tool") in report.text
        for request in ollama_server.requests[1:]:
            asked, answer = request.payload["messages"][1:3]
            (given,) = asked["tool_calls"]
            assert given["function"] == {"index": 0, "name": name or "unknown", "arguments": {}}
            assert (args or "") in asked["content"]
            assert asked["content"].startswith(text)
            assert (answer["tool_name"], answer["tool_call_id"]) == (name or "unknown", given["id"])

    play()
    await check(agent.invoke(start)["messages"])
    if sys.version_info >= (3, 11):  # before, LangGraph passes no context to a model in an async node
        play()
        await check((await agent.ainvoke(start))["messages"])
    play()
    values = list(agent.stream(start, stream_mode=["values", "messages"]))
    await check([value for mode, value in values if mode == "values"][-1]["messages"])


def test_a_custom_graph_continues_too(chat: Make, ollama_server: OllamaServer) -> None:
    model = chat().bind_tools([weather])
    graph = StateGraph(MessagesState)
    graph.add_node("model", lambda state: {"messages": [model.invoke(state["messages"])]})
    graph.add_node("tools", ToolNode([weather]))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    ollama_server.on(path="/api/chat").sequence(
        flawed(call("weather", "{"), call("weather", {"city": "Rome"})), "It is sunny."
    )
    messages = graph.compile().invoke({"messages": [HumanMessage("Hi")]})["messages"]
    assert sorted(m.status for m in messages if isinstance(m, ToolMessage)) == ["error", "success"]
    assert messages[-1].text == "It is sunny."
    assert len(ollama_server.requests[1].payload["messages"][1]["tool_calls"]) == 2


def test_no_stand_in_outside_a_graph(chat: Make, ollama_server: OllamaServer) -> None:
    ollama_server.reply(flawed(call("weather", "{")))
    assert chat().bind_tools([weather]).invoke("Hi").tool_calls == []


def test_the_events_of_a_call_without_a_name(chat: Make, ollama_server: OllamaServer) -> None:
    ollama_server.reply(flawed(call("", {"city": "Rome"})))
    stream = chat().bind_tools([weather]).stream_events("Hi", version="v3")
    message = stream.output
    assert message.text == "Let me see."
    (invalid,) = message.invalid_tool_calls
    assert json.loads(invalid["args"])["function"]["arguments"] == {"city": "Rome"}


@pytest.mark.parametrize("name", ["", "weather"])
def test_a_history_of_other_models_is_sent(chat: Make, ollama_server: OllamaServer, name: str) -> None:
    # Once wrong: ValueError for each later turn
    broken = {"name": name, "args": "{", "id": "b", "error": "x", "type": "invalid_tool_call"}
    turn = AIMessage("", tool_calls=[{"name": "", "args": {"a": BIG}, "id": "a"}], invalid_tool_calls=[broken])
    chat().invoke([HumanMessage("Hi"), turn, ToolMessage("no", tool_call_id="a")])
    _, asked, answer = ollama_server.requests[-1].payload["messages"]
    assert sorted(c["function"]["name"] for c in asked["tool_calls"]) == sorted(["unknown", name or "unknown"])
    assert str(BIG) in asked["content"]
    assert answer["tool_name"] == "unknown"


def test_a_stand_in_from_a_checkpoint_is_left_out(chat: Make, ollama_server: OllamaServer) -> None:
    ollama_server.on(path="/api/chat").sequence(flawed(call("weather", "{"), text=""), "Done.")
    state = create_agent(chat(), [weather]).invoke({"messages": [HumanMessage("Hi")]})
    restored = [type(m)(**m.model_dump()) for m in state["messages"]]  # as from a checkpoint
    chat().invoke(restored)
    asked = ollama_server.requests[-1].payload["messages"][1]
    assert [c["function"]["name"] for c in asked["tool_calls"]] == ["weather"]


def test_a_chunk_has_it_too(chat: Make, ollama_server: OllamaServer) -> None:
    ollama_server.reply(flawed(None))
    pieces = list(chat().stream("Hi"))
    assert [p.text for p in pieces if isinstance(p, AIMessageChunk) and p.tool_call_chunks] == ["Let me see."]
