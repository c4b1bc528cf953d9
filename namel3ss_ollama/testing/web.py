"""The endpoints for ollama.com's services: web search, web pages, and an account's usage.

The answers depend only on the request; for anything else, script the path.
"""

from __future__ import annotations

from urllib.parse import parse_qs

from . import versions
from .answers import Answer, unary
from .checks import Handler, Refused, Scripted, State, payload_of
from .cloud import check_service
from .record import Record

__all__ = ["ROUTES"]

_RESULTS = 5  # docs/capabilities/web-search.mdx: the default, and the maximum
_MOST_RESULTS = 10
_NOTHING = {"request_count": 0, "usage_usd": 0, "input_tokens": 0, "cached_input_tokens": 0, "output_tokens": 0}


def _payload(state: State, record: Record, kind: str, unavailable: str) -> dict[str, object]:
    if not record.body.strip():  # webExperimentalProxyHandler in server/routes.go
        raise Refused(400, "missing request body")
    check_service(state, record, unavailable)
    return payload_of(record, kind)


def _web_search(state: State, record: Record, scripted: Scripted) -> Answer:
    payload = _payload(state, record, "WebSearchRequest", "web search is unavailable")
    asked = payload.get("max_results")
    count = min(asked, _MOST_RESULTS) if isinstance(asked, int) and asked > 0 else _RESULTS
    results = [
        {"title": f"Page {n}", "url": f"https://example.com/{n}", "content": f"About {payload.get('query')}."}
        for n in range(1, count + 1)
    ]
    return unary({"results": results})


def _web_fetch(state: State, record: Record, scripted: Scripted) -> Answer:
    url = _payload(state, record, "WebFetchRequest", "web fetch is unavailable").get("url")
    return unary({"title": "A page", "content": f"The text of {url}.", "links": ["https://example.com/"]})


def _usage(state: State, record: Record, scripted: Scripted) -> Answer:
    # docs/api/cloud-usage.mdx, without the times, which depend on the time of the request
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


ROUTES: dict[str, tuple[versions.Feature, dict[str, Handler]]] = {
    "/api/experimental/web_search": (versions.WEB, {"POST": _web_search}),
    "/api/experimental/web_fetch": (versions.WEB, {"POST": _web_fetch}),
    "/api/usage": (versions.USAGE, {"GET": _usage}),
}
"""Path, the feature it came with, and its handlers by method."""
