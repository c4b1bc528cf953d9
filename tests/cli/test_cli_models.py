"""`namel3ss-ollama models`."""

from __future__ import annotations

import json
import re
import signal
from datetime import datetime, timezone

import pytest

from namel3ss_ollama import instant_retries
from namel3ss_ollama.cli.console import human_size
from namel3ss_ollama.cli.models import processor, time_left
from namel3ss_ollama.testing import Gate, Model

CLI = ("-m", "namel3ss_ollama.cli", "models")


def layer(letter: str, done: int, total: int) -> dict[str, object]:
    return {"status": f"pulling {letter * 12}", "digest": f"sha256:{letter * 64}", "total": total, "completed": done}


STEPS = [
    {"status": "pulling manifest"},
    layer("a", 0, 3_000_000),
    layer("b", 500_000, 1_000_000),
    layer("a", 3_000_000, 3_000_000),
    layer("b", 1_000_000, 1_000_000),
    {"status": "verifying sha256 digest"},
    {"status": "success"},
]


def test_without_a_command_it_prints_help(run) -> None:
    result = run("models")
    assert result.exit_code == 0
    assert "pull" in result.stdout


def test_list(run, server) -> None:
    server.models.add(Model("a" * 90, size=4_700_000_000))
    result = run("models", "list")
    head, first, *_, last = result.stdout.splitlines()
    assert head.split() == ["NAME", "SIZE", "PARAMETERS", "QUANTIZATION", "MODIFIED"]
    assert first.split()[:5] == ["tiny:latest", "98", "MB", "134.52M", "Q4_1"]
    assert last.startswith("a" * 90 + ":latest  4.7 GB ")  # not truncated, whatever the width
    assert json.loads(run("models", "list", "--json").stdout)[0]["name"] == "tiny:latest"


def test_an_empty_list(run, server) -> None:
    for name in ("tiny", "vectors"):
        server.models.remove(name)
    result = run("models", "list")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "models pull" in result.stderr
    assert run("models", "list", "--json").stdout == "[]\n"


def test_a_list_with_missing_fields(run, server) -> None:
    server.reply(json={"models": [{"name": "x"}]}, path="/api/tags")
    assert run("models", "list").stdout.splitlines()[1].split() == ["x", "?", "?", "?", "?"]


def test_pull(run, server) -> None:
    result = run("models", "pull", "new")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "pulling manifest"
    assert lines[1].startswith("pulling ")
    assert lines[2:] == ["verifying sha256 digest", "writing manifest", "success"]
    assert "new" in server.models
    assert server.requests[-1].payload["model"] == "new"


def test_pull_prints_each_step_once(run, server) -> None:
    server.reply(lines=STEPS, path="/api/pull")
    assert run("models", "pull", "new").stdout.splitlines() == [
        "pulling manifest",
        "pulling aaaaaaaaaaaa",
        "pulling bbbbbbbbbbbb",
        "verifying sha256 digest",
        "success",
    ]


def test_pull_as_json_lines(run, server) -> None:
    server.reply(lines=STEPS, path="/api/pull")
    result = run("models", "pull", "new", "--json", "--insecure")
    assert [json.loads(line) for line in result.stdout.splitlines()] == STEPS
    assert server.requests[-1].payload["insecure"] is True


def test_pull_with_bars_on_a_terminal(terminal, server) -> None:
    server.reply(lines=STEPS, path="/api/pull", gates={4: (gate := Gate())})
    screen = terminal(*CLI, "pull", "new")
    screen.expect("pulling manifest")
    server.wait_for(lambda _: gate.waiting == 1, timeout=60)
    screen.expect("pulling aaaaaaaaaaaa")
    screen.expect("0.5/1.0 MB")
    gate.open()
    screen.expect("success")
    assert screen.wait() == 0
    assert "3.0/3.0 MB" in screen.all
    assert "pulling bbbbbbbbbbbb" in screen.all


def test_bars_in_this_process(run, server, monkeypatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    server.reply(lines=STEPS, path="/api/pull")
    result = run("models", "pull", "new")
    assert result.exit_code == 0
    assert "3.0/3.0 MB" in result.stdout


def test_pull_that_fails(run, server) -> None:
    server.reply(lines=[STEPS[0], {"error": "pull model manifest: file does not exist"}], path="/api/pull")
    result = run("models", "pull", "new")
    assert (result.exit_code, result.stdout) == (1, "pulling manifest\n")
    assert "file does not exist" in result.stderr
    assert result.stderr.count("\n") == 1


def test_ctrl_c_stops_a_pull(process, server) -> None:
    server.reply(lines=STEPS, path="/api/pull", gates={1: Gate()})
    running = process(*CLI, "pull", "new")
    assert running.stdout.readline() == "pulling manifest\n"
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out, err) == (130, "", "")
    server.wait_for(lambda s: s.requests[-1].outcome == "client_closed")


def test_show(run, server) -> None:
    server.models.add(Model("tiny", ("completion", "tools"), system="Be kind.\nBe brief."))
    result = run("models", "show", "tiny")
    assert result.stdout.splitlines() == [
        "tiny",
        "  family          llama",
        "  parameters      134.52M",
        "  quantization    Q4_1",
        "  capabilities    completion, tools",
        "  context window  8192 tokens",
        "",
        "Parameters",
        '  stop                           "<|im_end|>"',
        "",
        "System prompt",
        "  Be kind.",
        "  Be brief.",
    ]
    assert json.loads(run("models", "show", "tiny", "--json").stdout)["capabilities"] == ["completion", "tools"]
    server.reply(json={}, path="/api/show")
    assert run("models", "show", "tiny").stdout.count("?\n") == 5


def test_show_of_a_missing_model(run) -> None:
    result = run("models", "show", "nope")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "'nope'" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(("answer", "deleted"), [("y\n", True), ("n\n", False), ("", False)])
def test_rm_asks(run, server, answer, deleted) -> None:
    result = run("models", "rm", "tiny", input=answer)
    assert ("tiny" in server.models) is not deleted
    assert result.exit_code == (0 if deleted else 1)
    assert f"Delete tiny from {server.url}? [y/N]:" in result.stderr
    assert result.stderr.endswith("deleted tiny\n" if deleted else "error: aborted\n")


def test_rm_without_asking(run, server) -> None:
    result = run("models", "rm", "tiny", "--yes")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "deleted tiny\n")
    assert "tiny" not in server.models
    assert run("models", "rm", "tiny", "-y").exit_code == 1


def test_ps(run, server) -> None:
    assert run("models", "ps").stderr == "no model is loaded\n"
    run("chat", "x")
    head, row = run("models", "ps").stdout.splitlines()
    assert head.split() == ["NAME", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"]
    assert row.split() == ["tiny:latest", "295", "MB", "CPU", "?", "5", "min"]
    assert json.loads(run("models", "ps", "--json").stdout)[0]["name"] == "tiny:latest"


@pytest.mark.parametrize(
    ("size", "text"),
    [(None, "?"), (12, "12 B"), (999_400, "999 kB"), (999_600, "1 MB"), (98_363_315, "98 MB"), (4.7e9, "4.7 GB")],
)
def test_sizes(size, text) -> None:
    assert human_size(size) == text


@pytest.mark.parametrize(
    ("size", "on_gpu", "text"),
    [(10, 0, "CPU"), (10, 10, "GPU"), (10, 4, "40% GPU"), (None, 1, "?"), (1, None, "?"), (0, 0, "?")],
)
def test_processors(size, on_gpu, text) -> None:
    assert processor({"size": size, "size_vram": on_gpu}) == text


@pytest.mark.parametrize(
    ("until", "text"),
    [
        ("2026-01-01T12:00:30.123456789Z", "30 s"),
        ("2026-01-01T14:05:00+02:00", "5 min"),
        ("2026-01-01T15:00:00Z", "3 h"),
        ("2026-01-05T12:00:00Z", "4 days"),
        ("2318-01-01T00:00:00Z", "for ever"),
        ("2026-01-01T11:00:00Z", "now"),
        ("soon", "?"),
        (None, "?"),
    ],
)
def test_time_left(until, text) -> None:
    assert time_left(until, datetime(2026, 1, 1, 12, tzinfo=timezone.utc)) == text


def test_no_server(run, server) -> None:
    server.refuse()
    with instant_retries():
        result = run("models", "list")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: cannot connect to {server.url}")


def test_bars_are_full_at_the_end(run, server, monkeypatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    checked = {"status": "verifying sha256 digest", "digest": f"sha256:{'a' * 64}", "total": 3_000_000, "completed": 0}
    server.reply(lines=[layer("a", 2_000_000, 3_000_000), checked, {"status": "success"}], path="/api/pull")
    result = run("models", "pull", "new")
    assert re.findall(r"\d\.\d/\d\.\d MB", result.stdout)[-1] == "3.0/3.0 MB"
    assert result.stdout.count("verifying sha256 digest") == 1


def test_numbers_only_where_there_is_no_room_for_bars(run, server, monkeypatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    server.reply(lines=STEPS, path="/api/pull")
    assert "pulling aaaaaaaaaaaa 3.0/3.0 MB" in re.sub(
        r"\x1b\[[0-9;?]*[a-zA-Z]", "", run("models", "pull", "new").stdout
    )


def test_rm_checks_before_it_asks(run, server) -> None:
    result = run("models", "rm", "tny", input="y\n")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"error: {server.url} does not have the model 'tny'; did you mean tiny:latest?\n"
    assert not [record for record in server.requests if record.method == "DELETE"]


def test_a_model_that_is_broken_can_be_deleted(run, server) -> None:
    server.fault("status", status=500, message="unexpected EOF", path="/api/show")
    with instant_retries():
        assert run("models", "rm", "tiny", "-y").exit_code == 0
    assert "tiny" not in server.models


def test_ctrl_c_at_the_question_deletes_nothing(terminal, server) -> None:
    screen = terminal(*CLI, "rm", "tiny")
    screen.expect("[y/N]: ")
    screen.interrupt()
    screen.read_rest()
    assert "Traceback" not in screen.all
    assert screen.wait() == 130
    assert "tiny" in server.models


@pytest.mark.parametrize("command", [("models", "show"), ("models", "pull"), ("models", "rm")], ids=lambda c: c[1])
def test_an_empty_name_is_a_usage_error(run, server, command) -> None:
    result = run(*command, "")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: Invalid value for 'NAME': is empty")
    assert not server.requests


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (
            'pull model manifest: Get "https://registry.ollama.ai": dial tcp: lookup registry.ollama.ai: no such host',
            "HTTPS_PROXY for `ollama serve`",
        ),
        ("pull model manifest: file does not exist", "the registry has no model of that name"),
    ],
)
def test_why_a_server_cannot_pull(run, server, error, remedy) -> None:
    server.reply(lines=[{"error": error}], path="/api/pull")
    result = run("models", "pull", "new")
    assert result.exit_code == 1
    assert remedy in result.stderr


def test_the_embedded_engine_suggests_a_model_it_can_run(run, monkeypatch, tmp_path) -> None:
    pytest.importorskip("xllamacpp")
    monkeypatch.setenv("NAMEL3SS_OLLAMA_CACHE", str(tmp_path))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "none"))
    command = "namel3ss-ollama models pull smollm2:135m --embedded"
    for args in (["models", "list"], ["doctor"], ["chat", "x"], ["chat", "x", "-m", "llama3.2"]):
        result = run(*args, "--host", "embedded://")
        output = result.stdout + result.stderr
        assert command in output
        assert "llama3.2 --embedded" not in output
        assert "embedded://engine" not in output
