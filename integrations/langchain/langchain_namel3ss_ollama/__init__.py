"""Ollama chat models and embeddings for LangChain, on the namel3ss-ollama core."""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("langchain-namel3ss-ollama")
