"""Options that the server ignores, which it reports only in its own log: one warning each."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from namel3ss_ollama.server_version import ServerVersion

__all__ = ["IgnoredOptions"]

logger = logging.getLogger("namel3ss_ollama")
_UNTIL = {
    "numa": "0.3.4",
    "tfs_z": "0.5.2",
    "penalize_newline": "0.5.5",
    **dict.fromkeys(("low_vram", "mirostat", "mirostat_eta", "mirostat_tau", "use_mlock", "vocab_only"), "0.7.0"),
}
"""The first version of Ollama without an option, by `api.Options` of its releases."""
_SINCE = {"draft_num_predict": "0.30.0"}
"""The first version with an option."""
_OPTIONS = _UNTIL.keys() | _SINCE.keys()
_OLDEST = "0.5"
"""Lower versions are development builds, which report 0.0.0."""


class IgnoredOptions:
    """Warns of options that a server ignores, once each, if its version is known; no request is made for that.

    Args:
        version: The server's.
    """

    def __init__(self, version: ServerVersion) -> None:
        self._version = version
        self._warned: set[str] = set()

    def check(self, options: Iterable[str]) -> None:
        """Check the names of a request's options."""
        for name in sorted(_OPTIONS.intersection(options) - self._warned):
            if self._ignores(name):
                self._warned.add(name)
                logger.warning("the server ignores the option %s: %s; leave it out", name, _reason(name))

    def _ignores(self, name: str) -> bool:
        if name in _UNTIL:
            return self._version.at_least(_UNTIL[name])
        return self._version.before(_SINCE[name]) and self._version.at_least(_OLDEST)


def _reason(name: str) -> str:
    if name in _UNTIL:
        return f"Ollama dropped it in {_UNTIL[name]}"
    return f"Ollama supports it since {_SINCE[name]}, and the server is older"
