"""What errors say. What each fault comes out as is in tests/matrix."""

from __future__ import annotations

from typing import Any

import pytest

from namel3ss_ollama import LLMConnectionError, LLMError
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
