"""`namel3ss-ollama batch`: tables in and out, and what a kill and bad input cost."""

from __future__ import annotations

import csv
import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from namel3ss_ollama import read_journal
from namel3ss_ollama.testing import Gate

CLI = ("-m", "namel3ss_ollama.cli")
ROWS: list[dict[str, Any]] = [{"key": f"k{number}", "text": f"row {number}.", "more": [number]} for number in range(6)]


def jsonl(path: Path, rows: list[dict[str, Any]] | None = None) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in (ROWS if rows is None else rows)))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return jsonl(tmp_path / "in.jsonl")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def asked(server) -> Counter[str]:
    return Counter(record.json["prompt"] for record in server.requests if record.path == "/api/generate")


def test_each_row_gets_its_answer_and_the_same_command_asks_nothing(run, server, table, out) -> None:
    command = ("batch", str(table), str(out), "-m", "tiny", "--prompt-field", "text", "--system", "Be brief.")
    first = run(*command)
    assert first.exit_code == 0
    assert "6 answered in " in first.stderr
    rows = read(out)
    assert [{name: row[name] for name in ROWS[0]} for row in rows] == ROWS
    assert all(row["text"] in row["answer"] and row["error"] is None for row in rows)
    assert {row["host"] for row in rows} == {server.url}
    assert {record.json["system"] for record in server.requests if record.path == "/api/generate"} == {"Be brief."}
    again = run(*command)
    assert again.exit_code == 0
    assert "0 answered" in again.stderr
    assert "6 were in the journal" in again.stderr
    assert read(out) == rows
    assert asked(server) == Counter(row["text"] for row in ROWS)
    assert sorted(path.name for path in out.parent.iterdir()) == ["in.jsonl", "out.jsonl", "out.jsonl.journal"]


def test_rows_that_fail_are_rows_and_the_exit_code_says_so(run, server, tmp_path, out) -> None:
    table = jsonl(tmp_path / "in.jsonl", [{"text": "fine."}, {"txt": "oops"}, {"text": 5}, {"text": "bad."}])
    server.fault("status", status=400, message="no", contains="bad.")
    result = run("batch", str(table), str(out), "-m", "tiny", "--prompt-field", "text")
    assert result.exit_code == 1
    assert "3 rows have no answer; the column `error` of" in result.stderr
    fine, missing, number, bad = read(out)
    assert (fine["error"], missing["answer"], bad["answer"]) == (None, None, None)
    assert (missing["error"], missing["error_type"]) == ("line 2 has no 'text'", "TypeError")
    assert "expected text or a list of messages, not int" in number["error"]
    assert bad["error_type"] == "BadRequestError"


def test_csv_in_and_out_with_ids_and_a_format(run, server, tmp_path) -> None:
    (table := tmp_path / "in.csv").write_text('id,prompt\na,"one, two"\nb,"two\nlines"\n')
    (schema := tmp_path / "city.json").write_text('{"type": "object", "properties": {"n": {"type": "string"}}}')
    out, journal = tmp_path / "out.csv", tmp_path / "run.db"
    command = ("batch", str(table), str(out), "-m", "tiny", "--id-field", "id", "--journal", str(journal))
    result = run(*command, "--format", str(schema), "-o", "temperature=0")
    assert result.exit_code == 0
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], row["prompt"]) for row in rows] == [("a", "one, two"), ("b", "two\nlines")]
    assert [row.id for row in read_journal(journal)] == ["a", "b"]
    bodies = [record.json for record in server.requests if record.path == "/api/generate"]
    assert all(body["format"]["type"] == "object" and body["options"] == {"temperature": 0} for body in bodies)


def test_parquet(run, tmp_path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "in.parquet")
    out = tmp_path / "out.parquet"
    assert run("batch", str(tmp_path / "in.parquet"), str(out), "-m", "tiny", "--prompt-field", "text").exit_code == 0
    rows = parquet.read_table(out).to_pylist()
    assert [row["text"] in row["answer"] for row in rows] == [True] * 6
    assert rows[0]["error"] is None


def test_parquet_without_pyarrow(run, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("namel3ss_ollama.cli.tables.has_pyarrow", lambda: False)
    result = run("batch", str(tmp_path / "in.parquet"), str(tmp_path / "out.jsonl"), "-m", "tiny")
    assert result.exit_code == 1
    assert "needs pyarrow: pip install pyarrow" in " ".join(result.stderr.split())


def test_texts_are_embedded(run, server, table, out) -> None:
    result = run("batch", str(table), str(out), "-m", "vectors", "--embed", "--prompt-field", "text")
    assert result.exit_code == 0
    assert all(len(row["vector"]) > 1 and "answer" not in row for row in read(out))
    assert len([record for record in server.requests if record.path == "/api/embed"]) == 1


def test_several_hosts(run, server, table, out) -> None:
    with type(server)(["tiny"]) as other:
        hosts = ("--host", server.url, "--host", other.url)
        assert run("batch", str(table), str(out), "-m", "tiny", "--prompt-field", "text", *hosts).exit_code == 0
        assert {row["host"] for row in read(out)} <= {server.url, other.url}


def test_a_field_that_the_output_would_hide_asks_nothing(run, server, tmp_path, out) -> None:
    table = jsonl(tmp_path / "in.jsonl", [{"prompt": "a", "error": "mine"}])
    result = run("batch", str(table), str(out), "-m", "tiny")
    assert result.exit_code == 1
    assert "has a field 'error' already" in " ".join(result.stderr.split())
    assert not server.requests


def test_rows_with_other_fields_than_the_first(run, server, tmp_path) -> None:
    table = jsonl(tmp_path / "in.jsonl", [{"prompt": "a"}, {"prompt": "b", "more": 1}])
    for name, code in (("out.csv", 1), ("out.jsonl", 0)):
        out = tmp_path / name
        result = run("batch", str(table), str(out), "-m", "tiny", "--journal", str(tmp_path / "run.db"))
        assert result.exit_code == code
        assert out.exists() == (code == 0)
        assert ("row 2 has a field 'more'" in " ".join(result.stderr.split())) == (code == 1)
    assert asked(server).total() == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"prompt": "a"}\nnot json\n', "line 2: this is no JSON"),
        ('{"prompt": "a"}\n\n[1]\n', "line 3: expected an object, not list"),
        ('{"prompt": "a", "id": 1}\n{"prompt": "b"}\n', "line 2: there is no field 'id' for the id"),
        ('{"prompt": "a", "id": 1}\n{"prompt": "b", "id": 1}\n', "1 is there twice"),
    ],
)
def test_input_that_cannot_be_used_names_its_line(run, tmp_path, out, text: str, said: str) -> None:
    (table := tmp_path / "in.jsonl").write_text(text)
    ids = ("--id-field", "id") if '"id"' in text else ()
    result = run("batch", str(table), str(out), "-m", "tiny", *ids)
    assert result.exit_code == 1
    assert said in " ".join(result.stderr.split())
    assert not out.exists()
    assert [row.answer is not None for row in read_journal(out.with_name("out.jsonl.journal"))] in ([], [True])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"source": "in.txt"}, "the name must end with"),
        ({"target": "in.jsonl"}, "is the input, too"),
        ({"model": ""}, "name the model with --model"),
        ({"rest": ["--format", "nowhere.json"]}, "--format: cannot read"),
        ({"rest": ["--embed", "--system", "x"]}, "are for answers"),
        ({"rest": ["-o", "num_ctx=many"]}, "num_ctx"),
    ],
)
def test_wrong_usage_asks_nothing(run, server, table, out, monkeypatch, change: dict[str, Any], said: str) -> None:
    monkeypatch.chdir(table.parent)
    model = change.get("model", "tiny")
    names = change.get("source", "in.jsonl"), change.get("target", "out.jsonl")
    result = run("batch", *names, *(("-m", model) if model else ()), *change.get("rest", ()))
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
    assert not server.requests


def test_files_that_are_not_there_or_of_another_batch(run, server, table, out, tmp_path) -> None:
    gone = run("batch", str(tmp_path / "gone.jsonl"), str(out), "-m", "tiny")
    assert gone.exit_code == 1
    assert "No such file" in gone.stderr
    run("batch", str(table), str(out), "-m", "tiny", "--prompt-field", "text")
    other = run("batch", str(table), str(out), "-m", "vectors", "--prompt-field", "text")
    assert other.exit_code == 1
    assert "is of another batch" in other.stderr


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_a_batch_that_was_ended_goes_on(run, process, server, table, out, end: signal.Signals) -> None:
    gate = Gate()
    server.reply("late", contains="row 3.", gate=gate)
    command = ("batch", str(table), str(out), "-m", "tiny", "--prompt-field", "text", "--host", server.url)
    started = process(*CLI, *command)
    server.wait_for(lambda server: asked(server).total() == 6 and server.active_requests == 1, timeout=60)
    started.send_signal(end)
    _, err = started.communicate()
    assert started.returncode == (130 if end is signal.SIGINT else -signal.SIGKILL)
    assert not out.exists()
    if end is signal.SIGINT:
        assert "the same command goes on from there" in " ".join(err.split())
    gate.open()
    kept = len(list(read_journal(out.with_name("out.jsonl.journal"))))
    assert kept >= 1
    assert run(*command).exit_code == 0
    assert [row["text"] for row in read(out)] == [row["text"] for row in ROWS]
    assert asked(server).total() == 6 + (6 - kept)


def test_an_output_that_cannot_be_written_loses_nothing(run, server, table, tmp_path) -> None:
    command = ("batch", str(table), str(tmp_path / "no" / "out.jsonl"), "-m", "tiny", "--prompt-field", "text")
    assert run(*command).exit_code == 1
    result = run(*command, "--journal", str(tmp_path / "run.db"))
    assert "the journal has the answers" in " ".join(result.stderr.split())
    assert len(list(read_journal(tmp_path / "run.db"))) == 6
