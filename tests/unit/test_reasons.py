"""The reason for a failure, wherever a server puts it: in the body of an error, or in a line with status 200."""

from __future__ import annotations

import json
from typing import Any

import pytest

from namel3ss_ollama.answers import Answer, ServerReportedError
from namel3ss_ollama.diagnosis import error_for_status
from namel3ss_ollama.errors import (
    AuthenticationError,
    BadRequestError,
    LLMError,
    MalformedResponseError,
    ModelNotFoundError,
    QuotaExceededError,
    ServerError,
)
from namel3ss_ollama.reasons import reason_in_body, reason_in_line

FASTAPI = [
    {"type": "missing", "loc": ["body", "model"], "msg": "Field required", "input": {"prompt": "private"}},
    {"type": "int_parsing", "loc": ["body", "messages", 0, "n"], "msg": "not an integer", "input": "private"},
]
# What a server reports, and the reason in it
REPORTED: list[tuple[Any, str]] = [
    ({"error": "plain"}, "plain"),
    ({"detail": "Model 'nope' was not found"}, "Model 'nope' was not found"),
    ({"message": "no Route matched with those values", "request_id": "1"}, "no Route matched with those values"),
    ({"detail": FASTAPI}, "body.model: Field required; body.messages.0.n: not an integer"),
    ({"error": {"message": "of OpenAI's shape", "type": "t", "code": 5}}, "of OpenAI's shape"),
    ({"error": {"type": "t", "error": {"message": "deeper"}}}, "deeper"),
    ({"error": "Not Found", "message": "no such path", "status": 404}, "Not Found: no such path"),
    ({"error": True, "message": "told here"}, "told here"),
    ({"error": '{"error": {"message": "JSON in a text"}}'}, "JSON in a text"),
    ({"detail": '{"detail": "{\\"message\\": \\"twice\\"}"}'}, "twice"),
    ({"error": "upstream said: {no JSON}"}, "upstream said: {no JSON}"),
    ({"error": "{no JSON"}, "{no JSON"),
    ({"error parsing tool call": "raw='{', err=EOF"}, "error parsing tool call: raw='{', err=EOF"),
    ({"errors": ["one", {"message": "two"}]}, "one; two"),
    ({"title": "Bad Gateway", "detail": "no upstream", "type": "about:blank"}, "no upstream: Bad Gateway"),
    ({"error_description": "the token expired", "error": "invalid_token"}, "invalid_token: the token expired"),
    ({"error": {"code": 5}}, "{'code': 5}"),
    ({"error": {"message": "say\\nmore", "detail": "say"}}, "say\\nmore"),
    # A runner's error in the text of Ollama's
    (
        {"error": '{"error": {"code": 500, "message": "no room"}}\nCUDA error: out of memory'},
        "no room; CUDA error: out of memory",
    ),
    ({"error": '{"a": 1}\nand more'}, '{"a": 1}\nand more'),
    ({"error": 'llama-server error: {"error": {"message": "deeper"}}'}, "deeper"),
    ({"error": 'mlx runner failed: {"error": "deeper"}'}, "deeper"),
    ({"error": "llama-server chat error: map[code:400 message:no: x [y] type:t]"}, "no: x [y]"),
    ({"error": "llama-server template error: map[message:a type:b of it]"}, "a type:b of it"),
    ({"error": "llama-server chat error: map[code:400]"}, "llama-server chat error: map[code:400]"),
    ({"error": "llama-server error: {no JSON"}, "llama-server error: {no JSON"),
    ({"error": "llama-server error: exit status 2"}, "llama-server error: exit status 2"),
]


@pytest.mark.parametrize(("value", "reason"), REPORTED)
def test_a_reason_is_found_in_a_body_and_in_a_line(value: Any, reason: str) -> None:
    # Once wrong: only `error` was looked at
    assert reason_in_body(json.dumps(value).encode()) == reason
    assert reason_in_line(value) == reason
    for kind in ("chat", "generate"):
        for read in (Answer(kind).chunk, lambda line, kind=kind: Answer(kind).absorb([line])):
            with pytest.raises(ServerReportedError) as caught:
                read(value)
            assert str(caught.value) == reason


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            b"<html><head><title>502  Bad &amp; Gateway</title></head>private",
            "an HTML page, not Ollama's answer: 502 Bad & Gateway",
        ),
        (b"<html>private", "an HTML page, not Ollama's answer"),
        (b'"a text as JSON"', "a text as JSON"),
        (b'[{"error": {"message": "in a list"}}]', "in a list"),
        (b'{"error": "<html><title>404</title>private"}', "an HTML page, not Ollama's answer: 404"),
        (b"[" * 60_000, "[" * 300),
        (b'{"error":' * 2000 + b'"x"' + b"}" * 2000, ""),
        (b'{"error": "\\ud83d"}', "\ufffd"),
    ],
)  # fmt: skip
def test_a_reason_in_other_bodies(body: bytes, reason: str) -> None:
    assert reason_in_body(body).startswith(reason)
    assert "private" not in reason_in_body(body)


@pytest.mark.parametrize("kind", ["chat", "generate"])
@pytest.mark.parametrize("nothing", [None, "", False, 0, {}, []])
def test_a_line_with_an_empty_error_is_no_error(kind: Any, nothing: Any) -> None:
    # Once wrong: answers of a server that sends "error": null in each line were errors without a reason
    line = {"message": {"content": "Hi"}, "response": "Hi", "error": nothing, "done": False}
    assert Answer(kind).chunk(line).content == "Hi"
    assert Answer(kind).absorb([line]) is False
    assert reason_in_line({"error": nothing}) == ""


@pytest.mark.parametrize("line", [{"message": "private"}, {"message": "private", "model": "m"}, {"choices": []}, {}])
def test_text_that_may_be_an_answer_is_not_quoted(line: dict[str, Any]) -> None:
    with pytest.raises(MalformedResponseError, match="not of the shape") as caught:
        Answer("chat").chunk(line)
    assert "private" not in str(caught.value)


def answered(status: int, value: Any = None) -> LLMError:
    body = b"" if value is None else json.dumps(value).encode()
    return error_for_status(status, {}, body, url="http://localhost:11434", model="nope")


@pytest.mark.parametrize("status", [400, 404, 422, 500])
@pytest.mark.parametrize(
    "reason",
    ["Model 'nope' was not found", "Model not found", "The model `nope` does not exist.", "no such model: nope",
     "model: 'nope' not found", "unknown model nope"],
)  # fmt: skip
@pytest.mark.parametrize("where", ["error", "detail", "message"])
def test_a_missing_model_is_recognised_in_any_field(status: int, reason: str, where: str) -> None:
    error = answered(status, {where: reason})
    assert isinstance(error, ModelNotFoundError)
    assert error.status_code == status
    assert "ollama pull nope" in str(error)


@pytest.mark.parametrize(("status", "cls"), [(400, BadRequestError), (403, AuthenticationError), (422, BadRequestError),
                                             (500, ServerError)])  # fmt: skip
@pytest.mark.parametrize("value", [{"detail": "because of this"}, {"message": "because of this"}])
def test_the_reason_is_in_the_message(status: int, cls: type, value: Any) -> None:
    error = answered(status, value)
    assert type(error) is cls
    assert "because of this" in str(error)


def test_a_refusal_without_a_reason_names_host_and_origin() -> None:
    # As 0.9.3 answers an unknown Host header
    message = str(answered(403))
    assert "OLLAMA_HOST" in message
    assert "OLLAMA_ORIGINS" in message
    assert "api_key" in message
    assert "OLLAMA_ORIGINS" not in str(answered(403, {"error": "forbidden"}))


def test_a_signed_out_server_names_the_sign_in_page() -> None:
    page = "https://ollama.com/connect?name=host&key=abc"
    message = str(answered(401, {"error": "unauthorized", "signin_url": page}))
    assert page in message
    assert "`ollama signin`" in message
    assert "api_key" not in message
    for other in ("javascript:x", "https://a b", 5, None):
        assert "api_key" in str(answered(401, {"error": "unauthorized", "signin_url": other}))


def test_payment_required_is_a_quota_error() -> None:
    error = answered(402, {"error": "this model requires a subscription"})
    assert isinstance(error, QuotaExceededError)
    assert "402: this model requires a subscription" in str(error)
    assert not error.temporary


@pytest.mark.parametrize("status", [502, 504, 520, 521, 522, 523, 524, 529, 530])
def test_gateway_errors_are_temporary(status: int) -> None:
    assert answered(status).temporary


@pytest.mark.parametrize("status", [501, 505, 511, 525, 526, 599])
def test_other_server_errors_are_permanent(status: int) -> None:
    assert not answered(status).temporary
