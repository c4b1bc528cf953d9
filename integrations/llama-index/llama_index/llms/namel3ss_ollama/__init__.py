"""Ollama LLMs for LlamaIndex, on the namel3ss-ollama core."""

from importlib.metadata import version

from llama_index.llms.namel3ss_ollama.base import Ollama
from llama_index.llms.namel3ss_ollama.structured import StructuredOutputError

__all__ = ["Ollama", "StructuredOutputError", "__version__"]

__version__ = version("llama-index-llms-namel3ss-ollama")
