"""Resuming an interrupted answer: the rules, the request, and how the texts are joined."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from namel3ss_ollama import (
    LLMError,
    LLMTimeoutError,
    MalformedResponseError,
    ServerError,
    StreamConfig,
    StreamInterruptedError,
)
from namel3ss_ollama.prepare import Defaults, chat_request, generate_request
from namel3ss_ollama.resume import (
    Seam,
    breaks_off,
    continuation,
    is_open,
    never,
    rendering,
    template_is_open,
    tokens_at_least,
)
from namel3ss_ollama.testing.replies import tokens_of
from namel3ss_ollama.types import usage_of

ASK = [{"role": "user", "content": "count"}]
DEFAULTS = Defaults("m", {}, StreamConfig(), None, "warn")
SPACE = st.sampled_from([" ", "\n", "\n\n", "\t", "  ", " \n", "\u00a0", "\u3000"])
WORD = st.text(st.characters(exclude_categories=("Cs", "Z", "Cc")), min_size=1, max_size=6).filter(str.strip)


def tool() -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


# What is resumed


@pytest.mark.parametrize("call", [{}, {"think": False}, {"seed": 1, "max_tokens": 5, "stop": ["x"]}])
def test_plain_text_is_resumed(call: dict[str, Any]) -> None:
    assert never(chat_request(DEFAULTS, ASK, call)) == ""


@pytest.mark.parametrize(
    ("call", "why"),
    [
        ({"format": "json"}, "grammar"),
        ({"format": {"type": "object"}}, "grammar"),
        ({"tools": [tool()], "tool_choice": "required"}, "grammar"),
        ({"tools": [tool()]}, "tools"),
        ({"think": True}, "thinks"),
        ({"think": "low"}, "thinks"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 2}, "logprobs"),
    ],
)
def test_requests_that_are_never_resumed(call: dict[str, Any], why: str) -> None:
    assert why in never(chat_request(DEFAULTS, ASK, call))


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([{"role": "user", "content": "look", "images": [b"GIF89a"]}], "images"),
        ([*ASK, {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}]}], "tool_calls"),
        ([*ASK, {"role": "assistant", "content": "1", "thinking": "hm"}], "thinking"),
    ],
)
def test_conversations_that_are_never_resumed(messages: Any, why: str) -> None:
    assert why in never(chat_request(DEFAULTS, messages, {}))


def test_earlier_thinking_is_not_part_of_the_turn() -> None:
    messages = [*ASK, {"role": "assistant", "content": "1", "thinking": "hm"}, *ASK]
    assert never(chat_request(DEFAULTS, messages, {})) == ""


def test_a_prompt_without_a_conversation_is_never_resumed() -> None:
    assert "chat" in never(generate_request(DEFAULTS, "count", {}))


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (StreamInterruptedError("ended"), True),
        (ServerError("the runner has terminated", temporary=True), True),
        (ServerError("no"), False),
        (LLMTimeoutError("silence", deadline="chunk_timeout"), True),
        (LLMTimeoutError("late", deadline="stream_timeout"), False),
        (LLMTimeoutError("late", deadline="timeout"), False),
        (MalformedResponseError("not JSON"), False),
    ],
)
def test_which_errors_interrupt_an_answer(error: LLMError, is_one: bool) -> None:
    assert breaks_off(error) is is_one


# What is sent


def test_the_text_is_the_assistants_turn() -> None:
    body = {"model": "m", "messages": ASK, "options": {"num_predict": 10, "seed": 7, "top_k": 1}}
    assert continuation(body, ["one", " two"]) == {
        "model": "m",
        "messages": [*ASK, {"role": "assistant", "content": "one two"}],
        "options": {"num_predict": 8, "seed": 9, "top_k": 1},
        "truncate": False,
    }
    assert body["messages"] is ASK
    assert body["options"] == {"num_predict": 10, "seed": 7, "top_k": 1}


def test_it_is_appended_to_an_existing_turn() -> None:
    started = {"role": "assistant", "content": "zero "}
    sent = continuation({"model": "m", "messages": [*ASK, started]}, ["one", " two"])
    assert isinstance(sent, dict)
    assert sent["messages"] == [*ASK, {"role": "assistant", "content": "zero one two"}]
    assert started["content"] == "zero "


@pytest.mark.parametrize("pieces", [[], [" "], ["\n", "\n"]])
def test_without_text_it_starts_again(pieces: list[str]) -> None:
    body = {"model": "m", "messages": ASK, "options": {"num_predict": 1, "seed": 7}}
    assert continuation(body, pieces) == {**body, "truncate": False}


@pytest.mark.parametrize(("most", "left"), [(-1, -1), (-2, -2), (3, 1)])
def test_the_limit_counts_delivered_chunks(most: int, left: int) -> None:
    sent = continuation({"model": "m", "messages": ASK, "options": {"num_predict": most}}, ["a", "b", "\n"])
    assert isinstance(sent, dict)
    assert sent["options"]["num_predict"] == left


def test_answers_that_cannot_be_resumed() -> None:
    body = {"model": "m", "messages": ASK, "options": {"num_predict": 2}}
    assert continuation(body, ["a", "b"]) == "max_tokens were reached"
    assert continuation(body, ["a\ud83d"]) == "its text has half a character"


def test_a_random_seed_stays_random() -> None:
    sent = continuation({"model": "m", "messages": ASK, "options": {"seed": -1}}, ["a"])
    assert isinstance(sent, dict)
    assert sent["options"] == {"seed": -1}


# How the texts are joined


def written(words: list[str], spaces: list[str]) -> str:
    return "".join(word + space for word, space in zip(words, spaces, strict=True))


@given(st.data(), st.lists(st.tuples(WORD, SPACE), min_size=1, max_size=12), st.lists(st.integers(0, 60), max_size=3))
def test_a_model_that_writes_the_same_gives_the_same_text(
    data: st.DataObject, parts: list[tuple[str, str]], cuts: list[int]
) -> None:
    """Wherever it is interrupted, in words or in white space, and however the rest is split into chunks."""
    text = "".join(word + space for word, space in parts)
    pieces: list[str] = []
    seam = None
    rest = text
    for cut in [*sorted(cuts), len(text)]:
        chunks: list[str] = []
        while rest and sum(map(len, chunks)) < cut:
            size = data.draw(st.integers(1, min(len(rest), 7)))
            chunks.append(rest[:size])
            rest = rest[size:]
        pieces += filter(None, [seam.new(chunk) if seam is not None else chunk for chunk in chunks])
        sent = continuation({"model": "m", "messages": ASK}, pieces)
        assert isinstance(sent, dict)
        last = sent["messages"][-1]
        had = last["content"] if last["role"] == "assistant" else ""
        assert had == had.rstrip()
        assert text.startswith(had)
        rest, seam = text[len(had) :], Seam(pieces)
    pieces += filter(None, [seam.new(rest)]) if seam is not None else []
    assert "".join(pieces) == text
    "".join(pieces).encode()


@given(st.lists(st.tuples(WORD, SPACE), min_size=2, max_size=12), st.data())
def test_different_white_space_loses_no_word(parts: list[tuple[str, str]], data: st.DataObject) -> None:
    """A model that continues with less, more or different white space: each word occurs once, and none are joined."""
    numbered = [f"w{number}." for number in range(len(parts))]
    at = data.draw(st.integers(1, len(parts) - 1))
    pieces = [word + space for word, (_, space) in zip(numbered[:at], parts[:at], strict=True)]
    seam = Seam(pieces)
    rest = data.draw(st.sampled_from(["", " ", "\n", "\n\n\n"])) + " ".join(numbered[at:])
    joined = "".join(pieces) + "".join(seam.new(piece) for piece in tokens_of(rest))
    assert joined.split() == numbered


def test_the_seam_is_closed_by_the_first_word() -> None:
    seam = Seam(["one", " \n"])
    assert (seam.new(""), seam.is_closed) == ("", False)
    assert (seam.new(" "), seam.is_closed) == ("", False)
    assert (seam.new("\ntwo"), seam.is_closed) == ("two", True)
    assert seam.new(" \n") == " \n"
    assert Seam(["one"]).is_closed


def test_repeated_tokens_are_not_counted_twice() -> None:
    assert tokens_at_least(["a", " ", "b", "\n", " "]) == 3
    assert tokens_at_least([" "]) == 0


def test_the_usage_is_that_of_one_answer() -> None:
    final = {"prompt_eval_count": 30, "eval_count": 5, "prompt_eval_cached_count": 28}
    usage = usage_of(final, 10)
    assert usage == {"prompt_tokens": 20, "completion_tokens": 15, "total_tokens": 35, "cached_tokens": 20}


# Templates

CHATML = (
    "{{- range $i, $_ := .Messages }}{{- $last := eq (len (slice $.Messages $i)) 1 }}<|im_start|>{{ .Role }}\n"
    '{{ .Content }}{{ if or (ne .Role "assistant") (not $last) }}<|im_end|>\n{{ end }}'
    '{{- if and $last (ne .Role "assistant") }}<|im_start|>assistant\n{{ end }}{{- end }}'
)
CLOSING = "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("template", "leaves_open"),
    [
        (CHATML, True),
        (CLOSING, False),
        ("[INST] {{ .System }} {{ .Prompt }} [/INST]{{ .Response }}</s>", True),  # cut at the response
        ("{{ .Prompt }}", True),
        ("{{ range .Messages }}{{ .Content }}{{ end }}\n", False),
        ("{{ trim .Prompt }}", None),
        ("{{ if }", None),
        ("", None),
        (None, None),
    ],
)
def test_templates(template: object, leaves_open: bool | None) -> None:
    assert template_is_open(template) is leaves_open


def test_a_template_that_thinks_closes_the_turn_only_then() -> None:
    source = "{{ range .Messages }}{{ .Content }}{{ end }}{{ if .Think }}<think>{{ end }}"
    assert template_is_open(source, think=False)
    assert template_is_open(source, think=True) is False


@pytest.mark.parametrize(
    ("end", "leaves_open"),
    [("", True), ("<|im_end|>\n", False), ("\n", False), ("<|im_end|>\n<|im_start|>assistant\n", False)],
)
@pytest.mark.parametrize("trimmed", [False, True])
def test_prompts_that_a_server_renders(end: str, leaves_open: bool, trimmed: bool) -> None:
    content = rendering({"model": "m"})["messages"][-1]["content"]
    assert re.search(r"\w\W*\s$", content)
    content = content.rstrip() if trimmed else content
    assert is_open({"_debug_info": {"rendered_template": f"<|im_start|>assistant\n{content}{end}"}}) is leaves_open


@pytest.mark.parametrize("answer", [{}, {"_debug_info": None}, {"_debug_info": {}}, {"_debug_info": "x"}])
def test_a_server_that_renders_no_prompt(answer: dict[str, Any]) -> None:
    assert is_open(answer) is None


def test_rendering_loads_the_model_like_the_answer() -> None:
    body = {
        "model": "m",
        "messages": ASK,
        "options": {"num_ctx": 99, "num_predict": 7},
        "keep_alive": 5,
        "think": False,
    }
    asked = rendering(body)
    assert asked["options"] == {"num_ctx": 99, "num_predict": 1}
    assert (asked["model"], asked["keep_alive"], asked["think"], asked["stream"]) == ("m", 5, False, False)
    assert asked["_debug_render_only"] is True
