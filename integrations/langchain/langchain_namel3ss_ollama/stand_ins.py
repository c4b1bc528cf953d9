"""Stand-ins for invalid tool calls, so that an agent reports them to the model and continues.

A graph (`create_agent`, LangGraph's `ToolNode`) reads only `tool_calls`: a turn with nothing but invalid calls ends it,
with an empty last message. So inside a graph each invalid call gets a valid stand-in, with the same id, no arguments,
and a name that no tool has and that describes the error. The graph answers it with an error that quotes the name, and
asks the model again. In the next request the stand-in is dropped, because the invalid call is sent.
"""

from __future__ import annotations

from collections.abc import Iterable

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables.config import ensure_config

from langchain_namel3ss_ollama.arguments import BrokenCall
from namel3ss_ollama import LLMResponse, StreamChunk, ToolCall

__all__ = ["WantedCalls", "in_graph", "names_of_stand_ins", "stand_in"]


class WantedCalls:
    """Selects the tool calls of one answer to pass on, for a stream or a complete response.

    Args:
        stand_ins: Whether to add a stand-in for each invalid call.
        most: How many calls to pass on, not counting stand-ins; None for all.
    """

    __slots__ = ("_left", "_stand_ins")

    def __init__(self, *, stand_ins: bool = False, most: int | None = None) -> None:
        self._stand_ins = stand_ins
        self._left = most

    def of(self, answer: StreamChunk | LLMResponse) -> list[BrokenCall]:
        """The calls of a chunk or response, each invalid one followed by its stand-in if enabled."""
        made: tuple[BrokenCall, ...] = (*answer.tool_calls, *answer.invalid_tool_calls)
        found = made[: self._left]
        if self._left is not None:
            self._left -= len(found)
        calls: list[BrokenCall] = []
        for call in found:
            calls.append(call)
            if self._stand_ins and call.error is not None:
                calls.append(stand_in(call))
        return calls


def in_graph() -> bool:
    """Whether the model runs inside a node of a LangGraph graph."""
    return "langgraph_node" in (ensure_config().get("metadata") or {})


def stand_in(call: BrokenCall) -> ToolCall:
    """The stand-in for an invalid call."""
    return ToolCall(_name(call.name if isinstance(call, ToolCall) else None), {}, call.id)


def names_of_stand_ins(messages: Iterable[BaseMessage]) -> set[str]:
    """The names of all stand-ins that may be in the messages."""
    return {
        _name(call.get("name"))
        for message in messages
        if isinstance(message, AIMessage)
        for call in message.invalid_tool_calls
    }


def _name(tool: str | None) -> str:
    return f"{tool} (the arguments are not a JSON object)" if tool else "unknown (the call names no tool)"
