"""The endpoints by which a server reaches ollama.com: web search, web pages, the account and its use.

The server is signed in and its cloud is on; the answers depend on the request alone. For anything else script the path:
`server.reply(path="/api/me", status=401, json={"error": "unauthorized", "signin_url": ...})`.
"""

from __future__ import annotations

from urllib.parse import parse_qs

from namel3ss_ollama.versions import at_least

from .answers import Answer, unary
from .checks import Handler, Refused, Scripted, State, payload_of
from .record import Record

__all__ = ["ROUTES", "is_there"]

_SINCE = {
    "/api/me": "0.12.0",  # server/routes.go, 8b894933a
    "/api/status": "0.16.2",  # server/routes.go, 948de6bbd
    "/api/experimental/web_search": "0.18.0",  # server/routes.go, 61086083e
    "/api/experimental/web_fetch": "0.18.0",
    "/api/usage": "0.40.6",  # mann1x/cline v4.100.264
}
_RESULTS = 5  # docs/capabilities/web-search.mdx: the default, and the most
_MOST_RESULTS = 10
_NOTHING = {"request_count": 0, "usage_usd": 0, "input_tokens": 0, "cached_input_tokens": 0, "output_tokens": 0}


def is_there(path: str, version: str) -> bool:
    """Whether a server of that version has the path; True for every path that is not of this module."""
    return at_least(version, _SINCE.get(path, "0"))


def _me(state: State, record: Record, scripted: Scripted) -> Answer:
    name = "tester"
    return unary(
        {"id": "00000000-0000-4000-8000-000000000000", "email": f"{name}@example.com", "name": name, "plan": "free"}
    )


def _status(state: State, record: Record, scripted: Scripted) -> Answer:
    return unary({"cloud": {"disabled": False, "source": "none"}})


def _web_payload(record: Record, kind: str) -> dict[str, object]:
    if not record.body.strip():  # webExperimentalProxyHandler in server/routes.go
        raise Refused(400, "missing request body")
    return payload_of(record, kind)


def _web_search(state: State, record: Record, scripted: Scripted) -> Answer:
    payload = _web_payload(record, "WebSearchRequest")
    asked = payload.get("max_results")
    count = min(asked, _MOST_RESULTS) if isinstance(asked, int) and asked > 0 else _RESULTS
    results = [
        {"title": f"Page {n}", "url": f"https://example.com/{n}", "content": f"About {payload.get('query')}."}
        for n in range(1, count + 1)
    ]
    return unary({"results": results})


def _web_fetch(state: State, record: Record, scripted: Scripted) -> Answer:
    url = _web_payload(record, "WebFetchRequest").get("url")
    return unary({"title": "A page", "content": f"The text of {url}.", "links": ["https://example.com/"]})


def _usage(state: State, record: Record, scripted: Scripted) -> Answer:
    # docs/api/cloud-usage.mdx, without the times, which depend on when it is asked
    asked = {name: values[0] for name, values in parse_qs(record.query).items()}
    span = asked.get("range", "7d")
    answer: dict[str, object] = {
        "range": span,
        "scope": asked.get("scope", "self"),
        "granularity": "hour" if span == "24h" else "day",
        "totals": _NOTHING,
        "buckets": [],
    }
    return unary(answer)


ROUTES: dict[str, dict[str, Handler]] = {
    "/api/me": {"POST": _me},
    "/api/status": {"GET": _status},
    "/api/experimental/web_search": {"POST": _web_search},
    "/api/experimental/web_fetch": {"POST": _web_fetch},
    "/api/usage": {"GET": _usage},
}
"""Path, method, handler."""
