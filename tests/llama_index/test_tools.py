"""Tools: definitions, forced and single calls, ids, histories, programs."""

# No `from __future__ import annotations`: LlamaIndex does not resolve string annotations of tools.

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ToolCallBlock
from llama_index.core.program import FunctionCallingProgram
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

from llama_index.llms.namel3ss_ollama import Ollama
from llama_index.llms.namel3ss_ollama.base import force_single_tool_call
from namel3ss_ollama import OutputValidationError
from namel3ss_ollama.testing import OllamaServer, Reply, ToolCall


class Place(BaseModel):
    """Where."""

    city: str
    country: str | None = None


class Sum(BaseModel):
    """A sum."""

    a: int
    b: int


def add(a: int, b: int = 0) -> int:
    """Add two numbers."""
    return a + b


def weather(place: Place) -> str:
    """The weather at a place."""
    return f"sunny in {place.city}"


TOOLS = [FunctionTool.from_defaults(add), FunctionTool.from_defaults(weather)]
TWO = [ToolCall("add", {"a": 1, "b": 2}), ToolCall("add", {"a": 1, "b": 2})]
Ways = Callable[..., list[ChatResponse]]


def all_methods(llm: Ollama, **settings: Any) -> list[ChatResponse]:
    """The answer from each of the four methods."""
    arguments: dict[str, Any] = {"tools": TOOLS, "user_msg": "1+2?", **settings}

    async def asynchronously() -> list[ChatResponse]:
        streamed = [response async for response in await llm.astream_chat_with_tools(**arguments)]
        return [await llm.achat_with_tools(**arguments), streamed[-1]]

    streamed = list(llm.stream_chat_with_tools(**arguments))
    return [llm.chat_with_tools(**arguments), streamed[-1], *asyncio.run(asynchronously())]


def test_definitions_keep_nested_schemas(llm: Ollama, sent: Any) -> None:
    llm.chat_with_tools(TOOLS, user_msg="1+2?")
    body = sent()[0]
    assert body["messages"] == [{"role": "user", "content": "1+2?"}]
    functions = {tool["function"]["name"]: tool["function"] for tool in body["tools"]}
    assert functions["add"]["parameters"]["required"] == ["a"]
    place = functions["weather"]["parameters"]["properties"]["place"]
    assert place["properties"]["country"]["anyOf"] == [{"type": "string"}, {"type": "null"}]


def test_without_tools_none_are_sent(llm: Ollama, sent: Any) -> None:
    llm.chat_with_tools([], user_msg="hi")
    assert "tools" not in sent()[0]


def test_parallel_calls_have_distinct_ids(ollama_server: OllamaServer, llm: Ollama) -> None:
    ollama_server.reply(["Let me see."], tool_calls=TWO)
    for response in all_methods(llm, allow_parallel_tool_calls=True):
        blocks = [block for block in response.message.blocks if isinstance(block, ToolCallBlock)]
        assert [(block.tool_name, block.tool_kwargs) for block in blocks] == [("add", {"a": 1, "b": 2})] * 2
        assert len({block.tool_call_id for block in blocks}) == 2
        assert response.message.content == "Let me see."
        selections = llm.get_tool_calls_from_response(response)
        assert [selection.tool_id for selection in selections] == [block.tool_call_id for block in blocks]
        assert selections[0].tool_kwargs == {"a": 1, "b": 2}


def test_the_servers_ids_are_kept(ollama_server: OllamaServer, llm: Ollama) -> None:
    ollama_server.reply(tool_calls=[ToolCall("add", {"a": 1}, id="call_7", index=0)])
    for response in all_methods(llm):
        assert [one.tool_id for one in llm.get_tool_calls_from_response(response)] == ["call_7"]


@pytest.mark.parametrize("in_one_line", [False, True])
def test_every_method_and_item_has_a_single_call(ollama_server: OllamaServer, llm: Ollama, in_one_line: bool) -> None:
    calls = [*TWO, ToolCall("weather", {})]
    ollama_server.reply(tool_calls=calls, tool_calls_in_one_line=in_one_line)
    for response in all_methods(llm):  # LlamaIndex's default is one call
        assert len(llm.get_tool_calls_from_response(response)) == 1
    for item in llm.stream_chat_with_tools(TOOLS, user_msg="1+2?"):
        assert len(llm.get_tool_calls_from_response(item, error_on_no_tool_call=False)) <= 1
        assert len(item.message.additional_kwargs.get("tool_calls", [])) <= 1
    assert llm.predict_and_call(TOOLS, user_msg="1+2?").response == "3"


def test_chat_keeps_all_calls_by_default(ollama_server: OllamaServer, llm: Ollama) -> None:
    ollama_server.reply(tool_calls=TWO)
    response = llm.chat([ChatMessage(role="user", content="1+2?")], tools=[t.metadata.to_openai_tool() for t in TOOLS])
    assert len(llm.get_tool_calls_from_response(response)) == 2


def test_force_single_tool_call() -> None:
    blocks = [ToolCallBlock(tool_call_id=i, tool_name="add") for i in "ab"]
    plain = [{"id": "a"}, {"id": "b"}]
    message = ChatMessage(role="assistant", content=None, blocks=blocks, additional_kwargs={"tool_calls": plain})
    response = ChatResponse(message=message)
    force_single_tool_call(response)
    assert response.message.blocks == blocks[:1]
    assert response.message.additional_kwargs == {"tool_calls": plain[:1]}


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"tool_required": True}, ["add", "weather"]),
        ({"tool_required": True, "tool_choice": None}, ["add", "weather"]),
        ({"tool_required": True, "tool_choice": "auto"}, ["add", "weather"]),
        ({"tool_choice": "required"}, ["add", "weather"]),
        ({"tool_choice": "any"}, ["add", "weather"]),
        ({"tool_choice": "weather"}, ["weather"]),
        ({"tool_choice": {"type": "function", "function": {"name": "weather"}}}, ["weather"]),
    ],
)
def test_a_forced_call_is_enforced(
    ollama_server: OllamaServer, make_llm: Any, sent: Any, settings: dict[str, Any], names: list[str]
) -> None:
    # The test server obeys `format`, as a real one does with its grammar.
    for response in all_methods(make_llm(json_mode=True), **settings):
        selection = make_llm().get_tool_calls_from_response(response)[0]
        assert selection.tool_name == names[0]
        assert response.message.content == ""
    for body in sent():
        choices = body["format"].get("anyOf", [body["format"]])
        assert [choice["properties"]["name"]["const"] for choice in choices] == names
        assert len(body["tools"]) == 2


@pytest.mark.parametrize("choice", [None, "auto", {"type": "auto"}])
def test_auto_sends_no_format(llm: Ollama, sent: Any, choice: Any) -> None:
    llm.chat_with_tools(TOOLS, user_msg="1+2?", tool_choice=choice)
    assert "format" not in sent()[0]
    assert len(sent()[0]["tools"]) == 2


def test_tool_choice_none(llm: Ollama, sent: Any) -> None:
    llm.chat_with_tools(TOOLS, user_msg="1+2?", tool_choice="none")
    assert "tools" not in sent()[0]


def test_invalid_choices(llm: Ollama, ollama_server: OllamaServer) -> None:
    with pytest.raises(ValueError, match="tool_choice: 'sub' is neither"):
        llm.chat_with_tools(TOOLS, user_msg="1+2?", tool_choice="sub")
    with pytest.raises(ValueError, match="tool_choice: expected"):
        llm.chat_with_tools(TOOLS, user_msg="1+2?", tool_choice=7)
    with pytest.raises(ValueError, match="needs tools"):
        llm.chat_with_tools([], user_msg="1+2?", tool_required=True)
    assert ollama_server.requests == []


def test_the_history_is_not_changed(llm: Ollama, sent: Any) -> None:
    history = [ChatMessage(role="user", content="Hello")]
    llm.chat_with_tools(TOOLS, user_msg="1+2?", chat_history=history)
    list(llm.stream_chat_with_tools(TOOLS, user_msg=ChatMessage(role="user", content="3+4?"), chat_history=history))
    assert [message.content for message in history] == ["Hello"]
    assert [[m["content"] for m in body["messages"]] for body in sent()] == [["Hello", "1+2?"], ["Hello", "3+4?"]]


def test_a_calls_settings_are_sent(llm: Ollama, sent: Any) -> None:
    llm.chat_with_tools(TOOLS, user_msg="1+2?", temperature=0.0, model="qwen3", think=True)
    body = sent()[0]
    assert (body["options"], body["model"], body["think"]) == ({"temperature": 0.0}, "qwen3", True)


def test_a_missing_call_is_an_error(llm: Ollama) -> None:
    response = llm.chat_with_tools(TOOLS, user_msg="1+2?")
    assert llm.get_tool_calls_from_response(response, error_on_no_tool_call=False) == []
    with pytest.raises(ValueError, match="Expected at least one tool call"):
        llm.get_tool_calls_from_response(response)


def test_string_arguments_are_parsed_or_an_error(ollama_server: OllamaServer, llm: Ollama) -> None:
    ollama_server.reply(tool_calls=[ToolCall("add", '{"a": 1}')], times=1)
    response = llm.chat_with_tools(TOOLS, user_msg="1+2?")
    assert llm.get_tool_calls_from_response(response)[0].tool_kwargs == {"a": 1}
    ollama_server.reply(tool_calls=[ToolCall("add", '{"a": ')])
    for response in all_methods(llm):
        block = next(block for block in response.message.blocks if isinstance(block, ToolCallBlock))
        assert block.tool_kwargs == '{"a": '
        with pytest.raises(OutputValidationError, match=r"'add'.*not a JSON object") as caught:
            llm.get_tool_calls_from_response(response)
        assert caught.value.text == '{"a": '


def test_a_call_without_an_id_gets_its_own(llm: Ollama) -> None:
    blocks = [ToolCallBlock(tool_name="add", tool_kwargs={}), ToolCallBlock(tool_name="add", tool_kwargs={})]
    response = ChatResponse(message=ChatMessage(role="assistant", content=None, blocks=blocks))
    assert len({one.tool_id for one in llm.get_tool_calls_from_response(response)}) == 2


def test_a_round_with_a_tool(ollama_server: OllamaServer, llm: Ollama, sent: Any) -> None:
    ollama_server.sequence(Reply(tool_calls=TWO), "It is 3.")
    history = [ChatMessage(role="user", content="1+2?")]
    answer = list(llm.stream_chat_with_tools(TOOLS, chat_history=history, allow_parallel_tool_calls=True))[-1]
    history.append(answer.message)
    for selection in llm.get_tool_calls_from_response(answer):
        extra = {"tool_call_id": selection.tool_id}
        history.append(ChatMessage(role="tool", content="3", additional_kwargs=extra))
    assert llm.chat_with_tools(TOOLS, chat_history=history).message.content == "It is 3."
    assistant, *tools = sent()[1]["messages"][1:]
    ids = [call["id"] for call in assistant["tool_calls"]]
    assert len(set(ids)) == 2
    assert tools == [{"role": "tool", "content": "3", "tool_name": "add", "tool_call_id": one} for one in ids]


@pytest.mark.parametrize("forced", [False, True])
def test_a_history_has_its_calls_only_in_blocks(ollama_server: OllamaServer, llm: Ollama, forced: bool) -> None:
    """Other integrations take calls outside the blocks for further calls, and send them twice or unchanged."""
    if not forced:
        ollama_server.reply(["Let me see."], tool_calls=TWO[:1])
    for response in all_methods(llm, tool_required=forced):
        assert [block.tool_name for block in response.message.blocks if isinstance(block, ToolCallBlock)] == ["add"]
        assert response.message.additional_kwargs == {}
        assert response.raw["usage"]["total_tokens"] > 0


@pytest.mark.parametrize("forced", [False, True])
def test_a_streaming_program_of_llamaindex_finds_its_calls(
    ollama_server: OllamaServer, llm: Ollama, forced: bool
) -> None:
    if not forced:
        ollama_server.reply(tool_calls=[ToolCall("Sum", {"a": 1, "b": 2})])
    program = FunctionCallingProgram.from_defaults(
        output_cls=Sum, prompt_template_str="1+2?", llm=llm, tool_choice="required" if forced else None
    )
    *_, last = program.stream_call()
    assert isinstance(last, Sum)
    assert forced or last == Sum(a=1, b=2)
