"""Downloading an image or audio from a URL, for applications that allow it."""

from __future__ import annotations

from typing import Literal

import httpx

from namel3ss_ollama.compression import unpacked
from namel3ss_ollama.errors import LLMConnectionError
from namel3ss_ollama.media import Audio, Image
from namel3ss_ollama.settings import StreamConfig, check_positive
from namel3ss_ollama.streamer import Watch

__all__ = ["fetch_audio", "fetch_image"]

_Kind = Literal["audio", "image"]
"""What is fetched: the main MIME type, and the name in error messages."""


async def fetch_image(url: str, *, max_bytes: int = 20_000_000, timeout: float = 30.0) -> Image:
    """Download an image from a URL. Never called implicitly.

    Security: anyone who controls the URL can make this machine contact any host within its reach (server-side request
    forgery, SSRF). Pass only URLs from trusted sources.

    Args:
        url: An http or https URL.
        max_bytes: The size limit, in bytes.
        timeout: The limit for the download, in seconds.

    Raises:
        ValueError: The URL is neither http nor https, the image is too large, or the content is not an image.
        LLMConnectionError: The download failed.
        LLMTimeoutError: It took too long.
    """
    return Image(await _fetch("image", url, max_bytes, timeout))


async def fetch_audio(url: str, *, max_bytes: int = 20_000_000, timeout: float = 30.0) -> Audio:
    """Download audio from a URL. Never called implicitly; the security note of `fetch_image` applies.

    Args:
        url: An http or https URL.
        max_bytes: The size limit, in bytes.
        timeout: The limit for the download, in seconds.

    Raises:
        ValueError: The URL is neither http nor https, the recording is too large, or it is neither WAV nor MP3.
        LLMConnectionError: The download failed.
        LLMTimeoutError: It took too long.
    """
    return Audio(await _fetch("audio", url, max_bytes, timeout))


async def _fetch(kind: _Kind, url: str, max_bytes: int, timeout: float) -> bytearray:
    check_positive("max_bytes", max_bytes, integer=True)
    if not url.lower().startswith(("http://", "https://")):
        raise ValueError(f"{kind}: only an http or https address can be fetched")
    watch = Watch(StreamConfig(first_chunk_timeout=None, chunk_timeout=None), timeout)
    try:
        return await watch.guard(lambda: _download(kind, url, max_bytes), idle=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise LLMConnectionError(
            f"the {kind} cannot be fetched: {type(error).__name__}", original_error=error
        ) from error
    finally:
        watch.close()


async def _download(kind: _Kind, url: str, max_bytes: int) -> bytearray:
    headers = {"accept-encoding": "identity"}
    async with (
        httpx.AsyncClient(follow_redirects=True, max_redirects=3, headers=headers) as http,
        http.stream("GET", url) as response,
    ):
        response.raise_for_status()
        told = response.headers.get("content-type", f"{kind}/").partition(";")[0].strip().lower()
        if not told.startswith(f"{kind}/") and told != "application/octet-stream":
            raise ValueError(f"{kind}: the address has {told}, not {'an image' if kind == 'image' else 'audio'}")
        content = bytearray()
        async for piece in unpacked(response.aiter_raw(), response.headers.get("content-encoding", "identity")):
            content += piece
            if len(content) > max_bytes:
                raise ValueError(f"{kind}: the {kind} has more than {max_bytes} bytes")
        return content
