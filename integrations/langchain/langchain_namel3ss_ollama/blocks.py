"""Content blocks of several providers and of three versions of LangChain, converted to text, images and audio.

One rule covers all of them. Text in a block of any shape (a refusal, a text document, a search result) is text, an
image is an image, and audio is audio. A block without any of these raises in human, system and tool messages, because
the model would not see what it is asked about. In AI messages it is dropped, and so is audio: there it records what
another provider did on its side. A marker without content (a cache point) is dropped everywhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from langchain_core.messages import HumanMessage
from pydantic_core import to_json

from namel3ss_ollama import Audio, Image

__all__ = ["SILENT", "Fetched", "Kind", "Media", "media_addresses", "read_answer_block", "read_content"]

Media = Image | Audio
Kind = type[Image] | type[Audio]
Fetched = Mapping[str, Media]
SILENT = frozenset(
    {"tool_use", "tool_call", "tool_call_chunk", "invalid_tool_call", "function_call", "input_json_delta"}
)
"""Block types that repeat the message's `tool_calls`."""
_MARKERS = frozenset({"cachePoint", "cache_point"})


def read_content(message: str, content: Any, fetched: Fetched) -> tuple[str, list[Media]]:
    """Text, images and audio of a message.

    Args:
        message: The name of the message in errors.
        content: Its content: text, or a list of blocks.
        fetched: The media given as URLs, by URL.

    Raises:
        ValueError: A block has content that Ollama does not support.
    """
    if isinstance(content, str):
        return content, []
    texts: list[str] = []
    media: list[Media] = []
    for block in content:
        _read_block(message, block, texts, media, fetched)
    return "\n".join(texts), media


def read_answer_block(block: Any, texts: list[str], images: list[Image], fetched: Fetched) -> None:
    """Read text or an image from a block of an AI message; audio and unsupported content are dropped."""
    media: list[Media] = []
    with contextlib.suppress(ValueError):
        _read_block("AIMessage", block, texts, media, fetched)
    images += [one for one in media if isinstance(one, Image)]


def media_addresses(content: Iterable[Any]) -> Iterator[tuple[str, Kind]]:
    """The URLs of images and audio, including those in tool results."""
    for block in content:
        if isinstance(block, Mapping):
            with contextlib.suppress(ValueError):  # reading the block raises this, or drops the block
                for kind, source in _sources(block):
                    if isinstance(source, str) and _is_address(source):
                        yield source, kind
            if isinstance(block.get("content"), list):  # a tool result may have some
                yield from media_addresses(block["content"])


def _read_block(message: str, block: Any, texts: list[str], media: list[Media], fetched: Fetched) -> None:
    if isinstance(block, str):
        texts.append(block)
        return
    kind = block.get("type")
    if kind in SILENT or kind in _MARKERS or (kind is None and _MARKERS & block.keys()):
        return
    if found := _sources(block):
        media += [_medium(kind, source, fetched) for kind, source in found]
    elif (text := _text_in(block)) is not None:
        texts.append(text)
    elif kind == "non_standard" and isinstance(block.get("value"), (str, Mapping)):
        _read_block(message, block["value"], texts, media, fetched)
    else:
        _read_unusual(message, block, texts, media, fetched)


def _text_in(block: Mapping[str, Any]) -> str | None:
    """The text of a block; None if it has none."""
    kind = block.get("type")
    if kind in {"text", "input_text", "output_text"}:
        return str(block.get("text") or "")  # some providers write null for an empty text
    for name in ("text", "refusal"):
        if isinstance(value := block.get(name), str):
            return value
    if kind is None and block.keys() == {"json"}:  # Bedrock's form of a tool result
        return to_json(block["json"]).decode()
    if kind not in {"document", "search_result"}:
        return None
    source = block.get("source")
    if isinstance(source, Mapping) and source.get("type") == "text" and isinstance(source.get("data"), str):
        return cast("str", source["data"])
    within = source.get("content") if isinstance(source, Mapping) else block.get("content")
    if isinstance(within, str):
        return within
    if not isinstance(within, list):
        return None
    found = [_text_in(part) if isinstance(part, Mapping) else None for part in within]
    return "\n".join(text for text in found if text) if None not in found else None


def _read_unusual(message: str, block: Any, texts: list[str], media: list[Media], fetched: Fetched) -> None:
    """Read a block of a shape that LangChain may know how to normalise."""
    for known in _normalised(block):
        if (text := _text_in(known)) is not None:
            texts.append(text)
        elif known.get("type") in {"image", "audio"} and (found := _sources(known)):
            media += [_medium(kind, source, fetched) for kind, source in found]
        else:
            named = block.get("type") or next(iter(block), None)
            raise ValueError(f"messages: a block of type {named!r} in a {message}; Ollama takes text, images and audio")


def _normalised(block: Any) -> list[Mapping[str, Any]]:
    """A block as LangChain normalises it; unchanged if LangChain cannot."""
    try:
        return cast("list[Mapping[str, Any]]", HumanMessage(content=[block]).content_blocks) or [block]
    except Exception:  # any, such as KeyError, where a block lacks keys; `_read_unusual` then says what is wrong
        return [block]


def _sources(block: Mapping[str, Any]) -> list[tuple[Kind, str | bytes]]:
    """The image or audio of a block, as base64, a data URL, a URL or bytes; empty for other blocks."""
    if (source := _image_source(block)) is not None:
        return [(Image, source)]
    if (source := _audio_source(block)) is not None:
        return [(Audio, source)]
    return []


def _image_source(block: Mapping[str, Any]) -> str | bytes | None:
    kind = block.get("type")
    if kind in {"image_url", "input_image"}:
        value = block.get("image_url")
        value = value.get("url") if isinstance(value, Mapping) else value
        if isinstance(value, str) and value:
            return value
        raise ValueError(f"messages: a block of type {kind!r} needs a string as its image_url, or as the url in it")
    return _content_of(block, "image", "an image")


def _audio_source(block: Mapping[str, Any]) -> str | bytes | None:
    if block.get("type") == "input_audio":  # OpenAI's form
        value = block.get("input_audio")
        value = value.get("data") if isinstance(value, Mapping) else value
        if isinstance(value, str) and value:
            return value
        raise ValueError("messages: a block of type 'input_audio' needs base64 as the data of its input_audio")
    return _content_of(block, "audio", "audio")


def _content_of(block: Mapping[str, Any], kind: str, what: str) -> str | bytes | None:
    """The content of a block of type `kind`, or of a Google `media` block with a MIME type of that kind."""
    if block.get("type") == "media" and str(block.get("mime_type", "")).startswith(f"{kind}/"):
        value = block.get("data")
        return value if isinstance(value, (str, bytes)) else None
    if block.get("type") != kind:
        return None
    source = block.get("source")
    place = source if isinstance(source, Mapping) else block
    for name in ("base64", "data", "url"):
        if isinstance(value := place.get(name), (str, bytes)) and value:
            return value
    if block.get("file_id") or (block.get("id") and block.get("source_type") == "id"):
        raise ValueError(f"messages: {what} given as a file id; Ollama stores no files, pass the content")
    return None


def _is_address(source: str) -> bool:
    return "://" in source[:20]


def _medium(kind: Kind, source: str | bytes, fetched: Fetched) -> Media:
    if isinstance(source, str) and _is_address(source):
        if source not in fetched:
            what = "an image" if kind is Image else "audio"
            raise ValueError(
                f"messages: {what} given as a URL, but Ollama takes only its content; pass it as base64, set "
                "allow_image_urls=True to have it fetched, or set image_loader to a function that fetches it"
            )
        return fetched[source]
    return kind(source)
