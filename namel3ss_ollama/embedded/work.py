"""A request in progress, as the endpoints see it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from namel3ss_ollama.embedded.binding import Json
from namel3ss_ollama.embedded.engine import Engine, Job
from namel3ss_ollama.embedded.options import seconds
from namel3ss_ollama.embedded.refusal import Refused
from namel3ss_ollama.embedded.store import Model, find_model

__all__ = ["Handler", "Json", "Work", "nanoseconds", "now"]

_KEEP = 300.0
"""Seconds that a model stays loaded unless a request says otherwise, as in Ollama."""


@dataclass
class Work:
    """A request in progress.

    Attributes:
        engine: The engine.
        job: The request's job, which its caller can cancel.
        request: The request's object.
        emit: Passes an object on.
    """

    engine: Engine
    job: Job
    request: Json
    emit: Callable[[Json], None]
    began: float = field(default_factory=time.monotonic)

    def wanted(self, name: str, kind: type, default: Any) -> Any:
        """A field of the request, validated.

        Raises:
            Refused: It has the wrong type.
        """
        value = self.request.get(name)
        if value is None:
            return default
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise Refused(400, f"{name}: must be of type {kind.__name__}, not {type(value).__name__}")
        return value

    def model(self) -> Model:
        """The requested model.

        Raises:
            Refused: None is named, or there is none of that name.
        """
        name = self.wanted("model", str, "") or self.wanted("name", str, "")
        if not name:
            raise Refused(400, "model is required")
        return find_model(name)

    def options(self, model: Model) -> Json:
        """The effective options: the request's, merged over the model's."""
        return {**model.parameters, **self.wanted("options", dict, {})}

    def keep_alive(self) -> float | None:
        """How long the model stays loaded afterwards, in seconds; None for ever."""
        return seconds(self.request.get("keep_alive"), _KEEP)


Handler = Callable[[Work], None]


def now() -> str:
    """The current time, in the API's format."""
    return datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")


def nanoseconds(value: float) -> int:
    """Seconds in nanoseconds, as the API writes durations."""
    return int(value * 1e9)
