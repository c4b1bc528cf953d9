"""Estimating tokens from the characters of a prompt, and learning from counts."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_files import encoded, wav

from namel3ss_ollama.tokens import Estimate, TokenModel, measure_messages, measure_prompt, measure_text

ENGLISH = "The lighthouse keeper wrote down the weather twice a day, and nobody ever asked to see the book. "
GERMAN = "Der Leuchtturmwärter schrieb das Wetter zweimal am Tag auf, und niemand wollte je das Buch sehen. "
RUSSIAN = "Смотритель маяка дважды в день записывал погоду, и никто никогда не просил показать книгу. "
CHINESE = "灯塔看守人每天记录两次天气，从来没有人要求看那本书。"  # noqa: RUF001
CODE = 'def weather(day: int) -> str:\n    """Look it up."""\n    return BOOK[day % 7]["entry"]\n'


@pytest.mark.parametrize(
    ("text", "tokens"),
    # By the tokenizer of smollm2, which spends more on other languages than most.
    [(ENGLISH, 21), (GERMAN, 37), (RUSSIAN, 69), (CHINESE, 54), (CODE, 29)],
    ids=["English", "German", "Russian", "Chinese", "code"],
)
def test_the_first_estimate_is_roughly_right(text: str, tokens: int) -> None:
    estimate = TokenModel().estimate(measure_text(text * 20))
    assert estimate.tokens / 1.6 < tokens * 20 < estimate.tokens * 2
    assert estimate.most < estimate.tokens * 4


@pytest.mark.parametrize("seed", range(5))
def test_it_learns_the_tokenizer(seed: int) -> None:
    chance = random.Random(seed)
    true = {"a": chance.uniform(0.2, 0.35), "7": chance.uniform(0.3, 1.2), "я": chance.uniform(0.3, 0.8), "。": 1.5}

    def sample() -> tuple[str, int]:
        counts = {character: chance.randrange(400) for character in true}
        text = "".join(character * count for character, count in counts.items())
        return text, round(sum(true[character] * count for character, count in counts.items()))

    model = TokenModel()
    for _ in range(60):
        text, tokens = sample()
        model.learn(measure_text(text), tokens)
    for _ in range(20):
        text, tokens = sample()
        estimate = model.estimate(measure_text(text))
        assert abs(estimate.tokens - tokens) < 0.1 * tokens + 5
        assert estimate.least < tokens < estimate.most


def test_it_adapts_to_a_change_of_language() -> None:
    model = TokenModel()
    for size in range(1, 60):
        model.learn(measure_text(ENGLISH * size), 20 * size)
    for size in range(1, 60):
        model.learn(measure_text(GERMAN * size), 36 * size)
    assert abs(model.estimate(measure_text(GERMAN * 30)).tokens - 36 * 30) < 0.1 * 36 * 30


@given(st.text(), st.text())
def test_a_text_has_the_characters_of_its_parts(one: str, other: str) -> None:
    both = measure_text(one + other)
    assert both == tuple(map(sum, zip(measure_text(one), measure_text(other), strict=True)))
    letters = [c for c in one + other if c.isalpha()]
    assert sum(both) >= len(letters)


@given(st.text(st.characters(), min_size=1), st.integers(0, 10**6))
def test_any_text_can_be_estimated_and_learnt(text: str, tokens: int) -> None:
    model = TokenModel()
    for _ in range(3):
        estimate = model.estimate(measure_text(text))
        assert 0 <= estimate.least <= estimate.tokens <= estimate.most
        assert math.isfinite(estimate.most)
        model.learn(measure_text(text), tokens)


@given(st.lists(st.tuples(st.text(max_size=200), st.integers(0, 2000)), max_size=100))
def test_it_accepts_any_counts(samples: list[tuple[str, int]]) -> None:
    model = TokenModel()
    for text, tokens in samples:
        model.learn(measure_text(text), tokens)
    estimate = model.estimate(measure_text(ENGLISH))
    assert 0 <= estimate.least <= estimate.tokens <= estimate.most < math.inf


def test_what_is_not_text_counts_too() -> None:
    def tokens(body: dict[str, Any]) -> float:
        return TokenModel().estimate(measure_prompt(body)).tokens

    asked = {"role": "user", "content": "Who is it?"}
    plain = tokens({"messages": [asked]})
    tools = [{"type": "function", "function": {"name": "name_of", "parameters": {"type": "object"}}}]
    call = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": "name_of", "arguments": {"a": 1}}}],
    }
    for body in (
        {"messages": [{**asked, "images": ["aGk="]}]},
        {"messages": [asked], "tools": tools},
        {"messages": [asked, call]},
        {"messages": [asked, {"role": "assistant", "content": "", "thinking": "Let me see. " * 10}]},
        {"messages": [asked, {"role": "user", "content": ""}]},
    ):
        assert tokens(body) > plain
    assert tokens({"prompt": "x", "context": list(range(500))}) == pytest.approx(tokens({"prompt": "x"}) + 500)
    assert tokens({"prompt": "x", "system": "Be brief."}) > tokens({"prompt": "x"})
    assert tokens({"prompt": "x", "suffix": "Be brief."}) > tokens({"prompt": "x"})


@pytest.mark.parametrize("seconds", [0.2, 1, 10, 30, 300])
@pytest.mark.parametrize("tokens_a_second", [6, 12.5, 25])
def test_audio_of_any_length_is_within_the_estimate(seconds: float, tokens_a_second: float) -> None:
    asked = {"role": "user", "content": "What is said?", "images": [encoded(wav(seconds, 8_000))]}
    plain = TokenModel().estimate(measure_prompt({"messages": [{**asked, "images": []}]})).tokens
    for body in ({"messages": [asked]}, {"prompt": "What is said?", "images": asked["images"]}):
        estimate = TokenModel().estimate(measure_prompt(body))
        assert estimate.least < plain + seconds * tokens_a_second < estimate.most


def test_audio_is_learnt() -> None:
    model = TokenModel()
    recordings = [encoded(wav(seconds, 8_000)) for seconds in (2, 20, 7, 11, 3, 30)]
    for one, seconds in zip(recordings, (2, 20, 7, 11, 3, 30), strict=True):
        model.learn(measure_prompt({"prompt": "What is said?", "images": [one]}), round(20 + 25 * seconds))
    ten = encoded(wav(10, 8_000))
    assert model.estimate(measure_prompt({"prompt": "What is said?", "images": [ten]})).tokens == pytest.approx(
        270, rel=0.1
    )


def test_added_messages_have_no_initial_tokens() -> None:
    messages = [{"role": "user", "content": "And then?"}]
    first, added = measure_messages(messages), measure_messages(messages, added=True)
    model = TokenModel()
    assert model.estimate(first).tokens > model.estimate(added).tokens > 0


def test_the_sum_of_estimates() -> None:
    assert Estimate(10, 3) + Estimate(20, 4) == Estimate(30, 5)
