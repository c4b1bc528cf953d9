"""What the LLM and the embeddings share: how they come to a provider, and what they make of keywords.

A provider is cheap, opens nothing when made and works on any event loop, so one is made with each object. Keys and
headers go into it and into fields that no repr, `to_dict` or event shows.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from namel3ss_ollama import OllamaProvider, RetryPolicy, StreamConfig

__all__ = ["MAX_CONCURRENT", "Connection", "connect", "deadlines", "one_layer", "reject_unknown"]

MAX_CONCURRENT = 10
"""How many requests run at once unless told otherwise; that of the core."""


class Connection:
    """Holds a provider where pydantic copies: a copy of an LLM shares the provider, and with it `max_concurrent`."""

    __slots__ = ("address", "provider")

    def __init__(self, provider: OllamaProvider, address: str) -> None:
        self.provider = provider
        self.address = address
        """As it was given: it may hold credentials, so it is in no field."""

    def __copy__(self) -> Connection:
        return self

    def __deepcopy__(self, memo: object) -> Connection:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # LlamaIndex makes what it unpickles anew from the fields, and would warn if this could not be pickled.
        return (object, ())


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
) -> Connection:
    """A provider of these settings, or the one that is given.

    Raises:
        ValueError: The model or the address cannot be right, or settings are given together with a provider that has
            its own.
    """
    if provider is None:
        if model is None:
            raise ValueError("model: is needed, unless a provider is given")
        settings: dict[str, Any] = {"api_key": api_key, "headers": headers, "retry": retry, **more}
        made = OllamaProvider(model, base_url, max_concurrent=max_concurrent, **settings)
        return Connection(made, base_url or made.base_url)
    own = {"api_key": api_key, "headers": headers, "retry": retry, **more}
    clashes = [name for name, value in own.items() if value is not None]
    if base_url is not None and base_url != provider.base_url:
        clashes.append("base_url")
    if max_concurrent != MAX_CONCURRENT:
        clashes.append("max_concurrent")
    if clashes:
        raise ValueError(f"{clashes[0]}: belongs to the provider that is given; set it there")
    return Connection(provider, provider.base_url)


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
        fields: Options that are fields of the object; checked by the core.
        extra: `additional_kwargs`: goes out as it is, and wins over `fields`.
        call: The keywords of a call, an `options` among them maybe.
    """
    extra = {_sent(name): value for name, value in extra.items()}
    own = dict(call.get("options") or {})
    taken = {_sent(name) for name, value in call.items() if value is not None} | own.keys()
    settings = {name: value for name, value in fields.items() if name not in extra and name not in taken}
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
