"""The web tools: with an LLM or a provider, in agents, and on failures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from llama_index.core.agent.workflow import FunctionAgent

from llama_index.llms.namel3ss_ollama import Ollama, web_fetch_tool, web_search_tool
from namel3ss_ollama import BadRequestError, OllamaProvider
from namel3ss_ollama.testing import OllamaServer, Reply, ToolCall

SEARCH = "/api/experimental/web_search"


@pytest.fixture
def newest() -> Iterator[OllamaServer]:
    with OllamaServer(version="0.40.6") as server:
        yield server


@pytest.mark.parametrize("kind", ["llm", "provider"])
async def test_search_and_fetch(newest: OllamaServer, kind: str) -> None:
    source = Ollama("m", base_url=newest.url) if kind == "llm" else OllamaProvider("m", newest.url)
    search, fetch = web_search_tool(source, max_results=2), web_fetch_tool(source)
    assert (search.metadata.name, fetch.metadata.name) == ("web_search", "web_fetch")
    schemas = [tool.metadata.get_parameters_dict() for tool in (search, fetch)]
    assert [(list(schema["properties"]), schema["required"]) for schema in schemas] == [
        (["query"], ["query"]),
        (["url"], ["url"]),
    ]
    text = "Page 1\nhttps://example.com/1\nAbout rivers.\n\nPage 2\nhttps://example.com/2\nAbout rivers."
    assert search.call(query="rivers").content == text
    assert (await search.acall(query="rivers")).content == text
    assert newest.requests[-1].payload == {"query": "rivers", "max_results": 2}
    page = "A page\nThe text of http://a.\nhttps://example.com/"
    assert fetch.call(url="http://a").content == page
    assert (await fetch.acall(url="http://a")).content == page


def test_no_results(newest: OllamaServer) -> None:
    newest.reply(path=SEARCH, json={"results": []})
    assert web_search_tool(OllamaProvider("m", newest.url)).call(query="rivers").content == "No results."


async def test_failures_are_raised(ollama_server: OllamaServer) -> None:
    llm = Ollama("m", base_url=ollama_server.url)
    with pytest.raises(BadRequestError, match=r"Ollama 0\.18\.0"):
        web_search_tool(llm).call(query="rivers")
    with pytest.raises(ValueError, match=r"^url: "):
        await web_fetch_tool(llm).acall(url="/x")


@pytest.mark.parametrize("make", [web_search_tool, web_fetch_tool])
def test_other_sources_are_refused(make: Any) -> None:
    with pytest.raises(TypeError, match="an Ollama or an OllamaProvider, not str"):
        make("llama3.2")


@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince211")  # LlamaIndex's workflows
async def test_an_agent_searches_and_sees_its_invalid_call(newest: OllamaServer) -> None:
    newest.on(path="/api/chat").sequence(
        Reply(tool_calls=[ToolCall("web_fetch", {"url": "/x"})]),
        Reply(tool_calls=[ToolCall("web_search", {"query": "rivers"})]),
        Reply("The Tiber."),
    )
    llm = Ollama("llama3.2", base_url=newest.url)
    agent = FunctionAgent(tools=[web_search_tool(llm, max_results=1), web_fetch_tool(llm)], llm=llm)
    assert str(await agent.run("A river?")) == "The Tiber."
    chats = [record for record in newest.requests if record.path == "/api/chat"]
    assert "url: expected an address" in chats[1].text
    assert "Page 1\nhttps://example.com/1\nAbout rivers." in chats[2].text
