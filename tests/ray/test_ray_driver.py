"""A program that uses Ray: its output, and the requests that are repeated after it was killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from namel3ss_ollama import Journal, read_journal
from namel3ss_ollama.testing import Gate, OllamaServer, Record, Reply

pytestmark = pytest.mark.timeout(400)
SLOTS = 4
LONGEST = 180
"""Seconds for a program that starts Ray, which takes half a minute of CPU: minutes on a busy machine."""
PROGRAM = """
import json, sys
import ray, ray.data
from namel3ss_ollama import Host
from ray_namel3ss_ollama import ask

ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20)
rows = [{"id": number, "text": f"row {number}"} for number in range(100)]
dataset = ray.data.from_items(rows, override_num_blocks=int(sys.argv[3]))
dataset = ask(
    dataset, "llama3.2", hosts=[Host(sys.argv[1], slots=4)], prompt="text", id="id", into="answer", journal=sys.argv[2],
    batch_size=8,
)
print("rows", json.dumps({row["id"]: row["answer"] for row in dataset.take_all()}))
"""
UNWANTED = ("Unclosed", "never awaited", "Task was destroyed", "Event loop is closed", "Traceback", "ResourceWarning")


def start(server: OllamaServer, folder: Path, blocks: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, server.url, str(folder), str(blocks)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_driver_costs_the_rows_in_flight_and_prints_no_warning(
    ollama_server: OllamaServer, tmp_path: Path
) -> None:
    gate = Gate()
    ollama_server.reply(lambda record: Reply(f"About {record.json['prompt']}", gate=gate))
    killed = start(ollama_server, tmp_path, 8)
    try:
        gate.step(40)
        ollama_server.wait_for(
            lambda server: gate.waiting == SLOTS and sum(each.outcome == "complete" for each in prompts(server)) == 40,
            timeout=LONGEST,
        )
    finally:
        killed.kill()
        killed.communicate()
    # The journal is free once Ray has ended the keeper; then the rows in flight are lost.
    Journal(tmp_path / "answer.db", "answers", "llama3.2", wait=60).close()
    had = len(list(read_journal(tmp_path / "answer.db")))
    assert 40 - SLOTS <= had <= 40
    gate.open()

    output, errors = start(ollama_server, tmp_path, 5).communicate(timeout=LONGEST)
    (line,) = [line for line in output.splitlines() if line.startswith("rows ")]
    assert json.loads(line.removeprefix("rows ")) == {str(number): f"About row {number}" for number in range(100)}
    times = Counter(record.json["prompt"] for record in prompts(ollama_server))
    assert len(times) == 100
    # The rows in flight, and those whose answers were not in the journal yet.
    assert SLOTS <= sum(times.values()) - 100 <= SLOTS + 40 - had
    assert not [word for word in UNWANTED if word in output + errors], errors
    assert sorted(row.id for row in read_journal(tmp_path / "answer.db")) == list(range(100))


def prompts(server: OllamaServer) -> list[Record]:
    return [record for record in server.requests if record.path == "/api/generate"]


def test_the_example_runs_and_resumes(ollama_server: OllamaServer, tmp_path: Path, small_ray: str) -> None:
    example = Path(__file__).parents[2] / "examples" / "ray_batch.py"
    command = [sys.executable, str(example), "--base-url", ollama_server.url, "--folder", str(tmp_path), "--rows", "6"]
    on_it = {**os.environ, "RAY_ADDRESS": small_ray}  # as on a cluster
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST, env=on_it)
        assert "6 rows, 0 failed" in done.stdout.splitlines(), done.stderr  # Ray may print there too
        assert not [word for word in UNWANTED if word in done.stderr], done.stderr
    assert len(prompts(ollama_server)) == 6
