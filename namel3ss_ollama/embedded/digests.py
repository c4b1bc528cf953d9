"""The integrity of weights: their SHA-256, computed once per file.

Damaged weights of the right size load, and produce nonsense. Hashing a gigabyte takes a few seconds, so the result is
cached, in this process and in the cache folder, while a file's size, time and inode do not change.
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
    """Check that a file has the expected digest.

    Args:
        path: The weights.
        expected: Their SHA-256, 64 hexadecimal digits.
        memory: The file that caches digests; it need not exist.

    Raises:
        Refused: The digest differs.
    """
    if sha256_of(path, memory) != expected:
        raise Refused(500, f"the weights in {path} are damaged: their SHA-256 is not {expected}; pull the model again")


def sha256_of(path: Path, memory: Path) -> str:
    """A file's SHA-256, computed if not cached; `memory` is as in `check`."""
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
    if _state(path) == state:  # else it is being written to
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
    except (OSError, ValueError, TypeError, AttributeError):  # missing or damaged: it is created again
        return {}


def _remember(key: str, state: _State, digest: str, memory: Path) -> None:
    with _writing:
        _known[key] = (state, digest)
        kept = {**_read(memory), key: (state, digest)}
        there = [(name, found) for name, found in kept.items() if Path(name).exists()][-_MOST_REMEMBERED:]
        with contextlib.suppress(OSError):  # a read-only folder: then only this process caches it
            memory.parent.mkdir(parents=True, exist_ok=True)
            handle, part = tempfile.mkstemp(prefix="digests-", dir=memory.parent)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({name: [*known, found] for name, (known, found) in there}, file)
            Path(part).replace(memory)
