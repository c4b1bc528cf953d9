"""Every example runs unchanged: on the embedded engine, and live on a server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from recordings import server_or_skip

from namel3ss_ollama.testing import Gate, OllamaServer, Record, Reply, minimal_instance

EXAMPLES = Path(__file__).parents[2] / "examples"
PARTS = ["generation", "streaming", "concurrency", "system_prompts", "errors", "code", "models"]
# What each prints, whatever the model answers.
PRINTS = {
    "cancellable_stream": ["cancelled: end='cancelled'", "left: end='cancelled', slots taken: 0"],
    "custom_monitoring": ["answers: 2, failures: 1, retries: 0", "llm.generation.success", "gen_ai.client.token.usage"],
    "extraction_batch": [
        "\nwants      ",
        "2 answered, 0 failed; 0 were done before this run\n",
        " rows/s, ",
        ": 2 rows, ",
    ],
    "inference_service": ["3 answers, 1 failed, ", "['(ModelNotFoundError)']"],
    "model_fallback": ["a-model-that-is-not-there: ModelNotFoundError", "smollm2:135m: The capital of France is Paris"],
    "model_router": ["[talk] ", "The capital of France is Paris", "[tools] ", "convert({'amount': "],
    "several_hosts": [
        "http://127.0.0.1:9: 0 answers, cannot connect",
        ": 6 answers",
        "The capital of France is Paris",
    ],
    "ollama_production_example": [*(f"== {part}" for part in PARTS), "model not found: ", "no connection: cannot"],
}
ARGUMENTS = {"extraction_batch": ["--rows", "2", "--journal", "{folder}/run.db"]}
# Run against the test server in test_batch_examples.py and in tests/ray.
ENGINES = {"daft_batch", "dask_batch", "ray_batch"}
pytestmark = pytest.mark.timeout(300)


def run(example: str, *arguments: str) -> str:
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("OLLAMA_BASE_URL", "OLLAMA_HOST", "OLLAMA_HOSTS")
    }
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", str(EXAMPLES / f"{example}.py"), *arguments],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.fixture(
    params=[pytest.param("embedded", marks=pytest.mark.embedded), pytest.param("live", marks=pytest.mark.live)]
)
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "live":
        yield server_or_skip(os.environ.get("OLLAMA_BASE_URL"))
    else:
        request.getfixturevalue("weights")
        yield "embedded://"


def test_no_example_is_missed() -> None:
    files = {path.stem for path in EXAMPLES.glob("*.py")}
    assert files == {*PRINTS, *ENGINES, "demo", "_common"}


@pytest.mark.parametrize("example", PRINTS)
def test_example(example: str, address: str, tmp_path: Path) -> None:
    arguments = [argument.format(folder=tmp_path) for argument in ARGUMENTS.get(example, [])]
    printed = run(example, "--base-url", address, *arguments)
    for expected in PRINTS[example]:
        assert expected in printed


@pytest.mark.parametrize(("example", "path"), [("several_hosts", "/api/generate"), ("model_router", "/api/chat")])
def test_several_servers_are_used_concurrently(example: str, path: str) -> None:
    gate, printed = Gate(), list[str]()

    def answer(record: Record) -> Reply:
        form = record.payload.get("format")
        return Reply("Paris" if form is None else json.dumps(minimal_instance(form)), gate=gate)

    with OllamaServer(["smollm2:135m"]) as one, OllamaServer(["smollm2:135m"]) as two:
        for server in (one, two):
            server.on(path=path).reply(answer)
        urls = ["--base-url", one.url, "--base-url", two.url]
        running = threading.Thread(target=lambda: printed.append(run(example, *urls)))
        running.start()
        try:
            for server in (one, two):  # neither answers before the other has a request
                server.wait_for(lambda server: any(record.path == path for record in server.requests), 60)
        finally:
            gate.open()
            running.join()
    for server in (one, two):
        assert f"{server.url}: " in printed[0]


def test_the_parts_are_listed_and_run_separately(address: str) -> None:
    assert [line.split()[0] for line in run("ollama_production_example", "--list").splitlines()] == PARTS
    printed = run("ollama_production_example", "generation", "--base-url", address)
    assert "== generation" in printed
    assert "Paris" in printed
    assert "== streaming" not in printed
