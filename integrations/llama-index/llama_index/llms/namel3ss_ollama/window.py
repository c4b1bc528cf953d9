"""The context window that is in force, from what a server tells. Plain functions, no I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW

__all__ = ["Window", "window_of"]


@dataclass(frozen=True)
class Window:
    """What is known of a model's context window, in tokens; None for what is not told.

    Attributes:
        running: What the server loaded the model with (/api/ps of newer servers).
        configured: `num_ctx` of the model's parameters.
        trained: The model's own context length.
    """

    running: int | None = None
    configured: int | None = None
    trained: int | None = None

    def in_force(self, num_ctx: int | None) -> int:
        """The window of a request that sends `num_ctx` (None: does not send it).

        Where nothing tells, it is LlamaIndex's default, or the trained length if that is less: servers that don't
        tell load with 2,048 to 4,096 tokens however many the model was trained for, and cut longer prompts silently.
        """
        window = num_ctx or self.running or self.configured or DEFAULT_CONTEXT_WINDOW
        return min(window, self.trained) if self.trained else window


def window_of(model: str, shown: Mapping[str, Any], running: Iterable[Mapping[str, Any]]) -> Window:
    """The window that /api/show and /api/ps tell of a model."""
    info: Mapping[str, Any] = shown.get("model_info") or {}
    trained = info.get(f"{info.get('general.architecture')}.context_length")
    configured = re.search(r"^num_ctx\s+(\d+)\s*$", str(shown.get("parameters") or ""), re.MULTILINE)
    names = {model, f"{model}:latest"}
    loaded = [one.get("context_length") for one in running if {one.get("name"), one.get("model")} & names]
    return Window(
        running=loaded[0] if loaded and isinstance(loaded[0], int) and loaded[0] > 0 else None,
        configured=int(configured[1]) if configured else None,
        trained=trained if isinstance(trained, int) and trained > 0 else None,
    )
