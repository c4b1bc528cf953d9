"""For all tests: the machine's environment variables are hidden, and asserts in shared modules are rewritten."""

from __future__ import annotations

import functools
import logging
import os
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

pytest.register_assert_rewrite("fault_table", "fronts", "recordings", "scenarios")

LIVE = os.environ.get("OLLAMA_BASE_URL")  # read at import: the tests run without it


_context = functools.cache(ssl.create_default_context)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", action="store_true", help="record the cassettes again from OLLAMA_BASE_URL")
    parser.addoption("--sample", type=int, metavar="N", help="run at most N cases of each parametrized test")


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        os.environ.pop("COVERAGE_PROCESS_CONFIG", None)  # it slows down the programs that tests start


@pytest.fixture(autouse=True)
def _no_environment_settings(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("live") is None and not request.config.getoption("--record"):
        for name in ("OLLAMA_HOST", "OLLAMA_HOSTS", "OLLAMA_BASE_URL", "OLLAMA_API_KEY", "OLLAMA_MODEL"):
            monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _no_shared_providers() -> Iterator[None]:
    """Chat models with equal settings share a provider and what it knows of a server; the next test's may differ."""
    yield
    if (module := sys.modules.get("langchain_namel3ss_ollama.connection")) is not None:
        module._shared.cache_clear()


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """For programs that configure logging: Celery's worker changes the root's level, the command adds a handler."""
    loggers = [logging.getLogger(), logging.getLogger("namel3ss_ollama")]
    before = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


@pytest.fixture
def shared_ssl_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of many clients, each of which would load the CA certificates, which takes longer than the test."""
    monkeypatch.setattr(ssl, "create_default_context", _context)


def sampled(items: list[pytest.Item], most: int) -> set[str]:
    """The node ids of at most this many cases of each test, spread evenly over them, the first one included."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    return {
        item.nodeid
        for each in cases.values()
        for item in (each if len(each) <= most else [each[place * len(each) // most] for place in range(most)])
    }


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    most = config.getoption("--sample")
    if most is not None:
        kept = sampled(items, most)
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in kept])
        items[:] = [item for item in items if item.nodeid in kept]
    if os.environ.get("OLLAMA_BASE_URL", "").startswith("embedded:"):
        for item in items:
            if mark := item.get_closest_marker("server_only"):
                item.add_marker(pytest.mark.skip(reason=f"not with the engine in the process: {mark.args[0]}"))


@pytest.fixture(scope="session")
def weights() -> Path:
    """The weights of the small model, fetched once per machine; tests are skipped if they cannot be fetched."""
    from namel3ss_ollama.embedded import Refused
    from namel3ss_ollama.embedded.weights import fetch

    try:
        return fetch("smollm2:135m", lambda *_: False)
    except Refused as refused:
        pytest.skip(f"the weights of smollm2:135m cannot be fetched: {refused}")


@pytest.fixture(scope="session")
def live_server() -> str:
    """A real Ollama at OLLAMA_BASE_URL; without one, the tests that need it are skipped with the reason."""
    from recordings import server_or_skip

    return server_or_skip(LIVE)


@pytest.fixture(scope="session")
def copies(live_server: str, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the real Ollama, with the small copies of its models (see `one_layer.py`)."""
    from one_layer import with_one_layer

    with pytest.MonkeyPatch.context() as environment:
        with_one_layer(live_server, weights, tmp_path_factory.mktemp("store"), environment)
        yield live_server


@pytest.fixture(scope="session")
def sdk() -> tuple[InMemorySpanExporter, InMemoryMetricReader]:
    """OpenTelemetry's SDK with in-memory exporters, which a process can set only once."""
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers, meters = TracerProvider(), MeterProvider([reader])
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(meters)
    # If other providers had been set before, these tests would receive nothing.
    assert (trace.get_tracer_provider(), metrics.get_meter_provider()) == (tracers, meters)
    return exporter, reader
