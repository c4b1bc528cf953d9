"""Datasets of prompts and texts that actors of a real Ray answer and embed."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.data

from namel3ss_ollama import Host, JournalError, OllamaProvider
from namel3ss_ollama.testing import Gate, OllamaServer, Reply
from ray_namel3ss_ollama import ask, embed
from ray_namel3ss_ollama.keeper import file_of, keeper_of

pytestmark = [pytest.mark.usefixtures("small_ray"), pytest.mark.timeout(400)]
MODEL = "llama3.2"
SLOTS = 4
LONGEST = 180
"""Seconds; an actor needs some CPU time to start, and so longer on a busy machine."""
ROWS, BAD = 60, 30
DETAILS = ["error", "error_type", "tokens", "host", "seconds"]


def prompts(count: int, blocks: int = 4) -> ray.data.Dataset:
    rows = [{"id": number, "text": f"row {number}"} for number in range(count)]
    return ray.data.from_items(rows, override_num_blocks=blocks)


def asked(*servers: OllamaServer, path: str = "/api/generate") -> Counter[str]:
    """How often each prompt was sent."""
    return Counter(record.json["prompt"] for server in servers for record in server.requests if record.path == path)


def answered(server: OllamaServer) -> list[Any]:
    """The requests with a complete answer."""
    return [each for each in server.requests if each.path == "/api/generate" and each.outcome == "complete"]


def most_at_once(server: OllamaServer) -> int:
    """The largest number of concurrent requests of a server."""
    prompts = [record for record in server.requests if record.path == "/api/generate"]
    return max(sum(other.time <= record.time < (other.ended or 0) for other in prompts) for record in prompts)


def held(server: OllamaServer, folder: Path) -> ray.data.Dataset:
    """Prompts to answer with a journal."""
    host = Host(server.url, slots=SLOTS)
    return ask(
        prompts(100, 8), MODEL, hosts=[host], prompt="text", id="id", into="answer", journal=folder, batch_size=8
    )


@contextlib.contextmanager
def started(dataset: ray.data.Dataset, gate: Gate) -> Iterator[list[dict[str, Any]]]:
    """Reads a dataset in the background; its rows are complete at the end, when the gate is opened."""
    rows: list[dict[str, Any]] = []
    with ThreadPoolExecutor(1) as thread:
        job = thread.submit(lambda: rows.extend(dataset.take_all()))
        try:
            yield rows
        finally:
            gate.open()
        job.result(LONGEST)


def pid_of(kind: str) -> int:
    """The process of a class's newest actor; one of an earlier test may not have ended yet."""
    actors = [each for each in ray._private.state.actors().values() if each["State"] == "ALIVE"]
    newest = max((each for each in actors if kind in each["ActorClassName"]), key=lambda each: each["StartTime"])
    return int(newest["Pid"])


def by_id(dataset: ray.data.Dataset) -> list[dict[str, Any]]:
    return sorted(dataset.take_all(), key=lambda row: row["id"])


@dataclass(frozen=True)
class Once:
    """One block of rows, one of them not a text: answered, and the answers embedded, with journals."""

    server: OllamaServer
    folder: Path
    rows: list[dict[str, Any]]

    def asked(self, model: str = MODEL) -> ray.data.Dataset:
        return once(self.server, self.folder, model)


def once(server: OllamaServer, folder: Path, model: str) -> ray.data.Dataset:
    rows = [{"id": number, "text": None if number == BAD else f"row {number}"} for number in range(ROWS)]
    rows = ray.data.from_items(rows, override_num_blocks=1)
    return ask(
        rows, model, hosts=server.url, prompt="text", id="id", into="answer", journal=folder / "new", batch_size=7
    )


@pytest.fixture(scope="module")
def run(small_ray: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Once]:
    folder = tmp_path_factory.mktemp("once")
    with OllamaServer() as server:
        dataset = embed(
            once(server, folder, MODEL),
            "all-minilm",
            hosts=server.url,
            text="answer",
            id="id",
            into="vector",
            journal=folder / "new",
            prefix="vector_",
        )
        yield Once(server, folder, dataset.take_all())


def test_each_row_gets_its_answer_in_order_within_a_block(run: Once) -> None:
    assert [row["id"] for row in run.rows] == list(range(ROWS))
    good = [row for row in run.rows if row["id"] != BAD]
    assert [row["answer"] for row in good] == [f"You said: {row['text']}" for row in good]
    assert {row["host"] for row in good} == {run.server.url}
    assert all(row["tokens"] > 0 and row["seconds"] > 0 and row["error"] is None for row in good)


def test_a_row_that_fails_has_its_error_and_the_others_their_answers(run: Once) -> None:
    assert [row["id"] for row in run.rows if row["error"]] == [BAD]
    bad = run.rows[BAD]
    assert bad["answer"] is bad["vector"] is None
    assert bad["error_type"] == bad["vector_error_type"] == "TypeError"
    assert "expected text" in bad["error"]


def test_vectors_equal_the_providers_and_two_calls_columns_coexist(run: Once) -> None:
    good = [row for row in run.rows if row["id"] != BAD]
    expected = OllamaProvider("all-minilm", run.server.url).sync.embed([row["answer"] for row in good])
    assert [row["vector"] for row in good] == expected.embeddings
    assert list(run.rows[0]) == ["id", "text", "answer", *DETAILS, "vector", *(f"vector_{name}" for name in DETAILS)]
    assert sorted(path.name for path in (run.folder / "new").glob("*.db")) == ["answer.db", "vector.db"]


def test_a_journal_of_another_model_is_an_error_and_its_own_has_the_answers(run: Once) -> None:
    with pytest.raises(JournalError, match=r"its model is 'llama3\.2', not 'qwen3'"):
        run.asked("qwen3")
    again = by_id(run.asked().repartition(3))
    assert again == [{name: row[name] for name in again[0]} for row in run.rows]
    assert set(asked(run.server).values()) == {1}
    assert len(asked(run.server)) == ROWS - 1


def test_an_error_of_all_rows_ends_the_job(ollama_server: OllamaServer) -> None:
    dataset = ask(prompts(5), "nobody-has-it", hosts=ollama_server.url, prompt="text", into="answer")
    with pytest.raises(Exception, match="nobody-has-it"):
        dataset.take_all()


def test_hosts_are_divided_and_none_exceeds_its_slots() -> None:
    gate = Gate()
    with OllamaServer() as first, OllamaServer() as second:
        for server in (first, second):
            server.reply("held", gate=gate)
        hosts = [Host(first.url, slots=3), Host(second.url, slots=2)]
        dataset = ask(prompts(80, 16), MODEL, hosts=hosts, actors=2, prompt="text", into="answer", batch_size=4)
        with started(dataset, gate) as found:
            first.wait_for(
                lambda _: gate.waiting == 5, timeout=LONGEST
            )  # all slots of both, each host with its own actor
        assert Counter(row["host"] for row in found).keys() == {first.url, second.url}
        assert most_at_once(first) == 3
        assert most_at_once(second) == 2


def test_a_killed_keeper_loses_nothing_and_a_killed_actor_the_rows_in_flight(
    ollama_server: OllamaServer, tmp_path: Path
) -> None:
    gate = Gate()
    ollama_server.reply(lambda record: Reply(f"About {record.json['prompt']}", gate=gate))

    def step(count: int, total: int) -> None:
        gate.step(count)
        ollama_server.wait_for(
            lambda _: len(answered(ollama_server)) == total and gate.waiting == SLOTS, timeout=LONGEST
        )

    with started(held(ollama_server, tmp_path), gate) as rows:
        step(40, 40)
        os.kill(pid_of("Keeper"), signal.SIGKILL)
        step(20, 60)
        # The new keeper responds once it has the rows that were sent to the old one.
        keeper = keeper_of(file_of(tmp_path, "answer"), "answers", MODEL)
        while len(ray.get(keeper.look_up.remote(list(range(100))), timeout=LONGEST)) < 60:
            pass
        assert set(asked(ollama_server).values()) == {1}
        os.kill(pid_of("MapWorker"), signal.SIGKILL)
    assert sorted(row["id"] for row in rows) == list(range(100))
    assert all(row["answer"] == f"About {row['text']}" for row in rows)
    times = asked(ollama_server)
    assert len(times) == 100
    assert sum(times.values()) - 100 <= SLOTS
