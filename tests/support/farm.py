"""Several test servers, and a provider that sends its requests to them in a predictable order."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx

from namel3ss_ollama import OllamaProvider
from namel3ss_ollama.hosts import Host, Hosts
from namel3ss_ollama.pool import Pool
from namel3ss_ollama.testing import OllamaServer

__all__ = ["ASK", "MODEL", "asked", "farm", "load", "pool_of", "provider_of"]

MODEL = "llama3.2"
ASK = [{"role": "user", "content": "count"}]


class _Lowest(random.Random):
    """Not random: always the first free host."""

    def random(self) -> float:
        return 0.0


@contextmanager
def farm(count: int, **settings: Any) -> Iterator[list[OllamaServer]]:
    """Running servers."""
    with ExitStack() as stack:
        yield [stack.enter_context(OllamaServer(**settings)) for _ in range(count)]


def load(servers: Sequence[OllamaServer], model: str = MODEL) -> None:
    """Make the servers load a model; the request for that is removed from their records."""
    for server in servers:
        httpx.post(f"{server.url}/api/generate", json={"model": model}).raise_for_status()
        server.reset()


def provider_of(servers: Sequence[OllamaServer | str], *, slots: Any = 1, **settings: Any) -> OllamaProvider:
    """A provider for all of them, without randomness; settings of `Hosts` may be among its own."""
    of_hosts = {name: settings.pop(name) for name in ("refresh", "eject", "eject_max") if name in settings}
    urls = [server if isinstance(server, str) else server.url for server in servers]
    provider = OllamaProvider(MODEL, Hosts([Host(url, slots=slots) for url in urls], **of_hosts), **settings)
    pool_of(provider).dispatcher._fleet.rng = _Lowest()
    return provider


def pool_of(provider: OllamaProvider) -> Pool:
    """Its pool of hosts."""
    assert provider._pool is not None
    return provider._pool


def asked(servers: Sequence[OllamaServer], path: str = "/api/chat") -> list[int]:
    """The number of requests for an answer to each server."""
    return [sum(record.path == path for record in server.requests) for server in servers]
