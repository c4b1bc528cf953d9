"""Settings: deadlines, retries, and the options of a request. Values and pure functions, no I/O.

A runtime option (temperature, num_ctx, ...) is a keyword of the provider and of every call; the call's value overrides
the provider's, and None resets it. `options={...}` passes options without a keyword, and `extra_body={...}` request
fields without one. Options that are not set are not sent, so that the model's own defaults (its Modelfile) apply.
Invalid values fail here, before any request, with an error that names the argument.
"""

from __future__ import annotations

import difflib
import enum
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from typing_extensions import TypedDict

__all__ = [
    "LOAD_OPTIONS",
    "NOT_GIVEN",
    "RUNTIME_OPTIONS",
    "BatchOptions",
    "CallOptions",
    "ChatOptions",
    "EmbedOptions",
    "GenerateOptions",
    "NotGiven",
    "RetryPolicy",
    "RuntimeOptions",
    "StreamConfig",
    "check_positive",
    "merge_extra_body",
    "merge_options",
    "read_keep_alive",
    "reject_unknown",
]

Truncation = Literal["warn", "error", "ignore"]
EmbedTruncation = Literal["warn", "error", "ignore", "split"]


class NotGiven(enum.Enum):
    """The type of `NOT_GIVEN`, the default of arguments for which None is a meaningful value."""

    NOT_GIVEN = "not given"

    def __repr__(self) -> str:
        return "NOT_GIVEN"


NOT_GIVEN = NotGiven.NOT_GIVEN


class RuntimeOptions(TypedDict, total=False):
    """The API's runtime options that are keywords here; `max_tokens` is an alias of `num_predict`."""

    max_tokens: int | None
    num_predict: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float | None
    tfs_z: float | None
    repeat_last_n: int | None
    repeat_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    penalize_newline: bool | None
    mirostat: int | None
    mirostat_eta: float | None
    mirostat_tau: float | None
    seed: int | None
    stop: str | Sequence[str] | None
    num_keep: int | None
    num_ctx: int | None
    num_batch: int | None
    num_gpu: int | None
    main_gpu: int | None
    num_thread: int | None
    numa: bool | None
    low_vram: bool | None
    use_mmap: bool | None
    use_mlock: bool | None
    vocab_only: bool | None
    draft_num_predict: int | None


class CallOptions(RuntimeOptions, total=False):
    """Keywords of calls to either endpoint, and of the provider as defaults."""

    options: Mapping[str, Any] | None
    extra_body: Mapping[str, Any] | None
    format: Any
    think: bool | str | None
    logprobs: bool | None
    top_logprobs: int | None
    keep_alive: str | float | None
    shift: bool | None
    truncate: bool | None


class ChatOptions(CallOptions, total=False):
    """Keywords of `achat` and `stream_chat`."""

    model: str | None
    headers: Mapping[str, str] | None
    tools: Sequence[Any] | None
    tool_choice: str | Mapping[str, Any] | None


class GenerateOptions(CallOptions, total=False):
    """Keywords of `agenerate` and `stream_generate`."""

    model: str | None
    headers: Mapping[str, str] | None
    system: str | None
    images: Sequence[Any] | None
    audio: Sequence[Any] | None
    suffix: str | None
    template: str | None
    raw: bool | None
    context: Sequence[int] | None


class BatchOptions(GenerateOptions, total=False):
    """Keywords of `agenerate_batch`, applied to every prompt: those of `agenerate` and of `achat`."""

    # Repeated from ChatOptions: type checkers refuse to merge TypedDicts that share a key.
    tools: Sequence[Any] | None
    tool_choice: str | Mapping[str, Any] | None
    stream_internally: bool | None
    stream: bool | None
    timeout: float | NotGiven | None
    stream_config: StreamConfig | None
    on_truncation: Truncation | None


class EmbedOptions(TypedDict, total=False):
    """Keywords of `embed_batch`, applied to every text: those of `embed`."""

    model: str | None
    truncate: bool | None
    on_truncation: EmbedTruncation | None
    dimensions: int | None
    keep_alive: str | float | None
    options: Mapping[str, Any] | None
    extra_body: Mapping[str, Any] | None
    timeout: float | None


RUNTIME_OPTIONS: frozenset[str] = frozenset(RuntimeOptions.__annotations__)
REQUEST_FIELDS: frozenset[str] = frozenset(CallOptions.__annotations__) - RUNTIME_OPTIONS - {"options", "extra_body"}
LOAD_OPTIONS: frozenset[str] = frozenset(
    {"num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "numa", "low_vram", "use_mmap", "use_mlock",
     "vocab_only", "draft_num_predict"}
)  # fmt: skip
"""Load options: a server reloads the model when one of them changes between requests."""

_INTEGERS = frozenset(
    {"num_predict", "top_k", "repeat_last_n", "mirostat", "seed", "num_keep", "num_ctx", "num_batch", "num_gpu",
     "main_gpu", "num_thread", "draft_num_predict"}
)  # fmt: skip
_BOOLEANS = frozenset({"penalize_newline", "numa", "low_vram", "use_mmap", "use_mlock", "vocab_only"})
_MINIMUM = {
    "num_ctx": 1, "num_batch": 1, "num_thread": 0, "top_k": 0, "repeat_last_n": -1, "num_gpu": -1, "num_keep": -1,
    "main_gpu": 0, "mirostat": 0, "temperature": 0, "top_p": 0, "min_p": 0, "typical_p": 0, "mirostat_eta": 0,
    "mirostat_tau": 0, "tfs_z": 0, "repeat_penalty": 0, "draft_num_predict": 0,
}  # fmt: skip
_MAXIMUM = {"top_p": 1, "min_p": 1, "mirostat": 2}
_PASS_ON = "options={...} passes on runtime options without a keyword, extra_body={...} other fields of the request"
_OTHER_NAMES = {"stream": "stream_internally, or call a method that streams"}
_DIGITS = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)"
_NUMBER = re.compile(rf"[-+]?{_DIGITS}")
_DURATION = re.compile(rf"[-+]?(?:{_DIGITS}(?:ns|us|µs|ms|s|m|h))+")
"""A duration in Go's syntax, which servers parse."""


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """The deadlines and limits of a stream. Times are in seconds; None disables a deadline.

    Attributes:
        stream_timeout: The limit for the complete stream, including the time the caller spends on chunks. Off by
            default.
        chunk_timeout: The limit for the wait for each chunk after the first.
        first_chunk_timeout: The limit for the wait for the first chunk, which includes loading the model.
        connect_timeout: The limit for opening the connection.
        max_chunks: Ends the stream, without an error, after this many chunks. Off by default.
        max_line_bytes: The maximum length of a line; a longer one is an error, which bounds memory.
        tool_call_timeout: In a request with `tools`, the limit for the wait for any chunk, if longer than
            `first_chunk_timeout` or `chunk_timeout`: a server sends nothing while the model writes a call.
    """

    stream_timeout: float | None = None
    chunk_timeout: float | None = 60.0
    first_chunk_timeout: float | None = 300.0
    connect_timeout: float | None = 10.0
    max_chunks: int | None = None
    max_line_bytes: int = 16 * 1024 * 1024
    tool_call_timeout: float | None = 600.0

    def __post_init__(self) -> None:
        for name in (
            "stream_timeout",
            "chunk_timeout",
            "first_chunk_timeout",
            "tool_call_timeout",
            "connect_timeout",
        ):
            check_positive(name, getattr(self, name))
        check_positive("max_chunks", self.max_chunks, integer=True)
        check_positive("max_line_bytes", self.max_line_bytes, integer=True, optional=False)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When and how often a failed request is sent again. Times are in seconds.

    By default there are two waits of 2.25 to 4.5 s in total: a server that restarts within two seconds is not noticed,
    and one that is down is reported soon.

    Attributes:
        attempts: The number of attempts, including the first; 1 disables retries.
        wait_initial: The wait before the first retry is a random time from half of this to this; it doubles each time.
        wait_max: The maximum of that wait.
        retry_after_max: The longest `Retry-After` to wait for; a longer one fails at once.
        deadline: No retry starts later than this after the first attempt; None for no limit.
        budget: Retries that each request adds to the budget shared by all requests of the provider: 0.2 lets retries
            add a fifth to the load of a server that keeps failing. None for no limit.
        budget_reserve: The initial budget: enough for the retries of ten requests.
        call_retries: How many of the retries may follow a tool call that the server could not parse
            (`ToolCallParseError`), within the other limits. They do not wait, since the model writes another call; a
            call that keeps failing needs other tools or another model.
    """

    attempts: int = 3
    wait_initial: float = 1.5
    wait_max: float = 10.0
    retry_after_max: float = 60.0
    deadline: float | None = None
    budget: float | None = 0.2
    budget_reserve: int = 20
    call_retries: int = 1

    def __post_init__(self) -> None:
        check_positive("attempts", self.attempts, integer=True, optional=False)
        for name in ("wait_initial", "wait_max", "retry_after_max"):
            check_positive(name, getattr(self, name), zero=True, optional=False)
        check_positive("deadline", self.deadline)
        check_positive("budget", self.budget, zero=True)
        for name in ("budget_reserve", "call_retries"):
            check_positive(name, getattr(self, name), integer=True, zero=True, optional=False)

    @classmethod
    def off(cls) -> RetryPolicy:
        """A policy with a single attempt."""
        return cls(attempts=1)


def check_positive(
    name: str, value: object, *, integer: bool = False, zero: bool = False, optional: bool = True
) -> None:
    """Reject a limit that is not a positive, finite number; None is accepted if it is `optional`.

    Raises:
        TypeError: It is not a number, or not an integer where one is required.
        ValueError: It is negative, zero (unless `zero`), infinite or NaN.
    """
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int if integer else (int, float)):
        raise TypeError(f"{name}: expected {'an integer' if integer else 'a number'}, not {value!r}")
    if not _is_finite(value) or value < 0 or (value == 0 and not zero):
        raise ValueError(f"{name}: must be {'zero or more' if zero else 'above zero'}, not {value!r}")


def reject_unknown(given: Iterable[str], known: Iterable[str], where: str, otherwise: str = _PASS_ON) -> None:
    """Reject unknown keywords.

    Raises:
        TypeError: A keyword is unknown; the message names it and the closest known one.
    """
    names = sorted(known)
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else otherwise
            raise TypeError(f"{where} got an unexpected keyword argument {name!r}; {hint}")


def merge_options(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Merge layers of keywords into the `options` object of a request; later layers override, and None is not sent.

    In each layer, keywords of `RuntimeOptions` and the contents of `options` are merged; `max_tokens` is sent as
    `num_predict`.

    Raises:
        TypeError: A value has the wrong type, or one layer gives the same option twice.
        ValueError: A value is out of range.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        merged.update(_layer_options(layer))
    return merged


def merge_extra_body(*layers: object, keywords: Collection[str]) -> dict[str, Any]:
    """Merge layers of request fields without a keyword; later layers override, and None is not sent.

    Args:
        *layers: Mappings, or None.
        keywords: The names that are keywords or arguments of the call, or set by it.

    Raises:
        TypeError: A layer is not a mapping, or a name is not a text.
        ValueError: A field has a keyword of its own.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        if layer is None:
            continue
        if not isinstance(layer, Mapping):
            raise TypeError(f"extra_body: expected a mapping of fields, not {type(layer).__name__}")
        for name, value in layer.items():
            if not isinstance(name, str):
                raise TypeError(f"extra_body: expected names of fields, not {name!r:.40}")
            if name in keywords:
                own = _OTHER_NAMES.get(name, name)
                raise ValueError(f"extra_body: {name!r} has an argument of its own; give it as {own}")
            merged[name] = value
    return {name: value for name, value in merged.items() if value is not None}


def _layer_options(layer: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in layer.items():
        if value is None or name not in RUNTIME_OPTIONS:
            continue
        sent = "num_predict" if name == "max_tokens" else name
        if sent in found:
            raise TypeError("max_tokens and num_predict are the same option: give one of them")
        found[sent] = _checked(name, value)
    extra = layer.get("options")
    if extra is None:
        return found
    if not isinstance(extra, Mapping):
        raise TypeError(f"options: expected a mapping, not {type(extra).__name__}")
    for name, value in extra.items():
        sent = "num_predict" if name == "max_tokens" else name
        if sent in found:
            raise TypeError(f"{name}: given as a keyword and in options; give it once")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name}: must be finite, not {value!r}")  # JSON has no such number
        if value is not None:
            found[sent] = value
    return found


def _checked(name: str, value: Any) -> Any:
    if name in {"max_tokens", "num_predict"}:
        return _checked_limit(name, value)
    if name == "stop":
        return _checked_stop(value)
    if name in _BOOLEANS:
        if not isinstance(value, bool):
            raise TypeError(f"{name}: expected True or False, not {value!r}")
        return value
    integer = name in _INTEGERS
    if isinstance(value, bool) or not isinstance(value, int if integer else (int, float)):
        raise TypeError(f"{name}: expected {'an integer' if integer else 'a number'}, not {value!r}")
    if not _is_finite(value):
        raise ValueError(f"{name}: must be finite, not {value!r}")
    low, high = _MINIMUM.get(name), _MAXIMUM.get(name)
    if low is not None and value < low:
        raise ValueError(f"{name}: must be {low} or more, not {value!r}")
    if high is not None and value > high:
        raise ValueError(f"{name}: must be {high} or less, not {value!r}")
    return value


def _is_finite(value: float) -> bool:
    return isinstance(value, int) or math.isfinite(value)  # an integer can be too large for a float


def _checked_limit(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected an integer, not {value!r}")
    if value < -2 or value == 0:  # -1: no limit, -2: until the context is full; a server treats 0 as no limit
        raise ValueError(f"{name}: must be above zero (or -1: no limit, -2: fill the context), not {value!r}")
    return value


def _checked_stop(value: Any) -> list[str]:
    if not isinstance(value, Iterable):
        raise TypeError(f"stop: expected a text or several, not {value!r}")
    stops = [value] if isinstance(value, str) else list(value)
    for stop in stops:
        if not isinstance(stop, str) or not stop:
            raise ValueError(f"stop: expected non-empty strings, not {stop!r}")
    return stops


def check_think(value: object) -> None:
    """Reject a `think` that is neither a boolean nor a level; the valid levels depend on the model.

    Raises:
        ValueError: It is something else, or an empty text.
    """
    if not isinstance(value, bool) and not (isinstance(value, str) and value.strip()):
        raise ValueError(f"think: expected True, False or a level of the model's, such as 'high', not {value!r}")


def read_keep_alive(value: object) -> str | float:
    """A `keep_alive` in the form that the API accepts: a duration, or seconds as a number, also if given as text.

    Raises:
        TypeError: It is neither text nor a number.
        ValueError: It is a text that is not a duration, or a number that is not finite.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise TypeError(f"keep_alive: expected '5m' or seconds, not {value!r}")
    if isinstance(value, str):
        text = value.strip()
        if _NUMBER.fullmatch(text):
            return float(text) if "." in text else int(text)
        if _DURATION.fullmatch(text):
            return text
        raise ValueError(f"keep_alive: expected a duration such as '5m' or '1h30m', or seconds, not {value!r:.40}")
    if not _is_finite(value):
        raise ValueError(f"keep_alive: must be finite, not {value!r}; -1 keeps the model loaded for good")
    return value
