"""Cassettes: recorded answers of a real server, replayed; and the real server, if there is one.

`--record` records them again from the server at OLLAMA_BASE_URL. A cassette is recorded, never written by hand.
Requests are matched by method, path and body, and not by address, so that any server will do for recording.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import vcr

from namel3ss_ollama.embedded.store import all_models

MODELS = {"smollm2:135m", "smollm2-tools:135m", "smollm2-think:135m", "all-minilm:22m"}
"""The models of the live tests."""
CASSETTES = Path(__file__).parents[2] / "cassettes"
NOWHERE = "http://ollama.invalid:11434"
_NOT_RECORDED = ["authorization", "user-agent", "host", "accept", "connection", "accept-encoding"]
_MADE_UP = re.compile(r"call_[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def server_or_skip(url: str | None) -> str:
    """The address of a real Ollama; without one, the test is skipped with the reason.

    The engine in the process, `embedded://`, is one too, if it has the models: OLLAMA_MODELS is an Ollama's store.
    """
    if not url:
        pytest.skip("OLLAMA_BASE_URL is not set")
    if url.startswith("embedded:"):
        missing = MODELS - {model.name for model in all_models()}
        if missing:
            pytest.skip(f"the store that OLLAMA_MODELS names lacks {', '.join(sorted(missing))}")
        return url
    try:
        httpx.get(f"{url}/api/version", timeout=5)
    except httpx.HTTPError as error:
        pytest.skip(f"no server answers at OLLAMA_BASE_URL: {error!r}")
    return url


@contextmanager
def played(name: str, *, recording: bool, folder: str = "") -> Iterator[None]:
    """While it is active, requests over plain httpx are answered from the cassette `name`, or recorded in it.

    vcrpy hooks in below httpx; requests and responses are the same over the other transport.
    """
    path = CASSETTES / folder / (re.sub(r"\W+", "-", name).strip("-") + ".yaml")
    if recording:
        path.unlink(missing_ok=True)
    player = vcr.VCR(
        record_mode="all" if recording else "none",
        match_on=["method", "path", "json"],
        filter_headers=_NOT_RECORDED,
        before_record_request=_without_host,
        before_record_response=_without_paths,
        decode_compressed_response=True,
    )
    player.register_matcher("json", _same_json)
    with player.use_cassette(str(path)) as cassette:
        yield
    if not recording:
        assert cassette.all_played, f"{path.name} has unused answers: record it again"


def _without_host(request: Any) -> Any:
    request.uri = NOWHERE + request.path
    return request


def _without_paths(response: Any) -> Any:
    """Without the paths of the server's files."""
    if isinstance(body := response["body"]["string"], bytes):
        response["body"]["string"] = re.sub(rb"/[\w./~-]+/blobs/(?=sha256)", b"/models/blobs/", body)
    return response


def _same_json(one: Any, other: Any) -> None:
    assert _comparable(one.body) == _comparable(other.body)


def _comparable(body: bytes | str | None) -> Any:
    """A body as an object, without generated ids and the indents of docstrings (Python 3.13 removes them)."""
    text = body.decode() if isinstance(body, bytes) else body
    return json.loads(re.sub(r"\\n +", r"\\n", _MADE_UP.sub("id", text or "null")))
