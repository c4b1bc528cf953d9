"""docs/production.md: its code runs, its checklist links to its sections, and no link is broken."""

from __future__ import annotations

import asyncio
import logging
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_binding import FakeBinding
from gguf_files import gguf
from ollama_store import Store

from namel3ss_ollama.testing import Gate, OllamaServer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "production.md").read_text("utf-8")
TITLES = re.findall(r"^#{1,3} (.+)$", PAGE, re.MULTILINE)
CODE = re.findall(r"^### ([^\n]+)\n(?:(?!^### ).)*?^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
EMBEDDED = dict(CODE)["An embedded fallback"]
SERVICE = dict(CODE)["An inference service"]
SENDS_NOTHING = {"Retries", "Input from strangers", "Keys and network", "Processes and forks"}
HAS_ITS_SERVER = {"Tests with faults", "Upgrades of Ollama"}


def anchor(title: str) -> str:
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def run(title: str, code: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(code, f"docs/production.md: {title}", "exec"), namespace)
    return namespace


@pytest.fixture(autouse=True)
def _environment(
    ollama_server: OllamaServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "namel3ss_ollama")  # restored after a block that sets it
    monkeypatch.setenv("OLLAMA_BASE_URL", ollama_server.url)
    monkeypatch.chdir(tmp_path)


def test_no_block_is_missed() -> None:
    assert len(CODE) == PAGE.count("```python") == len(dict(CODE)) == 19


@pytest.mark.parametrize(
    ("title", "code"),
    [pair for pair in CODE if pair[1] not in (EMBEDDED, SERVICE)],
    ids=[title for title, code in CODE if code not in (EMBEDDED, SERVICE)],
)
def test_a_block_runs(title: str, code: str, ollama_server: OllamaServer, capsys: pytest.CaptureFixture[str]) -> None:
    with OllamaServer() as other:
        run(title, code.replace("http://gpu1:11434", ollama_server.url).replace("http://gpu2:11434", other.url))
        if title == "Several hosts with failover":
            assert [record.path for record in other.requests].count("/api/generate") > 1
    out, err = capsys.readouterr()
    assert out
    assert err == ""
    assert bool(ollama_server.requests) == (title not in SENDS_NOTHING | HAS_ITS_SERVER)


def test_the_batch_resumes(ollama_server: OllamaServer, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        run("A batch overnight", dict(CODE)["A batch overnight"])
    assert "0 answered, 0 failed, 2 skipped" in capsys.readouterr().out
    assert [record.path for record in ollama_server.requests].count("/api/generate") == 2


def test_the_embedded_fallback(
    ollama_server: OllamaServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NAMEL3SS_OLLAMA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    monkeypatch.setattr("namel3ss_ollama.embedded.engine.start", FakeBinding().start)
    Store(tmp_path / "ollama").add("registry.ollama.ai/library/smollm2/135m", gguf(), template="{{ .Prompt }}")
    code = EMBEDDED.replace("http://gpu1:11434", ollama_server.url)
    ollama_server.models.add("smollm2:135m")
    run("An embedded fallback", code)
    ollama_server.refuse()
    run("An embedded fallback", code)
    answers = capsys.readouterr().out.splitlines()
    assert answers[0].startswith(ollama_server.url)
    assert answers[1] == "embedded:// Hello."


class Service:
    """The page's inference service, and a client of it."""

    def __init__(self) -> None:
        self.app: Any = run("An inference service", SERVICE)["app"]
        self.provider = self.app.__globals__["provider"]
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://service")


async def test_the_service_answers(ollama_server: OllamaServer) -> None:
    service = Service()
    ollama_server.reply(["Good", " day", "."])
    answer = await service.client.post("/ask", content="Hello.")
    assert (answer.status_code, answer.text) == (200, "Good day.")
    assert (await service.client.get("/ready")).status_code == 200
    assert (await service.client.post("/ask", content="x" * 20_001)).status_code == 413
    ollama_server.refuse()
    assert (await service.client.get("/ready")).status_code == 503
    await service.provider.aclose()


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ({"status": 503, "retry_after": 3600}, 503),
        ({"status": 400, "message": "does not support generate"}, 400),
        ({"status": 500, "message": "a reason that stays"}, 502),
    ],
)
async def test_the_service_maps_errors_to_statuses(
    fault: dict[str, Any], status: int, ollama_server: OllamaServer
) -> None:
    service = Service()
    ollama_server.fault("status", **fault)
    answer = await service.client.post("/ask", content="Hello.")
    assert answer.status_code == status
    assert ("retry-after" in answer.headers) == (status == 503)
    await service.provider.aclose()


async def test_the_service_stops_when_the_client_hangs_up(ollama_server: OllamaServer) -> None:
    service, gate = Service(), Gate()
    ollama_server.reply(["Good", " day", "."], gates={1: gate})
    sent: list[Any] = []
    messages: asyncio.Queue[Any] = asyncio.Queue()
    messages.put_nowait({"type": "http.request", "body": b"Hello."})

    async def send(message: Any) -> None:
        sent.append(message)
        if message.get("body") == b"Good":
            messages.put_nowait({"type": "http.disconnect"})

    await service.app({"type": "http", "path": "/ask"}, messages.get, send)
    await ollama_server.wait_for_async(lambda s: s.requests[0].outcome == "client_closed")
    assert service.provider.stats().running == 0
    await service.provider.aclose()


async def test_the_service_sends_nothing_when_the_client_hangs_up_before(ollama_server: OllamaServer) -> None:
    service, sent = Service(), []
    messages = iter([{"type": "http.request", "body": b"Hel", "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message)

    await service.app({"type": "http", "path": "/ask"}, receive, send)
    assert sent == ollama_server.requests == []


async def test_the_service_breaks_off_with_the_answer(ollama_server: OllamaServer) -> None:
    service = Service()
    ollama_server.fault("cut", at_token=1)
    with pytest.raises(service.app.__globals__["LLMError"]):
        await service.client.post("/ask", content="Hello.")
    await service.provider.aclose()


async def test_the_service_closes_with_its_server(ollama_server: OllamaServer) -> None:
    service = Service()
    await service.client.post("/ask", content="Hello.")
    messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    sent: list[str] = []

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await service.app({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    await ollama_server.wait_for_async(lambda s: s.open_connections == 0)


def test_no_link_is_broken() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        path, _, place = target.partition("#")
        assert (ROOT / "docs" / path).exists(), target
        assert path or place in map(anchor, TITLES), target


def test_the_checklist_links_to_each_of_its_sections() -> None:
    checklist, _, _ = PAGE.partition("## Deployment patterns")
    sections = re.findall(r"^### (.+)$", checklist, re.MULTILINE)
    assert {anchor(title) for title in sections} == set(re.findall(r"^\| \[.+?\]\(#(.+?)\)", checklist, re.MULTILINE))
