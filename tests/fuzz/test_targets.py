"""The targets of `make fuzz` with inputs from hypothesis: arbitrary bytes and text, and mutated seeds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from targets import SEEDS, TARGETS

PIECES = [
    b"\n",
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b"\\",
    b"\xff",
    b"\xc3",
    b":",
    b"@",
    b"%0a",
    b"null",
    b"1e999",
    b"x" * 70,
]


@st.composite
def mutated(draw: Any, seeds: list[bytes]) -> bytes:
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, 4))):
        position = draw(st.integers(0, len(data)))
        data = data[:position] + draw(st.sampled_from(PIECES)) + data[position + draw(st.integers(0, 3)) :]
    return data


@pytest.mark.parametrize("name", TARGETS)
def test_target(name: str) -> None:
    @settings(max_examples=200)
    @given(st.one_of(mutated(SEEDS[name]), st.binary(max_size=200), st.text(max_size=60).map(str.encode)))
    def holds(data: bytes) -> None:
        TARGETS[name](data)

    holds()
