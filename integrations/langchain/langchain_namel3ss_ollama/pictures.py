"""Pictures that messages give as addresses, fetched by the user's own function or the core: here is no HTTP."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from langchain_core.messages import BaseMessage

from langchain_namel3ss_ollama.messages import image_urls
from namel3ss_ollama import Image, run_sync

__all__ = ["Loader", "aload_pictures", "load_pictures"]

Loader = Callable[[str], Any]


def load_pictures(messages: Sequence[BaseMessage], loader: Loader, limit: int) -> dict[str, Image]:
    """The picture at each address in the messages.

    Args:
        messages: The messages.
        loader: Fetches one, as bytes or an `Image`; plain or `async`.
        limit: The most bytes of one.

    Raises:
        TypeError: The loader returned neither bytes nor an `Image`.
        ValueError: A picture is larger than the limit.
    """
    pictures: dict[str, Image] = {}
    for url in image_urls(messages):
        content = loader(url)
        if inspect.isawaitable(content):
            content = run_sync(_awaited(content))
        pictures[url] = _checked(url, content, limit)
    return pictures


async def aload_pictures(messages: Sequence[BaseMessage], loader: Loader, limit: int) -> dict[str, Image]:
    """As `load_pictures`; a plain loader runs in a thread."""
    pictures: dict[str, Image] = {}
    for url in image_urls(messages):
        content = await (loader(url) if inspect.iscoroutinefunction(loader) else asyncio.to_thread(loader, url))
        if inspect.isawaitable(content):
            content = await content
        pictures[url] = _checked(url, content, limit)
    return pictures


async def _awaited(content: Awaitable[Any]) -> Any:
    return await content


def _checked(url: str, content: Any, limit: int) -> Image:
    if not isinstance(content, (bytes, bytearray, Image)):
        raise TypeError(f"image_loader: returned {type(content).__name__} for a picture, not bytes")
    image = content if isinstance(content, Image) else Image(content)
    size = len(image.base64) // 4 * 3 - image.base64[-2:].count("=")
    if size > limit:
        raise ValueError(f"image_loader: {url:.80} has {size} bytes, more than max_image_bytes")
    return image
