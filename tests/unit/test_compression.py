"""Compressed bodies, in chunks of any size and in both forms of deflate."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import AsyncIterator

import pytest

from namel3ss_ollama.compression import unpacked
from namel3ss_ollama.errors import MalformedResponseError

BODY = b'{"response": "' + bytes(range(32, 127)).replace(b'"', b"").replace(b"\\", b"") * 2000 + b'"}\n'


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


async def in_pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def read(data: bytes, size: int, encoding: str) -> bytes:
    return b"".join([piece async for piece in unpacked(in_pieces(data, size), encoding)])


@pytest.mark.parametrize("size", [1, 2, 3, 1000, 10**6])
@pytest.mark.parametrize(
    ("pack", "encoding"), [(zlib.compress, "deflate"), (raw_deflate, "Deflate"), (gzip.compress, "gzip")]
)
async def test_a_body_is_decompressed(pack: object, encoding: str, size: int) -> None:
    assert callable(pack)
    assert await read(pack(BODY) + b"what follows", size, encoding) == BODY
    assert await read(pack(b""), size, encoding) == b""


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"nonsense that is none"])
async def test_invalid_compressed_data_is_an_error(data: bytes) -> None:
    with pytest.raises(MalformedResponseError, match="does not decompress"):
        await read(data, 3, "deflate")
