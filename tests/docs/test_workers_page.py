"""docs/workers.md: each row names an existing test, or says why there is none."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_row_names_its_test() -> None:
    page = (ROOT / "docs" / "workers.md").read_text("utf-8")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")][2:]
    code = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(rows) > 10
    for worker, *_, test in rows:
        for name, case in re.findall(r"`(test_\w+)(?:\[([^\]]+)\])?`", test):
            assert f"def {name}(" in code, worker
            assert f'"{case}' in code or not case, worker
        assert "`test_" in test or test.startswith(("none: ", "all ")), worker
