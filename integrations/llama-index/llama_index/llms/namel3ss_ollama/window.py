"""The context window that LlamaIndex sizes prompts by, as far as it is known, and how much of it an answer may take."""

from __future__ import annotations

import asyncio

from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW, DEFAULT_NUM_OUTPUTS

from namel3ss_ollama import LLMError, OllamaProvider

__all__ = ["Windows", "num_output"]

_PATIENCE = 2.0
"""Seconds that asking for the context window may take after an answer; it is asked for once."""
_SHARE = 8
"""An answer is taken to need a part of the window, one in so many at most, or what LlamaIndex takes by default."""


def num_output(limit: object, window: int) -> int:
    """How many tokens of the window LlamaIndex is to leave for an answer.

    `num_predict` is a bound, seldom a forecast: reserved as it is, one near the window's size leaves no room for a
    prompt, and a smaller one cuts what fits into one prompt into many.

    Args:
        limit: `num_predict`, if it is set; -1 and -2 are no number of tokens.
        window: The context window in tokens.
    """
    wanted = limit if isinstance(limit, int) and limit > 0 else DEFAULT_NUM_OUTPUTS
    return max(1, min(wanted, max(window // _SHARE, DEFAULT_NUM_OUTPUTS), window // 2))


class Windows:
    """The windows that are in force, by model and the `num_ctx` that is sent; LlamaIndex's default until one is known.

    Attributes:
        known: Those that a server told of.
    """

    def __init__(self, known: dict[tuple[str, int | None], int] | None = None) -> None:
        self.known = dict(known or {})

    def get(self, model: str, num_ctx: int | None) -> int:
        """The window of a model, in tokens. Never any I/O."""
        return self.known.get((model, num_ctx), num_ctx or DEFAULT_CONTEXT_WINDOW)

    def wanted(self, model: str, num_ctx: int | None) -> bool:
        """Whether to ask for a model's window; True once a model, and never where `num_ctx` says it."""
        if num_ctx is not None or (model, None) in self.known:
            return False
        self.known[model, None] = DEFAULT_CONTEXT_WINDOW
        return True

    async def learn(self, provider: OllamaProvider, model: str, num_ctx: int | None) -> None:
        """Ask for a model's window.

        Raises:
            LLMError: The server or the model is not there.
        """
        window = await provider.context_window(model, num_ctx=num_ctx)
        if window is None:
            # Such servers load with far less than a model was trained for, and cut longer prompts silently.
            window = await provider.context_window(model, num_ctx=DEFAULT_CONTEXT_WINDOW)
        self.known[model, num_ctx] = window or DEFAULT_CONTEXT_WINDOW

    async def learn_quietly(self, provider: OllamaProvider, model: str) -> None:
        """As `learn`, within seconds; whatever fails, the default holds."""
        try:
            await asyncio.wait_for(self.learn(provider, model, None), _PATIENCE)
        except (LLMError, asyncio.TimeoutError):
            pass  # the answer is there, and LlamaIndex's default window is a safe one
