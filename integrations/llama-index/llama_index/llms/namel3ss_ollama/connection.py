"""What the LLM and the embeddings share: building a provider, pickling it, and rewording its timeout errors.

A provider is cheap, opens no connection at construction and works on any event loop, so each object builds its own.
Keys and headers are stored in it and in fields that no repr, `to_dict` or event includes.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from namel3ss_ollama import Host, Hosts, LLMTimeoutError, OllamaProvider, RetryPolicy, StreamConfig

__all__ = [
    "Where",
    "WhereField",
    "connect",
    "deadlines",
    "has_several",
    "in_words_of",
    "pickled",
    "refuse_hooks",
    "unpickle",
]

Where = str | Sequence[Host | str] | Hosts
"""One server's address, or several."""

_SECRET = frozenset({"api_key", "base_url", "client_kwargs", "headers"})
"""Fields that may contain secrets; the provider has them."""
_SILENCES = ("first_chunk_timeout", "chunk_timeout", "tool_call_timeout")
"""The core's timeouts that its error messages may name, and that `request_timeout` sets together here."""


def _read_where(given: Any) -> str | Hosts | None:
    """Convert a `base_url` to its field's type: several addresses, as a list or from `to_dict`, become a `Hosts`.

    Raises:
        ValueError: It is neither an address nor a list of addresses.
    """
    if given is None or isinstance(given, (str, Hosts)):
        return given
    if isinstance(given, bytes) or not isinstance(given, Iterable):
        several = "[Host(...)]" if isinstance(given, Host) else "several in a list"
        raise ValueError(f"base_url: expected an address, or {several}, not {type(given).__name__}")
    try:
        return Hosts.from_dict(given) if isinstance(given, Mapping) else Hosts(given)
    except (TypeError, ValueError) as error:  # pydantic does not wrap a TypeError
        raise ValueError(f"base_url: {error}") from None


def _written_where(where: Where | None) -> Any:
    return where.to_dict() if isinstance(where, Hosts) else where


WhereField = Annotated[
    Where | None,
    PlainValidator(_read_where),
    PlainSerializer(_written_where),
    WithJsonSchema({"anyOf": [{"type": kind} for kind in ("string", "array", "object", "null")]}),
]
"""The type of `base_url`: a string, or a `Hosts` for several, which is serialised without keys and passwords."""


def has_several(provider: OllamaProvider) -> bool:
    """Whether a provider has several hosts, so that answers name theirs."""
    return len(provider.addresses) > 1


def connect(
    model: str | None,
    provider: OllamaProvider | None,
    *,
    base_url: Where | None,
    api_key: str | None,
    headers: Mapping[str, str] | None,
    max_concurrent: int | Literal["auto"] | None,
    retry: RetryPolicy | None,
    **more: Any,
) -> OllamaProvider:
    """Build a provider from these settings, or return the one that is given.

    Raises:
        ValueError: The model or the address is invalid, or settings are given beside a provider, which has its own.
    """
    base_url = base_url or None  # empty if it comes from an environment variable that is not set
    if provider is None:
        if model is None:
            raise ValueError("model: is needed, unless a provider is given")
        return OllamaProvider(
            model, base_url, api_key=api_key, headers=headers, max_concurrent=max_concurrent, retry=retry, **more
        )
    own = {"api_key": api_key, "headers": headers, "retry": retry, **more}
    clashes = [name for name, value in own.items() if value is not None]
    if base_url is not None and base_url != provider.base_url and _read_where(base_url) != provider.where:
        clashes.append("base_url")
    if max_concurrent != "auto":
        clashes.append("max_concurrent")
    if clashes:
        raise ValueError(f"{clashes[0]}: belongs to the provider that is given; set it there")
    return provider


# Pickles


def pickled(state: Mapping[Any, Any], provider: OllamaProvider, refusal: str | None) -> dict[Any, Any]:
    """The state to pickle: the fields without secrets, and the provider as the core pickles it.

    An object is pickled even if its provider cannot be: LlamaIndex silently drops what raises here. Instead, the
    unpickled object raises on its first use, and says why.

    Args:
        state: What pydantic would pickle.
        provider: The object's provider.
        refusal: Why the object, itself unpickled, cannot be used; None if it can.
    """
    fields = {name: value for name, value in state["__dict__"].items() if name not in _SECRET}
    kept: OllamaProvider | tuple[str, str | Hosts] = provider
    try:
        pickle.dumps(provider)
    except Exception as error:
        kept, refusal = (provider.model, provider.where), str(error)
    else:
        if refusal is not None:
            kept = (provider.model, provider.where)
    return {**state, "__dict__": fields, "__pydantic_private__": None, "provider": kept, "refusal": refusal}


def unpickle(component: Any, state: Mapping[Any, Any], settled: Iterable[str]) -> None:
    """Restore an object from its pickled state; LlamaIndex's own way would keep a half-restored one on failure.

    Args:
        component: The object.
        state: The result of `pickled`.
        settled: Fields that the provider was built from.
    """
    fields = dict(state["__dict__"])
    known = {name: fields.pop(name) for name in settled if name in fields}
    provider = state["provider"]
    if not isinstance(provider, OllamaProvider):
        model, where = provider
        provider = OllamaProvider(model, where, api_key="")
    component.__init__(**fields, provider=provider)
    component.__dict__.update(known)


# Deadlines


def deadlines(request_timeout: Any, config: StreamConfig | None, name: str = "request_timeout") -> StreamConfig | None:
    """The timeouts of a request: `request_timeout` limits each wait for data, as in httpx.

    Args:
        request_timeout: Seconds, an `httpx.Timeout`, or a tuple as httpx takes it; None if it is not set.
        config: The user's own timeouts, which exclude `request_timeout`.
        name: The name of `request_timeout` in errors.

    Raises:
        TypeError: It has another type.
        ValueError: It is not above zero, or both are given.
    """
    if request_timeout is None:
        return config
    if config is not None:
        raise ValueError(f"{name}: is one of the deadlines in stream_config; give one of the two")
    if hasattr(request_timeout, "connect") and hasattr(request_timeout, "read"):
        connect, read = request_timeout.connect, request_timeout.read
    elif isinstance(request_timeout, (tuple, list)) and len(request_timeout) > 1:
        connect, read = request_timeout[:2]
    else:
        connect = read = request_timeout
    connect, read = _seconds(connect, name), _seconds(read, name)
    return StreamConfig(connect_timeout=connect, first_chunk_timeout=read, chunk_timeout=read, tool_call_timeout=read)


def _seconds(value: Any, name: str) -> float | None:
    if value is None:
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected seconds or an httpx.Timeout, not {value!r:.60}") from None
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{name}: must be above zero and finite, not {value!r}")
    return seconds


def in_words_of(names: Mapping[str, str], error: LLMTimeoutError, *, one_deadline: bool) -> LLMTimeoutError:
    """Reword the advice of an error with LlamaIndex's names; returns the error.

    Args:
        names: The names in LlamaIndex, by the core's.
        error: The core's error, which is modified.
        one_deadline: Whether `request_timeout` sets all of the core's timeouts.
    """
    words = {**names, **(dict.fromkeys(_SILENCES, "request_timeout") if one_deadline else {})}
    pattern = "|".join(rf"(?<![\w.]){re.escape(word)}" for word in sorted(words, key=len, reverse=True))
    passed, mark, advice = error.message.partition(";")
    error.args = (passed + mark + re.sub(pattern, lambda match: words[match[0]], advice),)
    return error


# Subclasses


def refuse_hooks(cls: type, hooks: Mapping[str, str]) -> None:
    """Refuse a subclass that overrides a hook of the replaced class that nothing here calls.

    Raises:
        TypeError: Names the hook and what to do instead.
    """
    for name, instead in hooks.items():
        if name in vars(cls):
            raise TypeError(f"{cls.__name__}.{name}: is never called here, so overriding it has no effect; {instead}")
