"""Invalid tool calls: the answer arrives, with the call as text, and an agent reports it to the model."""

from __future__ import annotations

import json
from typing import Any

import pytest
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ToolCallResult
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ToolCallBlock
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.core.types import PydanticProgramMode
from pydantic import BaseModel

from llama_index.llms.namel3ss_ollama import Ollama
from namel3ss_ollama import OutputValidationError
from namel3ss_ollama.testing import OllamaServer, Reply

# Raised by LlamaIndex's workflows, when an agent inspects its attributes.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince211")

BIG = 123456789012345678901234567890


def weather(city: str = "nowhere") -> str:
    """Tell the weather."""
    return f"sunny in {city}"


def now() -> str:
    """Tell the time."""
    return "12:00"


TOOLS = [FunctionTool.from_defaults(weather), FunctionTool.from_defaults(now)]
HI = [ChatMessage(role="user", content="Hi")]


def flawed(*calls: Any, text: str = "Let me see.") -> Reply:
    message = {"role": "assistant", "content": text, "tool_calls": list(calls)}
    end = {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"}
    return Reply(lines=[{"message": message, "done": False}, end])


def call(name: Any, arguments: Any, call_id: Any = None) -> dict[str, Any]:
    return {"id": call_id, "function": {"name": name, "arguments": arguments}}


async def all_methods(llm: Ollama) -> list[ChatResponse]:
    return [
        llm.chat(HI),
        await llm.achat(HI),
        list(llm.stream_chat(HI))[-1],
        [response async for response in await llm.astream_chat(HI)][-1],
    ]


BROKEN = [
    pytest.param(call("weather", '{"city": '), "weather", '{"city": ', id="arguments-cut"),
    pytest.param(call("weather", [1]), "weather", "[1]", id="arguments-list"),
    pytest.param(call("", {"city": "Rome"}), "", None, id="name-empty"),
    pytest.param({"function": None}, "", None, id="function-null"),
    pytest.param(None, "", "null", id="call-null"),
]


@pytest.mark.parametrize(("sent_call", "name", "text"), BROKEN)
async def test_the_text_arrives_and_the_call_is_kept_as_text(
    ollama_server: OllamaServer, llm: Ollama, sent_call: Any, name: str, text: str | None
) -> None:
    ollama_server.reply(flawed(sent_call, call("weather", {"city": "Oslo"}, "good")))
    for response in await all_methods(llm):
        assert response.message.content == "Let me see."
        blocks = {
            b.tool_name: b for b in response.message.blocks if isinstance(b, ToolCallBlock) and b.tool_call_id != "good"
        }
        assert list(blocks) == [name]
        kept = blocks[name].tool_kwargs
        assert isinstance(kept, str)
        assert kept == text or (text is None and json.loads(kept) == sent_call)
        good = [
            s for s in llm.get_tool_calls_from_response(response, error_on_no_tool_call=False) if s.tool_id == "good"
        ]
        assert [s.tool_kwargs for s in good] == [{"city": "Oslo"}]
        with pytest.raises(OutputValidationError, match="ask again") as caught:
            llm.get_tool_calls_from_response(response)
        assert caught.value.text == kept


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("text", ["", "Let me see."])
@pytest.mark.parametrize(("sent_call", "name", "kept"), BROKEN)
async def test_an_agent_reports_it_and_continues(
    ollama_server: OllamaServer,
    llm: Ollama,
    sent: Any,
    streaming: bool,
    text: str,
    sent_call: Any,
    name: str,
    kept: Any,
) -> None:
    # Once wrong: OutputValidationError, or a MalformedResponseError, out of the run
    good = flawed(call("weather", {"city": "Rome"}))
    ollama_server.on(path="/api/chat").sequence(flawed(sent_call, text=text), good, "It is sunny.")
    handler = FunctionAgent(tools=TOOLS, llm=llm, streaming=streaming).run("The weather in Rome?")
    results = [event async for event in handler.stream_events() if isinstance(event, ToolCallResult)]
    assert str(await handler) == "It is sunny."
    assert [result.tool_output.is_error for result in results] == [True, False]
    assert ("not a JSON object" if name else "without its name") in str(results[0].tool_output.content)
    for request in sent()[1:]:
        asked, answer = request["messages"][1:3]
        (given,) = asked["tool_calls"]
        assert given["function"] == {"index": 0, "name": name or "unknown", "arguments": {}}
        assert asked["content"].startswith(text)
        assert (kept or "") in asked["content"]
        assert (answer["tool_name"], answer["tool_call_id"]) == (name or "unknown", given["id"])


async def test_an_agent_workflow_continues(ollama_server: OllamaServer, llm: Ollama, sent: Any) -> None:
    ollama_server.on(path="/api/chat").sequence(flawed(call("weather", "{"), call("now", [])), "It is noon.")
    agent = FunctionAgent(name="a", description="b", tools=TOOLS, llm=llm)
    assert str(await AgentWorkflow(agents=[agent], root_agent="a").run("The time?")) == "It is noon."
    answers = [m for m in sent()[1]["messages"] if m["role"] == "tool"]
    assert [(a["tool_name"], "JSON object" in a["content"]) for a in answers] == [("weather", True), ("now", False)]


@pytest.mark.parametrize("arguments", [[], None, "", "  ", "[]", "null", {}, "{}"])
async def test_no_arguments_in_any_form(ollama_server: OllamaServer, llm: Ollama, arguments: Any) -> None:
    ollama_server.reply(flawed(call("now", arguments)))
    for response in await all_methods(llm):
        assert [s.tool_kwargs for s in llm.get_tool_calls_from_response(response)] == [{}]
    assert llm.predict_and_call(TOOLS, user_msg="The time?").response == "12:00"


@pytest.mark.parametrize("streaming", [True, False])
async def test_results_of_two_calls_with_one_id_have_their_own_tools(
    ollama_server: OllamaServer, llm: Ollama, sent: Any, streaming: bool
) -> None:
    # Once wrong: both results went out as those of the last call's tool
    two = flawed(call("weather", {"city": "Rome"}, "c"), call("now", {}, "c"))
    ollama_server.on(path="/api/chat").sequence(two, "Sunny, at noon.")
    await FunctionAgent(tools=TOOLS, llm=llm, streaming=streaming).run("The weather, and the time?")
    answers = {m["content"]: m["tool_name"] for m in sent()[1]["messages"] if m["role"] == "tool"}
    assert answers == {"sunny in Rome": "weather", "12:00": "now"}


def test_a_history_of_two_calls_with_one_id(llm: Ollama, sent: Any) -> None:
    blocks = [ToolCallBlock(tool_call_id="c", tool_name=name, tool_kwargs={}) for name in ("weather", "now")]
    answers = [
        ChatMessage(role="tool", content=text, additional_kwargs={"tool_call_id": "c"}) for text in ("sun", "12")
    ]
    llm.chat([*HI, ChatMessage(role="assistant", blocks=blocks), *answers])
    assert [m["tool_name"] for m in sent()[0]["messages"][2:]] == ["weather", "now"]


async def test_large_integers_round_trip(ollama_server: OllamaServer, llm: Ollama) -> None:
    ollama_server.reply(flawed(call("weather", {"city": BIG})))
    for response in await all_methods(llm):
        assert llm.get_tool_calls_from_response(response)[0].tool_kwargs == {"city": BIG}
        llm.chat([*HI, response.message])
        assert str(BIG).encode() in ollama_server.requests[-1].body


class Options(BaseModel):
    """Options."""

    city: str = "nowhere"


async def test_a_broken_call_makes_no_default_object(ollama_server: OllamaServer, llm: Ollama) -> None:
    ollama_server.reply(flawed(call("Options", "{")))
    llm = llm.model_copy(update={"pydantic_program_mode": PydanticProgramMode.FUNCTION})
    prompt = PromptTemplate("Which?")
    with pytest.raises(OutputValidationError):
        llm.structured_predict(Options, prompt)
    with pytest.raises(OutputValidationError):
        await llm.astructured_predict(Options, prompt)
    with pytest.raises(OutputValidationError):
        list(llm.stream_structured_predict(Options, prompt))
    with pytest.raises(OutputValidationError):
        _ = [item async for item in await llm.astream_structured_predict(Options, prompt)]


async def test_text_beside_a_call_makes_no_default_object(ollama_server: OllamaServer, llm: Ollama) -> None:
    ollama_server.reply(flawed(call("Options", {"city": "Rome"})))
    llm = llm.model_copy(update={"pydantic_program_mode": PydanticProgramMode.FUNCTION})
    prompt = PromptTemplate("Which?")
    assert list(llm.stream_structured_predict(Options, prompt))[-1] == Options(city="Rome")
    items = [item async for item in await llm.astream_structured_predict(Options, prompt)]
    assert items[-1] == Options(city="Rome")
