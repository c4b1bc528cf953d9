"""The pytest plugin: a fixture with a separate server for each test that requests it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .server import OllamaServer

__all__ = ["ollama_server"]


@pytest.fixture
def ollama_server() -> Iterator[OllamaServer]:
    """A running `OllamaServer` with the default models, stopped at the end of the test.

    The test fails if one of its predicates or reply functions raised.
    """
    # Imported here: every pytest run loads the plugin if the package is installed.
    from .server import OllamaServer

    with OllamaServer() as server:
        yield server
