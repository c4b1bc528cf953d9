"""docs/schemas.md matches the table of schemas, and the table matches the code."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from schema_table import FULL, ROWS, Row, page

from namel3ss_ollama.testing.schema import minimal

PAGE = Path(__file__).parents[2] / "docs" / "schemas.md"


def test_the_page_is_what_the_table_says() -> None:
    if os.environ.get("NAMEL3SS_WRITE_DOCS"):
        PAGE.write_text(page(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page(), "docs/schemas.md is stale: `make pages` writes it again"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.kind)
def test_rows_that_the_grammar_does_not_enforce_name_the_rest(row: Row) -> None:
    assert bool(row.left) == (row.held != FULL)


SOLVABLE = [row for row in ROWS if row.held == FULL and not isinstance(row.of, dict) and "pattern" not in str(row.sent)]


@pytest.mark.parametrize("row", SOLVABLE, ids=lambda row: row.kind)
def test_a_value_of_the_sent_schema_fits_the_type(row: Row) -> None:
    TypeAdapter(row.of).validate_python(minimal(row.sent), strict=False)
