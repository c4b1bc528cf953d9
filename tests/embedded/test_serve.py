"""The engine behind a socket: for all clients of Ollama's API, as published on the package index."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator

import httpx
import ollama
import pytest
from fake_binding import PATIENCE, Endless, FakeBinding
from ollama_store import Store
from typer.testing import CliRunner, Result

from namel3ss_ollama import OllamaProvider
from namel3ss_ollama.cli import serve as serve_command
from namel3ss_ollama.cli.app import app
from namel3ss_ollama.cli.console import CommandError
from namel3ss_ollama.embedded import engine as engine_module
from namel3ss_ollama.embedded.serve import Served, serving

NAME = "smollm2:135m"
QUESTION = "What is the capital of France?"
ANSWER = "The capital of France is Paris."
MESSAGES = [{"role": "user", "content": QUESTION}]
REPEATABLE = {"temperature": 0}
with_the_model = [pytest.mark.embedded, pytest.mark.usefixtures("weights")]


# The socket, without a model


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch, binding: FakeBinding, store: Store) -> Iterator[engine_module._Process]:
    """A separate engine in place of the one of this process."""
    made = engine_module._Process()
    monkeypatch.setattr(engine_module, "_process", made)
    yield made
    engine = made.engine()
    engine.shut_down()
    assert not engine._loaded


async def test_endpoints(process: engine_module._Process) -> None:
    async with serving(0) as url, httpx.AsyncClient(base_url=url) as client:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
        root = await client.get("/")
        assert (root.status_code, root.text) == (200, "Ollama is running")
        head = await client.head("/")
        assert (head.status_code, head.text) == (200, "")
        assert (await client.head("/api/version")).status_code == 200
        tags = await client.get("/api/tags")
        assert [model["name"] for model in tags.json()["models"]] == ["plain:latest", "small:latest", "vectors:latest"]
        assert (await client.get("/api/none")).status_code == 404
        assert (await client.put("/api/tags")).status_code == 405
        unknown = await client.post("/api/chat", json={"model": "none"})
        assert (unknown.status_code, unknown.json()["error"]) == (404, 'model "none" not found, try pulling it first')
        chat = {"model": "small", "messages": MESSAGES}
        async with client.stream("POST", "/api/chat", json=chat) as response:
            assert response.headers["content-type"] == "application/x-ndjson"
            lines = [json.loads(line) async for line in response.aiter_lines()]
        assert [line["message"]["content"] for line in lines] == ["Hel", "lo.", ""]
        whole = await client.post("/api/chat", json={**chat, "stream": False})
        assert whole.json()["message"]["content"] == "Hello."
    assert process.engine()._loaded == {}


async def test_a_client_that_disconnects_frees_the_slot(process: engine_module._Process, endless: Endless) -> None:
    endless.go.set()
    async with serving(0) as url, httpx.AsyncClient(base_url=url) as client:
        async with client.stream("POST", "/api/chat", json={"model": "small", "messages": MESSAGES}) as response:
            assert await anext(response.aiter_lines())
        assert await asyncio.to_thread(endless.ended.wait, PATIENCE)


async def test_a_client_that_disconnects_before_the_first_line(
    process: engine_module._Process, endless: Endless
) -> None:
    async with serving(0) as url:
        async with httpx.AsyncClient(base_url=url) as client:
            asking = asyncio.ensure_future(client.post("/api/chat", json={"model": "small", "messages": MESSAGES}))
            assert await asyncio.to_thread(endless.begun.wait, PATIENCE)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        engine = process.engine()
        while not all(job.cancelled for job in engine._jobs):
            await asyncio.sleep(0.001)
        endless.go.set()
        assert await asyncio.to_thread(endless.ended.wait, PATIENCE)


async def test_ending_the_server_ends_its_computations(process: engine_module._Process, endless: Endless) -> None:
    endless.go.set()
    async with httpx.AsyncClient() as client:
        async with serving(0) as url:
            request = client.build_request("POST", f"{url}/api/chat", json={"model": "small", "messages": MESSAGES})
            response = await client.send(request, stream=True)
        assert await asyncio.to_thread(endless.ended.wait, PATIENCE)
        await response.aclose()


async def test_a_port_that_is_in_use() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(OSError, match="bind"):
            async with serving(other.getsockname()[1]):
                pass


async def test_an_ipv6_address(process: engine_module._Process) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("there is no IPv6 here")
    async with serving(0, "::1") as url, httpx.AsyncClient(base_url=url) as client:
        assert url.startswith("http://[::1]:")
        assert (await client.get("/")).status_code == 200


# Other clients, with the model


@pytest.fixture(scope="session")
def url(weights: None) -> Iterator[str]:
    """The address of a server in a thread, for all tests."""
    bound: list[str] = []
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with serving(0) as address:
            bound.append(address)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert ready.wait(PATIENCE)
    yield bound[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join(PATIENCE)
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


class TestOllamasOwnClient:
    pytestmark = with_the_model

    @pytest.fixture
    def client(self, url: str) -> Iterator[ollama.Client]:
        made = ollama.Client(host=url)
        yield made
        made._client.close()

    @pytest.fixture
    async def aclient(self, url: str) -> AsyncIterator[ollama.AsyncClient]:
        made = ollama.AsyncClient(host=url)
        yield made
        await made._client.aclose()

    def test_answers(self, client: ollama.Client) -> None:
        chat = client.chat(NAME, MESSAGES, options=REPEATABLE)
        assert (chat.message.content, chat.done_reason, chat.eval_count) == (ANSWER, "stop", 8)
        generated = client.generate(NAME, QUESTION, options=REPEATABLE)
        assert (generated.response, generated.done) == (ANSWER, True)
        assert chat.total_duration
        assert chat.total_duration > 0

    def test_streams(self, client: ollama.Client) -> None:
        chat = list(client.chat(NAME, MESSAGES, options=REPEATABLE, stream=True))
        assert "".join(part.message.content or "" for part in chat) == ANSWER
        assert chat[-1].done
        generated = client.generate(NAME, QUESTION, options=REPEATABLE, stream=True)
        assert "".join(part.response for part in generated) == ANSWER

    async def test_asynchronously(self, aclient: ollama.AsyncClient) -> None:
        chat = await aclient.chat(NAME, MESSAGES, options=REPEATABLE)
        assert chat.message.content == ANSWER
        parts = await aclient.chat(NAME, MESSAGES, options=REPEATABLE, stream=True)
        assert "".join([part.message.content or "" async for part in parts]) == ANSWER

    def test_embeddings(self, client: ollama.Client) -> None:
        assert [len(vector) for vector in client.embed(NAME, ["a cat", "a dog"]).embeddings] == [576, 576]

    def test_the_models(self, client: ollama.Client) -> None:
        client.generate(NAME, "", keep_alive="5m")
        assert [model.model for model in client.list().models] == [NAME]
        assert NAME in [model.model for model in client.ps().models]
        shown = client.show(NAME)
        assert shown.capabilities == ["completion", "embedding", "tools"]
        assert shown.details
        assert shown.details.parameter_size == "134.52M"

    def test_pulling(self, client: ollama.Client) -> None:
        assert [part.status for part in client.pull(NAME, stream=True)][-1] == "success"

    def test_errors(self, client: ollama.Client) -> None:
        with pytest.raises(ollama.ResponseError) as caught:
            client.chat("none", MESSAGES)
        assert caught.value.status_code == 404

    def test_a_format(self, client: ollama.Client) -> None:
        schema = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]}
        chat = client.chat(NAME, MESSAGES, format=schema, options={**REPEATABLE, "num_predict": 30})
        assert json.loads(chat.message.content or "").keys() == {"yes"}


class TestTheFrameworks:
    """The Ollama packages of LangChain and LlamaIndex, as published on the package index."""

    pytestmark = with_the_model

    async def test_langchain(self, url: str) -> None:
        from langchain_ollama import ChatOllama, OllamaEmbeddings

        model = ChatOllama(model=NAME, base_url=url, temperature=0)
        assert model.invoke(QUESTION).text == ANSWER
        assert "".join(chunk.text for chunk in model.stream(QUESTION)) == ANSWER
        assert (await model.ainvoke(QUESTION)).text == ANSWER
        assert "".join([chunk.text async for chunk in model.astream(QUESTION)]) == ANSWER
        embeddings = OllamaEmbeddings(model=NAME, base_url=url)
        assert len(embeddings.embed_query("a cat")) == 576
        for one in (model, embeddings):
            one._client._client.close()
            await one._async_client._client.aclose()

    def test_llama_index(self, url: str) -> None:
        from llama_index.embeddings.ollama import OllamaEmbedding
        from llama_index.llms.ollama import Ollama

        model = Ollama(model=NAME, base_url=url, temperature=0.0, context_window=4096)
        assert model.complete(QUESTION).text == ANSWER
        assert [part.text for part in model.stream_complete(QUESTION)][-1] == ANSWER
        embeddings = OllamaEmbedding(NAME, base_url=url)
        assert len(embeddings.get_text_embedding("a cat")) == 576
        for client in (model.client, embeddings._client):
            client._client.close()

    def test_our_own_provider(self, url: str) -> None:
        with OllamaProvider(NAME, url, temperature=0) as provider:
            assert provider.generate(QUESTION).content == ANSWER


# The command line


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("TERM", "dumb")

    def run(*args: str) -> Result:
        return CliRunner().invoke(app, args, catch_exceptions=False)

    return run


async def test_each_request_is_reported(process: engine_module._Process, endless: Endless) -> None:
    served: list[Served] = []
    endless.go.set()
    async with serving(0, on_request=served.append) as url, httpx.AsyncClient(base_url=url) as client:
        await client.get("/api/version", params={"key": "secret"})
        await client.get("/api/n%0Aone")
        chat = {"model": "small", "messages": MESSAGES}
        async with client.stream("POST", "/api/chat", json=chat) as response:  # and disconnects
            assert await anext(response.aiter_lines())
        assert await asyncio.to_thread(endless.ended.wait, PATIENCE)
    assert [(one.method, one.path, one.status) for one in served] == [
        ("GET", "/api/version", 200),
        ("GET", "/api/n?one", 404),
        ("POST", "/api/chat", 499),
    ]
    assert {one.remote for one in served} == {"127.0.0.1"}
    assert all(one.seconds > 0 for one in served)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_which_addresses_are_loopback(host: str, loopback: bool) -> None:
    assert serve_command._is_loopback(host) is loopback


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_the_command_warns_and_reports(
    process: engine_module._Process,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    host: str,
    warned: bool,
) -> None:
    async def ask_and_stop(self: asyncio.Event) -> None:
        url = re.findall(r"serving at (http://[^;]+);", printed := capsys.readouterr().err)[0]
        assert ("can be reached from other machines" in printed) is warned
        monkeypatch.undo()
        async with httpx.AsyncClient() as client:
            await client.get(url.replace("0.0.0.0", "127.0.0.1") + "/api/version")
        raise CommandError("enough")

    monkeypatch.setattr(asyncio.Event, "wait", ask_and_stop)
    with pytest.raises(CommandError, match="enough"):
        asyncio.run(serve_command._serve(0, host))
    assert re.fullmatch(r"\d\d:\d\d:\d\d GET /api/version 200 \d+\.\d\d s 127\.0\.0\.1\n", capsys.readouterr().err)


def test_serve_names_what_it_needs(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    result = run("serve")
    assert result.exit_code == 1
    assert "add --embedded" in result.stderr
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = run("serve", "--embedded", "--port", str(other.getsockname()[1]))
    assert taken.exit_code == 1
    assert "cannot listen on 127.0.0.1:" in taken.stderr
    monkeypatch.setitem(sys.modules, "namel3ss_ollama.embedded.serve", None)
    assert "pip install 'namel3ss-ollama[embedded]'" in run("serve", "--embedded").stderr


class TestCommands:
    pytestmark = with_the_model

    def test_models_of_the_engine(self, run: Callable[..., Result]) -> None:
        pulled = run("models", "pull", NAME, "--embedded")
        assert pulled.exit_code == 0
        assert json.loads(run("models", "pull", NAME, "--embedded", "--json").stdout.splitlines()[-1]) == {
            "status": "success"
        }
        assert NAME in run("models", "list", "--base-url", "embedded://").stdout
        shown = run("models", "show", NAME, "--base-url", "embedded://").stdout
        assert "8192 tokens" in shown
        assert "tools" in shown
        assert run("models", "ps", "--base-url", "embedded://").exit_code == 0
        both = run("models", "pull", NAME, "--embedded", "--base-url", "embedded://")
        assert both.exit_code == 2

    def test_chat(self, run: Callable[..., Result]) -> None:
        result = run("chat", QUESTION, "--base-url", "embedded://", "--option", "temperature=0")
        assert result.exit_code == 0
        assert result.stdout.strip() == ANSWER

    def test_serving_until_control_c(self) -> None:
        # A test run may ignore Ctrl-C; a program on a terminal does not.
        start = "import os, signal, sys; signal.signal(2, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
        command = [sys.executable, "-c", start, sys.executable, "-m", "namel3ss_ollama.cli"]
        command += ["serve", "--embedded", "--port", "0"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stderr
            line = process.stderr.readline()
            (url,) = re.findall(r"http://127\.0\.0\.1:\d+", line)
            with httpx.stream(
                "POST", f"{url}/api/chat", json={"model": NAME, "messages": MESSAGES}, timeout=60
            ) as response:
                assert next(response.iter_lines())
                process.send_signal(signal.SIGINT)  # with a stream open
                out, rest = process.communicate(timeout=60)
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()
        assert process.returncode == 130
        assert "Traceback" not in rest
        assert out == ""
