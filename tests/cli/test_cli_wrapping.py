"""Word wrapping for a terminal: lines break between words, for any chunks and any width."""

from __future__ import annotations

import itertools
import re
import textwrap
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from namel3ss_ollama.cli.wrapping import WordWrap, filled, width_of

WORDS = st.text(st.characters(codec="ascii", categories=("L", "N", "P")), min_size=1, max_size=9).filter(
    lambda word: not word.startswith(("```", "~~~"))
)


def screen(out: str, width: int) -> list[str]:
    """What a terminal of that width shows: a character that does not fit goes to the next line."""
    lines: list[list[str]] = [[]]
    column = 0
    for found in re.finditer(r"\x1b\[(\d+)D|\x1b\[K|.", out, re.DOTALL):
        sign = found[0]
        if found[1]:
            column = min(column, width - 1 if column >= width else column) - int(found[1])
            assert column >= 0
        elif sign == "\x1b[K":
            del lines[-1][column:]
        elif sign == "\n":
            lines.append([])
            column = 0
        else:
            if column + cell_len(sign) > width:
                lines.append([])
                column = 0
            lines[-1][column:] = [sign] + [""] * (cell_len(sign) - 1)
            column += cell_len(sign)
    return ["".join(line).rstrip() for line in lines]


def wrapped(text: str, width: int, cuts: list[int]) -> list[str]:
    wrap = WordWrap(lambda: width)
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    pieces = [text[start:end] for start, end in itertools.pairwise(places)]
    return screen("".join(map(wrap.feed, pieces)) + wrap.flush(), width)


@given(st.lists(WORDS, min_size=1, max_size=40), st.integers(20, 60), st.lists(st.integers(0, 500), max_size=80))
def test_words_are_not_broken_for_any_chunks(words, width, cuts) -> None:
    lines = wrapped(" ".join(words), width, cuts)
    assert " ".join(lines).split() == words
    expected = textwrap.wrap(" ".join(words), width, break_on_hyphens=False)
    assert lines == expected


# Without zero-width characters, as some of Hangul: the terminal here has one character per cell.
LETTERS = st.characters(exclude_categories=("C", "M")).filter(lambda sign: cell_len(sign) > 0) | st.sampled_from(" \n")


@given(st.text(LETTERS, max_size=200), st.integers(20, 60), st.lists(st.integers(0, 500), max_size=40))
def test_no_character_is_lost(text, width, cuts) -> None:
    shown = "".join(wrapped(text, width, cuts))
    assert re.sub(r"\s", "", shown) == re.sub(r"\s", "", text)


def test_chunks_are_shown_at_once() -> None:
    wrap = WordWrap(lambda: 20)
    assert wrap.feed("Hel") == "Hel"
    assert wrap.feed("lo,") == "lo,"


def test_code_is_not_wrapped() -> None:
    code = "print('a line that is longer than the terminal is wide')"
    lines = wrapped(f"so:\n```python\n{code}\n```\nthat was all of the code", 20, [])
    assert "".join(lines[2:5]).startswith(code[:40])
    assert lines[-2:] == ["that was all of the", "code"]


def test_scripts_without_spaces_break_anywhere() -> None:
    assert wrapped("漢字" * 9, 20, [3, 4, 11]) == ["漢字" * 5, "漢字" * 4]


def test_a_window_that_is_resized() -> None:
    widths = iter([20, 40])
    wrap = WordWrap(lambda: next(widths))
    out = wrap.feed("one two three four five\none two three four five")
    assert out == "one two three four\nfive\none two three four five"


class Screen(SimpleNamespace):
    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return -1


def test_how_wide_a_terminal_is(monkeypatch) -> None:
    assert width_of(Screen()) == 80
    monkeypatch.setenv("COLUMNS", "47")
    assert width_of(Screen()) == 47
    monkeypatch.setenv("COLUMNS", "3")
    assert width_of(Screen()) == 20
    assert width_of(SimpleNamespace(isatty=lambda: False)) is None


def test_a_paragraph() -> None:
    assert filled("one two three", 8, first="- ", indent="  ") == "- one\n  two\n  three"
    assert filled("one two three", None, first="- ", indent="  ") == "- one two three"


@pytest.mark.parametrize(
    ("width", "args"),
    [
        (60, ["doctor", "-m", "tiny"]),
        (40, ["models", "list"]),
        (40, ["doctor", "-m", "nope"]),
        (40, ["chat", "x"]),
        (40, ["chat", "x", "-m", "nope"]),
    ],
    ids=str,
)
def test_no_word_is_cut_on_a_narrow_terminal(terminal, server, monkeypatch, width, args) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    server.reply("supercalifragilistic " * 8)
    program = terminal("-m", "namel3ss_ollama.cli", *args)
    program.read_rest()
    lines = screen(re.sub(r"\r[^\r\n]*\x1b\[K", "", program.all).replace("\r\n", "\n"), 1000)
    assert len(lines) > 2
    assert not [line for line in lines if len(line) > width and " " in line.strip()]


def test_a_table_that_does_not_fit_is_a_list_per_row(terminal, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    monkeypatch.setenv("NO_COLOR", "1")
    program = terminal("-m", "namel3ss_ollama.cli", "models", "list")
    program.expect("tiny:latest\r\n  size          98 MB\r\n  parameters    134.52M\r\n")
    assert program.wait() == 0
