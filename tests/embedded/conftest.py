"""Tests do not use the models installed on the machine; those marked `embedded` use the small real one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from fake_binding import Endless, FakeBinding
from gguf_files import EMBEDDING_MODEL, gguf
from ollama_store import Store

from namel3ss_ollama import OllamaProvider, RetryPolicy
from namel3ss_ollama.embedded import EmbeddedTransport, Engine, Refused
from namel3ss_ollama.embedded.engine import shared_engine
from namel3ss_ollama.embedded.weights import fetch


@pytest.fixture(autouse=True)
def _no_models_of_the_machine(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    if request.node.get_closest_marker("embedded") is None:
        monkeypatch.setenv("NAMEL3SS_OLLAMA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def binding(monkeypatch: pytest.MonkeyPatch) -> FakeBinding:
    """Replaces the binding."""
    fake = FakeBinding()
    monkeypatch.setattr("namel3ss_ollama.embedded.engine.start", fake.start)
    return fake


@pytest.fixture
def endless(binding: FakeBinding) -> Endless:
    """An endless answer."""
    return Endless(binding)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Where OLLAMA_MODELS points: "small" for text, with tools and thinking, and "vectors" for embeddings."""
    made = Store(tmp_path / "ollama")
    library = "registry.ollama.ai/library"
    made.add(f"{library}/small/latest", gguf(), template=TEMPLATE, params={"temperature": 0.5, "stop": ["<end>"]})
    made.add(f"{library}/vectors/latest", gguf(EMBEDDING_MODEL))
    made.add(
        f"{library}/plain/latest", gguf(data=b"another"), template="{{ .Prompt }}", license="MIT", system="Be brief."
    )
    return made


TEMPLATE = "{{ json .Tools }}{{ range .Messages }}<{{ .Role }}>{{ .Thinking }}{{ .Content }}{{ end }}"


@pytest.fixture
def engine(binding: FakeBinding) -> Engine:
    """Two slots and a queue of two, without a model."""
    return Engine(slots=2, max_queue=2)


@pytest.fixture
async def client(engine: Engine, store: Store) -> AsyncIterator[httpx.AsyncClient]:
    """A client of that engine."""
    async with httpx.AsyncClient(transport=EmbeddedTransport(engine), base_url="http://engine") as made:
        yield made
    assert not engine._jobs
    assert not engine.running()


@pytest.fixture(scope="session")
def weights() -> Iterator[None]:
    """The small real model: fetched if needed, loaded once for all tests, and unloaded after the last one."""
    try:
        fetch("smollm2:135m", lambda *_: False)
    except Refused as refused:
        pytest.skip(str(refused))
    engine = shared_engine()
    engine.lease()
    yield
    engine.release()
    assert not engine._jobs
    assert not engine._loaded


@pytest.fixture
async def provider(weights: None) -> AsyncIterator[OllamaProvider]:
    """The small real model, with repeatable answers."""
    async with OllamaProvider("smollm2:135m", "embedded://", temperature=0, retry=RetryPolicy.off()) as made:
        yield made
    assert made.stats().running == 0
