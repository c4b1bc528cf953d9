"""Convert LangChain's input for decision models to the core's: states with messages and images in them, and questions.

A message becomes an object with its role, text, tool calls and tool name; reasoning is dropped. Images are sent beside
the state, in order, and "[image 1]" takes the place of the first one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from langchain_core.messages import BaseMessage
from pydantic import BaseModel
from pydantic_core import to_json

from langchain_namel3ss_ollama.blocks import media_addresses, read_content
from langchain_namel3ss_ollama.messages import media_urls, to_core_messages
from namel3ss_ollama import Image, Message

__all__ = ["read_question", "read_state"]

_IMAGES = frozenset({"image", "image_url", "input_image"})
_OTHER_MEDIA = frozenset({"audio", "video", "file"})
_HELD_BY = ("base64", "data", "url", "file_id", "source", "image_url")
"""The keys of a block's media."""


def read_state(state: Any) -> tuple[Any, list[Image]]:
    """A state as text or JSON, and the images in it.

    Raises:
        ValueError: A block has content that Ollama does not support.
        TypeError: An item is not a LangChain message.
    """
    images: list[Image] = []
    return _read(state, images), images


def read_question(name: str, question: BaseModel) -> dict[str, Any]:
    """The request body of a question; a description that is not a string is sent as JSON.

    Raises:
        ValueError: It asks for a box or contains an image; Ollama supports neither.
    """
    asked: dict[str, Any] = question.model_dump(exclude_none=True)
    if asked["type"] == "box":
        raise ValueError(f"questions[{name!r}]: Ollama has no box questions; ask a Choice, a Noul or a Score")
    images: list[Image] = []
    instructions = _read(asked["instructions"], images)
    criteria: Any = getattr(question, "criteria", None)  # not from the dump, which drops options without a description
    if isinstance(criteria, BaseModel):
        criteria = criteria.model_dump(exclude_none=True)
    criteria = _read(criteria, images)
    if images:
        raise ValueError(f"questions[{name!r}]: an image in a question; Ollama takes images only in the state")
    if isinstance(criteria, dict):
        criteria = {option: _text(said) for option, said in cast("dict[str, Any]", criteria).items()}
    elif isinstance(criteria, list):
        criteria = [_text(level) or "" for level in criteria]
    read = {"type": asked["type"], "instructions": instructions}
    return read if criteria is None else {**read, "criteria": criteria}


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else to_json(value).decode()


def _read(value: Any, images: list[Image]) -> Any:
    if isinstance(value, BaseMessage):
        found = _messages([value], images)
        return found[0] if len(found) == 1 else found
    if isinstance(value, Mapping):
        held = cast("Mapping[str, Any]", value)
        if _is_media(held):
            return _media(held, images)
        return {name: _read(inner, images) for name, inner in held.items()}
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes, bytearray)):
        return value
    items = list(value)
    if items and all(isinstance(item, BaseMessage) for item in items):
        return _messages(items, images)
    return [_read(item, images) for item in items]


def _messages(messages: Sequence[BaseMessage], images: list[Image]) -> list[dict[str, Any]]:
    _refuse_addresses(media_urls(messages))
    return [_message(message, images) for message in to_core_messages(messages)]


def _message(message: Message, images: list[Image]) -> dict[str, Any]:
    if message.audio:
        raise ValueError("state: audio in a message; Ollama's decision models take text and images")
    said: dict[str, Any] = {"role": message.role}
    said["content"] = "\n".join(filter(None, [message.content, *_placed(message.images, images)]))
    if message.tool_calls:
        said["tool_calls"] = [
            {"name": call.name, "arguments": call.invalid_arguments or dict(call.arguments)}
            for call in message.tool_calls
        ]
    if message.tool_name:
        said["tool_name"] = message.tool_name
    return said


def _is_media(value: Mapping[str, Any]) -> bool:
    """Whether it is a media block, not just an object with a `type`."""
    return value.get("type") in _IMAGES | _OTHER_MEDIA and any(value.get(name) for name in _HELD_BY)


def _media(block: Mapping[str, Any], images: list[Image]) -> str:
    if block["type"] in _OTHER_MEDIA:
        raise ValueError(f"state: a block of type {block['type']!r}; Ollama's decision models take text and images")
    _refuse_addresses(address for address, _ in media_addresses([block]))
    text, media = read_content("state", [block], {})
    return "\n".join(filter(None, [text, *_placed(media, images)]))


def _placed(media: Iterable[Any], images: list[Image]) -> list[str]:
    """Append media to `images`; return the placeholders for them."""
    places: list[str] = []
    for image in media:
        images.append(image if isinstance(image, Image) else Image(image))
        places.append(f"[image {len(images)}]")
    return places


def _refuse_addresses(addresses: Iterable[str]) -> None:
    if any(True for _ in addresses):
        raise ValueError("state: an image given as a URL, but Ollama takes only its content; pass it as base64")
