"""The journal of a batch: what the file contains, who may use it, and the errors if it is unusable."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from namel3ss_ollama import BadRequestError, JournalError, LLMTimeoutError, ServerBusyError, StreamInterruptedError
from namel3ss_ollama.journal import Journal, read_rows
from namel3ss_ollama.rows import Outcome, State, fingerprint, is_deterministic
from namel3ss_ollama.types import InvalidToolCall, LLMResponse, ToolCall, Usage

USAGE = Usage(prompt_tokens=3, completion_tokens=4, total_tokens=7)
SAME, OTHER = b"s" * 16, b"o" * 16


def response(content: str = "Rome", **fields: Any) -> LLMResponse:
    return LLMResponse(content, "llama3.2", USAGE, "stop", {"eval_count": 4}, **fields)


def answered(content: str = "Rome", **fields: Any) -> Outcome:
    return Outcome.answered(response(content, **fields), 0.5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.db"


def test_rows_are_read_in_the_order_of_the_input(path: Path) -> None:
    with Journal(path, "answers", "llama3.2") as journal:
        journal.record("b", 1, SAME, answered("two", host="http://gpu1"))
        journal.record(7, 0, None, Outcome.failed(TypeError("no text"), 0.0))
    first, second = read_rows(path)
    assert (first.id, first.index, first.answer) == (7, 0, None)
    assert first.failure is not None
    assert (first.failure.type, first.failure.message, first.failure.temporary) == ("TypeError", "no text", False)
    assert (second.id, second.answer, second.failure) == ("b", response("two", host="http://gpu1"), None)
    assert (second.host, second.tokens, second.seconds) == ("http://gpu1", 7, 0.5)


def test_numbers_and_texts_are_different_ids(path: Path) -> None:
    with Journal(path, "answers", "m") as journal:
        journal.record(1, 0, SAME, answered())
        assert journal.find("1") is None
        assert journal.find(1) is not None


def test_a_recorded_row_survives_a_killed_process(path: Path) -> None:
    code = (
        "import os, sys; from namel3ss_ollama.journal import Journal; from namel3ss_ollama.rows import Outcome, State\n"
        "journal = Journal(sys.argv[1], 'vectors', 'm')\n"
        "for index in range(3): journal.record(index, index, b'f', Outcome.embedded([0.5, index], 'h', 2, 0.1))\n"
        "os.kill(os.getpid(), 9)"
    )
    if sys.platform == "win32":
        pytest.skip("no SIGKILL there")
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    assert [(row.id, row.vector) for row in read_rows(path)] == [(0, [0.5, 0.0]), (1, [0.5, 1.0]), (2, [0.5, 2.0])]


def test_a_run_reads_its_own_rows(path: Path) -> None:
    with Journal(path, "answers", "m") as journal:
        for index in range(3):
            journal.record(index, index, SAME, answered())
    with Journal(path, "answers", "m") as journal:
        journal.mark(2, 0)
        known = journal.find(2)
        assert known is not None
        assert known.run == journal.run == 2
        journal.record(9, 1, SAME, answered())
        run = journal.run
    assert [(row.id, row.index) for row in read_rows(path, run)] == [(2, 0), (9, 1)]
    assert len(list(read_rows(path))) == 4


def test_the_answer_to_an_equal_prompt_is_found(path: Path) -> None:
    with Journal(path, "answers", "m", find_equal=True) as journal:
        journal.record("failed", 0, OTHER, Outcome.failed(BadRequestError("no"), 0.0))
        journal.record("a", 1, SAME, answered(host="http://gpu1"))
        assert journal.equal(OTHER) is None
        found = journal.equal(SAME)
    assert found == Outcome(State.ANSWERED, answered(host="http://gpu1").content, "http://gpu1")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permissions")
def test_other_users_cannot_read_it(path: Path) -> None:
    Journal(path, "answers", "m").close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_journal_has_one_owner_at_a_time(path: Path) -> None:
    code = f"from namel3ss_ollama.journal import Journal; Journal({str(path)!r}, 'answers', 'm').close()"
    with Journal(path, "answers", "m"):
        with pytest.raises(JournalError, match=r"run\.db is in use by another batch or program; wait for it to end"):
            Journal(path, "answers", "m")
        with pytest.raises(JournalError, match="in use"):
            list(read_rows(path))
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "is in use by another batch or program" in other.stderr
    Journal(path, "answers", "m").close()


@pytest.mark.parametrize(
    ("kind", "model", "message"),
    [("vectors", "m", "its kind is 'answers', not 'vectors'"), ("answers", "n", "its model is 'm', not 'n'")],
)
def test_a_journal_of_another_batch(path: Path, kind: Any, model: str, message: str) -> None:
    with Journal(path, "answers", "m") as journal:
        journal.record(0, 0, SAME, answered())
    with pytest.raises(JournalError, match=message):
        Journal(path, kind, model)
    Journal(path, "answers", "m").close()  # the rejected one holds no lock


def test_a_journal_without_rows_fits_any_batch(path: Path) -> None:
    """So a misspelt model name does no harm while nothing is recorded for it."""
    Journal(path, "vectors", "lama3.2").close()
    with Journal(path, "answers", "llama3.2") as journal:
        journal.record(0, 0, SAME, answered())
    with pytest.raises(JournalError, match=r"its model is 'llama3\.2', not 'lama3\.2'"):
        Journal(path, "answers", "lama3.2")


def test_a_journal_of_another_layout(path: Path) -> None:
    Journal(path, "answers", "m").close()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    for use in (lambda: Journal(path, "answers", "m"), lambda: list(read_rows(path))):
        with pytest.raises(JournalError, match="has layout 99, this version reads 1"):
            use()


def test_files_that_are_not_journals(path: Path, tmp_path: Path) -> None:
    path.write_text("name,age\n" * 200)
    with pytest.raises(JournalError, match="is not a journal, or is damaged"):
        Journal(path, "answers", "m")
    assert path.read_text() == "name,age\n" * 200
    database = sqlite3.connect(other := tmp_path / "other.db")
    with database:
        database.execute("CREATE TABLE mine (x)")
    database.close()
    with pytest.raises(JournalError, match="is a file of another program"):
        Journal(other, "answers", "m")
    with pytest.raises(JournalError, match=r"there is no .*nothing\.db"):
        list(read_rows(tmp_path / "nothing.db"))
    with pytest.raises(JournalError, match="cannot be opened: No such file or directory"):
        Journal(tmp_path / "no folder" / "run.db", "answers", "m")


def test_a_full_disk_names_the_row_and_keeps_the_others(path: Path) -> None:
    with pytest.raises(JournalError, match="the disk is full; free some space") as caught:
        _fill(path)
    assert caught.value.unwritten is not None
    assert (caught.value.unwritten.id, caught.value.unwritten.answer) == (1, response("x" * 100_000))
    assert [row.id for row in read_rows(path)] == [0]


def _fill(path: Path) -> None:
    with Journal(path, "answers", "m") as journal:
        journal.record(0, 0, SAME, answered())
        journal._database.execute("PRAGMA max_page_count = 1")  # as SQLite reports a full disk
        journal.record(1, 1, SAME, answered("x" * 100_000))


def test_an_error_is_not_hidden_by_a_failed_close(path: Path) -> None:
    def refused() -> None:
        with Journal(path, "answers", "m") as journal:
            journal.record(0, 0, SAME, answered())
            journal.mark(0, 5)
            journal._database.execute("PRAGMA query_only = ON")
            journal.record(1, 1, SAME, answered())

    with pytest.raises(JournalError) as caught:
        refused()
    assert caught.value.unwritten is not None
    assert caught.value.unwritten.id == 1


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(
    content=texts,
    thinking=texts,
    arguments=st.dictionaries(texts, st.one_of(texts, st.integers(), st.floats(allow_nan=False, allow_infinity=False))),
    resumed=st.integers(0, 3),
)
def test_an_answer_round_trips(content: str, thinking: str, arguments: Any, resumed: int) -> None:
    given = response(
        content,
        thinking=thinking,
        tool_calls=(ToolCall("f", arguments), ToolCall("g", {}, invalid_arguments="{")),
        invalid_tool_calls=(InvalidToolCall("{}"),),
        logprobs=[{"token": "a", "logprob": -0.5}],
        truncated_prompt=True,
        host="http://gpu1",
        resumed=resumed,
    )
    assert Outcome.answered(given, 0.0).row("a", 0, vectors=False).answer == given


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (ServerBusyError("x"), State.PASSING),
        (LLMTimeoutError("x", deadline="first_chunk_timeout"), State.PASSING),
        (StreamInterruptedError("x"), State.PASSING),
        (BadRequestError("x"), State.FAILED),
        (ValueError("x"), State.FAILED),
    ],
)
def test_which_failures_are_transient(error: Exception, state: State) -> None:
    assert Outcome.failed(error, 0.0).state is state


def test_a_failure_keeps_the_partial_answer() -> None:
    failed = Outcome.failed(StreamInterruptedError("it broke off", partial=response("Roma")), 1.5).row(
        1, 0, vectors=False
    )
    assert failed.failure is not None
    assert (failed.failure.partial, failed.failure.temporary, failed.seconds) == (response("Roma"), True, 1.5)
    assert "Roma" not in repr(failed) + repr(failed.failure)


def test_a_fingerprint_differs_where_the_answer_may() -> None:
    body = {"model": "m", "prompt": "p", "options": {"seed": 1, "temperature": 0}}
    same = fingerprint("d", "generate", body)
    assert same == fingerprint("d", "generate", {**body, "keep_alive": "5m", "stream": False})
    assert same == fingerprint("d", "generate", {**body, "options": {"temperature": 0, "seed": 1}})
    others = [
        fingerprint("e", "generate", body),
        fingerprint("d", "chat", body),
        fingerprint("d", "generate", {**body, "prompt": "q"}),
        fingerprint("d", "generate", {**body, "format": "json"}),
        fingerprint("d", "generate", {**body, "options": {"seed": 2**70}}),
    ]
    assert len({same, *others}) == 6


def test_which_options_make_equal_prompts_one() -> None:
    assert is_deterministic({"temperature": 0})
    assert is_deterministic({"temperature": 0.7, "seed": 0})
    assert not is_deterministic({"temperature": 0.1})
    assert not is_deterministic({})


def test_it_leaves_one_file(path: Path) -> None:
    with Journal(path, "answers", "m") as journal:
        journal.record(1, 0, SAME, answered())
    assert list(path.parent.iterdir()) == [path]
