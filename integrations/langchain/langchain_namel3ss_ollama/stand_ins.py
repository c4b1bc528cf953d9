"""Calls that stand in for those that cannot be made, so that an agent hears of them and goes on.

A graph (`create_agent`, LangGraph's `ToolNode`) looks at `tool_calls` alone: a turn with nothing but invalid calls ends
it, with an empty last message. So within a graph each invalid call gets a valid one beside it, with its id, without
arguments, and with a name that no tool has and that says what is wrong. The graph answers it with an error that
quotes the name, and asks the model again. On the way back the stand-in is left out, for the invalid call is there.
"""

from __future__ import annotations

from collections.abc import Iterable

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables.config import ensure_config

from langchain_namel3ss_ollama.arguments import BrokenCall
from namel3ss_ollama import LLMResponse, StreamChunk, ToolCall

__all__ = ["WantedCalls", "in_graph", "names_of_stand_ins", "stand_in"]


class WantedCalls:
    """Which calls of tools are passed on, of one answer that comes in pieces or as a whole.

    Args:
        stand_ins: Whether calls that cannot be made get others that stand in for them.
        most: How many calls are passed on, stand-ins apart; None for all.
    """

    __slots__ = ("_left", "_stand_ins")

    def __init__(self, *, stand_ins: bool = False, most: int | None = None) -> None:
        self._stand_ins = stand_ins
        self._left = most

    def of(self, answer: StreamChunk | LLMResponse) -> list[BrokenCall]:
        """The calls of a piece; behind each that cannot be made, if asked for, its stand-in."""
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
    """Whether a node of a LangGraph graph runs the model."""
    return "langgraph_node" in (ensure_config().get("metadata") or {})


def stand_in(call: BrokenCall) -> ToolCall:
    """The call that stands in for one that cannot be made."""
    return ToolCall(_name(call.name if isinstance(call, ToolCall) else None), {}, call.id)


def names_of_stand_ins(messages: Iterable[BaseMessage]) -> set[str]:
    """The names of all stand-ins that messages may hold."""
    return {
        _name(call.get("name"))
        for message in messages
        if isinstance(message, AIMessage)
        for call in message.invalid_tool_calls
    }


def _name(tool: str | None) -> str:
    return f"{tool} (the arguments are not a JSON object)" if tool else "unknown (the call names no tool)"
