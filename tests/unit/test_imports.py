"""Importing the core is quick, because what not everybody needs is imported where it is used."""

from __future__ import annotations

import subprocess
import sys

LATER = {
    "aiohttp": "the first request",
    "docstring_parser": "the first tool that is a function",
    "httpx_aiohttp": "the first request",
    "opentelemetry": "the first request",
    "pydantic": "structured output and tools that are functions",
    "tenacity": "the first retry",
    "typer": "the command line",
}


def test_importing_the_core_imports_nothing_that_can_wait() -> None:
    # What was there before counts for nothing: packages may import themselves when Python starts, as coverage does.
    code = "import sys; before = set(sys.modules); import namel3ss_ollama; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert "namel3ss_ollama" in modules
    assert not modules & LATER.keys()
