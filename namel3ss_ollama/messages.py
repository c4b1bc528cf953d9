"""Messages as people write them into the objects that the API takes. No I/O, but a picture given as a path.

A dict is checked and read into the same form as a `Message`, so that a misspelt key fails here and not as a line from
the server that nobody understands. OpenAI's shapes of tool calls, tool answers and content
parts are taken too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from namel3ss_ollama.calls import AnyCall, id_of, read_tool_call
from namel3ss_ollama.settings import reject_unknown
from namel3ss_ollama.types import Image, InvalidToolCall, Message, ToolCall, checked_role

__all__ = ["MessageLike", "encode_images", "encode_messages", "has_files", "name_tool_answers"]

MessageLike = Message | Mapping[str, Any]
_NAMELESS = "unknown"
"""What a call goes back as that named no tool: the API takes none without a name."""
_KEYS = frozenset({"role", "content", "images", "thinking", "tool_calls", "tool_name", "tool_call_id", "name"})


def encode_messages(messages: Iterable[MessageLike]) -> list[dict[str, Any]]:
    """Messages as the API takes them. What goes in is never changed.

    Raises:
        ValueError: There are none, a role or a part of content is unknown, an image cannot be read.
        TypeError: A message is neither a `Message` nor a dict, or has an unknown key.
    """
    if isinstance(messages, (str, bytes, Mapping, Message)):
        raise TypeError(f"messages: expected a list of messages, not one {type(messages).__name__}")
    encoded = [_encode(i, message) for i, message in enumerate(messages)]
    if not encoded:
        raise ValueError("messages: there must be at least one (to load a model without one: preload())")
    name_tool_answers(encoded)
    return encoded


def has_files(messages: object, images: object = None) -> bool:
    """Whether encoding reads image files, which may take long. A guess: what is no list of messages has none."""
    if isinstance(messages, (list, tuple)):
        for message in cast("Sequence[object]", messages):
            named = message.images if isinstance(message, Message) else None
            named = message.get("images") if isinstance(message, Mapping) else named
            if named and has_files(None, named):
                return True
    if not isinstance(images, (list, tuple)):
        return False
    return any(isinstance(image, os.PathLike) for image in cast("Sequence[object]", images))


def encode_images(images: Sequence[Image | Any] | None) -> list[str]:
    """Pictures as the API takes them: base64 without a data-URL prefix.

    Raises:
        ValueError: One cannot be read.
        TypeError: It is no list.
    """
    if images is None:
        return []
    if isinstance(images, (str, bytes, bytearray, os.PathLike, Image)):
        raise TypeError("images: expected a list of pictures; wrap the one in [...]")
    return [image.base64 if isinstance(image, Image) else Image(image).base64 for image in images]


def _encode(index: int, message: MessageLike) -> dict[str, Any]:
    if isinstance(message, Message):
        return _encode_message(message)
    if not isinstance(message, Mapping):
        raise TypeError(f"messages[{index}]: expected a Message or a dict, not {type(message).__name__}")
    reject_unknown(message, _KEYS, f"messages[{index}]", f"a message has {', '.join(sorted(_KEYS))}")
    role = checked_role(message.get("role"), f"messages[{index}]: role")
    content, pictures = _read_content(index, role, message.get("content"))
    images = message.get("images") or ()
    if pictures:
        images = [*pictures, *encode_images(images)]
    calls = [_read_call(index, call) for call in message.get("tool_calls") or ()]
    return _encode_message(
        Message(
            role=role,
            content=content,
            images=images,
            thinking=message.get("thinking"),
            tool_calls=[call for call in calls if isinstance(call, ToolCall)],
            invalid_tool_calls=[call for call in calls if isinstance(call, InvalidToolCall)],
            tool_name=message.get("tool_name") or (message.get("name") if role == "tool" else None),
            tool_call_id=_id(message.get("tool_call_id")),
        )
    )


def _read_content(index: int, role: str, content: object) -> tuple[str, list[Image]]:
    """The text and the images of a message's content, which is text or OpenAI's list of parts.

    In an answer a refusal is text, and parts that are neither text nor pictures are left out: they are what another
    model's provider made. Elsewhere they are an error, since the model would not see what it is asked about.
    """
    if content is None or isinstance(content, str):
        return content or "", []
    if not isinstance(content, (list, tuple)):
        raise TypeError(f"messages[{index}]: content must be text or a list of parts, not {type(content).__name__}")
    texts: list[str] = []
    images: list[Image] = []
    for part in content:
        if not isinstance(part, Mapping):
            raise TypeError(f"messages[{index}]: a part of content must be a dict, not {type(part).__name__}")
        kind = part.get("type")
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "image_url":
            images.append(_read_image_url(index, part.get("image_url")))
        elif kind == "refusal" and isinstance(part.get("refusal"), str):
            texts.append(part["refusal"])
        elif kind == "text":
            raise TypeError(f"messages[{index}]: a part of the type 'text' needs {{'text': ...}}")
        elif role != "assistant":
            raise ValueError(
                f"messages[{index}]: content has a part of the type {kind!r:.40}; only 'text' and 'image_url' are known"
            )
    return "\n".join(texts), images


def _read_image_url(index: int, value: object) -> Image:
    url = value.get("url") if isinstance(value, Mapping) else value
    if isinstance(url, str) and url.startswith("data:"):
        return Image(url)
    if isinstance(url, str) and url.lower().startswith(("http:", "https:")):
        raise ValueError(
            f"messages[{index}]: image_url is an address on the web, which is not fetched; download the image with "
            "fetch_image() and pass it in `images`"
        )
    raise ValueError(f"messages[{index}]: image_url needs a data URL: {{'url': 'data:image/png;base64,...'}}")


def _id(value: object) -> str | None:
    return str(value) if isinstance(value, int) else cast("str | None", value)


def _read_call(index: int, call: Any) -> AnyCall:
    """A call of a history: one that a server sent, whatever is missing in it, but no mistake of the caller's."""
    if isinstance(call, (ToolCall, InvalidToolCall)):
        return call
    if call is None or _is_call(call):
        return read_tool_call(call, id_of(call))
    raise ValueError(f"messages[{index}]: a tool call needs {{'function': {{'name': ..., 'arguments': ...}}}}")


def _is_call(value: Any) -> bool:
    """Whether it has a call's form; its name may be missing."""
    if not isinstance(value, Mapping) or not {"function", "name"} & value.keys():
        return False
    function = value if value.get("function") is None else value["function"]
    return isinstance(function, Mapping) and isinstance(function.get("name"), (str, type(None)))


def _encode_message(message: Message) -> dict[str, Any]:
    encoded: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.thinking:
        encoded["thinking"] = message.thinking
    if message.images:
        encoded["images"] = encode_images(message.images)
    calls: list[AnyCall] = [*message.tool_calls, *message.invalid_tool_calls]
    if calls:
        encoded["tool_calls"] = [_encode_call(i, call) for i, call in enumerate(calls)]
        broken = [call.invalid_arguments if isinstance(call, ToolCall) else call.text for call in calls]
        if any(broken):
            # The API takes a name and an object only; the model still sees what it wrote.
            encoded["content"] = "\n".join(filter(None, [message.content, *broken]))
    if message.tool_name:
        encoded["tool_name"] = message.tool_name
    if message.tool_call_id:
        encoded["tool_call_id"] = message.tool_call_id
    return encoded


def _encode_call(index: int, call: AnyCall) -> dict[str, Any]:
    encoded: dict[str, Any] = {"id": call.id} if call.id else {}
    name, arguments = (call.name, dict(call.arguments)) if isinstance(call, ToolCall) else (_NAMELESS, {})
    encoded["function"] = {"index": index, "name": name, "arguments": arguments}
    return encoded


def name_tool_answers(messages: Iterable[dict[str, Any]]) -> None:
    """Give the answers of tools their tools' names, where only a call's id was given. Messages are dicts.

    Some servers give all calls of a turn one id: the first answer to it is then of the first call. Some clients answer
    with the tool's name as the id.
    """
    names: dict[str, list[str]] = {}
    for message in messages:
        called: dict[str, list[str]] = {}
        for call in message.get("tool_calls", ()):
            if isinstance(call, Mapping) and isinstance(name := call["function"].get("name"), str):
                called.setdefault(str(call.get("id") or name), []).append(name)
                names.setdefault(name, [name])
        names.update(called)
        if message["role"] != "tool":
            continue
        waiting = names.get(message.get("tool_call_id") or "", [])
        name = message.get("tool_name")
        if name is None and waiting:
            message["tool_name"] = name = waiting[0]
        if name in waiting and len(waiting) > 1:
            waiting.remove(name)
