"""The pytest plugin: a fixture with a server of its own for each test that asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .server import OllamaServer

__all__ = ["ollama_server"]


@pytest.fixture
def ollama_server() -> Iterator[OllamaServer]:
    """A running `OllamaServer` with the default models, stopped when the test is over.

    The test fails if a predicate or a reply function it gave the server raised.
    """
    # Imported here: the plugin is loaded by every pytest run in an environment where the package is installed.
    from .server import OllamaServer

    with OllamaServer() as server:
        yield server
