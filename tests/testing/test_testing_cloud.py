"""The endpoints by which a server reaches ollama.com, by version."""

from __future__ import annotations

import httpx
import pytest

from namel3ss_ollama.testing import OllamaServer

SINCE = [
    ("POST", "/api/me", "0.12.0"),
    ("GET", "/api/status", "0.16.2"),
    ("POST", "/api/experimental/web_search", "0.18.0"),
    ("POST", "/api/experimental/web_fetch", "0.18.0"),
    ("GET", "/api/usage", "0.40.6"),
]
BEFORE = {"0.12.0": "0.11.11", "0.16.2": "0.16.1", "0.18.0": "0.17.7", "0.40.6": "0.40.5"}


@pytest.mark.parametrize(("method", "path", "since"), SINCE)
def test_a_path_exists_from_its_version_on(method: str, path: str, since: str) -> None:
    body = {"query": "q", "url": "http://a"} if method == "POST" else None
    other = "GET" if method == "POST" else "POST"
    for version, statuses in ((BEFORE[since], (404, 404)), ("0.9.3", (404, 404)), (since, (200, 405))):
        with OllamaServer(version=version) as server:
            asked = [httpx.request(how, server.url + path, json=body) for how in (method, other)]
        assert tuple(answer.status_code for answer in asked) == statuses, version
        assert asked[0].text == "404 page not found" or statuses[0] == 200


def test_the_number_of_results() -> None:
    with OllamaServer(version="0.18.0") as server:
        for asked, count in ((None, 5), (0, 5), (3, 3), (10, 10), (99, 10)):
            body = {"query": "q", "max_results": asked}
            answer = httpx.post(server.url + "/api/experimental/web_search", json=body).json()
            assert len(answer["results"]) == count


def test_an_empty_body_is_refused() -> None:
    with OllamaServer(version="0.18.0") as server:
        answer = httpx.post(server.url + "/api/experimental/web_fetch", content=b"  ")
    assert (answer.status_code, answer.json()) == (400, {"error": "missing request body"})


def test_a_script_overrides_the_version() -> None:
    with OllamaServer() as server:
        server.reply(path="/api/balance", json={"purchased": {"balance_usd": 1}})
        assert httpx.get(server.url + "/api/balance").json() == {"purchased": {"balance_usd": 1}}
