"""Headers of one call: which requests get them, their precedence, and what is refused before sending."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from namel3ss_ollama import OllamaProvider
from namel3ss_ollama.testing import Model, OllamaServer

ASK = [{"role": "user", "content": "count"}]
HEADERS = {"X-Tenant": "blue", "Authorization": "Bearer other"}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "now", "description": "", "parameters": {"type": "object", "properties": {}}},
}
CALLS: dict[str, Callable[..., Any]] = {
    "generate": lambda p, **k: p.generate("count", **k),
    "chat": lambda p, **k: p.chat(ASK, **k),
    "stream a prompt": lambda p, **k: list(p.stream("count", **k)),
    "stream a chat": lambda p, **k: list(p.stream(ASK, **k)),
    "batch": lambda p, **k: p.batch(["count"], **k),
    "in one piece": lambda p, **k: p.chat(ASK, stream_internally=False, **k),
}


@pytest.fixture
def provider(ollama_server: OllamaServer) -> Any:
    with OllamaProvider("llama3.2", ollama_server.url, api_key="usual", headers={"X-Team": "red"}) as provider:
        yield provider


@pytest.mark.parametrize("call", list(CALLS))
def test_a_call_has_headers_of_its_own(call: str, provider: OllamaProvider, ollama_server: OllamaServer) -> None:
    CALLS[call](provider, headers=HEADERS)
    CALLS[call](provider, headers=None)
    own, usual = (record.headers for record in ollama_server.requests)
    assert (own["x-tenant"], own["x-team"], own["authorization"]) == ("blue", "red", "Bearer other")
    assert ("x-tenant" in usual, usual["x-team"], usual["authorization"]) == (False, "red", "Bearer usual")
    assert own["content-type"] == "application/json"


def test_each_attempt_has_them(provider: OllamaProvider, ollama_server: OllamaServer) -> None:
    ollama_server.models.add(Model("plain", ("completion",)))  # rejects tools, so that a second request follows
    provider.chat(ASK, model="plain", tools=[TOOL], tool_choice="required", headers=HEADERS)
    assert [record.headers.get("x-tenant") for record in ollama_server.requests] == ["blue", "blue"]


@pytest.mark.parametrize("call", list(CALLS))
@pytest.mark.parametrize(
    ("headers", "error", "match"),
    [
        ({"X-A": "a\r\nX-B: b"}, ValueError, "headers: 'x-a'"),
        ({"X A": "a"}, ValueError, "headers: 'x a'"),
        ({"X-A": "ä"}, ValueError, "headers: 'x-a'"),
        ({"X-A": 1}, ValueError, "headers: 'x-a'"),
        ({"Content-Length": "1"}, ValueError, "frames the request"),
        ({1: "a"}, TypeError, "headers: expected a text as a name"),
        ("X-A: a", TypeError, "headers: expected a mapping"),
    ],
)
def test_invalid_headers_are_refused(
    call: str, headers: Any, error: type[Exception], match: str, provider: OllamaProvider, ollama_server: OllamaServer
) -> None:
    with pytest.raises(error, match=match):
        CALLS[call](provider, headers=headers)
    assert ollama_server.connections == 0
