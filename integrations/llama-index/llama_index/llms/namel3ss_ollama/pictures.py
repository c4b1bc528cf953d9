"""Where the pictures of LlamaIndex's messages are, and how those on the web are fetched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from llama_index.core.base.llms.types import ChatMessage, CitableBlock, CitationBlock, ImageBlock

from namel3ss_ollama import Image, fetch_image

__all__ = ["data_url", "fetch_pictures", "need_reading", "on_the_web", "web_address"]


def web_address(block: ImageBlock) -> str | None:
    """The address of a picture that is on the web; None if it is in the block or in a file."""
    url = str(block.url or "")
    on_web = url.lower().startswith(("http:", "https:"))
    return url if on_web and block.image is None and block.path is None else None


def data_url(block: ImageBlock) -> str:
    """The data URL that a picture is given as, or "".

    Raises:
        ValueError: It is an address of another kind. A file is read only if it is given as a path.
    """
    url = str(block.url or "")
    scheme = url.partition(":")[0].lower() if ":" in url else ""
    if not url or scheme == "data":
        return url
    if scheme in ("", "file"):
        raise ValueError("the picture's url names a file, not http or https; pass the file as ImageBlock(path=...)")
    raise ValueError(f"the picture's url begins with {scheme + ':'!r:.20}; only http or https can be fetched")


def on_the_web(messages: Iterable[ChatMessage]) -> bool:
    """Whether a message has a picture that has to be fetched."""
    return any(web_address(block) for message in messages for block in _pictures(message.blocks))


def need_reading(messages: Iterable[ChatMessage]) -> bool:
    """Whether a message has a picture whose bytes are in a file, so that reading it can take long."""
    return any(
        not isinstance(block.image, bytes) and (block.image or block.path) is not None
        for message in messages
        for block in _pictures(message.blocks)
    )


async def fetch_pictures(messages: Sequence[ChatMessage], max_bytes: int) -> dict[str, Image]:
    """The pictures of the messages that are on the web, by address; each is fetched once.

    Raises:
        ValueError: An address is none of http or https, a picture is too large, or what came is no picture.
        LLMConnectionError, LLMTimeoutError: One could not be fetched.
    """
    fetched: dict[str, Image] = {}
    for index, message in enumerate(messages):
        for block in _pictures(message.blocks):
            url = web_address(block)
            if url is None or url in fetched:
                continue
            try:
                fetched[url] = await fetch_image(url, max_bytes=max_bytes)
            except ValueError as error:
                raise ValueError(f"messages[{index}]: {error}") from error
    return fetched


def _pictures(blocks: Iterable[object]) -> Iterator[ImageBlock]:
    for block in blocks:
        if isinstance(block, ImageBlock):
            yield block
        elif isinstance(block, CitableBlock):
            yield from _pictures(block.content)
        elif isinstance(block, CitationBlock):
            yield from _pictures([block.cited_content])
