"""Which error a response or an exception becomes, and the remedy in its message."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import aiohttp
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from namel3ss_ollama.answers import Answer, ServerReportedError
from namel3ss_ollama.diagnosis import error_for_exception, error_for_line, error_for_status, retry_after_seconds
from namel3ss_ollama.errors import (
    AuthenticationError,
    BadRequestError,
    ContextWindowExceededError,
    LLMConnectionError,
    LLMError,
    LLMTimeoutError,
    MalformedResponseError,
    ModelNotFoundError,
    QuotaExceededError,
    ServerBusyError,
    ServerError,
    StreamInterruptedError,
)

URL = "http://localhost:11434"


def answered(status: int, reason: object = None, model: str | None = None, **headers: str) -> LLMError:
    body = reason if isinstance(reason, bytes) else b"" if reason is None else json.dumps({"error": reason}).encode()
    return error_for_status(status, httpx.Headers(headers), body, url=URL, model=model)


OF_LLAMA_SERVER = json.dumps(
    {
        "error": {
            "code": 400,
            "message": "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it",
            "type": "exceed_context_size_error",
            "n_prompt_tokens": 5000,
            "n_ctx": 4096,
        }
    }
)
AS_GO_PRINTS_IT = (
    "map[code:400 message:request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it "
    "n_ctx:4096 n_prompt_tokens:5000 type:exceed_context_size_error]"
)
OF_MLX = "input length (5000 tokens) exceeds the model's maximum context length (4096 tokens)"

# status, reason of the server, class, temporary, part of the message
TABLE = [
    (404, 'model "nope" not found, try pulling it first', ModelNotFoundError, False, "`ollama pull nope`"),
    (404, "model 'nope' not found", ModelNotFoundError, False, "provider.pull_model()"),
    (400, "invalid character 'x' looking for beginning of value", BadRequestError, False, "400: invalid character"),
    (400, '"all-minilm" does not support chat', BadRequestError, False, "choose a model that supports it"),
    (400, "model does not support multimodal requests.", BadRequestError, False, "choose a model that supports it"),
    (400, "Failed to load image or audio file", BadRequestError, False, "audio as WAV"),
    (500, "audio input is not supported - hint: ...", BadRequestError, False, "choose a model that supports it"),
    (
        500,
        "failed to process inputs: image: unknown format",
        BadRequestError,
        False,
        'capabilities "vision" and "audio"',
    ),
    (400, '"smollm" does not support tools', BadRequestError, False, "show_model()"),
    (400, '"smollm" does not support thinking', BadRequestError, False, "choose a model that supports it"),
    (500, 'option "temperature" must be of type float32', BadRequestError, False, "must be of type float32"),
    (
        503,
        "server busy, please try again.  maximum pending requests exceeded",
        ServerBusyError,
        True,
        "OLLAMA_MAX_QUEUE",
    ),
    (500, "llama runner process has terminated: signal: killed", ServerError, True, "the server's log says more"),
    (500, "llama runner process has terminated: CUDA error: out of memory", ServerError, True, "out of memory"),
    (500, "pull model manifest: Get: dial tcp: lookup registry: no such host", ServerError, False, "no such host"),
    (500, "pull model manifest: file does not exist", ServerError, False, "file does not exist"),
    (401, "unauthorized", AuthenticationError, False, "OLLAMA_API_KEY"),
    (403, "forbidden", AuthenticationError, False, "api_key"),
    (429, "too many requests", ServerBusyError, True, "lower max_concurrent"),
    (429, "you've reached your hourly usage limit", QuotaExceededError, False, "another account or model"),
    (429, "quota exceeded, please upgrade", QuotaExceededError, False, "wait until it is renewed"),
    (502, "cannot reach ollama.com", ServerError, True, "cannot reach"),
    # Proxies and newer servers
    (504, None, ServerError, True, "504"),
    (408, None, ServerBusyError, True, "408"),
    (500, None, ServerError, False, "500"),
    (501, "timed out waiting for llama runner", ServerError, False, "501"),
    (500, "unexpected EOF", ServerError, True, "unexpected EOF"),
    (500, "model requires more system memory (5.6 GiB) than is available", ServerError, False, "lower num_ctx"),
    (500, "llama runner process has terminated: cudaMalloc failed: out of memory", ServerError, True, "smaller model"),
    (500, "model requires more system memory (1 GiB): lower num_ctx", ServerError, False, "the server's log says more"),
    (500, "template: :1: function not defined", BadRequestError, False, "template"),
    (500, "invalid JSON schema in format", BadRequestError, False, "simplify `format`"),
    (400, "failed to parse grammar", BadRequestError, False, "simplify `format`"),
    (400, "the input exceeds the context length", ContextWindowExceededError, False, "raise num_ctx"),
    (500, "input is longer than the context length", ContextWindowExceededError, False, "shorten the prompt"),
    (400, "context window exceeded", ContextWindowExceededError, False, "raise num_ctx"),
    (400, OF_LLAMA_SERVER, ContextWindowExceededError, False, "(request (5000 tokens) exceeds"),
    (
        500,
        f"llama-server chat error: {AS_GO_PRINTS_IT}",
        ContextWindowExceededError,
        False,
        "(request (5000 tok",
    ),
    (500, OF_MLX, ContextWindowExceededError, False, "num_ctx does not raise this limit"),
    (500, "Context size has been exceeded.", ContextWindowExceededError, False, "shorten the prompt"),
    (500, "input after truncation exceeds maximum context length", ContextWindowExceededError, False, "raise num_ctx"),
    (
        400,
        "the prompt is longer than the context length currently available to the model; shorten the prompt, adjust the "
        "context length in settings, or use a model with a longer context length",
        ContextWindowExceededError,
        False,
        "raise num_ctx",
    ),
    (
        500,
        "llama-server chat error: map[code:400 message:Failed to parse grammar type:invalid_request_error]",
        BadRequestError,
        False,
        "(500: Failed to parse grammar); the server cannot compile this schema into a grammar: simplify `format`",
    ),
    (500, "invalid character '<' looking for beginning of value", ServerError, False, "the server's log says more"),
    (402, "payment required: add credit", QuotaExceededError, False, "add credit or a plan to the account"),
    (403, "ollama cloud is disabled: remote inference is unavailable", AuthenticationError, False, "OLLAMA_NO_CLOUD"),
    (403, "ollama cloud is disabled", AuthenticationError, False, "disable_ollama_cloud"),
    (502, None, ServerError, True, "a gateway did not reach the server"),
    (502, "Post https://ollama.com/api/chat: dial tcp: timeout", ServerError, True, "did not reach ollama.com"),
    (504, None, ServerError, True, "or raise the gateway's limit"),
    (520, None, ServerError, True, "is it running"),
    (524, None, ServerError, True, "stream the answer"),
    (525, None, ServerError, False, "the server's log says more"),
    (404, "page not found", BadRequestError, False, "is the path in base_url right"),
    (404, None, BadRequestError, False, "does not know this path (404)"),
    (405, "method not allowed", BadRequestError, False, "405: method not allowed"),
    (418, None, BadRequestError, False, "the server refused the request (418)"),
    (301, None, BadRequestError, False, "redirects are not followed"),
    (308, None, BadRequestError, False, "set base_url"),
    (407, "login", AuthenticationError, False, "the proxy in front of"),
]


@pytest.mark.parametrize(("status", "reason", "cls", "temporary", "named"), TABLE)
def test_each_answer_is_one_error(status: int, reason: str | None, cls: type, temporary: bool, named: str) -> None:
    error = answered(status, reason, "nope")
    assert type(error) is cls
    assert error.status_code == status
    assert error.temporary is temporary
    assert named in str(error)
    assert error.provider == "ollama"


def test_no_name_is_invented_for_an_unnamed_model() -> None:
    error = answered(404, "model not found, try pulling it first", None)
    assert isinstance(error, ModelNotFoundError)
    assert "`ollama pull <model>`" in str(error)
    assert "None" not in str(error)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"error": "plain"}', "plain"),
        (b'{"error": {"message": "of OpenAI\'s shape", "code": 5}}', "of OpenAI's shape"),
        (b'{"error": {"code": 5}}', "{'code': 5}"),
        (b'{"error": null}', ""),
        (b'{"other": "x"}', ""),
        (b'["a list"]', ""),
        (b"upstream connect error\n", "upstream connect error"),
        (b"  two\n  lines ", "two lines"),
        (b"\xff\xfe", ""),
        (b"", ""),
    ],
)
def test_the_reason_is_found_in_whatever_body(body: bytes, reason: str) -> None:
    assert f"(418{': ' + reason if reason else ''})" in str(answered(418, body))


@pytest.mark.parametrize("status", [302, 400, 401, 404, 407, 418, 429, 500, 502, 503])
@pytest.mark.parametrize("body", [b"<html><b>private</b></html>", b"\n <!DOCTYPE html>private", b"<?xml private?>"])
def test_a_page_is_named_and_not_quoted(status: int, body: bytes) -> None:
    error = answered(status, body, "m")
    assert "private" not in str(error)
    assert "<" not in str(error).replace("ollama pull <model>", "")
    if status >= 400:
        assert "HTML page" in str(error)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_page_with_a_byte_order_mark_is_a_page_too(encoding: str) -> None:
    # Once wrong: str.strip does not take U+FEFF for a space, so that the page is quoted (some servers write one)
    assert "private" not in str(answered(503, "<html>private</html>".encode(encoding))).replace("\x00", "")


def test_a_long_reason_is_truncated() -> None:
    assert len(str(answered(418, "x" * 100_000))) < 500
    assert len(str(error_for_line("x" * 100_000, url=URL))) < 500


@given(st.integers(300, 599), st.binary(max_size=80) | st.sampled_from([row[1] for row in TABLE]))
def test_any_answer_is_some_error(status: int, reason: object) -> None:
    error = answered(status, reason, "m")
    assert isinstance(error, LLMError)
    assert error.status_code == status
    assert str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("reason", "cls", "temporary"),
    [
        ("model 'nope' not found", ModelNotFoundError, False),
        ("server busy, please try again", ServerError, True),
        ("llama runner process has terminated: exit status 2", ServerError, True),
        ("an error was encountered while running the model: unexpected EOF", ServerError, True),
        ("something new", ServerError, False),
        ("", ServerError, False),
        ("input length exceeds the context length", ContextWindowExceededError, False),
        ('option "seed" must be of type integer', BadRequestError, False),
    ],
)
def test_an_error_line_in_a_stream(reason: str, cls: type, temporary: bool) -> None:
    error = error_for_line(reason, url=URL)
    assert type(error) is cls
    assert error.temporary is temporary
    assert reason in str(error)
    assert "None" not in str(error)


@pytest.mark.parametrize("reason", [OF_LLAMA_SERVER, f"llama-server chat error: {AS_GO_PRINTS_IT}", OF_MLX])
def test_a_refused_prompt_has_its_tokens_and_the_window(reason: str) -> None:
    # Once wrong: the MLX runner's error was a ServerError, because of its apostrophe
    for error in (answered(400, reason), answered(500, reason), in_a_line(reason)):
        assert isinstance(error, ContextWindowExceededError)
        assert (error.tokens, error.window) == (5000, 4096)
        assert "map[" not in str(error)
        assert "{" not in str(error)


def in_a_line(reason: str) -> LLMError:
    with pytest.raises(ServerReportedError) as caught:
        Answer("chat").chunk({"error": reason})
    return error_for_line(str(caught.value), url=URL)


# Retry-After

NOW = 1445412480.0  # Wed, 21 Oct 2015 07:28:00 GMT


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("9" * 400, 999999999.0),
        ("Wed, 21 Oct 2015 07:28:30 GMT", 30.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 2015 07:00:00 GMT", 0.0),
        ("Wednesday, 21-Oct-15 07:29:00 GMT", 60.0),
        ("Wed, 21 Oct 2015 09:28:30 +0200", 30.0),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("Wed, 99 Oct 2015 07:28:00 GMT", None),
    ],
)
def test_retry_after_is_a_number_or_a_date(value: str, seconds: float | None) -> None:
    assert retry_after_seconds(httpx.Headers({"Retry-After": value.encode()}), NOW) == seconds


def test_the_third_form_of_a_date_is_gmt_in_any_time_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    # Once wrong: asctime's form has no zone and is read as local time; RFC 9110, 5.6.7 says it is GMT
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        assert retry_after_seconds({"retry-after": "Wed Oct 21 07:28:30 2015"}, NOW) == 30.0
    finally:
        monkeypatch.undo()
        time.tzset()


def test_retry_after_counts_from_now() -> None:
    assert retry_after_seconds({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0
    assert retry_after_seconds({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}) > 1e9
    assert retry_after_seconds({}) is None


@given(
    st.text(max_size=40)
    | st.from_regex(r"[A-Z][a-z]{2}, \d{1,3} [A-Z][a-z]{2} \d{1,5} \d\d:\d\d:\d\d( GMT| [+-]\d{4})?")
)
def test_any_other_retry_after_is_none_or_seconds(value: str) -> None:
    seconds = retry_after_seconds({"retry-after": value}, NOW)
    assert seconds is None or seconds >= 0


@pytest.mark.parametrize(("status", "reason"), [(429, "slow down"), (503, "busy"), (429, "monthly limit")])
def test_errors_of_a_full_server_have_retry_after(status: int, reason: str) -> None:
    assert answered(status, reason, **{"Retry-After": "7"}).retry_after == 7
    assert answered(status, reason).retry_after is None


# Exceptions


def raised(error: Exception, cause: BaseException | None = None, began: bool = False) -> LLMError | None:
    error.__cause__ = cause
    return error_for_exception(error, url=URL, connect_timeout=10.0, began=began)


REQUEST = httpx.Request("POST", URL)


class ClientConnectorDNSError(OSError):
    """Named like aiohttp's class, which is hard to construct."""


class ClientProxyConnectionError(OSError):
    """Named like aiohttp's class, too."""


PEER_GONE = "Server disconnected without sending a response."
CUT = "peer closed connection without sending complete message body (incomplete chunked read)"


@pytest.mark.parametrize(
    ("error", "cause", "cls", "temporary", "named"),
    [
        (httpx.ConnectTimeout("x"), None, LLMTimeoutError, True, "connect of 10 s passed"),
        (httpx.ConnectTimeout("x"), TimeoutError(), LLMTimeoutError, True, "connect of 10 s passed"),
        (httpx.ConnectTimeout("x"), aiohttp.ConnectionTimeoutError(), LLMTimeoutError, True, "connect of 10 s"),
        (httpx.ConnectTimeout("x"), aiohttp.ServerDisconnectedError(), LLMConnectionError, True, "broke before"),
        (httpx.ConnectError("refused"), None, LLMConnectionError, True, "Start it with `ollama serve`"),
        (httpx.ConnectError("x"), OSError(111, "Connection refused"), LLMConnectionError, True, "Connection refused"),
        (httpx.ProxyError("x"), None, LLMConnectionError, True, f"through the proxy to {URL}"),
        (httpx.UnsupportedProtocol("x"), None, BadRequestError, False, "is not an address to send to"),
        (httpx.DecodingError("x"), None, MalformedResponseError, False, "does not decompress"),
        (httpx.RemoteProtocolError(PEER_GONE), None, LLMConnectionError, True, "before any of the answer"),
        (httpx.RemoteProtocolError(CUT), None, LLMConnectionError, True, "before any of the answer"),
        (httpx.ReadError(""), None, LLMConnectionError, True, "ReadError"),
        (httpx.ReadError("x"), ConnectionResetError("reset by peer"), LLMConnectionError, True, "reset by peer"),
        (httpx.WriteError("x"), None, LLMConnectionError, True, "Its log says more"),
        (httpx.ReadTimeout("x"), None, LLMConnectionError, True, "broke before"),
        (httpx.PoolTimeout("x"), None, LLMConnectionError, True, "broke before"),
        (ConnectionResetError("x"), None, LLMConnectionError, True, "broke before"),
        (
            httpx.ConnectTimeout("x"),
            ClientConnectorDNSError("no such host"),
            LLMConnectionError,
            True,
            "Is Ollama running",
        ),
        (httpx.ProxyError("x"), ClientProxyConnectionError("refused"), LLMConnectionError, True, "(refused)"),
    ],
)
def test_each_exception_of_a_transport_is_one_error(
    error: Exception, cause: BaseException | None, cls: type, temporary: bool, named: str
) -> None:
    found = raised(error, cause)
    assert type(found) is cls
    assert found.original_error is error
    assert found.__cause__ is error
    assert found.temporary is temporary
    assert named in str(found)
    assert found.status_code is None


@pytest.mark.parametrize(
    "error",
    [httpx.RemoteProtocolError("illegal status line: private"), aiohttp.ClientError("Bad status line: private")],
)
def test_data_that_is_not_http_is_neither_quoted_nor_kept(error: Exception) -> None:
    found = raised(error)
    assert type(found) is MalformedResponseError
    assert f"data that is not HTTP ({type(error).__name__})" in str(found)
    assert "private" not in str(found)
    assert found.original_error is found.__cause__ is None


@pytest.mark.parametrize(
    "error",
    [httpx.ReadError("x"), httpx.ReadTimeout("x"), httpx.RemoteProtocolError(CUT), ConnectionResetError("x")],
    ids=lambda e: type(e).__name__,
)
def test_an_error_mid_stream_is_an_interrupted_stream(error: Exception) -> None:
    found = raised(error, began=True)
    assert type(found) is StreamInterruptedError
    assert found.temporary
    assert "`partial`" in str(found)


def test_a_failed_connect_is_never_an_interrupted_stream() -> None:
    assert type(raised(httpx.ConnectError("x"), began=True)) is LLMConnectionError
    assert type(raised(httpx.ConnectTimeout("x"), began=True)) is LLMTimeoutError


def test_a_connect_timeout_without_a_limit_is_still_reported() -> None:
    error = error_for_exception(httpx.ConnectTimeout("x"), url=URL, connect_timeout=None, began=False)
    assert isinstance(error, LLMTimeoutError)
    assert (error.deadline, error.seconds) == ("connect", 0)


@pytest.mark.parametrize("error", [ValueError("x"), RuntimeError("x"), KeyError("x"), httpx.InvalidURL("x")])
def test_other_exceptions_are_not_translated(error: Exception) -> None:
    assert raised(error) is None


def test_a_cancellation_is_not_translated() -> None:
    error: Any = asyncio.CancelledError()
    assert raised(error) is None


def test_the_text_of_an_exception_is_one_short_line() -> None:
    found = raised(httpx.ConnectError("a\nb " + "x" * 10_000, request=REQUEST))
    assert "a b xxx" in str(found)
    assert len(str(found)) < 600


def test_the_embedded_engine_has_its_own_remedy_for_a_missing_model() -> None:
    body = b'{"error": "model \\"x\\" not found, try pulling it first"}'
    error = error_for_status(404, {}, body, url="embedded://", model="x")
    assert "`namel3ss-ollama models pull x --embedded`" in str(error)
    assert "`ollama pull x`" in str(error_for_status(404, {}, body, url="http://localhost:11434", model="x"))


def test_newlines_are_removed_from_messages() -> None:
    for reason in ("first\nsecond\r\n third", "model 'x'\nnot found"):
        assert "\n" not in str(error_for_line(reason, url=URL))
        assert "\n" not in str(answered(500, reason))


@pytest.mark.parametrize("reason", ["failed to load model: file not found in model dir", "model's file was not found"])
def test_a_missing_file_is_not_a_missing_model(reason: str) -> None:
    assert not isinstance(error_for_line(reason, url=URL), ModelNotFoundError)
    assert not isinstance(answered(404, reason), ModelNotFoundError)


def test_an_unsupported_image_is_not_blamed_on_the_model() -> None:
    assert "choose a model" not in str(answered(400, "unsupported image format"))
