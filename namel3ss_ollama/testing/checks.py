"""What every endpoint checks of a request, with the real server's answers to what is wrong, and the server's state.

Texts and their order were taken down from a server 0.9.3; where Go's JSON decoder says more than Python's does, the
text is close but not the same.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, cast

from .answers import Answer, error
from .faults import Fault
from .models import Model, Models, canonical
from .record import Record
from .replies import Reply
from .values import as_object
from .windows import Window, window_of

__all__ = [
    "Handler",
    "Refused",
    "Scripted",
    "State",
    "check_options",
    "load",
    "name_of",
    "needs",
    "payload_of",
    "seconds_of",
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
    *("mirostat_tau", "mirostat_eta"),
}
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
    *("repeat_last_n", "mirostat"),
}
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


class Loaded(NamedTuple):
    """A model in memory."""

    until: float
    """When it is to be unloaded, seconds since the epoch."""
    window: int
    """Tokens."""


@dataclass
class State:
    """What a server knows beside its script."""

    models: Models
    version: str = "0.9.3"
    context_length: int | None = None
    """OLLAMA_CONTEXT_LENGTH in tokens; None is the default of that version."""
    tokens_per_second: float | None = None
    loaded: dict[str, Loaded] = field(default_factory=dict[str, "Loaded"])
    blobs: set[str] = field(default_factory=set[str])


class Refused(Exception):
    """A check failed; carries the answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.answer = error(status, message)


@dataclass(frozen=True)
class Scripted:
    """What the test wants of an answer: a reply, and a fault that may change what the model says."""

    reply: Reply | None
    fault: Fault | None


Handler = Callable[[State, Record, Scripted], Answer]


def payload_of(record: Record, kind: str) -> dict[str, object]:
    """The request's object; refused as Go refuses it where it is none or has a field of the wrong type."""
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
    """The model a request names; an empty string where it names none."""
    name = payload.get("model") or payload.get("name") or ""
    return name if isinstance(name, str) else ""


def needs(model: Model, capability: str, name: str) -> None:
    """Refuse what the model can not do."""
    if capability not in model.capabilities:
        raise Refused(400, f"registry.ollama.ai/library/{canonical(name)} does not support {capability}")


def check_options(payload: dict[str, object]) -> None:
    """Refuse options of the wrong type, with a 500 as the real server does."""
    for name, value in as_object(payload.get("options")).items():
        if value is None:
            continue
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if name in FLOATS and not number:
            raise Refused(500, f'option "{name}" must be of type float32')
        if name in INTEGERS and not number:
            raise Refused(500, f'option "{name}" must be of type integer')
        if name == "stop" and not isinstance(value, list):
            raise Refused(500, f'option "{name}" must be of type array')


def seconds_of(keep_alive: object) -> float:
    """A keep_alive in seconds; negative means for ever."""
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


def load(state: State, model: Model, payload: dict[str, object]) -> Window:
    """Take the model as loaded, or unloaded, as `keep_alive` says; gives its context window."""
    window = window_of(payload, model, state.version, state.context_length)
    name = canonical(name_of(payload))
    keep = seconds_of(payload.get("keep_alive"))
    if keep == 0:
        state.loaded.pop(name, None)
    else:
        state.loaded[name] = Loaded(time.time() + (keep if keep > 0 else 1e9), window.length)
    return window
