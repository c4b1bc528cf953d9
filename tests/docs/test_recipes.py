"""The recipes of docs/recipes run as they stand on their pages, against the test server.

A test whose framework is not installed is skipped; `requirements/dev.in` has those that are small.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from recipe_pages import load

from namel3ss_ollama import instant_retries
from namel3ss_ollama.testing import Gate, OllamaServer


@pytest.fixture(autouse=True)
def address(ollama_server: OllamaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a reader would set: the address of the server."""
    monkeypatch.setenv("OLLAMA_BASE_URL", ollama_server.url)


# FastAPI


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    """An application behind a real server, since hanging up is a matter of sockets."""
    uvicorn = pytest.importorskip("uvicorn")
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", ws="none"))
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.001)
        assert not running.done()
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield client
    finally:
        server.should_exit = True
        await running


def events(text: str) -> list[tuple[str, Any]]:
    pairs = [dict(line.split(": ", 1) for line in event.splitlines()) for event in text.strip().split("\n\n")]
    return [(pair["event"], json.loads(pair["data"])) for pair in pairs]


async def test_fastapi_streams_events(ollama_server: OllamaServer) -> None:
    pytest.importorskip("fastapi.sse")
    ollama_server.reply(["Good", " day", "."])
    async with served(load("fastapi.md").app) as client:
        answer = await client.post("/answer", json={"prompt": "Hello"})
        refused = await client.post("/answer", json={"prompt": ""})
    assert answer.headers["content-type"].startswith("text/event-stream")
    *tokens, (last, data) = events(answer.text)
    assert tokens == [("token", "Good"), ("token", " day"), ("token", ".")]
    assert (last, data["finish_reason"], data["usage"]["completion_tokens"]) == ("done", "stop", 3)
    assert refused.status_code == 422
    assert len(ollama_server.requests) == 1


async def test_fastapi_tells_of_a_failure_as_an_event(ollama_server: OllamaServer) -> None:
    pytest.importorskip("fastapi.sse")
    ollama_server.reply(["Good", " day", "."])
    ollama_server.fault("cut", at_token=2)
    async with served(load("fastapi.md").app) as client:
        answer = await client.post("/answer", json={"prompt": "Hello"})
    assert events(answer.text) == [
        ("token", "Good"),
        ("token", " day"),
        ("error", {"type": "StreamInterruptedError", "temporary": True}),
    ]


@pytest.mark.parametrize("tokens", [0, 1], ids=["before the first token", "within the answer"])
async def test_fastapi_stops_the_model_when_the_client_hangs_up(ollama_server: OllamaServer, tokens: int) -> None:
    pytest.importorskip("fastapi.sse")
    gate = Gate()
    ollama_server.reply(["Good", " day", "."], gates={tokens: gate})
    recipe = load("fastapi.md")
    async with served(recipe.app) as client:
        async with client.stream("POST", "/answer", json={"prompt": "Hello"}) as answer:
            if tokens:
                assert "Good" in await anext(answer.aiter_text())
            await ollama_server.wait_for_async(lambda _: gate.waiting == 1)
        await ollama_server.wait_for_async(lambda s: s.active_requests == 0)
        assert [(r.outcome, r.tokens_sent) for r in ollama_server.requests] == [("client_closed", tokens)]
        assert recipe.provider.stats().generations_cancelled == 1
        assert recipe.provider.stats().running == 0
