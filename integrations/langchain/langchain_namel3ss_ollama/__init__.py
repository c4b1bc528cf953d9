"""Ollama for LangChain: chat models, text models and embeddings, on the namel3ss-ollama core.

The classes take the arguments of langchain-ollama's classes of the same names.
"""

from langchain_namel3ss_ollama._version import __version__
from langchain_namel3ss_ollama.chat_models import ChatOllama
from langchain_namel3ss_ollama.embeddings import OllamaEmbeddings
from langchain_namel3ss_ollama.errors import (
    OllamaAuthenticationError,
    OllamaBusyError,
    OllamaConnectionError,
    OllamaContextOverflowError,
    OllamaError,
    OllamaInvalidRequestError,
    OllamaMalformedResponseError,
    OllamaModelNotFoundError,
    OllamaOutputError,
    OllamaPermissionDeniedError,
    OllamaQueueFullError,
    OllamaQuotaError,
    OllamaRateLimitError,
    OllamaServerError,
    OllamaStreamInterruptedError,
    OllamaTimeoutError,
    OllamaToolCallParseError,
)
from langchain_namel3ss_ollama.llms import OllamaLLM
from langchain_namel3ss_ollama.web_tools import web_fetch_tool, web_search_tool

__all__ = [
    "ChatOllama",
    "OllamaAuthenticationError",
    "OllamaBusyError",
    "OllamaConnectionError",
    "OllamaContextOverflowError",
    "OllamaEmbeddings",
    "OllamaError",
    "OllamaInvalidRequestError",
    "OllamaLLM",
    "OllamaMalformedResponseError",
    "OllamaModelNotFoundError",
    "OllamaOutputError",
    "OllamaPermissionDeniedError",
    "OllamaQueueFullError",
    "OllamaQuotaError",
    "OllamaRateLimitError",
    "OllamaServerError",
    "OllamaStreamInterruptedError",
    "OllamaTimeoutError",
    "OllamaToolCallParseError",
    "__version__",
    "web_fetch_tool",
    "web_search_tool",
]
