"""Web search and page retrieval, by the service at ollama.com.

A provider only contacts its own server, so its key goes nowhere else. At ollama.com that is the service itself, which
requires a key. Any other server is asked through its experimental endpoints: it forwards the request to ollama.com,
signed with its own account.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

from namel3ss_ollama.address import is_ollama_com
from namel3ss_ollama.asking import Asking, Endpoint
from namel3ss_ollama.errors import MalformedResponseError
from namel3ss_ollama.settings import check_positive

__all__ = ["SearchResult", "Web", "WebPage"]

Json = dict[str, Any]
MOST_RESULTS = 10
"""The maximum number of results of the service."""


def _endpoint(path: str) -> Endpoint:
    return Endpoint(
        "POST", path, "Ollama 0.18.0 and newer; a provider with base_url='https://ollama.com' and a key asks there"
    )


_SEARCH = _endpoint("/api/experimental/web_search")
_FETCH = _endpoint("/api/experimental/web_fetch")
_SEARCH_THERE = Endpoint("POST", "/api/web_search", "the API of https://ollama.com, without a path in base_url")
_FETCH_THERE = Endpoint("POST", "/api/web_fetch", "the API of https://ollama.com, without a path in base_url")


@dataclass(frozen=True, slots=True, repr=False)
class SearchResult:
    """A page that a search found.

    Attributes:
        title: The page's title.
        url: Its address.
        content: The parts of it that match the search.
    """

    title: str
    url: str
    content: str

    @property
    def text(self) -> str:
        """Title, address and content as text for a model."""
        return f"{self.title}\n{self.url}\n{self.content}"

    def __repr__(self) -> str:
        # Searches are private: a repr ends up in logs.
        return f"SearchResult({len(self.content)} characters)"


@dataclass(frozen=True, slots=True, repr=False)
class WebPage:
    """A web page, as text.

    Attributes:
        title: The page's title.
        content: Its text.
        links: The addresses of its links.
    """

    title: str
    content: str
    links: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Title, content and links as text for a model."""
        return "\n".join(filter(None, [self.title, self.content, *self.links]))

    def __repr__(self) -> str:
        return f"WebPage({len(self.content)} characters, {len(self.links)} links)"


class Web(Asking):
    """The web methods of a provider; construct an `OllamaProvider` to use them."""

    async def web_search(self, query: str, *, max_results: int | None = None) -> list[SearchResult]:
        """Search the web.

        A provider whose `base_url` is at ollama.com uses the service there, which requires a key (`api_key`, or
        OLLAMA_API_KEY). Any other server is asked through its experimental endpoint (Ollama 0.18.0 and newer), and has
        to be signed in at ollama.com (`ollama signin`). Only the provider's own server is contacted.

        Args:
            query: What to search for.
            max_results: The maximum number of results, up to 10; the service's default is 5.

        Raises:
            TypeError, ValueError: An argument is invalid; nothing was sent.
            AuthenticationError: The key is missing or wrong, or the server is not signed in, or its cloud is disabled.
            BadRequestError: The server has no such endpoint; the message says which servers do.
            LLMError: The server failed.
        """
        body: Json = {"query": _checked_query(query)}
        check_positive("max_results", max_results, integer=True)
        if max_results is not None:
            if max_results > MOST_RESULTS:
                raise ValueError(f"max_results: must be at most {MOST_RESULTS}, not {max_results}")
            body["max_results"] = max_results
        answer = await self._ask_endpoint(_SEARCH_THERE if self._is_the_service() else _SEARCH, body)
        results = answer.get("results")
        if results is None and "results" in answer:  # Go's form of an empty list
            return []
        if not isinstance(results, list):
            raise _malformed(self._client.url, "a list of results")
        return [self._result(item) for item in results]

    async def web_fetch(self, url: str) -> WebPage:
        """Fetch a web page through the same server as `web_search`, which opens the address.

        Args:
            url: The page's address, http or https.

        Raises:
            TypeError, ValueError: The address is invalid; nothing was sent.
            LLMError: As `web_search`.
        """
        body: Json = {"url": _checked_url(url)}
        answer = await self._ask_endpoint(_FETCH_THERE if self._is_the_service() else _FETCH, body)
        links = answer.get("links") or []
        if not isinstance(links, list) or not {"title", "content"} & answer.keys():
            raise _malformed(self._client.url, "a page")
        return WebPage(self._text(answer, "title"), self._text(answer, "content"), tuple(str(link) for link in links))

    def _is_the_service(self) -> bool:
        return is_ollama_com(urlsplit(self._client.url).hostname or "")

    def _result(self, item: object) -> SearchResult:
        if not isinstance(item, Mapping):
            raise _malformed(self._client.url, "a result")
        found = cast("Mapping[str, Any]", item)
        return SearchResult(*(self._text(found, name) for name in ("title", "url", "content")))

    def _text(self, found: Mapping[str, Any], name: str) -> str:
        value = found.get(name)
        if value is not None and not isinstance(value, str):
            raise _malformed(self._client.url, f"text as {name!r}")
        return value or ""


def _malformed(url: str, wanted: str) -> MalformedResponseError:
    return MalformedResponseError(f"{url} sent something other than {wanted}; is this an Ollama server?")


def _checked_query(query: str) -> str:
    if not isinstance(query, str):
        raise TypeError(f"query: expected text, not {type(query).__name__}")
    if not query.strip():
        raise ValueError("query: is empty")
    return query


def _checked_url(url: str) -> str:
    if not isinstance(url, str):
        raise TypeError(f"url: expected text, not {type(url).__name__}")
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:  # brackets that hold no IPv6 address
        host = None
    if not host or parts.scheme not in ("http", "https") or any(c.isspace() or not c.isprintable() for c in url):
        raise ValueError("url: expected an address that begins with http:// or https://, without spaces")
    return url
