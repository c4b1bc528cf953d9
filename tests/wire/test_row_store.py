"""A batch with a custom journal store."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from namel3ss_ollama import Journal, JournalError, Known, OllamaProvider, Outcome, RowId, read_journal
from namel3ss_ollama.testing import OllamaServer


class Store:
    """Rows in memory."""

    path = "memory"
    run = 1

    def __init__(self, known: dict[RowId, Known]) -> None:
        self.known = known
        self.recorded: dict[RowId, tuple[bytes | None, Outcome]] = {}
        self.marked: list[RowId] = []

    def find(self, id: RowId) -> Known | None:
        return self.known.get(id)

    def equal(self, fingerprint: bytes) -> Outcome | None:
        return None

    def record(self, id: RowId, position: int, fingerprint: bytes | None, outcome: Outcome) -> None:
        self.recorded[id] = fingerprint, outcome

    def mark(self, id: RowId, position: int) -> None:
        self.marked.append(id)


async def test_a_store_replaces_the_file(ollama_server: OllamaServer) -> None:
    async with OllamaProvider("llama3.2", ollama_server.url) as provider:
        first = Store({})
        await provider.agenerate_batch(["one", "two"], ids=["a", "b"], journal=first)
        known = {id: Known(0, recorded[0], recorded[1].state) for id, recorded in first.recorded.items()}
        second = Store(known)
        report = await provider.agenerate_batch(["one", "other", "new"], ids=["a", "b", "c"], journal=second)
    assert [first.recorded[id][1].row(id, 0, vectors=False).answer.content for id in "ab"] == [
        "You said: one",
        "You said: two",
    ]
    assert (report.answered, report.skipped) == (2, 1)
    assert second.marked == ["a"]
    assert sorted(second.recorded) == ["b", "c"]
    listed = [record for record in ollama_server.requests if record.path == "/api/tags"]
    assert len(listed) == 1  # for both batches, since they are parts of one


def test_a_journal_returns_a_rows_outcome(tmp_path: Path) -> None:
    outcome = Outcome.embedded([1.0, 2.0], "http://host:1", 3, 0.5)
    with Journal(tmp_path / "a.db", "vectors", "all-minilm") as journal:
        journal.record("x", 0, b"print", outcome)
        assert journal.outcome("x") == outcome
        assert journal.outcome("y") is None


def test_the_wait_for_a_journal_in_use_times_out(tmp_path: Path) -> None:
    with (
        Journal(tmp_path / "a.db", "answers", "m"),
        pytest.raises(JournalError, match="in use"),
    ):
        Journal(tmp_path / "a.db", "answers", "m", wait=0.01)
    Journal(tmp_path / "a.db", "answers", "m", wait=0.01).close()


async def test_concurrent_batches_share_an_open_journal(ollama_server: OllamaServer, tmp_path: Path) -> None:
    async def ask(part: int) -> int:
        ids = [f"{part}-{number}" for number in range(5)]
        return (await provider.agenerate_batch(ids, ids=ids, journal=journal)).answered

    async with OllamaProvider("llama3.2", ollama_server.url) as provider:
        for expected in (5, 0):
            with Journal(tmp_path / "a.db", "answers", "llama3.2") as journal:
                assert await asyncio.gather(*(ask(part) for part in range(4))) == [expected] * 4
                assert journal.outcome("1-2") is not None
    assert sorted(str(row.id) for row in read_journal(tmp_path / "a.db")) == [f"{n // 5}-{n % 5}" for n in range(20)]
