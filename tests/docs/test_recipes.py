"""The recipes of docs/recipes run as they stand on their pages, against the test server.

A test whose framework is not installed is skipped; `requirements/dev.in` has those that are small.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from recipe_pages import blocks, load, write

from namel3ss_ollama import ModelNotFoundError, instant_retries
from namel3ss_ollama.testing import Fault, Gate, OllamaServer, Reply, ToolCall


@pytest.fixture(autouse=True)
def address(ollama_server: OllamaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a reader would set: the address of the server."""
    monkeypatch.setenv("OLLAMA_BASE_URL", ollama_server.url)


def run_program(page: str, monkeypatch: pytest.MonkeyPatch, *arguments: str, title: str = "agent.py") -> None:
    """Run a block as a program, with its arguments."""
    monkeypatch.setattr(sys, "argv", [title, *arguments])
    load(page, title, "__main__")


# FastAPI


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    """An application behind a real server, since hanging up is a matter of sockets."""
    uvicorn = pytest.importorskip("uvicorn")
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", ws="none"))
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.001)
        assert not running.done()
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield client
    finally:
        server.should_exit = True
        await running


def events(text: str) -> list[tuple[str, Any]]:
    pairs = [dict(line.split(": ", 1) for line in event.splitlines()) for event in text.strip().split("\n\n")]
    return [(pair["event"], json.loads(pair["data"])) for pair in pairs]


async def test_fastapi_streams_events(ollama_server: OllamaServer) -> None:
    pytest.importorskip("fastapi.sse")
    ollama_server.reply(["Good", " day", "."])
    async with served(load("fastapi.md").app) as client:
        answer = await client.post("/answer", json={"prompt": "Hello"})
        refused = await client.post("/answer", json={"prompt": ""})
    assert answer.headers["content-type"].startswith("text/event-stream")
    *tokens, (last, data) = events(answer.text)
    assert tokens == [("token", "Good"), ("token", " day"), ("token", ".")]
    assert (last, data["finish_reason"], data["usage"]["completion_tokens"]) == ("done", "stop", 3)
    assert refused.status_code == 422
    assert len(ollama_server.requests) == 1


async def test_fastapi_tells_of_a_failure_as_an_event(ollama_server: OllamaServer) -> None:
    pytest.importorskip("fastapi.sse")
    ollama_server.reply(["Good", " day", "."])
    ollama_server.fault("cut", at_token=2)
    async with served(load("fastapi.md").app) as client:
        answer = await client.post("/answer", json={"prompt": "Hello"})
    assert events(answer.text) == [
        ("token", "Good"),
        ("token", " day"),
        ("error", {"type": "StreamInterruptedError", "temporary": True}),
    ]


@pytest.mark.parametrize("tokens", [0, 1], ids=["before the first token", "within the answer"])
async def test_fastapi_stops_the_model_when_the_client_hangs_up(ollama_server: OllamaServer, tokens: int) -> None:
    pytest.importorskip("fastapi.sse")
    gate = Gate()
    ollama_server.reply(["Good", " day", "."], gates={tokens: gate})
    recipe = load("fastapi.md")
    async with served(recipe.app) as client:
        async with client.stream("POST", "/answer", json={"prompt": "Hello"}) as answer:
            if tokens:
                assert "Good" in await anext(answer.aiter_text())
            await ollama_server.wait_for_async(lambda _: gate.waiting == 1)
        await ollama_server.wait_for_async(lambda s: s.active_requests == 0)
        assert [(r.outcome, r.tokens_sent) for r in ollama_server.requests] == [("client_closed", tokens)]
        assert recipe.provider.stats().generations_cancelled == 1
        assert recipe.provider.stats().running == 0


# Streamlit


def test_streamlit_chats(ollama_server: OllamaServer) -> None:
    testing = pytest.importorskip("streamlit.testing.v1", exc_type=ImportError)
    ollama_server.fault("cut", contains="fail", at_token=1)
    ollama_server.sequence("Hello to you.", "Rome.")
    app = testing.AppTest.from_string(blocks("streamlit.md")["app.py"], default_timeout=30).run()
    for text in ("Good morning", "Please fail", "The capital of Italy?"):
        app.chat_input[0].set_value(text).run()
        assert not app.exception
        assert bool(app.error) == (text == "Please fail")
    said = [(message.name, message.markdown[0].value) for message in app.chat_message]
    assert said == [
        ("user", "Good morning"),
        ("assistant", "Hello to you."),
        ("user", "The capital of Italy?"),
        ("assistant", "Rome."),
    ]
    chats = [request.payload["messages"] for request in ollama_server.requests]
    assert [message["content"] for message in chats[-1]] == ["Good morning", "Hello to you.", "The capital of Italy?"]
    assert len({request.connection for request in ollama_server.requests}) < len(chats)  # one provider, kept


# Jupyter


def test_jupyter(ollama_server: OllamaServer) -> None:
    nbclient = pytest.importorskip("nbclient")
    from nbformat.v4 import new_code_cell, new_notebook

    ollama_server.on(contains="rivers").reply("Po, Tiber, Arno")
    ollama_server.on(contains="Norway?").reply("Oslo")
    cells = [new_code_cell(code) for title, code in blocks("jupyter.md").items() if title.startswith("Cell")]
    notebook = nbclient.NotebookClient(new_notebook(cells=cells), timeout=60).execute()
    printed = ["".join(output.text for output in cell.outputs) for cell in notebook.cells]
    assert {output.name for cell in notebook.cells for output in cell.outputs} == {"stdout"}
    assert printed[1] == "Po, Tiber, Arno"
    assert printed[2].splitlines()[1] == "Oslo"
    assert ollama_server.active_requests == 0


# Celery


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The tasks with a broker and a backend in memory; Celery's own variables come before what the program says."""
    pytest.importorskip("celery")
    monkeypatch.setenv("CELERY_BROKER_URL", "memory://")
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "cache+memory://")
    return load("celery.md", "tasks.py", "tasks")


def test_celery(ollama_server: OllamaServer, tasks: ModuleType) -> None:
    from celery.contrib.testing import worker

    ollama_server.reply("It was a long day.")
    with worker.start_worker(tasks.app, pool="threads", concurrency=2, perform_ping_check=False):
        results = [tasks.summarize.delay(text) for text in ("Once upon a time", "And then")]
        assert [result.get(timeout=30)["summary"] for result in results] == ["It was a long day."] * 2
    assert sorted(request.text.splitlines()[-1] for request in ollama_server.requests) == ["And then", "Once upon a time"]


def test_celery_retries_what_time_heals(ollama_server: OllamaServer, tasks: ModuleType) -> None:
    tasks.app.conf.task_always_eager = True  # a retry runs at once
    ollama_server.reply("It was a long day.")
    ollama_server.fault("status", status=503, times=4)
    with instant_retries():
        assert tasks.summarize.delay("Once upon a time").get()["summary"] == "It was a long day."
    assert [request.status for request in ollama_server.requests] == [503] * 4 + [200]
    ollama_server.models.remove("llama3.2")
    with pytest.raises(ModelNotFoundError):
        tasks.summarize.delay("Once upon a time").get()


# gunicorn


@pytest.mark.skipif(not hasattr(os, "fork"), reason="gunicorn needs processes that fork")
def test_gunicorn(ollama_server: OllamaServer, tmp_path: Path) -> None:
    pytest.importorskip("gunicorn")
    write("gunicorn.md", tmp_path)
    ollama_server.reply(path="/api/generate", predicate=lambda r: not r.text, text="")
    ollama_server.reply(["word "] * 5000, contains="hang up", tokens_per_second=1000)
    ollama_server.reply(["Good", " day", "."])
    process = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "-b", "unix:socket", "--no-control-socket"],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        ollama_server.wait_for(lambda s: sum(r.outcome == "complete" for r in s.requests) == 2, timeout=60)
        transport = httpx.HTTPTransport(uds=str(tmp_path / "socket"))
        with httpx.Client(transport=transport, base_url="http://application", timeout=30) as client:
            answer = client.post("/", content="Hello")
            assert [json.loads(line) for line in answer.iter_lines()] == [
                {"content": text} for text in ("Good", " day", ".", "")
            ]
            with client.stream("POST", "/", content="I shall hang up") as stream:
                assert next(stream.iter_lines()) == '{"content": "word "}'
            ollama_server.wait_for(lambda s: s.active_requests == 0, timeout=30)
        assert ollama_server.requests[-1].outcome == "client_closed"
        assert ollama_server.requests[-1].tokens_sent < 5000
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in errors, errors


# LangGraph


def test_langgraph_remembers(
    ollama_server: OllamaServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("langgraph.checkpoint.sqlite")
    monkeypatch.chdir(tmp_path)
    ollama_server.on(contains="Rome").reply(tool_calls=[ToolCall("weather", {"city": "Rome"})], times=1).reply(
        ["Sunny", ", ", "24."], times=1
    )
    ollama_server.reply("Yes, it is.")
    run_program("langgraph.md", monkeypatch, "anna", "How is the weather in Rome?")
    run_program("langgraph.md", monkeypatch, "anna", "And is that warm?")
    run_program("langgraph.md", monkeypatch, "bob", "Is it warm?")
    assert capsys.readouterr().out.split("\n") == ["[looking up Rome]", "Sunny, 24.", "Yes, it is.", "Yes, it is.", ""]
    chats = [[m["role"] for m in r.payload["messages"]] for r in ollama_server.requests if r.path == "/api/chat"]
    assert chats[1:] == [
        ["user", "assistant", "tool"],
        ["user", "assistant", "tool", "assistant", "user"],
        ["user"],
    ]


def test_langgraph_goes_on_where_it_stopped(
    ollama_server: OllamaServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("langgraph.checkpoint.sqlite")
    monkeypatch.chdir(tmp_path)
    ollama_server.sequence(
        Reply(tool_calls=[ToolCall("weather", {"city": "Rome"})]),
        Fault("status", status=400),
        "Sunny.",
        "Yes, it is.",
    )
    with pytest.raises(SystemExit, match="Run it again"):
        run_program("langgraph.md", monkeypatch, "anna", "How is the weather in Rome?")
    run_program("langgraph.md", monkeypatch, "anna", "And is that warm?")
    assert capsys.readouterr().out.split() == "[looking up Rome] Sunny. Yes, it is.".split()


# deepagents


def test_deepagents(
    ollama_server: OllamaServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("deepagents")
    ollama_server.models.add("qwen3")
    asked = "How many people live in Rome?"
    ollama_server.on(model="llama3.2").reply(tool_calls=[ToolCall("population", {"city": "Rome"})], times=1).reply(
        "2.7 million"
    )
    task = {"subagent_type": "researcher", "description": "The population of Rome"}
    report = {"file_path": "/report.md", "content": "Rome: 2.7 million"}
    ollama_server.on(contains=asked).reply(tool_calls=[ToolCall("task", task)], times=1).reply(
        tool_calls=[ToolCall("write_file", report)], times=1
    ).reply("The report is written.")
    run_program("deepagents.md", monkeypatch)
    assert capsys.readouterr().out.splitlines() == ["The report is written.", "/report.md Rome: 2.7 million"]
    assert [request.model for request in ollama_server.requests if request.path == "/api/chat"] == [
        "qwen3", "llama3.2", "llama3.2", "qwen3", "qwen3",
    ]  # fmt: skip
    windows = {request.payload["options"]["num_ctx"] for request in ollama_server.requests if request.path == "/api/chat"}
    assert windows == {32_768, 16_384}
