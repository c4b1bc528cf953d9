"""Fixtures of the adapter's tests: the test server, a real server, and replayed answers of a real server.

Cassettes are recorded by `pytest tests/llama_index --record -k replay` from the server at OLLAMA_BASE_URL.
"""

from __future__ import annotations

import asyncio
import inspect
import ipaddress
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from pydantic import PrivateAttr
from recordings import NOWHERE, played

from llama_index.embeddings.namel3ss_ollama import OllamaEmbedding
from llama_index.llms.namel3ss_ollama import Ollama
from namel3ss_ollama import OllamaProvider, instant_retries
from namel3ss_ollama.testing import OllamaServer


@pytest.fixture(autouse=True)
def _no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only loopback connections: LlamaIndex would download missing tokenizers and corpora."""
    if request.node.get_closest_marker("live"):
        return
    real = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and not ipaddress.ip_address(address[0]).is_loopback:
            raise AssertionError(f"a test wants to reach {address}")
        real(self, address)

    def resolve(host: Any, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"a test wants to look up {host}")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "gethostbyname", resolve)


@pytest.fixture(autouse=True)
def _loops_are_closed(request: pytest.FixtureRequest) -> Iterator[None]:
    """LlamaIndex's synchronous methods run on the thread's event loop, or create one that is never closed."""
    if inspect.iscoroutinefunction(request.function):
        yield
        return
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    loop.run_until_complete(loop.shutdown_asyncgens())
    while tasks := asyncio.all_tasks(loop):
        loop.run_until_complete(asyncio.wait(tasks))
    loop.close()
    asyncio.set_event_loop(None)


@pytest.fixture(autouse=True)
def _instant_retries() -> Iterator[None]:
    with instant_retries():
        yield


@pytest.fixture(autouse=True)
def _providers_are_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Closes the test's objects, on the loop of synchronous calls too; the test's own loops close their connections."""
    made: list[OllamaProvider] = []
    real = OllamaProvider.__init__

    def init(self: OllamaProvider, *args: Any, **kwargs: Any) -> None:
        real(self, *args, **kwargs)
        made.append(self)

    monkeypatch.setattr(OllamaProvider, "__init__", init)
    yield
    for provider in made:
        provider.close()


@pytest.fixture
def make_llm(ollama_server: OllamaServer) -> Callable[..., Ollama]:
    def make(model: str = "llama3.2", **settings: Any) -> Ollama:
        return Ollama(model, ollama_server.url, **settings)

    return make


@pytest.fixture
def llm(make_llm: Callable[..., Ollama]) -> Ollama:
    return make_llm()


@pytest.fixture
def embedding(ollama_server: OllamaServer) -> OllamaEmbedding:
    return OllamaEmbedding("all-minilm", ollama_server.url)


@pytest.fixture
def sent(ollama_server: OllamaServer) -> Callable[..., list[dict[str, Any]]]:
    """The bodies of the requests to an endpoint so far."""

    def bodies(path: str = "/api/chat") -> list[dict[str, Any]]:
        return [record.payload for record in ollama_server.requests if record.path == path]

    return bodies


@pytest.fixture
def cassette(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a server that replays the answers of a real one from the test's cassette."""
    recording = request.config.getoption("--record")
    url = request.getfixturevalue("live_server") if recording else NOWHERE
    with played(request.node.name.removeprefix("test_"), folder="llama_index", recording=recording):
        yield url


class Recorder(BaseEventHandler):
    """Keeps every event."""

    _events: list[Any] = PrivateAttr(default_factory=list)

    @classmethod
    def class_name(cls) -> str:
        return "Recorder"

    def handle(self, event: Any, **kwargs: Any) -> None:
        self._events.append(event)

    @property
    def events(self) -> list[Any]:
        return self._events

    @property
    def names(self) -> list[str]:
        """The events' names, without consecutive duplicates."""
        names = [type(event).__name__ for event in self._events]
        return [name for i, name in enumerate(names) if i == 0 or names[i - 1] != name]

    def of(self, name: str) -> list[Any]:
        return [event for event in self._events if type(event).__name__ == name]


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    handler = Recorder()
    root = get_dispatcher()
    root.add_event_handler(handler)
    yield handler
    root.event_handlers.remove(handler)


@pytest.fixture
def spans() -> Iterator[SimpleSpanHandler]:
    handler = SimpleSpanHandler()
    root = get_dispatcher()
    root.add_span_handler(handler)
    yield handler
    root.span_handlers.remove(handler)
