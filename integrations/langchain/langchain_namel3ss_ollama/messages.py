"""LangChain's messages as the core takes them.

Content comes as text or as a list of blocks, in the shapes of several vendors and of three versions of LangChain.
Blocks that are met every day are read here; a block of another shape goes through LangChain's own normaliser, and what
Ollama cannot take after that (audio, documents, video) is an error that says so. Nothing that is handed in is changed.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, cast

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from langchain_namel3ss_ollama.arguments import json_arguments, original_arguments
from langchain_namel3ss_ollama.stand_ins import names_of_stand_ins
from namel3ss_ollama import Image, InvalidToolCall, Message, ToolCall

__all__ = ["image_urls", "to_core_messages"]

Pictures = Mapping[str, Image]
_ROLES = {"human": "user", "ai": "assistant", "model": "assistant", "developer": "system", "function": "tool"}
_SILENT = frozenset(
    {"tool_use", "tool_call", "tool_call_chunk", "invalid_tool_call", "function_call", "input_json_delta"}
)
"""Blocks that repeat what the message's `tool_calls` say."""


def to_core_messages(messages: Sequence[BaseMessage], pictures: Pictures | None = None) -> list[Message]:
    """The messages of a request.

    Args:
        messages: What LangChain hands in.
        pictures: The pictures that are given as addresses.

    Raises:
        ValueError: A block or a role that Ollama has no place for.
        TypeError: Not one of LangChain's messages.
    """
    converted: list[Message] = []
    stand_ins = names_of_stand_ins(messages)
    for message in messages:
        converted.extend(_convert(message, pictures or {}, stand_ins))
    return converted


def image_urls(messages: Iterable[BaseMessage]) -> list[str]:
    """The addresses of pictures that would have to be fetched, each once."""
    found: dict[str, None] = {}
    for message in messages:
        if isinstance(message.content, list):
            for block in _image_blocks(message.content):
                source = _image_source(block)
                if isinstance(source, str) and _is_address(source):
                    found[source] = None
    return list(found)


def _image_blocks(content: Iterable[Any]) -> Iterable[Mapping[str, Any]]:
    for block in content:
        if isinstance(block, Mapping):
            if _image_source(block) is not None:
                yield block
            elif isinstance(block.get("content"), list):  # a tool's result may hold some
                yield from _image_blocks(block["content"])


def _convert(message: BaseMessage, pictures: Pictures, stand_ins: Container[str]) -> list[Message]:
    if isinstance(message, AIMessage):
        return [_assistant(message, pictures, stand_ins)]
    if isinstance(message, ToolMessage):
        text, images = _read(message, message.content, pictures)
        tool = None if message.name in stand_ins else message.name or None
        return [Message("tool", text, images, tool_name=tool, tool_call_id=message.tool_call_id or None)]
    if isinstance(message, HumanMessage):
        return _user(message, pictures)
    if isinstance(message, SystemMessage):
        role = "system"
    elif isinstance(message, ChatMessage):
        role = _ROLES.get(message.role, message.role)
    elif isinstance(message, FunctionMessage):
        role = "tool"
    else:
        raise TypeError(f"messages: {type(message).__name__} is not a message that Ollama has a role for")
    text, images = _read(message, message.content, pictures)
    name = message.name if isinstance(message, FunctionMessage) else None
    return [Message(cast("Any", role), text, images, tool_name=name)]


def _user(message: HumanMessage, pictures: Pictures) -> list[Message]:
    """A user's turn; results of tools that stand in it, as Anthropic has them, become turns of their own before it."""
    if isinstance(message.content, str):
        return [Message("user", message.content)]
    converted: list[Message] = []
    rest: list[Any] = []
    for block in message.content:
        if isinstance(block, Mapping) and block.get("type") == "tool_result":
            content = block.get("content") or ""
            text, images = _read(message, content, pictures)
            converted.append(Message("tool", text, images, tool_call_id=block.get("tool_use_id")))
        else:
            rest.append(block)
    if rest or not converted:
        text, images = _read(message, rest, pictures)
        converted.append(Message("user", text, images))
    return converted


def _assistant(message: AIMessage, pictures: Pictures, stand_ins: Container[str]) -> Message:
    calls: list[ToolCall] = []
    nameless: list[InvalidToolCall] = []
    for call in message.tool_calls:
        if not call["name"]:
            nameless.append(InvalidToolCall(json_arguments(call["args"]), call["id"] or ""))
        elif call["name"] not in stand_ins:
            calls.append(ToolCall(call["name"], call["args"], call["id"] or ""))
    for broken in message.invalid_tool_calls:
        text, call_id = original_arguments(broken.get("args") or ""), broken.get("id") or ""
        if name := broken.get("name"):
            calls.append(ToolCall(name, {}, call_id, text))
        else:
            nameless.append(InvalidToolCall(text, call_id))
    thinking = message.additional_kwargs.get("reasoning_content")
    if isinstance(message.content, str):
        return Message(
            "assistant", message.content, thinking=thinking or None, tool_calls=calls, invalid_tool_calls=nameless
        )
    texts: list[str] = []
    images: list[Image] = []
    thoughts: list[str] = []
    for block in message.content:
        kind = "" if isinstance(block, str) else block.get("type")
        if kind in {"reasoning", "thinking"}:
            thoughts.append(_thought(cast("Mapping[str, Any]", block)))
        elif kind == "non_standard":
            texts.append(str(cast("Mapping[str, Any]", block).get("value", "")))
        elif kind in _SILENT:
            if not message.tool_calls and (found := _call_in_block(cast("Mapping[str, Any]", block))) is not None:
                calls.append(found)
        elif kind != "redacted_thinking":  # nobody but who wrote it can read that
            _read_block(message, block, texts, images, pictures)
    return Message(
        "assistant",
        "".join(texts),  # the pieces of one answer
        images,
        thinking=thinking or "".join(thoughts) or None,
        tool_calls=calls,
        invalid_tool_calls=nameless,
    )


def _thought(block: Mapping[str, Any]) -> str:
    text = block.get("reasoning") or block.get("thinking") or ""
    if not text and isinstance(block.get("summary"), list):  # as OpenAI has it
        text = "\n".join(str(part.get("text", "")) for part in block["summary"] if isinstance(part, Mapping))
    return str(text)


def _call_in_block(block: Mapping[str, Any]) -> ToolCall | None:
    """The call that stands in a block alone, as it does in messages that were put together by hand."""
    arguments = block.get("input") if block.get("type") == "tool_use" else block.get("args")
    if not isinstance(arguments, Mapping) or not block.get("name"):
        return None
    return ToolCall(str(block["name"]), arguments, str(block.get("id") or ""))


def _read(message: BaseMessage, content: Any, pictures: Pictures) -> tuple[str, list[Image]]:
    """Text and pictures of a message."""
    if isinstance(content, str):
        return content, []
    texts: list[str] = []
    images: list[Image] = []
    for block in content:
        _read_block(message, block, texts, images, pictures)
    return "\n".join(texts), images


def _read_block(message: BaseMessage, block: Any, texts: list[str], images: list[Image], pictures: Pictures) -> None:
    if isinstance(block, str):
        texts.append(block)
        return
    kind = block.get("type")
    if kind in {"text", "input_text", "output_text", "text-plain"} or (kind is None and "text" in block):
        texts.append(str(block.get("text") or ""))
    elif kind in _SILENT:
        pass
    elif (source := _image_source(block)) is not None:
        images.append(_image(source, pictures))
    else:
        _read_unusual(message, block, texts, images, pictures)


def _read_unusual(message: BaseMessage, block: Any, texts: list[str], images: list[Image], pictures: Pictures) -> None:
    """A block of a shape that LangChain may know."""
    for normalised in HumanMessage(content=[block]).content_blocks:
        known = cast("dict[str, Any]", normalised)
        kind = known["type"]
        if kind == "text":
            texts.append(known["text"])
        elif kind == "image" and (source := _image_source(known)) is not None:
            images.append(_image(source, pictures))
        else:
            named = block.get("type") or next(iter(block), kind)
            raise ValueError(
                f"messages: a block of type {named!r} in a {type(message).__name__}; Ollama takes text and pictures"
            )


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
