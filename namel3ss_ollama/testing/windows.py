"""How a server handles an input longer than the context window: the rules of old and new versions.

Read from Ollama's source; each rule names the file, and `versions.py` the versions. Nothing here does I/O. Tokens are
those of `tokens_of`, without a template and without special tokens, so a text to embed may fill the window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from . import versions
from .answers import dumps, llama_server_error
from .media import media_in, media_tokens
from .models import Model
from .replies import Reply, tokens_of
from .values import as_list, as_object

__all__ = [
    "TooLong",
    "Window",
    "bounded",
    "default_context_length",
    "fitting_messages",
    "fitting_prompt",
    "fitting_text",
    "seen_prompt",
    "shortened",
    "window_of",
]

_NUM_KEEP = 4  # api.DefaultOptions in api/types.go
_SMALLEST = 4  # server/sched.go raises a smaller num_ctx to this


class TooLong(Exception):
    """The server refuses an input as too long, with status 400 and this text."""


class Window(NamedTuple):
    """The context window of a request: its length in tokens, and the version whose rules apply."""

    length: int
    version: str


def default_context_length(version: str) -> int:
    """The window in tokens if neither request nor model set one and OLLAMA_CONTEXT_LENGTH is unset.

    envconfig/config.go: 2048, and 4096 since 0.6.7. Since 0.15.5 it is 4096, 32768 or 262144, depending on the video
    memory; here as on a machine without any.
    """
    return 4096 if versions.WINDOW_4096.on(version) else 2048


def window_of(payload: Mapping[str, object], model: Model, version: str, context_length: int | None) -> Window:
    """The window of a request: `num_ctx` of its options, of the model's parameters, or the server's own setting.

    It is never longer than the model's context length (llm/server.go, server/sched.go).
    """
    wanted = as_object(payload.get("options")).get("num_ctx")
    if wanted is None:
        for line in model.parameters.splitlines():
            name, _, value = line.partition(" ")
            if name == "num_ctx" and value.strip().isdigit():
                wanted = int(value)
    if not isinstance(wanted, (int, float)):
        wanted = default_context_length(version) if context_length is None else context_length
    return Window(min(max(int(wanted), _SMALLEST), model.context_length), version)


def seen_prompt(
    payload: Mapping[str, object], text: str, kept: Sequence[object], chat: bool, window: Window
) -> list[str]:
    """The tokens of a prompt or a chat that the model gets; `text` is the complete input. Raises `TooLong`.

    The tools, as `kept` by the server, come first as a line of JSON, where templates put them. The tokens of images and
    audio are empty.
    """
    messages = as_list(payload.get("messages"))
    tools = tokens_of(dumps(list(kept)) + "\n") if kept else []
    if chat and _may_cut(payload, window):
        messages = fitting_messages(messages, window.length - len(tools))
        text = _written(messages)
    media = [""] * sum(map(media_tokens, media_in(payload, messages)))
    return fitting_prompt([*tools, *media, *tokens_of(text)], payload, window)


def _written(messages: Sequence[object]) -> str:
    contents = [as_object(one).get("content") for one in messages]
    return "\n".join(one for one in contents if isinstance(one, str))


def _may_cut(payload: Mapping[str, object], window: Window) -> bool:
    return not (versions.TRUNCATE.on(window.version) and payload.get("truncate") is False)


def _may_shift(payload: Mapping[str, object], window: Window) -> bool:
    return not (versions.SHIFT.on(window.version) and payload.get("shift") is False)


def fitting_messages(messages: Sequence[object], window: int) -> list[object]:
    """A chat without the oldest messages that do not fit; system messages and the last one stay.

    server/prompt.go, chatPrompt: the same in 0.9.3 and 0.33.0.
    """
    for start in range(len(messages)):
        system = [one for one in messages[:start] if as_object(one).get("role") == "system"]
        kept = [*system, *messages[start:]]
        if start == len(messages) - 1 or len(tokens_of(_written(kept))) <= window:
            return kept
    return list(messages)


def fitting_prompt(tokens: Sequence[str], payload: Mapping[str, object], window: Window) -> list[str]:
    """The prompt that the runner gets: if it is too long, its first `num_keep` tokens and its end.

    Before 0.30.0 it is truncated to the window (runner/ollamarunner/runner.go, NewSequence). llama-server, which Ollama
    uses since 0.30.0, needs one token left for the answer; since 0.30.11, truncation frees half of the window
    (llm/llama_server.go, completionPromptForRequest).
    """
    length, version = window
    limit = length - 1 if versions.LLAMA_SERVER.on(version) else length
    if len(tokens) <= limit:
        return list(tokens)
    if not _may_cut(payload, window):
        raise TooLong(_refusal(len(tokens), window))
    if versions.SHIFT_REFUSES.on(version) and not _may_shift(payload, window):
        raise TooLong(
            "the prompt is longer than the context length currently available to the model; shorten the prompt, "
            "adjust the context length in settings, or use a model with a longer context length"
        )
    keep = as_object(payload.get("options")).get("num_keep", _NUM_KEEP)
    keep = keep if isinstance(keep, int) and keep >= 0 else len(tokens)
    keep = min(keep, length - 1)
    if versions.HALF_WINDOW.on(version):
        limit = length - max((length - keep) // 2, 1)
    return [*tokens[:keep], *tokens[len(tokens) - (limit - keep) :]]


def _refusal(count: int, window: Window) -> str:
    """The answer to `truncate: false`: the runner's text, or llama-server's unchanged JSON (llm/llama_server.go)."""
    if not versions.LLAMA_SERVER.on(window.version):
        return "the input length exceeds the context length"
    message = f"request ({count} tokens) exceeds the available context size ({window.length} tokens), try increasing it"
    return llama_server_error(message, 400, "exceed_context_size_error", n_prompt_tokens=count, n_ctx=window.length)


def shortened(reply: Reply, payload: Mapping[str, object], prompt: int, window: Window) -> Reply:
    """A reply truncated to the room in the window after `prompt` tokens, if the request says `shift: false`.

    Otherwise the server drops the oldest half of its context and continues, and the counts keep growing
    (runner/ollamarunner/runner.go since 0.12.6, llama-server's --context-shift since 0.30.0).
    """
    if _may_shift(payload, window):
        return reply
    return _beginning(reply, max(window.length - prompt, 0))


def bounded(reply: Reply, window: Window) -> Reply:
    """A reply truncated to the server's limit for an answer, whatever `num_predict` says."""
    return _beginning(reply, 10 * window.length) if versions.NUM_PREDICT_BOUND.on(window.version) else reply


def _beginning(reply: Reply, room: int) -> Reply:
    """The beginning of a reply that fits, in tokens."""
    thinking, words = tokens_of(reply.thinking), tokens_of(reply.text)
    if len(thinking) + len(words) + len(reply.calls) <= room:
        return reply
    thinking = thinking[:room]
    words = words[: room - len(thinking)]
    calls = reply.calls[: room - len(thinking) - len(words)]
    return replace(reply, thinking=thinking, text=words, tool_calls=calls, done_reason="length")


def fitting_text(text: str, cut: bool, window: Window) -> list[str]:
    """The tokens of a text to embed: as many of the first ones as fit. Raises `TooLong` if `cut` is false.

    server/routes.go, EmbedHandler: the error text changed in 0.12.0 and in 0.13.3.
    """
    tokens = tokens_of(text)
    if len(tokens) <= window.length or cut:
        return tokens[: window.length]
    if versions.EMBED_RUNNER_WORDS.on(window.version):
        raise TooLong("the input length exceeds the context length")
    length = "" if versions.EMBED_WORDS.on(window.version) else " length"
    raise TooLong(f"input{length} exceeds maximum context length")
