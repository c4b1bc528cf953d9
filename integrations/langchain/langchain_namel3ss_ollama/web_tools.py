"""Tools that search the web and fetch pages, through the server of a model or provider."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any, TypeVar

from langchain_core.tools import BaseTool, StructuredTool, ToolException

from langchain_namel3ss_ollama.errors import translated
from langchain_namel3ss_ollama.settings import OllamaSettings
from namel3ss_ollama import LLMError, OllamaProvider, SearchResult, WebPage, run_sync

__all__ = ["web_fetch_tool", "web_search_tool"]

T = TypeVar("T")
Found = tuple[str, Any]


def web_search_tool(source: OllamaSettings | OllamaProvider, *, max_results: int | None = None) -> BaseTool:
    """A tool `web_search` that a model calls with a `query`.

    The tool message's content is text; its artifact is the list of results as dicts. An argument that the model gets
    wrong is answered with an error message. A failed request raises.

    Args:
        source: A `ChatOllama` or an `OllamaProvider` whose server is asked, as described in
            `OllamaProvider.web_search`.
        max_results: The maximum number of results, up to 10; the service's default is 5.

    Raises:
        TypeError: `source` is neither.
    """
    provider = _providers(source)

    async def search(query: str, *, sync: bool) -> Found:
        results = await _asked(provider(sync).web_search(query, max_results=max_results))
        return _text(results), [asdict(result) for result in results]

    def web_search(query: str) -> Found:
        return run_sync(search(query, sync=True))

    async def aweb_search(query: str) -> Found:
        return await search(query, sync=False)

    return _tool(web_search, aweb_search, "Search the web. Returns pages with title, address and an excerpt.")


def web_fetch_tool(source: OllamaSettings | OllamaProvider) -> BaseTool:
    """A tool `web_fetch` that a model calls with a `url`; like `web_search_tool`, with one page as its artifact.

    Raises:
        TypeError: `source` is neither a model nor a provider.
    """
    provider = _providers(source)

    async def fetch(url: str, *, sync: bool) -> Found:
        page: WebPage = await _asked(provider(sync).web_fetch(url))
        return page.text, {**asdict(page), "links": list(page.links)}

    def web_fetch(url: str) -> Found:
        return run_sync(fetch(url, sync=True))

    async def aweb_fetch(url: str) -> Found:
        return await fetch(url, sync=False)

    return _tool(web_fetch, aweb_fetch, "Read a page of the web. The url begins with http:// or https://.")


def _tool(function: Callable[..., Found], coroutine: Callable[..., Awaitable[Found]], description: str) -> BaseTool:
    return StructuredTool.from_function(
        function,
        coroutine,
        description=description,
        response_format="content_and_artifact",
        handle_tool_error=True,
    )


def _providers(source: OllamaSettings | OllamaProvider) -> Callable[[bool], OllamaProvider]:
    """A function that returns the provider for synchronous calls (True) or asynchronous ones (False)."""
    if isinstance(source, OllamaProvider):
        return lambda sync: source
    if isinstance(source, OllamaSettings):
        return lambda sync: source._provider_for(sync=sync)
    raise TypeError(f"source: expected a ChatOllama or an OllamaProvider, not {type(source).__name__}")


async def _asked(call: Awaitable[T]) -> T:
    try:
        return await call
    except ValueError as error:  # an argument that the model chose
        raise ToolException(str(error)) from error
    except LLMError as error:
        raise translated(error) from error


def _text(results: list[SearchResult]) -> str:
    return "\n\n".join(result.text for result in results) or "No results."
