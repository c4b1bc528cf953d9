"""Convert LangChain messages to the core's.

`blocks.py` converts the content; this module converts roles, tool results, and the tool calls and reasoning of AI
messages. The input is never modified.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

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
from langchain_namel3ss_ollama.blocks import (
    SILENT,
    Fetched,
    Kind,
    Media,
    media_addresses,
    read_answer_block,
    read_content,
)
from langchain_namel3ss_ollama.stand_ins import names_of_stand_ins
from namel3ss_ollama import Audio, Image, InvalidToolCall, Message, ToolCall

__all__ = ["media_urls", "to_core_messages"]

_ROLES = {"human": "user", "ai": "assistant", "model": "assistant", "developer": "system", "function": "tool"}
_THOUGHTS = frozenset({"reasoning", "thinking", "reasoning_content"})


def to_core_messages(messages: Sequence[BaseMessage], fetched: Fetched | None = None) -> list[Message]:
    """The messages of a request.

    Args:
        messages: The messages from LangChain.
        fetched: The images and audio given as URLs, by URL.

    Raises:
        ValueError: A block has content that Ollama does not support.
        TypeError: An item is not a LangChain message.
    """
    converted: list[Message] = []
    stand_ins = names_of_stand_ins(messages)
    for message in messages:
        converted.extend(_convert(message, fetched or {}, stand_ins))
    return converted


def media_urls(messages: Iterable[BaseMessage]) -> dict[str, Kind]:
    """The URLs of images and audio to fetch, each with its kind."""
    found = [
        (address, kind)
        for message in messages
        if isinstance(message.content, list)
        for address, kind in media_addresses(message.content)
        if kind is Image or not isinstance(message, AIMessage)  # audio in an AI message is dropped
    ]
    return dict(found)


def _convert(message: BaseMessage, fetched: Fetched, stand_ins: Container[str]) -> list[Message]:
    if isinstance(message, AIMessage):
        return [_assistant(message, fetched, stand_ins)]
    if isinstance(message, HumanMessage):
        return _user(message, fetched)
    name, call_id = None, None
    if isinstance(message, ToolMessage):
        role, call_id = "tool", message.tool_call_id
        name = None if message.name in stand_ins else message.name
    elif isinstance(message, SystemMessage):
        role = "system"
    elif isinstance(message, ChatMessage):
        role = _ROLES.get(message.role, message.role)
    elif isinstance(message, FunctionMessage):
        role, name = "tool", message.name
    else:
        raise TypeError(f"messages: {type(message).__name__} is not a message that Ollama has a role for")
    text, media = read_content(type(message).__name__, message.content, fetched)
    return [Message(role, text, **_by_kind(media), tool_name=name or None, tool_call_id=call_id or None)]


def _user(message: HumanMessage, fetched: Fetched) -> list[Message]:
    """A user message; tool results inside it (Anthropic's form) become tool messages before it."""
    if isinstance(message.content, str):
        return [Message("user", message.content)]
    kind = type(message).__name__
    converted: list[Message] = []
    rest: list[Any] = []
    for block in message.content:
        if isinstance(block, Mapping) and block.get("type") == "tool_result":
            text, media = read_content(kind, block.get("content") or "", fetched)
            converted.append(Message("tool", text, **_by_kind(media), tool_call_id=block.get("tool_use_id")))
        else:
            rest.append(block)
    if rest or not converted:
        text, media = read_content(kind, rest, fetched)
        converted.append(Message("user", text, **_by_kind(media)))
    return converted


def _by_kind(media: Sequence[Media]) -> dict[str, Any]:
    """Images and audio as keyword arguments of a `Message`."""
    images = [one for one in media if isinstance(one, Image)]
    return {"images": images, "audio": [one for one in media if isinstance(one, Audio)]}


def _assistant(message: AIMessage, fetched: Fetched, stand_ins: Container[str]) -> Message:
    calls, nameless = _calls(message, stand_ins)
    thoughts: list[str] = []
    texts: list[str] = []
    images: list[Image] = []
    for block in [message.content] if isinstance(message.content, str) else message.content:
        kind = "" if isinstance(block, str) else block.get("type")
        if isinstance(block, Mapping) and kind in _THOUGHTS:
            thoughts.append(_thought(block))
        elif isinstance(block, Mapping) and kind in SILENT:
            if not message.tool_calls and (found := _call_in_block(block)) is not None:
                calls.append(found)
        else:
            read_answer_block(block, texts, images, fetched)
    more = message.additional_kwargs
    text = "".join(texts) or _said_elsewhere(more)  # blocks are pieces of one text
    thinking = more.get("reasoning_content")
    thinking = thinking if isinstance(thinking, str) and thinking else "".join(thoughts)
    return Message("assistant", text, images, thinking=thinking or None, tool_calls=calls, invalid_tool_calls=nameless)


def _calls(message: AIMessage, stand_ins: Container[str]) -> tuple[list[ToolCall], list[InvalidToolCall]]:
    """The tool calls of an AI message, and those that name no tool."""
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
    return calls, nameless


def _said_elsewhere(more: Mapping[str, Any]) -> str:
    """Text that OpenAI's class keeps outside the content: a refusal, or the transcript of audio."""
    audio = more.get("audio")
    text = more.get("refusal") or (audio.get("transcript") if isinstance(audio, Mapping) else None)
    return text if isinstance(text, str) else ""


def _thought(block: Mapping[str, Any]) -> str:
    """The text of a reasoning block, in the forms of several providers."""
    for name in ("reasoning", "thinking", "reasoning_content", "text", "content"):
        value = block.get(name)
        if isinstance(value, str) and value:
            return value
        if isinstance(value, Mapping):
            return _thought(value)
        if isinstance(value, list):
            return "\n".join(_thought(part) for part in value if isinstance(part, Mapping))
    summary = block.get("summary")  # OpenAI's form
    return _thought({"text": summary}) if summary else ""


def _call_in_block(block: Mapping[str, Any]) -> ToolCall | None:
    """The tool call of a block that is not in `tool_calls`, as in messages written by hand."""
    arguments = block.get("input") if block.get("type") == "tool_use" else block.get("args")
    if not isinstance(arguments, Mapping) or not block.get("name"):
        return None
    return ToolCall(str(block["name"]), arguments, str(block.get("id") or ""))
