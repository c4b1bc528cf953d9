"""JSON that keeps what orjson does not: large integers, lone surrogates and non-finite numbers."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from namel3ss_ollama import exact
from namel3ss_ollama.client import encode
from namel3ss_ollama.errors import MalformedResponseError
from namel3ss_ollama.streamer import LineParser, parse_line

texts = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(values, st.booleans())
def test_round_trip(value: Any, ascii_only: bool) -> None:
    assert exact.read_json(exact.write_json(value).decode()) == value
    assert exact.read_json(json.dumps(value, ensure_ascii=ascii_only)) == value
    assert json.loads(exact.write_json(value)) == value


@pytest.mark.parametrize("number", [2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**25, 10**400, 3])
def test_an_integer_is_never_rounded(number: int) -> None:
    for line in (
        f'{{"message":{{"tool_calls":[{number}]}}}}',
        f'{{"message": {{"tool_calls": [{number}, "\\ud83d"]}}}}',
    ):
        read = parse_line(line.encode())
        assert read is not None
        (found, *_) = read["message"]["tool_calls"]
        assert found == number
        assert type(found) is int
    assert encode({"maximum": number, "a": [(number,)]}) == f'{{"maximum":{number},"a":[[{number}]]}}'.encode()


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400", "7" * 5000])
def test_a_number_beyond_a_float_fails_no_answer_and_keeps_its_text(text: str) -> None:
    line = parse_line(f'{{"message": {{"content": "x"}}, "n": [{text}]}}'.encode())
    assert line is not None
    (number,) = line["n"]
    assert isinstance(number, float)
    assert not math.isfinite(number)
    assert exact.write_json(line["n"]) == f"[{text}]".encode()
    assert not exact.is_plain(line)
    with pytest.raises(MalformedResponseError):
        parse_line(f'{{"n": {text}}}'.encode())  # not the line of an answer


def test_deep_nesting_is_a_value_error() -> None:
    many = 200_000  # deeper than any recursion limit that a test may have set
    for text in ("[" * many, "[" * many + "]" * many, '{"a":' * many + '"\\ud83d"' + "}" * many):
        with pytest.raises(ValueError, match=r"nested|Expecting"):
            exact.read_json(text)
    deep: Any = 10**25
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ValueError, match="cannot be written as JSON"):
        encode({"a": deep})


@pytest.mark.parametrize(
    ("body", "place", "problem"),
    [
        (
            {"messages": [{"content": "ok"}, {"content": "a\ud83d"}]},
            "messages[1].content",
            "lone surrogate at position 1",
        ),
        ({"prompt": "\ude00", "big": 10**25}, "prompt", "lone surrogate at position 0"),
        ({"options": {"a": object()}}, "options.a", "not JSON serializable"),
        ({"format": {1: 2}}, "format", "a key is of type int"),
    ],
)
def test_a_value_that_cannot_be_sent_is_named(body: Any, place: str, problem: str) -> None:
    with pytest.raises(ValueError, match="cannot be written as JSON") as caught:
        encode(body)
    assert f"{place}: " in str(caught.value)
    assert problem in str(caught.value)


# Surrogate pairs that are split over lines


def parsed(*lines: str) -> list[dict[str, Any]]:
    parser = LineParser()
    return [value for line in lines if (value := parser.parse(line.encode())) is not None]


def chat(content: str, *, done: bool = False) -> str:
    return f'{{"message": {{"content": "{content}"}}, "done": {json.dumps(done)}}}'


@pytest.mark.parametrize(
    ("pieces", "read"),
    [
        (["a\\ud83d", "\\ude00b"], ["a", "\U0001f600b"]),
        (["\\ud83d", "\\ude00"], ["", "\U0001f600"]),
        (["\\ud83d", "", "\\ude00"], ["", "", "\U0001f600"]),
        (["\\ud83d", "\\ude00\\ud83d", "\\ude01"], ["", "\U0001f600", "\U0001f601"]),
        (["\\ud83d", "b", "c"], ["", "\ufffdb", "c"]),
        (["\\ud83d", "\\ud83d", "\\ude00"], ["", "\ufffd", "\U0001f600"]),
        (["a\\ud83db", "c"], ["a\ufffdb", "c"]),
        (["\\ude00", "c"], ["\ufffd", "c"]),
        (["\\ud83d\\ude00", "c"], ["\U0001f600", "c"]),
    ],
)
def test_split_surrogate_pairs_are_joined_and_lone_ones_replaced(pieces: list[str], read: list[str]) -> None:
    lines = [chat(piece) for piece in pieces]
    assert [line["message"]["content"] for line in parsed(*lines)] == read
    thoughts = [line.replace('"content"', '"thinking"') for line in lines]
    assert [line["message"]["thinking"] for line in parsed(*thoughts)] == read
    responses = [f'{{"response": "{piece}"}}' for piece in pieces]
    assert [line["response"] for line in parsed(*responses)] == read


def test_a_lone_surrogate_at_the_end_is_replaced() -> None:
    first, last = parsed(chat("a\\ud83d"), chat("", done=True))
    assert (first["message"]["content"], last["message"]["content"]) == ("a", "\ufffd")
    (whole,) = parsed(chat("a\\ud83d", done=True))
    assert whole["message"]["content"] == "a\ufffd"


def test_surrogates_as_bytes_are_joined_too() -> None:
    parser = LineParser()
    first, second = (b'{"message": {"content": "%s"}}' % half for half in (b"\xed\xa0\xbd", b"\xed\xb8\x80"))
    assert parser.parse(first) == {"message": {"content": ""}}
    assert parser.parse(second) == {"message": {"content": "\U0001f600"}}


def test_surrogates_anywhere_else_are_replaced() -> None:
    line = '{"message": {"tool_calls": [{"function": {"name": "\\ud83d", "arguments": {"\\ude00": ["\\ud83d"]}}}]}}'
    (read,) = parsed(line)
    assert read["message"]["tool_calls"][0]["function"] == {"name": "\ufffd", "arguments": {"\ufffd": ["\ufffd"]}}
    json.dumps(read, ensure_ascii=False).encode()
