"""Resuming an answer that broke off: when that is correct, what to send, and how the texts join. No I/O.

The received text is sent as the assistant's unfinished turn, and the next host continues it. That is correct only for
plain text, and only if the model's template leaves the last turn open: with a template that closes it, the model begins
a new answer, without an error. So the template is checked first, with a turn that ends in white space, which some trim.
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
    """Why an answer to the request can never be resumed; empty if it can."""
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
    """Whether the host or the connection failed, so that another host may continue the answer."""
    if isinstance(error, LLMTimeoutError):
        return error.deadline == "chunk_timeout"
    return isinstance(error, StreamInterruptedError) or (isinstance(error, ServerError) and error.temporary)


def continuation(body: Mapping[str, Any], pieces: Sequence[str]) -> Json | str:
    """The body of a chat that continues an answer, or why there is none.

    The text is sent without trailing white space: some templates trim it, and most tokenizers attach a space to the
    word after it. `Seam` drops what is repeated. The seed is changed, since the random numbers would otherwise repeat;
    it is derived from the old one and the length, so that it is reproducible.

    Args:
        body: The original body.
        pieces: The text that was handed out, one item per chunk.
    """
    text = "".join(pieces).rstrip()
    if not text:
        return {**body, "truncate": False}  # nothing to continue: start over
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "its text has half a character"
    messages = list(body["messages"])
    if messages[-1]["role"] == "assistant":  # servers put a blank line between two such turns
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
    """A lower bound for the tokens of a text that is resumed: a chunk has at least one."""
    kept = len(pieces)
    while kept and not pieces[kept - 1].strip():
        kept -= 1
    return kept


class Seam:
    """Joins the texts of two hosts: white space that was handed out is not repeated.

    Args:
        pieces: The text that was handed out.
    """

    __slots__ = ("_again",)

    def __init__(self, pieces: Sequence[str]) -> None:
        text = "".join(pieces)
        self._again = text[len(text.rstrip()) :]

    @property
    def is_closed(self) -> bool:
        """Whether all further text is new."""
        return not self._again

    def new(self, text: str) -> str:
        """The new part of the next piece."""
        if not text:
            return text
        common = 0
        while common < min(len(text), len(self._again)) and text[common] == self._again[common]:
            common += 1
        self._again = self._again[common:] if common == len(text) else ""
        return text[common:]


# Whether a template leaves the turn open


def rendering(body: Mapping[str, Any]) -> Json:
    """The body of a request that renders an unfinished turn with the model's template.

    It has the answer's options, so that the model is not reloaded; a server without support for the field generates
    one token.
    """
    kept = {name: body[name] for name in ("model", "think", "keep_alive", "shift") if name in body}
    options = {**(body.get("options") or {}), "num_predict": 1}
    return {**kept, "messages": list(_PROBE), "options": options, "stream": False, "_debug_render_only": True}


def is_open(answer: Mapping[str, Any]) -> bool | None:
    """Whether the prompt in the response to `rendering` ends with the unfinished turn; None if it has none."""
    info = answer.get("_debug_info")
    prompt = info.get("rendered_template") if isinstance(info, Mapping) else None
    return _ends_open(prompt) if isinstance(prompt, str) else None


def template_is_open(source: object, think: bool | str | None = None) -> bool | None:
    """The same for a template in Ollama's language, which older servers used for all models; None if not understood.

    Args:
        source: The template.
        think: The request's setting.
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
    # Without its white space is fine, too: no text is sent with trailing white space.
    return prompt.endswith((_SENTINEL, _SENTINEL.rstrip()))
