"""Downloading an image from a URL, for applications that allow that."""

from __future__ import annotations

import httpx

from namel3ss_ollama.compression import unpacked
from namel3ss_ollama.errors import LLMConnectionError
from namel3ss_ollama.settings import StreamConfig, check_positive
from namel3ss_ollama.streamer import Watch
from namel3ss_ollama.types import Image

__all__ = ["fetch_image"]


async def fetch_image(url: str, *, max_bytes: int = 20_000_000, timeout: float = 30.0) -> Image:
    """Download an image from a URL. Never called implicitly.

    Security: whoever controls the URL can make this machine contact any host that it can reach (SSRF). Pass only URLs
    of people whom you trust with that.

    Args:
        url: An http or https URL.
        max_bytes: The largest image that is taken, in bytes.
        timeout: A bound on the download, in seconds.

    Raises:
        ValueError: The URL is neither http nor https, the image is too large, or what came is no image.
        LLMConnectionError: The download failed.
        LLMTimeoutError: It took too long.
    """
    check_positive("max_bytes", max_bytes, integer=True)
    if not url.lower().startswith(("http://", "https://")):
        raise ValueError("image: only an http or https address can be fetched")
    watch = Watch(StreamConfig(first_chunk_timeout=None, chunk_timeout=None), timeout)
    try:
        return Image(await watch.guard(lambda: _fetch(url, max_bytes), idle=False))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise LLMConnectionError(
            f"the image cannot be fetched: {type(error).__name__}", original_error=error
        ) from error
    finally:
        watch.close()


async def _fetch(url: str, max_bytes: int) -> bytearray:
    headers = {"accept-encoding": "identity"}
    async with (
        httpx.AsyncClient(follow_redirects=True, max_redirects=3, headers=headers) as http,
        http.stream("GET", url) as response,
    ):
        response.raise_for_status()
        kind = response.headers.get("content-type", "image/").partition(";")[0].strip().lower()
        if not kind.startswith("image/") and kind != "application/octet-stream":
            raise ValueError(f"image: the address has {kind}, not an image")
        content = bytearray()
        async for piece in unpacked(response.aiter_raw(), response.headers.get("content-encoding", "identity")):
            content += piece
            if len(content) > max_bytes:
                raise ValueError(f"image: the image has over {max_bytes} bytes")
        return content
