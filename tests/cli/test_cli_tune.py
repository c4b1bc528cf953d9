"""`namel3ss-ollama tune`: what it prints, what it refuses before it measures, and how Ctrl-C ends it."""

from __future__ import annotations

import importlib.util
import json
import signal
from pathlib import Path

import pytest

from namel3ss_ollama import OllamaProvider, StreamConfig
from namel3ss_ollama.testing import Gate, OllamaServer

SHORT = ("tune", "-m", "tiny", "--budget", "3", "--most", "2")


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def test_tables_a_plot_and_the_settings(run, server) -> None:
    result = run(*SHORT, "--window", "2048")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"tiny at {server.url}, measured for ")
    assert lines[2].split() == ["AT", "ONCE", "TOKENS/S", "FIRST", "P50", "FIRST", "P95", "QUEUE", "ANSWERS"]
    assert [line.split()[0] for line in lines[3:5]] == ["1", "2"]
    bars = [line for line in lines if "#" in line]
    assert any("#" * 40 in line for line in bars)
    assert "NUM_CTX" in result.stdout
    assert "max_concurrent " in result.stdout
    python = result.stdout[result.stdout.index("OllamaProvider(") :].partition("\n)\n")[0] + "\n)"
    eval(python, {"OllamaProvider": OllamaProvider, "StreamConfig": StreamConfig})
    assert any(line.startswith("OLLAMA_NUM_PARALLEL=") for line in lines)
    assert "loading the model" in result.stderr
    assert "100%: done" in result.stderr


def test_as_json(run, server) -> None:
    found = json.loads(run(*SHORT, "--no-windows", "--json").stdout)
    assert found["model"] == "tiny"
    assert [row["at_once"] for row in found["at_once"]] == [1, 2]
    assert {one["name"] for one in found["recommendations"]} > {"max_concurrent", "num_ctx"}
    assert all(one["reason"] for one in found["recommendations"])


def test_several_servers_are_measured_one_after_the_other(run, server) -> None:
    with OllamaServer(["tiny"]) as other:
        result = run(*SHORT, "--no-windows", "--host", server.url, "--host", other.url)
    assert result.exit_code == 0
    assert f"tiny at {server.url}, measured" in result.stdout
    assert f"tiny at {other.url}, measured" in result.stdout
    assert max(r.ended for r in server.requests) < min(r.time for r in other.requests)


def test_a_plot_in_a_file(run, tmp_path: Path) -> None:
    path = tmp_path / "tune.png"
    result = run(*SHORT, "--no-windows", "--plot", str(path))
    assert result.exit_code == 0
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--plot", "tune.svg"], 2, "does not end in .png"),
        (["--plot", "nowhere/tune.png"], 1, "there is no directory nowhere"),
        (["--plot", "a.png", "--host", "http://a:1", "--host", "http://b:1"], 2, "--plot: needs a single server"),
        (["--no-windows", "--window", "4096"], 2, "--window: cannot be given with --no-windows"),
        (["--budget", "0"], 2, "--budget"),
        (["--option", "num_ctx=none"], 2, "num_ctx"),
    ],
)
def test_invalid_arguments_fail_before_a_request(run, server, args, code, words) -> None:
    result = run("tune", "-m", "tiny", *args)
    assert result.exit_code == code
    assert words in result.stderr
    assert not server.requests


def test_a_plot_needs_matplotlib(run, server, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else found(name))
    result = run("tune", "-m", "tiny", "--plot", "tune.png")
    assert result.exit_code == 1
    assert "pip install matplotlib" in result.stderr
    assert not server.requests


def test_a_missing_model(run) -> None:
    result = run("tune", "-m", "nope", "--budget", "5")
    assert result.exit_code == 1
    assert "nope" in result.stderr


def test_a_server_that_is_too_slow(run, server) -> None:
    server.reply("late", path="/api/generate", gate=Gate())
    result = run("tune", "-m", "tiny", "--budget", "1")
    assert result.exit_code == 1
    assert "within --budget 1 s: raise --budget" in result.stderr


def test_ctrl_c_ends_it(process, server) -> None:
    gate = Gate()
    server.reply("late", path="/api/generate", gate=gate)
    child = process("-m", "namel3ss_ollama.cli", "tune", "-m", "tiny")
    server.wait_for(lambda s: gate.waiting == 1, timeout=60)
    child.send_signal(signal.SIGINT)
    output, errors = child.communicate(timeout=60)
    assert child.returncode == 130
    assert output == ""
    assert "Traceback" not in errors
    server.wait_for(lambda s: s.active_requests == 0)
