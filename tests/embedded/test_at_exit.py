"""A program that exits without closing its provider or stream, as most scripts do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.embedded

ASKS = """
from namel3ss_ollama import OllamaProvider

provider = OllamaProvider("smollm2:135m", "embedded://", max_tokens=2)
provider.generate("Hi")
"""
LEAVES_A_STREAM = (
    ASKS
    + """
stream = iter(provider.stream("Hi", max_tokens=200))
print(next(stream).content)
"""
)


@pytest.mark.parametrize("program", [ASKS, LEAVES_A_STREAM], ids=["a provider is open", "a stream is open"])
def test_it_exits_silently(weights: Path, program: str) -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
