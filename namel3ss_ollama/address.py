"""Where the server is: the rules that turn a `base_url` or OLLAMA_HOST into an address. Plain functions.

OLLAMA_HOST follows Ollama's own rules (envconfig of its sources): scheme, port, path and brackets are all
optional, a malformed port falls back to the default, and a bind address stands for the loopback address.
A `base_url` given in code follows the same rules, except that a malformed one is an error.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, unquote

__all__ = ["DEFAULT_URL", "EMBEDDED_URL", "Address", "is_loopback", "is_ollama_com", "parse_address", "resolve_address"]

DEFAULT_URL = "http://localhost:11434"
EMBEDDED_URL = "embedded://"
"""The address of the engine in this process."""
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Address:
    """A server's address, with its credentials kept separately.

    Attributes:
        url: Scheme, host, port and path prefix, without a trailing slash and without credentials.
        user: The user name of the URL, or None.
        password: The password of the URL, or None.
    """

    url: str
    user: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return f"Address({self.url!r}{', with credentials' if self.user else ''})"

    @property
    def url_with_credentials(self) -> str:
        """The URL including user and password, if there are any."""
        if self.user is None:
            return self.url
        scheme, _, rest = self.url.partition("://")
        return f"{scheme}://{quote(self.user, safe='')}:{quote(self.password or '', safe='')}@{rest}"


def resolve_address(base_url: str | None, environ: Mapping[str, str]) -> Address:
    """The effective address: `base_url`, else OLLAMA_BASE_URL, else OLLAMA_HOST, else localhost:11434.

    Raises:
        ValueError: The `base_url` (or OLLAMA_BASE_URL) is malformed; the message names which.
    """
    if base_url is not None:
        return parse_address(base_url, "base_url")
    if environ.get("OLLAMA_BASE_URL", "").strip():
        return parse_address(environ["OLLAMA_BASE_URL"], "OLLAMA_BASE_URL")
    host = environ.get("OLLAMA_HOST", "").strip().strip("\"'").strip()
    if host:
        return parse_address(host, "OLLAMA_HOST", lenient=True)
    return parse_address(DEFAULT_URL, "base_url")


def parse_address(text: str, name: str = "base_url", *, lenient: bool = False) -> Address:
    """Split an address into URL and credentials.

    Args:
        text: `host`, `host:port`, `:port`, `http://host`, an IPv6 address with or without brackets, each
            with or without a path and `user:password@`; or `embedded://`, the engine in this process.
        name: The argument's name, for error messages.
        lenient: Replace a malformed port with the default one, as Ollama does for OLLAMA_HOST.

    Raises:
        ValueError: The address is malformed.
    """
    text = text.strip()
    if not text or any(c.isspace() or not c.isprintable() for c in text):
        raise ValueError(f"{name}: an address must be like {DEFAULT_URL}, without spaces or control characters")
    scheme, separator, rest = text.partition("://")
    if scheme.lower() == "embedded" and rest in ("", "/", "engine"):
        return Address(EMBEDDED_URL)  # "engine" was its host in former pickles
    if not separator:
        scheme, rest, default_port = "http", text, 11434
        if rest == "ollama.com":
            scheme, default_port = "https", 443
    else:
        scheme = scheme.lower()
        if scheme not in _DEFAULT_PORTS:
            raise ValueError(f"{name}: the scheme {scheme!r} is not http or https, nor is it embedded:// alone")
        default_port = _DEFAULT_PORTS[scheme]
    if "?" in rest or "#" in rest:
        raise ValueError(f"{name}: an address has no query and no fragment")
    authority, _, path = rest.partition("/")
    if "@" in path:
        raise ValueError(f"{name}: has an @ after a slash; in a user's name or password write %2F for / and %40 for @")
    credentials, at, hostport = authority.rpartition("@")
    user, _, password = credentials.partition(":")
    host, port = _split_port(hostport, default_port, name, lenient)
    path = path.strip("/")
    return Address(
        url=f"{scheme}://{host}:{port}{'/' + path if path else ''}",
        user=unquote(user) if at else None,
        password=unquote(password) if at else None,
    )


def _split_port(hostport: str, default: int, name: str, lenient: bool) -> tuple[str, int]:
    if hostport.startswith("["):
        host, closed, rest = hostport[1:].partition("]")
        colon, port_text = rest[:1], rest[1:]
        if not closed or not _is_ip(host) or colon not in ("", ":"):
            raise ValueError(f"{name}: {hostport!r} is not an IPv6 address in brackets")
    elif _is_ip(hostport):
        host, port_text = hostport, ""
    else:
        host, _, port_text = hostport.partition(":")
    port = default
    if port_text:
        if port_text.isascii() and port_text.isdigit() and len(port_text) <= 5 and int(port_text) <= 65535:
            port = int(port_text)
        elif not lenient:
            raise ValueError(f"{name}: the port is not a number up to 65535")
    if not host:
        return "127.0.0.1", port
    if _is_ip(host):
        ip = ipaddress.ip_address(host)
        if ip.is_unspecified:  # an address to bind to, not to connect to
            host = "127.0.0.1" if ip.version == 4 else "::1"
        return (host if ip.version == 4 else f"[{host}]"), port
    if not _is_host_name(host):
        raise ValueError(f"{name}: {host!r} is not a host name")
    return host, port


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its name or address alone (RFC 6761, 6.3, for names under `localhost`)."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ip = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_loopback or (mapped or ip).is_unspecified


def is_ollama_com(host: str) -> bool:
    """Whether a host is the service at ollama.com."""
    name = host.rstrip(".").lower()
    return name == "ollama.com" or name.endswith(".ollama.com")


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    # An IPv6 address may name a zone, and the parser takes anything for its name.
    return _is_host_name(text.partition("%")[2])


def _is_host_name(text: str) -> bool:
    # The HTTP layer encodes names with non-ASCII letters (IDNA).
    return all(c.isalnum() or c in "-._~" for c in text)
