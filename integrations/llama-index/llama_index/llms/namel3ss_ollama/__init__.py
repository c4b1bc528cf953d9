"""Ollama LLMs for LlamaIndex, on the namel3ss-ollama core."""

from importlib.metadata import version

from llama_index.llms.namel3ss_ollama.base import Ollama
from llama_index.llms.namel3ss_ollama.structured import StructuredOutputError
from llama_index.llms.namel3ss_ollama.web_tools import web_fetch_tool, web_search_tool

__all__ = ["Ollama", "StructuredOutputError", "__version__", "web_fetch_tool", "web_search_tool"]

__version__ = version("llama-index-llms-namel3ss-ollama")
