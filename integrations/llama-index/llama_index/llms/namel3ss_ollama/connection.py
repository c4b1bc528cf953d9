"""What the LLM and the embeddings share: how they come to a provider, and what they make of keywords.

A provider is cheap, opens nothing when made and works on any event loop, so one is made with each object. Keys and
headers go into it and into fields that no repr, `to_dict` or event shows.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from namel3ss_ollama import OllamaProvider, RetryPolicy, StreamConfig

__all__ = ["MAX_CONCURRENT", "connect", "deadlines", "one_layer", "pickled", "reject_unknown", "unpickle"]

MAX_CONCURRENT = 10
"""How many requests run at once unless told otherwise; that of the core."""
_SECRET = frozenset({"api_key", "base_url", "client_kwargs", "headers"})
"""Fields that hold secrets or may; the provider has them."""


def connect(
    model: str | None,
    provider: OllamaProvider | None,
    *,
    base_url: str | None,
    api_key: str | None,
    headers: Mapping[str, str] | None,
    max_concurrent: int | None,
    retry: RetryPolicy | None,
    **more: Any,
) -> OllamaProvider:
    """A provider of these settings, or the one that is given.

    Raises:
        ValueError: The model or the address cannot be right, or settings are given together with a provider that has
            its own.
    """
    if provider is None:
        if model is None:
            raise ValueError("model: is needed, unless a provider is given")
        settings: dict[str, Any] = {"api_key": api_key, "headers": headers, "retry": retry, **more}
        return OllamaProvider(model, base_url, max_concurrent=max_concurrent, **settings)
    own = {"api_key": api_key, "headers": headers, "retry": retry, **more}
    clashes = [name for name, value in own.items() if value is not None]
    if base_url is not None and base_url != provider.base_url:
        clashes.append("base_url")
    if max_concurrent != MAX_CONCURRENT:
        clashes.append("max_concurrent")
    if clashes:
        raise ValueError(f"{clashes[0]}: belongs to the provider that is given; set it there")
    return provider


def pickled(state: Mapping[Any, Any], provider: OllamaProvider) -> dict[Any, Any]:
    """What is pickled of an object: its fields without secrets, and the provider by the core's rules about them.

    Args:
        state: What pydantic would pickle.
        provider: The object's.
    """
    fields = {name: value for name, value in state["__dict__"].items() if name not in _SECRET}
    return {**state, "__dict__": fields, "__pydantic_private__": None, "provider": provider}


def unpickle(component: Any, state: Mapping[Any, Any], settled: Iterable[str]) -> None:
    """Make an object anew out of what was pickled; LlamaIndex's own way would go on with half of one where that fails.

    Args:
        component: The object.
        state: What `pickled` made.
        settled: Fields that the provider was made with.
    """
    fields = dict(state["__dict__"])
    known = {name: fields.pop(name) for name in settled if name in fields}
    component.__init__(**fields, provider=state["provider"])
    component.__dict__.update(known)


def deadlines(request_timeout: float | None, config: StreamConfig | None) -> StreamConfig | None:
    """The deadlines of a request: `request_timeout` is how long the server may say nothing, as with httpx.

    Raises:
        ValueError: Both are given.
    """
    if request_timeout is None:
        return config
    if config is not None:
        raise ValueError("request_timeout: is one of the deadlines in stream_config; give one of the two")
    seconds = float(request_timeout)
    return StreamConfig(connect_timeout=seconds, first_chunk_timeout=seconds, chunk_timeout=seconds)


def one_layer(fields: Mapping[str, Any], extra: Mapping[str, Any], call: Mapping[str, Any]) -> dict[str, Any]:
    """Runtime options of an object and a call's keywords as one set of keywords, the call's winning.

    Args:
        fields: Options that are fields of the object; checked by the core. One that is None leaves the provider's own.
        extra: `additional_kwargs`: goes out as it is, and wins over `fields`.
        call: The keywords of a call, an `options` among them maybe.
    """
    extra = {_sent(name): value for name, value in extra.items()}
    own = dict(call.get("options") or {})
    taken = {_sent(name) for name, value in call.items() if value is not None} | own.keys()
    settings = {name: value for name, value in fields.items() if value is not None and name not in extra.keys() | taken}
    settings.update((name, value) for name, value in call.items() if value is not None)
    options = {name: value for name, value in extra.items() if name not in taken}
    options.update(own)
    settings.pop("options", None)
    if options:
        settings["options"] = options
    return settings


def _sent(name: str) -> str:
    return "num_predict" if name == "max_tokens" else name


def reject_unknown(given: Iterable[str], known: Iterable[str], where: str, hint: str) -> None:
    """Refuse keywords that nobody knows; pydantic would drop them without a word.

    Raises:
        TypeError: Names the first one and the nearest known one.
    """
    names = sorted(known)
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            advice = f"did you mean {near[0]!r}?" if near else hint
            raise TypeError(f"{where} got an unexpected keyword argument {name!r}; {advice}")
