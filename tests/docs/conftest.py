"""Fixtures of the tests of pages."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _logging(restored_logging: None) -> None:
    """Programs of pages may set up logging."""
