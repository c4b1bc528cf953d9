"""Several hosts: their configuration, and what is known of them. Values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from namel3ss_ollama.address import EMBEDDED_URL, Address, parse_address, resolve_address
from namel3ss_ollama.fleet import EJECT_MOST, Fleet, Loaded, Standing
from namel3ss_ollama.settings import check_positive

__all__ = ["Host", "HostState", "Hosts", "Where", "fleet_of", "known_here", "read_hosts", "restored"]

Resume = Literal["off", "auto"]


@dataclass(frozen=True, slots=True)
class Host:
    """One of several servers.

    Attributes:
        url: Its address, as `base_url`; "embedded://" is the engine in this process, which is used only where no server
            is left.
        slots: The number of concurrent requests that it gets: its OLLAMA_NUM_PARALLEL, which is 1 by default. "auto"
            starts with one and adapts to how long answers waited in the server's own queue.
        api_key: Sent to it as `Authorization: Bearer`, instead of the provider's key.
        headers: Sent to it in addition to the provider's headers.

    Raises:
        ValueError, TypeError: The address is malformed, or `slots` is not a positive number.
    """

    url: str
    slots: int | Literal["auto"] = 1
    api_key: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] | None = field(default=None, repr=False, hash=False)

    def __repr__(self) -> str:
        return f"Host({self.address.url!r}, slots={self.slots!r})"  # the address may hold a password

    def __post_init__(self) -> None:
        if not isinstance(self.url, str):
            raise TypeError(f"url: expected an address, not {type(self.url).__name__}")
        parse_address(self.url, "url")
        if isinstance(self.slots, str) and self.slots != "auto":
            raise ValueError(f"slots: expected a number or 'auto', not {self.slots!r:.40}")
        if not isinstance(self.slots, str):
            check_positive("slots", self.slots, integer=True, optional=False)

    @property
    def address(self) -> Address:
        """Its address, with the credentials kept separately."""
        return parse_address(self.url, "url")


@dataclass(frozen=True, slots=True, init=False)
class Hosts:
    """Several servers that a provider sends its requests to.

    Args:
        hosts: Addresses, or `Host` objects. All else being equal, earlier ones are preferred.
        resume: "auto": a streamed chat of plain text that breaks off continues on another host, or on the same one if
            no other is left, where its model's template allows that; `Stream.resumed` says so. "off": it raises, with
            what had arrived.
        refresh: The interval at which each host is polled for its loaded models, in seconds, while there is work.
        eject: How long a host that fails gets no requests, in seconds; doubles with each consecutive failure.
        eject_max: The maximum of that, in seconds.

    Raises:
        ValueError, TypeError: There is no host, a host is given twice, or a value is invalid.
    """

    hosts: tuple[Host, ...]
    resume: Resume
    refresh: float
    eject: float
    eject_max: float

    def __init__(
        self,
        hosts: Iterable[Host | str],
        *,
        resume: Resume = "off",
        refresh: float = 5.0,
        eject: float = 1.0,
        eject_max: float = EJECT_MOST,
    ) -> None:
        if isinstance(hosts, (str, Host)):
            raise TypeError("hosts: expected several addresses; wrap one in [...]")
        if not isinstance(hosts, Iterable):
            raise TypeError(f"hosts: expected addresses, not {type(hosts).__name__}")
        found = tuple(_host(host, index) for index, host in enumerate(hosts))
        if not found:
            raise ValueError("hosts: there must be at least one address")
        seen: set[str] = set()
        for host in found:
            if host.address.url in seen:
                raise ValueError(f"hosts: {host.address.url} is given twice; give it more slots instead")
            seen.add(host.address.url)
        if resume not in ("off", "auto"):
            raise ValueError(f"resume: expected 'off' or 'auto', not {resume!r:.40}")
        times = {"refresh": refresh, "eject": eject, "eject_max": eject_max}
        for name, seconds in times.items():
            check_positive(name, seconds, optional=False)
        for attribute, value in {"hosts": found, "resume": resume, **times}.items():
            object.__setattr__(self, attribute, value)

    def __len__(self) -> int:
        return len(self.hosts)

    def to_dict(self) -> dict[str, Any]:
        """The configuration as JSON types; keys, headers and other secrets are omitted.

        Example:
            ```python
            hosts = Hosts(["http://gpu1:11434", Host("http://gpu2:11434", slots=4)], resume="auto")
            assert hosts.to_dict() == {
                "hosts": ["http://gpu1:11434", {"url": "http://gpu2:11434", "slots": 4}],
                "resume": "auto",
            }
            ```
        """
        data: dict[str, Any] = {
            "hosts": [
                host.address.url if host.slots == 1 else {"url": host.address.url, "slots": host.slots}
                for host in self.hosts
            ]
        }
        usual = Hosts(self.hosts)
        names = (each.name for each in fields(self) if each.name != "hosts")
        data.update({name: value for name in names if (value := getattr(self, name)) != getattr(usual, name)})
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Hosts:
        """Hosts from the output of `to_dict`; each may have `api_key` and `headers` too.

        Raises:
            ValueError, TypeError: As the constructors of `Hosts` and `Host`.
        """
        given = dict(data)
        hosts = given.pop("hosts", ())
        if isinstance(hosts, Iterable) and not isinstance(hosts, str):
            hosts = [Host(**host) if isinstance(host, Mapping) else host for host in hosts]
        return cls(hosts, **given)


Where = str | Sequence[Host | str] | Hosts
"""One server's address, or several."""


@dataclass(frozen=True, slots=True)
class HostState:
    """What is known of one of several hosts.

    Attributes:
        url: Its address.
        up: Whether it gets requests now.
        why_not: Its last failure, if it is not up.
        version: Its version; empty if not known yet.
        loaded: Its loaded models, by name.
        slots: The number of concurrent requests that it gets.
        in_flight: How many slots are in use.
        wait: Seconds that the last request spent in the host's own queue.
        tokens_per_second: Its generation speed, averaged over its models; None before the first answer.
    """

    url: str
    up: bool
    why_not: str
    version: str
    loaded: Mapping[str, Loaded]
    slots: int
    in_flight: int
    wait: float
    tokens_per_second: float | None


def read_hosts(where: Where | None, environ: Mapping[str, str]) -> Hosts | str | None:
    """Several hosts, or the address of one, or None if none is given.

    Args:
        where: The argument `base_url`.
        environ: The environment; OLLAMA_HOSTS holds addresses separated by commas.

    Raises:
        ValueError, TypeError: As `Hosts`.
    """
    if where is None:
        listed = [part.strip() for part in environ.get("OLLAMA_HOSTS", "").split(",")]
        try:
            hosts = Hosts([part for part in listed if part]) if any(listed) else None
        except ValueError as error:
            raise ValueError(f"OLLAMA_HOSTS: {error}") from None
    elif isinstance(where, str):
        return where
    else:
        hosts = where if isinstance(where, Hosts) else _listed(where)
    if hosts is None or len(hosts) > 1 or hosts.resume != "off" or hosts.hosts[0] != Host(hosts.hosts[0].url):
        return hosts
    return hosts.hosts[0].url


def known_here(environ: Mapping[str, str]) -> dict[str, str]:
    """The addresses in the environment with user and password, by the addresses without them."""
    here = read_hosts(None, environ)
    named = [host.address for host in here.hosts] if isinstance(here, Hosts) else []
    if isinstance(here, str):
        named = [parse_address(here, "OLLAMA_HOSTS")]
    named.append(resolve_address(None, environ))
    return {address.url: address.url_with_credentials for address in reversed(named) if address.user is not None}


def restored(hosts: Hosts, authorized: Iterable[str], environ: Mapping[str, str]) -> tuple[Hosts, list[str]]:
    """Hosts from a pickle, which holds no secrets, with the secrets of this environment.

    Args:
        hosts: The hosts.
        authorized: The addresses of those that had a key or password.
        environ: The environment; an address with user and password takes precedence over OLLAMA_API_KEY.

    Returns:
        The hosts, and the addresses of those whose key or password is missing here.
    """
    had, known = set(authorized), known_here(environ)
    key = environ.get("OLLAMA_API_KEY", "").strip()

    def restore(host: Host) -> Host:
        url = host.address.url
        if url in had & known.keys():
            return replace(host, url=known[url])
        return host if key and url in had else replace(host, api_key="")

    settings = {each.name: getattr(hosts, each.name) for each in fields(hosts) if each.name != "hosts"}
    return Hosts(map(restore, hosts.hosts), **settings), [] if key else sorted(had - known.keys())


def fleet_of(hosts: Hosts) -> Fleet:
    """The initial state of hosts."""
    return Fleet(
        (
            Standing(
                host.address.url,
                slots=1 if isinstance(host.slots, str) else host.slots,
                auto=isinstance(host.slots, str),
                last_resort=host.address.url == EMBEDDED_URL,
            )
            for host in hosts.hosts
        ),
        eject=hosts.eject,
        eject_most=hosts.eject_max,
    )


def _listed(where: Iterable[Host | str]) -> Hosts:
    """Hosts from a `base_url` that is not a text.

    Raises:
        ValueError, TypeError: As `Hosts`, with the argument's name.
    """
    if isinstance(where, (bytes, Mapping)) or not isinstance(where, (Host, Iterable)):
        raise TypeError(f"base_url: expected an address, or several in a list, not {type(where).__name__}")
    try:
        return Hosts(where)
    except (ValueError, TypeError) as error:
        raise type(error)(f"base_url: {error}") from None


def _host(host: Host | str, index: int) -> Host:
    if isinstance(host, Host):
        return host
    if not isinstance(host, str):
        raise TypeError(f"hosts[{index}]: expected an address or a Host, not {type(host).__name__}")
    try:
        return Host(host)
    except ValueError as error:
        raise ValueError(f"hosts[{index}]: {error}") from None
