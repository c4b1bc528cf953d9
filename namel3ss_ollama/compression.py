"""Bodies that arrive compressed although no compression was requested. No I/O."""

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
"""The supported content encodings, and zlib's window bits for each."""


def unpacked(source: AsyncIterable[bytes], encoding: str) -> AsyncIterator[bytes]:
    """A body, decompressed.

    Args:
        source: The body as received.
        encoding: Its Content-Encoding.

    Raises:
        MalformedResponseError: While iterating: the encoding is not supported, or the body does not decompress.
    """
    name = encoding.strip().lower()
    return source.__aiter__() if name in ("", "identity") else _Unpacked(source.__aiter__(), name)


class _Unpacked:
    """Decompresses in small pieces: a few bytes can expand to gigabytes, and the limits are the reader's."""

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
                f"the response body is compressed ({self._encoding[:40]!r}), although that was not requested; "
                "a proxy in between changes it"
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
                self._more = not unpacker.eof  # data after the end is not part of the body
                self._left = self._left if self._more else b""
            try:
                piece = unpacker.decompress(self._left, _PIECE)
            except zlib.error as error:
                raise MalformedResponseError(
                    "the response body does not decompress; does a proxy in between change it?",
                    original_error=error,
                ) from error
            self._left = unpacker.unconsumed_tail
            self._more = not unpacker.eof and (bool(self._left) or len(piece) == _PIECE)
            if piece:
                return piece


def _has_zlib_header(data: bytes) -> bool:
    """Whether it begins with zlib's header, as RFC 9110, 8.4.1.2 requires for `deflate`; some servers omit it."""
    return data[0] & 0x0F == zlib.DEFLATED and (data[0] << 8 | data[1]) % 31 == 0
