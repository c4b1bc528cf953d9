"""The header of a GGUF file: what a model says of itself, without its weights.

Only what is small is kept: numbers, texts, and of the arrays the one with the tokens, of which a chat template needs
two. The format is that of the GGUF specification, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from namel3ss_ollama.embedded.refusal import Refused

__all__ = ["GGUF", "read_gguf"]

Scalar = int | float | bool | str
_FORMATS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_TOKENS = "tokenizer.ggml.tokens"
_LONGEST_TEXT = 64 * 1024 * 1024
_MOST_ENTRIES = 1_000_000
_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 32: "BF16",
}  # fmt: skip


@dataclass(frozen=True)
class GGUF:
    """What the header says.

    Attributes:
        metadata: The keys with one value; arrays are left out.
        special_tokens: The texts of `tokenizer.ggml.bos_token_id` and `..eos_token_id`, by "bos" and "eos".
        parameters: How many weights there are.
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
        """The template (Jinja) that the model came with, or ""."""
        return str(self.metadata.get("tokenizer.chat_template", ""))

    @property
    def context_length(self) -> int:
        """The context window that the model was trained for, in tokens; 0 where it does not say."""
        return self._number("context_length")

    @property
    def embeds_only(self) -> bool:
        """Whether the model makes embeddings and no text."""
        return self._number("pooling_type") > 0 or "bert" in self.architecture

    @property
    def quantization(self) -> str:
        """Such as "Q4_K_M"."""
        kind = self.metadata.get("general.file_type")
        return _FILE_TYPES.get(kind, "unknown") if isinstance(kind, int) else "unknown"

    @property
    def bytes_a_token(self) -> int:
        """What a token of context takes in memory, with the usual 16-bit cache."""
        heads = self._number("attention.head_count")
        width = self._number("embedding_length") // heads if heads else 0
        width = self._number("attention.key_length") or width
        return 4 * self._number("block_count") * (self._number("attention.head_count_kv") or heads) * width

    def _number(self, key: str) -> int:
        value = self.metadata.get(f"{self.architecture}.{key}", 0)
        return int(value) if isinstance(value, (int, float)) else 0


def read_gguf(path: Path) -> GGUF:
    """Read a file's header.

    Raises:
        Refused: The file cannot be read, is no GGUF, or ends too early.
    """
    try:
        with path.open("rb") as file:
            return _read(file, path)
    except OSError as error:
        raise Refused(400, f"{path} cannot be read: {error.strerror or error}") from error
    except (struct.error, EOFError, UnicodeDecodeError, KeyError, OverflowError) as error:
        raise Refused(400, f"{path} is a damaged or truncated GGUF file: get it again") from error


def _read(file: BinaryIO, path: Path) -> GGUF:
    if file.read(4) != b"GGUF":
        raise Refused(400, f"{path} is not a GGUF file")
    (version,) = _unpack(file, "<I")
    if version not in (2, 3):
        raise Refused(400, f"{path} is a GGUF file of version {version}; versions 2 and 3 can be read")
    tensors, entries = _unpack(file, "<QQ")
    if tensors > _MOST_ENTRIES or entries > _MOST_ENTRIES:
        raise EOFError
    metadata: dict[str, Scalar] = {}
    tokens: list[str] = []
    for _ in range(entries):
        key = _text(file)
        (kind,) = _unpack(file, "<I")
        if kind != _ARRAY:
            metadata[key] = _text(file) if kind == _STRING else _unpack(file, _FORMATS[kind])[0]
        elif key == _TOKENS:
            tokens = _array(file)
        else:
            _array(file, keep=False)
    parameters, furthest = 0, 0
    for _ in range(tensors):
        _text(file)
        (dimensions,) = _unpack(file, "<I")
        parameters += math.prod(_unpack(file, f"<{dimensions}Q"))
        furthest = max(furthest, _unpack(file, "<IQ")[1])
    if file.tell() + furthest >= path.stat().st_size:
        raise EOFError
    special = {name: metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos")}
    found = {name: tokens[i] for name, i in special.items() if isinstance(i, int) and i < len(tokens)}
    return GGUF(metadata, found, parameters)


def _unpack(file: BinaryIO, layout: str) -> tuple[int, ...]:
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _text(file: BinaryIO) -> str:
    (length,) = _unpack(file, "<Q")
    if length > _LONGEST_TEXT:
        raise EOFError
    data = file.read(length)
    if len(data) < length:
        raise EOFError
    return data.decode("utf-8", "replace")


def _array(file: BinaryIO, *, keep: bool = True) -> list[str]:
    kind, length = struct.unpack("<IQ", file.read(12))
    read: Callable[[BinaryIO], str]
    if kind == _STRING:
        read = _text if keep else _skip_text
    elif kind == _ARRAY:
        read = _skip_array
    else:
        file.seek(length * struct.calcsize(_FORMATS[kind]), 1)
        return []
    values: list[str] = []
    for _ in range(length):
        value = read(file)
        if keep:
            values.append(value)
    return values


def _skip_text(file: BinaryIO) -> str:
    (length,) = _unpack(file, "<Q")
    if length > _LONGEST_TEXT:
        raise EOFError
    file.seek(length, 1)
    return ""


def _skip_array(file: BinaryIO) -> str:
    _array(file, keep=False)
    return ""
