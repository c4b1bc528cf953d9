"""examples/demo.py, with a server and without."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from namel3ss_ollama.testing import Model

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"


def demo() -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(DEMO)], capture_output=True, text=True, timeout=60)


def test_it_shows_the_main_things(server) -> None:
    server.models.add(Model("big", size=10**12))
    server.reply("It scatters.", contains="sky")
    call = '{"name": "get_weather", "arguments": {"city": "Rome"}}'
    server.reply(call, contains="weather")
    server.reply('{"name": "Paris", "country": "France"}', contains="France")
    done = demo()
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Ollama 0.9.3 answers at {server.url}." in done.stdout
    assert "Asking tiny:latest a question" in done.stdout
    assert "\nIt scatters.\n-> {'prompt_tokens': " in done.stdout
    assert "tokens/s" in done.stdout
    assert "-> City(name='Paris', country='France')" in done.stdout
    assert "-> get_weather({'city': 'Rome'}) gives 'sunny in Rome'" in done.stdout


def test_a_model_without_tools(server, monkeypatch) -> None:
    server.models.add(Model("plain", ("completion",)))
    monkeypatch.setenv("OLLAMA_MODEL", "plain")
    server.reply('{"name": "get_weather", "arguments": {"city": "Rome"}}', contains="weather")
    server.reply('{"name": "Paris", "country": "France"}', contains="France")
    done = demo()
    assert (done.returncode, done.stderr) == (0, "")
    assert "-> get_weather({'city': 'Rome'}) gives 'sunny in Rome'" in done.stdout


def test_no_server(server) -> None:
    server.refuse()
    done = demo()
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"No Ollama answers at {server.url}: install it")
    assert "OLLAMA_BASE_URL" in done.stderr
    assert done.stderr.count("\n") == 1


def test_no_chat_model(server) -> None:
    server.models.remove("tiny")
    done = demo()
    assert done.returncode == 1
    assert "ollama pull" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("OLLAMA_MODEL", "nope", "ModelNotFoundError: "),
        ("OLLAMA_BASE_URL", "http://a:b", "ValueError: OLLAMA_BASE_URL:"),
    ],
)
def test_what_is_wrong_is_one_line(monkeypatch, variable, value, told) -> None:
    monkeypatch.setenv(variable, value)
    done = demo()
    assert done.returncode == 1
    assert done.stderr.startswith(told)
    assert done.stderr.count("\n") == 1


def test_it_is_short_enough_to_read() -> None:
    assert len(DEMO.read_text(encoding="utf-8").splitlines()) <= 80
