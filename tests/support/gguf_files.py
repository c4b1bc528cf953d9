"""GGUF files for tests: a valid header with the minimum of weights, or the first layer of a real model."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TEXT_MODEL: Mapping[str, Any] = {
    "general.architecture": "llama",
    "general.file_type": 2,
    "llama.context_length": 2048,
    "llama.block_count": 2,
    "llama.embedding_length": 64,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "tokenizer.ggml.tokens": ["<s>", "</s>", "a"],
    "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.ggml.eos_token_id": 1,
}
"""The metadata of a text model."""
EMBEDDING_MODEL: Mapping[str, Any] = {
    "general.architecture": "bert",
    "bert.context_length": 512,
    "bert.pooling_type": 1,
}
_KINDS = {"B": 0, "b": 1, "H": 2, "h": 3, "I": 4, "i": 5, "f": 6, "?": 7, "Q": 10, "q": 11, "d": 12}
_LAYOUTS = {kind: layout for layout, kind in _KINDS.items()}
_STRING, _ARRAY = 8, 9
_ALIGNMENT = 32


@dataclass(frozen=True)
class As:
    """A value with a given layout, a letter of `struct`."""

    layout: str
    value: Any


def gguf(
    metadata: Mapping[str, Any] = TEXT_MODEL,
    tensors: Sequence[tuple[str, Sequence[int]]] = (("token_embd.weight", (64, 3)),),
    *,
    version: int = 3,
    data: bytes = b"\0" * 64,
) -> bytes:
    """A file's bytes.

    Args:
        metadata: Values by key: texts, numbers, lists of them, or `As`.
        tensors: Names and dimensions; all have the offset 0.
        version: The format's version.
        data: What follows the header.
    """
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, value in metadata.items():
        kind, content = _value(value)
        out += _text(key) + struct.pack("<I", kind) + content
    for name, dimensions in tensors:
        out += _text(name) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, 0, 0)
    return out + data


def write_gguf(path: Path, metadata: Mapping[str, Any] = TEXT_MODEL, **more: Any) -> Path:
    """Write a file, and create its folder; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gguf(metadata, **more))
    return path


def first_layer(model: bytes) -> bytes:
    """A model reduced to its first layer: the same tokenizer and template, but its text is nonsense."""
    tensors, entries = struct.unpack_from("<QQ", model, 8)
    at = began = struct.calcsize("<4sIQQ")
    metadata = bytearray()
    for _ in range(entries):
        key, at = _text_at(model, at)
        (kind,) = struct.unpack_from("<I", model, at)
        end = _end_of_value(model, at + 4, kind)
        metadata += model[began : at + 4]
        metadata += struct.pack("<I", 1) if key.endswith(".block_count") else model[at + 4 : end]
        at = began = end
    found: dict[int, tuple[str, bytes]] = {}
    for _ in range(tensors):
        name, end = _text_at(model, at)
        (dimensions,) = struct.unpack_from("<I", model, end)
        end += struct.calcsize(f"<I{dimensions}QI")
        (offset,) = struct.unpack_from("<Q", model, end)
        found[offset] = name, model[at:end]
        at = end + 8
    base = -(-at // _ALIGNMENT) * _ALIGNMENT
    ends = dict(itertools.pairwise([*sorted(found), len(model) - base]))
    kept = {offset: info for offset, (name, info) in found.items() if not name.startswith("blk.") or "blk.0." in name}
    infos, weights = b"", b""
    for offset, info in kept.items():
        infos += info + struct.pack("<Q", len(weights))
        weights += model[base + offset : base + ends[offset]]
        weights += b"\0" * (-len(weights) % _ALIGNMENT)
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(kept), entries) + bytes(metadata) + infos
    return head + b"\0" * (-len(head) % _ALIGNMENT) + weights


def _text_at(data: bytes, at: int) -> tuple[str, int]:
    """The text at an offset, and where it ends."""
    end = at + 8 + int(struct.unpack_from("<Q", data, at)[0])
    return data[at + 8 : end].decode(), end


def _end_of_value(data: bytes, at: int, kind: int) -> int:
    if kind == _STRING:
        return _text_at(data, at)[1]
    if kind != _ARRAY:
        return at + struct.calcsize("<" + _LAYOUTS[kind])
    kind, length = struct.unpack_from("<IQ", data, at)
    at += struct.calcsize("<IQ")
    if kind != _STRING:
        return at + int(length) * struct.calcsize("<" + _LAYOUTS[kind])
    for _ in range(length):
        at += 8 + struct.unpack_from("<Q", data, at)[0]
    return at


def _text(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> tuple[int, bytes]:
    if isinstance(value, As):
        return _KINDS[value.layout], struct.pack("<" + value.layout, value.value)
    if isinstance(value, str):
        return 8, _text(value)
    if isinstance(value, (list, tuple)):
        kinds = [_value(item) for item in value] or [(4, b"")]
        content = b"".join(content for _, content in kinds)
        return 9, struct.pack("<IQ", kinds[0][0], len(value)) + content
    layout = {bool: "?", int: "I", float: "f"}[type(value)]
    return _KINDS[layout], struct.pack("<" + layout, value)
