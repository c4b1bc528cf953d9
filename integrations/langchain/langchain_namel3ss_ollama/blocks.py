"""Blocks of content, in the shapes of several vendors and of three versions of LangChain, as text and pictures.

One rule for all of them. Text in a block of any shape (a refusal, a document that is text, a search result) is text,
and a picture is a picture. A block that has neither is an error in what the model is asked (human, system and tool
messages), because the model would not see what it is asked about. It is left out of what a model said before: there it
records what another provider did on its side. A marker that holds nothing (a cache point) is left out everywhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from langchain_core.messages import HumanMessage
from pydantic_core import to_json

from namel3ss_ollama import Image

__all__ = ["SILENT", "Pictures", "picture_addresses", "read_answer_block", "read_content"]

Pictures = Mapping[str, Image]
SILENT = frozenset(
    {"tool_use", "tool_call", "tool_call_chunk", "invalid_tool_call", "function_call", "input_json_delta"}
)
"""Blocks that repeat what the message's `tool_calls` say."""
_MARKERS = frozenset({"cachePoint", "cache_point"})


def read_content(message: str, content: Any, pictures: Pictures) -> tuple[str, list[Image]]:
    """Text and pictures of a message.

    Args:
        message: What the message is called in an error.
        content: Its content: text, or a list of blocks.
        pictures: The pictures that are given as addresses.

    Raises:
        ValueError: A block that Ollama has no place for.
    """
    if isinstance(content, str):
        return content, []
    texts: list[str] = []
    images: list[Image] = []
    for block in content:
        _read_block(message, block, texts, images, pictures)
    return "\n".join(texts), images


def read_answer_block(block: Any, texts: list[str], images: list[Image], pictures: Pictures) -> None:
    """Text or picture of a block in what a model said; what Ollama has no place for is left out."""
    with contextlib.suppress(ValueError):
        _read_block("AIMessage", block, texts, images, pictures)


def picture_addresses(content: Iterable[Any]) -> Iterator[str]:
    """The addresses of pictures, those within the results of tools included."""
    for block in content:
        if isinstance(block, Mapping):
            with contextlib.suppress(ValueError):  # that is said, or the block left out, when it is read
                source = _image_source(block)
                if isinstance(source, str) and _is_address(source):
                    yield source
            if isinstance(block.get("content"), list):  # a tool's result may hold some
                yield from picture_addresses(block["content"])


def _read_block(message: str, block: Any, texts: list[str], images: list[Image], pictures: Pictures) -> None:
    if isinstance(block, str):
        texts.append(block)
        return
    kind = block.get("type")
    if kind in SILENT or kind in _MARKERS or (kind is None and _MARKERS & block.keys()):
        return
    if (source := _image_source(block)) is not None:
        images.append(_image(source, pictures))
    elif (text := _text_in(block)) is not None:
        texts.append(text)
    elif kind == "non_standard" and isinstance(block.get("value"), (str, Mapping)):
        _read_block(message, block["value"], texts, images, pictures)
    else:
        _read_unusual(message, block, texts, images, pictures)


def _text_in(block: Mapping[str, Any]) -> str | None:
    """The text that a block holds; None when it holds none."""
    kind = block.get("type")
    if kind in {"text", "input_text", "output_text"}:
        return str(block.get("text") or "")  # some vendors write null for an empty one
    for name in ("text", "refusal"):
        if isinstance(value := block.get(name), str):
            return value
    if kind is None and block.keys() == {"json"}:  # what a tool said, as Bedrock has it
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


def _read_unusual(message: str, block: Any, texts: list[str], images: list[Image], pictures: Pictures) -> None:
    """A block of a shape that LangChain may know."""
    for known in _normalised(block):
        if (text := _text_in(known)) is not None:
            texts.append(text)
        elif known.get("type") == "image" and (source := _image_source(known)) is not None:
            images.append(_image(source, pictures))
        else:
            named = block.get("type") or next(iter(block), None)
            raise ValueError(f"messages: a block of type {named!r} in a {message}; Ollama takes text and pictures")


def _normalised(block: Any) -> list[Mapping[str, Any]]:
    """A block as LangChain's normaliser has it; as it is where that does not know what to make of it."""
    try:
        return cast("list[Mapping[str, Any]]", HumanMessage(content=[block]).content_blocks) or [block]
    except Exception:  # it takes for granted that known blocks have all their keys
        return [block]


def _image_source(block: Mapping[str, Any]) -> str | bytes | None:
    """What a block says of its picture: base64, a data URL, an address or bytes; None when it is no picture."""
    kind = block.get("type")
    if kind in {"image_url", "input_image"}:
        value = block.get("image_url")
        value = value.get("url") if isinstance(value, Mapping) else value
        if isinstance(value, str) and value:
            return value
        raise ValueError(f"messages: a block of type {kind!r} needs a string as its image_url, or as the url in it")
    if kind == "image":
        source = block.get("source")
        place = source if isinstance(source, Mapping) else block
        for name in ("base64", "data", "url"):
            if isinstance(value := place.get(name), (str, bytes)) and value:
                return value
        if block.get("file_id") or (block.get("id") and block.get("source_type") == "id"):
            raise ValueError("messages: a picture given as the id of a file; Ollama stores none, give its content")
        return None
    if kind == "media" and str(block.get("mime_type", "")).startswith("image/"):
        value = block.get("data")
        return value if isinstance(value, (str, bytes)) else None
    return None


def _is_address(source: str) -> bool:
    return "://" in source[:20]


def _image(source: str | bytes, pictures: Pictures) -> Image:
    if isinstance(source, str) and _is_address(source):
        if source not in pictures:
            raise ValueError(
                "messages: a picture given as an address; Ollama takes its content. Give it as base64, or "
                "set allow_image_urls=True to have it fetched, or image_loader to a function that fetches it"
            )
        return pictures[source]
    return Image(source)
