"""The checks that all endpoints share, with the real server's error texts, and the server's state.

Texts and their order were recorded from a server 0.9.3; where Go's JSON decoder reports more than Python's, the text is
close but not identical.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, cast

from . import versions
from .answers import Answer, error
from .faults import Fault
from .loading import Loaded, needs_reload, settings_of
from .models import Model, Models, canonical
from .record import Record
from .replies import Reply
from .values import as_object
from .windows import Window, window_of

__all__ = [
    "Cloud",
    "Handler",
    "Loading",
    "Refused",
    "Scripted",
    "State",
    "check_options",
    "check_think",
    "load",
    "name_of",
    "needs",
    "payload_of",
    "seconds_of",
    "thinks",
]

FLOATS = {
    *(
        "temperature",
        "top_p",
        "min_p",
        "typical_p",
        "repeat_penalty",
        "presence_penalty",
        "frequency_penalty",
    ),
}
BOOLEANS = {"use_mmap"}
INTEGERS = {
    *(
        "num_predict",
        "num_ctx",
        "num_keep",
        "num_batch",
        "num_gpu",
        "num_thread",
        "main_gpu",
        "seed",
        "top_k",
    ),
    "repeat_last_n",
}
_BY_VERSION = {
    versions.NUMA: ("numa",),
    versions.TFS_Z: ("tfs_z",),
    versions.PENALIZE_NEWLINE: ("penalize_newline",),
    versions.SAMPLERS: ("mirostat", "mirostat_tau", "mirostat_eta"),
    versions.MEMORY: ("low_vram", "use_mlock", "vocab_only"),
    versions.DRAFT: ("draft_num_predict",),
}
"""Options that only some versions have."""
_LEVELS = ("high", "medium", "low", "max")
Cloud = Literal["signed_in", "signed_out", "disabled"]
"""A server's access to Ollama's cloud: an account, none, or disabled by a setting."""
SHAPES: dict[str, tuple[tuple[type, ...], str]] = {
    "model": ((str,), "string"),
    "prompt": ((str,), "string"),
    "system": ((str,), "string"),
    "suffix": ((str,), "string"),
    "messages": ((list,), "[]api.Message"),
    "tools": ((list,), "api.Tools"),
    "options": ((dict,), "map[string]interface {}"),
    "stream": ((bool,), "bool"),
}


class Loading(NamedTuple):
    """The result of loading a model for a request."""

    window: Window
    again: bool
    """Whether it was loaded, but had to be reloaded with other settings."""


@dataclass
class State:
    """The server's state other than its script."""

    models: Models
    version: str = "0.9.3"
    context_length: int | None = None
    """OLLAMA_CONTEXT_LENGTH in tokens; None is the version's default."""
    tokens_per_second: float | None = None
    cloud: Cloud = "signed_in"
    fields: str = "0.9.3"
    """The version whose levels of `think` and whose `logprobs` a request may use."""
    loaded: dict[str, Loaded] = field(default_factory=dict[str, "Loaded"])
    blobs: set[str] = field(default_factory=set[str])
    last_prompts: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """The tokens in each model's cache."""


class Refused(Exception):
    """A check failed; carries the answer."""

    def __init__(self, status: int, message: str, **more: str) -> None:
        super().__init__(message)
        self.answer = error(status, message, **more)


@dataclass(frozen=True)
class Scripted:
    """The scripted part of an answer: a reply, and a fault that may change what the model says."""

    reply: Reply | None
    fault: Fault | None


Handler = Callable[[State, Record, Scripted], Answer]


def payload_of(record: Record, kind: str) -> dict[str, object]:
    """The request's object; refused as by Go if it is not an object or a field has the wrong type."""
    if not record.body:
        raise Refused(400, "missing request body")
    try:
        value: object = json.loads(record.body)
    except ValueError as problem:
        raise Refused(400, _syntax(record.body, problem)) from None
    if not isinstance(value, dict):
        raise Refused(400, f"json: cannot unmarshal {_go(value)} into Go value of type api.{kind}")
    payload = cast("dict[str, object]", value)
    for name, (types, wanted) in SHAPES.items():
        given = payload.get(name)
        if given is not None and not isinstance(given, types):
            where = f"{kind}.{name}"
            raise Refused(400, f"json: cannot unmarshal {_go(given)} into Go struct field {where} of type {wanted}")
    return payload


def _syntax(body: bytes, problem: ValueError) -> str:
    if not isinstance(problem, json.JSONDecodeError):
        return "invalid character '\\u00ff' looking for beginning of value"
    if problem.pos >= len(problem.doc.rstrip()):
        return "unexpected EOF"
    wanted = "object key string" if "property name" in problem.msg else "value"
    return f"invalid character {problem.doc[problem.pos]!r} looking for beginning of {wanted}"


def _go(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float)):
        return "number"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"


def name_of(payload: dict[str, object]) -> str:
    """The model that a request names; an empty string if none."""
    name = payload.get("model") or payload.get("name") or ""
    return name if isinstance(name, str) else ""


def needs(model: Model, capability: str, name: str) -> None:
    """Refuse a capability that the model lacks."""
    if capability not in model.capabilities:
        raise Refused(400, f"registry.ollama.ai/library/{canonical(name)} does not support {capability}")


def check_think(payload: dict[str, object], kind: str, version: str) -> None:
    """Refuse a `think` that a server of this version cannot read."""
    wanted = payload.get("think")
    if wanted is None or isinstance(wanted, bool):
        return
    if not versions.THINK_LEVELS.on(version):
        raise Refused(400, f"json: cannot unmarshal {_go(wanted)} into Go struct field {kind}.think of type bool")
    levels = _LEVELS if versions.THINK_MAX.on(version) else _LEVELS[:-1]
    known = ", ".join([*(f'"{one}"' for one in levels), "true", "or false"])
    if not isinstance(wanted, str):
        raise Refused(400, f"think must be a boolean or string ({known})")
    if wanted not in levels and not versions.THINK_ANY_LEVEL.on(version):
        raise Refused(400, f'invalid think value: "{wanted}" (must be {known})')


def thinks(payload: dict[str, object], model: Model, name: str, version: str) -> bool:
    """Whether a model thinks for this request. Refuses a request to think if it cannot."""
    wanted = payload.get("think")
    if "thinking" not in model.capabilities:
        if wanted and versions.NAMES_THINKING_MODEL.on(version):
            raise Refused(400, f'"{name}" does not support thinking')
        if wanted:
            needs(model, "thinking", name)
        return False
    if isinstance(wanted, bool):
        return wanted
    if wanted is None and not versions.THINKS_BY_DEFAULT.on(version):
        return False
    return bool(wanted if wanted in model.think_values else model.think_default)


def check_options(payload: dict[str, object], version: str) -> None:
    """Refuse options of the wrong type with a 500, like the real server; unknown options are ignored."""
    known = {name for feature, names in _BY_VERSION.items() if feature.on(version) for name in names}
    whole = INTEGERS | ({"draft_num_predict", "mirostat"} & known)
    fractional = FLOATS | ({"mirostat_tau", "mirostat_eta", "tfs_z"} & known)
    switches = BOOLEANS | ({"numa", "penalize_newline", "low_vram", "use_mlock", "vocab_only"} & known)
    for name, value in as_object(payload.get("options")).items():
        if value is None:
            continue
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if name in fractional and not number:
            raise Refused(500, f'option "{name}" must be of type float32')
        if name in whole and not number:
            raise Refused(500, f'option "{name}" must be of type integer')
        if name in switches and not isinstance(value, bool):
            raise Refused(500, f'option "{name}" must be of type boolean')
        if name == "stop" and not isinstance(value, list):
            raise Refused(500, f'option "{name}" must be of type array')


def seconds_of(keep_alive: object) -> float:
    """A keep_alive in seconds; negative means forever."""
    if keep_alive is None:
        return 300.0
    if isinstance(keep_alive, (int, float)):
        return float(keep_alive)
    if isinstance(keep_alive, str):
        units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
        if keep_alive in ("0", "-0"):
            return 0.0
        if re.fullmatch(r"-?(\d+(\.\d+)?(ms|h|m|s))+", keep_alive):
            total = sum(float(n) * units[u] for n, _, u in re.findall(r"(\d+(\.\d+)?)(ms|h|m|s)", keep_alive))
            return -total if keep_alive.startswith("-") else total
    raise Refused(400, f'time: invalid duration "{keep_alive}"')


def load(state: State, model: Model, payload: dict[str, object]) -> Loading:
    """Mark the model as loaded or unloaded, according to `keep_alive`."""
    window = window_of(payload, model, state.version, state.context_length)
    name = canonical(name_of(payload))
    keep = seconds_of(payload.get("keep_alive"))
    before = state.loaded.get(name)
    settings = settings_of(payload, window)
    in_memory = before is not None and before.until >= time.time()
    # server/sched.go compares no options of MLX's models
    again = before is not None and in_memory and model.format == "gguf" and needs_reload(before.settings, settings)
    if again:
        state.last_prompts.pop(model.name, None)
    elif before is not None and in_memory:
        settings = {**settings, **before.settings}
    if keep == 0 or (model.cloud and versions.CLOUD.on(state.version)):
        state.loaded.pop(name, None)
        state.last_prompts.pop(model.name, None)
    else:
        state.loaded[name] = Loaded(time.time() + (keep if keep > 0 else 1e9), window.length, settings)
    return Loading(window, again)
