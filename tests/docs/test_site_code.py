"""Every Python block of the README and of the site's pages runs unchanged, against a test server.

`page_code.py` documents what a page can request. Pages that other tests run are listed here.
"""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from page_code import ROOT, Block, blocks_of

from namel3ss_ollama.testing import Model, OllamaServer, ToolCall

DOCS = ROOT / "docs"
ELSEWHERE = (
    "docs/batch.md",
    "docs/coming-from",
    "docs/production.md",
    "docs/recipes",
    "docs/troubleshooting.md",
    "docs/tuning.md",
)
"""Pages, or folders of pages, that other tests run."""
PNG = b"\x89PNG\r\n\x1a\n" + bytes(50)


@dataclass
class Place:
    """Where a block runs: its servers, the texts to replace in it, and the check of its output."""

    servers: list[OllamaServer]
    replaced: dict[str, str] = field(default_factory=dict)
    statuses: frozenset[int] = frozenset({200})
    check: Callable[[str], bool] = bool


@contextmanager
def plain() -> Iterator[Place]:
    """The default test server."""
    with OllamaServer() as server:
        yield Place([server])


@contextmanager
def refusals() -> Iterator[Place]:
    """The provider makes the server refuse too long input."""
    with OllamaServer() as server:
        yield Place([server], statuses=frozenset({200, 400}))


@contextmanager
def failing() -> Iterator[Place]:
    """The block requests a model that does not exist."""
    with OllamaServer() as server:
        yield Place([server], statuses=frozenset({404}), check=lambda out: "no such model: " in out and "pull" in out)


@contextmanager
def decisions() -> Iterator[Place]:
    """The first version with decision models."""
    with OllamaServer([Model("nimble", ("decision",))], version="0.35.0") as server:
        yield Place([server], check=lambda out: out.startswith("payment {'payment': 0.9, "))


@contextmanager
def web() -> Iterator[Place]:
    """The first version that searches the web."""
    with OllamaServer(version="0.18.0") as server:
        yield Place([server], check=lambda out: out.splitlines()[-1] == "free False")


@contextmanager
def hosts() -> Iterator[Place]:
    """Two servers, which share the work."""
    with OllamaServer() as one, OllamaServer() as other:

        def shared(out: str) -> bool:
            asked = [len([r for r in each.requests if r.path == "/api/generate"]) for each in (one, other)]
            return sum(asked) == 20 and f"{one.url} up 0.9.3 100.0" in out

        yield Place([one, other], {"http://gpu1:11434": one.url, "http://gpu2:11434": other.url}, check=shared)


@contextmanager
def weather() -> Iterator[Place]:
    """A model that calls the weather tool, and then answers."""
    with OllamaServer() as server:
        last = server.on(path="/api/chat", predicate=lambda record: record.payload["messages"][-1]["role"] == "tool")
        last.reply("Sun in Rome.")
        for tool in ("get_weather", "weather"):

            def has(record: object, tool: str = tool) -> bool:
                offered = getattr(record, "payload", {}).get("tools") or []
                return tool in [each["function"]["name"] for each in offered]

            calls = server.on(contains="How is the weather", predicate=has)
            calls.reply(tool_calls=[ToolCall(tool, {"city": "Rome"})])
        yield Place([server], check=lambda out: "Sun in Rome." in out)


@contextmanager
def image() -> Iterator[Place]:
    """A file with an image, and a web server that has it."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "image/png")
            self.send_header("content-length", str(len(PNG)))
            self.end_headers()
            self.wfile.write(PNG)

        def log_message(self, format: str, *args: object) -> None:
            pass

    Path("cat.png").write_bytes(PNG)
    with OllamaServer() as server, http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as site:
        thread = threading.Thread(target=site.serve_forever)
        thread.start()
        try:
            yield Place([server], {"https://example.com/": f"http://127.0.0.1:{site.server_port}/"})
        finally:
            site.shutdown()
            thread.join()


@contextmanager
def embedded() -> Iterator[Place]:
    """The embedded model."""
    yield Place([], check=lambda out: out.startswith("The capital of France is Paris.\n"))


SETUPS = {"": plain} | {
    setup.__name__: setup for setup in (decisions, embedded, failing, hosts, image, refusals, weather, web)
}


def pages() -> list[Path]:
    found = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
    return [page for page in found if not any(page.relative_to(ROOT).is_relative_to(place) for place in ELSEWHERE)]


BLOCKS = [block for page in pages() for block in blocks_of(page)]


def test_no_block_is_missed() -> None:
    for page in pages():
        assert len(list(blocks_of(page))) == page.read_text("utf-8").count("```python"), page
    assert len(BLOCKS) > 40


@pytest.mark.parametrize("page", [page for page in ELSEWHERE if (ROOT / page).exists()])
def test_pages_that_are_run_elsewhere_have_a_test(page: str) -> None:
    tests = [path for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__)]
    assert any(f'"{Path(page).name}"' in test.read_text("utf-8") for test in tests)


def test_pages_request_existing_setups() -> None:
    for block in BLOCKS:
        assert block.setup in SETUPS, block
    assert {block.setup for block in BLOCKS} == set(SETUPS)


@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince211")  # from LlamaIndex's own models
@pytest.mark.parametrize(
    "block",
    [pytest.param(each, marks=[pytest.mark.embedded] if each.setup == "embedded" else []) for each in BLOCKS],
    ids=str,
)
def test_block(
    block: Block,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.chdir(tmp_path)
    if block.setup == "embedded":
        request.getfixturevalue("weights")
    with ExitStack() as stack:
        place = stack.enter_context(SETUPS[block.setup]())
        if place.servers:
            monkeypatch.setenv("OLLAMA_BASE_URL", place.servers[0].url)
        block.run(place.replaced)
        out, err = capsys.readouterr()
        assert err == ""
        if "print(" in block.code:
            assert place.check(out)
        assert "failed:" not in out
        assert {record.status for server in place.servers for record in server.requests} <= place.statuses
