"""The headers of requests: those of every request, and those of one call. Checked before anything is sent.

The caller's headers override the provider's, and a call's headers override both, `Authorization` included.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

from namel3ss_ollama._version import __version__

__all__ = ["checked_headers", "headers_of_all"]

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")  # RFC 9110, 5.6.2, in lower case
_FRAMING = frozenset({"connection", "content-length", "transfer-encoding", "upgrade"})


def headers_of_all(
    given: Mapping[str, Any] | None,
    *,
    api_key: str | None,
    environment_key: str,
    user: str | None,
    password: str | None,
) -> dict[str, str]:
    """The headers of every request of a provider.

    Args:
        given: The caller's headers.
        api_key: A bearer key; None for the one in the environment.
        environment_key: The key in the environment, or "".
        user: The user in the address, if there is one.
        password: The password in the address.

    Raises:
        TypeError, ValueError: A header or the key cannot be sent.
    """
    if api_key is not None and user is not None:
        raise ValueError("api_key: base_url holds a user and password already; give one of them")
    headers = {"user-agent": f"namel3ss-ollama/{__version__}", "accept-encoding": "identity"}
    key = api_key if api_key is not None else environment_key
    if user is not None:
        headers["authorization"] = _basic_auth(user, password or "")
    elif key:
        headers["authorization"] = _checked("api_key", "authorization", f"Bearer {key}")
    return {**headers, **checked_headers(given)}


def _basic_auth(user: str, password: str) -> str:
    """The value of an Authorization header (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")


def checked_headers(given: Mapping[str, Any] | None) -> dict[str, str]:
    """The caller's headers, with names in lower case.

    Raises:
        TypeError: The headers are not a mapping.
        ValueError: A name or value has invalid characters, or the header frames the request (Content-Length, ...).
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(f"headers: expected a mapping of names to values, not {type(given).__name__}")
    headers: dict[str, str] = {}
    for name, value in given.items():
        if not isinstance(name, str):
            raise TypeError(f"headers: expected a text as a name, not {type(name).__name__}")
        lowered = name.lower()
        if lowered in _FRAMING:
            raise ValueError(f"headers: {lowered!r} frames the request and is set by the client; leave it out")
        headers[lowered] = _checked(f"headers: {lowered!r}", lowered, value)
    return headers


def _checked(what: str, name: str, value: object) -> str:
    if not (_NAME.fullmatch(name) and isinstance(value, str) and value.isascii() and value.isprintable()):
        raise ValueError(f"{what}: has characters that cannot be in a header (control characters, or not ASCII)")
    return value
