"""Whether weights are what they should be: their SHA-256, computed once a file.

Weights that are damaged but whole in size load, and answer nonsense. A gigabyte takes a few seconds to digest, so what
came out is remembered, in this process and in the cache folder, for as long as a file's size, time and inode stay.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import threading
from pathlib import Path

from namel3ss_ollama.embedded.refusal import Refused

__all__ = ["check", "sha256_of"]

_PIECE = 1024 * 1024
_MOST_REMEMBERED = 1000
_State = tuple[int, int, int]


def check(path: Path, expected: str, memory: Path) -> None:
    """Make sure that a file is what it should be.

    Args:
        path: The weights.
        expected: Their SHA-256, 64 hexadecimal digits.
        memory: The file that remembers digests; it need not be there.

    Raises:
        Refused: It is something else.
    """
    if sha256_of(path, memory) != expected:
        raise Refused(500, f"the weights in {path} are damaged: their SHA-256 is not {expected}; pull the model again")


def sha256_of(path: Path, memory: Path) -> str:
    """A file's SHA-256, computed where it is not remembered; `memory` is as for `check`."""
    key, state = os.path.realpath(path), _state(path)
    if key not in _known:
        _known.update({known: found for known, found in _read(memory).items() if known not in _known})
    remembered = _known.get(key)
    if remembered is not None and remembered[0] == state:
        return remembered[1]
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    if _state(path) == state:  # else somebody writes to it
        _remember(key, state, digest.hexdigest(), memory)
    return digest.hexdigest()


_known: dict[str, tuple[_State, str]] = {}
_writing = threading.Lock()


def _state(path: Path) -> _State:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def _read(memory: Path) -> dict[str, tuple[_State, str]]:
    try:
        entries = json.loads(memory.read_bytes())
        return {str(key): ((int(size), int(time), int(inode)), str(digest))
                for key, (size, time, inode, digest) in entries.items()}  # fmt: skip
    except (OSError, ValueError, TypeError, AttributeError):  # none yet, or damaged: it is made again
        return {}


def _remember(key: str, state: _State, digest: str, memory: Path) -> None:
    with _writing:
        _known[key] = (state, digest)
        kept = {**_read(memory), key: (state, digest)}
        there = [(name, found) for name, found in kept.items() if Path(name).exists()][-_MOST_REMEMBERED:]
        with contextlib.suppress(OSError):  # a folder that cannot be written to: then this process alone remembers
            memory.parent.mkdir(parents=True, exist_ok=True)
            handle, part = tempfile.mkstemp(prefix="digests-", dir=memory.parent)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({name: [*known, found] for name, (known, found) in there}, file)
            Path(part).replace(memory)
