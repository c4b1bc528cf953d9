"""Web search, web pages, account, status, usage and balance: the requests, their servers, and the results."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from namel3ss_ollama import (
    AuthenticationError,
    BadRequestError,
    LLMTimeoutError,
    MalformedResponseError,
    OllamaProvider,
    RetryPolicy,
    SearchResult,
    ServerBusyError,
    WebPage,
)
from namel3ss_ollama.testing import OllamaServer, Reply

SEARCH, FETCH = "/api/experimental/web_search", "/api/experimental/web_fetch"
Call = Callable[[OllamaProvider], Awaitable[Any]]
CALLS: dict[str, tuple[str, str, Call]] = {
    "web_search": ("POST", SEARCH, lambda p: p.web_search("rivers")),
    "web_fetch": ("POST", FETCH, lambda p: p.web_fetch("https://example.com/")),
    "account": ("POST", "/api/me", lambda p: p.account()),
    "server_status": ("GET", "/api/status", lambda p: p.server_status()),
    "usage": ("GET", "/api/usage", lambda p: p.usage()),
    "balance": ("GET", "/api/balance", lambda p: p.balance()),
}
FOUND = {
    "web_search": r"Ollama 0\.18\.0 and newer; a provider with base_url='https://ollama\.com'",
    "web_fetch": r"Ollama 0\.18\.0 and newer; a provider with base_url='https://ollama\.com'",
    "account": r"Ollama 0\.12\.0 and newer",
    "server_status": r"Ollama 0\.16\.2 and newer",
    "usage": r"Ollama 0\.40\.6 and newer",
    "balance": r"the API of https://ollama\.com",
}


class Service(httpx.AsyncBaseTransport):
    """Stands in for ollama.com or another server, and records the requests."""

    def __init__(self, answer: object = None, status: int = 200) -> None:
        self.answer, self.status = answer, status
        self.requests: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        self.requests.append(request)
        return httpx.Response(self.status, json={} if self.answer is None else self.answer, request=request)


@pytest.fixture
def newest() -> Any:
    with OllamaServer(version="0.40.6") as server:
        yield server


async def test_search(make: Any, newest: OllamaServer) -> None:
    provider = make(base_url=newest.url)
    found = await provider.web_search("rivers of Italy")
    assert len(found) == 5
    assert found[0] == SearchResult("Page 1", "https://example.com/1", "About rivers of Italy.")
    assert found[0].text == "Page 1\nhttps://example.com/1\nAbout rivers of Italy."
    assert (newest.requests[-1].path, newest.requests[-1].payload) == (SEARCH, {"query": "rivers of Italy"})
    assert len(await provider.web_search("rivers", max_results=10)) == 10
    assert newest.requests[-1].payload == {"query": "rivers", "max_results": 10}
    assert provider.sync.web_search("rivers", max_results=1)[0].title == "Page 1"


async def test_fetch(make: Any, newest: OllamaServer) -> None:
    provider = make(base_url=newest.url)
    page = await provider.web_fetch("https://example.com/a?b=c")
    assert page == WebPage("A page", "The text of https://example.com/a?b=c.", ("https://example.com/",))
    assert page.text == "A page\nThe text of https://example.com/a?b=c.\nhttps://example.com/"
    assert (newest.requests[-1].path, newest.requests[-1].payload) == (FETCH, {"url": "https://example.com/a?b=c"})
    assert provider.sync.web_fetch("http://example.com").title == "A page"


def test_reprs_hide_the_content() -> None:
    assert repr(SearchResult("secret", "http://secret", "secret")) == "SearchResult(6 characters)"
    assert repr(WebPage("secret", "secret", ("http://secret",))) == "WebPage(6 characters, 1 links)"


async def test_account_status_and_usage(make: Any, newest: OllamaServer) -> None:
    provider = make(base_url=newest.url)
    account = await provider.account()
    assert (account["name"], account["plan"]) == ("tester", "free")
    assert await provider.server_status() == {"cloud": {"disabled": False, "source": "none"}}
    assert (await provider.usage())["range"] == "7d"
    assert newest.requests[-1].query == ""
    used = await provider.usage(range="24h", scope="team", group_by="model")
    assert newest.requests[-1].query == "range=24h&scope=team&group_by=model"
    assert (used["scope"], used["totals"]["request_count"]) == ("team", 0)
    newest.reply(path="/api/balance", json={"purchased": {"balance_usd": 25}})
    assert await provider.balance() == {"purchased": {"balance_usd": 25}}
    assert provider.sync.balance() == {"purchased": {"balance_usd": 25}}
    assert provider.sync.account() == account
    assert provider.sync.usage(range="30d")["range"] == "30d"
    assert "cloud" in provider.sync.server_status()


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("status", [404, 405])
async def test_a_server_without_the_endpoint(make: Any, ollama_server: OllamaServer, name: str, status: int) -> None:
    """0.9.3 has none of them and answers 404; a 405 means the same."""
    method, path, call = CALLS[name]
    if status == 405:
        ollama_server.reply(path=path, body="405 method not allowed", status=405)
    with pytest.raises(BadRequestError, match=rf"\({method} {path} is in {FOUND[name]}") as caught:
        await call(make())
    assert caught.value.status_code == status
    assert ollama_server.url in str(caught.value) or status == 405
    assert isinstance(caught.value.__cause__, BadRequestError)
    assert len(ollama_server.requests) == 1


@pytest.mark.parametrize(
    "base_url", ["https://ollama.com", "ollama.com", "https://www.Ollama.com.", "http://ollama.com"]
)
@pytest.mark.parametrize("name", ["web_search", "web_fetch"])
async def test_ollama_com_has_its_own_path(base_url: str, name: str) -> None:
    service = Service({"results": [], "title": "T", "content": "C"})
    async with OllamaProvider("m", base_url, api_key="k", transport=service) as provider:
        await CALLS[name][2](provider)
    (request,) = service.requests
    assert request.url.host.rstrip(".").lower() in ("ollama.com", "www.ollama.com")
    assert (request.url.path, request.headers["authorization"]) == (f"/api/{name}", "Bearer k")


@pytest.mark.parametrize("base_url", ["http://localhost:1", "https://ollama.com.example", "https://notollama.com"])
@pytest.mark.parametrize("name", CALLS)
async def test_a_key_goes_to_no_other_host(base_url: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_API_KEY", "k")
    service = Service(status=404)
    async with OllamaProvider("m", base_url, transport=service) as provider:
        with pytest.raises(BadRequestError):
            await CALLS[name][2](provider)
    (request,) = service.requests
    assert f"{request.url.scheme}://{request.url.netloc.decode()}" == base_url
    assert (request.url.path, request.headers["authorization"]) == (CALLS[name][1], "Bearer k")


@pytest.mark.parametrize("query", ["", " \n", None, 5])
async def test_an_invalid_query(make: Any, newest: OllamaServer, query: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^query: "):
        await make(base_url=newest.url).web_search(query)
    assert newest.requests == []


@pytest.mark.parametrize("count", [0, -1, 11, 2.5, True, "3"])
async def test_max_results_out_of_range(make: Any, newest: OllamaServer, count: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^max_results: "):
        await make(base_url=newest.url).web_search("rivers", max_results=count)
    assert newest.requests == []


@pytest.mark.parametrize(
    "url",
    [
        *("", "example.com", "ftp://example.com", "file:///etc/passwd", "http://", "https:///x", "http://[::1"),
        *("http://a b", "http://a\nb", "//example.com", None, b"http://example.com"),
    ],
)
async def test_an_invalid_url(make: Any, newest: OllamaServer, url: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^url: "):
        await make(base_url=newest.url).web_fetch(url)
    assert newest.requests == []


@pytest.mark.parametrize("given", [{"range": "1h"}, {"scope": "all"}, {"group_by": "day"}, {"range": ["7d"]}])
async def test_usage_refuses_unknown_values(make: Any, newest: OllamaServer, given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(given))}: "):
        await make(base_url=newest.url).usage(**given)
    assert newest.requests == []


@pytest.mark.parametrize("answer", [{"results": []}, {"results": None}])
async def test_a_search_that_finds_nothing(make: Any, newest: OllamaServer, answer: Any) -> None:
    newest.reply(path=SEARCH, json=answer)
    assert await make(base_url=newest.url).web_search("rivers") == []


async def test_missing_fields_are_empty(make: Any, newest: OllamaServer) -> None:
    newest.reply(path=SEARCH, json={"results": [{"url": "u", "title": None, "score": 1}]})
    newest.reply(path=FETCH, json={"title": None, "content": "C", "links": None})
    provider = make(base_url=newest.url)
    assert await provider.web_search("rivers") == [SearchResult("", "u", "")]
    assert await provider.web_fetch("http://a") == WebPage("", "C", ())


@pytest.mark.parametrize("answer", [{}, {"results": "r"}, {"results": ["r"]}, {"results": [{"title": 1}]}, []])
async def test_a_malformed_search_response(make: Any, newest: OllamaServer, answer: Any) -> None:
    newest.reply(path=SEARCH, json=answer)
    with pytest.raises(MalformedResponseError, match="sent"):
        await make(base_url=newest.url).web_search("rivers")


@pytest.mark.parametrize("answer", [{}, {"links": []}, {"content": 1}, {"content": "c", "links": "l"}])
async def test_a_malformed_page(make: Any, newest: OllamaServer, answer: Any) -> None:
    newest.reply(path=FETCH, json=answer)
    with pytest.raises(MalformedResponseError, match="sent"):
        await make(base_url=newest.url).web_fetch("http://a")


async def test_a_server_that_is_not_signed_in(make: Any, newest: OllamaServer) -> None:
    page = "https://ollama.com/connect?name=x&key=y"
    refusal = {"error": "unauthorized", "signin_url": page}
    for path in ("/api/me", SEARCH):
        newest.reply(path=path, status=401, json=refusal)
    provider = make(base_url=newest.url)
    for call in (provider.account(), provider.web_search("rivers")):
        with pytest.raises(AuthenticationError) as caught:
            await call
        assert page in str(caught.value)


async def test_a_rate_limited_balance_request(make: Any, newest: OllamaServer) -> None:
    newest.reply(path="/api/balance", status=429, json={"error": "too many requests"}, headers={"Retry-After": "40"})
    with pytest.raises(ServerBusyError) as caught:
        await make(base_url=newest.url, retry=RetryPolicy.off()).balance()
    assert (caught.value.retry_after, len(newest.requests)) == (40.0, 1)


@pytest.mark.parametrize("name", CALLS)
async def test_temporary_failures_are_retried(make: Any, newest: OllamaServer, name: str) -> None:
    method, path, call = CALLS[name]
    newest.on(path=path).sequence(
        Reply(status=503, json={"error": "busy"}), Reply(json={"results": [], "title": "", "content": ""})
    )
    await call(make(base_url=newest.url))
    assert [(record.method, record.path, record.status) for record in newest.requests] == [
        (method, path, 503),
        (method, path, 200),
    ]


@pytest.mark.parametrize("name", CALLS)
async def test_timeout_limits_the_call(make: Any, newest: OllamaServer, name: str) -> None:
    newest.fault("stall_before_headers")
    with pytest.raises(LLMTimeoutError) as caught:
        await CALLS[name][2](make(base_url=newest.url, timeout=0.05))
    assert caught.value.deadline == "timeout"


async def test_the_body_has_no_model_options(make: Any, newest: OllamaServer) -> None:
    """Options of the provider are for models."""
    provider = make(base_url=newest.url, temperature=0.5, keep_alive="5m")
    await provider.web_search("Größe")
    await provider.account()
    assert json.loads(newest.requests[0].body) == {"query": "Größe"}
    assert newest.requests[1].body == b""
