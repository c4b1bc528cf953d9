"""Messages about a prompt, or prompt and answer, that exceed the context window."""

from __future__ import annotations

from namel3ss_ollama.errors import ContextWindowExceededError
from namel3ss_ollama.guards import Expected

__all__ = ["exceeded", "lost"]


def exceeded(error: ContextWindowExceededError, expected: Expected | None) -> ContextWindowExceededError:
    """The server's refusal, completed by the numbers that it omitted."""
    tokens = error.tokens or (round(expected.tokens.tokens) if expected is not None else None)
    window = error.window or (expected.num_ctx if expected is not None else None)
    return ContextWindowExceededError(
        f"{error.message}{_numbers(tokens, window)}",
        status_code=error.status_code,
        original_error=error,
        partial=error.partial,
        tokens=tokens,
        window=window,
    )


def lost(cut: bool, tokens: int | None, window: int | None) -> str:
    """The message about a prompt that was cut, or a window that was shifted."""
    what = (
        "the prompt was cut to the context window, so the model has not seen all of it"
        if cut
        else "prompt and answer are longer than the context window, so the model forgot the beginning while it answered"
    )
    return f"{what}{_numbers(tokens, window)}; raise num_ctx, or shorten the prompt"


def _numbers(tokens: int | None, window: int | None) -> str:
    known = [f"about {tokens} tokens" if tokens else "", f"a window of {window}" if window else ""]
    return f" ({', '.join(filter(None, known))})" if any(known) else ""
