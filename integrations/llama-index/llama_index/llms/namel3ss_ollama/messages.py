"""Convert LlamaIndex messages to the core's: roles, blocks, tool calls, legacy forms. The input is never modified.

The text blocks of a message are concatenated without a separator, as in all LlamaIndex integrations. Content that the
API does not support raises rather than being dropped, except for audio or documents in assistant messages: another
provider's model produced them earlier in the conversation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import IOBase
from typing import Any

from llama_index.core.base.llms.types import (
    AudioBlock,
    CachePoint,
    ChatMessage,
    CitableBlock,
    CitationBlock,
    ImageBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)

from llama_index.llms.namel3ss_ollama.images import Media, MediaBlock, data_url, held, web_address
from namel3ss_ollama import Audio, Image, InvalidToolCall, name_tool_answers

__all__ = ["to_core"]

_ROLES = {
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
    MessageRole.USER: "user",
    MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
    MessageRole.TOOL: "tool",
    MessageRole.FUNCTION: "tool",
}


def to_core(messages: Sequence[ChatMessage], fetched: Mapping[str, Media]) -> list[dict[str, Any]]:
    """Convert messages to the core's.

    Args:
        messages: The conversation.
        fetched: The images and audio given as web URLs, by URL.

    Raises:
        ValueError: A message has a block that the API does not support, or an image or audio that cannot be read.
    """
    translated = [_Translation(index, message, fetched).result() for index, message in enumerate(messages)]
    name_tool_answers(translated)
    return translated


class _Translation:
    """The conversion of one message."""

    def __init__(self, index: int, message: ChatMessage, fetched: Mapping[str, Media]) -> None:
        self._where = f"messages[{index}]"
        self._message = message
        self._fetched = fetched
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._images: list[Media] = []
        self._audio: list[Media] = []
        self._calls: list[InvalidToolCall | dict[str, Any]] = []

    def result(self) -> dict[str, Any]:
        message = self._message
        role = self._role = _ROLES.get(message.role, str(message.role.value))
        for block in message.blocks:
            self._take(block)
        if not self._calls:  # streamed and older answers have the calls here too
            self._calls = [self._legacy_call(call) for call in message.additional_kwargs.get("tool_calls") or ()]
        result: dict[str, Any] = {"role": role, "content": "".join(self._texts)}
        if self._thoughts:
            result["thinking"] = "".join(self._thoughts)
        if self._images:
            result["images"] = self._images
        if self._audio:
            result["audio"] = self._audio
        if self._calls:
            result["tool_calls"] = self._calls
        if role == "tool":
            self._add_what_it_answers(result)
        return result

    def _take(self, block: object) -> None:
        if isinstance(block, TextBlock):
            self._texts.append(block.text)
        elif isinstance(block, ImageBlock):
            self._images.append(self._medium(block, Image))
        elif isinstance(block, AudioBlock) and self._role != "assistant":
            self._audio.append(self._medium(block, Audio))
        elif isinstance(block, ThinkingBlock):
            self._thoughts.append(block.content or "")
        elif isinstance(block, ToolCallBlock):
            self._calls.append(_call(block.tool_call_id, block.tool_name, block.tool_kwargs))
        elif isinstance(block, CitableBlock):
            for inner in block.content:
                self._take(inner)
        elif isinstance(block, CitationBlock):
            self._take(block.cited_content)
        elif not isinstance(block, CachePoint) and self._role != "assistant":
            name = type(block).__name__
            raise ValueError(f"{self._where}: Ollama's API takes text, images and audio, not a block of type {name}")

    def _medium(self, block: MediaBlock, kind: type[Image] | type[Audio]) -> Media:
        content = held(block)
        try:
            if isinstance(content, bytes):
                return kind(content.decode("ascii"))  # the block has encoded it as base64
            if isinstance(content, IOBase):
                content.seek(0)
                return kind(content.read())
            if block.path is not None:
                return kind(block.path)
            url = web_address(block)
            if url is None:
                return kind(data_url(block))
            if url not in self._fetched:
                what = "image" if kind is Image else "audio"
                raise ValueError(
                    f"the {what} is a web URL, and fetching is disabled; pass allow_image_urls=True, or its "
                    f"bytes as {type(block).__name__}({what}=...)"
                )
            return self._fetched[url]
        except (ValueError, OSError) as error:
            raise ValueError(f"{self._where}: {error}") from error

    def _legacy_call(self, call: Any) -> InvalidToolCall | dict[str, Any]:
        """A tool call in `additional_kwargs`: a dict in the form of OpenAI, Ollama and others, or an SDK object."""
        if not isinstance(call, Mapping) and hasattr(call, "model_dump"):
            call = call.model_dump()
        function = call.get("function") or call if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping):
            raise ValueError(f"{self._where}: a tool call needs {{'function': {{'name': ..., 'arguments': ...}}}}")
        call_id = _first(call, "id", "call_id", "tool_call_id", "tool_id", "toolUseId")
        name = _first(function, "name", "tool_name")
        return _call(call_id, name or "", _first(function, "arguments", "input", "args", "tool_kwargs"))

    def _add_what_it_answers(self, result: dict[str, Any]) -> None:
        extra = self._message.additional_kwargs
        if name := extra.get("tool_name") or extra.get("name"):
            result["tool_name"] = str(name)
        if call_id := extra.get("tool_call_id"):
            result["tool_call_id"] = str(call_id)


def _call(call_id: Any, name: str, arguments: Any) -> InvalidToolCall | dict[str, Any]:
    """A tool call; an invalid one if the model named no tool."""
    if name or not isinstance(arguments, str):
        return {"id": call_id, "function": {"name": name, "arguments": arguments}}
    return InvalidToolCall(arguments, str(call_id or ""))


def _first(values: Mapping[str, Any], *names: str) -> Any:
    """The first value under these names that is not None."""
    return next((values[name] for name in names if values.get(name) is not None), None)
