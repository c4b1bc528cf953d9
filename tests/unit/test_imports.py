"""Importing the core is fast, because dependencies that not every program needs are imported lazily."""

from __future__ import annotations

import subprocess
import sys

LAZY = {
    "aiohttp": "the first request",
    "docstring_parser": "the first tool that is a function",
    "httpx_aiohttp": "the first request",
    "opentelemetry": "the first request",
    "pydantic": "structured output and tools that are functions",
    "tenacity": "the first retry",
    "typer": "the command line",
}


def test_importing_the_core_imports_no_lazy_module() -> None:
    # Ignore modules that were loaded before: packages may be imported when Python starts, as coverage is.
    code = "import sys; before = set(sys.modules); import namel3ss_ollama.api; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert "namel3ss_ollama" in modules
    assert not modules & LAZY.keys()


def test_the_names_of_the_package_are_imported_lazily() -> None:
    code = (
        "import sys, namel3ss_ollama as n; assert 'namel3ss_ollama.api' not in sys.modules\n"
        "assert not hasattr(n, '__path_of_nothing__') and 'namel3ss_ollama.api' not in sys.modules\n"
        "from namel3ss_ollama import *; from namel3ss_ollama import api\n"
        "assert set(api.__all__) <= globals().keys() and set(api.__all__) <= set(dir(n)) and n.__version__\n"
        "assert all(getattr(n, name) is getattr(api, name) for name in api.__all__)\n"
        "try: from namel3ss_ollama import nothing\n"
        "except ImportError as error: print(error.name)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("namel3ss_ollama\n", "")
