"""No option of a request crashes the process: tested in a child process, with the real weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[1] / "support" / "option_fuzz.py"


@pytest.mark.embedded
@pytest.mark.usefixtures("weights")
@pytest.mark.timeout(300)
def test_the_process_survives_every_option() -> None:
    environment = {**os.environ, "GGML_NO_BACKTRACE": "1"}
    command = [sys.executable, str(FUZZ), "7", "40"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    *lines, last = done.stdout.splitlines()
    assert (done.returncode, last) == (0, "survived"), f"{last}\n{done.stderr[-2000:]}"
    assert len(lines) == 44
    answers = [line.partition(" -> ")[2] for line in lines]
    assert "ok" in answers
    assert all(answer == "ok" or answer.startswith("refused 400 ") for answer in answers), lines
