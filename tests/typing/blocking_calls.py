"""`provider.sync` as type checkers see it: valid calls, and invalid ones marked with mypy's error code."""

from typing import Any

from typing_extensions import assert_type

from namel3ss_ollama import (
    EmbedResponse,
    LLMResponse,
    NoulQuestion,
    OllamaProvider,
    Preflight,
    SearchResult,
    StreamConfig,
    SyncIterator,
    SyncProvider,
    SyncStream,
    SystemOneResponse,
    WebPage,
)

ASK = [{"role": "user", "content": "count"}]
Json = dict[str, Any]


def results(provider: OllamaProvider) -> None:
    sync = provider.sync
    assert_type(sync, SyncProvider)
    assert_type(sync.agenerate("x", temperature=0.5, timeout=3.0, stream_config=StreamConfig()), LLMResponse)
    assert_type(sync.achat(ASK, tools=[print], tool_choice="auto"), LLMResponse)
    assert_type(sync.stream_generate("x", system="Be brief."), SyncStream)
    assert_type(sync.stream_chat(ASK, tools=None), SyncStream)
    assert_type(sync.agenerate_batch(["x", ASK], temperature=0.5), list[LLMResponse])
    assert_type(sync.agenerate_batch(["x"], return_exceptions=True), list[LLMResponse | BaseException])
    assert_type(sync.embed("x", truncate=True), EmbedResponse)
    assert_type(sync.systemone("x", {"q": NoulQuestion("y")}, timeout=3.0), SystemOneResponse)
    assert_type(sync.list_models(), list[Json])
    assert_type(sync.show_model("x", verbose=True), Json)
    assert_type(sync.exists("x"), bool)
    assert_type(sync.context_window(num_ctx=2048), int | None)
    assert_type(sync.pull_model("x", insecure=True), SyncIterator[Json])
    assert_type(next(sync.push_model()), Json)
    assert_type(list(sync.create_model("x", from_model="y")), list[Json])
    assert_type(sync.preload(num_ctx=2048), LLMResponse)
    assert_type(sync.web_search("x", max_results=3), list[SearchResult])
    assert_type(sync.web_fetch("https://example.com"), WebPage)
    assert_type(sync.account(), Json)
    assert_type(sync.server_status(), Json)
    assert_type(sync.usage(range="24h", scope="self"), Json)
    assert_type(sync.balance(), Json)
    assert_type(sync.version(), str)
    assert_type(sync.is_available(), bool)
    assert_type(sync.preflight(capabilities=["tools"]), Preflight)
    sync.copy_model("x", "y")
    sync.delete_model("y")
    sync.aclose()


def aliases(provider: OllamaProvider, either: str | list[Json]) -> None:
    assert_type(provider.generate("x", temperature=0.5, timeout=3.0), LLMResponse)
    assert_type(provider.chat(ASK, tools=[print]), LLMResponse)
    assert_type(provider.stream("x", system="Be brief."), SyncStream)
    assert_type(provider.stream(ASK, tools=[print]), SyncStream)
    assert_type(provider.stream(either, temperature=0.5), SyncStream)
    assert_type(provider.batch(["x", ASK], tools=[print], timeout=3.0), list[LLMResponse])
    assert_type(provider.batch(["x"], return_exceptions=True), list[LLMResponse | BaseException])


def errors(provider: OllamaProvider) -> None:
    provider.sync.usage(range="1h")  # error: arg-type
    provider.sync.embed("x", trunc=True)  # error: call-arg
    provider.sync.embed(1)  # error: arg-type
    provider.sync.agenerate("x", temprature=1.0)  # error: call-arg
    provider.sync.agenerate("x", temperature="hot")  # error: arg-type
    provider.sync.stream_chat(ASK, suffix="x")  # error: call-arg
    provider.sync.agenerate_batch(["x"], temprature=1.0)  # error: call-overload
    provider.sync.pull_model(insecure="no")  # error: arg-type
    provider.sync.version().major()  # error: attr-defined
    provider.sync.stats()  # error: attr-defined
    provider.generate("x", temprature=1.0)  # error: call-arg
    provider.chat(ASK, suffix="x")  # error: call-arg
    provider.stream("x", tools=[print])  # error: arg-type
    provider.batch(["x"], max_concurrent=3)  # error: call-overload
