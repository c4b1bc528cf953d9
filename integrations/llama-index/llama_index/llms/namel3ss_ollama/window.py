"""The context window that LlamaIndex sizes prompts by, as far as it is known, and the share of it for an answer."""

from __future__ import annotations

import asyncio

from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW, DEFAULT_NUM_OUTPUTS

from namel3ss_ollama import LLMError, OllamaProvider

__all__ = ["Windows", "num_output"]

_PATIENCE = 2.0
"""The timeout in seconds for requesting the context window after an answer, which happens once."""
_SHARE = 8
"""An answer is assumed to need at most the window divided by this, or LlamaIndex's default."""


def num_output(limit: object, window: int) -> int:
    """How many tokens of the window LlamaIndex reserves for an answer.

    `num_predict` is a limit, rarely an estimate. Reserved in full, one near the window's size would leave no room for a
    prompt, and a smaller one would split what fits into one prompt.

    Args:
        limit: `num_predict`, if it is set; -1 and -2 are not numbers of tokens.
        window: The context window in tokens.
    """
    wanted = limit if isinstance(limit, int) and limit > 0 else DEFAULT_NUM_OUTPUTS
    return max(1, min(wanted, max(window // _SHARE, DEFAULT_NUM_OUTPUTS), window // 2))


class Windows:
    """The context windows in effect, by model and the `num_ctx` sent; LlamaIndex's default until one is known.

    Attributes:
        known: The windows that a server reported.
    """

    def __init__(self, known: dict[tuple[str, int | None], int] | None = None) -> None:
        self.known = dict(known or {})

    def get(self, model: str, num_ctx: int | None) -> int:
        """The window of a model, in tokens, without any I/O."""
        return self.known.get((model, num_ctx), num_ctx or DEFAULT_CONTEXT_WINDOW)

    def wanted(self, model: str, num_ctx: int | None) -> bool:
        """Whether to ask for a model's window: True once per model, and never if `num_ctx` sets it."""
        if num_ctx is not None or (model, None) in self.known:
            return False
        self.known[model, None] = DEFAULT_CONTEXT_WINDOW
        return True

    async def learn(self, provider: OllamaProvider, model: str, num_ctx: int | None) -> None:
        """Ask for a model's window.

        Raises:
            LLMError: The server cannot be reached, or does not have the model.
        """
        window = await provider.context_window(model, num_ctx=num_ctx)
        if window is None:
            # Such servers load a model with far less than it was trained for, and truncate longer prompts silently.
            window = await provider.context_window(model, num_ctx=DEFAULT_CONTEXT_WINDOW)
        self.known[model, num_ctx] = window or DEFAULT_CONTEXT_WINDOW

    async def learn_quietly(self, provider: OllamaProvider, model: str) -> None:
        """Like `learn`, with a timeout; on failure the default stays."""
        try:
            await asyncio.wait_for(self.learn(provider, model, None), _PATIENCE)
        except (LLMError, asyncio.TimeoutError):
            pass  # the answer has been received, and LlamaIndex's default window is a safe one
