"""docs/batch.md: its code runs as it stands, twice, and the second run asks nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from namel3ss_ollama.testing import OllamaServer

PAGE = (Path(__file__).parents[2] / "docs" / "batch.md").read_text("utf-8")
BLOCKS = re.findall(
    r"^## ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```", "## Prompts\n" + PAGE, re.MULTILINE | re.DOTALL
)


def test_no_block_is_missed() -> None:
    assert len(BLOCKS) == PAGE.count("```python") == 2


@pytest.mark.parametrize(("title", "code"), BLOCKS, ids=[title for title, _ in BLOCKS])
def test_block(
    title: str,
    code: str,
    ollama_server: OllamaServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OLLAMA_BASE_URL", ollama_server.url)
    monkeypatch.chdir(tmp_path)
    asked: list[int] = []
    for _ in range(2):
        exec(compile(code, f"docs/batch.md: {title}", "exec"), {"__name__": "__main__"})
        asked.append(len([r for r in ollama_server.requests if r.path in ("/api/generate", "/api/embed")]))
    assert asked[0] == asked[1] > 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert len(captured.out.splitlines()) > 1
