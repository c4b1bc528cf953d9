"""Going on with an answer that broke off: when that is right, what to send, and where the texts meet. No I/O.

What had come is sent as the assistant's unfinished turn, and the next host goes on from there. That is right only for
plain text, and only where the model's template leaves the last turn open: one that closes it has the model begin a new
answer, without an error. So a template is looked at first, with a turn that ends in white space, which some cut off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from namel3ss_ollama.errors import LLMError, LLMTimeoutError, ServerError, StreamInterruptedError
from namel3ss_ollama.request import Request

__all__ = [
    "CLOSED",
    "Seam",
    "breaks_off",
    "continuation",
    "is_open",
    "never",
    "rendering",
    "template_is_open",
    "tokens_at_least",
]

Json = dict[str, Any]
CLOSED = "the model's template closes the turn"
_SENTINEL = "Seven, eight,\n "
_PROBE = ({"role": "user", "content": "Count."}, {"role": "assistant", "content": _SENTINEL})
_PLAIN = frozenset({"role", "content", "thinking"})
_LARGEST_SEED = 2**31


def never(request: Request) -> str:
    """Why an answer to the request is never gone on with; empty where it may be."""
    body = request.body
    if request.kind != "chat":
        return "only a chat is"
    if request.wants_json:
        return "a grammar would begin again"
    if body.get("tools"):
        return "it has tools"
    if body.get("think"):
        return "the model thinks"
    if body.get("logprobs"):
        return "it has logprobs"
    messages: Sequence[Mapping[str, Any]] = body["messages"]
    others = sorted(set().union(*messages) - _PLAIN)
    if others:
        return f"its messages have {others[0]}"
    if messages[-1].get("thinking"):
        return "the turn to go on with has thinking"
    return ""


def breaks_off(error: LLMError) -> bool:
    """Whether a failure is of the host or of the way to it, so that the rest of an answer may come from another."""
    if isinstance(error, LLMTimeoutError):
        return error.deadline == "chunk_timeout"
    return isinstance(error, StreamInterruptedError) or (isinstance(error, ServerError) and error.temporary)


def continuation(body: Mapping[str, Any], pieces: Sequence[str]) -> Json | str:
    """The body of a chat that goes on with an answer, or why there is none.

    The text is sent without the white space at its end: some templates cut that, and to the tokens of most models a
    word begins with its blank. `Seam` drops what comes again. Another seed, since the random numbers would begin with
    those that the text has used; it follows from the old one and the length, so that it is the same the next time.

    Args:
        body: What was asked for.
        pieces: The text that was handed out, a chunk each.
    """
    text = "".join(pieces).rstrip()
    if not text:
        return {**body, "truncate": False}  # nothing to go on with: it begins again
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "its text has half a character"
    messages = list(body["messages"])
    if messages[-1]["role"] == "assistant":  # servers put a blank line between two of these
        messages[-1] = {**messages[-1], "content": messages[-1]["content"] + text}
    else:
        messages.append({"role": "assistant", "content": text})
    received = tokens_at_least(pieces)
    options = dict(body.get("options") or {})
    most = options.get("num_predict")
    if most is not None and most > 0:
        if most <= received:
            return "max_tokens were reached"
        options["num_predict"] = most - received
    seed = options.get("seed")
    if seed is not None and seed >= 0:
        options["seed"] = (seed + received) % _LARGEST_SEED
    return {**body, "messages": messages, "truncate": False, **({"options": options} if options else {})}


def tokens_at_least(pieces: Sequence[str]) -> int:
    """How many tokens of a text are kept when it is gone on with: a chunk has one at least."""
    kept = len(pieces)
    while kept and not pieces[kept - 1].strip():
        kept -= 1
    return kept


class Seam:
    """Where the texts of two hosts meet: white space that was handed out is not handed out again.

    Args:
        pieces: The text that was handed out.
    """

    __slots__ = ("_again",)

    def __init__(self, pieces: Sequence[str]) -> None:
        text = "".join(pieces)
        self._again = text[len(text.rstrip()) :]

    @property
    def is_closed(self) -> bool:
        """Whether all that follows is new."""
        return not self._again

    def new(self, text: str) -> str:
        """What is new of the next piece."""
        if not text:
            return text
        common = 0
        while common < min(len(text), len(self._again)) and text[common] == self._again[common]:
            common += 1
        self._again = self._again[common:] if common == len(text) else ""
        return text[common:]


# Whether a template leaves the turn open


def rendering(body: Mapping[str, Any]) -> Json:
    """The body of a request for the prompt that a model's template makes of a turn that is not finished.

    The options are those of the answer, so that the model is not loaded again; a server that does not know the field
    writes one token.
    """
    kept = {name: body[name] for name in ("model", "think", "keep_alive", "shift") if name in body}
    options = {**(body.get("options") or {}), "num_predict": 1}
    return {**kept, "messages": list(_PROBE), "options": options, "stream": False, "_debug_render_only": True}


def is_open(answer: Mapping[str, Any]) -> bool | None:
    """Whether the prompt in the answer to `rendering` ends with the unfinished turn; None where it has none."""
    info = answer.get("_debug_info")
    prompt = info.get("rendered_template") if isinstance(info, Mapping) else None
    return _ends_open(prompt) if isinstance(prompt, str) else None


def template_is_open(source: object, think: bool | str | None = None) -> bool | None:
    """The same by a template in Ollama's language, as servers had it for all models; None where it is not understood.

    Args:
        source: The template.
        think: What the request says.
    """
    from namel3ss_ollama.embedded.gotemplate import TemplateError
    from namel3ss_ollama.embedded.prompts import go_prompt

    if not isinstance(source, str) or not source:
        return None
    try:
        return _ends_open(go_prompt(source, _PROBE, think=think))
    except TemplateError:
        return None


def _ends_open(prompt: str) -> bool:
    # Without its white space does as well: no text is sent with any at its end.
    return prompt.endswith((_SENTINEL, _SENTINEL.rstrip()))
