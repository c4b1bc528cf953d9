"""The thinking levels of models, as far as a server has listed them. Values, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["ThinkingLevels"]


class ThinkingLevels:
    """The levels of each model, as newer servers list them in /api/show (`{"thinking": {"values": [...]}}`).

    No request is made for them. A server silently uses the model's default for a level that the model lacks; here such
    a level is rejected if the model's levels are known.
    """

    def __init__(self) -> None:
        self._values: dict[str, tuple[bool | str, ...]] = {}

    def learn(self, model: str, shown: Mapping[str, Any]) -> None:
        """Learn from a model's /api/show."""
        thinking = shown.get("thinking")
        values = thinking.get("values") if isinstance(thinking, Mapping) else None
        known = tuple(v for v in values if isinstance(v, (bool, str))) if isinstance(values, list) else ()
        if known:
            self._values[_key(model)] = known
        else:
            self._values.pop(_key(model), None)

    def check(self, model: str, think: object) -> None:
        """Reject a level that the model is known to lack; True and False work for any model.

        Raises:
            ValueError: The model lacks the level; the message lists those that it has.
        """
        known = self._values.get(_key(model))
        if known is not None and isinstance(think, str) and think not in known:
            values = ", ".join(map(repr, known))
            raise ValueError(f"think: {model} has no level {think!r:.40}; the server says that it has {values}")


def _key(model: str) -> str:
    return model.removesuffix(":latest")
