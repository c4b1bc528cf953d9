"""Whether anybody listens for tokens: an answer that nobody watches is made without a message a token."""

from __future__ import annotations

from typing import Any

from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.tracers.base import AsyncBaseTracer, BaseTracer

__all__ = ["wants_tokens"]

_CLASSES = (BaseCallbackHandler, AsyncCallbackHandler, BaseTracer, AsyncBaseTracer)
_SILENT = {None, *(cls.on_llm_new_token for cls in _CLASSES)}
"""What a handler that does not care for tokens has as its method."""


def wants_tokens(run_manager: Any) -> bool:
    """Whether a handler has a method for tokens of its own, rather than the one that LangChain's classes come with.

    Args:
        run_manager: The run's, or None.
    """
    handlers = run_manager.handlers if run_manager is not None else ()
    return any(not handler.ignore_llm and _method(handler) not in _SILENT for handler in handlers)


def _method(handler: Any) -> Any:
    method = getattr(handler, "on_llm_new_token", None)
    return getattr(method, "__func__", method)
