"""Ollama for LangChain: chat models, text models, embeddings and decision models, on the namel3ss-ollama core.

The classes take the arguments of the langchain-ollama classes of the same names. `OllamaDecisions` is imported lazily
and is not in `__all__`: it needs langchain-core 1.8, the other classes 1.6.
"""

from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from langchain_namel3ss_ollama.decisions import OllamaDecisions as OllamaDecisions

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


def __getattr__(name: str) -> object:
    if name != "OllamaDecisions":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from langchain_namel3ss_ollama.decisions import OllamaDecisions
    except ModuleNotFoundError as error:
        if error.name != "langchain_core.decisions":
            raise
        raise ImportError(
            "OllamaDecisions needs langchain-core 1.8 or newer: pip install -U 'langchain-core>=1.8'"
        ) from error
    return OllamaDecisions
