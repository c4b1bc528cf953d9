"""Which proxy an address is reached through, and errors that name it.

The environment's proxies are read here, for both transports, since libraries disagree on NO_PROXY: names with and
without a leading dot, addresses, networks (10.0.0.0/8), each with or without a port, and `*`. Requests to this machine
never go through one of them. A proxy given by the caller is used for every address.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import ssl
import urllib.request

import httpx

from namel3ss_ollama.address import is_loopback
from namel3ss_ollama.errors import AuthenticationError, LLMConnectionError, LLMError, LLMTimeoutError

__all__ = ["blaming_the_proxy", "check_proxy", "environment_proxy", "is_not_from_ollama", "shown"]

_SCHEMES = frozenset({"http", "https", "socks5", "socks5h"})
_PORTS = {"http": 80, "https": 443}


def environment_proxy(url: str) -> str | None:
    """The environment's proxy for an address; None if there is none, or the address is exempt."""
    target = _target(url)
    if target is None:
        return None
    scheme, host, port = target
    proxies = urllib.request.getproxies()
    found = (proxies.get(scheme) or proxies.get("all") or "").strip()
    if not found or _is_exempt(host, port):
        return None
    return found if "://" in found else f"http://{found}"


@functools.lru_cache(maxsize=64)
def _target(url: str) -> tuple[str, str, int] | None:
    """Scheme, host and port of an address; None on this machine. Cached, since a provider asks several times."""
    parts = httpx.URL(url)
    return None if is_loopback(parts.host) else (parts.scheme, parts.host, parts.port or _PORTS.get(parts.scheme, 0))


def _is_exempt(host: str, port: int) -> bool:
    bracketed = f"[{host}]" if ":" in host else host
    if urllib.request.proxy_bypass(f"{bracketed}:{port}"):
        return True
    for entry in os.environ.get("no_proxy", os.environ.get("NO_PROXY", "")).split(","):
        name = entry.strip().lower().removeprefix("*")
        if name.startswith(".") and (host.lower() == name[1:] or host.lower().endswith(name)):
            return True
        if _is_in(host, name.removeprefix("[").removesuffix("]")) or name == f"[{host}]:{port}":
            return True
    return False


def _is_in(host: str, network: str) -> bool:
    """Whether a host is an address in a network, or that address."""
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def check_proxy(proxy: str, name: str) -> str:
    """The scheme of a proxy's URL.

    Raises:
        ValueError: It is not the URL of a proxy; the message names its source.
    """
    try:
        url = httpx.URL(proxy)
    except (httpx.InvalidURL, TypeError):
        url = httpx.URL("")
    if url.scheme not in _SCHEMES or not url.host:
        raise ValueError(f"{name}: a proxy's address looks like http://host:3128 (or https://, socks5://)")
    return url.scheme


def shown(proxy: str) -> str:
    """A proxy's address for messages: without user and password."""
    url = httpx.URL(proxy)
    return str(url.copy_with(userinfo=b"", raw_path=b"/")).rstrip("/")


def is_not_from_ollama(body: bytes) -> bool:
    """Whether the body of an error is unlike a server's, so that a proxy may have sent it."""
    return not body.lstrip().startswith(b"{")


def blaming_the_proxy(error: LLMError, proxy: str, url: str, *, given: bool) -> LLMError:
    """The error of a request that went through a proxy, saying so where the proxy may be at fault.

    Args:
        error: The error as it would be without a proxy.
        proxy: The proxy's address.
        url: The server's address.
        given: Whether the proxy was given by the caller; otherwise it is the environment's.
    """
    where = shown(proxy)
    advice = (
        "check `proxy`, or leave it out"
        if given
        else "check HTTP_PROXY, HTTPS_PROXY and ALL_PROXY, name the server in NO_PROXY, or pass trust_env=False"
    )
    original = error.original_error
    cause = original.__cause__ if original is not None else None
    if error.status_code == 407 or _answered(original, 407):
        return AuthenticationError(
            f"the proxy {where} on the way to {url} requires a login, or another one (407): write it into the proxy's "
            f"address (http://user:password@host:port), or {advice}",
            status_code=407,
            original_error=original,
        )
    if _is_refusal(original, cause):
        error.args = (f"the proxy {where} does not connect to {url} ({_said(original, cause)}); {advice}",)
        if any(_answered(original, status) for status in (400, 401, 403, 404, 405)):
            error.temporary = False
    elif isinstance(error, LLMTimeoutError) and error.deadline == "connect":
        error.args = (f"{error.message} (the connection is one to the proxy {where}: {advice})",)
    elif (
        isinstance(error, LLMConnectionError) and _is_of_connecting(original, cause) and not _is_behind(original, cause)
    ):
        error.args = (f"cannot connect to the proxy {where} on the way to {url} ({_said(original, cause)}); {advice}",)
    else:
        error.args = (f"{error.message} (through the proxy {where}, which may be at fault: {advice})",)
    return error


def _answered(original: BaseException | None, status: int) -> bool:
    """Whether a proxy answered a CONNECT with a status."""
    if not isinstance(original, httpx.ProxyError):
        return False
    return getattr(original.__cause__, "status", None) == status or str(original).startswith(str(status))


def _is_refusal(original: BaseException | None, cause: BaseException | None) -> bool:
    """Whether a proxy was reached and refused a tunnel."""
    return isinstance(original, httpx.ProxyError) and not type(cause).__name__.startswith("ClientProxyConnection")


def _is_of_connecting(original: BaseException | None, cause: BaseException | None) -> bool:
    names = ("ClientConnector", "ClientProxyConnection")
    return isinstance(original, (httpx.ConnectError, httpx.ProxyError)) or type(cause).__name__.startswith(names)


def _is_behind(original: BaseException | None, cause: BaseException | None) -> bool:
    """Whether the connection was established, and TLS or the host behind the proxy failed."""
    if not str(original):
        return True  # httpx does not distinguish a connection that breaks in the handshake
    while cause is not None:
        if isinstance(cause, (ssl.SSLError, ConnectionResetError)) or "SSL" in type(cause).__name__:
            return True
        cause = getattr(cause, "os_error", None) or cause.__cause__
    return False


def _said(original: BaseException | None, cause: BaseException | None) -> str:
    status = getattr(cause, "status", None)
    if isinstance(status, int):
        return f"{status} {getattr(cause, 'message', '')}".strip()
    reason = getattr(cause, "os_error", None) or original
    return " ".join(str(reason).split())[:200] or type(original).__name__
