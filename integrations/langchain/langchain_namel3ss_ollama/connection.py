"""From the fields of a model to the provider that it talks through.

langchain-ollama hands `client_kwargs` to httpx clients. Here they become the settings of the core that mean the same;
what has no such setting is an error that names the way to have it, never ignored.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

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

_PASSED_ON = ("verify", "cert", "proxy", "trust_env")
_OF_A_PROVIDER = ("max_retries", "retry", "headers", "userinfo", "client_kwargs", "sync_client_kwargs",
                  "async_client_kwargs")  # fmt: skip
_MAX_CONCURRENT = 10


def split_userinfo(url: str) -> tuple[str, str | None]:
    """An address without its `user:password@`, and that part as it stood."""
    scheme, separator, rest = url.rpartition("://")
    authority, slash, path = rest.partition("/")
    userinfo, at, host = authority.rpartition("@")
    return (f"{scheme}{separator}{host}{slash}{path}", userinfo) if at else (url, None)


def read_where(given: Any) -> str | Hosts | None:
    """A `base_url` as its field has it: several addresses are a `Hosts`, from lists and from what was serialised.

    Raises:
        ValueError: It is no address, and no list of some.
    """
    if given is None or isinstance(given, (str, Hosts)):
        return given
    if isinstance(given, bytes) or not isinstance(given, Iterable):
        several = "[Host(...)]" if isinstance(given, Host) else "several in a list"
        raise ValueError(f"base_url: expected an address, or {several}, not {type(given).__name__}")
    try:
        return Hosts.from_dict(given) if isinstance(given, Mapping) else Hosts(given)
    except (TypeError, ValueError) as error:  # pydantic lets the former through as it is
        raise ValueError(f"base_url: {error}") from None


def written_where(where: str | Hosts | None) -> Any:
    """A `base_url` in the types of JSON, without what is secret in a `Hosts`."""
    return where.to_dict() if isinstance(where, Hosts) else where


def _secret(value: SecretStr | str | None) -> SecretStr | None:
    return SecretStr(value) if isinstance(value, str) else value


class ConnectionFields(BaseModel):
    """The fields that say where the server is and how it is talked to."""

    model_config = ConfigDict(
        arbitrary_types_allowed=True,
        protected_namespaces=(),
        hide_input_in_errors=True,
        populate_by_name=True,
    )

    model: str = ""
    """The model's name, such as "llama3.2"; may be left out where `provider` is given."""

    base_url: Annotated[Where | None, PlainValidator(read_where), PlainSerializer(written_where)] = None
    """Where the server is; None or "" for OLLAMA_HOSTS, else OLLAMA_BASE_URL, else OLLAMA_HOST, else
    http://localhost:11434. A `user:password@` in it is taken out and kept in `userinfo`. Several addresses (a list of
    them or of `Host`, or a `Hosts`) are several servers: each request goes to the one that is best for it, and to
    another if that fails. They are kept as a `Hosts`, and serialised without keys and passwords."""

    userinfo: SecretStr | None = Field(default=None, exclude=True, repr=False)
    """The `user:password` for a server that wants one, as it stood in `base_url`."""

    api_key: Annotated[SecretStr | str | None, AfterValidator(_secret)] = Field(default=None, repr=False)
    """Sent as a bearer token; else OLLAMA_API_KEY. A text becomes a `SecretStr`."""

    headers: dict[str, str] | None = Field(default=None, exclude=True, repr=False)
    """More headers for every request."""

    timeout: float | None = None
    """A bound on each whole call, retries and waits included, in seconds."""

    max_retries: int | None = Field(default=None, ge=0)
    """How often a failed request is sent again; else as `retry` says."""

    retry: RetryPolicy | None = Field(default=None, exclude=True)
    """When and how often a failed request is sent again."""

    max_concurrent: int | None = 10
    """How many requests run at once; the others wait. None for no bound, which is the default with several hosts: their
    slots are one."""

    stream_config: StreamConfig | None = Field(default=None, exclude=True)
    """Deadlines and limits of each request."""

    on_truncation: str | None = None
    """What to do when the server cut the prompt to its context window: "warn" (the default), "error" or "ignore"."""

    provider: OllamaProvider | None = Field(default=None, exclude=True)
    """A provider to use instead of one made from the fields above: what it was made with holds (address, key, bounds,
    retries), its options count where neither this object nor the call sets one, and models that share one share its
    connections and its bound on concurrency. It goes along when the object is pickled, but not when it is
    serialised."""

    client_kwargs: dict[str, Any] | None = Field(default_factory=dict, exclude=True, repr=False)
    """langchain-ollama's way to set `headers`, `timeout`, `auth`, `verify`, `cert`, `proxy` and `trust_env`."""

    sync_client_kwargs: dict[str, Any] | None = Field(default_factory=dict, exclude=True, repr=False)
    """The same, for synchronous calls only."""

    async_client_kwargs: dict[str, Any] | None = Field(default_factory=dict, exclude=True, repr=False)
    """The same, for asynchronous calls only."""

    def policy_of_provider(self) -> str | None:
        """What a provider of this object's own does about truncation; None for the default."""
        return self.on_truncation


def address_of(provider: OllamaProvider) -> str | list[str]:
    """The address of a provider's server, or those of several."""
    return list(provider.addresses) if has_several(provider) else provider.base_url


def has_several(provider: OllamaProvider) -> bool:
    """Whether a provider has several hosts, so that metadata names the one that answered."""
    return len(provider.addresses) > 1


def key_in_environment() -> str | None:
    """The key that OLLAMA_API_KEY holds, if any."""
    return os.environ.get("OLLAMA_API_KEY", "").strip() or None


def check_sharing(provider: OllamaProvider, given: Mapping[str, Any]) -> None:
    """Refuse what a shared provider was made with already.

    Raises:
        ValueError: A connection setting is given that would not count.
    """
    wrong = [name for name in _OF_A_PROVIDER if given.get(name)]
    where = given.get("base_url")
    if where is not None and where != provider.base_url and read_where(where) != provider.where:
        wrong.append("base_url")
    if given.get("api_key") is not None:
        wrong.append("api_key")
    if given.get("max_concurrent", _MAX_CONCURRENT) != _MAX_CONCURRENT:
        wrong.append("max_concurrent")
    if wrong:
        raise ValueError(f"{wrong[0]}: belongs to the provider that is given; set it there")


def connect(settings: ConnectionFields, extra: Mapping[str, Any] | None) -> OllamaProvider:
    """The provider that a model's fields describe. Nothing is sent or opened.

    Args:
        settings: The model.
        extra: `sync_client_kwargs` or `async_client_kwargs`.

    Raises:
        TypeError, ValueError: A value is wrong, or `client_kwargs` has what cannot be had this way.
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
            f"client_kwargs: {name!r} has no equal here; make the client yourself and share it: "
            "provider=OllamaProvider(..., http_client=httpx.AsyncClient(...))"
        )
    retry = settings.retry
    if settings.max_retries is not None:
        retry = replace(retry or RetryPolicy(), attempts=settings.max_retries + 1)
    key = settings.api_key  # a text where it was set after the constructor
    key = key.get_secret_value() if isinstance(key, SecretStr) else key
    if key == key_in_environment():
        key = None  # the core reads it there, and a password in the environment's address before it
    policy = settings.policy_of_provider()
    made: dict[str, Any] = {"on_truncation": policy} if policy is not None else {}
    return OllamaProvider(
        settings.model,
        _with_userinfo(settings.base_url, settings.userinfo),
        api_key=key,
        headers=headers,
        max_concurrent=settings.max_concurrent,
        timeout=settings.timeout,
        stream_config=config,
        retry=retry,
        **passed,
        **made,
    )


def _with_userinfo(where: Where | None, userinfo: SecretStr | None) -> Where | None:
    """The address with its user and password.

    Raises:
        ValueError: There are several.
    """
    if userinfo is None:
        return where
    url = read_where(where)
    if isinstance(url, Hosts):
        raise ValueError("userinfo: is of one address; write user:password@ into each of several in base_url")
    scheme, separator, rest = (url or "localhost").rpartition("://")
    return f"{scheme}{separator}{userinfo.get_secret_value()}@{rest}"


def _headers(given: Any) -> dict[str, str]:
    """Headers as httpx takes them: a mapping or pairs, of texts or bytes. Several of one name are one, with commas.

    Raises:
        TypeError: They are neither.
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
    """What httpx calls a timeout: a bound on connecting, and on each wait for more."""
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
