"""Convert LlamaIndex tools to the core's, and the model's tool calls to LlamaIndex's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llama_index.core.base.llms.types import ChatResponse, ToolCallBlock
from llama_index.core.llms.llm import ToolSelection

from namel3ss_ollama import OutputValidationError

if TYPE_CHECKING:
    from llama_index.core.tools.types import BaseTool

__all__ = ["choice_of", "definitions_of", "force_single_tool_call", "selections"]


def definitions_of(tools: Sequence[BaseTool]) -> list[dict[str, Any]]:
    """The tools' definitions, with names and schemas as LlamaIndex generates them."""
    return [tool.metadata.to_openai_tool(skip_length_check=True) for tool in tools]


def choice_of(tool_choice: Any, *, required: bool) -> str | None:
    """Convert the forms of `tool_choice` that LlamaIndex and its users know to the core's.

    Args:
        tool_choice: None, "auto", "none", "required", "any", a tool's name, or OpenAI's
            `{"type": "function", "function": {"name": ...}}`.
        required: Whether a tool must be called if `tool_choice` is None or "auto".

    Raises:
        ValueError: It is none of these.
    """
    if isinstance(tool_choice, Mapping):
        function = tool_choice.get("function")
        name = function.get("name") if isinstance(function, Mapping) else tool_choice.get("name")
        tool_choice = tool_choice.get("type") if name is None else name
    if tool_choice is None or (required and tool_choice == "auto"):
        return "required" if required else None
    if not isinstance(tool_choice, str):
        raise ValueError(f"tool_choice: expected 'auto', 'required', 'none' or a tool's name, not {tool_choice!r:.80}")
    return "required" if tool_choice == "any" else tool_choice


def force_single_tool_call(response: ChatResponse) -> None:
    """Keep only the first tool call of a response, in both places that have them."""
    message = response.message
    calls = [block for block in message.blocks if isinstance(block, ToolCallBlock)]
    if len(calls) > 1:
        message.blocks = [block for block in message.blocks if block not in calls[1:]]
    plain = message.additional_kwargs.get("tool_calls")
    if isinstance(plain, list) and len(plain) > 1:
        message.additional_kwargs["tool_calls"] = plain[:1]


def selections(response: ChatResponse, *, strict: bool) -> list[ToolSelection]:
    """The tool calls of a response.

    Args:
        response: The answer.
        strict: Whether an invalid call raises. Otherwise it becomes the selection of a tool that does not exist, whose
            name describes the error: an agent answers it with an error, and asks the model again.

    Raises:
        OutputValidationError: A call is invalid, and `strict` is true.
    """
    blocks = (block for block in response.message.blocks if isinstance(block, ToolCallBlock))
    return [_selection(call, index, strict) for index, call in enumerate(blocks)]


def _selection(call: ToolCallBlock, index: int, strict: bool) -> ToolSelection:
    call_id = call.tool_call_id or f"{call.tool_name or 'unknown'}_{index}"
    if call.tool_name and isinstance(call.tool_kwargs, dict):
        return ToolSelection(tool_id=call_id, tool_name=call.tool_name, tool_kwargs=call.tool_kwargs)
    # ToolSelection would convert text to empty arguments, and the tool would run with its defaults.
    problem = (
        f"{call.tool_name!r} with arguments that are not a JSON object" if call.tool_name else "a tool without its name"
    )
    if not strict:
        return ToolSelection(tool_id=call_id, tool_name=problem, tool_kwargs={})
    text = call.tool_kwargs if isinstance(call.tool_kwargs, str) else ""
    raise OutputValidationError(
        f"the model called {problem} ({len(text)} characters, in `text`); ask again, or use a larger model", text=text
    )
