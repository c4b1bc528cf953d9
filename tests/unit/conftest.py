"""Fixtures of the unit tests: hypothesis' settings and virtual time."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import settings
from virtual_time import run_in_virtual_time

# The same examples in every run, however slow the machine is.
settings.register_profile("unit", deadline=None, derandomize=True, database=None, max_examples=80)
settings.load_profile("unit")


@pytest.fixture(scope="session")
def virtual() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Runs a coroutine in virtual time and returns its result."""
    return run_in_virtual_time
