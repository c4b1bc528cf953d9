"""docs/troubleshooting.md: each error class has a section, and each text that it quotes is one that the code produces.

Quoted texts are in blocks of ```text. Below, `@quoted(section)` marks a function that produces such a text, with the
test server if one is needed, in the order of the section. Addresses and numbers may differ, and `...` on the page
matches anything. `make pages` updates the texts on the page, except those with `...`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import textwrap
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import BaseModel, Field
from typer.testing import CliRunner

import langchain_namel3ss_ollama as langchain
from namel3ss_ollama import LLMError, OllamaProvider, RetryPolicy, StreamConfig, errors
from namel3ss_ollama.cli.app import app
from namel3ss_ollama.testing import Gate, Model, OllamaServer

ROOT = Path(__file__).parents[2]
PATH = ROOT / "docs" / "troubleshooting.md"
PAGE = PATH.read_text("utf-8")
SECTIONS = dict(re.findall(r"^#{2,3} ([^\n]+)\n(.*?)(?=^#{2,3} |\Z)", PAGE, re.MULTILINE | re.DOTALL))
CLASSES = [getattr(errors, name) for name in errors.__all__]
_PLACES = re.compile(r"https?://[\w.:/-]*[\w/]|\d+(?:\.\d+)*")


def blocks(language: str, text: str = PAGE) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def plain(text: str) -> str:
    """A text without what depends on the machine: addresses, numbers and line breaks."""
    return _PLACES.sub("0", " ".join(text.split()))


def anchor(title: str) -> str:
    """The anchor that GitHub and MkDocs give a heading."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


@dataclass
class Scene:
    """The setting in which a text is produced."""

    server: OllamaServer
    monkeypatch: pytest.MonkeyPatch
    log: pytest.LogCaptureFixture

    def provider(self, model: str = "llama3.2", url: str | None = None, **settings: Any) -> OllamaProvider:
        settings.setdefault("retry", RetryPolicy.off())
        return OllamaProvider(model, url or self.server.url, **settings)

    def asks(self, model: str = "llama3.2", url: str | None = None, **settings: Any) -> None:
        """Send one request, and close."""
        with self.provider(model, url, **settings) as provider:
            provider.generate("Why is the sky blue?")

    def refuses(self, status: int, message: str = "", **more: Any) -> None:
        """Make the server respond with a status, and send a request."""
        self.server.fault("status", status=status, **({"message": message} if message else {}), **more)
        self.asks()

    def warning(self) -> str:
        """The first warning in the log."""
        return next(record.getMessage() for record in self.log.records if record.levelno == logging.WARNING)


Make = Callable[[Scene], "str | Awaitable[str | None] | None"]
QUOTED: list[tuple[str, Make]] = []


def quoted(section: str) -> Callable[[Make], Make]:
    """Mark a function that raises the exception, or returns the text, which a section of the page quotes."""

    def mark(make: Make) -> Make:
        QUOTED.append((section, make))
        return make

    return mark


class City(BaseModel):
    name: str
    population: int


def weather(city: str) -> str:
    """The weather in a city."""
    return city


QUESTION = [{"role": "user", "content": "The weather in Rome?"}]
NOWHERE = "http://127.0.0.1:9"


@quoted("Start with `doctor`")
def the_doctor(scene: Scene) -> str:
    scene.server.refuse()
    return CliRunner().invoke(app, ["doctor", "--host", scene.server.url]).stdout


# LLMConnectionError


@quoted("LLMConnectionError")
def nothing_listens(scene: Scene) -> None:
    scene.server.refuse()
    scene.asks()


@quoted("LLMConnectionError")
def https_to_an_http_server(scene: Scene) -> None:
    scene.asks(url=scene.server.url.replace("http://", "https://"))


@quoted("LLMConnectionError")
def the_proxy_is_down(scene: Scene) -> None:
    scene.monkeypatch.setenv("HTTP_PROXY", NOWHERE)
    scene.monkeypatch.setenv("http_proxy", NOWHERE)
    scene.asks(url="http://gpu1:11434")


@quoted("LLMConnectionError")
def connection_closed(scene: Scene) -> None:
    scene.server.fault("close_before_headers")
    scene.asks()


class _OfAnotherLoop(httpx.AsyncBaseTransport):
    """Fails as httpx's transport does on a second event loop, and leaves no socket open."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raise RuntimeError("Event loop is closed")


@quoted("LLMConnectionError")
def a_client_of_another_loop(scene: Scene) -> None:
    scene.asks(transport=_OfAnotherLoop())


@quoted("LLMConnectionError")
async def closed_too_early(scene: Scene) -> None:
    gate = Gate()
    scene.server.reply("Hello.", gate=gate)
    provider = scene.provider()
    task = asyncio.create_task(provider.agenerate("Hi."))
    await scene.server.wait_for_async(lambda s: gate.waiting == 1)
    await provider.aclose()
    await task


# LLMTimeoutError


@quoted("LLMTimeoutError")
def no_first_chunk(scene: Scene) -> None:
    scene.server.fault("stall_before_headers")
    scene.asks(stream_config=StreamConfig(first_chunk_timeout=0.05))


@quoted("LLMTimeoutError")
def no_further_chunk(scene: Scene) -> None:
    scene.server.fault("stall_mid_stream", at_token=1)
    scene.asks(stream_config=StreamConfig(chunk_timeout=0.05))


@quoted("LLMTimeoutError")
def tool_call_timeout_passed(scene: Scene) -> None:
    scene.server.fault("stall_before_headers")
    config = StreamConfig(first_chunk_timeout=0.01, chunk_timeout=0.01, tool_call_timeout=0.05)
    with scene.provider(stream_config=config) as provider:
        provider.chat(QUESTION, tools=[weather])


@quoted("LLMTimeoutError")
def timeout_passed(scene: Scene) -> None:
    scene.server.fault("stall_before_headers")
    scene.asks(timeout=0.05)


# ModelNotFoundError


@quoted("ModelNotFoundError")
def no_such_model(scene: Scene) -> None:
    scene.server.models.remove("qwen3")
    scene.asks("qwen3")


# ServerBusyError


@quoted("ServerBusyError")
def a_full_queue(scene: Scene) -> None:
    scene.refuses(503, "server busy, please try again.  maximum pending requests exceeded")


# QuotaExceededError


@quoted("QuotaExceededError")
def payment_required(scene: Scene) -> None:
    scene.refuses(402)


@quoted("QuotaExceededError")
def weekly_limit_reached(scene: Scene) -> None:
    scene.refuses(429, "you have reached your weekly usage limit")


# AuthenticationError


@quoted("AuthenticationError")
def no_key(scene: Scene) -> None:
    scene.refuses(401, "unauthorized")


@quoted("AuthenticationError")
def not_signed_in(scene: Scene) -> None:
    with OllamaServer(["gpt-oss:120b-cloud"], version="0.18", cloud="signed_out") as server:
        scene.asks("gpt-oss:120b-cloud", server.url)


@quoted("AuthenticationError")
def no_cloud(scene: Scene) -> None:
    with OllamaServer(["gpt-oss:120b-cloud"], version="0.18", cloud="disabled") as server:
        scene.asks("gpt-oss:120b-cloud", server.url)


@quoted("AuthenticationError")
def forbidden_host(scene: Scene) -> None:
    scene.refuses(403, body="")


# BadRequestError


@quoted("BadRequestError")
def no_such_path(scene: Scene) -> None:
    scene.asks(url=f"{scene.server.url}/v1")


@quoted("BadRequestError")
def no_tool_support(scene: Scene) -> None:
    scene.server.models.add(Model("plain", ("completion",)))
    with scene.provider("plain") as provider:
        provider.chat(QUESTION, tools=[weather])


@quoted("BadRequestError")
def no_grammar(scene: Scene) -> None:
    scene.server.fault("status", status=500, message="invalid JSON schema in format")
    scene.asks(format=City)


@quoted("BadRequestError")
def redirected(scene: Scene) -> None:
    scene.server.fault("redirect", location="https://example.com/")
    scene.asks()


@quoted("BadRequestError")
def http_to_an_https_server(scene: Scene) -> None:
    scene.refuses(400, body="Client sent an HTTP request to an HTTPS server.\n")


# ContextWindowExceededError


@quoted("ContextWindowExceededError")
def a_long_chat(scene: Scene) -> None:
    with (
        OllamaServer(version="0.12.6", context_length=64) as server,
        scene.provider(url=server.url, on_truncation="error") as provider,
    ):
        provider.chat([{"role": "user", "content": f"message {number}"} for number in range(100)])


@quoted("ContextWindowExceededError")
def a_long_prompt_for_an_old_server(scene: Scene) -> None:
    with scene.provider(on_truncation="error", num_ctx=64) as provider:
        provider.generate("word " * 200)


@quoted("ContextWindowExceededError")
def a_long_text_to_embed(scene: Scene) -> None:
    with scene.provider("all-minilm", on_truncation="error") as provider:
        provider.sync.embed(["short", "word " * 10_000], on_truncation="error")


# ServerError


@quoted("ServerError")
def no_memory(scene: Scene) -> None:
    scene.refuses(500, "model requires more system memory (12.1 GiB) than is available (7.6 GiB)")


@quoted("ServerError")
def runner_crashed(scene: Scene) -> None:
    scene.refuses(500, "llama runner process has terminated: signal: killed")


@quoted("ServerError")
def gateway_timed_out(scene: Scene) -> None:
    scene.refuses(504, html=True)


@quoted("ServerError")
def unreachable_registry(scene: Scene) -> None:
    message = (
        'pull model manifest: Get "https://registry.ollama.ai/v2/": dial tcp: lookup registry.ollama.ai: no such host'
    )
    scene.server.fault("status", status=500, message=message)
    with scene.provider() as provider:
        for _ in provider.sync.pull_model("qwen3"):
            pass


# ToolCallParseError


@quoted("ToolCallParseError")
def unparsed_call(scene: Scene) -> None:
    scene.refuses(500, 'error parsing tool call: raw=\'{"city": "Ro\', err=unexpected end of JSON input')


# MalformedResponseError


@quoted("MalformedResponseError")
def a_login_page(scene: Scene) -> None:
    scene.server.fault("html_page")
    scene.asks()


@quoted("MalformedResponseError")
def a_broken_line(scene: Scene) -> None:
    scene.server.fault("malformed_line", at_token=1)
    scene.asks()


# StreamInterruptedError


@quoted("StreamInterruptedError")
def the_connection_breaks(scene: Scene) -> None:
    scene.server.fault("cut", at_token=1)
    scene.asks()


@quoted("StreamInterruptedError")
def stream_ends_early(scene: Scene) -> None:
    scene.server.fault("truncated", at_token=1)
    scene.asks()


# OutputValidationError


@quoted("OutputValidationError")
def cut_answer(scene: Scene) -> None:
    scene.server.reply('{"name": "Paris", "popul', done_reason="length")
    scene.asks(format=City)


@quoted("OutputValidationError")
def invalid_answer(scene: Scene) -> None:
    class City(BaseModel):
        name: str
        population: int = Field(multiple_of=10)  # which no grammar can enforce

    scene.server.reply('{"name": "Paris", "population": 2000001}')
    scene.asks(format=City)


@quoted("OutputValidationError")
def ignored_format(scene: Scene) -> None:
    with OllamaServer(["gpt-oss:120b-cloud"], version="0.18") as server:
        server.reply("Paris is the capital of France.")
        scene.asks("gpt-oss:120b-cloud", server.url, format=City)


@quoted("OutputValidationError")
def cut_call(scene: Scene) -> None:
    scene.server.reply('{"name": "weather", "argum', done_reason="length")
    with scene.provider() as provider:
        provider.chat(QUESTION, tools=[weather], tool_choice="weather")


# QueueFullError


@quoted("QueueFullError")
async def queue_full(scene: Scene) -> None:
    await _with_one_running(scene, max_queue=0)


@quoted("QueueFullError")
async def queue_timeout_passed(scene: Scene) -> None:
    await _with_one_running(scene, queue_timeout=0.05)


async def _with_one_running(scene: Scene, **settings: Any) -> None:
    gate = Gate()
    scene.server.reply("Hello.", gate=gate)
    async with scene.provider(max_concurrent=1, **settings) as provider:
        running = asyncio.create_task(provider.agenerate("Hi."))
        await scene.server.wait_for_async(lambda s: gate.waiting == 1)
        try:
            await provider.agenerate("Hi.")
        finally:
            gate.open()
            await running


# JournalError


@quoted("JournalError")
def the_journal_of_another_model(scene: Scene) -> None:
    with scene.provider() as provider:
        provider.batch(["Hi."], journal="run.db")
        provider.batch(["Hi."], journal="run.db", model="qwen3")


@quoted("JournalError")
async def a_journal_in_use(scene: Scene) -> None:
    gate = Gate()
    scene.server.reply("Hello.", gate=gate)
    async with scene.provider() as provider:
        running = asyncio.create_task(provider.agenerate_batch(["Hi."], journal="run.db"))
        await scene.server.wait_for_async(lambda s: gate.waiting == 1)
        try:
            await provider.agenerate_batch(["Hi."], journal="run.db")
        finally:
            gate.open()
            await running


@quoted("JournalError")
def not_a_journal(scene: Scene) -> None:
    Path("run.db").write_text("something else, and longer than the header of a database " * 20)
    with scene.provider() as provider:
        provider.batch(["Hi."], journal="run.db")


# Symptoms


@quoted("Prompts are cut without an error")
def a_warning_of_a_cut(scene: Scene) -> str:
    with scene.provider(num_ctx=64) as provider:
        provider.generate("word " * 200)
    return scene.warning()


@quoted("The first answer is slow")
def loaded_again(scene: Scene) -> str:
    with OllamaServer(version="0.12") as server, scene.provider(url=server.url) as provider:
        provider.generate("Hi.", num_ctx=2048)
        provider.generate("Hi.", num_ctx=4096)
    return scene.warning()


@quoted("Texts are too long to embed")
def a_warning_of_a_text(scene: Scene) -> str:
    with scene.provider("all-minilm") as provider:
        provider.sync.embed(["short", "word " * 10_000])
    return scene.warning()


@quoted("JSON is invalid")
def a_warning_of_a_format(scene: Scene) -> str:
    with OllamaServer(["gpt-oss:120b-cloud"], version="0.18") as server:
        server.reply("Paris is the capital of France.", times=1)
        server.reply('{"name": "Paris", "population": 2000000}')
        scene.asks("gpt-oss:120b-cloud", server.url, format=City)
    return scene.warning()


@quoted("A script works, but not Jupyter, gunicorn, Celery or Trio")
def no_loop(scene: Scene) -> None:
    scene.provider().agenerate("Hi.").send(None)


@quoted("The model in the process fails")
def no_weights(scene: Scene) -> None:
    scene.monkeypatch.setenv("OLLAMA_MODELS", "ollama")
    scene.monkeypatch.setenv("NAMEL3SS_OLLAMA_CACHE", "cache")
    scene.asks(url="embedded://")


@quoted("An option has no effect")
def a_misspelt_option(scene: Scene) -> None:
    scene.provider(temperatur=0)


@quoted("An option has no effect")
def an_ignored_option(scene: Scene) -> str:
    with OllamaServer(version="0.12") as server, scene.provider(url=server.url) as provider:
        provider.sync.version()
        provider.generate("Hi.", mirostat=1)
    return scene.warning()


def text_of(make: Make, scene: Scene) -> tuple[str, str]:
    """The name of the exception's class, if any, and the text."""
    try:
        made = make(scene)
        if isinstance(made, Awaitable):
            made = asyncio.run(made)
    except (LLMError, RuntimeError, TypeError) as error:
        return type(error).__name__, str(error)
    assert made is not None, "no text was produced"
    return "", made


@pytest.fixture
def scene(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, ollama_server: OllamaServer
) -> Scene:
    monkeypatch.chdir(tmp_path)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    caplog.set_level(logging.WARNING, "namel3ss_ollama")
    return Scene(ollama_server, monkeypatch, caplog)


def matches(block: str, text: str) -> bool:
    """Whether a text is what a block of the page quotes."""
    return re.fullmatch(".*".join(map(re.escape, plain(block).split("..."))), plain(text)) is not None


def rewritten(block: str, text: str) -> str:
    """A text as the page quotes it: with the addresses and numbers of the block that it replaces."""
    known = iter(_PLACES.findall(block))
    text = _PLACES.sub(lambda place: next(known, place[0]), " ".join(text.split()))
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False) + "\n"


@pytest.mark.parametrize(("section", "make"), QUOTED, ids=[make.__name__ for _, make in QUOTED])
def test_the_page_quotes_what_the_code_says(section: str, make: Make, scene: Scene) -> None:
    kind, text = text_of(make, scene)
    block = blocks("text", SECTIONS[section])[[one for title, one in QUOTED if title == section].index(make)]
    # Texts with `...` are edited by hand.
    if os.environ.get("NAMEL3SS_WRITE_DOCS") and not matches(block, text) and "..." not in block:
        old, block = block, rewritten(block, text)
        PATH.write_text(PATH.read_text("utf-8").replace(old, block), encoding="utf-8")
    assert matches(block, text), f"docs/troubleshooting.md is stale, `make pages` updates it; the code says: {text}"
    assert kind == section or section not in errors.__all__


def test_each_quoted_text_is_produced() -> None:
    assert blocks("text")
    for section, text in SECTIONS.items():
        assert len(blocks("text", text)) == [title for title, _ in QUOTED].count(section), section


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_each_error_class_has_a_section_and_its_docstring_names_it(cls: type[LLMError]) -> None:
    assert len(SECTIONS[cls.__name__].split()) > 30
    assert (cls.__doc__ or "").rstrip().endswith(f"docs/troubleshooting.md#{anchor(cls.__name__)}")
    if cls is not LLMError:
        assert blocks("text", SECTIONS[cls.__name__])


def test_each_langchain_error_links_to_the_section_of_its_base() -> None:
    rows = dict(re.findall(r"^\| (`Ollama.*`) \| \[(\w+)\]", PAGE, re.MULTILINE))
    linked = {name: section for names, section in rows.items() for name in re.findall(r"`(\w+)`", names)}
    classes = {name: getattr(langchain, name) for name in langchain.__all__ if name.endswith("Error")}
    assert linked.keys() == classes.keys()
    for name, section in linked.items():
        assert classes[name].__mro__[1] is getattr(errors, section), name


def test_no_link_is_broken() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        path, _, place = target.partition("#")
        page = (ROOT / "docs" / path).read_text("utf-8") if path else PAGE
        if place:
            assert place in {anchor(title) for title in re.findall(r"^#+ (.+)$", page, re.MULTILINE)}, target


CODE = [(title, code) for title, text in SECTIONS.items() for code in blocks("python", text)]


@pytest.mark.parametrize(("title", "code"), CODE, ids=[title for title, _ in CODE])
def test_a_block_runs(title: str, code: str, scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    scene.monkeypatch.setenv("OLLAMA_BASE_URL", scene.server.url)
    with OllamaServer() as other:
        code = code.replace("http://gpu1:11434", scene.server.url).replace("http://gpu2:11434", other.url)
        exec(compile(code, f"docs/troubleshooting.md: {title}", "exec"), {"__name__": "__main__"})
    out, err = capsys.readouterr()
    assert out
    assert err == ""
    assert scene.server.requests or title == "A proxy is in the way"


COMMANDS = [line for block in blocks("console") for line in block.splitlines() if line.startswith("namel3ss-ollama ")]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_runs(command: str, scene: Scene) -> None:
    scene.monkeypatch.setenv("OLLAMA_BASE_URL", scene.server.url)
    with OllamaServer() as other:
        typed = command.replace("http://gpu1:11434", scene.server.url).replace("http://gpu2:11434", other.url)
        result = CliRunner().invoke(app, typed.split()[1:], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def test_no_block_is_missed() -> None:
    assert len(SECTIONS) == len(re.findall(r"^#{2,3} ", PAGE, re.MULTILINE))
    assert len(CODE) == PAGE.count("```python") == 14
    assert len(COMMANDS) == 5
    assert PAGE.count("```") == 2 * (len(CODE) + len(QUOTED) + len(blocks("console")))
