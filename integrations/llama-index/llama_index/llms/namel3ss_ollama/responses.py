"""Convert the core's answers to LlamaIndex responses: complete ones and streams.

Each item of a stream carries the entire message so far, as LlamaIndex requires, and the new text as its delta. An item
is never modified after it was yielded: items share only blocks that no longer grow.

The response of a token is the hot path. If it is only text, pydantic has nothing to validate, so its objects are built
without validation; a test asserts that they equal what the constructors build.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    ContentBlock,
    LogProb,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from pydantic import BaseModel

from namel3ss_ollama import InvalidToolCall, LLMResponse, StreamChunk, ToolCall

__all__ = ["GrowingAnswer", "chat_response", "completion_of"]

M = TypeVar("M", bound=BaseModel)
AnyCall: TypeAlias = ToolCall | InvalidToolCall
_BLOCK_FIELDS = dict(TextBlock(text="").__dict__)
_MESSAGE_FIELDS = dict(ChatMessage(role=MessageRole.ASSISTANT, blocks=[]).__dict__)
_RESPONSE_FIELDS = dict(ChatResponse(message=ChatMessage()).__dict__)
_set = object.__setattr__


def chat_response(response: LLMResponse, *, single_call: bool, hosts: bool = False) -> ChatResponse:
    """A complete answer.

    Args:
        response: The core's response.
        single_call: Whether to keep only the first tool call.
        hosts: Whether there are several hosts, so that `raw["host"]` names the one that answered.
    """
    calls: Sequence[AnyCall] = (*response.tool_calls, *response.invalid_tool_calls)
    if single_call:
        calls = calls[:1]
    blocks: list[ContentBlock] = []
    if response.thinking:
        blocks.append(ThinkingBlock(content=response.thinking))
    blocks.append(TextBlock(text=response.content))
    blocks.extend(_call_block(call) for call in calls)
    wire_calls = [_plain_call(call) for call in calls]
    message: dict[str, Any] = {"role": "assistant", "content": response.content}
    if response.thinking:
        message["thinking"] = response.thinking
    if wire_calls:
        message["tool_calls"] = wire_calls
    raw: dict[str, Any] = {"model": response.model, "message": message, "done": True, **response.metadata}
    _add_totals(raw, response, hosts)
    return ChatResponse(
        message=ChatMessage(role=MessageRole.ASSISTANT, blocks=blocks),
        raw=raw,
        logprobs=_logprobs(response.logprobs),
        additional_kwargs={},
    )


class GrowingAnswer:
    """A streamed answer: chunks in, responses out.

    Args:
        single_call: Whether to keep only the first tool call.
        for_program: Whether a LlamaIndex program reads it; without the `tool_calls` key, that would parse the text as
            the object.
        hosts: As for `chat_response`; the host is in the last response.
    """

    __slots__ = (
        "_calls",
        "_for_program",
        "_hosts",
        "_last",
        "_plain_calls",
        "_single_call",
        "_text",
        "_thought",
        "_thoughts",
    )

    def __init__(self, *, single_call: bool, for_program: bool = False, hosts: bool = False) -> None:
        self._hosts = hosts
        self._single_call = single_call
        self._for_program = for_program
        self._text = ""
        self._thoughts = ""
        self._thought: ThinkingBlock | None = None
        self._calls: list[ToolCallBlock] = []
        self._plain_calls: list[dict[str, Any]] = []
        self._last: ChatResponse | None = None

    def add(self, chunk: StreamChunk) -> ChatResponse:
        """The answer so far, including this chunk."""
        if chunk.content:
            self._text += chunk.content
        if chunk.thinking:
            self._thoughts += chunk.thinking
            self._thought = ThinkingBlock(content=self._thoughts)
        if chunk.tool_calls or chunk.invalid_tool_calls:
            self._add_calls((*chunk.tool_calls, *chunk.invalid_tool_calls))
        if chunk.response is None and self._thought is None and not self._calls and "logprobs" not in chunk.raw:
            return _text_response(self._text, chunk)
        blocks: list[ContentBlock] = [TextBlock(text=self._text)]
        if self._thought is not None:
            blocks.insert(0, self._thought)
        if self._calls:
            blocks += self._calls
        raw, logprobs = chunk.raw, None
        if chunk.response is not None:
            raw = dict(raw)
            _add_totals(raw, chunk.response, self._hosts)
            logprobs = chunk.response.logprobs
        elif "logprobs" in raw:
            logprobs = chunk.logprobs
        # LlamaIndex's agents read the blocks, its streaming programs read this key.
        settled = chunk.response is not None and not chunk.tool_calls and not self._for_program
        extra = {"tool_calls": self._plain_calls} if self._calls and not settled else {}
        response = ChatResponse(
            message=ChatMessage(role=MessageRole.ASSISTANT, blocks=blocks, additional_kwargs=extra),
            delta=chunk.content,
            raw=raw,
            logprobs=_logprobs(logprobs) if logprobs else None,
            additional_kwargs={"thinking_delta": chunk.thinking or None},
        )
        self._last = response if extra and not self._for_program else None
        return response

    def settled(self) -> ChatResponse | None:
        """One more response if the last one has the `tool_calls` key of programs: the same without it.

        The last message of a stream goes into chat histories, and other integrations read that key as tool calls in a
        form of their own, beside the blocks.
        """
        if self._last is None or self._for_program:
            return None
        blocks = self._last.message.blocks
        return ChatResponse(
            message=ChatMessage(role=MessageRole.ASSISTANT, blocks=blocks),
            delta="",
            raw=self._last.raw,
            logprobs=self._last.logprobs,
            additional_kwargs={"thinking_delta": None},
        )

    def _add_calls(self, calls: Sequence[AnyCall]) -> None:
        if self._single_call:
            calls = calls[: 1 - len(self._calls)]
        # New lists, because responses that were yielded share the old ones.
        self._calls = [*self._calls, *(_call_block(call) for call in calls)]
        self._plain_calls = [*self._plain_calls, *(_plain_call(call) for call in calls)]


def _text_response(text: str, chunk: StreamChunk) -> ChatResponse:
    block = _unchecked(TextBlock, {**_BLOCK_FIELDS, "text": text}, {"text"})
    message = _unchecked(
        ChatMessage,
        {**_MESSAGE_FIELDS, "blocks": [block], "additional_kwargs": {}},
        {"role", "blocks", "additional_kwargs"},
    )
    fields = {"message": message, "delta": chunk.content, "raw": chunk.raw, "logprobs": None}
    fields["additional_kwargs"] = {"thinking_delta": None}
    return _unchecked(ChatResponse, {**_RESPONSE_FIELDS, **fields}, set(fields))


def _unchecked(cls: type[M], fields: dict[str, Any], given: set[str]) -> M:
    """`cls(...)` without validation, in a fraction of the time."""
    made = cls.__new__(cls)
    _set(made, "__dict__", fields)
    _set(made, "__pydantic_fields_set__", given)
    _set(made, "__pydantic_extra__", None)
    _set(made, "__pydantic_private__", None)
    return made


def completion_of(response: ChatResponse) -> CompletionResponse:
    """Convert a chat response to a completion."""
    return CompletionResponse(
        text=response.message.content or "",
        delta=response.delta,
        raw=response.raw,
        logprobs=response.logprobs,
        additional_kwargs={**response.message.additional_kwargs, **response.additional_kwargs},
    )


def _call_block(call: AnyCall) -> ToolCallBlock:
    name, arguments = _name_and_arguments(call)
    return ToolCallBlock(tool_call_id=call.id, tool_name=name, tool_kwargs=arguments)


def _plain_call(call: AnyCall) -> dict[str, Any]:
    name, arguments = _name_and_arguments(call)
    return {"id": call.id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _name_and_arguments(call: AnyCall) -> tuple[str, dict[str, Any] | str]:
    """Invalid arguments are text; a call without a tool name is all text, with an empty name."""
    if isinstance(call, InvalidToolCall):
        return "", call.text
    return call.name, dict(call.arguments) if call.invalid_arguments is None else call.invalid_arguments


def _add_totals(raw: dict[str, Any], response: LLMResponse, hosts: bool) -> None:
    raw["usage"] = dict(response.usage)
    if response.truncated_prompt:
        raw["truncated_prompt"] = True
    if response.shifted_context:
        raw["shifted_context"] = True
    if hosts:
        raw["host"] = response.host


def _logprobs(tokens: Iterable[Mapping[str, Any]] | None) -> list[list[LogProb]] | None:
    """A list for each token: the chosen token, then its likely alternatives."""
    if tokens is None:
        return None
    return [
        [_logprob(token), *(_logprob(o) for o in token.get("top_logprobs") or () if o.get("token") != token["token"])]
        for token in tokens
    ]


def _logprob(token: Mapping[str, Any]) -> LogProb:
    return LogProb(token=token["token"], logprob=token["logprob"], bytes=token.get("bytes") or [])
