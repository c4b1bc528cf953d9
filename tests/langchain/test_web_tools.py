"""The web tools: with a chat model or a provider, in agents, and on failures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import ToolMessage

from langchain_namel3ss_ollama import (
    ChatOllama,
    OllamaAuthenticationError,
    OllamaInvalidRequestError,
    web_fetch_tool,
    web_search_tool,
)
from namel3ss_ollama import OllamaProvider
from namel3ss_ollama.testing import OllamaServer, Reply, ToolCall

SEARCH = "/api/experimental/web_search"


@pytest.fixture
def newest() -> Iterator[OllamaServer]:
    with OllamaServer(version="0.40.6") as server:
        yield server


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"name": name, "args": arguments, "id": "1", "type": "tool_call"}


@pytest.mark.parametrize("kind", ["model", "provider"])
async def test_search_and_fetch(newest: OllamaServer, kind: str) -> None:
    source = ChatOllama(model="m", base_url=newest.url) if kind == "model" else OllamaProvider("m", newest.url)
    search, fetch = web_search_tool(source, max_results=2), web_fetch_tool(source)
    assert (search.name, fetch.name) == ("web_search", "web_fetch")
    assert (list(search.args), list(fetch.args)) == (["query"], ["url"])
    text = "Page 1\nhttps://example.com/1\nAbout rivers.\n\nPage 2\nhttps://example.com/2\nAbout rivers."
    assert search.invoke({"query": "rivers"}) == text
    assert await search.ainvoke({"query": "rivers"}) == text
    assert newest.requests[-1].payload == {"query": "rivers", "max_results": 2}
    message = await search.ainvoke(call("web_search", query="rivers"))
    assert message.artifact[1] == {"title": "Page 2", "url": "https://example.com/2", "content": "About rivers."}
    page = fetch.invoke(call("web_fetch", url="http://a"))
    assert page.content == "A page\nThe text of http://a.\nhttps://example.com/"
    assert page.artifact == {"title": "A page", "content": "The text of http://a.", "links": ["https://example.com/"]}
    assert await fetch.ainvoke({"url": "http://a"}) == page.content


def test_no_results(newest: OllamaServer) -> None:
    newest.reply(path=SEARCH, json={"results": []})
    assert web_search_tool(OllamaProvider("m", newest.url)).invoke({"query": "rivers"}) == "No results."


async def test_a_model_sees_its_invalid_arguments(newest: OllamaServer) -> None:
    fetch = web_fetch_tool(OllamaProvider("m", newest.url))
    for message in (fetch.invoke(call("web_fetch", url="/x")), await fetch.ainvoke(call("web_fetch", url="/x"))):
        assert (message.status, message.content[:4]) == ("error", "url:")
    assert newest.requests == []


async def test_server_errors_are_langchains_errors(newest: OllamaServer, ollama_server: OllamaServer) -> None:
    newest.reply(path=SEARCH, status=401, json={"error": "unauthorized"})
    search = web_search_tool(ChatOllama(model="m", base_url=newest.url))
    with pytest.raises(OllamaAuthenticationError):
        search.invoke({"query": "rivers"})
    with pytest.raises(OllamaAuthenticationError):
        await search.ainvoke({"query": "rivers"})
    with pytest.raises(OllamaInvalidRequestError, match=r"Ollama 0\.18\.0"):
        web_search_tool(ChatOllama(model="m", base_url=ollama_server.url)).invoke({"query": "rivers"})


def test_sync_calls_have_their_own_connection_settings(newest: OllamaServer) -> None:
    model = ChatOllama(model="m", base_url=newest.url, sync_client_kwargs={"headers": {"x-way": "sync"}})
    web_search_tool(model).invoke({"query": "rivers"})
    assert newest.requests[-1].headers["x-way"] == "sync"


@pytest.mark.parametrize("make", [web_search_tool, web_fetch_tool])
def test_other_sources_are_refused(make: Any) -> None:
    with pytest.raises(TypeError, match="ChatOllama or an OllamaProvider, not str"):
        make("llama3.2")


async def test_an_agent_searches(newest: OllamaServer) -> None:
    newest.on(path="/api/chat").sequence(
        Reply(tool_calls=[ToolCall("web_search", {"query": "rivers"})]), Reply("The Tiber.")
    )
    model = ChatOllama(model="llama3.2", base_url=newest.url)
    agent = create_agent(model, [web_search_tool(model, max_results=1), web_fetch_tool(model)])
    state = await agent.ainvoke({"messages": [("user", "A river?")]})
    assert [m.text for m in state["messages"][-2:]] == ["Page 1\nhttps://example.com/1\nAbout rivers.", "The Tiber."]
    assert isinstance(state["messages"][-2], ToolMessage)
