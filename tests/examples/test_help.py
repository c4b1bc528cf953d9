"""`--help` of each program explains it and runs nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = sorted(path for path in (ROOT / "examples").glob("*.py") if path.stem != "_common")
PROGRAMS += [ROOT / "notebooks" / "execute.py", ROOT / "tests" / "soak", ROOT / "tests" / "support" / "option_fuzz.py"]


def run(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(path), *arguments], capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_help(path: Path) -> None:
    done = run(path, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ")
    wrong = run(path, "--not-an-option")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "Traceback" not in wrong.stderr


def test_a_notebook_that_does_not_exist() -> None:
    done = run(ROOT / "notebooks" / "execute.py", "06_none")
    assert done.returncode == 2
    assert "there is no notebook 06_none; there are 01_quickstart" in done.stderr
