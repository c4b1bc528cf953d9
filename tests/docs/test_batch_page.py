"""docs/batch.md: its code and its commands run unchanged, twice, and the second run sends no request."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from namel3ss_ollama.testing import OllamaServer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "batch.md").read_text("utf-8")
BLOCKS = re.findall(r"^#+ ([^\n]+)\n(?:(?!^#+ ).)*?^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
RAY = next(code for title, code in BLOCKS if title == "On Ray Data")
LOGGING = next(code for title, code in BLOCKS if title == "Progress")
ASKING = [(title, code) for title, code in BLOCKS if code not in (RAY, LOGGING)]
FILES = dict(re.findall(r"^[^\n]*`([\w.]+)`(?: is)?:\n\n```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
COMMANDS = re.findall(
    r"^(namel3ss-ollama [^\n]+)$", "".join(re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)), re.M
)
UNWANTED = ("Unclosed", "never awaited", "Task was destroyed", "Event loop is closed", "Traceback", "ResourceWarning")
Asked = Callable[[], int]


@pytest.fixture
def asked(ollama_server: OllamaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Counts the requests for answers and vectors so far; the working directory is empty."""
    monkeypatch.setenv("OLLAMA_BASE_URL", ollama_server.url)
    monkeypatch.chdir(tmp_path)
    paths = ("/api/generate", "/api/chat", "/api/embed")
    return lambda: sum(record.path in paths for record in ollama_server.requests)


def test_no_block_is_missed() -> None:
    assert len(ASKING) + 2 == PAGE.count("```python") == 5
    assert len(COMMANDS) == 5
    assert sorted(FILES) == ["requests.jsonl", "review.json", "reviews.jsonl"]
    assert PAGE.count("```json") == len(FILES) + 1  # and a row of the output


@pytest.mark.parametrize(("title", "code"), ASKING, ids=[title for title, _ in ASKING])
def test_block(title: str, code: str, asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    counts = []
    for _ in range(2):
        exec(compile(code, f"docs/batch.md: {title}", "exec", dont_inherit=True), {"__name__": "__main__"})
        counts.append(asked())
    assert counts[0] == counts[1] > 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert len(captured.out.splitlines()) > 1
    assert "Error" not in captured.out


def test_the_log_shows_the_progress_and_no_requests(asked: Asked) -> None:
    code = LOGGING + (
        "from namel3ss_ollama import OllamaProvider, progress\n"
        "progress._LOGGED_EVERY = 0\n"
        "OllamaProvider('llama3.2').batch(['x'], journal='run.db', progress=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")
    assert asked() == 1
    lines = done.stderr.splitlines()
    assert lines
    assert all(" batch: 1 of 1 rows, " in line for line in lines), done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command: str, asked: Asked, ollama_server: OllamaServer, tmp_path: Path) -> None:
    pytest.importorskip("typer")  # not in the environment of Ray
    if ".parquet" in command:
        pytest.importorskip("pyarrow")
    from typer.testing import CliRunner

    from namel3ss_ollama.cli.app import app

    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    words = shlex.split(command.replace("http://gpu1:11434", ollama_server.url))
    with OllamaServer() as other:
        words = [word.replace("http://gpu2:11434", other.url) for word in words]
        counts = []
        for _ in range(2):
            result = CliRunner().invoke(app, words[1:], catch_exceptions=False)
            assert (result.exit_code, result.stdout) == (0, ""), result.stderr
            counts.append(asked() + sum(record.path == "/api/chat" for record in other.requests))
    assert counts[0] == counts[1] > 0
    source, target = words[2:4]
    assert f"written to {target}" in " ".join(result.stderr.split())
    assert (tmp_path / f"{target}.journal").exists()
    if target == "answers.jsonl":
        (shown,) = [json.loads(line) for line in PAGE.splitlines() if line.startswith("{") and '"answer"' in line]
        rows = [json.loads(line) for line in (tmp_path / target).read_text().splitlines()]
        assert [list(row) for row in rows] == [list(shown)] * FILES[source].count("\n")


@pytest.mark.timeout(500)
def test_ray_data(ollama_server: OllamaServer, tmp_path: Path, asked: Asked) -> None:
    pytest.importorskip("ray", reason="make test-ray runs this, in the environment of Ray")
    quiet = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}  # as in tests/ray
    with OllamaServer() as other:
        code = RAY.replace("http://gpu1:11434", ollama_server.url).replace("http://gpu2:11434", other.url)
        counts = []
        for _ in range(2):
            command = [sys.executable, "-c", code]
            done = subprocess.run(command, env=quiet, capture_output=True, text=True, timeout=200)
            assert done.returncode == 0, done.stderr
            assert not [word for word in UNWANTED if word in done.stderr], done.stderr
            assert sorted(line[:2] for line in done.stdout.splitlines()) == ["0 ", "1 ", "2 "], done.stdout
            assert all(line.endswith(" None") for line in done.stdout.splitlines()), done.stdout
            counts.append(asked() + sum(record.path == "/api/generate" for record in other.requests))
    assert counts == [3, 3]
    assert (tmp_path / "run" / "answer.db").exists()


def test_files_that_it_names_exist() -> None:
    for name in re.findall(r"`((?:examples|notebooks)/[\w.]+)`", PAGE) + re.findall(r"\]\(([\w./]+\.md)", PAGE):
        assert (ROOT / name).is_file() or (ROOT / "docs" / name).is_file(), name
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in PAGE.splitlines()
        if line.startswith("#")
    }
    assert set(re.findall(r"\]\(#([\w-]+)\)", PAGE)) <= headings
