"""Which version a server is, and how often that is asked."""

from __future__ import annotations

import pytest

from namel3ss_ollama.server_version import ServerVersion


class Server:
    """Says one version after the other, the last for ever; an exception is raised."""

    def __init__(self, *versions: str | Exception) -> None:
        self.versions = list(versions)
        self.asked = 0
        self.now = 1000.0

    async def look_up(self) -> str:
        self.asked += 1
        version = self.versions.pop(0) if len(self.versions) > 1 else self.versions[0]
        if isinstance(version, Exception):
            raise version
        return version

    @property
    def version(self) -> ServerVersion:
        return ServerVersion(self.look_up, clock=lambda: self.now)


async def test_before_it_is_asked_nothing_is_known() -> None:
    version = Server("0.9.3").version
    assert not version.at_least("0.1")
    assert not version.before("99")


async def test_it_is_asked_at_most_once_a_minute() -> None:
    server = Server("0.9.3", "0.40.0")
    version = server.version
    for _ in range(5):
        await version.ask()
    assert server.asked == 1
    assert version.before("0.12.6")
    assert version.at_least("0.9.3")
    server.now += 60
    await version.ask()
    assert version.at_least("0.12.6")
    assert server.asked == 2


@pytest.mark.parametrize("answer", [ConnectionError("gone"), "", "dev"])
async def test_not_knowing_holds_as_long(answer: str | Exception) -> None:
    server = Server(answer, "0.9.3")
    version = server.version
    for _ in range(5):
        await version.ask()
    assert server.asked == 1
    assert not version.at_least("0.1")
    assert not version.before("99")
    server.now += 60
    await version.ask()
    assert version.at_least("0.9")


async def test_what_a_server_does_says_what_it_is() -> None:
    server = Server(ConnectionError("the proxy hides it"))
    version = server.version
    version.saw("0.12.6")
    version.saw("0.5")
    await version.ask()
    assert version.at_least("0.12.6")


async def test_what_is_learnt_is_not_asked_for() -> None:
    server = Server("0.1")
    version = server.version
    version.learn("0.9.3")
    await version.ask()
    assert server.asked == 0
    assert version.before("0.9.4")
    assert version.at_least("0.9.3")


async def test_the_engine_in_a_process_is_of_no_version_of_ollama() -> None:
    # Once wrong: the engine was older than everything, as this package is younger than Ollama.
    server = Server("0.1.0+embedded", "0.9.3")
    version = server.version
    await version.ask()
    assert version.embedded
    assert not version.at_least("0.1")
    assert not version.before("99")
    await version.ask()
    assert server.asked == 1, "but it is known"
    server.now += 60
    await version.ask()
    assert version.before("0.12")
    assert not version.embedded


def test_what_was_seen_is_only_the_least_that_it_can_be() -> None:
    version = Server("0.1").version
    version.saw("0.12.6")
    assert not version.before("0.40")
    version.learn("0.12.9")
    version.saw("0.12.6")
    assert version.before("0.40")
