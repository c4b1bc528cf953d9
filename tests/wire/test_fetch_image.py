"""Images from the web, which `fetch_image` downloads."""

from __future__ import annotations

import base64

import pytest

from namel3ss_ollama import LLMConnectionError, LLMTimeoutError, fetch_image
from namel3ss_ollama.testing import OllamaServer

IMAGE = b"\x89PNG\r\n\x1a\n" + b"x" * 1000


def serve(server: OllamaServer, kind: str = "image/png", content: bytes = IMAGE) -> str:
    server.reply("", path="/cat.png", body=content, headers={"Content-Type": kind})
    return f"{server.url}/cat.png"


async def test_an_image_is_fetched(ollama_server: OllamaServer) -> None:
    image = await fetch_image(serve(ollama_server))
    assert base64.b64decode(image.base64) == IMAGE
    ollama_server.fault("redirect", path="/moved", location=f"{ollama_server.url}/cat.png")
    assert await fetch_image(f"{ollama_server.url}/moved") == image


async def test_invalid_or_too_large_images_are_refused(ollama_server: OllamaServer) -> None:
    with pytest.raises(ValueError, match="text/html"):
        await fetch_image(serve(ollama_server, "text/html; charset=utf-8"))
    ollama_server.reset()
    with pytest.raises(ValueError, match="more than 999 bytes"):
        await fetch_image(serve(ollama_server), max_bytes=999)
    for url in ("file:///etc/passwd", "ftp://host/x", "cat.png", ""):
        with pytest.raises(ValueError, match="http or https"):
            await fetch_image(url)
    with pytest.raises(ValueError, match="max_bytes"):
        await fetch_image("http://x/", max_bytes=0)


async def test_failed_fetches(ollama_server: OllamaServer) -> None:
    with pytest.raises(LLMConnectionError, match="HTTPStatusError"):
        await fetch_image(f"{ollama_server.url}/nothing")
    ollama_server.fault("stall_before_headers")
    with pytest.raises(LLMTimeoutError):
        await fetch_image(f"{ollama_server.url}/cat.png", timeout=0.05)
    ollama_server.refuse()
    with pytest.raises(LLMConnectionError, match="ConnectError"):
        await fetch_image(f"{ollama_server.url}/cat.png")
