"""Every Python block of the README runs separately, against a server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from llama_index.llms.namel3ss_ollama import Ollama
from namel3ss_ollama.testing import OllamaServer, Reply, ToolCall

README = Path(__file__).parents[2] / "integrations" / "llama-index" / "README.md"


@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince211")
def test_it_runs(
    ollama_server: OllamaServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = README.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 10
    monkeypatch.setenv("OLLAMA_BASE_URL", ollama_server.url)
    ollama_server.reply('{"name": "Rome", "people": 3}', contains="largest city of Italy")
    ollama_server.reply('{"name": "Oslo", "people": 1}', contains="largest city of Norway")
    ollama_server.on(contains="weather in Rome?").sequence(
        Reply(tool_calls=[ToolCall("weather", {"city": "Rome"})]), "It is sunny."
    )
    ollama_server.reply("A river is the Tiber.", contains="Name a river.")
    ollama_server.reply("2.7 million.", contains="How many people has Rome?")
    found = {"title": "Tiber", "url": "https://example.com/", "content": "406 km"}
    ollama_server.reply(path="/api/experimental/web_search", json={"results": [found]})
    for written in blocks:
        block = written.replace("http://gpu1:11434", "http://127.0.0.1:9")
        block = block.replace("http://gpu2:11434", ollama_server.url)
        namespace: dict[str, Any] = {"__name__": "readme"}
        # LlamaIndex reads the annotations of tools, so the block must not inherit this module's future imports.
        exec(compile(block, str(README), "exec", dont_inherit=True), namespace)
        if "vectors" in namespace:
            assert len(namespace["vectors"]) == 2
    printed = capsys.readouterr().out
    for expected in (
        "It is sunny.",
        "You said: Why is the sky blue?",
        "2.7 million.",
        "Rome 3",
        "name='Oslo' people=1",
        "ollama pull",
        "406 km",
        f"{ollama_server.url} You said: Name a lake.",
    ):
        assert expected in printed
    assert printed.count("A river is the Tiber.") == 3
    assert "It is sunny." in printed


def test_names_in_it_exist() -> None:
    text = README.read_text(encoding="utf-8")
    for name in re.findall(r"`llm\.(\w+)", text):
        assert hasattr(Ollama, name), name
