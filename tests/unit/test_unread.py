"""A tool call that the server could not parse: each parser's error is recognised, and no message quotes the call."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from namel3ss_ollama.diagnosis import error_for_line, error_for_status
from namel3ss_ollama.errors import BadRequestError, LLMError, ModelNotFoundError, ServerError, ToolCallParseError
from namel3ss_ollama.unread import unread_call

Diagnosed = Callable[[str], LLMError]
URL = "http://localhost:11434"
NOT_JSON = "invalid character 'x' looking for beginning of value"
HARMONY = "error parsing tool call: raw='{}', err={}"

# What the server reports, the reason in it, and the call
REPORTED = [
    (HARMONY.format("x", NOT_JSON), NOT_JSON, "x"),
    (HARMONY.format('{"a": ', "unexpected end of JSON input"), "unexpected end of JSON input", '{"a": '),
    (HARMONY.format("it's \"a',\nerr=b\"", "EOF"), "EOF", "it's \"a',\nerr=b\""),
    ("error parsing tool call: raw='cut off", "error parsing tool call", "cut off"),
    ("Failed to parse input at pos 13: <tool_call>\n{", "Failed to parse input at pos 13", "<tool_call>\n{"),
    *(
        (message, message, "")
        for message in [
            'llama-server returned invalid tool call arguments for "f": unexpected end of JSON input',
            "XML syntax error on line 3: element <function> closed by </parameter>",
            "XML syntax error on line 1: unexpected EOF",
            "expected element type <function> but have <parameter>",
            "failed to parse JSON: invalid character '}' looking for beginning of object key string",
            "failed to parse XML: XML syntax error on line 2: unexpected EOF",
            "incomplete GLM tool call: expected <arg_value>",
            "mismatched arg_key and arg_value counts: 2 keys, 1 values",
            'required argument "city" is missing for tool "weather"',
            'tool "wether" is not declared',
            "tool 'wether' not found",
            "empty function name",
            "failed to parse Laguna JSON tool call arguments: unexpected end of JSON input",
        ]
    ),
]


def over_http(message: str) -> LLMError:
    return error_for_status(500, {}, json.dumps({"error": message}).encode(), url=URL, model="m")


def in_the_stream(message: str) -> LLMError:
    return error_for_line(message, url=URL)


@pytest.mark.parametrize("diagnosed", [over_http, in_the_stream])
@pytest.mark.parametrize(("message", "reason", "text"), REPORTED)
def test_each_parsers_error_is_recognised(diagnosed: Diagnosed, message: str, reason: str, text: str) -> None:
    # Once wrong: a BadRequestError, a permanent ServerError or a temporary one, depending on the text of the call
    error = diagnosed(message)
    assert type(error) is ToolCallParseError
    assert isinstance(error, ServerError)
    assert error.temporary
    assert reason in str(error)
    assert "ask again" in str(error)
    assert error.text == text
    assert (error.partial.content if error.partial else "") == text
    assert error.partial is None or error.partial.finish_reason is None
    assert error.status_code == (500 if diagnosed is over_http else None)


@pytest.mark.parametrize("diagnosed", [over_http, in_the_stream])
@pytest.mark.parametrize(
    "call", ["private: model 'x' not found", "private exceeds the context length", "private: connection refused"]
)
def test_the_text_of_the_call_is_ignored_and_not_quoted(diagnosed: Diagnosed, call: str) -> None:
    for message in (
        HARMONY.format(call, NOT_JSON),
        f"error parsing tool call: raw='{call}",
        f"{REPORTED[4][1]}: {call}",
    ):
        error = diagnosed(message)
        assert type(error) is ToolCallParseError
        assert error.text == call
        assert "private" not in f"{error} {error!r}"


def test_a_long_call_is_not_truncated() -> None:
    call = '{"text": "' + "word " * 10_000
    message = HARMONY.format(call, "unexpected end of JSON input")
    for error in (over_http(message), in_the_stream(message)):
        assert isinstance(error, ToolCallParseError)
        assert error.text == call
        assert "raise max_tokens" in str(error)
    assert "max_tokens" not in str(over_http(HARMONY.format("x", NOT_JSON)))


def test_the_reason_as_a_key_of_ollama_0_11() -> None:
    body = json.dumps({"error parsing tool call": f"raw='x', err={NOT_JSON}"}).encode()
    error = error_for_status(500, {}, body, url=URL, model="m")
    assert isinstance(error, ToolCallParseError)
    assert error.text == "x"


def test_the_call_in_an_error_of_llama_server() -> None:
    error = over_http(
        "llama-server chat error: map[code:500 message:Failed to parse input at pos 3: <call>{ type:server_error]"
    )
    assert isinstance(error, ToolCallParseError)
    assert error.text == "<call>{"


@pytest.mark.parametrize(
    ("status", "message", "cls"),
    [
        (400, NOT_JSON, BadRequestError),
        (404, "model 'tool' not found", ModelNotFoundError),
        (500, "template: :1: function not defined", BadRequestError),
        (500, "pull model manifest: invalid character '<' looking for beginning of value", ServerError),
        (500, "the tool says: error parsing tool call", ServerError),
        (400, HARMONY.format("x", NOT_JSON), BadRequestError),
    ],
)
def test_other_errors_are_not_about_a_tool_call(status: int, message: str, cls: type) -> None:
    error = error_for_status(status, {}, json.dumps({"error": message}).encode(), url=URL, model="m")
    assert type(error) is cls


@given(st.text(), st.text(alphabet=st.characters(blacklist_characters="'")))
def test_any_call_is_extracted_unchanged(call: str, reason: str) -> None:
    found = unread_call(HARMONY.format(call, "E" + reason))
    assert found is not None
    assert found.text == call
