"""Damaged weights are detected, and intact ones are hashed once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path

import pytest
from gguf_files import gguf, write_gguf
from ollama_store import Store

from namel3ss_ollama.embedded import binding, digests
from namel3ss_ollama.embedded.digests import check, sha256_of
from namel3ss_ollama.embedded.options import LoadOptions
from namel3ss_ollama.embedded.refusal import Refused
from namel3ss_ollama.embedded.store import find_model

LIBRARY = "registry.ollama.ai/library"
CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def _empty_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "_known", {})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def cache_file(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "digests.json"


def replace_undetectably(path: Path, content: bytes) -> None:
    """Write other content of the same size, and restore the time, so that only reading the file reveals it."""
    status = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_file_is_read_once(file: Path, cache_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(file, SHA256, cache_file)
    replace_undetectably(file, b"x" * len(CONTENT))
    check(file, SHA256, cache_file)  # remembered in this process
    monkeypatch.setattr(digests, "_known", {})
    check(file, SHA256, cache_file)  # and on disk for the next one
    cache_file.unlink()
    monkeypatch.setattr(digests, "_known", {})
    with pytest.raises(Refused, match=r"the weights in .* are damaged: .*; pull the model again") as refused:
        check(file, SHA256, cache_file)
    assert refused.value.status == 500


@pytest.mark.parametrize("change", ["size", "time", "inode"])
def test_a_file_that_changed_is_read_again(file: Path, cache_file: Path, change: str) -> None:
    assert sha256_of(file, cache_file) == SHA256
    if change == "size":
        replace_undetectably(file, CONTENT + b"x")
    elif change == "time":
        status = file.stat()
        file.write_bytes(CONTENT[::-1])
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))
    else:
        other = file.with_name("other")
        other.write_bytes(CONTENT[::-1])
        os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
        other.replace(file)
    assert sha256_of(file, cache_file) == hashlib.sha256(file.read_bytes()).hexdigest() != SHA256


@pytest.mark.parametrize("content", ["", "{", "[]", "7", '{"a": 1}', '{"a": [1, 2, "x", 4]}'])
def test_a_damaged_cache_is_rebuilt(file: Path, cache_file: Path, content: str) -> None:
    cache_file.parent.mkdir()
    cache_file.write_text(content)
    assert sha256_of(file, cache_file) == SHA256
    assert list(json.loads(cache_file.read_text())) == [str(file.resolve())]


def test_deleted_files_are_removed_from_the_cache(file: Path, cache_file: Path) -> None:
    sha256_of(file, cache_file)
    other = file.rename(file.with_name("other"))
    sha256_of(other, cache_file)
    assert list(json.loads(cache_file.read_text())) == [str(other.resolve())]


def test_a_cache_that_cannot_be_written(file: Path) -> None:
    cache_file = file / "digests.json"  # its folder is a file
    assert sha256_of(file, cache_file) == sha256_of(file, cache_file) == SHA256


def test_damaged_weights_are_not_loaded(store: Store) -> None:
    model = find_model("small")
    replace_undetectably(model.path, gguf(data=b"\1" * 64))
    for name in ("small", str(model.path)):
        with pytest.raises(Refused, match="are damaged: their SHA-256 is not"):
            binding.start(find_model(name), LoadOptions(), "text", 2)


# A file that is named by its path


def test_a_file_with_the_weights_of_a_model_in_the_store(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(find_model("small").path.read_bytes())
    link = tmp_path / "link.gguf"
    link.symlink_to(find_model("plain").path)
    other = write_gguf(tmp_path / "other.gguf", data=b"\2" * 64)
    with caplog.at_level(logging.WARNING, "namel3ss_ollama"):
        for _ in range(2):
            for path in (copy, link, other):
                assert find_model(str(path)).template == ""
    logged = [message.partition(":")[0] for message in (record.getMessage() for record in caplog.records)]
    assert logged == [f"{copy} holds the weights of small", f"{link} holds the weights of plain"]
    assert "latest: loaded by its path, a file has its own template" in caplog.text
