"""What a model writes around its answer: `<think>...</think>` before it, a fence of Markdown around JSON. No I/O."""

from __future__ import annotations

import contextlib
import re
from typing import Literal

from namel3ss_ollama.exact import read_json, write_json

__all__ = ["ReasoningSplitter", "json_in", "split_reasoning"]

_BLOCK = re.compile(r"```(?:json)?\s*\n(.*?)\n\s*```", re.DOTALL | re.IGNORECASE)
_OPEN, _CLOSE = "<think>", "</think>"


class ReasoningSplitter:
    """Splits a text as it grows: reasoning first, then the answer.

    Args:
        within: Whether the reasoning has begun already, as when the prompt ends with the tag.
    """

    __slots__ = ("_held", "state")

    def __init__(self, *, within: bool = False) -> None:
        self.state: Literal["before", "inside", "between", "after"] = "inside" if within else "before"
        self._held = ""

    def feed(self, text: str) -> tuple[str, str]:
        """What can be handed on of the text so far, as reasoning and answer; the rest is held back."""
        held = self._held + text
        self._held = ""
        thought = ""
        if self.state == "before":
            held = self._begin(held)
        if self.state == "inside":
            thought, held = self._inside(held)
        if self.state == "between":  # the line ends behind the reasoning belong to nothing
            held = held.lstrip("\n")
            self.state = "after" if held else "between"
        return thought, held if self.state == "after" else ""

    def finish(self) -> tuple[str, str]:
        """What was held back at the end, as reasoning and answer."""
        held, self._held = self._held, ""
        return (held, "") if self.state == "inside" else ("", held)

    def _begin(self, held: str) -> str:
        """The rest behind the opening tag, or the text if it has none; nothing while that is open."""
        begin = held.lstrip()
        if begin.startswith(_OPEN):
            self.state = "inside"
            return begin[len(_OPEN) :]
        if _OPEN.startswith(begin):
            self._held = held
            return ""
        self.state = "after"
        return held

    def _inside(self, held: str) -> tuple[str, str]:
        thought, found, rest = held.partition(_CLOSE)
        if found:
            self.state = "between"
            return thought, rest
        kept = next((n for n in range(len(_CLOSE) - 1, 0, -1) if thought.endswith(_CLOSE[:n])), 0)
        cut = len(thought) - kept
        self._held = thought[cut:]
        return thought[:cut], ""


def split_reasoning(text: str) -> tuple[str, str]:
    """The reasoning at the beginning of a whole text, and the rest.

    A text may lack the opening tag, because the prompt had it. Reasoning that does not end leaves no rest.
    """
    splitter = ReasoningSplitter()
    thought, rest = splitter.feed(text)
    thought, rest = (a + b for a, b in zip((thought, rest), splitter.finish(), strict=True))
    if not thought and not rest.lstrip().startswith(("{", "[", '"')):  # those begin JSON, which may hold the tag
        before, found, behind = rest.partition(_CLOSE)
        return (before, behind.lstrip()) if found else ("", rest)
    return thought, rest


def json_in(text: str) -> str:
    """The JSON in an answer that should be nothing else: without reasoning, a fence of Markdown, halves of characters.

    A text that has none of these comes back as it is.
    """
    found = split_reasoning(text)[1]
    blocks = _BLOCK.findall(found)
    if len(blocks) == 1:
        found = blocks[0]
    if "\\ud" in found.lower():
        with contextlib.suppress(ValueError):
            found = write_json(read_json(found)).decode()
    return found
