"""Ollama embeddings for LlamaIndex, on the namel3ss-ollama core."""

from importlib.metadata import version

from llama_index.embeddings.namel3ss_ollama.base import BadInputError, OllamaEmbedding, TooLongInputError

__all__ = ["BadInputError", "OllamaEmbedding", "TooLongInputError", "__version__"]

__version__ = version("llama-index-llms-namel3ss-ollama")
