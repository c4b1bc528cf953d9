"""Find the images and audio in LlamaIndex messages, and fetch those given as web URLs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from llama_index.core.base.llms.types import (
    AudioBlock,
    ChatMessage,
    CitableBlock,
    CitationBlock,
    ImageBlock,
    MessageRole,
)

from namel3ss_ollama import Audio, Image, fetch_audio, fetch_image

__all__ = ["Media", "MediaBlock", "data_url", "fetch_media", "held", "need_reading", "on_the_web", "web_address"]

Media = Image | Audio
MediaBlock = ImageBlock | AudioBlock
_OF_ANSWERS = frozenset({MessageRole.ASSISTANT, MessageRole.CHATBOT, MessageRole.MODEL})


def held(block: MediaBlock) -> object:
    """The content inside a block: bytes in base64, a file object, or None."""
    return block.image if isinstance(block, ImageBlock) else block.audio


def web_address(block: MediaBlock) -> str | None:
    """The http or https URL of an image or audio; None if the content is in the block or in a file."""
    url = str(block.url or "")
    on_web = url.lower().startswith(("http:", "https:"))
    return url if on_web and held(block) is None and block.path is None else None


def data_url(block: MediaBlock) -> str:
    """The data URL of an image or audio, or "" if it has no URL.

    Raises:
        ValueError: It is another kind of URL. A file is read only if it is given as a path.
    """
    url = str(block.url or "")
    scheme = url.partition(":")[0].lower() if ":" in url else ""
    if not url or scheme == "data":
        return url
    name = type(block).__name__
    if scheme in ("", "file"):
        raise ValueError(f"the url names a file, not http or https; pass the file as {name}(path=...)")
    raise ValueError(f"the url of the {name} begins with {scheme + ':'!r:.20}; only http or https can be fetched")


def on_the_web(messages: Iterable[ChatMessage]) -> bool:
    """Whether any message has an image or audio that has to be fetched."""
    return any(web_address(block) for message in messages for block in _media(message))


def need_reading(messages: Iterable[ChatMessage]) -> bool:
    """Whether any message has an image or audio in a file, which may be slow to read."""
    return any(
        not isinstance(held(block), bytes) and (held(block) or block.path) is not None
        for message in messages
        for block in _media(message)
    )


async def fetch_media(messages: Sequence[ChatMessage], max_bytes: int) -> dict[str, Media]:
    """Fetch the images and audio given as web URLs, by URL; each URL is fetched once.

    Raises:
        ValueError: A URL is not http or https, or the content is too large, or neither an image nor audio.
        LLMConnectionError, LLMTimeoutError: A URL could not be fetched.
    """
    fetched: dict[str, Media] = {}
    for index, message in enumerate(messages):
        for block in _media(message):
            url = web_address(block)
            if url is None or url in fetched:
                continue
            fetch = fetch_image if isinstance(block, ImageBlock) else fetch_audio
            try:
                fetched[url] = await fetch(url, max_bytes=max_bytes)
            except ValueError as error:
                raise ValueError(f"messages[{index}]: {error}") from error
    return fetched


def _media(message: ChatMessage) -> Iterator[MediaBlock]:
    """The images and audio of a message that are sent to the model; audio in an assistant message is not."""
    for block in _flat(message.blocks):
        if isinstance(block, ImageBlock) or (isinstance(block, AudioBlock) and message.role not in _OF_ANSWERS):
            yield block


def _flat(blocks: Iterable[object]) -> Iterator[object]:
    for block in blocks:
        if isinstance(block, CitableBlock):
            yield from _flat(block.content)
        elif isinstance(block, CitationBlock):
            yield from _flat([block.cited_content])
        else:
            yield block
