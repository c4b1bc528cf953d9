"""docs/coming-from/: each pair of snippets prints the same, and the tables list every parameter."""

from __future__ import annotations

import builtins
import functools
import gc
import inspect
import re
import ssl
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import langchain_ollama
import llama_index.embeddings.ollama
import llama_index.llms.ollama
import ollama
import pytest
from coming_from import MODELS, PAGES, SCRIPTS, Pair, Row, Table, pairs, parameters, problems, read, tables

import langchain_namel3ss_ollama
import llama_index.embeddings.namel3ss_ollama
import llama_index.llms.namel3ss_ollama
from namel3ss_ollama import Message, OllamaProvider, RetryPolicy, StreamConfig, errors, instant_retries
from namel3ss_ollama.settings import ChatOptions, GenerateOptions, RuntimeOptions
from namel3ss_ollama.testing import OllamaServer

# The snippets leave the closing of the peers' clients to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
PEERS = {
    "ollama-python": "ollama",
    "langchain-ollama": "langchain_ollama",
    "llama-index-llms-ollama": "llama_index.llms.ollama",
    "openai-python": "openai",
}
PAIRS = [pair for page in PEERS for pair in pairs(page)]
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)
WITHOUT_OPENAI = "openai is not installed; nothing but this comparison needs it"
DEFAULT = "http://localhost:11434"
NOTE = "**The outputs differ**"
DIFFERENT: dict[tuple[str, str], tuple[str, str, str]] = {
    ("ollama-python", "A stream that breaks off"): (
        "a stream that ends without its last line is a short answer there, and an error here",
        "One, two | done: False\n",
        "One, two | StreamInterruptedError | so far: One, two\n",
    ),
    ("langchain-ollama", "A stream that breaks off"): (
        "a stream that ends without its last line is a short answer there, and an error here",
        "One, two\n",
        "One, two | so far: One, two\n",
    ),
    ("langchain-ollama", "A busy server"): (
        "a 503 is an error there, and the request is sent again here",
        "503\n",
        "You said: Hello.\n",
    ),
    ("llama-index-llms-ollama", "A stream that breaks off"): (
        "a stream that ends without its last line is a short answer there, and an error here",
        "One, two | done: False\n",
        "One, two | so far: One, two\n",
    ),
    ("openai-python", "A stream that breaks off"): (
        "a stream that ends without its last event is a short answer there, and an error here",
        "One, two | finish_reason: None\n",
        "One, two | so far: One, two\n",
    ),
}
"""Pairs that must not print the same: the reason, and what each prints."""


@pytest.fixture(scope="module")
def shared() -> Iterator[OllamaServer]:
    with OllamaServer(MODELS) as server, pytest.MonkeyPatch.context() as patch:
        # The peers read all certificates for each client, which takes longer than the rest of a test.
        patch.setattr(ssl, "create_default_context", functools.cache(ssl.create_default_context))
        yield server
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def server(shared: OllamaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OllamaServer]:
    """The server of both snippets, which they find by default, and an image in the working directory."""
    (tmp_path / "photo.png").write_bytes(PNG)
    monkeypatch.chdir(tmp_path)
    for name in ("OLLAMA_HOSTS", "OLLAMA_BASE_URL", "OLLAMA_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OLLAMA_HOST", shared.url)
    with ollama.Client() as client, instant_retries():
        # The module's functions use a client that was created at import.
        monkeypatch.setattr(ollama.generate.__self__, "_client", client._client)
        for peer in (llama_index.llms.ollama.Ollama, llama_index.embeddings.ollama.OllamaEmbedding):
            # These use this address regardless of the environment.
            given = tuple(shared.url if one == DEFAULT else one for one in peer.__init__.__defaults__)
            monkeypatch.setattr(peer.__init__, "__defaults__", given)
        yield shared


def run(server: OllamaServer, pair: Pair, code: str, capsys: pytest.CaptureFixture[str]) -> str:
    server.reset()
    SCRIPTS[pair.title](server)
    code = code.replace(DEFAULT, server.url)
    exec(compile(code, f"docs/coming-from/{pair.page}.md: {pair.title}", "exec"), {"__name__": "__main__"})
    assert server.requests, "the snippet asked another server, or none"
    return capsys.readouterr().out


@pytest.mark.parametrize("pair", PAIRS, ids=[f"{pair.page}: {pair.title}" for pair in PAIRS])
def test_both_print_the_same(pair: Pair, server: OllamaServer, capsys: pytest.CaptureFixture[str]) -> None:
    if pair.page == "openai-python":
        pytest.importorskip("openai", reason=WITHOUT_OPENAI)
    theirs, ours = (run(server, pair, code, capsys) for code in (pair.theirs, pair.ours))
    if (pair.page, pair.title) in DIFFERENT:
        _, *expected = DIFFERENT[pair.page, pair.title]
        assert [theirs, ours] == expected
        assert NOTE in pair.text
    else:
        assert theirs == ours
        assert theirs.strip()
        assert NOTE not in pair.text


def test_no_block_is_missed() -> None:
    assert {path.stem for path in PAGES.glob("*.md")} >= set(PEERS)
    for page in PEERS:
        assert read(page).count("```python") == 2 * len(pairs(page))
    assert {(pair.page, pair.title) for pair in PAIRS} >= set(DIFFERENT)


@pytest.mark.parametrize("pair", PAIRS, ids=[f"{pair.page}: {pair.title}" for pair in PAIRS])
def test_each_block_imports_its_package(pair: Pair) -> None:
    assert pair.theirs.startswith(f"# {pair.page}\n") or pair.theirs.startswith("# llama-index")
    package = PEERS[pair.page].partition(".")[0]
    assert re.search(rf"^(?:import|from) {package}\b", pair.theirs, re.MULTILINE)
    assert "namel3ss" not in pair.theirs
    assert re.match(r"# [a-z3-]*namel3ss-ollama\n", pair.ours)


def keywords(method: Callable[..., Any], options: type) -> list[str]:
    """The parameters of a method of the provider, including those of its `**options`."""
    return [name for name in parameters(method) if name != "options"] + list(options.__annotations__)


HTTPX = [name for name in parameters(httpx.Client.__init__) if name != "base_url"]
OLLAMA_PYTHON: dict[str, tuple[list[str], list[str], bool]] = {
    "Client and AsyncClient": (
        [*parameters(ollama.Client.__init__), *HTTPX],
        [name for name in inspect.signature(OllamaProvider.__init__).parameters if name != "self"],
        True,
    ),
    "generate": (parameters(ollama.Client.generate), keywords(OllamaProvider.agenerate, GenerateOptions), False),
    "chat": (parameters(ollama.Client.chat), keywords(OllamaProvider.achat, ChatOptions), False),
    "embed and embeddings": (
        parameters(ollama.Client.embed, ollama.Client.embeddings),
        parameters(OllamaProvider.embed),
        True,
    ),
    "Options": (list(ollama.Options.model_fields), list(RuntimeOptions.__annotations__), True),
    "Message": (list(ollama.Message.model_fields), parameters(Message.__init__), True),
}


@pytest.mark.parametrize("title", OLLAMA_PYTHON)
def test_parameters_of_ollama_python(title: str) -> None:
    theirs, ours, only_here = OLLAMA_PYTHON[title]
    assert problems(tables("ollama-python")[title], theirs, ours, only_here=only_here) == []


def test_methods_of_ollama_python() -> None:
    methods = {name: f for name, f in inspect.getmembers(ollama.Client, inspect.isfunction) if name[0] != "_"}
    assert methods.keys() == dict(inspect.getmembers(ollama.AsyncClient, inspect.isfunction)).keys() - {
        name for name in dir(ollama.AsyncClient) if name[0] == "_"
    }
    rows = re.findall(r"^\| `(\w+)\((.*?)\)` \| (.*?) \|", read("ollama-python"), re.MULTILINE)
    documented = {name: [one for one in given.split(", ") if one] for name, given, _ in rows}
    tabled = ("generate", "chat", "embed", "embeddings")
    assert documented == {name: parameters(function) for name, function in methods.items() if name not in tabled}
    for _, _, ours in rows:
        assert all(hasattr(OllamaProvider, name) for name in re.findall(r"`(\w+)`", ours))


FIELDS = [
    (name, getattr(langchain_ollama, name), getattr(langchain_namel3ss_ollama, name))
    for name in ("ChatOllama", "OllamaLLM", "OllamaEmbeddings")
]


@pytest.mark.parametrize(("name", "theirs", "ours"), FIELDS, ids=[name for name, *_ in FIELDS])
def test_parameters_of_langchain_ollama(name: str, theirs: Any, ours: Any) -> None:
    assert problems(tables("langchain-ollama")[name], list(theirs.model_fields), list(ours.model_fields)) == []


@pytest.mark.parametrize("name", ["bind_tools", "with_structured_output"])
def test_methods_of_langchain_ollama(name: str) -> None:
    theirs, ours = (parameters(getattr(cls, name)) for _, *classes in FIELDS[:1] for cls in classes)
    assert problems(tables("langchain-ollama")[name], theirs, ours) == []


def with_fields(cls: Any) -> list[str]:
    """The parameters of a LlamaIndex class: those of its constructor, and its fields."""
    return list(dict.fromkeys([*parameters(cls.__init__), *cls.model_fields]))


@pytest.mark.parametrize(
    ("name", "theirs", "ours"),
    [
        ("Ollama", llama_index.llms.ollama.Ollama, llama_index.llms.namel3ss_ollama.Ollama),
        (
            "OllamaEmbedding",
            llama_index.embeddings.ollama.OllamaEmbedding,
            llama_index.embeddings.namel3ss_ollama.OllamaEmbedding,
        ),
    ],
    ids=["Ollama", "OllamaEmbedding"],
)
def test_parameters_of_llama_index(name: str, theirs: Any, ours: Any) -> None:
    assert problems(tables("llama-index-llms-ollama")[name], with_fields(theirs), with_fields(ours)) == []


def test_parameters_of_openai_python() -> None:
    openai = pytest.importorskip("openai", reason=WITHOUT_OPENAI)
    chat = openai.resources.chat.completions.Completions
    models = openai.resources.models.Models
    provider = [name for name in inspect.signature(OllamaProvider.__init__).parameters if name != "self"]
    rows: dict[str, tuple[list[str], list[str], bool]] = {
        "OpenAI and AsyncOpenAI": (parameters(openai.OpenAI.__init__, openai.AsyncOpenAI.__init__), provider, True),
        "chat.completions.create and parse": (
            parameters(chat.create, chat.parse),
            keywords(OllamaProvider.achat, ChatOptions),
            False,
        ),
        "completions.create": (
            parameters(openai.resources.completions.Completions.create),
            keywords(OllamaProvider.agenerate, GenerateOptions),
            False,
        ),
        "embeddings.create": (
            parameters(openai.resources.embeddings.Embeddings.create),
            parameters(OllamaProvider.embed),
            True,
        ),
        "models.list and retrieve": (
            parameters(models.list, models.retrieve),
            parameters(OllamaProvider.list_models, OllamaProvider.show_model),
            True,
        ),
    }
    found = {name: problems(tables("openai-python")[name], *row[:2], only_here=row[2]) for name, row in rows.items()}
    assert not any(found.values()), found


def test_every_table_is_checked() -> None:
    assert set(tables("ollama-python")) == {*OLLAMA_PYTHON, "Other methods"}
    assert set(tables("langchain-ollama")) == {name for name, *_ in FIELDS} | {"bind_tools", "with_structured_output"}
    assert set(tables("llama-index-llms-ollama")) == {"Ollama", "OllamaEmbedding"}
    assert len(tables("openai-python")) == 5


def test_a_table_that_lacks_a_parameter_is_detected() -> None:
    table = Table([Row(["a"], "the same", ""), Row(["b"], "`c`", "")], ["d"])
    assert problems(table, ["a", "b"], ["a", "c", "d"]) == ["['b']: nothing is said of the change"]
    table = Table([Row(["a"], "`x`", "said")], ["y"])
    assert problems(table, ["a", "b"], ["a"]) == [
        "a: is ours alone, and not listed",
        "b: has no row",
        "x: is no parameter of ours",
        "y: is listed as ours alone",
    ]


# Our defaults, on all pages


def test_the_defaults_on_the_pages_are_correct() -> None:
    config, policy = StreamConfig(), RetryPolicy()
    deadlines = f"{config.connect_timeout:g} s to connect, {config.first_chunk_timeout:g} s for the first chunk"
    for page in PEERS:
        text = " ".join(read(page).split())
        assert deadlines in text
        assert f"{config.chunk_timeout:g} s between two" in text
        assert f"{config.tool_call_timeout:g} s for any chunk" in text
        assert f"RetryPolicy(attempts={policy.attempts})" in text
        assert 'max_concurrent="auto"' in text


def test_errors_on_the_pages_exist() -> None:
    homes = (errors, langchain_namel3ss_ollama, builtins)
    named = 0
    for page in PEERS:
        for cell in re.findall(r"^\| `\S*(?:Error|Exception)`.*? \| (.*) \|$", read(page), re.MULTILINE):
            for name in re.findall(r"`([A-Z]\w+Error)`", cell):
                assert any(hasattr(home, name) for home in homes), f"{page}: {name}"
                named += 1
    assert named > 30


# The peers' defaults


def test_defaults_of_ollama_python() -> None:
    with ollama.Client() as client:
        assert client._client.timeout == httpx.Timeout(None)
    assert httpx._config.DEFAULT_LIMITS.max_connections == 100


def test_defaults_of_openai_python() -> None:
    openai = pytest.importorskip("openai", reason=WITHOUT_OPENAI)
    assert openai.DEFAULT_MAX_RETRIES == 2
    assert (openai.DEFAULT_TIMEOUT.connect, openai.DEFAULT_TIMEOUT.read) == (5, 600)
    assert openai.DEFAULT_CONNECTION_LIMITS.max_connections == 1000


def test_defaults_of_llama_index() -> None:
    theirs = llama_index.llms.ollama.Ollama("llama3.2", context_window=2048)
    assert (theirs.request_timeout, theirs.keep_alive, theirs.metadata.num_output) == (30, None, 256)
    assert theirs._model_kwargs["num_ctx"] == 2048
    ours = llama_index.llms.namel3ss_ollama.Ollama("llama3.2")
    assert (ours.keep_alive, ours.metadata.context_window) == (None, 3900)


def test_the_window_that_llama_index_sends(server: OllamaServer) -> None:
    before = len(server.requests)  # the server is that of all tests here
    for cls in (llama_index.llms.ollama.Ollama, llama_index.llms.namel3ss_ollama.Ollama):
        cls("llama3.2").complete("Hello.")
    made = server.requests[before:]
    asked = [record for record in made if record.payload.get("messages") or record.payload.get("prompt")]
    assert [dict(record.payload.get("options") or {}).get("num_ctx") for record in asked] == [8192, None]


def test_models_are_validated_at_construction(server: OllamaServer) -> None:
    def construct(package: Any) -> None:
        package.ChatOllama(model="no-such-model", validate_model_on_init=True)

    for package in (langchain_ollama, langchain_namel3ss_ollama):
        with pytest.raises(ValueError, match="ollama pull no-such-model"):
            construct(package)
    server.refuse()
    try:
        with pytest.raises(ConnectionError):
            construct(langchain_ollama)
        with pytest.raises(ValueError, match=server.url):
            construct(langchain_namel3ss_ollama)
    finally:
        server.accept()


def test_unknown_keywords() -> None:
    langchain_ollama.ChatOllama(model="llama3.2", temprature=0, timeout=1)
    llama_index.llms.ollama.Ollama("llama3.2", temprature=0, top_p=0.5)
    with pytest.raises(TypeError, match="temperature"):
        langchain_namel3ss_ollama.ChatOllama(model="llama3.2", temprature=0)
    with pytest.raises(TypeError, match="temperature"):
        llama_index.llms.namel3ss_ollama.Ollama("llama3.2", temprature=0)


@pytest.mark.parametrize("reasoning", [None, True])
def test_reasoning_of_langchain(reasoning: bool | None, server: OllamaServer) -> None:
    server.reset()
    server.reply("Yes.", thinking="7 x 13 is 91.")
    kept = [
        package.ChatOllama(model="qwen3", reasoning=reasoning).invoke("Is 91 prime?").additional_kwargs
        for package in (langchain_ollama, langchain_namel3ss_ollama)
    ]
    assert ["reasoning_content" in one for one in kept] == [bool(reasoning), True]


def test_what_v1_ignores_in_a_request(server: OllamaServer) -> None:
    openai = pytest.importorskip("openai", reason=WITHOUT_OPENAI)
    server.reset()
    server.reply(tool_calls=[], text="No call.")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="ollama") as client:
        tool = {"type": "function", "function": {"name": "f", "description": "", "parameters": {"type": "object"}}}
        choice = client.chat.completions.create(
            model="llama3.2",
            messages=[{"role": "user", "content": "Hi."}],
            tools=[tool],
            tool_choice="required",
            max_completion_tokens=1,
        ).choices[0]
    assert (choice.message.content, choice.finish_reason) == ("No call.", "stop")
