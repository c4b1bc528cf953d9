"""Splitting texts in two, and the mean of vectors."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from namel3ss_ollama.pieces import cut_in_two, mean_vector

TEXTS = st.text(min_size=2) | st.text(" \n.!a\u0301\u200d\u3002x", min_size=2, max_size=400)


@given(TEXTS)
def test_nothing_is_lost_and_both_halves_are_shorter(text: str) -> None:
    left, right = cut_in_two(text)
    assert left + right == text
    assert left
    assert right
    if len(text) >= 8:
        assert min(len(left), len(right)) >= len(text) // 4


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("One two three. Four five six.\n\nSeven eight nine ten.", "One two three. Four five six.\n\n"),
        ("One two, three four. Five six, seven eight.", "One two, three four. "),
        ('He said "no more." She left the room at once.', 'He said "no more." '),
        ("The price is 3.14 for each of them today", "The price is 3.14 "),
        ("\u4e00\u4e8c\u4e09\u3002\u56db\u4e94\u516d\u4e03", "\u4e00\u4e8c\u4e09\u3002"),
        ("abcdefgh", "abcd"),
        ("ab", "a"),
        ("aaae\u0301bbb", "aaa"),
        ("xx\U0001f469\u200d\U0001f680yyy", "xx"),
        ("\u0301" * 8, "\u0301" * 4),
    ],
)
def test_where_a_text_is_cut(text: str, left: str) -> None:
    assert cut_in_two(text)[0] == left


@pytest.mark.parametrize("text", ["", "a"])
def test_a_text_that_is_too_short_is_not_cut(text: str) -> None:
    with pytest.raises(ValueError, match="cannot be split"):
        cut_in_two(text)


@pytest.mark.parametrize("char", [".", " ", "\n", '"', "\u3002", "\u0301", ". ", "\n "])
def test_a_long_run_of_anything_is_cut_quickly(char: str) -> None:
    start = time.process_time()
    cut_in_two(char * 300_000)
    assert time.process_time() - start < 5, "quadratic, it would take minutes"


NUMBERS = st.floats(-1, 1, allow_subnormal=False)


@given(st.integers(1, 6).flatmap(lambda n: st.lists(st.lists(NUMBERS, min_size=n, max_size=n), min_size=1, max_size=5)))
def test_a_mean_is_as_long_as_the_vectors(vectors: list[list[float]]) -> None:
    weights = [index + 1 for index in range(len(vectors))]
    mean = mean_vector(vectors, weights)
    longest = max(math.hypot(*vector) for vector in vectors)
    assert len(mean) == len(vectors[0])
    assert math.hypot(*mean) <= longest * (1 + 1e-9)
    assert mean_vector([vectors[0]], [3]) == pytest.approx(vectors[0], abs=1e-12)


@given(st.lists(st.floats(0, 6), min_size=1, max_size=5), st.lists(st.integers(1, 1000), min_size=5, max_size=5))
def test_the_mean_of_unit_vectors_is_one(angles: list[float], weights: list[int]) -> None:
    vectors = [[math.cos(angle), math.sin(angle)] for angle in angles]
    used = weights[: len(vectors)]
    mean = mean_vector(vectors, used)
    plain = [sum(w * v[i] for w, v in zip(used, vectors, strict=True)) / sum(used) for i in range(2)]
    if math.hypot(*plain) > 1e-6:
        assert math.hypot(*mean) == pytest.approx(1)
        assert mean == pytest.approx([x / math.hypot(*plain) for x in plain], abs=1e-6)


def test_longer_pieces_count_more_and_opposite_vectors_cancel_out() -> None:
    assert mean_vector([[2.0, 0.0], [0.0, 2.0]], [3, 1]) == pytest.approx([2 * 3 / 10**0.5, 2 / 10**0.5])
    assert mean_vector([[1.0, 0.0], [-1.0, 0.0]], [1, 1]) == [0.0, 0.0]
    assert mean_vector([[0.0], [0.0]], [1, 1]) == [0.0]
