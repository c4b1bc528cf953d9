"""`namel3ss-ollama batch`: files of rows in and out, resuming, and the errors for bad input."""

from __future__ import annotations

import csv
import json
import shlex
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from namel3ss_ollama import instant_retries
from namel3ss_ollama.cli import batch as batch_module
from namel3ss_ollama.cli import tables
from namel3ss_ollama.testing import Gate, OllamaServer, Record, Reply

CLI = ("-m", "namel3ss_ollama.cli")


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def asked(server: OllamaServer) -> Callable[[], list[Record]]:
    """The requests for answers and vectors so far."""
    return lambda: [r for r in server.requests if r.path in ("/api/generate", "/api/chat", "/api/embed")]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_rows_come_out_one_to_one_in_order_with_their_fields(run, server, tmp_path) -> None:
    server.reply(lambda record: Reply(f"<{record.payload['prompt']}>"))
    write(tmp_path / "in.jsonl", *({"n": n, "text": f"q{n}", "big": 2**70} for n in range(30)))
    result = run("batch", "in.jsonl", "out.jsonl")
    assert (result.exit_code, result.stdout) == (0, "")
    rows = read(tmp_path / "out.jsonl")
    assert [(row["n"], row["text"], row["answer"]) for row in rows] == [(n, f"q{n}", f"<q{n}>") for n in range(30)]
    assert {row["big"] for row in rows} == {2**70}
    first = rows[0]
    assert list(first) == ["n", "text", "big", "answer", "error", "error_type", "tokens", "host", "seconds"]
    assert (first["error"], first["error_type"], first["host"]) == (None, None, server.url)
    assert first["tokens"] > 0
    assert first["seconds"] > 0
    assert "30 rows: 30 answered, 0 failed;" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl", "out.jsonl.journal"]


def test_options_are_sent(run, server, asked, tmp_path) -> None:
    write(tmp_path / "in.jsonl", {"q": "hello"})
    write(tmp_path / "schema.json", {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]})
    flags = ("--prompt-field", "q", "-s", "Be brief.", "-o", "temperature=0", "--no-think", "-m", "tiny")
    result = run("batch", "in.jsonl", "out.jsonl", *flags, "--format", "schema.json", "--max-concurrent", "1")
    assert result.exit_code == 0, result.stderr
    sent = asked()[0].payload
    assert (sent["prompt"], sent["system"], sent["options"]) == ("hello", "Be brief.", {"temperature": 0})
    assert (sent["think"], sent["format"]["required"]) == (False, ["a"])
    assert "a" in json.loads(read(tmp_path / "out.jsonl")[0]["answer"])


def test_a_prompt_may_be_messages(run, server, asked, tmp_path) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]
    write(tmp_path / "in.jsonl", {"text": messages}, {"text": ["hello"]}, {"text": []})
    assert run("batch", "in.jsonl", "out.jsonl").exit_code == 1
    assert [(record.path, record.payload["messages"]) for record in asked()] == [("/api/chat", messages)]
    fine, words, empty = read(tmp_path / "out.jsonl")
    assert fine["answer"]
    assert "messages[0]: expected a Message or a dict, not str" in words["error"]
    assert "not a text but list" in empty["error"]


def test_max_concurrent_limits_the_requests(run, server, asked, tmp_path) -> None:
    most = []

    def reply(_: Record) -> Reply:
        most.append(server.active_requests)
        return Reply("x")

    server.reply(reply)
    write(tmp_path / "in.jsonl", *({"text": str(n)} for n in range(8)))
    assert run("batch", "in.jsonl", "out.jsonl", "--max-concurrent", "1").exit_code == 0
    assert len(asked()) == 8
    assert max(most) == 1


def test_a_rerun_retries_temporary_failures_and_keeps_the_rest(run, server, asked, tmp_path) -> None:
    server.on(contains="busy").fault("status", status=503)
    server.on(contains="wrong").fault("status", status=400)
    write(tmp_path / "in.jsonl", {"text": "busy"}, {"text": "fine"}, {"text": "wrong"})
    with instant_retries():
        result = run("batch", "in.jsonl", "out.jsonl")
    assert result.exit_code == 1
    assert "error: 2 of 3 rows failed; the first: in.jsonl, line 1: ServerBusyError" in " ".join(result.stderr.split())
    rows = read(tmp_path / "out.jsonl")
    assert [row["error_type"] for row in rows] == ["ServerBusyError", None, "BadRequestError"]
    assert [row["answer"] is None for row in rows] == [True, False, True]
    assert rows[2]["error"]
    server.reset()
    result = run("batch", "in.jsonl", "out.jsonl")
    assert [record.payload["prompt"] for record in asked()] == ["busy"]
    assert result.exit_code == 1
    assert "2 answered (1 of them before), 1 failed" in " ".join(result.stderr.split())
    assert run("batch", "in.jsonl", "out.jsonl", "--retry-all").exit_code == 0
    assert [record.payload["prompt"] for record in asked()] == ["busy", "wrong"]
    assert all(row["answer"] for row in read(tmp_path / "out.jsonl"))


def test_ids_keep_answers_when_rows_move(run, server, asked, tmp_path) -> None:
    server.reply(lambda record: Reply(record.payload["prompt"].upper()))
    write(tmp_path / "in.jsonl", {"id": "a", "text": "x"}, {"id": 7, "text": "y"})
    assert run("batch", "in.jsonl", "out.jsonl", "--id-field", "id").exit_code == 0
    write(tmp_path / "in.jsonl", {"id": "new", "text": "z"}, {"id": 7, "text": "y"}, {"id": "a", "text": "changed"})
    assert run("batch", "in.jsonl", "out.jsonl", "--id-field", "id").exit_code == 0
    assert sorted(record.payload["prompt"] for record in asked()) == ["changed", "x", "y", "z"]
    assert [row["answer"] for row in read(tmp_path / "out.jsonl")] == ["Z", "Y", "CHANGED"]


def test_bad_rows_fail_and_the_others_are_sent(run, server, asked, tmp_path) -> None:
    bad = [{"other": "x", "more": 1}, {"text": 5}, {"text": None}, {"text": " "}, {"text": []}]
    write(tmp_path / "in.jsonl", *bad[:2], {"text": "good"}, "", *bad[2:])
    result = run("batch", "in.jsonl", "out.jsonl")
    assert result.exit_code == 1
    assert "5 of 6 rows failed; the first: in.jsonl, line 1: BadRow" in " ".join(result.stderr.split())
    rows = read(tmp_path / "out.jsonl")
    assert [row["error"] for row in rows] == [
        "line 1: there is no field 'text' among other, more; name the right one with --prompt-field",
        "line 2: 'text' is not a text but int",
        None,
        "line 5: 'text' is not a text but null",
        "line 6: 'text' is empty",
        "line 7: 'text' is not a text but list",
    ]
    assert [row["error_type"] for row in rows].count("BadRow") == 5
    assert rows[2]["answer"]
    assert len(asked()) == 1


@pytest.mark.parametrize(
    ("lines", "args", "why"),
    [
        (['{"text": "a"}', '{"text": '], [], "in.jsonl, line 2: is not JSON"),
        (['{"text": "a"}', "", "[1]"], [], "in.jsonl, line 3: is not a JSON object: '[1]'"),
        (
            ['{"id": 1, "text": "a"}', '{"id": 1, "text": "b"}'],
            ["--id-field", "id"],
            "line 2: the id 1 is also that of line 1",
        ),
        (['{"id": 1.5, "text": "a"}'], ["--id-field", "id"], "line 1: an id must be a text or a 64-bit integer"),
        (['{"text": "a"}'], ["--id-field", "id"], "got no field 'id'"),
        (['{"text": "a", "answer": 1}'], [], "line 1: has a field 'answer', which the output uses for the result"),
    ],
)
def test_an_invalid_file_is_an_error_before_any_request(run, server, tmp_path, lines, args, why) -> None:
    write(tmp_path / "in.jsonl", *lines)
    write(tmp_path / "out.jsonl", "as it was")
    result = run("batch", "in.jsonl", "out.jsonl", *args)
    assert result.exit_code == 1
    assert why in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert server.requests == []
    assert (tmp_path / "out.jsonl").read_text() == "as it was\n"


def test_text_that_is_not_utf8_is_named_by_its_line(run, server, tmp_path) -> None:
    (tmp_path / "in.jsonl").write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n')
    result = run("batch", "in.jsonl", "out.jsonl")
    assert (result.exit_code, server.requests) == (1, [])
    assert "in.jsonl, line 2: is not UTF-8 text" in result.stderr


@pytest.mark.parametrize(
    ("args", "code", "why"),
    [
        (["none.jsonl", "out.jsonl"], 1, "there is no none.jsonl"),
        ([".", "out.jsonl"], 2, "the suffix must be one of"),
        (["in.jsonl", "out.txt"], 2, "out.txt: the suffix must be one of .jsonl, .ndjson, .csv, .parquet"),
        (["in.jsonl", "in.jsonl"], 2, "the output would overwrite the input"),
        (["in.jsonl", "./link.jsonl"], 2, "the output would overwrite the input"),
        (["in.jsonl", "out.jsonl", "--journal", "in.jsonl"], 2, "the journal would overwrite the input"),
        (["in.jsonl", "out.jsonl", "--journal", "out.jsonl"], 2, "the output would overwrite the journal"),
        (["in.jsonl", "no/out.jsonl"], 1, "there is no directory"),
        (["in.jsonl", "folder.jsonl"], 1, "folder.jsonl is a directory"),
        (["in.jsonl", "out.jsonl", "--embed"], 2, "--embed: name the model"),
        (["in.jsonl", "out.jsonl", "--embed", "-m", "vectors", "-s", "x"], 2, "these rows are embedded"),
        (["in.jsonl", "out.jsonl", "-o", "temperature=hot"], 2, "temperature"),
        (["in.jsonl", "out.jsonl", "--num-ctx", "9"], 2, "--num-ctx; pass it as --option num_ctx=VALUE"),
        (["in.jsonl", "out.jsonl", "--format", "none.json"], 2, "neither json nor a file"),
        (["in.jsonl", "out.jsonl", "-m", "llama9"], 1, "does not have the model 'llama9'"),
    ],
)
def test_invalid_arguments(run, asked, tmp_path, args, code, why) -> None:
    write(tmp_path / "in.jsonl", {"text": "a"})
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "in.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    result = run("batch", *args)
    assert result.exit_code == code, result.stderr
    assert why in " ".join(result.stderr.split())
    assert asked() == []
    assert read(tmp_path / "in.jsonl") == [{"text": "a"}]
    assert not (tmp_path / "out.jsonl").exists()


def test_a_wrong_model_leaves_no_journal_in_the_way_of_the_right_one(run, tmp_path) -> None:
    write(tmp_path / "in.jsonl", {"text": "a"})
    for wrong, why in (("tinny", "did you mean tiny:latest?"), ("vectors", "vectors cannot chat")):
        result = run("batch", "in.jsonl", "out.jsonl", "-m", wrong)
        assert result.exit_code == 1
        assert why in " ".join(result.stderr.split())
    assert run("batch", "in.jsonl", "out.jsonl", "-m", "tiny").exit_code == 0


def test_a_journal_of_another_model_is_left_alone(run, server, asked, tmp_path) -> None:
    server.models.add("other")
    write(tmp_path / "in.jsonl", {"text": "a"})
    assert run("batch", "in.jsonl", "out.jsonl", "-m", "tiny").exit_code == 0
    written = (tmp_path / "out.jsonl").read_text()
    result = run("batch", "in.jsonl", "out.jsonl", "-m", "other")
    assert result.exit_code == 1
    error = " ".join(result.stderr.split())
    assert error.startswith("error: --journal: out.jsonl.journal is of another batch: its model is 'tiny', not 'other'")
    assert error.endswith("name another with --journal")
    assert (tmp_path / "out.jsonl").read_text() == written
    assert run("batch", "in.jsonl", "out.jsonl", "-m", "tiny").exit_code == 0
    assert len(asked()) == 1


def test_a_server_that_fails_leaves_a_journal_and_the_old_output(run, server, asked, tmp_path) -> None:
    write(tmp_path / "in.jsonl", *({"text": f"q{n}"} for n in range(40)))
    write(tmp_path / "out.jsonl", "as it was")
    server.on(path="/api/generate").reply("x", times=5).fault("close_before_headers")
    with instant_retries():
        result = run("batch", "in.jsonl", "out.jsonl", "--max-concurrent", "1", "-m", "tiny")
    assert result.exit_code == 1
    assert "namel3ss-ollama batch in.jsonl out.jsonl" in " ".join(result.stderr.split())
    assert (tmp_path / "out.jsonl").read_text() == "as it was\n"
    server.reset()
    assert run("batch", "in.jsonl", "out.jsonl", "-m", "tiny").exit_code == 0
    assert len(asked()) == 35
    assert len(read(tmp_path / "out.jsonl")) == 40


def test_an_input_that_changes_meanwhile_is_an_error_without_loss(run, server, asked, tmp_path) -> None:
    source = write(tmp_path / "in.jsonl", {"text": "a"}, {"text": "b"})

    def change(_: Record) -> Reply:
        write(source, {"text": "a"}, {"text": "b"}, {"text": "c"})
        return Reply("x")

    server.reply(change)
    result = run("batch", "in.jsonl", "out.jsonl", "--max-concurrent", "1")
    assert result.exit_code == 1
    assert "in.jsonl has changed since it was read" in " ".join(result.stderr.split())
    assert not (tmp_path / "out.jsonl").exists()
    before = [record.payload["prompt"] for record in asked()]
    server.reset()
    assert run("batch", "in.jsonl", "out.jsonl").exit_code == 0
    assert sorted([*before, *(record.payload["prompt"] for record in asked())]) == ["a", "b", "c"]


def test_an_output_that_cannot_be_written_is_unchanged(run, server, asked, tmp_path, monkeypatch) -> None:
    write(tmp_path / "in.jsonl", {"text": "a"})
    write(tmp_path / "out.jsonl", "as it was")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(tables.os, "fsync", full)
        result = run("batch", "in.jsonl", "out.jsonl")
    assert (result.exit_code, (tmp_path / "out.jsonl").read_text()) == (1, "as it was\n")
    assert "out.jsonl cannot be written: No space left on device" in result.stderr
    assert not list(tmp_path.glob(".*.part"))
    assert run("batch", "in.jsonl", "out.jsonl").exit_code == 0
    assert len(asked()) == 1


def test_vectors(run, server, asked, tmp_path) -> None:
    write(tmp_path / "in.jsonl", {"text": "a"}, {"text": 3}, {"text": "b"})
    result = run("batch", "in.jsonl", "out.jsonl", "--embed", "-m", "vectors", "-o", "num_ctx=512")
    assert result.exit_code == 1
    rows = read(tmp_path / "out.jsonl")
    assert [row["vector"] is None for row in rows] == [False, True, False]
    assert rows[0]["vector"] != rows[2]["vector"]
    assert "answer" not in rows[0]
    (request,) = asked()
    assert (request.payload["input"], request.payload["options"]) == (["a", "b"], {"num_ctx": 512})


def test_csv_in_and_out(run, server, tmp_path) -> None:
    server.reply(lambda record: Reply(f"{record.payload['prompt']}!"))
    (tmp_path / "in.csv").write_text('﻿id,text\n1,"two\nlines, and ""quotes"""\n\n2,\n3,plain\n', newline="")
    result = run("batch", "in.csv", "out.csv", "--id-field", "id")
    assert result.exit_code == 1
    assert "the first: in.csv, line 5: BadRow" in " ".join(result.stderr.split())
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["1", "2", "3"]
    assert rows[0]["text"] == 'two\nlines, and "quotes"'
    assert [row["answer"] for row in rows] == ['two\nlines, and "quotes"!', "", "plain!"]
    assert list(rows[0]) == ["id", "text", "answer", "error", "error_type", "tokens", "host", "seconds"]
    assert rows[1]["tokens"] == "0"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a,text\n1\n", "line 2: has 1 fields, and the header 2"),
        ('a,text\n1,"x\ny"\n2,"x\n', "line 4: is not CSV"),
        ("text,text\n1,2\n", "line 1: names a field twice"),
    ],
)
def test_csv_that_cannot_be_read(run, server, tmp_path, text, why) -> None:
    (tmp_path / "in.csv").write_text(text)
    result = run("batch", "in.csv", "out.csv")
    assert (result.exit_code, server.requests) == (1, [])
    assert why in result.stderr


def test_nested_values_are_json_in_csv(run, server, tmp_path) -> None:
    write(tmp_path / "in.jsonl", {"text": "a", "tags": ["x", {"y": 1}]}, {"text": "b", "more": True})
    assert run("batch", "in.jsonl", "out.csv").exit_code == 0
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["tags"], row["more"]) for row in rows] == [('["x",{"y":1}]', ""), ("", "true")]


@pytest.mark.parametrize(("name", "text"), [("in.jsonl", ""), ("in.csv", ""), ("in.csv", "text\n")])
def test_no_rows_are_not_an_error(run, server, tmp_path, name, text) -> None:
    (tmp_path / name).write_text(text)
    result = run("batch", name, "out.jsonl", "-m", "tiny")
    assert (result.exit_code, (tmp_path / "out.jsonl").read_text()) == (0, "")


def test_parquet_in_and_out(run, server, tmp_path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    server.reply(lambda record: Reply(f"{record.payload['prompt']}!"))
    schema = pa.schema([("id", pa.int32()), ("text", pa.string()), ("tags", pa.list_(pa.string()))])
    rows = [{"id": n, "text": f"q{n}" if n else None, "tags": ["a", "b"]} for n in range(5)]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "in.parquet")
    result = run("batch", "in.parquet", "out.parquet", "--id-field", "id")
    assert result.exit_code == 1
    assert "the first: in.parquet, row 1: BadRow" in " ".join(result.stderr.split())
    written = pq.read_table(tmp_path / "out.parquet")
    assert written.schema.field("id").type == pa.int32()
    assert written.schema.field("tokens").type == pa.int64()
    assert written.column("answer").to_pylist() == [None, "q1!", "q2!", "q3!", "q4!"]
    assert written.column("tags").to_pylist() == [["a", "b"]] * 5


def test_from_jsonl_to_parquet_and_vectors(run, server, tmp_path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    write(tmp_path / "in.jsonl", {"text": "a", "n": 1, "x": [1]}, {"text": "b", "n": 1.5, "x": "s"}, {"text": "c"})
    assert run("batch", "in.jsonl", "out.parquet", "--embed", "-m", "vectors").exit_code == 0
    written = pq.read_table(tmp_path / "out.parquet")
    assert written.column("n").to_pylist() == [1.0, 1.5, None]
    assert written.column("x").to_pylist() == ["[1]", "s", None]
    assert written.schema.field("vector").type == pa.list_(pa.float64())
    assert all(written.column("vector").to_pylist())


def test_a_file_that_is_not_parquet(run, server, tmp_path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "in.parquet").write_text("nothing of the kind")
    result = run("batch", "in.parquet", "out.jsonl")
    assert (result.exit_code, server.requests) == (1, [])
    assert "in.parquet, row 1: cannot be read" in result.stderr


def test_without_pyarrow_the_package_is_named(run, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    write(tmp_path / "in.jsonl", {"text": "a"})
    result = run("batch", "in.jsonl", "out.parquet")
    assert result.exit_code == 1
    assert "out.parquet: Parquet needs pyarrow; pip install pyarrow" in result.stderr


def chat_row(id: str, text: str, **body: Any) -> dict[str, Any]:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
    return {
        "custom_id": id,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "tiny", "messages": messages, **body},
    }


def test_openai_chats(run, server, chats, tmp_path) -> None:
    server.reply("Hello.", contains="first")
    server.on(contains="wrong").fault("status", status=400)
    settings = {"temperature": 0.5, "max_tokens": 9, "n": 1, "user": "u", "response_format": {"type": "text"}}
    nothing = chat_row("c", "x", **settings)
    nothing["body"]["messages"] = []
    write(tmp_path / "in.jsonl", chat_row("a", "first", **settings), chat_row("b", "wrong", **settings), nothing)
    result = run("batch", "in.jsonl", "out.jsonl")
    assert result.exit_code == 1
    sent = next(record.payload for record in chats() if "first" in record.text)
    assert [message["role"] for message in sent["messages"]] == ["system", "user"]
    assert sent["options"] == {"temperature": 0.5, "num_predict": 9}
    good, refused, bad = read(tmp_path / "out.jsonl")
    assert list(good) == ["id", "custom_id", "response", "error"]
    assert (good["custom_id"], good["error"], good["response"]["status_code"]) == ("a", None, 200)
    body = good["response"]["body"]
    assert (body["object"], body["model"]) == ("chat.completion", "tiny")
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "Hello."}
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["created"] > 0
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"]
    assert (refused["response"], refused["error"]["code"]) == (None, "BadRequestError")
    assert bad["error"] == {"code": "BadRow", "message": "line 3: body.messages is not a list of messages"}
    assert len({row["id"] for row in (good, refused, bad)}) == 3


def test_openai_schemas_and_tools(run, server, chats, tmp_path) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    write(tmp_path / "in.jsonl", chat_row("a", "x", response_format=wanted, reasoning_effort="none"))
    assert run("batch", "in.jsonl", "out.jsonl").exit_code == 0
    assert (chats()[0].payload["format"], chats()[0].payload["think"]) == (schema, False)
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    write(tmp_path / "tools.jsonl", chat_row("a", "x", tools=[tool], tool_choice="required"))
    result = run("batch", "tools.jsonl", "called.jsonl")
    assert result.exit_code == 0, result.stderr
    choice = read(tmp_path / "called.jsonl")[0]["response"]["body"]["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "look", "arguments": "{}"}


def test_the_model_option_overrides_the_rows_models(run, server, chats, tmp_path) -> None:
    rows = [chat_row("a", "x"), chat_row("b", "y")]
    rows[0]["body"]["model"], rows[1]["body"]["model"] = "gpt-4o", "gpt-4o-mini"
    write(tmp_path / "in.jsonl", *rows)
    result = run("batch", "in.jsonl", "out.jsonl")
    assert result.exit_code == 1
    assert "line 2: its model is 'gpt-4o-mini', and that of in.jsonl, line 1 is 'gpt-4o'" in result.stderr
    assert run("batch", "in.jsonl", "out.jsonl", "-m", "tiny").exit_code == 0
    assert {record.payload["model"] for record in chats()} == {"tiny"}


def test_openai_embeddings(run, server, asked, tmp_path) -> None:
    def row(id: str, text: Any) -> dict[str, Any]:
        body = {"model": "vectors", "input": text, "encoding_format": "float"}
        return {"custom_id": id, "method": "POST", "url": "/v1/embeddings", "body": body}

    write(tmp_path / "in.jsonl", row("a", "one"), row("b", ["two"]), row("c", ["x", "y"]))
    result = run("batch", "in.jsonl", "out.jsonl")
    assert result.exit_code == 1
    a, b, c = read(tmp_path / "out.jsonl")
    assert a["response"]["body"]["data"][0]["embedding"] != b["response"]["body"]["data"][0]["embedding"]
    assert a["response"]["body"]["usage"]["total_tokens"] > 0
    assert c["error"]["message"] == "line 3: body.input has 2 texts; give each a row of its own"
    assert asked()[0].payload["input"] == ["one", "two"]


@pytest.mark.parametrize(
    ("second", "args", "why"),
    [
        (
            chat_row("b", "y", temperature=1),
            [],
            "line 2: its temperature is 1, and that of in.jsonl, line 1 is not set",
        ),
        (chat_row("a", "y"), [], "line 2: the id 'a' is also that of line 1"),
        ({"text": "y"}, [], "line 2: has no custom_id and body"),
        ({**chat_row("b", "y"), "url": "/v1/responses"}, [], "line 2: its url is '/v1/responses'; supported are"),
        ({**chat_row("b", "y"), "method": "GET"}, [], "line 2: its method is 'GET'"),
        (chat_row("b", "y", stream=True), [], "line 2: body.stream can only be False"),
        (chat_row("b", "y", logit_bias={"1": 2}), [], "line 2: body.logit_bias has no counterpart"),
        (chat_row("b", "y", response_format={"type": "x"}), [], "line 2: body.response_format is none of"),
        (chat_row("b", "y"), ["--prompt-field", "x"], "--prompt-field: rows in OpenAI's batch format set that"),
        (chat_row("b", "y"), ["--embed"], "--embed: the rows of in.jsonl are for /v1/chat/completions"),
    ],
)
def test_openai_rows_that_cannot_be_one_batch(run, server, tmp_path, second, args, why) -> None:
    write(tmp_path / "in.jsonl", chat_row("a", "x"), second)
    result = run("batch", "in.jsonl", "out.jsonl", *args)
    assert result.exit_code in (1, 2)
    assert why in " ".join(result.stderr.split())
    assert server.requests == []


def test_openai_responses_are_jsonl(run, server, tmp_path) -> None:
    write(tmp_path / "in.jsonl", chat_row("a", "x"))
    result = run("batch", "in.jsonl", "out.csv")
    assert (result.exit_code, server.requests) == (2, [])
    assert "name a .jsonl file" in result.stderr


def test_several_hosts(process, tmp_path) -> None:
    gates = [Gate(), Gate()]
    with OllamaServer() as one, OllamaServer() as other:
        both = list(zip((one, other), gates, strict=True))
        for server, gate in both:
            server.reply("x", gate=gate)
        write(tmp_path / "in.jsonl", *({"text": f"q{n}"} for n in range(4)))
        hosts = ("--host", one.url, "--host", other.url)
        running = process(*CLI, "batch", "in.jsonl", "out.jsonl", *hosts, "-m", "llama3.2", "--max-concurrent", "2")
        for server, gate in both:
            server.wait_for(lambda _, gate=gate: gate.waiting == 1, timeout=60)
        for gate in gates:
            gate.open()
        _, err = running.communicate(timeout=60)
        assert running.returncode == 0, err
        assert {row["host"] for row in read(tmp_path / "out.jsonl")} == {one.url, other.url}


def test_ctrl_c_prints_a_command_that_resumes(run, process, server, asked, tmp_path) -> None:
    gate = Gate()
    server.reply("x", times=3)
    server.reply("x", gate=gate)
    write(tmp_path / "in.jsonl", *({"q": f"q{n}"} for n in range(9)))
    args = ("in.jsonl", "my out.jsonl", "-m", "tiny", "--prompt-field", "q", "-o", "seed=1", "-o", "top_k=3")
    running = process(*CLI, "batch", *args, "--no-think", "--max-concurrent", "1")
    server.wait_for(lambda _: gate.waiting == 1, timeout=60)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, "")
    assert not (tmp_path / "my out.jsonl").exists()
    assert err.startswith("answers so far are in my out.jsonl.journal; the same command resumes from there: ")
    command = shlex.split(err.partition("from there: ")[2])
    assert command[:2] == ["namel3ss-ollama", "batch"]
    long = {"-m": "--model", "-o": "--option"}
    expected = [long.get(word, word) for word in (*args, "--no-think", "--max-concurrent", "1")]
    assert sorted(command[2:]) == sorted(expected)
    server.reset()
    result = run(*command[1:])
    assert result.exit_code == 0, result.stderr
    assert len(asked()) == 6
    assert [row["q"] for row in read(tmp_path / "my out.jsonl")] == [f"q{n}" for n in range(9)]


def test_passwords_are_not_printed() -> None:
    assert batch_module._without_secrets("http://me:secret@gpu1:11434") == "http://me:PASSWORD@gpu1:11434"
    assert batch_module._without_secrets("gpu1:11434") == "gpu1:11434"


def test_kill_9_costs_the_requests_in_flight(run, process, server, asked, tmp_path) -> None:
    gate = Gate()
    server.reply("x", times=12)
    server.reply("x", gate=gate)
    write(tmp_path / "in.jsonl", *({"text": f"q{n}"} for n in range(30)))
    running = process(*CLI, "batch", "in.jsonl", "out.jsonl", "-m", "tiny", "--max-concurrent", "3")
    server.wait_for(lambda _: gate.waiting == 3, timeout=60)
    running.kill()
    running.wait(60)
    assert not (tmp_path / "out.jsonl").exists()
    prompts = [record.payload["prompt"] for record in asked()]
    assert len(prompts) == 15
    server.reset()
    assert run("batch", "in.jsonl", "out.jsonl", "-m", "tiny").exit_code == 0
    prompts += [record.payload["prompt"] for record in asked()]
    assert sorted(set(prompts)) == sorted(f"q{n}" for n in range(30))
    assert len(prompts) == 33  # those that the kill interrupted are sent twice
    assert [row["text"] for row in read(tmp_path / "out.jsonl")] == [f"q{n}" for n in range(30)]


def test_progress_without_a_terminal_is_a_line(run, server, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("namel3ss_ollama.progress._LOGGED_EVERY", 0.0)
    write(tmp_path / "in.jsonl", {"text": "a"}, {"text": "b"})
    result = run("batch", "in.jsonl", "out.jsonl")
    assert "2 of 2 rows" in result.stderr


def test_the_output_has_the_usual_mode_and_a_symlink_is_kept(run, server, tmp_path) -> None:
    write(tmp_path / "in.jsonl", {"text": "a"})
    (tmp_path / "real.jsonl").write_text("")
    (tmp_path / "out.jsonl").symlink_to("real.jsonl")
    assert run("batch", "in.jsonl", "out.jsonl").exit_code == 0
    assert (tmp_path / "out.jsonl").is_symlink()
    assert read(tmp_path / "real.jsonl")[0]["answer"]
    same = stat.S_IMODE(Path("in.jsonl").stat().st_mode)
    assert stat.S_IMODE(Path("real.jsonl").stat().st_mode) == same


def test_rows_are_read_lazily(tmp_path) -> None:
    source = write(tmp_path / "in.jsonl", {"text": "a"}, "no JSON")
    rows = tables.open_table(source).rows()
    assert next(rows) == (1, {"text": "a"})
    with pytest.raises(batch_module.CommandError, match="line 2"):
        next(rows)
