"""Tools that search the web and fetch pages, through the server of an LLM or provider."""

from __future__ import annotations

from llama_index.core.tools import FunctionTool

from llama_index.llms.namel3ss_ollama.base import Ollama
from namel3ss_ollama import OllamaProvider, SearchResult

__all__ = ["web_fetch_tool", "web_search_tool"]


def web_search_tool(source: Ollama | OllamaProvider, *, max_results: int | None = None) -> FunctionTool:
    """A tool `web_search` that an LLM calls with a `query`; its output is text.

    Args:
        source: An `Ollama` or an `OllamaProvider` whose server is asked, as described in `OllamaProvider.web_search`.
        max_results: The maximum number of results, up to 10; the service's default is 5.

    Raises:
        TypeError: `source` is neither.
    """
    provider = _provider(source)

    def web_search(query: str) -> str:
        return _text(provider.sync.web_search(query, max_results=max_results))

    async def aweb_search(query: str) -> str:
        return _text(await provider.web_search(query, max_results=max_results))

    description = "Search the web. Returns pages with title, address and an excerpt."
    return FunctionTool.from_defaults(web_search, async_fn=aweb_search, description=description)


def web_fetch_tool(source: Ollama | OllamaProvider) -> FunctionTool:
    """A tool `web_fetch` that an LLM calls with a `url`; its output is the page's text and links.

    Raises:
        TypeError: `source` is neither an `Ollama` nor an `OllamaProvider`.
    """
    provider = _provider(source)

    def web_fetch(url: str) -> str:
        return provider.sync.web_fetch(url).text

    async def aweb_fetch(url: str) -> str:
        return (await provider.web_fetch(url)).text

    description = "Read a page of the web. The url begins with http:// or https://."
    return FunctionTool.from_defaults(web_fetch, async_fn=aweb_fetch, description=description)


def _provider(source: Ollama | OllamaProvider) -> OllamaProvider:
    if isinstance(source, OllamaProvider):
        return source
    if isinstance(source, Ollama):
        return source.provider
    raise TypeError(f"source: expected an Ollama or an OllamaProvider, not {type(source).__name__}")


def _text(results: list[SearchResult]) -> str:
    return "\n\n".join(result.text for result in results) or "No results."
