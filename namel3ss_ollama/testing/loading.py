"""A loaded model, and which requests make a server reload it: those with other load settings.

Read from Ollama's source (server/sched.go: needsReload). Nothing here takes time: a load only reports a longer
duration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from . import versions
from .values import as_object
from .windows import Window

__all__ = ["Loaded", "needs_reload", "settings_of"]

_OPTIONS = ("num_batch", "main_gpu", "use_mmap", "num_thread")  # api/types.go: Runner


class Loaded(NamedTuple):
    """A model in memory."""

    until: float
    """When it expires, seconds since the epoch."""
    window: int
    """Tokens."""
    settings: Mapping[str, object]
    """The settings that it was loaded with."""


def settings_of(payload: Mapping[str, object], window: Window) -> dict[str, object]:
    """The load settings of a request, including the server's defaults."""
    options = as_object(payload.get("options"))
    wanted: dict[str, object] = {name: options.get(name) for name in _OPTIONS}
    wanted["num_ctx"] = window.length
    layers = options.get("num_gpu", -1)
    if not (isinstance(layers, (int, float)) and layers < 0):  # -1 means any number
        wanted["num_gpu"] = layers
    if versions.DRAFT.on(window.version):
        wanted["draft_num_predict"] = options.get("draft_num_predict")
    if versions.SHIFT_LOADS.on(window.version):
        wanted["shift"] = payload.get("shift") is not False
    return wanted


def needs_reload(loaded: Mapping[str, object], wanted: Mapping[str, object]) -> bool:
    """Whether a model loaded with some settings is reloaded for others."""
    return any(loaded.get(name) != value for name, value in wanted.items())
