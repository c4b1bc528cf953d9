"""Typical uses of the provider and of both adapters, as tests against a given server."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool as langchain_tool
from llama_index.core.base.llms.types import ChatMessage, ThinkingBlock, ToolCallBlock
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

from langchain_namel3ss_ollama import ChatOllama, OllamaEmbeddings
from llama_index.embeddings.namel3ss_ollama import OllamaEmbedding
from llama_index.llms.namel3ss_ollama import Ollama
from namel3ss_ollama import ContextWindowExceededError, OllamaProvider
from namel3ss_ollama.testing import OllamaServer, ToolCall

__all__ = ["FRONTS", "SCENARIOS", "Front", "Scenario"]

CHAT, THINKS, EMBEDS = "llama3.2", "qwen3", "all-minilm"
HISTORY = [f"{number}: the keeper of the lighthouse wrote down the weather." for number in range(81)]
WINDOW = 512


class City(BaseModel):
    """A city."""

    name: str
    people: int


def weather(city: str) -> str:
    """The weather in a city."""
    return f"Sunny in {city}."


class Answer(NamedTuple):
    """An answer: its text, its reasoning, its tool calls as name, arguments and id, and its metadata."""

    text: str
    reasoning: str
    calls: Sequence[tuple[str, Mapping[str, Any], str | None]]
    metadata: Mapping[str, Any]


class Front(Protocol):
    """An interface under test: the provider or an adapter."""

    def __init__(self, server: OllamaServer, model: str = CHAT, **settings: Any) -> None: ...

    def chat(self, texts: Sequence[str]) -> Answer:
        """A chat whose messages are alternately the user's and the assistant's."""
        ...

    def stream(self, text: str) -> list[str]:
        """The texts of an answer's chunks."""
        ...

    def offer(self, text: str) -> Answer:
        """A question, with the tool `weather` available."""
        ...

    def return_result(self, text: str, answer: Answer) -> Answer:
        """The same question, with the call and its result."""
        ...

    def force(self, text: str) -> Answer:
        """A question whose answer must call `weather`."""
        ...

    def structured(self, text: str) -> object:
        """An answer as a `City`."""
        ...

    def embed(self, texts: list[str]) -> list[list[float]]:
        """Vectors of texts."""
        ...


class Provider:
    """`OllamaProvider`."""

    def __init__(self, server: OllamaServer, model: str = CHAT, **settings: Any) -> None:
        self._of = OllamaProvider(model, server.url, **settings)

    @staticmethod
    def _answer(response: Any) -> Answer:
        calls = [(call.name, call.arguments, call.id) for call in response.tool_calls]
        metadata = {"truncated_prompt": response.truncated_prompt}
        return Answer(response.content, response.thinking or "", calls, metadata)

    def chat(self, texts: Sequence[str]) -> Answer:
        roles = ["user", "assistant"] * len(texts)
        turns = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
        return self._answer(self._of.chat(turns))

    def stream(self, text: str) -> list[str]:
        return [chunk.content for chunk in self._of.stream([{"role": "user", "content": text}])]

    def offer(self, text: str) -> Answer:
        return self._answer(self._of.chat([{"role": "user", "content": text}], tools=[weather]))

    def return_result(self, text: str, answer: Answer) -> Answer:
        name, arguments, call_id = answer.calls[0]
        call = {"function": {"name": name, "arguments": arguments}, **({"id": call_id} if call_id else {})}
        turns = [
            {"role": "user", "content": text},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": weather(**arguments), "tool_name": name},
        ]
        return self._answer(self._of.chat(turns, tools=[weather]))

    def force(self, text: str) -> Answer:
        return self._answer(self._of.chat([{"role": "user", "content": text}], tools=[weather], tool_choice="weather"))

    def structured(self, text: str) -> object:
        return self._of.chat([{"role": "user", "content": text}], format=City).parsed

    def embed(self, texts: list[str]) -> list[list[float]]:
        return self._of.sync.embed(texts).embeddings


class LangChain:
    """`ChatOllama` and `OllamaEmbeddings`."""

    def __init__(self, server: OllamaServer, model: str = CHAT, **settings: Any) -> None:
        think = settings.pop("think", None)
        more = {} if think is None else {"reasoning": think}
        self._of = ChatOllama(model=model, base_url=server.url, **settings, **more)
        self._vectors = OllamaEmbeddings(model=EMBEDS, base_url=server.url)

    @staticmethod
    def _answer(message: Any) -> Answer:
        calls = [(call["name"], call["args"], call["id"]) for call in message.tool_calls]
        reasoning = message.additional_kwargs.get("reasoning_content", "")
        return Answer(message.text, reasoning, calls, message.response_metadata)

    def chat(self, texts: Sequence[str]) -> Answer:
        turns = [(AIMessage if number % 2 else HumanMessage)(text) for number, text in enumerate(texts)]
        return self._answer(self._of.invoke(turns))

    def stream(self, text: str) -> list[str]:
        return [chunk.text for chunk in self._of.stream(text)]

    def offer(self, text: str) -> Answer:
        return self._answer(self._of.bind_tools([langchain_tool(weather)]).invoke(text))

    def return_result(self, text: str, answer: Answer) -> Answer:
        name, arguments, call_id = answer.calls[0]
        called = AIMessage("", tool_calls=[{"name": name, "args": dict(arguments), "id": call_id}])
        result = ToolMessage(weather(**arguments), tool_call_id=call_id or "", name=name)
        return self._answer(self._of.bind_tools([langchain_tool(weather)]).invoke([HumanMessage(text), called, result]))

    def force(self, text: str) -> Answer:
        return self._answer(self._of.bind_tools([langchain_tool(weather)], tool_choice="weather").invoke(text))

    def structured(self, text: str) -> object:
        return self._of.with_structured_output(City).invoke(text)

    def embed(self, texts: list[str]) -> list[list[float]]:
        return self._vectors.embed_documents(texts)


class LlamaIndex:
    """`Ollama` and `OllamaEmbedding`."""

    def __init__(self, server: OllamaServer, model: str = CHAT, **settings: Any) -> None:
        think = settings.pop("think", None)
        more = {} if think is None else {"thinking": think}
        if "num_ctx" in settings:
            more["context_window"] = settings.pop("num_ctx")
        self._of = Ollama(model=model, base_url=server.url, **settings, **more)
        self._vectors = OllamaEmbedding(model_name=EMBEDS, base_url=server.url)

    @staticmethod
    def _answer(response: Any) -> Answer:
        blocks = response.message.blocks
        calls = [(one.tool_name, one.tool_kwargs, one.tool_call_id) for one in blocks if isinstance(one, ToolCallBlock)]
        reasoning = "".join(one.content or "" for one in blocks if isinstance(one, ThinkingBlock))
        return Answer(response.message.content or "", reasoning, calls, response.raw)

    def chat(self, texts: Sequence[str]) -> Answer:
        turns = [ChatMessage(text, role="assistant" if number % 2 else "user") for number, text in enumerate(texts)]
        return self._answer(self._of.chat(turns))

    def stream(self, text: str) -> list[str]:
        return [one.delta or "" for one in self._of.stream_chat([ChatMessage(text)])]

    def offer(self, text: str) -> Answer:
        return self._answer(self._of.chat_with_tools([FunctionTool.from_defaults(weather)], user_msg=text))

    def return_result(self, text: str, answer: Answer) -> Answer:
        name, arguments, call_id = answer.calls[0]
        called = ToolCallBlock(tool_name=name, tool_kwargs=dict(arguments), tool_call_id=call_id)
        turns = [
            ChatMessage(text),
            ChatMessage(role="assistant", blocks=[called]),
            ChatMessage(weather(**arguments), role="tool", additional_kwargs={"tool_call_id": call_id, "name": name}),
        ]
        return self._answer(self._of.chat_with_tools([FunctionTool.from_defaults(weather)], chat_history=turns))

    def force(self, text: str) -> Answer:
        tools = [FunctionTool.from_defaults(weather)]
        return self._answer(self._of.chat_with_tools(tools, user_msg=text, tool_choice="weather"))

    def structured(self, text: str) -> object:
        return self._of.structured_predict(City, PromptTemplate(text))

    def embed(self, texts: list[str]) -> list[list[float]]:
        return self._vectors.get_text_embedding_batch(texts)


FRONTS: Mapping[str, type[Front]] = {"provider": Provider, "LangChain": LangChain, "LlamaIndex": LlamaIndex}


class Scenario(NamedTuple):
    """A use: its name, its description on the page, and its test."""

    name: str
    about: str
    run: Callable[[type[Front], OllamaServer, pytest.LogCaptureFixture], None]


def chat(front: type[Front], server: OllamaServer, caplog: pytest.LogCaptureFixture) -> None:
    server.reply("Rome is sunny.")
    assert front(server).chat(["The weather?"]).text == "Rome is sunny."
    assert caplog.records == []


def stream(front: type[Front], server: OllamaServer, caplog: pytest.LogCaptureFixture) -> None:
    server.reply(["Rome", " is", " sunny."])
    pieces = front(server).stream("The weather?")
    assert [one for one in pieces if one] == ["Rome", " is", " sunny."]


def tools(front: type[Front], server: OllamaServer, caplog: pytest.LogCaptureFixture) -> None:
    server.reply(tool_calls=[ToolCall("weather", {"city": "Rome"})], times=1)
    server.reply("It is sunny.")
    asked = front(server)
    answer = asked.offer("The weather in Rome?")
    assert [(name, dict(arguments)) for name, arguments, _ in answer.calls] == [("weather", {"city": "Rome"})]
    assert asked.return_result("The weather in Rome?", answer).text == "It is sunny."
    *_, called, result = server.requests[-1].payload["messages"]  # type: ignore[misc] # typed as object: any JSON; here a list
    assert (called["tool_calls"][0]["function"]["name"], result["role"]) == ("weather", "tool")
    assert result["content"] == "Sunny in Rome."


def forced_tool(front: type[Front], server: OllamaServer, caplog: pytest.LogCaptureFixture) -> None:
    answer = front(server).force("The weather in Rome?")
    assert [(name, dict(arguments)) for name, arguments, _ in answer.calls] == [("weather", {"city": ""})]


def structured(front: type[Front], server: OllamaServer, caplog: pytest.LogCaptureFixture) -> None:
    server.reply('{"name": "Rome", "people": 3}', times=1)
    assert front(server).structured("Rome") == City(name="Rome", people=3)
    assert front(server).structured("Rome") == City(name="", people=0)  # the smallest object that the grammar allows


def thinking(front: type[Front], server: OllamaServer, caplog: pytest.LogCaptureFixture) -> None:
    server.reply("Sunny.", thinking="It is summer.", contains="weather")
    answer = front(server, THINKS, think=True).chat(["The weather?"])
    assert (answer.text, answer.reasoning) == ("Sunny.", "It is summer.")
    assert front(server, THINKS, think=False).chat(["Hello."]).reasoning == ""
    front(server, THINKS).chat(["Hello."])  # whether it thinks depends on the version
    assert "think" not in server.requests[-1].payload


def embed(front: type[Front], server: OllamaServer, caplog: pytest.LogCaptureFixture) -> None:
    one, two, three = front(server, EMBEDS).embed(["a", "b", "a"])
    assert one == three != two
    assert len(one) == 384


def cut_warns(front: type[Front], server: OllamaServer, caplog: pytest.LogCaptureFixture) -> None:
    answer = front(server, num_ctx=WINDOW).chat(HISTORY)
    assert answer.metadata["truncated_prompt"] is True
    assert [one.levelno for one in caplog.records if "was cut to the context window" in one.message] == [
        logging.WARNING
    ]


def cut_raises(front: type[Front], server: OllamaServer, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ContextWindowExceededError) as caught:
        front(server, num_ctx=WINDOW, on_truncation="error").chat(HISTORY)
    assert caught.value.window == WINDOW


SCENARIOS = (
    Scenario("chat", "a chat", chat),
    Scenario("stream", "a stream, piece by piece", stream),
    Scenario("tools", "a tool that the model calls, and its result told to it", tools),
    Scenario("forced tool", "a tool that it is made to call (`tool_choice`)", forced_tool),
    Scenario("structured", "an answer in the form of a pydantic class", structured),
    Scenario("thinking", "thinking asked for, forbidden, and left to the model", thinking),
    Scenario("embed", "embeddings", embed),
    Scenario("cut warns", "a chat that is too long: a warning, and `truncated_prompt`", cut_warns),
    Scenario("cut raises", 'the same with `on_truncation="error"`: `ContextWindowExceededError`', cut_raises),
)
