"""The messages of errors. Which error each fault raises is in tests/matrix."""

from __future__ import annotations

from typing import Any

import pytest

from namel3ss_ollama import AuthenticationError, LLMConnectionError, LLMError
from namel3ss_ollama.testing import OllamaServer

ASK = [{"role": "user", "content": "count"}]


async def test_a_refused_connection_names_address_and_remedy(make: Any, ollama_server: OllamaServer) -> None:
    ollama_server.refuse()
    provider = make()
    with pytest.raises(LLMConnectionError, match="Is Ollama running") as caught:
        await provider.achat(ASK)
    assert ollama_server.url in str(caught.value)
    ollama_server.accept()
    assert (await provider.achat(ASK)).finish_reason == "stop"


GRAMMAR_ERROR = "Failed to parse grammar"
MESSAGES = [
    (
        400,
        f'{{"error":{{"code":400,"message":"{GRAMMAR_ERROR}","type":"invalid_request_error"}}}}',
        "cannot compile this schema",
    ),
    (
        500,
        f"llama-server chat error: map[code:400 message:{GRAMMAR_ERROR}]",
        f"({{}}{GRAMMAR_ERROR}); the server can",
    ),
    (500, "input length (9 tokens) exceeds the model's maximum context length (8 tokens)", "a longer context window"),
    (402, "payment required", "add credit"),
    (403, "ollama cloud is disabled", "unset OLLAMA_NO_CLOUD"),
    (522, "", "a gateway did not reach the server"),
]


@pytest.mark.parametrize("how", ["assembled", "as one object", "streamed"])
@pytest.mark.parametrize(("status", "message", "remedy"), MESSAGES)
async def test_each_failure_of_newer_servers_has_its_remedy(
    make: Any, ollama_server: OllamaServer, status: int, message: str, remedy: str, how: str
) -> None:
    as_lines = [f"{status}: "] if status != 500 else [f"{status}: ", ""]  # a 500 may also be sent as a line
    for prefix in as_lines:
        ollama_server.reset()
        failure = {"error": message}
        if prefix:
            ollama_server.reply(json=failure, status=status, path="/api/chat")
        else:
            ollama_server.reply(lines=[failure], path="/api/chat")
        with pytest.raises(LLMError) as caught:
            if how == "streamed":
                [chunk async for chunk in make().stream_chat(ASK)]
            else:
                await make().achat(ASK, stream_internally=how == "assembled")
        assert remedy.format(prefix) in str(caught.value)
        assert "map[" not in str(caught.value)
        assert caught.value.status_code == (status if prefix else None)


async def test_a_server_that_is_not_signed_in_names_the_page(make: Any, ollama_server: OllamaServer) -> None:
    page = "https://ollama.com/connect?name=host&key=abc"
    ollama_server.reply(json={"error": "unauthorized", "signin_url": page}, status=401, path="/api/chat")
    for stream in (True, False):
        with pytest.raises(AuthenticationError, match="`ollama signin`") as caught:
            await make().achat(ASK, stream_internally=stream)
        assert page in str(caught.value)


async def test_no_message_quotes_an_answer(make: Any, ollama_server: OllamaServer) -> None:
    """Neither the message of an error nor those of its causes quote the answer, whatever is wrong with it."""
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
