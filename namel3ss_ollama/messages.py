"""Convert messages into the API's form. No I/O, except reading images and audio given as paths.

A dict is checked and read into the same form as a `Message`, so that a misspelled key fails here and not with an
obscure error from the server. OpenAI's forms of tool calls, tool answers and content parts are accepted, too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from namel3ss_ollama.calls import AnyCall, id_of, read_tool_call
from namel3ss_ollama.media import Audio, Image, Media
from namel3ss_ollama.settings import reject_unknown
from namel3ss_ollama.types import InvalidToolCall, Message, ToolCall, checked_role

__all__ = ["MessageLike", "encode_media", "encode_messages", "has_files", "name_tool_answers"]

MessageLike = Message | Mapping[str, Any]
_NAMELESS = "unknown"
"""The name under which a call without a tool's name is sent back: the API requires one."""
_KEYS = frozenset({"role", "content", "images", "audio", "thinking", "tool_calls", "tool_name", "tool_call_id", "name"})


def encode_messages(messages: Iterable[MessageLike]) -> list[dict[str, Any]]:
    """Messages in the API's form. The arguments are never changed.

    Raises:
        ValueError: There are none, a role or a content part is unknown, or an image or audio cannot be read.
        TypeError: A message is neither a `Message` nor a dict, or has an unknown key.
    """
    if isinstance(messages, (str, bytes, Mapping, Message)):
        raise TypeError(f"messages: expected a list of messages, not one {type(messages).__name__}")
    encoded = [_encode(i, message) for i, message in enumerate(messages)]
    if not encoded:
        raise ValueError("messages: there must be at least one (to load a model without one: preload())")
    name_tool_answers(encoded)
    return encoded


def has_files(holders: object) -> bool:
    """Whether encoding has to read image or audio files, which may take long.

    Args:
        holders: Messages, or other dicts with `images` and `audio`. Anything but a list of them has none.
    """
    if not isinstance(holders, (list, tuple)):
        return False
    for holder in cast("Sequence[object]", holders):
        held: tuple[object, ...] = (holder.images, holder.audio) if isinstance(holder, Message) else ()
        held = (holder.get("images"), holder.get("audio")) if isinstance(holder, Mapping) else held
        lists = [cast("Sequence[object]", one) for one in held if isinstance(one, (list, tuple))]
        if any(isinstance(one, os.PathLike) for several in lists for one in several):
            return True
    return False


def encode_media(images: Sequence[Image | Any] | None, audio: Sequence[Audio | Any] | None) -> list[str]:
    """Images and audio in the API's form: one list for both, in base64 without the prefix of a data URL.

    Raises:
        ValueError: A file cannot be read, or is audio of an unsupported format.
        TypeError: They are not lists.
    """
    return [*_encode_list("images", Image, images), *_encode_list("audio", Audio, audio)]


def _encode_list(name: str, kind: type[Media], values: Sequence[Any] | None) -> list[str]:
    if values is None:
        return []
    if isinstance(values, (str, bytes, bytearray, os.PathLike, Media)):
        raise TypeError(f"{name}: expected a list; wrap the one in [...]")
    for value in values:
        if isinstance(value, Media) and not isinstance(value, kind):
            raise TypeError(f"{name}: expected {kind.__name__} or its source, not {type(value).__name__}")
    return [value.base64 if isinstance(value, Media) else kind(value).base64 for value in values]


def _encode(index: int, message: MessageLike) -> dict[str, Any]:
    if isinstance(message, Message):
        return _encode_message(message)
    if not isinstance(message, Mapping):
        raise TypeError(f"messages[{index}]: expected a Message or a dict, not {type(message).__name__}")
    reject_unknown(message, _KEYS, f"messages[{index}]", f"a message has {', '.join(sorted(_KEYS))}")
    role = checked_role(message.get("role"), f"messages[{index}]: role")
    content, images, audio = _read_content(index, role, message.get("content"))
    calls = [_read_call(index, call) for call in message.get("tool_calls") or ()]
    return _encode_message(
        Message(
            role=role,
            content=content,
            images=_joined("images", images, message),
            audio=_joined("audio", audio, message),
            thinking=message.get("thinking"),
            tool_calls=[call for call in calls if isinstance(call, ToolCall)],
            invalid_tool_calls=[call for call in calls if isinstance(call, InvalidToolCall)],
            tool_name=message.get("tool_name") or (message.get("name") if role == "tool" else None),
            tool_call_id=_id(message.get("tool_call_id")),
        )
    )


def _joined(name: str, found: list[Any], message: Mapping[str, Any]) -> Sequence[Any]:
    """Items found in a message's content, joined with those under the key of that name."""
    given = message.get(name) or ()
    if not found:
        return cast("Sequence[Any]", given)
    if not isinstance(given, (list, tuple)):
        raise TypeError(f"{name}: expected a list; wrap the one in [...]")
    return [*found, *given]


def _read_content(index: int, role: str, content: object) -> tuple[str, list[Image], list[Audio]]:
    """Text, images and audio of a message's content, which is text or OpenAI's list of parts.

    In an answer a refusal counts as text, and parts of other kinds are dropped: they come from another provider.
    Elsewhere they are an error, since the model would not see them.
    """
    if content is None or isinstance(content, str):
        return content or "", [], []
    if not isinstance(content, (list, tuple)):
        raise TypeError(f"messages[{index}]: content must be text or a list of parts, not {type(content).__name__}")
    texts: list[str] = []
    images: list[Image] = []
    audio: list[Audio] = []
    for part in content:
        if not isinstance(part, Mapping):
            raise TypeError(f"messages[{index}]: a part of content must be a dict, not {type(part).__name__}")
        kind = part.get("type")
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "image_url":
            images.append(_read_image_url(index, part.get("image_url")))
        elif kind == "input_audio" and role != "assistant":
            audio.append(_read_input_audio(index, part.get("input_audio")))
        elif kind == "refusal" and isinstance(part.get("refusal"), str):
            texts.append(part["refusal"])
        elif kind == "text":
            raise TypeError(f"messages[{index}]: a part of the type 'text' needs {{'text': ...}}")
        elif role != "assistant":
            raise ValueError(
                f"messages[{index}]: content has a part of the type {kind!r:.40}; known: 'text', 'image_url' and "
                "'input_audio'"
            )
    return "\n".join(texts), images, audio


def _read_image_url(index: int, value: object) -> Image:
    url = value.get("url") if isinstance(value, Mapping) else value
    if isinstance(url, str) and url.startswith("data:"):
        return Image(url)
    if isinstance(url, str) and url.lower().startswith(("http:", "https:")):
        raise ValueError(
            f"messages[{index}]: image_url is a web address, which is never fetched; download the image with "
            "fetch_image() and pass it in `images`"
        )
    raise ValueError(f"messages[{index}]: image_url needs a data URL: {{'url': 'data:image/png;base64,...'}}")


def _read_input_audio(index: int, value: object) -> Audio:
    data = value.get("data") if isinstance(value, Mapping) else None
    if not isinstance(data, str):
        raise ValueError(f"messages[{index}]: input_audio needs base64: {{'data': ..., 'format': 'wav'}}")
    return Audio(data)


def _id(value: object) -> str | None:
    return str(value) if isinstance(value, int) else cast("str | None", value)


def _read_call(index: int, call: Any) -> AnyCall:
    """A call in the history: tolerant of what servers send, strict about the caller's mistakes."""
    if isinstance(call, (ToolCall, InvalidToolCall)):
        return call
    if call is None or _is_call(call):
        return read_tool_call(call, id_of(call))
    raise ValueError(f"messages[{index}]: a tool call needs {{'function': {{'name': ..., 'arguments': ...}}}}")


def _is_call(value: Any) -> bool:
    """Whether it has the form of a call; its name may be missing."""
    if not isinstance(value, Mapping) or not {"function", "name"} & value.keys():
        return False
    function = value if value.get("function") is None else value["function"]
    return isinstance(function, Mapping) and isinstance(function.get("name"), (str, type(None)))


def _encode_message(message: Message) -> dict[str, Any]:
    encoded: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.thinking:
        encoded["thinking"] = message.thinking
    if message.images or message.audio:
        encoded["images"] = encode_media(message.images, message.audio)
    calls: list[AnyCall] = [*message.tool_calls, *message.invalid_tool_calls]
    if calls:
        encoded["tool_calls"] = [_encode_call(i, call) for i, call in enumerate(calls)]
        broken = [call.invalid_arguments if isinstance(call, ToolCall) else call.text for call in calls]
        if any(broken):
            # The API accepts only a name and an object; this way the model still sees what it wrote.
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
    """Add the tool's name to tool answers that have only a call's id. Messages are dicts.

    Some servers give all calls of a turn the same id: the first answer to it then belongs to the first call. Some
    clients use the tool's name as the id.
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
