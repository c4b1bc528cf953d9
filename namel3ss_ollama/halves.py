"""Characters that a server cut in two. No I/O.

Servers in JavaScript cut texts by UTF-16 units, and a character outside the Basic Multilingual Plane has two of them.
A first half at the end of a piece waits for the next line. If that begins with the second half, the two become one
character; otherwise it becomes U+FFFD. Halves anywhere else become U+FFFD at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from namel3ss_ollama.exact import whole_characters

__all__ = ["Halves"]

Json = dict[str, Any]


class Halves:
    """The pending halves of one answer.

    Attributes:
        waiting: Whether there is one; the next line then has to go through `join`.
    """

    __slots__ = ("_content", "_thinking", "waiting")

    def __init__(self) -> None:
        self._content = ""
        self._thinking = ""
        self.waiting = False

    def join(self, line: Json) -> Json:
        """The line with the pending half before it, and without a trailing half.

        Raises:
            ValueError: It is nested too deep.
        """
        last = bool(line.get("done"))
        place = "message" if isinstance(line.get("message"), Mapping) else ""
        message: Json = dict(line["message"]) if place else dict(line)
        name = "content" if place else "response"
        self._content = self._joined(message, name, self._content, last)
        self._thinking = self._joined(message, "thinking", self._thinking, last)
        self.waiting = bool(self._content or self._thinking)
        joined = {**line, "message": message} if place else message
        return cast("Json", whole_characters(joined))

    def _joined(self, message: Json, name: str, before: str, last: bool) -> str:
        """Put the text together in its place; the half at its end."""
        text = message.get(name)
        if text is None and before:
            text = ""
        if not isinstance(text, str):
            return before
        text = before + text
        half = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" and not last else ""
        message[name] = text[: len(text) - len(half)]
        return half
