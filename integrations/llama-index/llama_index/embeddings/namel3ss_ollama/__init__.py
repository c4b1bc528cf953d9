"""Ollama embeddings for LlamaIndex, on the namel3ss-ollama core."""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("llama-index-llms-namel3ss-ollama")
