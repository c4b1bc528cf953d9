"""Build the provider that a model uses from the model's fields.

langchain-ollama passes `client_kwargs` to httpx clients. Here they become the equivalent settings of the core. A
keyword without an equivalent is never ignored: it raises an error that says what to use instead.
"""

from __future__ import annotations

import base64
import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, SecretStr

from namel3ss_ollama import Host, Hosts, OllamaProvider, RetryPolicy, StreamConfig

__all__ = [
    "ConnectionFields",
    "Where",
    "address_of",
    "check_sharing",
    "connect",
    "has_several",
    "key_in_environment",
    "read_where",
    "split_userinfo",
    "written_where",
]

Where = str | Sequence[Host | str] | Hosts
"""One server's address, or several."""

_KEPT = 32
"""How many providers are kept for further models with the same settings."""
_PASSED_ON = ("verify", "cert", "proxy", "trust_env")
_OF_A_PROVIDER = ("max_retries", "retry", "headers", "userinfo", "client_kwargs", "sync_client_kwargs",
                  "async_client_kwargs")  # fmt: skip


def split_userinfo(url: str) -> tuple[str, str | None]:
    """Split `user:password@` off an address; returns the address and the credentials as written."""
    scheme, separator, rest = url.rpartition("://")
    authority, slash, path = rest.partition("/")
    userinfo, at, host = authority.rpartition("@")
    return (f"{scheme}{separator}{host}{slash}{path}", userinfo) if at else (url, None)


def read_where(given: Any) -> str | Hosts | None:
    """Convert a `base_url` to its field's type: several addresses, as a list or serialised, become a `Hosts`.

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


def written_where(where: str | Hosts | None) -> Any:
    """Convert a `base_url` to JSON types, without the secrets of a `Hosts`."""
    return where.to_dict() if isinstance(where, Hosts) else where


def _secret(value: SecretStr | str | None) -> SecretStr | None:
    return SecretStr(value) if isinstance(value, str) else value


class ConnectionFields(BaseModel):
    """The fields for the server's address and the connection to it."""

    model_config = ConfigDict(
        arbitrary_types_allowed=True,
        protected_namespaces=(),
        hide_input_in_errors=True,
        populate_by_name=True,
    )

    model: str = ""
    """The model's name, such as "llama3.2"; optional if `provider` is given."""

    base_url: Annotated[Where | None, PlainValidator(read_where), PlainSerializer(written_where)] = None
    """The server's address; None or "" for OLLAMA_HOSTS, else OLLAMA_BASE_URL, else OLLAMA_HOST, else
    http://localhost:11434. A `user:password@` in it is moved to `userinfo`. Several addresses (a list of strings or
    `Host`, or a `Hosts`) are several servers: each request goes to the best one for it, and to another if that fails.
    They are stored as a `Hosts`, and serialised without keys and passwords."""

    userinfo: SecretStr | None = Field(default=None, exclude=True, repr=False)
    """The `user:password` for basic authentication, as written in `base_url`."""

    api_key: Annotated[SecretStr | str | None, AfterValidator(_secret)] = Field(default=None, repr=False)
    """Sent as a bearer token; OLLAMA_API_KEY by default. A string becomes a `SecretStr`."""

    headers: dict[str, str] | None = Field(default=None, exclude=True, repr=False)
    """Additional headers for every request."""

    timeout: float | None = None
    """The maximum duration of each call in seconds, including retries and waits."""

    max_retries: int | None = Field(default=None, ge=0)
    """How often to retry a failed request; overrides the number of attempts in `retry`."""

    retry: RetryPolicy | None = Field(default=None, exclude=True)
    """When and how often to retry a failed request."""

    max_concurrent: int | Literal["auto"] | None = "auto"
    """How many requests run at once; the others wait. "auto" adapts to the server: 10 requests may wait for their first
    token, or as many as are being answered, if these are more. With several hosts it means their slots. None for no
    limit."""

    stream_config: StreamConfig | None = Field(default=None, exclude=True)
    """Timeouts and limits of each request."""

    on_truncation: str | None = None
    """What to do if the server truncates the prompt to its context window: "warn" (default), "error" or "ignore"."""

    provider: OllamaProvider | None = Field(default=None, exclude=True)
    """A provider to use instead of one built from the fields above. Its own address, key, limits and retries apply, and
    its options are the defaults for what neither this object nor the call sets. Models that share a provider share its
    connections and its concurrency limit. It is pickled with the object, but not serialised."""

    client_kwargs: dict[str, Any] | None = Field(default_factory=dict, exclude=True, repr=False)
    """langchain-ollama's way to set `headers`, `timeout`, `auth`, `verify`, `cert`, `proxy` and `trust_env`."""

    sync_client_kwargs: dict[str, Any] | None = Field(default_factory=dict, exclude=True, repr=False)
    """Like `client_kwargs`, for synchronous calls only."""

    async_client_kwargs: dict[str, Any] | None = Field(default_factory=dict, exclude=True, repr=False)
    """Like `client_kwargs`, for asynchronous calls only."""

    def policy_of_provider(self) -> str | None:
        """The `on_truncation` of a provider that this object builds; None for the default."""
        return self.on_truncation


def address_of(provider: OllamaProvider) -> str | list[str]:
    """The address of a provider's server, or a list for several."""
    return list(provider.addresses) if has_several(provider) else provider.base_url


def has_several(provider: OllamaProvider) -> bool:
    """Whether a provider has several hosts, so that metadata names the one that answered."""
    return len(provider.addresses) > 1


def key_in_environment() -> str | None:
    """The API key in OLLAMA_API_KEY, if any."""
    return os.environ.get("OLLAMA_API_KEY", "").strip() or None


def check_sharing(provider: OllamaProvider, given: Mapping[str, Any]) -> None:
    """Refuse connection settings beside a shared provider, which has its own.

    Raises:
        ValueError: A connection setting is given that would have no effect.
    """
    wrong = [name for name in _OF_A_PROVIDER if given.get(name)]
    where = given.get("base_url")
    if where is not None and where != provider.base_url and read_where(where) != provider.where:
        wrong.append("base_url")
    if given.get("api_key") is not None:
        wrong.append("api_key")
    if given.get("max_concurrent", "auto") != "auto":
        wrong.append("max_concurrent")
    if wrong:
        raise ValueError(f"{wrong[0]}: belongs to the provider that is given; set it there")


def connect(settings: ConnectionFields, extra: Mapping[str, Any] | None) -> OllamaProvider:
    """The provider of a model, from its fields. No connection is opened.

    Models with equal settings share one, also if the first of them is gone: programs that make a model for each request
    reuse connections, and their requests count towards one limit. The last `_KEPT` providers are kept.

    Args:
        settings: The model.
        extra: `sync_client_kwargs` or `async_client_kwargs`.

    Raises:
        TypeError, ValueError: A value is wrong, or a keyword in `client_kwargs` is not supported.
    """
    given = {**(settings.client_kwargs or {}), **(extra or {})}
    headers = {**_headers(given.pop("headers", None)), **(settings.headers or {})}
    if (auth := given.pop("auth", None)) is not None:
        headers.setdefault("authorization", _basic(auth))
    config = settings.stream_config
    if "timeout" in given:
        config = _with_timeout(config or StreamConfig(), given.pop("timeout"))
    passed = {name: given.pop(name) for name in _PASSED_ON if name in given}
    if given:
        name = next(iter(given))
        raise ValueError(
            f"client_kwargs: {name!r} is not supported here; create the HTTP client yourself and pass it: "
            "provider=OllamaProvider(..., http_client=httpx.AsyncClient(...))"
        )
    retry = settings.retry
    if settings.max_retries is not None:
        retry = replace(retry or RetryPolicy(), attempts=settings.max_retries + 1)
    key = settings.api_key  # a string if it was set after construction
    key = key.get_secret_value() if isinstance(key, SecretStr) else key
    if key == key_in_environment():
        key = None  # the core reads it there, and prefers a password in the address from the environment
    policy = settings.policy_of_provider()
    if policy is not None:
        passed["on_truncation"] = policy
    where = _with_userinfo(settings.base_url, settings.userinfo)
    made: dict[str, Any] = {
        "api_key": key,
        "max_concurrent": settings.max_concurrent,
        "timeout": settings.timeout,
        "stream_config": config,
        "retry": retry,
        **passed,
    }
    if where is None or isinstance(where, str):
        try:
            return _shared(settings.model, where, tuple(headers.items()), _environment(), **made)
        except TypeError:
            pass  # a value that cannot be compared, such as a list; or one that is wrong, which is raised below
    return OllamaProvider(settings.model, where, headers=headers, **made)


@functools.lru_cache(maxsize=_KEPT, typed=True)
def _shared(
    model: str,
    where: str | None,
    headers: tuple[tuple[str, str], ...],
    environment: tuple[str | None, ...],
    **settings: Any,
) -> OllamaProvider:
    return OllamaProvider(model, where, headers=dict(headers), **settings)


def _environment() -> tuple[str | None, ...]:
    """The variables that a provider reads when it is made."""
    return tuple(map(os.environ.get, ("OLLAMA_HOSTS", "OLLAMA_BASE_URL", "OLLAMA_HOST", "OLLAMA_API_KEY")))


def _with_userinfo(where: Where | None, userinfo: SecretStr | None) -> Where | None:
    """Put user and password back into the address.

    Raises:
        ValueError: There are several addresses.
    """
    if userinfo is None:
        return where
    url = read_where(where)
    if isinstance(url, Hosts):
        raise ValueError("userinfo: is for a single address; with several, write user:password@ into each in base_url")
    scheme, separator, rest = (url or "localhost").rpartition("://")
    return f"{scheme}{separator}{userinfo.get_secret_value()}@{rest}"


def _headers(given: Any) -> dict[str, str]:
    """Read headers as httpx takes them: a mapping or pairs of str or bytes. Repeated names are joined with commas.

    Raises:
        TypeError: They are neither a mapping nor pairs.
    """
    pairs = given.items() if isinstance(given, Mapping) else given or ()
    if not isinstance(pairs, Iterable) or not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs):
        raise TypeError("client_kwargs: 'headers' must be a mapping or a list of (name, value)")
    headers: dict[str, Any] = {}
    for pair in pairs:
        name, value = (part.decode("latin-1") if isinstance(part, bytes) else part for part in pair)
        known = next((known for known in headers if known.lower() == str(name).lower()), None)
        headers[known or name] = value if known is None else f"{headers[known]}, {value}"
    return headers


def _basic(auth: Any) -> str:
    if not (isinstance(auth, (tuple, list)) and len(auth) == 2 and all(isinstance(part, str) for part in auth)):
        raise ValueError("client_kwargs: 'auth' must be (user, password)")
    return "Basic " + base64.b64encode(":".join(auth).encode()).decode("ascii")


def _with_timeout(config: StreamConfig, timeout: Any) -> StreamConfig:
    """Apply an httpx timeout: its connect timeout, and its read timeout for each wait for data."""
    connect_timeout = getattr(timeout, "connect", timeout)
    read = getattr(timeout, "read", timeout)
    if isinstance(timeout, (tuple, list)):
        connect_timeout, read = timeout[0], timeout[1]
    return replace(
        config,
        connect_timeout=connect_timeout,
        first_chunk_timeout=read,
        chunk_timeout=read,
        tool_call_timeout=read,
    )
