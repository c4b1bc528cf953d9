"""Host and Hosts as values: validation, equality and reprs."""

from __future__ import annotations

import pickle
from typing import Any, cast

import pytest

from namel3ss_ollama.hosts import Host, Hosts, fleet_of, read_hosts


def urls(hosts: Hosts | str | None) -> list[str]:
    assert isinstance(hosts, Hosts)
    return [host.address.url for host in hosts.hosts]


# One host


def test_a_host_has_one_slot_by_default() -> None:
    host = Host("gpu1")
    assert host.address.url == "http://gpu1:11434"
    assert host.slots == 1  # Ollama's own default


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"url": ""}, ValueError, "^url: an address must be like"),
        ({"url": "http://a b"}, ValueError, "^url: "),
        ({"url": "ftp://a"}, ValueError, "^url: the scheme 'ftp'"),
        ({"url": "http://a:port"}, ValueError, "^url: the port"),
        ({"url": None}, TypeError, "^url: expected an address, not NoneType"),
        ({"url": "a", "slots": 0}, ValueError, "^slots: must be above zero"),
        ({"url": "a", "slots": -1}, ValueError, "^slots: "),
        ({"url": "a", "slots": 1.5}, TypeError, "^slots: expected an integer"),
        ({"url": "a", "slots": True}, TypeError, "^slots: "),
        ({"url": "a", "slots": None}, TypeError, "^slots: "),
        ({"url": "a", "slots": "many"}, ValueError, "^slots: expected a number or 'auto', not 'many'"),
    ],
)
def test_an_invalid_host(arguments: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        Host(**arguments)


def test_no_secret_of_a_host_is_shown() -> None:
    host = Host("http://me:secret@gpu1/path", api_key="secret", headers={"x-key": "secret"})
    hosts = Hosts([host, "http://you:secret@gpu2"])
    for shown in (repr(host), str(host), repr(hosts), str(hosts)):
        assert "secret" not in shown
        assert "http://gpu1:80/path" in shown


def test_hosts_can_be_compared_hashed_and_pickled() -> None:
    one, other = (Hosts([Host("a", slots=2, headers={"x": "y"}), "b"], refresh=3) for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    assert pickle.loads(pickle.dumps(one)) == one
    assert one != Hosts(["a", "b"], refresh=3)


# Several


def test_several_hosts_in_their_order() -> None:
    hosts = Hosts(["b:1", Host("a:1", slots="auto"), "https://c/ollama/"])
    assert urls(hosts) == ["http://b:1", "http://a:1", "https://c:443/ollama"]
    assert len(hosts) == 3
    assert urls(Hosts(address for address in ("a", "b"))) == ["http://a:11434", "http://b:11434"]


def test_hosts_may_differ_only_in_path_or_port() -> None:
    assert len(Hosts(["http://gate/one", "http://gate/two", "http://gate:8080/one", "https://gate/one"])) == 4


def test_hosts_may_have_keys_of_their_own() -> None:
    hosts = Hosts([Host("a", api_key="one"), Host("b", api_key="two"), "http://me:three@c"])
    assert [host.api_key for host in hosts.hosts] == ["one", "two", None]
    assert hosts.hosts[2].address.password == "three"


@pytest.mark.parametrize(
    "twice",
    [
        ["a", "a"],
        ["a", "http://a:11434"],
        ["http://a/", "http://a"],
        ["http://a:80", "http://a"],
        ["http://me:x@a", "http://you:y@a"],
        ["a", "b", Host("a", slots=2)],
        ["embedded://", "embedded://engine"],
        ["0.0.0.0:1", "127.0.0.1:1"],
    ],
)
def test_a_duplicate_host(twice: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"^hosts: \S+ is given twice; give it more slots instead"):
        Hosts(twice)


@pytest.mark.parametrize(
    ("hosts", "error", "match"),
    [
        ([], ValueError, "^hosts: there must be at least one address"),
        ("a", TypeError, r"^hosts: expected several addresses; wrap one in \[...\]"),
        (Host("a"), TypeError, "^hosts: expected several addresses"),
        (5, TypeError, "^hosts: expected addresses, not int"),
        (b"a", TypeError, r"^hosts\[0\]: expected an address or a Host, not int"),
        (["a", 5], TypeError, r"^hosts\[1\]: expected an address or a Host, not int"),
        (["a", None], TypeError, r"^hosts\[1\]: "),
        (["a", "ftp://b"], ValueError, r"^hosts\[1\]: url: the scheme 'ftp'"),
        (["a", ""], ValueError, r"^hosts\[1\]: "),
    ],
)
def test_invalid_hosts(hosts: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        Hosts(hosts)


@pytest.mark.parametrize("name", ["refresh", "eject", "eject_max"])
@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-1, ValueError), ("1", TypeError), (None, TypeError), (True, TypeError)]
)
def test_invalid_times(name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"^{name}: "):
        Hosts(["a", "b"], **{name: value})


def test_resume() -> None:
    assert Hosts(["a"]).resume == "off"
    assert Hosts(["a"], resume="auto").resume == "auto"
    with pytest.raises(ValueError, match="resume: expected 'off'"):
        Hosts(["a"], resume=cast("Any", "always"))


# The argument and the environment


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        ("a,b", ["http://a:11434", "http://b:11434"]),
        (" a , , b:1, ", ["http://a:11434", "http://b:1"]),
        ("http://a/one,embedded://", ["http://a:80/one", "embedded://"]),
    ],
)
def test_hosts_of_the_environment(listed: str, found: list[str]) -> None:
    assert urls(read_hosts(None, {"OLLAMA_HOSTS": listed})) == found


@pytest.mark.parametrize("empty", ["", "  ", ",", " , "])
def test_an_environment_that_names_no_host(empty: str) -> None:
    assert read_hosts(None, {"OLLAMA_HOSTS": empty}) is None
    assert read_hosts(None, {}) is None


@pytest.mark.parametrize(
    ("listed", "match"),
    [("a,ftp://b", r"^OLLAMA_HOSTS: hosts\[1\]: "), ("a,a", "^OLLAMA_HOSTS: hosts: http://a:11434 is given twice")],
)
def test_an_invalid_environment(listed: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        read_hosts(None, {"OLLAMA_HOSTS": listed})


def test_the_argument_overrides_the_environment() -> None:
    environ = {"OLLAMA_HOSTS": "a,b"}
    assert read_hosts("c", environ) == "c"
    assert urls(read_hosts(["c", "d"], environ)) == ["http://c:11434", "http://d:11434"]
    hosts = Hosts(["c", "d"])
    assert read_hosts(hosts, environ) is hosts


def test_one_plain_host_is_no_pool() -> None:
    assert read_hosts(["a"], {}) == "a"
    assert read_hosts(Hosts([Host("http://me:x@a")]), {}) == "http://me:x@a"
    assert read_hosts(None, {"OLLAMA_HOSTS": "a"}) == "a"


@pytest.mark.parametrize(
    "hosts",
    [
        Hosts([Host("a", slots=4)]),
        Hosts([Host("a", slots="auto")]),
        Hosts([Host("a", api_key="k")]),
        Hosts([Host("a", headers={"x": "y"})]),
        Hosts(["a"], resume="auto"),
    ],
)
def test_one_host_with_settings_of_its_own_is_one(hosts: Hosts) -> None:
    assert read_hosts(hosts, {}) is hosts


# Their state


def test_the_initial_state() -> None:
    hosts = Hosts([Host("a", slots=3), Host("b", slots="auto"), "embedded://"], eject=2, eject_max=8)
    fleet = fleet_of(hosts)
    assert [(host.url, host.slots, host.auto, host.last_resort) for host in fleet.hosts] == [
        ("http://a:11434", 3, False, False),
        ("http://b:11434", 1, True, False),
        ("embedded://", 1, False, True),
    ]
    assert fleet.slots == 5
    assert not any(host.is_out for host in fleet.hosts)


def test_how_long_a_host_is_ejected() -> None:
    fleet = fleet_of(Hosts(["a", "b"], eject=2, eject_max=8))
    host = fleet.hosts[0]
    now, lengths = 100.0, []
    for _ in range(4):
        fleet.eject(host, now, "it failed")
        lengths.append(host.out_until - now)
        now = host.out_until
        fleet.advance(now)
        assert not host.is_out
    for length, usual in zip(lengths, [2, 4, 8, 8], strict=True):
        assert 0.8 * usual <= length <= 1.2 * usual
