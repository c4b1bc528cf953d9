"""A request's options, validated and translated for the engine. Plain functions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from namel3ss_ollama.embedded.refusal import Refused

__all__ = ["LoadOptions", "load_options", "sampling", "seconds"]

DEFAULT_CONTEXT = 4096
_LARGEST_FLOAT = 3.4e38
_LARGEST_INTEGER = 2**31 - 1
_MOST_THREADS = 64
"""More threads than cores are of no use; with far too many, the system refuses them, which aborts the process."""

# The allowed ranges, inclusive. The engine stores numbers in 32 bits; some values outside these abort the process.
_FLOATS: Mapping[str, tuple[float, float]] = {
    "temperature": (0.0, 1000.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "typical_p": (0.0, 1.0),
    "repeat_penalty": (0.01, 100.0),
    "presence_penalty": (-100.0, 100.0),
    "frequency_penalty": (-100.0, 100.0),
    "mirostat_tau": (0.0, 1000.0),
    "mirostat_eta": (0.0, 1000.0),
}
_INTEGERS: Mapping[str, tuple[int, int]] = {
    "num_predict": (-2, _LARGEST_INTEGER),
    "num_keep": (-1, _LARGEST_INTEGER),
    "top_k": (-1, _LARGEST_INTEGER),
    "repeat_last_n": (-1, _LARGEST_INTEGER),
    "mirostat": (0, 2),
}
_LOAD: Mapping[str, tuple[int, int]] = {
    "num_batch": (1, _LARGEST_INTEGER),
    "num_thread": (0, _MOST_THREADS),
    "num_gpu": (-1, _LARGEST_INTEGER),
}
_NAMES = {"num_predict": "n_predict", "num_keep": "n_keep"}
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PIECE = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)", re.ASCII)
_DURATION = re.compile(rf"[-+]?(?:0|(?:{_PIECE.pattern})+)", re.ASCII)
_FOR_EVER = 292 * 365 * 24 * 3600
"""Seconds: the longest duration that Ollama's server supports."""
# Ollama's own defaults, where they differ from the engine's.
_DEFAULTS: Mapping[str, Any] = {
    "temperature": 0.8, "top_k": 40, "top_p": 0.9, "min_p": 0.0, "repeat_last_n": 64, "repeat_penalty": 1.1,
}  # fmt: skip


@dataclass(frozen=True)
class LoadOptions:
    """The options for loading a model; other values reload it.

    Attributes:
        num_ctx: The context window of a request, in tokens.
        num_batch: The number of prompt tokens per batch.
        num_thread: The number of threads; None for one per core.
        num_gpu: The number of layers on a GPU; None for the engine's choice.
    """

    num_ctx: int = DEFAULT_CONTEXT
    num_batch: int = 512
    num_thread: int | None = None
    num_gpu: int | None = None


def load_options(options: Mapping[str, Any], trained: int) -> LoadOptions:
    """The load options of a request.

    Args:
        options: The request's, merged over the model's.
        trained: The context window that the model was trained for, in tokens; 0 if unknown.

    Raises:
        Refused: A value has the wrong type or is out of range.
    """
    bounds = {**_LOAD, "num_ctx": (1, _LARGEST_INTEGER)}
    given = {
        name: _integer(name, options[name], *bound) for name, bound in bounds.items() if options.get(name) is not None
    }
    # A larger window than the model's is reduced to it, as in Ollama: a provider's setting applies to all its models.
    window = min(given.get("num_ctx", DEFAULT_CONTEXT), _widest(trained))
    threads, layers = given.get("num_thread", 0), given.get("num_gpu", -1)
    return LoadOptions(
        window,
        min(given.get("num_batch", 512), window),
        threads if threads > 0 else None,
        layers if layers >= 0 else None,
    )


def _widest(trained: int) -> int:
    return trained or DEFAULT_CONTEXT


def sampling(options: Mapping[str, Any], window: int) -> dict[str, Any]:
    """The fields of a request to the engine.

    Args:
        options: The request's, merged over the model's.
        window: The context window in tokens.

    Raises:
        Refused: A value has the wrong type or is out of range, or the engine does not support the option.
    """
    fields: dict[str, Any] = dict(_DEFAULTS)
    for name, value in options.items():
        if name in _LOAD or name == "num_ctx" or value is None:
            continue
        if name == "stop":
            fields["stop"] = _stops(value)
        elif name in _FLOATS:
            fields[name] = _float(name, value, *_FLOATS[name])
        elif name in _INTEGERS:
            fields[_NAMES.get(name, name)] = _integer(name, value, *_INTEGERS[name])
        elif name == "seed":
            fields[name] = _seed(value)
        else:
            raise Refused(400, f'option "{name}" is not supported by the embedded engine')
    if fields.get("n_predict", 0) <= 0:
        fields["n_predict"] = -1  # up to the end of the window
    # The engine allocates memory for the tokens to look back at, whatever the number.
    back = fields["repeat_last_n"]
    fields["repeat_last_n"] = window if back < 0 else min(back, window)
    return fields


def seconds(keep_alive: object, default: float) -> float | None:
    """`keep_alive` in seconds; None for ever.

    Raises:
        Refused: It is not a duration.
    """
    if keep_alive is None:
        return default
    value: float
    if isinstance(keep_alive, str):
        if _DURATION.fullmatch(keep_alive) is None:
            raise Refused(400, f"time: invalid duration {keep_alive!r}")
        sign = -1 if keep_alive.startswith("-") else 1
        value = sign * sum(float(number) * _UNITS[unit] for number, unit in _PIECE.findall(keep_alive))
    elif isinstance(keep_alive, (int, float)) and not isinstance(keep_alive, bool):
        value = float(keep_alive)
    else:
        raise Refused(400, "keep_alive must be a number of seconds or a duration like 5m")
    return value if 0 <= value < _FOR_EVER else None


def _stops(value: object) -> list[str]:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise Refused(400, 'option "stop" must be of type array')
    return stops


def _float(name: str, value: object, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= _LARGEST_FLOAT:
        raise Refused(400, f'option "{name}" must be of type float32')
    return float(_within(name, value, low, high))


def _integer(name: str, value: object, low: int, high: int) -> int:
    return int(_within(name, _whole(name, value), low, high))


def _seed(value: object) -> int:
    seed = _whole("seed", value)
    return seed % 2**32 if seed >= 0 else -1


def _whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 2**63 or value != int(value):
        raise Refused(400, f'option "{name}" must be of type integer')
    return int(value)


def _within(name: str, value: float, low: float, high: float) -> float:
    if not low <= value <= high:
        raise Refused(400, f'option "{name}" is out of range: it must be from {low:.10g} to {high:.10g}')
    return value
