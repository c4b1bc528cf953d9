"""For all tests: no environment of the machine's reaches them, and shared modules get pytest's assertions."""

from __future__ import annotations

import functools
import logging
import os
import ssl
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

LIVE = os.environ.get("OLLAMA_BASE_URL")  # read now: no test sees the environment


_context = functools.cache(ssl.create_default_context)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", action="store_true", help="record the cassettes anew from OLLAMA_BASE_URL")


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        os.environ.pop("COVERAGE_PROCESS_CONFIG", None)  # the programs that tests start take longer so


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("live") is None and not request.config.getoption("--record"):
        for name in ("OLLAMA_HOST", "OLLAMA_HOSTS", "OLLAMA_BASE_URL", "OLLAMA_API_KEY", "OLLAMA_MODEL"):
            monkeypatch.delenv(name, raising=False)


@pytest.fixture
def logging_as_it_was() -> Iterator[None]:
    """For programs that set up logging: Celery's worker raises the root's level, the command adds a handler."""
    loggers = [logging.getLogger(), logging.getLogger("namel3ss_ollama")]
    before = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


@pytest.fixture
def certificates_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of clients that each read the certificates of all authorities, which takes longer than the test."""
    monkeypatch.setattr(ssl, "create_default_context", _context)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("OLLAMA_BASE_URL", "").startswith("embedded:"):
        for item in items:
            if mark := item.get_closest_marker("server_only"):
                item.add_marker(pytest.mark.skip(reason=f"not with the engine in the process: {mark.args[0]}"))


@pytest.fixture(scope="session")
def weights() -> Path:
    """The weights of the small model, fetched once a machine; what needs them is skipped where they cannot be had."""
    from namel3ss_ollama.embedded import Refused
    from namel3ss_ollama.embedded.weights import fetch

    try:
        return fetch("smollm2:135m", lambda *_: False)
    except Refused as refused:
        pytest.skip(f"the weights of smollm2:135m cannot be fetched: {refused}")


@pytest.fixture(scope="session")
def live_server() -> str:
    """A real Ollama at OLLAMA_BASE_URL; without one the tests that want it are skipped, with the reason."""
    from recordings import server_or_skip

    return server_or_skip(LIVE)


@pytest.fixture(scope="session")
def copies(live_server: str, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the real Ollama, which has the small copies of its models (`one_layer.py` says what for)."""
    from one_layer import with_one_layer

    with pytest.MonkeyPatch.context() as environment:
        with_one_layer(live_server, weights, tmp_path_factory.mktemp("store"), environment)
        yield live_server


@pytest.fixture(scope="session")
def sdk() -> tuple[InMemorySpanExporter, InMemoryMetricReader]:
    """An application that watches. OpenTelemetry takes its providers once a process."""
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers, meters = TracerProvider(), MeterProvider([reader])
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(meters)
    # Where somebody was first, these tests would see nothing.
    assert (trace.get_tracer_provider(), metrics.get_meter_provider()) == (tracers, meters)
    return exporter, reader
