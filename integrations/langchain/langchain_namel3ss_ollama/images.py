"""Fetch images and audio given as URLs, with the user's own function or with the core: no HTTP here."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from langchain_core.messages import BaseMessage

from langchain_namel3ss_ollama.blocks import Kind, Media
from langchain_namel3ss_ollama.messages import media_urls
from namel3ss_ollama import Audio, Image, run_sync

__all__ = ["Loader", "aload_media", "load_media"]

Loader = Callable[[str], Any]


def load_media(messages: Sequence[BaseMessage], loaders: Mapping[Kind, Loader], limit: int) -> dict[str, Media]:
    """Fetch the media at each URL in the messages.

    Args:
        messages: The messages.
        loaders: Functions, sync or async, that fetch an image or audio as bytes or as an `Image` or `Audio`.
        limit: The maximum size of each, in bytes.

    Raises:
        TypeError: A loader returned something else.
        ValueError: The content is larger than the limit, or not audio.
    """
    media: dict[str, Media] = {}
    for url, kind in media_urls(messages).items():
        content = loaders[kind](url)
        if inspect.isawaitable(content):
            content = run_sync(_awaited(content))
        media[url] = _checked(url, kind, content, limit)
    return media


async def aload_media(messages: Sequence[BaseMessage], loaders: Mapping[Kind, Loader], limit: int) -> dict[str, Media]:
    """Async version of `load_media`; a sync loader runs in a thread."""
    media: dict[str, Media] = {}
    for url, kind in media_urls(messages).items():
        loader = loaders[kind]
        content = await (loader(url) if inspect.iscoroutinefunction(loader) else asyncio.to_thread(loader, url))
        if inspect.isawaitable(content):
            content = await content
        media[url] = _checked(url, kind, content, limit)
    return media


async def _awaited(content: Awaitable[Any]) -> Any:
    return await content


def _checked(url: str, kind: Kind, content: Any, limit: int) -> Media:
    if not isinstance(content, (bytes, bytearray, kind)):
        what = "an image" if kind is Image else "audio"
        raise TypeError(f"image_loader: returned {type(content).__name__} for {what}, not bytes")
    medium = content if isinstance(content, (Image, Audio)) else kind(content)
    if medium.size > limit:
        raise ValueError(f"image_loader: {url:.80} has {medium.size} bytes, more than max_image_bytes")
    return medium
