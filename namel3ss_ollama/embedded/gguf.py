"""The header of a GGUF file: a model's metadata, without its weights.

Only small values are kept: numbers, texts, and two tokens of the array of tokens, which chat templates need. The format
is that of the GGUF specification, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from namel3ss_ollama.embedded.refusal import Refused

__all__ = ["GGUF", "read_gguf"]

Scalar = int | float | bool | str
_FORMATS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_TOKENS = "tokenizer.ggml.tokens"
_MOST_DIMENSIONS = 8
_DEEPEST_ARRAY = 4
_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 32: "BF16",
}  # fmt: skip


@dataclass(frozen=True)
class GGUF:
    """The contents of a header.

    Attributes:
        metadata: The keys with one value; arrays are omitted.
        special_tokens: The texts of `tokenizer.ggml.bos_token_id` and `..eos_token_id`, by "bos" and "eos".
        parameters: The number of weights.
    """

    metadata: dict[str, Scalar]
    special_tokens: dict[str, str]
    parameters: int

    @property
    def architecture(self) -> str:
        """Such as "llama" or "bert"."""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def chat_template(self) -> str:
        """The model's own template (Jinja), or ""."""
        return str(self.metadata.get("tokenizer.chat_template", ""))

    @property
    def adds_bos(self) -> bool:
        """Whether tokenising a prompt adds its first token."""
        # The oldest kind of tokenizer does, unless the header says otherwise.
        oldest = self.metadata.get("tokenizer.ggml.model") == "llama"
        return bool(self.metadata.get("tokenizer.ggml.add_bos_token", oldest))

    @property
    def context_length(self) -> int:
        """The context window that the model was trained for, in tokens; 0 if unknown."""
        return self._number("context_length")

    @property
    def embeds_only(self) -> bool:
        """Whether the model only produces embeddings."""
        return self._number("pooling_type") > 0 or "bert" in self.architecture

    @property
    def quantization(self) -> str:
        """Such as "Q4_K_M"."""
        kind = self.metadata.get("general.file_type")
        return _FILE_TYPES.get(kind, "unknown") if isinstance(kind, int) else "unknown"

    @property
    def bytes_a_token(self) -> int:
        """The memory for a token of context in bytes, with the usual 16-bit cache."""
        heads = self._number("attention.head_count")
        width = self._number("embedding_length") // heads if heads else 0
        width = self._number("attention.key_length") or width
        return 4 * self._number("block_count") * (self._number("attention.head_count_kv") or heads) * width

    def _number(self, key: str) -> int:
        value = self.metadata.get(f"{self.architecture}.{key}")
        return max(value, 0) if type(value) is int else 0


def read_gguf(path: Path) -> GGUF:
    """Read a file's header.

    Raises:
        Refused: The file cannot be read, is not GGUF, or is truncated.
    """
    try:
        with path.open("rb") as file:
            return _read(_Reader(file), path)
    except OSError as error:
        raise Refused(400, f"{path} cannot be read: {error.strerror or error}") from error
    except EOFError as error:
        raise Refused(400, f"{path} is a damaged or truncated GGUF file: get it again") from error


def _read(reader: _Reader, path: Path) -> GGUF:
    if reader.take(min(4, reader.left)) != b"GGUF":
        raise Refused(400, f"{path} is not a GGUF file")
    version = reader.number("<I")
    if version not in (2, 3):
        raise Refused(400, f"{path} is a GGUF file of version {version}; versions 2 and 3 are supported")
    tensors, entries = reader.number("<Q"), reader.number("<Q")
    metadata: dict[str, Scalar] = {}
    tokens: list[str] = []
    for _ in range(entries):
        key = reader.text()
        kind = reader.number("<I")
        if kind == _STRING:
            metadata[key] = reader.text()
        elif kind != _ARRAY:
            metadata[key] = reader.scalar(kind)
        elif key == _TOKENS:
            tokens = reader.texts()
        else:
            reader.skip_array()
    parameters, furthest = 0, 0
    for _ in range(tensors):
        reader.skip(reader.number("<Q"))
        dimensions = reader.number("<I")
        if dimensions > _MOST_DIMENSIONS:
            raise EOFError
        parameters += math.prod(reader.unpack(f"<{dimensions}Q"))
        furthest = max(furthest, reader.unpack("<IQ")[1])
    if reader.left <= furthest or parameters >= 2**63:
        raise EOFError
    special = {name: metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos")}
    found = {name: tokens[i] for name, i in special.items() if type(i) is int and 0 <= i < len(tokens)}
    return GGUF(metadata, found, parameters)


class _Reader:
    """Reads a file sequentially; a read past its end raises EOFError.

    So a wrong length in a damaged file causes neither a huge allocation nor an endless loop.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.left = os.fstat(file.fileno()).st_size
        """The number of bytes left."""

    def take(self, length: int) -> bytes:
        self._pass(length)
        return self._file.read(length)

    def skip(self, length: int) -> None:
        self._pass(length)
        self._file.seek(length, os.SEEK_CUR)

    def _pass(self, length: int) -> None:
        if length > self.left:
            raise EOFError
        self.left -= length

    def unpack(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))

    def number(self, layout: str) -> int:
        return int(self.unpack(layout)[0])

    def text(self) -> str:
        return self.take(self.number("<Q")).decode("utf-8", "replace")

    def scalar(self, kind: int) -> Scalar:
        value: Scalar = self.unpack(_format(kind))[0]
        return value

    def texts(self) -> list[str]:
        """An array of texts; empty if it holds something else."""
        kind, length = self.unpack("<IQ")
        if kind != _STRING:
            self._skip_items(kind, length, 1)
            return []
        return [self.text() for _ in range(length)]

    def skip_array(self, depth: int = 1) -> None:
        kind, length = self.unpack("<IQ")
        self._skip_items(kind, length, depth)

    def _skip_items(self, kind: int, length: int, depth: int) -> None:
        if kind == _STRING:
            for _ in range(length):
                self.skip(self.number("<Q"))
        elif kind != _ARRAY:
            self.skip(length * struct.calcsize(_format(kind)))
        elif depth == _DEEPEST_ARRAY:
            raise EOFError
        else:
            for _ in range(length):
                self.skip_array(depth + 1)


def _format(kind: int) -> str:
    if kind not in _FORMATS:
        raise EOFError
    return _FORMATS[kind]
