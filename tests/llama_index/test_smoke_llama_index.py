from importlib.metadata import requires, version

import llama_index.core

import llama_index.embeddings.namel3ss_ollama
import llama_index.llms.namel3ss_ollama
from namel3ss_ollama._version import __version__


def test_it_has_the_version_of_the_core() -> None:
    assert llama_index.llms.namel3ss_ollama.__version__ == __version__
    assert llama_index.embeddings.namel3ss_ollama.__version__ == __version__
    assert version("llama-index-llms-namel3ss-ollama") == __version__


def test_it_requires_that_version_of_the_core() -> None:
    assert f"namel3ss-ollama=={__version__}" in (requires("llama-index-llms-namel3ss-ollama") or [])


def test_other_packages_still_share_the_namespace() -> None:
    # An __init__.py in llama_index/, llama_index/llms/ or llama_index/embeddings/ would hide theirs.
    assert llama_index.core.__version__
    for package in (llama_index, llama_index.llms, llama_index.embeddings):
        assert package.__file__ is None, f"{package.__name__} has an __init__.py"
