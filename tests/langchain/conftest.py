"""Fixtures of the adapter's tests: a server of ours, a real one, and what a real one said, told again.

Cassettes are recorded by `pytest tests/langchain --record` from the server at OLLAMA_BASE_URL.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import vcr

from langchain_namel3ss_ollama import ChatOllama
from namel3ss_ollama import OllamaProvider, instant_retries
from namel3ss_ollama.testing import OllamaServer

CASSETTES = Path(__file__).parents[2] / "cassettes" / "langchain"
REAL = os.environ.get("OLLAMA_BASE_URL")  # read now: no test sees the environment
NOWHERE = "http://ollama.invalid:11434"
MADE_UP = re.compile(r"call_[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
NOT_RECORDED = ["authorization", "user-agent", "host", "accept", "connection", "accept-encoding"]


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No tracing, nothing of the machine's settings, no waits between retries."""
    for name in ("LC_OUTPUT_VERSION", "OLLAMA_BASE_URL", "OLLAMA_HOST", "OLLAMA_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2"):
        monkeypatch.setenv(name, "false")
    with instant_retries():
        yield


@pytest.fixture
def chat(ollama_server: OllamaServer) -> Callable[..., ChatOllama]:
    """Makes models that talk to the test server."""

    def make(model: str = "llama3.2", **arguments: Any) -> ChatOllama:
        return ChatOllama(**{"model": model, "base_url": ollama_server.url, **arguments})

    return make


@pytest.fixture(scope="session")
def live_server() -> str:
    """A real Ollama at OLLAMA_BASE_URL; without one the tests that want it are skipped, with the reason."""
    if not REAL:
        pytest.skip("OLLAMA_BASE_URL is not set")
    try:
        httpx.get(f"{REAL}/api/version", timeout=5)
    except httpx.HTTPError as error:
        pytest.skip(f"no server answers at OLLAMA_BASE_URL: {error!r}")
    return REAL


@pytest.fixture
def player(request: pytest.FixtureRequest) -> Iterator[OllamaProvider]:
    """A provider that answers as a real server did when the test's cassette was recorded."""
    recording = request.config.getoption("--record")
    if recording:
        request.getfixturevalue("live_server")
    name = re.sub(r"\W+", "-", f"{request.cls.__name__ if request.cls else ''}-{request.node.name}").strip("-")
    path = CASSETTES / f"{name}.yaml"
    if recording:
        path.unlink(missing_ok=True)
    machine = vcr.VCR(
        record_mode="all" if recording else "none",
        match_on=["method", "path", "json"],
        filter_headers=NOT_RECORDED,
        before_record_request=_without_host,
        before_record_response=_without_paths,
        decode_compressed_response=True,
    )
    machine.register_matcher("json", _same_json)
    # vcrpy hooks in below httpx; what is sent and read is the same over either transport
    provider = OllamaProvider("unset", REAL if recording else NOWHERE, transport="httpx")
    with machine.use_cassette(str(path)) as played:
        yield provider
        provider.close()
    if not recording:
        assert played.all_played, f"{path.name} holds answers that nobody asked for: record it again"


def _without_host(request: Any) -> Any:
    request.uri = NOWHERE + request.path
    return request


def _without_paths(response: Any) -> Any:
    """Without where the server keeps its files."""
    if isinstance(body := response["body"]["string"], bytes):
        response["body"]["string"] = re.sub(rb"/[\w./-]*/blobs/", b"/models/blobs/", body)
    return response


def _same_json(one: Any, other: Any) -> None:
    assert _comparable(one.body) == _comparable(other.body)


def _comparable(body: bytes | str | None) -> Any:
    """A body as an object, without made-up ids of tool calls and indents of docstrings (Python 3.13 takes them off)."""
    text = body.decode() if isinstance(body, bytes) else body
    return json.loads(re.sub(r"\\n +", r"\\n", MADE_UP.sub("call_id", text or "null")))
