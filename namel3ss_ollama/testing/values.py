"""Access to JSON of unknown shape without a type check at each step."""

from __future__ import annotations

from typing import cast

__all__ = ["as_list", "as_object"]


def as_object(value: object) -> dict[str, object]:
    """The value if it is a JSON object, else an empty one."""
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def as_list(value: object) -> list[object]:
    """The value if it is a JSON array, else an empty one."""
    return cast("list[object]", value) if isinstance(value, list) else []
