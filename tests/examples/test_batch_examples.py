"""The batch examples: a killed one resumes. Those for Daft and Dask are skipped if these are not installed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from namel3ss_ollama import read_journal
from namel3ss_ollama.testing import Gate, OllamaServer, Record, Reply

EXAMPLES = Path(__file__).parents[2] / "examples"
MODEL = "smollm2:135m"
SLOTS, ROWS, ANSWERED = 4, 100, 30
REVIEW = {"product": "kettle", "mood": "happy", "wants": "nothing"}
UNWANTED = ("Unclosed", "never awaited", "Task was destroyed", "Event loop is closed", "Traceback", "ResourceWarning")
FOLDER = ["--folder", "."]
ARGUMENTS = {
    "daft_batch": FOLDER,
    "dask_batch": FOLDER,
    "dask_batch, processes": [*FOLDER, "--scheduler", "processes"],
    "extraction_batch": ["--journal", "run.db"],
}
ONE_PROCESS = [case for case in ARGUMENTS if "processes" not in case]
FIRST_LINE = {
    "daft": f"{ROWS} rows, 0 failed\n",
    "dask": f"{ROWS} rows, 0 failed\n",
    "extraction": f"product    kettle {ROWS:22}\n",
}
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def server() -> OllamaServer:
    with OllamaServer([MODEL]) as server:
        yield server


def example_of(case: str) -> str:
    """The name of its file; skips the test if its library is not installed."""
    name = case.partition(",")[0]
    if name != "extraction_batch":
        pytest.importorskip(name.removesuffix("_batch"), reason="in no environment here: pip install daft 'dask[bag]'")
    return name


def start(case: str, server: OllamaServer, folder: Path) -> subprocess.Popen[str]:
    path = EXAMPLES / f"{case.partition(',')[0]}.py"
    flags = ["--base-url", server.url, "--slots", str(SLOTS), "--rows", str(ROWS), "--model", MODEL, *ARGUMENTS[case]]
    command = [sys.executable, "-W", "always::ResourceWarning", str(path), *flags]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, stdout=pipe, stderr=pipe, text=True)


def prompts(server: OllamaServer) -> list[Record]:
    return [record for record in server.requests if record.path == "/api/generate"]


def answer(record: Record, gate: Gate | None = None) -> Reply:
    return Reply("complaint" if record.json.get("format") is None else json.dumps(REVIEW), gate=gate)


def finish(case: str, server: OllamaServer, folder: Path) -> str:
    process = start(case, server, folder)
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert not [word for word in UNWANTED if word in errors], errors
    assert output.startswith(FIRST_LINE[case.partition("_")[0]]), output
    return output


@pytest.mark.parametrize("case", ONE_PROCESS)
def test_a_killed_one_resumes(case: str, server: OllamaServer, tmp_path: Path) -> None:
    example_of(case)
    gate = Gate()
    server.reply(lambda record: answer(record, gate))
    killed = start(case, server, tmp_path)
    try:
        gate.step(ANSWERED)
        server.wait_for(
            lambda server: (
                gate.waiting == SLOTS and sum(record.outcome == "complete" for record in prompts(server)) == ANSWERED
            ),
            timeout=100,
        )
    finally:
        killed.kill()
        killed.communicate()
    had = sum(1 for path in tmp_path.rglob("*.db") for _ in read_journal(path))
    assert ANSWERED - SLOTS <= had <= ANSWERED  # some were not stored yet
    gate.open()
    finish(case, server, tmp_path)
    times = Counter(record.json["prompt"] for record in prompts(server))
    assert len(times) == ROWS
    assert sum(times.values()) - ROWS <= SLOTS + ANSWERED - had


@pytest.mark.parametrize("case", ARGUMENTS)
def test_a_rerun_sends_no_request(case: str, server: OllamaServer, tmp_path: Path) -> None:
    example_of(case)
    server.reply(answer)
    first = finish(case, server, tmp_path)
    assert len(prompts(server)) == ROWS
    again = finish(case, server, tmp_path)
    assert len(prompts(server)) == ROWS
    if case == "extraction_batch":
        assert f"\n{ROWS} answered, 0 failed; 0 were done before this run\n" in first
        assert f"\n0 answered, 0 failed; {ROWS} were done before this run\n" in again
        assert f"\nmood       happy {ROWS:23}\nwants      nothing {ROWS:21}\n" in again
    else:
        assert "\nOrder 1: Great service, thank you! complaint\n" in again


@pytest.mark.parametrize("case", ONE_PROCESS)
def test_a_missing_model_is_one_line(case: str, tmp_path: Path) -> None:
    example_of(case)
    with OllamaServer(["another"]) as server:
        server.fault("status", status=500, path="/api/pull")
        process = start(case, server, tmp_path)
        _, errors = process.communicate(timeout=200)
    assert process.returncode == 1
    assert errors.splitlines()[-1].startswith(("ModelNotFoundError: ", "ServerError: "))
    assert "Traceback" not in errors


@pytest.mark.parametrize(("example", "missing"), [("daft_batch", "daft"), ("dask_batch", "dask")])
def test_it_names_what_to_install(example: str, missing: str, tmp_path: Path) -> None:
    (tmp_path / f"{missing}.py").write_text(f"raise ModuleNotFoundError('No module named {missing}')\n")
    code = f"import runpy, sys; sys.path[:0] = {[str(tmp_path), str(EXAMPLES)]}; sys.argv = ['{example}']\n"
    code += f"runpy.run_path({str(EXAMPLES / example)!r} + '.py', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=100)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert f"No module named {missing}: pip install " in done.stderr
    assert not list(tmp_path.glob("*_batch"))
