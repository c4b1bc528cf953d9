"""Every Python block of the adapter's README runs unchanged."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from langchain.agents import create_agent
from langchain.chat_models import init_chat_model
from langchain.chat_models.base import _get_chat_model_creator
from langchain_core.messages import HumanMessage

import langchain_namel3ss_ollama
from namel3ss_ollama import LLMError
from namel3ss_ollama.testing import Model, OllamaServer, Reply, ToolCall

README = (Path(__file__).parents[2] / "integrations" / "langchain" / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
DECISIONS = next(code for code in BLOCKS if "OllamaDecisions" in code)
BLOCKS.remove(DECISIONS)


def test_decision_models_block(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("langchain_core.decisions", reason="decision models came with langchain-core 1.8")
    with OllamaServer([Model("nimble", ("decision",))], version="0.35.0") as server:  # the first that has them
        monkeypatch.setenv("OLLAMA_BASE_URL", server.url)
        exec(compile(DECISIONS, "README: Decision models", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out == "billing 0.5\n"


@pytest.mark.parametrize("code", BLOCKS, ids=lambda code: code.splitlines()[-1][:30])
def test_block(
    code: str, ollama_server: OllamaServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OLLAMA_BASE_URL", ollama_server.url)
    monkeypatch.setitem(sys.modules, "langchain_ollama", None)  # a block may replace it
    last = ollama_server.on(path="/api/chat", predicate=lambda record: record.payload["messages"][-1]["role"] == "tool")
    last.reply("It is sunny.")
    ollama_server.on(contains="How is").reply(tool_calls=[ToolCall("weather", {"city": "Rome"})])
    ollama_server.on(contains="capital of Italy").reply('{"city": "Rome", "country": "Italy"}')
    ollama_server.on(contains="91").reply(Reply("No, 7 times 13.", thinking="Divide."))
    found = {"title": "Tiber", "url": "https://example.com/", "content": "406 km"}
    ollama_server.reply(path="/api/experimental/web_search", json={"results": [found]})
    code = code.replace("http://gpu1:11434", "http://127.0.0.1:9").replace("http://gpu2:11434", ollama_server.url)
    exec(compile(code, "README", "exec"), {"__name__": "__main__"})
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out or "print" not in code
    if "web_search_tool" in code:
        assert captured.out == "Tiber\nhttps://example.com/\n406 km\n"
    if "Host(" in code:  # the other one is down
        assert captured.out.count(f"{ollama_server.url} You said: ") == 3
    if "nope" in code:
        assert captured.out.startswith("OllamaModelNotFoundError False")


def test_the_line_for_model_strings_works(ollama_server: OllamaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = re.findall(r"^sys\.modules.*$", README, re.MULTILINE)
    monkeypatch.setenv("OLLAMA_BASE_URL", ollama_server.url)
    monkeypatch.setitem(sys.modules, "langchain_ollama", None)
    code = f"import sys, langchain_namel3ss_ollama\n{line}"
    exec(compile(code, "README", "exec"), {})
    _get_chat_model_creator.cache_clear()
    try:
        assert type(init_chat_model("ollama:llama3.2", temperature=0)) is langchain_namel3ss_ollama.ChatOllama
        state = create_agent("ollama:llama3.2").invoke({"messages": [HumanMessage("Hi")]})
        assert state["messages"][-1].content == "You said: Hi"
    finally:
        _get_chat_model_creator.cache_clear()


def test_every_error_is_in_the_table() -> None:
    for name in langchain_namel3ss_ollama.__all__:
        value = getattr(langchain_namel3ss_ollama, name)
        if isinstance(value, type) and issubclass(value, LLMError) and name != "OllamaError":
            assert f"| `{name}` | `{value.__bases__[1].__name__}` |" in README
