"""Bodies that arrive compressed though nothing asked for that. No I/O."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterable, AsyncIterator

from typing_extensions import Self

from namel3ss_ollama.errors import MalformedResponseError

__all__ = ["unpacked"]

_PIECE = 64 * 1024
_HEADER = 2
"""Bytes of the header of zlib's format."""
_ENCODINGS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""The encodings of a body that are understood, and zlib's window bits for each."""


def unpacked(source: AsyncIterable[bytes], encoding: str) -> AsyncIterator[bytes]:
    """A body as it was before it was compressed.

    Args:
        source: The body as it comes.
        encoding: Its Content-Encoding.

    Raises:
        MalformedResponseError: While iterating: the encoding is none that is known, or the body does not decompress.
    """
    name = encoding.strip().lower()
    return source.__aiter__() if name in ("", "identity") else _Unpacked(source.__aiter__(), name)


class _Unpacked:
    """Decompresses in small pieces: a few bytes can stand for gigabytes, and it is the reader that has limits."""

    def __init__(self, source: AsyncIterator[bytes], encoding: str) -> None:
        self._source = source
        self._encoding = encoding
        self._unpacker = zlib.decompressobj(_ENCODINGS.get(encoding, 0))
        self._left = b""
        self._more = False
        self._undecided = encoding == "deflate"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._encoding not in _ENCODINGS:
            raise MalformedResponseError(
                f"the answer's body is compressed ({self._encoding[:40]!r}), and nothing asked for that; "
                "something between changes it"
            )
        unpacker = self._unpacker
        while True:
            while not self._more:
                self._left += await self._source.__anext__()
                if self._undecided:
                    if len(self._left) < _HEADER:
                        continue
                    self._undecided = False
                    if not _has_zlib_header(self._left):
                        self._unpacker = unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
                self._more = not unpacker.eof  # what follows the end is no part of the body
                self._left = self._left if self._more else b""
            try:
                piece = unpacker.decompress(self._left, _PIECE)
            except zlib.error as error:
                raise MalformedResponseError(
                    "the answer's body does not decompress; is something between that changes answers?",
                    original_error=error,
                ) from error
            self._left = unpacker.unconsumed_tail
            self._more = not unpacker.eof and (bool(self._left) or len(piece) == _PIECE)
            if piece:
                return piece


def _has_zlib_header(data: bytes) -> bool:
    """Whether it begins as RFC 9110, 8.4.1.2 wants `deflate`; some servers leave the header out."""
    return data[0] & 0x0F == zlib.DEFLATED and (data[0] << 8 | data[1]) % 31 == 0
