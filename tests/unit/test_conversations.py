"""Recognising the beginnings of conversations."""

from __future__ import annotations

from typing import Any

import pytest

from namel3ss_ollama.conversations import Conversations, beginnings
from namel3ss_ollama.tokens import Estimate

HI = {"role": "user", "content": "hi"}
YES = {"role": "assistant", "content": "yes?"}


def keys(*messages: dict[str, Any], **fields: Any) -> list[int]:
    return beginnings({"model": "m", "messages": list(messages), **fields})


def test_a_longer_conversation_begins_like_the_shorter() -> None:
    assert keys(HI, YES, HI)[:2] == keys(HI, YES)
    assert len(set(keys(HI, YES, HI))) == 3


@pytest.mark.parametrize(
    ("messages", "fields"),
    [
        ([{**HI, "role": "system"}], {}),
        ([{**HI, "content": "ho"}], {}),
        ([{**HI, "images": ["aGk="]}], {}),
        ([{**HI, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}], {}),
        ([HI], {"model": "other"}),
        ([HI], {"tools": [{"type": "function"}]}),
        ([HI], {"think": True}),
    ],
)
def test_another_prompt_is_another_conversation(messages: list[dict[str, Any]], fields: dict[str, Any]) -> None:
    assert beginnings({"model": "m", "messages": messages, **fields}) != keys(HI)


def test_a_longer_recording_differs() -> None:
    # Once wrong: only the number of images counted, so a short recording was expected to have a long one's tokens
    long, short = ({**HI, "images": ["UklGRg" + "A" * length]} for length in (400, 40))
    assert keys(long) != keys(short)
    assert keys(long) == keys({**long})


def test_templates_omit_earlier_thinking() -> None:
    assert keys(HI, {**YES, "thinking": "Hm."}, HI) == []


def test_a_prompt_is_not_a_conversation() -> None:
    assert beginnings({"model": "m", "prompt": "hi"}) == []


def test_the_longest_beginning_is_found() -> None:
    conversations = Conversations()
    assert conversations.longest(keys(HI)) is None
    conversations.remember(keys(HI)[-1], Estimate(5, 0))
    conversations.remember(keys(HI, YES, HI)[-1], Estimate(15, 0))
    assert conversations.longest(keys(HI, YES)) == (1, Estimate(5, 0))
    assert conversations.longest(keys(HI, YES, HI, YES, HI)) == (3, Estimate(15, 0))
    assert conversations.longest([]) is None


def test_the_oldest_are_forgotten() -> None:
    conversations = Conversations()
    for number in range(3000):
        conversations.remember(number, Estimate(number, 0))
        conversations.remember(0, Estimate(1, 0))
    assert conversations.longest([0]) == (1, Estimate(1, 0))
    assert conversations.longest([2999]) is not None
    assert conversations.longest([1]) is None
