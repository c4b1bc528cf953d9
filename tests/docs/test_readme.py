"""Every Python block of the README runs as it stands, against the test server at the default address's place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from namel3ss_ollama import errors
from namel3ss_ollama.settings import StreamConfig
from namel3ss_ollama.testing import Model, OllamaServer

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^### (.+?)\n.*?^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
EMBEDDED = next(code for title, code in BLOCKS if title == "In this process")
DECISIONS = next(code for title, code in BLOCKS if title == "Decision models")
WEB = next(code for title, code in BLOCKS if title == "The web, and the account")
HOSTS = next(code for title, code in BLOCKS if title == "On several hosts")
BLOCKS = [(title, code) for title, code in BLOCKS if code not in (DECISIONS, EMBEDDED, HOSTS, WEB)]
BLOCKS += re.findall(r"^## (Testing.+?)\n.*?^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_no_block_is_missed() -> None:
    assert len(BLOCKS) + 4 == README.count("```python") == 19


@pytest.mark.embedded
def test_block_of_the_model_in_the_process(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(EMBEDDED, "README: In this process", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.startswith("The capital of France is Paris.\n")


def test_block_of_the_decision_models(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with OllamaServer([Model("nimble", ("decision",))], version="0.35.0") as server:  # the first that has them
        monkeypatch.setenv("OLLAMA_BASE_URL", server.url)
        exec(compile(DECISIONS, "README: Decision models", "exec"), {"__name__": "__main__"})
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("payment {'payment': 0.9, ")


def test_block_of_the_web(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with OllamaServer(version="0.18.0") as server:  # the first that has it
        monkeypatch.setenv("OLLAMA_BASE_URL", server.url)
        exec(compile(WEB, "README: The web, and the account", "exec"), {"__name__": "__main__"})
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines()[-1] == "free False"


def test_block_of_several_hosts(capsys: pytest.CaptureFixture[str]) -> None:
    with OllamaServer() as one, OllamaServer() as other:
        code = HOSTS.replace("http://gpu1:11434", one.url).replace("http://gpu2:11434", other.url)
        exec(compile(code, "README: On several hosts", "exec"), {"__name__": "__main__"})
        asked = [len([r for r in server.requests if r.path == "/api/generate"]) for server in (one, other)]
    out, err = capsys.readouterr()
    assert err == ""
    assert sum(asked) == 20
    assert f"{one.url} up 0.9.3 100.0" in out


@pytest.mark.parametrize(("title", "code"), BLOCKS, ids=[title for title, _ in BLOCKS])
def test_block(
    title: str,
    code: str,
    ollama_server: OllamaServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OLLAMA_BASE_URL", ollama_server.url)
    exec(compile(code, f"README: {title}", "exec"), {"__name__": "__main__"})
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "failed" not in captured.out
    if "Testing" not in title:
        assert ollama_server.requests
    assert {request.status for request in ollama_server.requests} <= ({200, 400} if "too long" in title else {200})


def test_every_error_is_in_the_table() -> None:
    for name in errors.__all__:
        if name != "LLMError":
            assert f"| `{name}` |" in README


def test_the_deadlines_in_the_table_are_the_real_ones() -> None:
    config = StreamConfig()
    for name, seconds in (
        ("connect_timeout", config.connect_timeout),
        ("first_chunk_timeout", config.first_chunk_timeout),
        ("chunk_timeout", config.chunk_timeout),
    ):
        assert f"| `{name}` | {seconds:g} s |" in README
