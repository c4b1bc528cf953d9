"""The version of a server, and how often it is requested."""

from __future__ import annotations

import pytest

from namel3ss_ollama.server_version import ServerVersion


class Server:
    """Returns the versions in order, then always the last; raises those that are exceptions."""

    def __init__(self, *versions: str | Exception) -> None:
        self.versions = list(versions)
        self.requests = 0
        self.now = 1000.0

    async def look_up(self) -> str:
        self.requests += 1
        version = self.versions.pop(0) if len(self.versions) > 1 else self.versions[0]
        if isinstance(version, Exception):
            raise version
        return version

    @property
    def version(self) -> ServerVersion:
        return ServerVersion(self.look_up, clock=lambda: self.now)


async def test_nothing_is_known_at_first() -> None:
    version = Server("0.9.3").version
    assert not version.at_least("0.1")
    assert not version.before("99")


async def test_it_is_requested_at_most_once_a_minute() -> None:
    server = Server("0.9.3", "0.40.0")
    version = server.version
    for _ in range(5):
        await version.ask()
    assert server.requests == 1
    assert version.before("0.12.6")
    assert version.at_least("0.9.3")
    server.now += 60
    await version.ask()
    assert version.at_least("0.12.6")
    assert server.requests == 2


@pytest.mark.parametrize("answer", [ConnectionError("gone"), "", "dev"])
async def test_a_failure_is_cached_as_long(answer: str | Exception) -> None:
    server = Server(answer, "0.9.3")
    version = server.version
    for _ in range(5):
        await version.ask()
    assert server.requests == 1
    assert not version.at_least("0.1")
    assert not version.before("99")
    server.now += 60
    await version.ask()
    assert version.at_least("0.9")


async def test_behaviour_reveals_the_version() -> None:
    server = Server(ConnectionError("the proxy hides it"))
    version = server.version
    version.saw("0.12.6")
    version.saw("0.5")
    await version.ask()
    assert version.at_least("0.12.6")


async def test_a_known_version_is_not_requested() -> None:
    server = Server("0.1")
    version = server.version
    version.learn("0.9.3")
    await version.ask()
    assert server.requests == 0
    assert version.before("0.9.4")
    assert version.at_least("0.9.3")


async def test_the_embedded_engine_has_no_version_of_ollama() -> None:
    # Once wrong: the engine's version, which is this package's, was taken for an old version of Ollama.
    server = Server("0.1.0+embedded", "0.9.3")
    version = server.version
    await version.ask()
    assert version.embedded
    assert not version.at_least("0.1")
    assert not version.before("99")
    await version.ask()
    assert server.requests == 1, "but the answer is cached"
    server.now += 60
    await version.ask()
    assert version.before("0.12")
    assert not version.embedded


def test_a_version_that_was_seen_is_only_a_minimum() -> None:
    version = Server("0.1").version
    version.saw("0.12.6")
    assert not version.before("0.40")
    version.learn("0.12.9")
    version.saw("0.12.6")
    assert version.before("0.40")
