from importlib.metadata import requires, version

import langchain_namel3ss_ollama
from namel3ss_ollama._version import __version__


def test_it_has_the_version_of_the_core() -> None:
    assert langchain_namel3ss_ollama.__version__ == __version__
    assert version("langchain-namel3ss-ollama") == __version__


def test_it_requires_that_version_of_the_core() -> None:
    assert f"namel3ss-ollama=={__version__}" in (requires("langchain-namel3ss-ollama") or [])
