"""How an actor processes a block of rows, called here without an actor or a running Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from namel3ss_ollama import Host, JournalError, LLMConnectionError, LLMError, RetryPolicy
from namel3ss_ollama.testing import OllamaServer
from ray_namel3ss_ollama.keeper import Keeper
from ray_namel3ss_ollama.shares import Shares, hosts_of
from ray_namel3ss_ollama.workers import Asker, Job

MODEL = "llama3.2"
AGAIN: Mapping[str, Any] = {"retry_failed": True, "on_change": "ask"}


class Method:
    """A method of an actor's handle."""

    def __init__(self, called: Callable[..., Any]) -> None:
        self._called = called

    async def remote(self, *arguments: Any) -> Any:
        return self._called(*arguments)


class Handle:
    """An actor's handle for an object in this process."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> Method:
        return Method(getattr(self._actor, name))


def job(*urls: str, **changes: Any) -> Job:
    fields: dict[str, Any] = {
        "argument": "prompt", "source": "text", "id": "id", "into": "a", "prefix": "", "on_error": "keep",
        "journal": AGAIN, "settings": {}, "options": {}, "actors": 1,
    }  # fmt: skip
    return Job(MODEL, tuple(Host(url) for url in urls), **{**fields, **changes})


def through(job: Job, *rows: tuple[Any, str | None]) -> list[dict[str, Any]]:
    """An actor's results for rows, given as ids and prompts."""
    asker = Asker(job)

    async def run() -> list[dict[str, Any]]:
        table = pa.table({"id": [id for id, _ in rows], "text": pa.array([text for _, text in rows], pa.string())})
        try:
            return (await asker(table)).to_pylist()
        finally:
            await asker._provider.aclose()

    return asyncio.run(run())


def asked(server: OllamaServer) -> list[str]:
    return [record.json["prompt"] for record in server.requests if record.path == "/api/generate"]


def test_the_first_error_is_raised_on_request(ollama_server: OllamaServer) -> None:
    with pytest.raises(LLMError, match="row 'b': TypeError"):
        through(job(ollama_server.url, on_error="raise"), ("a", "fine"), ("b", None))


def test_repeated_ids_end_the_job_before_a_request(ollama_server: OllamaServer) -> None:
    with pytest.raises(ValueError, match="'a' is there twice"):
        through(job(ollama_server.url), ("a", "x"), ("a", "y"))
    assert not asked(ollama_server)


def test_a_changed_prompt_is_sent_or_an_error(ollama_server: OllamaServer, tmp_path: Path) -> None:
    path = str(tmp_path / "new" / "a.db")
    keeper = Keeper(path, "answers", MODEL)
    kept = job(ollama_server.url, path=path, keeper=Handle(keeper))
    through(kept, (1, "one"))
    assert through(kept, (1, "two"))[0]["a"] == "You said: two"
    assert through(kept, (1, "two"))[0]["a"] == "You said: two"
    assert asked(ollama_server) == ["one", "two"]
    with pytest.raises(JournalError, match=r"the request of row 1 in .* has changed"):
        through(replace(kept, journal={**AGAIN, "on_change": "error"}), (1, "three"))
    keeper._opened().close()


def test_hosts_that_are_down_end_the_job_with_a_remedy() -> None:
    with OllamaServer() as first, OllamaServer() as second:
        urls = first.url, second.url
    rows = [(number, "text") for number in range(25)]
    at_once: dict[str, Any] = {"settings": {"retry": RetryPolicy.off()}}
    with pytest.raises(LLMConnectionError, match=r"start one of them and run the job again"):
        through(job(*urls, **at_once), *rows)
    with pytest.raises(
        LLMConnectionError, match=rf"this actor's hosts \({urls[0]}; there are 2 in all\).* pass fewer actors"
    ):
        through(job(*urls, actors=2, **at_once), *rows)


def test_another_host_answers_for_one_that_is_down(ollama_server: OllamaServer) -> None:
    with OllamaServer() as down:
        pass
    rows = through(job(down.url, ollama_server.url), *[(number, f"row {number}") for number in range(25)])
    assert [row["a"] for row in rows] == [f"You said: row {number}" for number in range(25)]


def test_each_share_has_its_own_hosts_and_an_actor_keeps_its_own() -> None:
    hosts = [Host(f"http://host{number}:1") for number in range(5)]
    shares = [hosts_of(hosts, share, 2) for share in range(2)]
    assert sorted(host.url for share in shares for host in share) == [host.url for host in hosts]
    desk = Shares(2)
    assert [desk.take("a"), desk.take("b"), desk.take("a")] == [0, 1, 0]
    assert [desk.take("c"), desk.take("d"), desk.take("c")] == [0, 1, 0]  # actors of the next run
