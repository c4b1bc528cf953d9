"""Hosts as configuration data and in pickles: only the secrets are lost."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from namel3ss_ollama import Host, Hosts, OllamaProvider

SECRET = "s3cr3t"
PRIVATE = Hosts(
    [
        f"http://user:{SECRET}@a:1",
        Host("http://b:2", slots=4, api_key=SECRET, headers={"x-key": SECRET}),
        Host("http://c:3", slots="auto"),
    ],
    resume="auto",
    refresh=2.0,
)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OLLAMA_API_KEY", "OLLAMA_BASE_URL", "OLLAMA_HOST", "OLLAMA_HOSTS"):
        monkeypatch.delenv(name, raising=False)


def test_no_repr_shows_a_secret() -> None:
    assert repr(PRIVATE.hosts[1]) == "Host('http://b:2', slots=4)"
    for shown in (repr(PRIVATE), str(PRIVATE), repr(PRIVATE.hosts[0]), repr(OllamaProvider("m", PRIVATE))):
        assert SECRET not in shown
        assert "http://" in shown


def test_data_round_trip() -> None:
    data = PRIVATE.to_dict()
    assert data == {
        "hosts": ["http://a:1", {"url": "http://b:2", "slots": 4}, {"url": "http://c:3", "slots": "auto"}],
        "resume": "auto",
        "refresh": 2.0,
    }
    again = Hosts.from_dict(data)
    assert again.to_dict() == data
    assert again != PRIVATE
    assert Hosts.from_dict({"hosts": ["http://a:1"]}) == Hosts(["http://a:1"])
    assert Hosts.from_dict({"hosts": [{"url": "http://b:2", "api_key": "k"}]}).hosts[0].api_key == "k"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({}, "at least one address"),
        ({"hosts": "http://a"}, "expected several addresses"),
        ({"hosts": ["a"], "retries": 3}, "retries"),
        ({"hosts": [{"url": "a", "weight": 3}]}, "weight"),
        ({"hosts": [5]}, r"hosts\[0\]: expected an address or a Host, not int"),
    ],
)
def test_wrong_data(data: dict[str, Any], says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        Hosts.from_dict(data)


@pytest.mark.parametrize("where", [5, b"http://a", {"a": 1}, Host("a"), ["a", 5], ["a", "a"], []], ids=repr)
def test_a_wrong_address_names_the_argument(where: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="base_url: "):
        OllamaProvider("m", where)


def provider_in_pickle(where: Any) -> bytes:
    pickled = pickle.dumps(OllamaProvider("m", where))
    assert SECRET not in pickled.decode("latin-1")
    return pickled


def authorizations(pickled: bytes) -> dict[str, str | None]:
    provider = pickle.loads(pickled)
    return {server.url: server.client._headers.get("authorization") for server in provider._servers}


def test_a_pickle_keeps_all_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    where = Hosts(["http://a:1", Host("http://b:2", slots=4)], resume="auto")
    again = pickle.loads(provider_in_pickle(where))
    assert again.addresses == ("http://a:1", "http://b:2")
    assert [state.slots for state in again.hosts()] == [1, 4]
    assert again._hosts.resume == "auto"
    monkeypatch.setenv("OLLAMA_API_KEY", SECRET)  # not used for hosts that had no key
    assert set(authorizations(provider_in_pickle(again.addresses)).values()) == {f"Bearer {SECRET}"}
    assert set(authorizations(pickle.dumps(again)).values()) == {None}


def test_unpickling_reads_each_hosts_credentials_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    pickled = provider_in_pickle([f"http://user:{SECRET}@a:1", Host("http://b:2", api_key=SECRET), "http://c:3"])
    for times in range(2):
        refusing = pickle.loads(pickled)
        with pytest.raises(ValueError, match=r"for http://a:1, http://b:2 had a key or password.*OLLAMA_HOSTS"):
            refusing.generate("hello")
        pickled = pickle.dumps(refusing) if not times else pickled
    monkeypatch.setenv("OLLAMA_API_KEY", "here")
    assert authorizations(pickled) == {"http://a:1": "Bearer here", "http://b:2": "Bearer here", "http://c:3": None}
    monkeypatch.setenv("OLLAMA_HOSTS", "http://user:a%40b@a:1,http://c:3")
    assert authorizations(pickled) == {
        "http://a:1": "Basic dXNlcjphQGI=",  # user:a@b
        "http://b:2": "Bearer here",
        "http://c:3": None,
    }


def test_a_pickle_of_one_address_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # Once wrong: with OLLAMA_HOSTS set, the unpickled provider used those hosts
    pickled = provider_in_pickle(f"http://user:{SECRET}@a:1")
    monkeypatch.setenv("OLLAMA_BASE_URL", "http://user:a%40b@a:1")
    monkeypatch.setenv("OLLAMA_HOSTS", "http://b:2,http://c:3")
    assert authorizations(pickled) == {"http://a:1": "Basic dXNlcjphQGI="}
    monkeypatch.delenv("OLLAMA_BASE_URL")
    monkeypatch.setenv("OLLAMA_HOSTS", "http://user:c@a:1")
    assert authorizations(pickled) == {"http://a:1": "Basic dXNlcjpj"}


def test_headers_of_a_host_are_not_pickled() -> None:
    with pytest.raises(TypeError, match=r"headers \(x-key\)"):
        pickle.dumps(OllamaProvider("m", PRIVATE))
