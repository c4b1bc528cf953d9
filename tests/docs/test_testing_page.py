"""docs/testing.md: its table of faults is complete, and so are its keywords and outcomes."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

from namel3ss_ollama.testing import FAULTS, Reply
from namel3ss_ollama.testing.record import Outcome

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"
TABLE = re.compile(r"(?<=<!-- faults: `make pages` writes this table -->\n).*?(?=<!-- end of faults -->)", re.DOTALL)


def table() -> str:
    rows = [
        f"| `{name}` | {info.about} | {', '.join(f'`{o}`' for o in info.options)} |" for name, info in FAULTS.items()
    ]
    return "\n".join(["", "| fault | what happens | options |", "| --- | --- | --- |", *rows, "", ""])


def test_the_page_lists_all_faults() -> None:
    page = PAGE.read_text("utf-8")
    made = TABLE.sub(lambda _: table(), page)
    if os.environ.get("NAMEL3SS_WRITE_DOCS"):
        PAGE.write_text(made, encoding="utf-8")
    assert PAGE.read_text("utf-8") == made, "docs/testing.md is stale: `make pages` writes it again"


def test_every_keyword_and_outcome_is_listed() -> None:
    page = PAGE.read_text("utf-8")
    for field in dataclasses.fields(Reply):
        assert field.name == "text" or f"`{field.name}`" in page
    for outcome in Outcome.__args__:
        assert f"| `{outcome}` |" in page
