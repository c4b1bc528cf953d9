"""examples/demo.py, with a server and without."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from namel3ss_ollama.testing import Model, OllamaServer

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"


def demo(url: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(DEMO)],
        env={**os.environ, "OLLAMA_BASE_URL": url, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def server() -> OllamaServer:
    with OllamaServer([Model("tiny", ("completion", "tools")), Model("big", size=10**12)]) as server:
        yield server


def test_it_uses_all_three_packages(server: OllamaServer) -> None:
    server.models.add(Model("vectors", ("embedding",), family="bert"))
    server.reply("It is Paris.", contains="France")
    server.reply("It is Rome.", contains="Italy")
    server.reply("It is red.", contains="lighthouse")
    done = demo(server.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Ollama 0.9.3 answers at {server.url}." in done.stdout
    for answer in ("It is Paris.", "It is Rome.", "It is red."):
        assert f"\n{answer}\n-> " in done.stdout
    assert done.stdout.count("tokens/s, first token after ") == 3
    assert "found with the embeddings of vectors:latest" in done.stdout
    assert {str(record.json["model"]) for record in server.requests if record.path == "/api/chat"} == {"tiny:latest"}


def test_no_chat_model(server: OllamaServer) -> None:
    server.models.remove("tiny")
    server.models.remove("big")
    done = demo(server.url)
    assert done.returncode == 1
    assert "ollama pull" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("OLLAMA_MODEL", "nope", "ModelNotFoundError: "),
        ("OLLAMA_BASE_URL", "http://a:b", "ValueError: OLLAMA_BASE_URL:"),
    ],
)
def test_an_error_is_one_line(server: OllamaServer, variable: str, value: str, expected: str) -> None:
    done = demo(server.url, **{variable: value})
    assert done.returncode == 1
    assert done.stderr.startswith(expected)
    assert done.stderr.count("\n") == 1


@pytest.mark.embedded
@pytest.mark.timeout(400)
def test_without_a_server_the_embedded_model_answers(server: OllamaServer, weights: Path) -> None:
    server.refuse()
    done = demo(server.url)
    assert (done.returncode, done.stderr.replace("success\n", "").count("Error")) == (0, 0)
    assert (
        f"No Ollama answers at {server.url}, so a model of 135 million parameters runs in this process." in done.stdout
    )
    assert "\nThe capital of France is Paris.\n-> 8 tokens, " in done.stdout
    assert "\nThe capital of Italy is Rome.\n-> 8 tokens, " in done.stdout
    assert "\nThe lighthouse on Gull Rock was painted red in 1921.\n-> " in done.stdout
    assert "found with the embeddings of smollm2:135m" in done.stdout
