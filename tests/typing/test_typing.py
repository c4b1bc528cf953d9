"""mypy in strict mode on typical user programs: it accepts valid code and reports the marked errors."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mypy import api

PROGRAMS = sorted(path for path in Path(__file__).parent.glob("*.py") if not path.name.startswith("test_"))
CACHE = Path(__file__).parents[2] / ".mypy_cache" / "programs"


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_mypy_finds_the_marked_errors_and_no_others(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(program.parent)
    lines = program.read_text(encoding="utf-8").splitlines()
    marked = {
        (number, match[1]) for number, line in enumerate(lines, 1) if (match := re.search(r"# error: (\S+)", line))
    }
    # No configuration file, so that mypy checks the installed package as it does for a user.
    options = ["--config-file=", "--strict", "--no-error-summary", "--cache-dir", str(CACHE)]
    output, stderr, _ = api.run([*options, program.name])
    found = {
        (int(match[1]), match[2])
        for match in re.finditer(rf"^{re.escape(program.name)}:(\d+): error: .*\[([\w-]+)\]$", output, re.MULTILINE)
    }
    assert stderr == ""
    assert found == marked, output
    assert marked
