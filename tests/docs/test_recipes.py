"""The recipes of docs/recipes run unchanged from their pages, against the test server.

A test whose framework is not installed is skipped; `requirements/dev.in` has those that are small.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from recipe_pages import PAGES, blocks, load, write

from namel3ss_ollama import ModelNotFoundError, instant_retries
from namel3ss_ollama.address import resolve_address
from namel3ss_ollama.testing import Fault, Gate, OllamaServer, Record, Reply, ToolCall


@pytest.fixture(autouse=True)
def address(ollama_server: OllamaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets what a reader would set: the address of the server."""
    monkeypatch.setenv("OLLAMA_BASE_URL", ollama_server.url)


def run_program(page: str, monkeypatch: pytest.MonkeyPatch, *arguments: str, title: str = "agent.py") -> None:
    """Run a block as a program, with its arguments."""
    monkeypatch.setattr(sys, "argv", [title, *arguments])
    load(page, title, "__main__")


# FastAPI


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    """An application behind a real server, since a disconnect needs a socket."""
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


async def test_fastapi_sends_a_failure_as_an_event(ollama_server: OllamaServer) -> None:
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
            texts = answer.aiter_text()  # kept: closing it would close the connection
            if tokens:
                assert "Good" in await anext(texts)
            await ollama_server.wait_for_async(lambda _: gate.waiting == 1)
        await ollama_server.wait_for_async(lambda s: s.active_requests == 0)
        assert [(r.outcome, r.tokens_sent) for r in ollama_server.requests] == [("client_closed", tokens)]
        assert recipe.provider.stats().generations_cancelled == 1
        assert recipe.provider.stats().running == 0


# Streamlit


@pytest.fixture
def chat_page() -> Any:
    """The page with a new provider: Streamlit caches it for the process, and with it the server's address."""
    testing = pytest.importorskip("streamlit.testing.v1")
    import streamlit

    streamlit.cache_resource.clear()
    return testing.AppTest.from_string(blocks("streamlit.md")["app.py"], default_timeout=30)


def test_streamlit_chats(ollama_server: OllamaServer, chat_page: Any) -> None:
    ollama_server.fault("cut", contains="fail", at_token=1)
    ollama_server.sequence("Hello to you.", "Rome.")
    app = chat_page.run()
    for text in ("Good morning", "Please fail", "The capital of Italy?"):
        app.chat_input[0].set_value(text).run()
        assert not app.exception
        assert bool(app.error) == (text == "Please fail")
    shown = [(message.name, message.markdown[0].value) for message in app.chat_message]
    assert shown == [
        ("user", "Good morning"),
        ("assistant", "Hello to you."),
        ("user", "The capital of Italy?"),
        ("assistant", "Rome."),
    ]
    chats = [request.payload["messages"] for request in ollama_server.requests]
    assert [message["content"] for message in chats[-1]] == ["Good morning", "Hello to you.", "The capital of Italy?"]
    assert len({request.connection for request in ollama_server.requests}) < len(chats)  # one provider, kept


def test_streamlit_stops_the_model_when_it_is_interrupted(
    ollama_server: OllamaServer, chat_page: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from streamlit.runtime.scriptrunner import ScriptRunner

    runners = []
    start = ScriptRunner.start
    monkeypatch.setattr(ScriptRunner, "start", lambda self: (runners.append(self), start(self)))
    held, never = Gate(), Gate()
    ollama_server.reply(["Good", " day", "."], gates={1: held, 2: never})

    def press_stop() -> None:
        ollama_server.wait_for(lambda _: held.waiting == 1, timeout=30)
        runners[-1].request_stop()
        held.open()

    app = chat_page.run()
    button = threading.Thread(target=press_stop)
    button.start()
    app.chat_input[0].set_value("Good morning").run()
    button.join()
    ollama_server.wait_for(lambda s: s.active_requests == 0, timeout=30)
    assert [request.outcome for request in ollama_server.requests] == ["client_closed"]


# Jupyter


def test_jupyter(ollama_server: OllamaServer) -> None:
    nbclient = pytest.importorskip("nbclient")
    from nbformat.v4 import new_code_cell, new_notebook

    ollama_server.on(contains="rivers").reply("Po, Tiber, Arno", times=1)
    ollama_server.on(contains="rivers").reply(["Po "] * 5000, tokens_per_second=20)
    ollama_server.on(contains="Norway?").reply("Oslo")
    codes = blocks("jupyter.md")
    cells = [new_code_cell(code) for code in codes.values()]
    cells.append(new_code_cell(codes["Cell 2"], metadata={"tags": ["raises-exception"]}))  # and after the last cell
    shown = threading.Event()

    class Client(nbclient.NotebookClient):  # type: ignore[misc] # nbclient need not be installed
        def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
            found = super().process_message(msg, cell, cell_index)
            if cell_index == len(cells) - 1 and msg["msg_type"] == "stream":
                shown.set()
            return found

    client = Client(new_notebook(cells=cells), timeout=60)

    def interrupt() -> None:
        # Once text is shown the cell runs; earlier, the signal may interrupt the kernel itself. The kernel cancels the
        # cell when its event loop wakes up next, here for the next token.
        assert shown.wait(60)
        os.kill(client.km.provisioner.pid, signal.SIGINT)

    user = threading.Thread(target=interrupt)
    user.start()
    notebook = client.execute()
    user.join()
    error = notebook.cells.pop().outputs[-1]
    assert error.ename in ("KeyboardInterrupt", "CancelledError")
    ollama_server.wait_for(lambda s: s.active_requests == 0, timeout=30)
    assert ollama_server.requests[-1].outcome == "client_closed"
    assert ollama_server.requests[-1].tokens_sent < 5000
    printed = ["".join(output.text for output in cell.outputs) for cell in notebook.cells]
    assert {output.name for cell in notebook.cells for output in cell.outputs} == {"stdout"}
    assert printed[1] == "Po, Tiber, Arno"
    assert printed[2].splitlines()[1] == "Oslo"
    assert ollama_server.active_requests == 0


# Celery


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The tasks with an in-memory broker and backend; Celery's own variables override the program's settings."""
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
    assert sorted(request.text.splitlines()[-1] for request in ollama_server.requests) == [
        "And then",
        "Once upon a time",
    ]


def test_celery_retries_temporary_errors(ollama_server: OllamaServer, tasks: ModuleType) -> None:
    tasks.app.conf.task_always_eager = True  # a retry runs immediately
    ollama_server.reply("It was a long day.")
    ollama_server.fault("status", status=503, times=4)
    with instant_retries():
        assert tasks.summarize.delay("Once upon a time").get()["summary"] == "It was a long day."
    assert [request.status for request in ollama_server.requests] == [503] * 4 + [200]
    ollama_server.models.remove("llama3.2")
    with pytest.raises(ModelNotFoundError):
        tasks.summarize.delay("Once upon a time").get()


# gunicorn


@pytest.mark.skipif(not hasattr(os, "fork"), reason="gunicorn needs os.fork")
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


def test_langgraph_resumes_where_it_stopped(
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
    assert capsys.readouterr().out.split("\n") == ["[looking up Rome]", "Sunny.", "Yes, it is.", ""]


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
    windows = {
        request.payload["options"]["num_ctx"] for request in ollama_server.requests if request.path == "/api/chat"
    }
    assert windows == {32_768, 16_384}


# A LlamaIndex workflow


def test_llama_index_workflow(
    ollama_server: OllamaServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ollama_server.on(contains="exaggeration").reply('{"good": false, "reason": "No chair is magic."}', times=1).reply(
        '{"good": true, "reason": ""}'
    )
    ollama_server.on(contains="Mind this: No chair is magic.").reply(["A", " chair."])
    ollama_server.reply(["A", " magic", " chair."])
    load("llamaindex-workflow.md", "workflow.py", "__main__")
    assert capsys.readouterr().out == "A magic chair.A chair.\nresult: A chair.\n"
    assert sum(request.path == "/api/chat" for request in ollama_server.requests) == 4


async def test_llama_index_workflow_that_is_cancelled(ollama_server: OllamaServer) -> None:
    from llama_index.core.workflow.errors import WorkflowCancelledByUser

    gate = Gate()
    ollama_server.reply(["A", " chair."], gates={1: gate})
    recipe = load("llamaindex-workflow.md", "workflow.py")
    llm = recipe.Ollama("llama3.2")
    handler = recipe.Describe(llm).run(product="a chair")
    await ollama_server.wait_for_async(lambda _: gate.waiting == 1)
    await handler.cancel_run()
    await ollama_server.wait_for_async(lambda s: s.active_requests == 0)
    assert [request.outcome for request in ollama_server.requests] == ["client_closed"]
    with pytest.raises(WorkflowCancelledByUser):
        await handler
    await llm.provider.aclose()


# RAG over a folder

WORDS = ["lighthouse", "bakery", "library"]


@pytest.mark.parametrize(
    ("title", "needs"), [("rag_llama_index.py", "llama_index.core"), ("rag_langchain.py", "langchain_text_splitters")]
)
def test_rag(
    ollama_server: OllamaServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    title: str,
    needs: str,
) -> None:
    pytest.importorskip(needs)
    monkeypatch.chdir(tmp_path)
    texts = ["The lighthouse was painted red in 1921.", "The bakery sells rye bread.", "The library opens at nine."]
    for word, text in zip(WORDS, texts, strict=True):
        file = tmp_path / "notes" / f"{word}.md"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)

    def vectors(record: Record) -> Reply:
        asked = record.payload["input"]
        asked = [asked] if isinstance(asked, str) else asked
        return Reply(embeddings=[[1.0 + 9 * (word in text.lower()) for word in WORDS] for text in asked])

    ollama_server.models.add("nomic-embed-text")
    ollama_server.reply(vectors, path="/api/embed")
    ollama_server.reply(["In", " 1921", "."])
    embedded = []
    for _ in range(2):
        run_program("rag.md", monkeypatch, "notes", "When was the lighthouse painted?", title=title)
        answer, sources = capsys.readouterr().out.strip().splitlines()
        assert answer == "In 1921."
        assert sources.startswith("from: lighthouse.md")
        embedded.append(sum(request.path == "/api/embed" for request in ollama_server.requests))
    assert embedded == [2, 3]  # the files once, and each question
    assert "painted red in 1921" in ollama_server.requests[-1].text


# MCP


def test_mcp(
    ollama_server: OllamaServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("mcp.server.fastmcp")  # with `capfd`: the server's process inherits the current stderr
    pytest.importorskip("langchain_mcp_adapters")
    write("mcp.md", tmp_path)
    monkeypatch.chdir(tmp_path)
    ollama_server.sequence(Reply(tool_calls=[ToolCall("forecast", {"city": "Rome", "days": 2})]), "No umbrella.")
    run_program("mcp.md", monkeypatch, "Do I need an umbrella in Rome?")
    assert capfd.readouterr().out == "No umbrella.\n"
    first, second = (request.payload for request in ollama_server.requests if request.path == "/api/chat")
    assert first["tools"][0]["function"]["parameters"]["required"] == ["city"]
    assert "Rome: sunny for 2 day(s)" in second["messages"][-1]["content"]


# OpenTelemetry


@contextmanager
def receiver() -> Iterator[tuple[str, dict[str, list[bytes]]]]:
    """A receiver of OTLP over HTTP: its address, and the bodies by path."""
    received: dict[str, list[bytes]] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.setdefault(self.path, []).append(body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", received
        finally:
            server.shutdown()
            thread.join()


def test_opentelemetry(ollama_server: OllamaServer, tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    write("opentelemetry.md", tmp_path)
    ollama_server.reply(["Good", " day", "."])
    with receiver() as (url, received):
        environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_EXPORTER_OTLP_COMPRESSION": "none"}
        program = subprocess.run(
            [sys.executable, "app.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
        )
    assert (program.returncode, program.stdout, program.stderr) == (0, "Good day.\n", "")
    (traces,) = map(ExportTraceServiceRequest.FromString, received["/v1/traces"])
    spans = {span.name: span for span in traces.resource_spans[0].scope_spans[0].spans} | {
        span.name: span for span in traces.resource_spans[0].scope_spans[-1].spans
    }
    asked = spans["text_completion llama3.2"]
    assert asked.parent_span_id == spans["greeting"].span_id
    measured = ExportMetricsServiceRequest.FromString(received["/v1/metrics"][-1])
    names = {metric.name for scope in measured.resource_metrics[0].scope_metrics for metric in scope.metrics}
    assert {"llm.streaming.success", "gen_ai.client.token.usage"} <= names
    resource = {attribute.key for attribute in measured.resource_metrics[0].resource.attributes}
    assert {"service.name", "service.instance.id"} <= resource


ALL_METRICS = """
from opentelemetry import metrics
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import generate_latest

metrics.set_meter_provider(MeterProvider([PrometheusMetricReader()]))
from namel3ss_ollama import LLMError, OllamaProvider, StreamConfig, instant_retries

with OllamaProvider("llama3.2") as provider, instant_retries():
    provider.generate("retry")
    for prompt in ("fine", "broken", "silent"):
        try:
            list(provider.stream(prompt, stream_config=StreamConfig(chunk_timeout=0.05)))
        except LLMError:
            pass
    for chunk in provider.stream("left"):
        break
    try:
        provider.generate("Hello", model="no-such-model")
    except LLMError:
        pass
    provider.stats()
print(generate_latest().decode())
"""
DASHBOARD = PAGES / "assets" / "grafana-dashboard.json"


def test_the_dashboard_shows_what_is_measured(ollama_server: OllamaServer) -> None:
    pytest.importorskip("opentelemetry.exporter.prometheus")
    from prometheus_client.parser import text_string_to_metric_families

    ollama_server.reply(["one ", "two ", "three"])
    ollama_server.fault("status", contains="retry", status=503, times=1)
    ollama_server.fault("cut", contains="broken", at_token=1)
    ollama_server.fault("stall_mid_stream", contains="silent", at_token=1)
    program = [sys.executable, "-c", ALL_METRICS]
    text = subprocess.run(program, capture_output=True, text=True, timeout=60, check=True).stdout
    labels: dict[str, set[str]] = {}
    buckets: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
            buckets.setdefault(sample.name, set()).add(sample.labels.get("le", ""))
    board = json.loads(DASHBOARD.read_text("utf-8"))
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert len(expressions) > 10
    for expression in expressions:
        found = re.findall(r"\b((?:llm|gen_ai)_\w+)\{([^}]*)\}", expression)
        assert found, expression
        for name, selectors in found:
            assert name in labels, expression
            used = set(re.findall(r"(\w+)[=!]~?\"", selectors))
            for group in re.findall(r"\bby \(([^)]*)\)", expression):
                used |= set(group.split(", "))
            assert used <= labels[name], expression
            if name.endswith("_seconds_bucket"):
                assert {"0.32", "2.56", "40.96"} <= buckets[
                    name
                ]  # finer than the SDK's, so that quantiles are meaningful
    (variable,) = [v for v in board["templating"]["list"] if v["name"] == "model"]
    name, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()
    assert label in labels[name]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_the_collector_forwards_what_it_receives() -> None:
    yaml = pytest.importorskip("yaml")
    collector = yaml.safe_load(blocks("opentelemetry.md")["collector.yaml"])
    for pipeline in collector["service"]["pipelines"].values():
        for kind in ("receivers", "processors", "exporters"):
            assert set(pipeline[kind]) <= set(collector[kind])
    port = collector["exporters"]["prometheus"]["endpoint"].rpartition(":")[2]
    (scraped,) = yaml.safe_load(blocks("opentelemetry.md")["prometheus.yaml"])["scrape_configs"]
    assert scraped["static_configs"] == [{"targets": [f"collector:{port}"]}]


# Docker Compose


def test_compose() -> None:
    """The files agree with each other and with the application; Docker itself is not run."""
    yaml = pytest.importorskip("yaml")
    files = blocks("compose.md")
    composed = yaml.safe_load(files["compose.yaml"])
    services = composed["services"]
    for service in services.values():
        assert set(service.get("depends_on", ())) <= set(services)
        assert ("image" in service) != ("build" in service)
        for volume in service.get("volumes", ()):
            assert volume.split(":")[0] in composed["volumes"]
    assert "ports" not in services["ollama"]
    assert urlsplit(resolve_address(None, services["app"]["environment"]).url).hostname in services
    assert set(yaml.safe_load(files["compose.gpu.yaml"])["services"]) <= set(services)
    model = re.search(r'OllamaProvider\("([^"]+)", max_concurrent=(\d+)', blocks("fastapi.md")["app.py"])
    assert model is not None
    assert services["pull"]["entrypoint"][-1] == model[1]
    assert services["ollama"]["environment"]["OLLAMA_NUM_PARALLEL"] == model[2]
    (command,) = re.findall(r"^CMD (.+)$", files["Dockerfile"], re.MULTILINE)
    assert json.loads(command)[:2] == ["uvicorn", "app:app"]
    inside = services["app"]["ports"][0].rpartition(":")[2]
    assert json.loads(command)[json.loads(command).index("--port") + 1] == inside


# All pages


def test_each_page_is_listed_and_run() -> None:
    index = (PAGES / "index.md").read_text("utf-8")
    pages = {path.name for path in PAGES.glob("*.md")} - {"index.md"}
    assert set(re.findall(r"\]\((\w[\w-]*\.md)\)", index)) == pages
    tests = Path(__file__).read_text("utf-8")
    for page in pages:
        assert f'"{page}"' in tests
        text = (PAGES / page).read_text("utf-8")
        assert len(blocks(page)) == text.count("```") // 2, f"{page}: a block without a title is not run"
