"""Several hosts behind an LLM or embedding: routing, the host in answers, and how hosts are stored and displayed."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from llama_index.core.llms import ChatMessage

from llama_index.embeddings.namel3ss_ollama import OllamaEmbedding
from llama_index.llms.namel3ss_ollama import Ollama
from namel3ss_ollama import Host, Hosts, LLMConnectionError, LLMTimeoutError, OllamaProvider, RetryPolicy
from namel3ss_ollama.testing import OllamaServer

SECRET = "s3cr3t"
ADAPTERS: list[Any] = [Ollama, OllamaEmbedding]
PRIVATE: list[Host | str] = [f"http://user:{SECRET}@a:1", Host("http://b:2", api_key=SECRET), "http://c:3"]


@pytest.fixture
def servers() -> Iterator[list[OllamaServer]]:
    with OllamaServer() as one, OllamaServer() as two, OllamaServer() as three:
        yield [one, two, three]


@pytest.fixture
def urls(servers: list[OllamaServer]) -> list[str]:
    return [server.url for server in servers]


def made(cls: Any, where: Any, **settings: Any) -> Any:
    return cls("all-minilm" if cls is OllamaEmbedding else "llama3.2", where, **settings)


def ask(component: Any, text: str = "Hi") -> Any:
    return component.get_text_embedding(text) if isinstance(component, OllamaEmbedding) else component.complete(text)


def asked(server: OllamaServer) -> int:
    """The number of requests to a server for an answer or vectors."""
    return sum(record.path in ("/api/chat", "/api/embed") for record in server.requests)


# Where requests go


@pytest.mark.parametrize("cls", ADAPTERS)
def test_requests_avoid_a_host_that_is_down(cls: Any, servers: list[OllamaServer], urls: list[str]) -> None:
    component = made(cls, urls)
    servers[0].refuse()
    for number in range(3):
        assert ask(component, f"Hi {number}")
    assert asked(servers[0]) == 0
    assert sum(map(asked, servers)) == 3
    assert [state.up for state in component.provider.hosts()] == [False, True, True]


@pytest.mark.parametrize("cls", ADAPTERS)
def test_hosts_in_the_environment(
    cls: Any, servers: list[OllamaServer], urls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOSTS", ",".join(urls))
    component = made(cls, None)
    servers[0].refuse()
    servers[1].refuse()
    assert ask(component)
    assert asked(servers[2]) == 1
    assert component.base_url == Hosts(urls)
    assert component.max_concurrent == "auto"
    assert made(cls, "http://one").base_url == "http://one:80"


@pytest.mark.parametrize("cls", ADAPTERS)
def test_the_slots_are_the_limit(cls: Any, urls: list[str]) -> None:
    component = made(cls, [Host(urls[0], slots=4), *urls[1:]])
    assert [state.slots for state in component.provider.hosts()] == [4, 1, 1]
    assert (component.max_concurrent, component.provider._limiter.max_concurrent) == ("auto", None)
    for limit in (2, 10):
        limited = made(cls, urls, max_concurrent=limit)
        assert (limited.max_concurrent, limited.provider._limiter.max_concurrent) == (limit, limit)
    assert made(cls, urls[0]).max_concurrent == made(cls, urls[:1]).max_concurrent == "auto"


def test_texts_of_an_index_go_to_all_hosts(servers: list[OllamaServer], urls: list[str]) -> None:
    embedding = made(OllamaEmbedding, urls, embed_batch_size=1)
    texts = [f"text {number}" for number in range(12)]
    assert embedding.get_text_embedding_batch(texts) == made(OllamaEmbedding, servers[0].url).get_text_embedding_batch(
        texts
    )
    assert sum(map(asked, servers)) == 12 + 2


# The host in answers


async def test_raw_names_the_host(servers: list[OllamaServer], urls: list[str]) -> None:
    servers[0].refuse()
    servers[1].refuse()
    for where, host in ((urls, urls[2]), (urls[2], None)):
        llm = made(Ollama, where)
        messages = [ChatMessage("Hi")]
        answers: list[Any] = [llm.complete("Hi"), await llm.acomplete("Hi"), llm.chat(messages)]
        answers += [await llm.achat(messages), list(llm.stream_chat(messages))[-1], list(llm.stream_complete("Hi"))[-1]]
        answers.append([piece async for piece in await llm.astream_chat(messages)][-1])
        assert [answer.raw.get("host") for answer in answers] == [host] * 7


# Failures


def test_all_hosts_are_down(servers: list[OllamaServer], urls: list[str]) -> None:
    for server in servers:
        server.refuse()
    for cls in ADAPTERS:
        with pytest.raises(LLMConnectionError):
            ask(made(cls, urls, retry=RetryPolicy.off()))
    with pytest.raises(LLMTimeoutError):
        made(Ollama, urls).complete("Hi", timeout=0.2)


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
    shared = OllamaProvider("llama3.2", Hosts(urls, resume="auto"))
    for where in (None, urls[0], Hosts(urls, resume="auto")):
        llm = Ollama(provider=shared, base_url=where)
        assert llm.base_url == Hosts(urls, resume="auto")
        assert llm.max_concurrent == "auto"
    with pytest.raises(ValueError, match="base_url: belongs to the provider"):
        Ollama(provider=shared, base_url=urls[1:])


# Copies, identity and secrets


def reloaded(component: Any) -> Any:
    return type(component).from_json(component.to_json())


WAYS: list[Callable[[Any], Any]] = [
    copy.copy,
    copy.deepcopy,
    lambda component: pickle.loads(pickle.dumps(component)),
    lambda component: pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(component)))),
    lambda component: type(component).from_dict(component.to_dict()),
    reloaded,
]


@pytest.mark.parametrize("way", WAYS, ids=["copy", "deepcopy", "pickle", "pickle twice", "dict", "json"])
@pytest.mark.parametrize("cls", ADAPTERS)
def test_copies_have_all_hosts(cls: Any, way: Callable[[Any], Any], servers: list[OllamaServer]) -> None:
    where = Hosts([Host(servers[0].url, slots=4), servers[1].url], resume="auto", refresh=2.0)
    component = made(cls, where)
    again = way(component)
    assert again.base_url == component.base_url == where
    assert [state.slots for state in again.provider.hosts()] == [4, 1]
    assert (again.max_concurrent, again.provider._limiter.max_concurrent) == ("auto", None)
    servers[0].refuse()
    assert ask(again)
    assert asked(servers[1]) == 1


@pytest.mark.parametrize("cls", ADAPTERS)
def test_nothing_shows_a_secret(cls: Any) -> None:
    component = made(cls, [*PRIVATE, Host("http://d:4", headers={"x-key": SECRET})])
    data = component.to_dict()
    assert data["base_url"] == {"hosts": ["http://a:1", "http://b:2", "http://c:3", "http://d:4"]}
    shown = [repr(component), str(component), repr(data), component.to_json(), repr(component.to_payload())]
    assert json.loads(component.to_json())["base_url"] == data["base_url"]
    shown.append(repr(component.__dict__))
    assert not [text for text in shown if SECRET in text]
    headers = [server.client._headers for server in component.provider._servers]
    assert [each.get("authorization", "none").split()[0] for each in headers] == ["Basic", "Bearer", "none", "none"]
    assert headers[3]["x-key"] == SECRET


def test_no_event_shows_a_secret(ollama_server: OllamaServer, recorder: Any) -> None:
    where = ollama_server.url.replace("http://", f"http://user:{SECRET}@")
    made(Ollama, [where, "http://127.0.0.1:9"]).complete("Hi")
    made(OllamaEmbedding, [where, "http://127.0.0.1:9"]).get_text_embedding("Hi")
    events = [event.model_dump_json() for event in recorder.events]
    assert any(ollama_server.url in text for text in events)
    assert not [text for text in events if SECRET in text]


@pytest.mark.parametrize("cls", ADAPTERS)
def test_a_pickle_contains_no_secret(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pickled = pickle.dumps(made(cls, PRIVATE))
    assert SECRET not in pickled.decode("latin-1")
    with pytest.raises(ValueError, match="set OLLAMA_API_KEY here"):
        ask(pickle.loads(pickled))
    monkeypatch.setenv("OLLAMA_API_KEY", "here")
    sent = [server.client._headers for server in pickle.loads(pickled).provider._servers]
    assert [headers.get("authorization") for headers in sent] == ["Bearer here", "Bearer here", None]


@pytest.mark.parametrize("cls", ADAPTERS)
def test_a_pickle_contains_no_headers_of_a_host(cls: Any) -> None:
    pickled = pickle.dumps(made(cls, ["http://a:1", Host("http://b:2", slots=2, headers={"x-key": SECRET})]))
    assert SECRET not in pickled.decode("latin-1")
    again = pickle.loads(pickled)
    assert again.base_url == Hosts(["http://a:1", Host("http://b:2", slots=2)])
    with pytest.raises(ValueError, match=r"headers \(x-key\)"):
        ask(again)


def test_the_schema_of_the_field() -> None:
    for cls in ADAPTERS:
        assert {"type": "array"} in cls.model_json_schema()["properties"]["base_url"]["anyOf"]
