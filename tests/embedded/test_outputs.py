"""Parsing a model's text: the result does not depend on its tokens, and nothing is lost."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from namel3ss_ollama.embedded.outputs import Outputs

REPEATABLE = settings(deadline=None, derandomize=True, database=None, max_examples=300)
TOOLS = ("weather", "now")
CALL = '{"name": "weather", "arguments": {"city": "Rome"}}'


def parsed(
    pieces: Sequence[str], *, thinking: bool = False, tools: Sequence[str] = (), within: bool = False
) -> tuple[str, str, list[Any]]:
    """The reasoning, content and calls (names and arguments) of a text in pieces."""
    outputs = Outputs(thinking=thinking, tools=tools, within=within)
    parts = [outputs.feed(piece) for piece in pieces]
    thought, content, calls = outputs.finish()
    assert [call["function"]["index"] for call in calls] == list(range(len(calls)))
    assert len({call["id"] for call in calls}) == len(calls)
    return (
        "".join(part[0] for part in parts) + thought,
        "".join(part[1] for part in parts) + content,
        [(call["function"]["name"], call["function"]["arguments"]) for call in calls],
    )


# Reasoning


@pytest.mark.parametrize(
    ("text", "thought", "content"),
    [
        ("Hello.", "", "Hello."),
        ("<think>Hm.</think>Hello.", "Hm.", "Hello."),
        (" \n<think>\nHm.\n</think>\n\nHello.\n", "\nHm.\n", "Hello.\n"),
        ("<think></think>Hello.", "", "Hello."),
        ("<think>Hm.", "Hm.", ""),
        ("<think>Hm.</thi", "Hm.</thi", ""),
        ("<think>a</b></thin</think>x", "a</b></thin", "x"),
        ("<thinking>Hm.", "", "<thinking>Hm."),
        ("<thi", "", "<thi"),
        ("  ", "", "  "),
        ("", "", ""),
        ("Hello <think>not</think>", "", "Hello <think>not</think>"),
        ("<think>a</think>b<think>c</think>", "a", "b<think>c</think>"),
    ],
)
def test_reasoning_is_separated_from_content(text: str, thought: str, content: str) -> None:
    assert parsed([text], thinking=True) == (thought, content, [])
    assert parsed(list(text), thinking=True) == (thought, content, [])


def test_reasoning_that_the_prompt_started() -> None:
    assert parsed(["Hm.</think>\nHello."], thinking=True, within=True) == ("Hm.", "Hello.", [])
    assert parsed(["<think>Hm.</think>Hello."], thinking=True, within=True)[0] == "<think>Hm."


def test_without_thinking_all_is_content() -> None:
    assert parsed(["<think>Hm.</think>Hello."], within=True) == ("", "<think>Hm.</think>Hello.", [])


def test_unambiguous_text_is_returned_at_once() -> None:
    outputs = Outputs(thinking=True, tools=TOOLS)
    assert [outputs.feed(piece) for piece in ("<th", "ink>H", "m <", "b", "</think>", "\n", "\nHel", "lo")] == [
        ("", ""),
        ("H", ""),
        ("m ", ""),
        ("<b", ""),
        ("", ""),
        ("", ""),
        ("", "Hel"),
        ("", "lo"),
    ]


# Calls


@pytest.mark.parametrize(
    "text",
    [
        CALL,
        f"  {CALL}\n",
        f"[{CALL}]",
        f"<tool_call>\n{CALL}\n</tool_call>",
        f"<tool_calls>{CALL}</tool_calls>",
        f"[TOOL_CALLS] [{CALL}]",
        f"<|python_tag|>{CALL}",
        f"```json\n{CALL}\n```",
        f"```\n{CALL}\n```",
        CALL.replace("arguments", "parameters"),
        f"{CALL};",
    ],
)
def test_a_call_in_each_of_its_formats(text: str) -> None:
    assert parsed([text], tools=TOOLS) == ("", "", [("weather", {"city": "Rome"})])
    assert parsed(list(text), tools=TOOLS) == ("", "", [("weather", {"city": "Rome"})])


@pytest.mark.parametrize("between", ["\n", ", ", "; ", "</tool_call>\n<tool_call>", ""])
def test_several_calls(between: str) -> None:
    calls = [("weather", {"city": "Rome"}), ("now", {})]
    assert parsed([CALL, between, '{"name": "now"}'], tools=TOOLS) == ("", "", calls)
    assert parsed([f'[{CALL}, {{"name": "now"}}]'], tools=TOOLS) == ("", "", calls)


@pytest.mark.parametrize(
    "value", ["```json\n{}\n```", "<tool_call>", "[TOOL_CALLS]", "a, b; c", "\n", "<|python_tag|>"]
)
def test_format_markers_in_arguments_are_kept(value: str) -> None:
    text = json.dumps({"name": "weather", "arguments": {"city": value}})
    assert parsed([text], tools=TOOLS) == ("", "", [("weather", {"city": value})])


@pytest.mark.parametrize(
    "text",
    [
        "Hello.",
        '{"name": "other", "arguments": {}}',
        '{"name": ["weather"], "arguments": {}}',
        '{"name": {"a": 1}}',
        '{"city": "Rome"}',
        '["weather"]',
        "[]",
        "7",
        f"{CALL} and so on",
        f"{CALL}{CALL[:-3]}",
        f"```{CALL}``` is what to call",
        "<tool_call>",
        "```python\nprint()\n```",
        "{" * 3000,
        "[" * 100_000,
        '{"name": "weather", "arguments": {"city": "\\ud83d"}}',
        '{"name": "weather", "arguments": {"city": 123456789012345678901234567890}}',
        "",
        " \n",
    ],
)
def test_other_text_stays_text(text: str) -> None:
    assert parsed([text], tools=TOOLS) == ("", text, [])


def test_a_call_after_reasoning() -> None:
    text = f"<think>I must look.</think>\n\n{CALL}"
    assert parsed(list(text), thinking=True, tools=TOOLS) == ("I must look.", "", [("weather", {"city": "Rome"})])


def test_without_tools_a_call_is_text() -> None:
    assert parsed([CALL]) == ("", CALL, [])


# Text split anywhere

fragment = st.sampled_from(
    ["<think>", "</think>", "<thi", "</th", "nk>", "\n", " ", "Hm", "{", "}", "[", "]", CALL, "<tool_call>",
     "</tool_call>", "[TOOL_CALLS]", "```", "json", '{"name": "now"}', ",", '"', "<|python_tag|>", "é"]
)  # fmt: skip


@REPEATABLE
@given(
    st.lists(fragment, max_size=12).map("".join),
    st.lists(st.integers(0, 400), max_size=12),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
@example("<think>a</think>\n\nb", [16, 17], True, False, False)
@example("<think>a</think>\n\nb", [16, 18], True, True, False)
def test_text_split_anywhere_is_the_same_and_complete(
    text: str, cuts: list[int], thinking: bool, tools: bool, within: bool
) -> None:
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(places)]
    settings: dict[str, Any] = {"thinking": thinking, "tools": TOOLS if tools else (), "within": within}
    whole = parsed([text], **settings)
    assert parsed(pieces, **settings) == whole
    assert parsed(list(text), **settings) == whole
    thought, content, calls = whole
    orjson.dumps(calls)
    if not calls:
        expected = REASONED.match(text) if thinking else None
        if thinking and within:
            expected = REASONED.match(f"<think>{text}")
        assert (thought, content) == ((expected[1], expected[2] or "") if expected else ("", text))


REASONED = re.compile(r"\s*<think>(.*?)(?:</think>\n*(.*))?\Z", re.DOTALL)
"""The reasoning and the content of a complete text."""
