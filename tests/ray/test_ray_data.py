"""Datasets that are asked and embedded by actors of a real Ray."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.data

from namel3ss_ollama import Host, JournalError, OllamaProvider
from namel3ss_ollama.testing import Gate, OllamaServer, Reply
from ray_namel3ss_ollama import ask, embed
from ray_namel3ss_ollama.shares import Shares, hosts_of

pytestmark = pytest.mark.usefixtures("small_ray")
MODEL = "llama3.2"
SLOTS = 4
DETAILS = ["error", "error_type", "tokens", "host", "seconds"]


def prompts(count: int, blocks: int = 4) -> ray.data.Dataset:
    rows = [{"id": number, "text": f"row {number}"} for number in range(count)]
    return ray.data.from_items(rows, override_num_blocks=blocks)


def asked(*servers: OllamaServer, path: str = "/api/generate") -> Counter[str]:
    """How often each prompt was asked."""
    return Counter(record.json["prompt"] for server in servers for record in server.requests if record.path == path)


def answered(server: OllamaServer) -> list[Any]:
    """The requests that were answered in full."""
    return [each for each in server.requests if each.path == "/api/generate" and each.outcome == "complete"]


def most_at_once(server: OllamaServer) -> int:
    """How many requests a server had at once, at most."""
    prompts = [record for record in server.requests if record.path == "/api/generate"]
    return max(sum(other.time <= record.time < (other.ended or 0) for other in prompts) for record in prompts)


def held(server: OllamaServer, folder: Path) -> ray.data.Dataset:
    """Rows to ask with a journal."""
    host = Host(server.url, slots=SLOTS)
    return ask(
        prompts(100, 8), MODEL, hosts=[host], prompt="text", id="id", into="answer", journal=folder, batch_size=8
    )


@contextlib.contextmanager
def started(dataset: ray.data.Dataset, gate: Gate) -> Iterator[list[dict[str, Any]]]:
    """A dataset that is read meanwhile; its rows are there at the end, when the gate is opened."""
    rows: list[dict[str, Any]] = []
    with ThreadPoolExecutor(1) as thread:
        job = thread.submit(lambda: rows.extend(dataset.take_all()))
        try:
            yield rows
        finally:
            gate.open()
        job.result(90)


def pid_of(kind: str) -> int:
    """The process of the newest living actor of a class; one of an earlier test may not have ended yet."""
    actors = [each for each in ray._private.state.actors().values() if each["State"] == "ALIVE"]
    newest = max((each for each in actors if kind in each["ActorClassName"]), key=lambda each: each["StartTime"])
    return int(newest["Pid"])


def by_id(dataset: ray.data.Dataset) -> list[dict[str, Any]]:
    return sorted(dataset.take_all(), key=lambda row: row["id"])


def test_each_row_gets_its_answer(ollama_server: OllamaServer) -> None:
    rows = by_id(ask(prompts(100), MODEL, hosts=[ollama_server.url], prompt="text", into="answer", batch_size=7))
    assert [row["id"] for row in rows] == list(range(100))
    assert [row["answer"] for row in rows] == [f"You said: row {number}" for number in range(100)]
    assert list(rows[0]) == ["id", "text", "answer", *DETAILS]
    assert {row["host"] for row in rows} == {ollama_server.url}
    assert all(row["tokens"] > 0 and row["seconds"] > 0 and row["error"] is None for row in rows)


def test_the_order_within_a_block_is_kept(ollama_server: OllamaServer) -> None:
    dataset = ask(prompts(50, 1), MODEL, hosts=ollama_server.url, prompt="text", into="answer", batch_size=8)
    assert [row["id"] for row in dataset.take_all()] == list(range(50))


def test_a_row_that_fails_has_its_error_and_the_others_their_answers(ollama_server: OllamaServer) -> None:
    rows = [{"id": "a", "text": "fine"}, {"id": "b", "text": None}, {"id": "c", "text": "fine, too"}]
    found = by_id(ask(ray.data.from_items(rows), MODEL, hosts=ollama_server.url, prompt="text", into="answer"))
    assert [row["error_type"] for row in found] == [None, "TypeError", None]
    assert found[1]["answer"] is None
    assert "expected text" in found[1]["error"]


def test_the_first_error_is_raised_where_that_is_wanted(ollama_server: OllamaServer) -> None:
    rows = [{"id": "a", "text": "fine"}, {"id": "b", "text": None}]
    dataset = ask(
        ray.data.from_items(rows), MODEL, hosts=ollama_server.url, prompt="text", id="id", into="x", on_error="raise"
    )
    with pytest.raises(Exception, match="row 'b': TypeError"):
        dataset.take_all()


def test_what_is_no_rows_fault_ends_the_job(ollama_server: OllamaServer) -> None:
    dataset = ask(prompts(5), "nobody-has-it", hosts=ollama_server.url, prompt="text", into="answer")
    with pytest.raises(Exception, match="nobody-has-it"):
        dataset.take_all()


def test_vectors_are_those_of_the_provider_and_columns_of_two_calls_stand_side_by_side(
    ollama_server: OllamaServer, tmp_path: Path
) -> None:
    dataset = ask(prompts(10), MODEL, hosts=ollama_server.url, prompt="text", id="id", into="answer", journal=tmp_path)
    dataset = embed(
        dataset,
        "all-minilm",
        hosts=ollama_server.url,
        text="answer",
        id="id",
        into="vector",
        journal=tmp_path,
        prefix="vector_",
    )
    rows = by_id(dataset)
    expected = OllamaProvider("all-minilm", ollama_server.url).sync.embed([row["answer"] for row in rows])
    assert [row["vector"] for row in rows] == expected.embeddings
    assert list(rows[0]) == ["id", "text", "answer", *DETAILS, "vector", *(f"vector_{name}" for name in DETAILS)]
    assert sorted(path.name for path in tmp_path.glob("*.db")) == ["answer.db", "vector.db"]


def test_hosts_are_shared_out_and_no_host_gets_more_than_its_slots() -> None:
    gate = Gate()
    with OllamaServer() as first, OllamaServer() as second:
        for server in (first, second):
            server.reply("held", gate=gate)
        hosts = [Host(first.url, slots=3), Host(second.url, slots=2)]
        dataset = ask(prompts(80, 16), MODEL, hosts=hosts, actors=2, prompt="text", into="answer", batch_size=4)
        with started(dataset, gate) as found:
            first.wait_for(lambda _: gate.waiting == 5, timeout=60)  # all slots of both, each host with its own actor
        assert Counter(row["host"] for row in found).keys() == {first.url, second.url}
        assert most_at_once(first) == 3
        assert most_at_once(second) == 2


def test_a_journal_answers_at_the_second_time(ollama_server: OllamaServer, tmp_path: Path) -> None:
    def dataset() -> ray.data.Dataset:
        return ask(
            prompts(60), MODEL, hosts=ollama_server.url, prompt="text", id="id", into="answer", journal=tmp_path / "new"
        )

    first = by_id(dataset())
    again = by_id(dataset().repartition(3))
    assert first == again
    assert set(asked(ollama_server).values()) == {1}
    assert len(asked(ollama_server)) == 60


def test_a_changed_prompt_is_asked_or_an_error(ollama_server: OllamaServer, tmp_path: Path) -> None:
    def dataset(text: str, **settings: Any) -> ray.data.Dataset:
        rows = ray.data.from_items([{"id": 1, "text": text}])
        return ask(rows, MODEL, hosts=ollama_server.url, prompt="text", id="id", into="a", journal=tmp_path, **settings)

    dataset("one").take_all()
    assert dataset("two").take_all()[0]["a"] == "You said: two"
    with pytest.raises(Exception, match=r"the request of row 1 in .* has changed"):
        dataset("three", on_change="error").take_all()


def test_a_journal_of_another_model_is_an_error_at_once(ollama_server: OllamaServer, tmp_path: Path) -> None:
    def dataset(model: str) -> ray.data.Dataset:
        return ask(prompts(2), model, hosts=ollama_server.url, prompt="text", id="id", into="a", journal=tmp_path)

    dataset(MODEL).take_all()
    with pytest.raises(JournalError, match=r"its model is 'llama3\.2', not 'qwen3'"):
        dataset("qwen3")
    assert len(dataset(MODEL).take_all()) == 2  # the journal is as it was


def test_a_killed_actor_costs_the_rows_under_way(ollama_server: OllamaServer, tmp_path: Path) -> None:
    gate = Gate()
    ollama_server.reply(lambda record: Reply(f"About {record.json['prompt']}", gate=gate))
    dataset = held(ollama_server, tmp_path)
    with started(dataset, gate) as rows:
        gate.step(40)
        ollama_server.wait_for(lambda _: len(answered(ollama_server)) == 40 and gate.waiting == SLOTS, timeout=60)
        os.kill(pid_of("MapWorker"), signal.SIGKILL)
    assert sorted(row["id"] for row in rows) == list(range(100))
    assert all(row["answer"] == f"About {row['text']}" for row in rows)
    times = asked(ollama_server)
    assert len(times) == 100
    assert sum(times.values()) - 100 <= 2 * SLOTS  # those under way, and those whose answers were on their way


def test_a_killed_keeper_is_started_again_and_loses_nothing(ollama_server: OllamaServer, tmp_path: Path) -> None:
    gate = Gate()
    ollama_server.reply(lambda record: Reply(f"About {record.json['prompt']}", gate=gate))
    with started(held(ollama_server, tmp_path), gate) as rows:
        gate.step(40)
        ollama_server.wait_for(lambda _: len(answered(ollama_server)) == 40 and gate.waiting == SLOTS, timeout=60)
        os.kill(pid_of("Keeper"), signal.SIGKILL)
    assert sorted(row["id"] for row in rows) == list(range(100))
    assert set(asked(ollama_server).values()) == {1}


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"prompt": "nothing"}, ValueError, "prompt: there is no column 'nothing'; there are 'id', 'text'"),
        ({"id": "nothing"}, ValueError, "id: there is no column 'nothing'"),
        ({"into": "text"}, ValueError, "into: there is a column 'text' already"),
        ({"into": "a/b", "journal": "x"}, ValueError, "into: 'a/b' is also the name of the journal's file"),
        ({"id": None, "journal": "x"}, ValueError, "id: a journal identifies rows by their ids"),
        ({"journal": 5}, TypeError, "journal: expected a folder, not int"),
        ({"hosts": []}, ValueError, "hosts: there must be at least one address"),
        ({"actors": 2}, ValueError, r"actors: 2 is more than the number of hosts \(1\)"),
        ({"actors": 0}, ValueError, "actors: 0 is not positive"),
        ({"batch_size": True}, TypeError, "batch_size: expected a number, not bool"),
        ({"on_error": "drop"}, ValueError, "on_error: 'drop' is not one of"),
        ({"on_change": "drop"}, ValueError, "on_change: 'drop' is not one of"),
        ({"retry_failed": "none"}, ValueError, "retry_failed: 'none' is not one of"),
        ({"temperatur": 1}, TypeError, "temperatur"),
        ({"max_concurrent": 4}, TypeError, r"max_concurrent: pass hosts=\[Host"),
        ({"model": ""}, ValueError, "model"),
    ],
)
def test_bad_input_fails_at_the_call(
    wrong: dict[str, Any], error: type[Exception], message: str, ollama_server: OllamaServer
) -> None:
    given: dict[str, Any] = {"model": MODEL, "hosts": [ollama_server.url], "prompt": "text", "id": "id", "into": "x"}
    with pytest.raises(error, match=message):
        ask(ray.data.from_items([{"id": 1, "text": "a"}]).materialize(), **{**given, **wrong})
    assert not ollama_server.requests


def test_what_is_no_dataset_is_refused(ollama_server: OllamaServer) -> None:
    rows: Any = [{"text": "a"}]
    with pytest.raises(TypeError, match=re.escape("dataset: expected a ray.data.Dataset, not list")):
        ask(rows, MODEL, hosts=ollama_server.url, prompt="text", into="x")


def test_ids_that_cannot_be_end_the_job_before_a_request(ollama_server: OllamaServer) -> None:
    rows = ray.data.from_items([{"id": "a", "text": "x"}, {"id": "a", "text": "y"}], override_num_blocks=1)
    with pytest.raises(Exception, match="'a' is there twice"):
        ask(rows, MODEL, hosts=ollama_server.url, prompt="text", id="id", into="x").take_all()
    assert not asked(ollama_server)


def test_each_share_has_its_own_hosts_and_an_actor_keeps_its_own() -> None:
    hosts = [Host(f"http://host{number}:1") for number in range(5)]
    shares = [hosts_of(hosts, share, 2) for share in range(2)]
    assert sorted(host.url for share in shares for host in share) == [host.url for host in hosts]
    desk = Shares(2)
    assert [desk.take("a"), desk.take("b"), desk.take("a")] == [0, 1, 0]
    assert [desk.take("c"), desk.take("d"), desk.take("c")] == [0, 1, 0]  # the actors of the next run
