"""Whether a callback handler listens for tokens: without one, no message per token is built."""

from __future__ import annotations

from typing import Any

from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.tracers.base import AsyncBaseTracer, BaseTracer

__all__ = ["wants_tokens"]

_CLASSES = (BaseCallbackHandler, AsyncCallbackHandler, BaseTracer, AsyncBaseTracer)
_SILENT = {None, *(cls.on_llm_new_token for cls in _CLASSES)}
"""The `on_llm_new_token` of handlers that ignore tokens."""


def wants_tokens(run_manager: Any) -> bool:
    """Whether a handler overrides `on_llm_new_token`.

    Args:
        run_manager: The run manager, or None.
    """
    handlers = run_manager.handlers if run_manager is not None else ()
    return any(not handler.ignore_llm and _method(handler) not in _SILENT for handler in handlers)


def _method(handler: Any) -> Any:
    method = getattr(handler, "on_llm_new_token", None)
    return getattr(method, "__func__", method)
