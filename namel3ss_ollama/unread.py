"""The errors of a server that cannot parse the tool call that its model wrote. Pure functions over texts.

The server asks the model for text and parses the calls in it. Where that fails, the text is lost: what is left is an
error, which in some cases quotes the call.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["UnreadCall", "unread_call"]

_QUOTED = re.compile(r"error parsing tool call: raw='(.*)', err=(.*)", re.DOTALL)
"""ollama: harmony/harmonyparser.go. The call may hold quotation marks of its own."""
_QUOTED_IN_PART = re.compile(r"(error parsing tool call): raw='(.*)", re.DOTALL)
"""The same, cut before its end."""
_QUOTED_REST = re.compile(r"(failed to parse input at pos \d+): (.*)", re.DOTALL | re.IGNORECASE)
"""llama.cpp: common/chat.cpp. It quotes what its parser did not take, to the end of the answer."""
_UNREAD = re.compile(
    r"error parsing tool call|"  # ollama: harmony/harmonyparser.go, and 0.11's
    r"failed to parse input at pos|"  # llama.cpp: common/chat.cpp
    r"llama-server returned invalid tool call arguments|"  # ollama 0.30: llm/llama_server.go
    # ollama: model/parsers, qwen3coder.go, qwen3.go, glm46.go, laguna.go, ministral.go
    r"XML syntax error on line|expected element type <|failed to parse (XML|JSON):|empty function name$|"
    r"incomplete GLM tool call|mismatched arg_key and arg_value|required argument \".*\" is missing for tool|"
    r"tool \".*\" is not declared$|tool '.*' not found$|failed to parse Laguna JSON tool call|empty Laguna tool call",
    re.IGNORECASE,
)


class UnreadCall(NamedTuple):
    """A tool call that a server could not parse.

    Attributes:
        reason: The server's reason, without the call.
        text: The call as the model wrote it; empty if the server does not quote it.
    """

    reason: str
    text: str


def unread_call(said: str) -> UnreadCall | None:
    """The tool call that a server reports as unreadable; None for other errors."""
    said = said.strip()
    if _UNREAD.match(said) is None:
        return None
    if found := _QUOTED.match(said):
        return UnreadCall(found[2], found[1])
    if found := _QUOTED_IN_PART.match(said) or _QUOTED_REST.match(said):
        return UnreadCall(found[1], found[2])
    return UnreadCall(said, "")
