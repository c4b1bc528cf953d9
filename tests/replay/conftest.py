"""Cassettes: what a real server answered once, told again.

`make record` (pytest --record) records them anew from the server at OLLAMA_BASE_URL. A cassette is recorded, never
written by hand. The address is not part of what is compared, so that one can be recorded from any server.
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

from namel3ss_ollama import OllamaProvider

CASSETTES = Path(__file__).parents[2] / "cassettes"
NOWHERE = "http://ollama.invalid:11434"


def same_json(one: Any, other: Any) -> None:
    assert comparable(one.body) == comparable(other.body)


def comparable(body: bytes | str | None) -> Any:
    """A body as an object, made-up ids of tool calls aside."""
    text = body.decode() if isinstance(body, bytes) else body
    return json.loads(re.sub(r"call_[0-9a-f]{32}", "call_id", text or "null"))


def without_host(request: Any) -> Any:
    request.uri = NOWHERE + request.path
    return request


def without_paths(response: Any) -> Any:
    """A model's details name files of the machine that recorded."""
    body = response["body"]["string"]
    response["body"]["string"] = re.sub(rb"/[\w./~-]+/blobs/(?=sha256)", b"/models/blobs/", body)
    return response


@pytest.fixture(scope="session")
def promised_model(request: pytest.FixtureRequest) -> Iterator[None]:
    """While recording, the server has a model "llama3", so that promised code works as written."""
    if not request.config.getoption("--record"):
        yield
        return
    url = os.environ.get("OLLAMA_BASE_URL", "http://localhost:11434")
    httpx.post(f"{url}/api/copy", json={"source": "smollm2:135m", "destination": "llama3"}).raise_for_status()
    yield
    httpx.request("DELETE", f"{url}/api/delete", json={"model": "llama3"})


@pytest.fixture
def cassette(promised_model: None, request: pytest.FixtureRequest) -> Iterator[None]:
    recording = request.config.getoption("--record")
    name = re.sub(r"\W+", "-", request.node.name.removeprefix("test_")).strip("-")
    path = CASSETTES / f"{name}.yaml"
    if recording:
        path.unlink(missing_ok=True)
    player = vcr.VCR(
        record_mode="all" if recording else "none",
        match_on=["method", "path", "json"],
        filter_headers=["authorization", "user-agent", "host", "accept", "connection", "accept-encoding"],
        before_record_request=without_host,
        before_record_response=without_paths,
        decode_compressed_response=True,
    )
    player.register_matcher("json", same_json)
    with player.use_cassette(str(path)) as played:
        yield
    if not recording:
        assert played.all_played, f"{path.name} holds answers that nobody asked for: record it again"


@pytest.fixture
def make(cassette: None, request: pytest.FixtureRequest) -> Callable[..., OllamaProvider]:
    recording = request.config.getoption("--record")
    url = os.environ.get("OLLAMA_BASE_URL", "http://localhost:11434") if recording else NOWHERE

    def factory(**settings: Any) -> OllamaProvider:
        # vcrpy hooks in below httpx; what is sent and read is the same over either transport
        fixed = {"model": "smollm2:135m", "base_url": url, "transport": "httpx", "temperature": 0, "seed": 1}
        return OllamaProvider(**{**fixed, **settings})

    return factory
