"""Text around an answer: `<think>...</think>` before it, a Markdown fence around JSON. No I/O."""

from __future__ import annotations

import contextlib
import re
from typing import Literal

from namel3ss_ollama.exact import read_json, write_json

__all__ = ["ReasoningSplitter", "json_in", "split_reasoning"]

_BLOCK = re.compile(r"```(?:json)?\s*\n(.*?)\n\s*```", re.DOTALL | re.IGNORECASE)
_OPEN, _CLOSE = "<think>", "</think>"


class ReasoningSplitter:
    """Splits a growing text: reasoning first, then the answer.

    Args:
        within: Whether the text starts within reasoning, as when the prompt ends with the tag.
    """

    __slots__ = ("_held", "state")

    def __init__(self, *, within: bool = False) -> None:
        self.state: Literal["before", "inside", "between", "after"] = "inside" if within else "before"
        self._held = ""

    def feed(self, text: str) -> tuple[str, str]:
        """The part of the text so far that can be passed on, as reasoning and answer; the rest is held back."""
        held = self._held + text
        self._held = ""
        thought = ""
        if self.state == "before":
            held = self._begin(held)
        if self.state == "inside":
            thought, held = self._inside(held)
        if self.state == "between":  # line ends after the reasoning belong to neither
            held = held.lstrip("\n")
            self.state = "after" if held else "between"
        return thought, held if self.state == "after" else ""

    def finish(self) -> tuple[str, str]:
        """The rest that was held back, as reasoning and answer."""
        held, self._held = self._held, ""
        return (held, "") if self.state == "inside" else ("", held)

    def _begin(self, held: str) -> str:
        """The text after the opening tag, or all text if it has none; nothing while that is undecided."""
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
    """The reasoning at the beginning of a complete text, and the rest.

    The opening tag may be missing, because the prompt had it. Unclosed reasoning leaves no rest.
    """
    splitter = ReasoningSplitter()
    thought, rest = splitter.feed(text)
    thought, rest = (a + b for a, b in zip((thought, rest), splitter.finish(), strict=True))
    if not thought and not rest.lstrip().startswith(("{", "[", '"')):  # these start JSON, which may contain the tag
        before, found, behind = rest.partition(_CLOSE)
        return (before, behind.lstrip()) if found else ("", rest)
    return thought, rest


def json_in(text: str) -> str:
    """The JSON in an answer that should be only JSON: without reasoning, a Markdown fence and lone surrogates.

    A text without any of these is returned unchanged.
    """
    found = split_reasoning(text)[1]
    blocks = _BLOCK.findall(found)
    if len(blocks) == 1:
        found = blocks[0]
    if "\\ud" in found.lower():
        with contextlib.suppress(ValueError):
            found = write_json(read_json(found)).decode()
    return found
