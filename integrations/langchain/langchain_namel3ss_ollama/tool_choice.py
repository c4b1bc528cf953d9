"""Convert LangChain's forms of `tool_choice` to the core's: None, "none", "required" or a tool's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["core_tool_choice", "tool_name"]

_WORDS: dict[Any, str | None] = {
    None: None, False: None, "auto": None, "none": "none", True: "required", "any": "required", "required": "required",
}  # fmt: skip


def core_tool_choice(choice: Any, tools: Sequence[Mapping[str, Any]] = ()) -> str | None:
    """The core's form.

    Args:
        choice: None or "auto" (the model decides), "none", "any", "required" or True (any tool), a tool's name, or a
            dict in the form of OpenAI (`{"type": "function", "function": {"name": ...}}`) or Anthropic
            (`{"type": "tool", "name": ...}`).
        tools: The definitions of the tools that a name may refer to.

    Raises:
        ValueError: It is none of these, or names an unknown tool.
    """
    if isinstance(choice, Mapping):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, Mapping) else choice.get("name")
        choice = name if name is not None else choice.get("type")
    if choice is None or isinstance(choice, bool) or choice in _WORDS:
        return _WORDS[choice]
    known = [tool_name(tool) for tool in tools]
    if isinstance(choice, str) and choice in known:
        return choice
    raise ValueError(
        f"tool_choice: {choice!r} is neither 'auto', 'any', 'none' nor one of the tools ({', '.join(known) or 'none'})"
    )


def tool_name(tool: Mapping[str, Any]) -> str:
    """The name in a tool definition, in either of the two forms."""
    function = tool.get("function")
    return str((function if isinstance(function, Mapping) else tool).get("name"))
