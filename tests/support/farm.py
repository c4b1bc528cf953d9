"""Several test servers, and a provider that sends its requests to them in an order that a test can know."""

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
    """No chance: the first host that is free."""

    def random(self) -> float:
        return 0.0


@contextmanager
def farm(count: int, **settings: Any) -> Iterator[list[OllamaServer]]:
    """Servers that run."""
    with ExitStack() as stack:
        yield [stack.enter_context(OllamaServer(**settings)) for _ in range(count)]


def load(servers: Sequence[OllamaServer], model: str = MODEL) -> None:
    """Have the servers load a model; the request for that is not in their records."""
    for server in servers:
        httpx.post(f"{server.url}/api/generate", json={"model": model}).raise_for_status()
        server.reset()


def provider_of(servers: Sequence[OllamaServer | str], *, slots: Any = 1, **settings: Any) -> OllamaProvider:
    """A provider for all of them; settings of `Hosts` may be among its own. Without chance."""
    of_hosts = {name: settings.pop(name) for name in ("refresh", "eject", "eject_max") if name in settings}
    urls = [server if isinstance(server, str) else server.url for server in servers]
    provider = OllamaProvider(MODEL, Hosts([Host(url, slots=slots) for url in urls], **of_hosts), **settings)
    pool_of(provider).dispatcher._fleet.rng = _Lowest()
    return provider


def pool_of(provider: OllamaProvider) -> Pool:
    """Its hosts."""
    assert provider._pool is not None
    return provider._pool


def asked(servers: Sequence[OllamaServer], path: str = "/api/chat") -> list[int]:
    """How many requests each got for an answer."""
    return [sum(record.path == path for record in server.requests) for server in servers]
