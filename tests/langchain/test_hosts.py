"""Several hosts behind a model: routing, the host in answers, and how hosts are stored and displayed."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.exceptions import ModelConnectionError, ModelNotFoundError
from langchain_core.load import dumpd, dumps, load
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import ConfigurableField

from langchain_namel3ss_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM
from namel3ss_ollama import Host, Hosts, LLMConnectionError, LLMTimeoutError, OllamaProvider, RetryPolicy, StreamConfig
from namel3ss_ollama.testing import OllamaServer

SECRET = "s3cr3t"
ADAPTERS: list[Any] = [ChatOllama, OllamaLLM, OllamaEmbeddings]
TWO = ["http://a:1", "http://b:2"]


@pytest.fixture
def servers() -> Iterator[list[OllamaServer]]:
    with OllamaServer() as one, OllamaServer() as two, OllamaServer() as three:
        yield [one, two, three]


@pytest.fixture
def urls(servers: list[OllamaServer]) -> list[str]:
    return [server.url for server in servers]


def ask(model: Any, text: str = "Hi") -> Any:
    return model.embed_query(text) if isinstance(model, OllamaEmbeddings) else model.invoke(text)


def asked(server: OllamaServer) -> int:
    """The number of requests to a server for an answer or vectors."""
    return sum(record.path in ("/api/chat", "/api/generate", "/api/embed") for record in server.requests)


def made(cls: Any, urls: Any, **settings: Any) -> Any:
    return cls(model="all-minilm" if cls is OllamaEmbeddings else "llama3.2", base_url=urls, **settings)


# Where requests go


@pytest.mark.parametrize("cls", ADAPTERS)
def test_requests_avoid_a_host_that_is_down(cls: Any, servers: list[OllamaServer], urls: list[str]) -> None:
    model = made(cls, urls)
    servers[0].refuse()
    for number in range(3):
        assert ask(model, f"Hi {number}")
    assert asked(servers[0]) == 0
    assert sum(map(asked, servers)) == 3
    assert [state.up for state in model._provider_for(sync=True).hosts()] == [False, True, True]


@pytest.mark.parametrize("cls", ADAPTERS)
def test_hosts_in_the_environment(
    cls: Any, servers: list[OllamaServer], urls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOSTS", ",".join(urls))
    model = made(cls, None)
    servers[0].refuse()
    servers[1].refuse()
    assert ask(model)
    assert asked(servers[2]) == 1
    assert model.base_url is None  # as with one address in the environment
    assert model.max_concurrent == "auto"
    assert model._identity()["base_url"] == urls
    assert made(cls, "http://one").max_concurrent == "auto"


@pytest.mark.parametrize("cls", ADAPTERS)
def test_sync_and_async_calls_share_slots(cls: Any, urls: list[str]) -> None:
    model = made(cls, [Host(urls[0], slots=4), *urls[1:]])
    provider = model._provider_for(sync=True)
    assert provider is model._provider_for(sync=False) is copy.deepcopy(model)._provider_for(sync=True)
    assert [state.slots for state in provider.hosts()] == [4, 1, 1]
    assert model.max_concurrent == "auto"
    assert made(cls, urls, max_concurrent=2)._provider_for(sync=True)._limiter.max_concurrent == 2
    assert made(cls, urls, max_concurrent=10)._provider_for(sync=True)._limiter.max_concurrent == 10
    model.base_url = urls[:2]
    assert model._provider_for(sync=True).addresses == (urls[0], urls[1])


async def test_threads_and_loops_never_exceed_a_hosts_slots(servers: list[OllamaServer], urls: list[str]) -> None:
    model = made(ChatOllama, urls)
    inputs = [f"Hi {number}" for number in range(10)]
    results = await asyncio.gather(
        asyncio.to_thread(model.batch, inputs),
        model.abatch(inputs),
        asyncio.to_thread(asyncio.run, model.abatch(inputs)),
    )
    assert [len(answers) for answers in results] == [10, 10, 10]
    assert sum(map(asked, servers)) == 30
    for server in servers:
        answered = [record for record in server.requests if record.path == "/api/chat"]
        for before, after in pairwise(answered):
            assert before.ended is not None
            assert before.ended <= after.time


def test_a_list_of_one_address_is_one_server(ollama_server: OllamaServer) -> None:
    model = made(ChatOllama, [ollama_server.url])
    assert model._provider_for(sync=True).hosts() == []
    assert model.max_concurrent == "auto"
    assert "host" not in model.invoke("Hi").response_metadata
    assert [record.path for record in ollama_server.requests] == ["/api/chat"]


# The host in answers


async def answers_of(model: Any) -> list[dict[str, Any]]:
    """The metadata of an answer, by each method."""
    if isinstance(model, OllamaLLM):
        results = [model.generate(["Hi"]), await model.agenerate(["Hi"])]
        found: list[Any] = [result.generations[0][0].generation_info for result in results]
        for chunks in (list(model._stream("Hi")), [chunk async for chunk in model._astream("Hi")]):
            whole = chunks[0]
            for chunk in chunks[1:]:
                whole = whole + chunk
            found.append(whole.generation_info)
        return found
    messages: list[AIMessage] = [model.invoke("Hi"), await model.ainvoke("Hi")]
    for pieces in (list(model.stream("Hi")), [piece async for piece in model.astream("Hi")]):
        whole_message: AIMessageChunk = pieces[0]
        for piece in pieces[1:]:
            assert "host" not in whole_message.response_metadata  # only once, because merging would concatenate them
            whole_message = whole_message + piece
        messages.append(whole_message)
    return [message.response_metadata for message in messages]


@pytest.mark.parametrize("settings", [{}, {"output_version": "v1"}], ids=["v0", "v1"])
@pytest.mark.parametrize("cls", [ChatOllama, OllamaLLM])
async def test_metadata_names_the_host(
    cls: Any, settings: dict[str, Any], servers: list[OllamaServer], urls: list[str]
) -> None:
    if cls is OllamaLLM and settings:
        pytest.skip("messages have an output_version")
    servers[0].refuse()
    servers[1].refuse()
    for metadata in await answers_of(made(cls, urls, **settings)):
        assert metadata["host"] == urls[2]
    for metadata in await answers_of(made(cls, urls[2], **settings)):
        assert "host" not in metadata  # one server: nothing to report


def test_an_answer_cut_by_max_chunks_names_its_host(servers: list[OllamaServer], urls: list[str]) -> None:
    servers[0].refuse()
    config = StreamConfig(max_chunks=1)
    for cls in (ChatOllama, OllamaLLM):
        model = made(cls, urls[:2], stream_config=config)
        last = list(model.stream("one two three")) if cls is ChatOllama else list(model._stream("one two three"))
        info = last[-1].response_metadata if cls is ChatOllama else last[-1].generation_info
        assert (info["done_reason"], info["host"]) == ("max_chunks", urls[1])


def test_events_name_the_host(servers: list[OllamaServer], urls: list[str]) -> None:
    servers[0].refuse()
    events = list(made(ChatOllama, urls[:2]).stream_events("Hi", version="v3"))
    finished = [event for event in events if event["event"] == "message-finish"]
    assert [event["metadata"]["host"] for event in finished] == [urls[1]]


def test_usage_is_counted_once(servers: list[OllamaServer], urls: list[str]) -> None:
    servers[0].fault("status", status=500)
    counted = UsageMetadataCallbackHandler()
    answer = made(ChatOllama, urls).invoke("Hi", config={"callbacks": [counted]})
    assert answer.usage_metadata is not None
    assert counted.usage_metadata["llama3.2"]["total_tokens"] == answer.usage_metadata["total_tokens"]


# Failures


def test_if_all_are_down_the_error_is_also_langchains(servers: list[OllamaServer], urls: list[str]) -> None:
    for server in servers:
        server.refuse()
    for cls in ADAPTERS:
        with pytest.raises(ModelConnectionError) as caught:
            ask(made(cls, urls, retry=RetryPolicy.off()))
        assert isinstance(caught.value, LLMConnectionError)
    with pytest.raises(LLMTimeoutError):
        ask(made(ChatOllama, urls, timeout=0.2))


def test_a_model_on_no_host(urls: list[str]) -> None:
    with pytest.raises(ModelNotFoundError, match="does not have the model 'gone'"):
        ChatOllama(model="gone", base_url=urls).invoke("Hi")


@pytest.mark.parametrize("cls", ADAPTERS)
@pytest.mark.parametrize(
    ("where", "says"),
    [
        (5, "expected an address, or several in a list, not int"),
        (b"http://a", "expected an address, or several in a list, not bytes"),
        (Host("http://a"), r"expected an address, or \[Host\(...\)\], not Host"),
        ([], "there must be at least one address"),
        (["a", 5], r"hosts\[1\]: expected an address or a Host, not int"),
        (["a", "a"], "http://a:11434 is given twice"),
        (["a", "http://b:port"], r"hosts\[1\]: url: the port is not a number"),
        ({"hosts": ["a"], "weights": 1}, "weights"),
    ],
    ids=str,
)
def test_a_wrong_address_names_the_argument(cls: Any, where: Any, says: str) -> None:
    with pytest.raises(ValueError, match=rf"base_url: .*{says}"):
        made(cls, where)


def test_conflicting_settings(urls: list[str]) -> None:
    with pytest.raises(ValueError, match="userinfo: is for a single address"):
        made(ChatOllama, urls, userinfo="user:word")
    shared = OllamaProvider("llama3.2", urls)
    for where in (None, urls, Hosts(urls), urls[0]):
        assert ChatOllama(provider=shared, base_url=where).base_url == Hosts(urls)
    with pytest.raises(ValueError, match="base_url: belongs to the provider"):
        ChatOllama(provider=shared, base_url=urls[1:])


# Copies, identity and secrets


def reloaded(model: Any) -> Any:
    return load(dumpd(model), allowed_objects=[type(model)], valid_namespaces=["langchain_namel3ss_ollama"])


def rebuilt(model: Any) -> Any:
    return type(model)(**model.model_dump(exclude_none=True))


WAYS: list[Callable[[Any], Any]] = [
    copy.copy,
    copy.deepcopy,
    lambda model: pickle.loads(pickle.dumps(model)),
    reloaded,
    rebuilt,
]


@pytest.mark.filterwarnings("ignore:.* is in beta")
@pytest.mark.parametrize("way", WAYS, ids=["copy", "deepcopy", "pickle", "load", "fields"])
@pytest.mark.parametrize("cls", [ChatOllama, OllamaLLM])
def test_copies_have_all_hosts(cls: Any, way: Callable[[Any], Any], servers: list[OllamaServer]) -> None:
    where = Hosts([Host(servers[0].url, slots=4), servers[1].url], resume="auto", refresh=2.0)
    model = made(cls, where)
    again = way(model)
    assert again.base_url == where
    assert again._identifying_params == model._identifying_params
    provider = again._provider_for(sync=True)
    assert [state.slots for state in provider.hosts()] == [4, 1]
    assert provider._limiter.max_concurrent == model._provider_for(sync=True)._limiter.max_concurrent
    servers[0].refuse()
    assert again.invoke("Hi")
    assert asked(servers[1]) == 1


def test_a_shared_provider(servers: list[OllamaServer], urls: list[str]) -> None:
    provider = OllamaProvider("llama3.2", Hosts(urls, resume="auto"))
    model = ChatOllama(provider=provider)
    assert model._identifying_params["base_url"] == urls
    configurable = model.configurable_fields(temperature=ConfigurableField("t"))
    assert configurable.invoke("Hi", {"configurable": {"t": 0.3}}).response_metadata["host"] in urls
    assert provider.stats().generations_succeeded == 1
    again = pickle.loads(pickle.dumps(model))
    assert again.provider.addresses == tuple(urls)
    assert again.invoke("Hi").response_metadata["host"] in urls


def test_configurable_fields_keep_hosts_and_slots(urls: list[str]) -> None:
    model = made(ChatOllama, [Host(urls[0], api_key=SECRET), *urls[1:]])
    configurable = model.configurable_fields(temperature=ConfigurableField("t"), base_url=ConfigurableField("where"))
    prepared, _ = configurable.prepare({"configurable": {"t": 0.3}})
    assert prepared.base_url == model.base_url
    assert prepared.base_url.hosts[0].api_key == SECRET
    assert prepared.max_concurrent == "auto"
    moved, _ = configurable.prepare({"configurable": {"where": urls[:2]}})
    assert moved._provider_for(sync=True).addresses == (urls[0], urls[1])


def test_cache_keys_include_the_hosts(servers: list[OllamaServer], urls: list[str]) -> None:
    cache = InMemoryCache()
    for where in (urls, urls, urls[:2], Hosts(urls)):
        made(ChatOllama, where, cache=cache).invoke("Hi")
    assert sum(map(asked, servers)) == 2  # `urls` however it is given, and the first two
    assert made(ChatOllama, TWO)._get_llm_string() != made(ChatOllama, TWO[:1])._get_llm_string()
    assert made(ChatOllama, TWO)._identifying_params["base_url"] == TWO


@pytest.mark.parametrize("cls", ADAPTERS)
def test_nothing_shows_a_secret(cls: Any) -> None:
    where = Hosts([f"http://user:{SECRET}@a:1", Host("http://b:2", api_key=SECRET, headers={"x-key": SECRET})])
    model = made(cls, where)
    shown = [repr(model), str(model), repr(model.model_dump()), model.model_dump_json(), repr(model._identity())]
    if cls is not OllamaEmbeddings:
        shown += [dumps(model), repr(model.asdict()), repr(model._identifying_params)]
    if cls is ChatOllama:
        shown.append(model._get_llm_string())
    with pytest.raises(ValueError, match="temperature") as caught:
        made(cls, where, temperature="hot")
    shown.append(str(caught.value))
    assert not [text for text in shown if SECRET in text]
    headers = [server.client._headers for server in model._provider_for(sync=True)._servers]
    assert headers[0]["authorization"].startswith("Basic ")
    assert (headers[1]["authorization"], headers[1]["x-key"]) == (f"Bearer {SECRET}", SECRET)


@pytest.mark.parametrize("cls", ADAPTERS)
def test_hosts_set_later_are_normalized_like_the_constructors(cls: Any) -> None:
    model = made(cls, "http://one")
    model.base_url = [f"http://user:{SECRET}@a:1", "http://b:2"]
    assert model.base_url == Hosts([f"http://user:{SECRET}@a:1", "http://b:2"])
    assert SECRET not in repr(model) + model.model_dump_json() + pickle.dumps(model).decode("latin-1")
    assert model._provider_for(sync=True).addresses == ("http://a:1", "http://b:2")
    with pytest.raises(ValueError, match="base_url: expected an address"):
        model.base_url = 5


@pytest.mark.parametrize("cls", ADAPTERS)
def test_a_pickle_contains_no_secret(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pickled = pickle.dumps(made(cls, [f"http://user:{SECRET}@a:1", Host("http://b:2", api_key=SECRET), "http://c:3"]))
    assert SECRET not in pickled.decode("latin-1")
    with pytest.raises(ValueError, match="set OLLAMA_API_KEY here"):
        ask(pickle.loads(pickled))
    monkeypatch.setenv("OLLAMA_API_KEY", "here")
    sent = [server.client._headers for server in pickle.loads(pickled)._provider_for(sync=False)._servers]
    assert [headers.get("authorization") for headers in sent] == ["Bearer here", "Bearer here", None]
