"""What each fault of a server comes out as, over both transports, whole and streaming."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from namel3ss_ollama import (
    AuthenticationError,
    BadRequestError,
    LLMConnectionError,
    LLMError,
    MalformedResponseError,
    ModelNotFoundError,
    QuotaExceededError,
    ServerBusyError,
    ServerError,
    StreamInterruptedError,
)
from namel3ss_ollama.settings import StreamConfig
from namel3ss_ollama.testing import OllamaServer

TEXT = "one two three four five six"
ASK = [{"role": "user", "content": "count"}]


@dataclass
class Case:
    """A fault, what it must come out as (None: the whole answer), the attempts of a whole call, what partial holds."""

    fault: str
    error: type[LLMError] | None = None
    attempts: int = 1
    partial: str | None = None
    options: dict[str, Any] | None = None

    def __str__(self) -> str:
        options = "-".join(str(v) for v in (self.options or {}).values())
        return f"{self.fault}{'-' + options if options else ''}"


def status(code: int, error: type[LLMError], attempts: int = 1, **options: Any) -> Case:
    return Case("status", error, attempts, options={"status": code, **options})


CASES = [
    Case("reset_before_headers", LLMConnectionError, 3),
    Case("close_before_headers", LLMConnectionError, 3),
    Case("reset_mid_stream", StreamInterruptedError, 3, "one"),
    Case("half_close", StreamInterruptedError, 3, "one"),
    Case("cut", StreamInterruptedError, 3, "one"),
    Case("truncated", StreamInterruptedError, 1, TEXT),
    Case("error_line", ServerError, 3, "one"),
    Case("malformed_line", MalformedResponseError, 1, "one"),
    Case("invalid_utf8", MalformedResponseError, 1, "one"),
    Case("huge_line", MalformedResponseError, 1, "one"),
    Case("html_page", MalformedResponseError),
    Case("empty_body", StreamInterruptedError),
    Case("bomb", MalformedResponseError),
    Case("redirect", BadRequestError, options={"location": "http://127.0.0.1:9/"}),
    Case("slow_drip", options={"seconds": 0.0}),
    Case("lines_in_one_chunk"),
    Case("byte_chunks"),
    Case("empty_lines"),
    Case("crlf"),
    Case("no_final_newline"),
    Case("extra_after_done"),
    Case("duplicate_done"),
    Case("wrong_content_type"),
    Case("gzip"),
    Case("content_length_long"),
    Case("missing_counter"),
    status(400, BadRequestError),
    status(401, AuthenticationError),
    status(403, AuthenticationError),
    status(404, BadRequestError, body="404 page not found"),
    status(404, ModelNotFoundError, message="model 'llama3.2' not found"),
    status(408, ServerBusyError, 3),
    status(413, BadRequestError),
    status(429, ServerBusyError, 3, message="too many requests"),
    status(429, QuotaExceededError, message="you have reached your weekly usage limit"),
    status(429, ServerBusyError, 1, message="slow down", retry_after=3600),
    status(500, ServerError, 3, message="llama runner process has terminated: exit status 2"),
    status(500, BadRequestError, message='option "temperature" must be of type float32'),
    status(500, ServerError, message="pull model manifest: no network"),
    status(502, ServerError, 3, html=True),
    status(503, ServerBusyError, 3),
    status(504, ServerError, 3, html=True),
]


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_whole_answer(make: Any, ollama_server: OllamaServer, case: Case) -> None:
    ollama_server.reply(TEXT, model="llama3.2")
    ollama_server.fault(case.fault, path="/api/chat", **(case.options or {}))
    provider = make(stream_config=StreamConfig(max_line_bytes=500_000))
    if case.error is None:
        response = await provider.achat(ASK)
        assert response.content == TEXT
        assert response.finish_reason == "stop"
    else:
        with pytest.raises(LLMError) as caught:
            await provider.achat(ASK)
        assert isinstance(caught.value, case.error)
        assert (caught.value.partial.content if caught.value.partial else None) == case.partial
        assert caught.value.provider == "ollama"
    assert len(ollama_server.requests) == case.attempts


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_stream(make: Any, ollama_server: OllamaServer, case: Case) -> None:
    ollama_server.reply(TEXT, model="llama3.2")
    ollama_server.fault(case.fault, path="/api/chat", **(case.options or {}))
    provider = make(stream_config=StreamConfig(max_line_bytes=500_000))
    stream = provider.stream_chat(ASK)
    seen = ""
    error: LLMError | None = None
    try:
        async for chunk in stream:
            seen += chunk.content
    except LLMError as failure:
        error = failure
    assert stream.text == seen
    if case.error is None:
        assert error is None
        assert (stream.end, seen) == ("done", TEXT)
        assert stream.response is not None
        assert stream.response.content == TEXT
    else:
        assert isinstance(error, case.error)
        assert stream.end == "error"
        assert seen == (case.partial or "")
    # After the first chunk a stream is never tried again.
    assert len(ollama_server.requests) == (1 if case.partial else case.attempts)


@pytest.mark.parametrize("fault", ["reset_before_headers", "reset_mid_stream", "cut", "error_line", "status"])
async def test_what_heals_is_not_seen_by_the_caller(make: Any, ollama_server: OllamaServer, fault: str) -> None:
    ollama_server.reply(TEXT, model="llama3.2")
    ollama_server.fault(fault, path="/api/chat", times=2, **({"status": 503} if fault == "status" else {}))
    provider = make()
    response = await provider.achat(ASK)
    assert response.content == TEXT
    assert provider.stats().retries == 2


async def test_too_short_a_content_length_is_never_a_whole_answer(provider: Any, ollama_server: OllamaServer) -> None:
    """The body ends early and its rest looks like a next answer: which of the two shows first depends on timing."""
    ollama_server.reply(TEXT, model="llama3.2")
    ollama_server.fault("content_length_short", path="/api/chat")
    with pytest.raises((StreamInterruptedError, MalformedResponseError)):
        await provider.achat(ASK)


async def test_a_refused_connection_names_address_and_remedy(make: Any, ollama_server: OllamaServer) -> None:
    ollama_server.refuse()
    provider = make()
    with pytest.raises(LLMConnectionError, match="Is Ollama running") as caught:
        await provider.achat(ASK)
    assert ollama_server.url in str(caught.value)
    ollama_server.accept()
    assert (await provider.achat(ASK)).finish_reason == "stop"


@pytest.mark.parametrize(
    ("fault", "options", "expected"),
    [
        ("tool_arguments_object", {}, ({"city": "Rome"}, None)),
        ("tool_arguments_string", {}, ({"city": "Rome"}, None)),
    ],
)
async def test_tool_arguments_however_they_come(
    provider: Any, ollama_server: OllamaServer, fault: str, options: dict[str, Any], expected: Any
) -> None:
    call = {"function": {"name": "weather", "arguments": {"city": "Rome"}}}
    ollama_server.on(path="/api/chat").fault(fault, times=1, **options).reply("", tool_calls=[call])
    response = await provider.achat(ASK)
    assert [(c.arguments, c.invalid_arguments) for c in response.tool_calls] == [expected]
    assert response.finish_reason == "tool_calls"


async def test_broken_tool_arguments_are_kept_and_marked(provider: Any, ollama_server: OllamaServer) -> None:
    call = {"function": {"name": "weather", "arguments": {"city": "Rome"}}}
    ollama_server.on(path="/api/chat").fault("tool_arguments_broken", times=1).reply("", tool_calls=[call])
    response = await provider.achat(ASK)
    (broken,) = response.tool_calls
    assert broken.arguments == {}
    assert broken.invalid_arguments
    assert broken.invalid_arguments.startswith("{")


async def test_an_answer_is_in_no_message(make: Any, ollama_server: OllamaServer) -> None:
    """Whatever goes wrong with an answer, the error's text and its chain do not quote it."""
    secret = "xyzzy-secret"
    for fault in ("malformed_line", "invalid_utf8", "content_length_short", "truncated"):
        ollama_server.reset()
        ollama_server.reply([secret, secret, secret], model="llama3.2")
        ollama_server.fault(fault, path="/api/chat")
        for stream in (True, False):
            with pytest.raises(LLMError) as caught:
                await make().achat(ASK, stream=stream)
            error: BaseException | None = caught.value
            while error is not None:
                assert secret not in f"{error} {error!r}"
                error = error.__cause__
