"""The lifecycle of a provider with several hosts: loops, threads, forks, pickles, and no leaks."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import pickle
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from farm import ASK, MODEL, asked, farm, provider_of
from programs import run

from namel3ss_ollama import OllamaProvider
from namel3ss_ollama.hosts import Host, Hosts
from namel3ss_ollama.testing import Gate, OllamaServer

pytestmark = pytest.mark.slow

SECRET = "t0psecret"
PATCHES = {
    "gevent": "import gevent.monkey; gevent.monkey.patch_all()\n",
    "eventlet": """
        import warnings
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # eventlet is deprecated
            import eventlet
        eventlet.monkey_patch()
        """,
}


@pytest.fixture
def servers() -> Iterator[list[OllamaServer]]:
    with farm(3) as servers:
        yield servers


def closed(servers: list[OllamaServer]) -> None:
    for server in servers:
        server.wait_for(lambda s: s.open_connections == 0)


# Pickles and copies


def test_an_unpickled_provider_has_the_hosts(servers: list[OllamaServer]) -> None:
    hosts = Hosts([Host(servers[0].url, slots=3), servers[1].url], resume="auto", refresh=9, eject=2, eject_max=30)
    provider = OllamaProvider(MODEL, hosts, max_concurrent=2, temperature=0.5)
    assert provider.generate("hello").content
    again = pickle.loads(pickle.dumps(provider))
    assert isinstance(again.where, Hosts)
    assert again.where.to_dict() == hosts.to_dict()
    assert again.__reduce__()[1][1] == provider.__reduce__()[1][1]
    assert [state.slots for state in again.hosts()] == [3, 1]
    assert again.generate("hello").content
    for made in (provider, again):
        made.close()
    closed(servers)


def test_headers_of_one_host_are_not_pickled() -> None:
    host = Host("http://b", headers={"x-key": SECRET})
    with pytest.raises(TypeError, match=r"a provider made with headers \(x-key\) cannot be pickled") as caught:
        pickle.dumps(OllamaProvider(MODEL, ["http://a", host]))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("host", [Host("http://b", api_key=SECRET), Host(f"http://me:{SECRET}@b")])
def test_no_secret_of_one_host_is_pickled(host: Host) -> None:
    assert SECRET.encode() not in pickle.dumps(OllamaProvider(MODEL, ["http://a", host]))


def test_a_pickle_holds_no_key_and_takes_it_from_the_environment(
    servers: list[OllamaServer], monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    pickled = pickle.dumps(OllamaProvider(MODEL, [server.url for server in servers], api_key=SECRET))
    assert SECRET.encode() not in pickled
    with pickle.loads(pickled) as again:
        for _ in range(2):
            with pytest.raises(ValueError, match=r"the pickled provider for http.* had a key .* set OLLAMA_API_KEY"):
                again.chat(ASK)
        assert again.stats().running == 0
    assert [server.connections for server in servers] == [0, 0, 0]
    gc.collect()
    assert [str(warning.message) for warning in recwarn] == []
    monkeypatch.setenv("OLLAMA_API_KEY", "another")
    with pickle.loads(pickled) as again:
        again.chat(ASK)
    sent = [record.headers.get("authorization") for server in servers for record in server.requests]
    assert set(sent) == {"Bearer another"}


def test_a_pickle_of_one_host_takes_no_others_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    pickled = pickle.dumps(OllamaProvider(MODEL, f"http://me:{SECRET}@a:1"))
    monkeypatch.setenv("OLLAMA_HOSTS", "http://b,http://c")
    monkeypatch.setenv("OLLAMA_BASE_URL", f"http://me:{SECRET}@a:1")
    again = pickle.loads(pickled)
    assert again.base_url == "http://a:1"
    assert again.hosts() == []


def test_a_copy_is_the_provider_itself() -> None:
    provider = OllamaProvider(MODEL, ["a", "b"])
    assert copy.copy(provider) is provider
    assert copy.deepcopy(provider) is provider


def test_repr() -> None:
    shown = repr(OllamaProvider("m", [f"http://me:{SECRET}@a:1", Host("http://b:1", api_key=SECRET)]))
    assert shown == "OllamaProvider(model='m', base_url=['http://a:1', 'http://b:1'])"
    shown = repr(OllamaProvider("m", [f"http://{number}:1" for number in "abcde"]))
    assert shown == "OllamaProvider(model='m', base_url=['http://a:1', 'http://b:1', 'http://c:1'] and 2 more)"


def test_hosts_of_the_environment(servers: list[OllamaServer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOSTS", ",".join(server.url for server in servers))
    with OllamaProvider(MODEL) as provider:
        assert [state.url for state in provider.hosts()] == [server.url for server in servers]
        assert provider.chat(ASK).host in [server.url for server in servers]


# Loops and threads


@pytest.mark.parametrize("transport", ["aiohttp", "httpx"])
def test_consecutive_loops_and_concurrent_threads(servers: list[OllamaServer], transport: str) -> None:
    provider = provider_of(servers, slots=2, transport=transport, refresh=0.01)

    async def use() -> None:
        for answer in await asyncio.gather(*(provider.achat(ASK) for _ in range(7))):
            assert answer.content
        assert "".join([chunk.content async for chunk in provider.stream_chat(ASK)])

    for _ in range(2):
        asyncio.run(use())
    failures: list[BaseException] = []

    def in_thread() -> None:
        try:
            asyncio.run(use())
            assert provider.chat(ASK).content
            assert "".join(chunk.content for chunk in provider.stream("count"))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=in_thread) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []
    assert (provider.stats().running, provider.stats().queued) == (0, 0)
    assert [state.in_flight for state in provider.hosts()] == [0] * 3
    assert sum(asked(servers)) == 2 * 8 + 4 * 9
    provider.close()
    closed(servers)


def test_a_dropped_provider_is_freed(servers: list[OllamaServer]) -> None:
    provider = provider_of(servers)
    assert asyncio.run(provider.achat(ASK)).content
    known = [weakref.ref(thing) for thing in (provider, provider._pool, provider._limiter)]
    del provider
    gc.collect()
    assert [ref() for ref in known] == [None, None, None]
    closed(servers)


TOUR = """
    from namel3ss_ollama.hosts import Host, Hosts
    hosts = os.environ["HOSTS"].split(",")
    p = OllamaProvider("llama3.2", Hosts([Host(url, slots=2) for url in hosts], refresh=0.001), transport=sys.argv[1])
    async def use():
        for answer in await asyncio.gather(*(p.achat(ask) for _ in range(5))):
            assert answer.content == text
    """


@pytest.mark.parametrize("transport", ["aiohttp", "httpx"])
@pytest.mark.parametrize(
    "code",
    [
        "asyncio.run(use()); asyncio.run(use()); p.close()",
        "asyncio.run(use())",
        "assert p.chat(ask).content == text",
        "assert p.chat(ask).content == text; p.close(); p.close()",
    ],
)
def test_a_program_exits_without_warnings(
    servers: list[OllamaServer], transport: str, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for server in servers[1:]:
        server.reply("one two three four five six", path="/api/chat")
    monkeypatch.setenv("HOSTS", ",".join(server.url for server in servers))
    run(servers[0], f"{TOUR}\n    {code}", transport)
    closed(servers)


@pytest.mark.parametrize("when", ["during a look-up", "after one"])
@pytest.mark.parametrize("dropped", [False, True])
def test_look_ups_cause_no_warning_on_a_loop_closed_by_the_program(
    servers: list[OllamaServer], when: str, dropped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a separate process, where every warning is an error and asyncio's log is checked."""
    code = f"""
    from namel3ss_ollama.hosts import Host, Hosts
    p = OllamaProvider("llama3.2", Hosts(os.environ["HOSTS"].split(","), refresh=0.001), transport=sys.argv[1])
    for _ in range(3):
        loop = asyncio.new_event_loop()
        assert loop.run_until_complete(p.achat(ask)).content
        if {when == "during a look-up"}:
            assert any(not task.done() for task in p._pool.scout._asking.values())
        else:
            loop.run_until_complete(asyncio.wait([t for t in p._pool.scout._asking.values() if t.get_loop() is loop]))
        loop.close()
        del loop
        gc.collect()
    if {dropped}:
        p = None
        gc.collect()
    else:
        assert asyncio.run(p.achat(ask)).content
        assert p.stats().running == 0
        p.close()
    """
    gate = Gate()
    if when == "during a look-up":  # one host does not respond, the others do
        servers[2].reply("", path="/api/ps", json={"models": []}, gate=gate)
    monkeypatch.setenv("HOSTS", ",".join(server.url for server in servers))
    run(servers[0], code, "aiohttp")
    gate.open()
    closed(servers)


@pytest.mark.parametrize("transport", ["aiohttp", "httpx"])
async def test_closing_cancels_the_look_ups(servers: list[OllamaServer], transport: str) -> None:
    gate = Gate()
    servers[2].reply("", path="/api/ps", json={"models": []}, gate=gate)
    provider = provider_of(servers, transport=transport)
    assert (await provider.achat(ASK)).content
    tasks = list(provider._pool.scout._asking.values()) if provider._pool else []
    assert [task.done() for task in tasks].count(False) == 1
    await provider.aclose()
    assert [task.cancelled() for task in tasks].count(True) == 1  # not ended by its closed connection
    gate.open()
    await servers[2].wait_for_async(lambda s: s.open_connections == 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork")
def test_a_forked_child_has_its_own_hosts(servers: list[OllamaServer], monkeypatch: pytest.MonkeyPatch) -> None:
    for server in servers[1:]:
        server.reply("one two three four five six", path="/api/chat")
    code = """
    from namel3ss_ollama.hosts import Host, Hosts
    p = OllamaProvider("llama3.2", Hosts(os.environ["HOSTS"].split(","), refresh=0.001), transport=sys.argv[1])
    assert p.chat(ask).content == text
    import warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # of threads beside a fork
    streams = [iter(p.stream(ask)) for _ in range(3)]
    for stream in streams:
        next(stream)
    child = os.fork()
    if not child:
        code = 1
        try:
            assert [state.in_flight for state in p.hosts()] == [0, 0, 0]
            assert p.stats().running == 0
            assert p.chat(ask).content == text
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for stream in streams:
        list(stream)
    assert p.stats().running == 0
    p.close()
    """
    monkeypatch.setenv("HOSTS", ",".join(server.url for server in servers))
    run(servers[0], code, "aiohttp")


@pytest.mark.parametrize("green", ["gevent", "eventlet"])
def test_greenlets_share_the_hosts(servers: list[OllamaServer], monkeypatch: pytest.MonkeyPatch, green: str) -> None:
    for server in servers[1:]:
        server.reply("one two three four five six", path="/api/chat")
    code = f"""
    {TOUR.strip()}
    threads = [threading.Thread(target=lambda: answers.append(p.chat(ask).content)) for _ in range(8)]
    answers = []
    for thread in threads:
        thread.start()
    assert "".join(c.content for c in p.stream(ask)) == text
    for thread in threads:
        thread.join()
    assert answers == [text] * 8
    assert p.stats().running == 0
    p.close()
    """
    monkeypatch.setenv("HOSTS", ",".join(server.url for server in servers))
    run(servers[0], code, "aiohttp", before=PATCHES[green])


def test_invalid_hosts_are_refused_at_construction(monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[tuple[Any, str]] = [
        ([], "hosts: there must be at least one"),
        (["a", "a"], "is given twice"),
        (Host("a"), "expected several addresses"),
        (5, "expected an address, or several in a list, not int"),
        ([Host("a", headers={"x\n": "y"}), "b"], "headers: "),
        ([Host("a", api_key="\n"), "b"], "api_key: "),
    ]
    for where, message in refused:
        with pytest.raises((TypeError, ValueError), match=message):
            OllamaProvider(MODEL, where)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match="embedded"):
        OllamaProvider(MODEL, ["a", "embedded://"])
