"""A model in memory, and which requests make a server load it again: those with other settings of loading.

Read from Ollama's source (server/sched.go: needsReload). Nothing here takes time: a load tells a longer one.
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
    """When it is to be unloaded, seconds since the epoch."""
    window: int
    """Tokens."""
    settings: Mapping[str, object]
    """What it was loaded with."""


def settings_of(payload: Mapping[str, object], window: Window) -> dict[str, object]:
    """The settings of loading that a request asks for, those that it leaves to the server included."""
    options = as_object(payload.get("options"))
    wanted: dict[str, object] = {name: options.get(name) for name in _OPTIONS}
    wanted["num_ctx"] = window.length
    layers = options.get("num_gpu", -1)
    if not (isinstance(layers, (int, float)) and layers < 0):  # -1 is whatever there is
        wanted["num_gpu"] = layers
    if versions.DRAFT.on(window.version):
        wanted["draft_num_predict"] = options.get("draft_num_predict")
    if versions.SHIFT_LOADS.on(window.version):
        wanted["shift"] = payload.get("shift") is not False
    return wanted


def needs_reload(loaded: Mapping[str, object], wanted: Mapping[str, object]) -> bool:
    """Whether a model that was loaded with some settings is loaded again for others."""
    return any(loaded.get(name) != value for name, value in wanted.items())
