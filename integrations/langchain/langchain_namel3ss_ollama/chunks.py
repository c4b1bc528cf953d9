"""Convert the core's chunks and responses to LangChain messages.

The chunk of a token is the hot path. Its two pydantic objects are built without validation, which has nothing to check
for this shape (text and nothing else); a test asserts that they equal what the constructors build. Everything else
(tool calls, reasoning, the last chunk) goes through the constructors.

Where LangChain expects things:
- only the last chunk has usage, metadata and `chunk_position`: merging chunks adds and concatenates their fields;
- reasoning is `additional_kwargs["reasoning_content"]`, or with `output_version="v1"` a content block;
- every tool call has its own index. In v0 the indices begin at 1000, because LangChain numbers content blocks from 0
  and merges blocks with equal indices; in v1 the content blocks are numbered here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from langchain_core.messages import AIMessage, AIMessageChunk, InvalidToolCall
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import ToolCallChunk, invalid_tool_call, tool_call, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk

from langchain_namel3ss_ollama.arguments import BrokenCall, broken_text, json_arguments, sealed_arguments
from langchain_namel3ss_ollama.stand_ins import WantedCalls
from namel3ss_ollama import LLMError, LLMResponse, OutputValidationError, StreamChunk, ToolCall

__all__ = ["ChunkMaker", "ended_by_limit", "finish_of", "generation_of", "metadata_of", "unfit_answer", "usage_of"]

PROVIDER = "ollama"
_FIRST_CALL_INDEX = 1000
_LIMIT_OF_CHUNKS = "max_chunks"
_NORMALIZED = {"stop": "stop", "length": "length", _LIMIT_OF_CHUNKS: "length"}
_MESSAGE_FIELDS = dict(AIMessageChunk(content="").__dict__)
_GENERATION_FIELDS = dict(ChatGenerationChunk(message=AIMessageChunk(content="")).__dict__)
_set = object.__setattr__


def _text_chunk(text: str) -> ChatGenerationChunk:
    """`ChatGenerationChunk(message=AIMessageChunk(content=text))`, at a fraction of the time."""
    fields = _MESSAGE_FIELDS.copy()
    fields["content"] = text
    fields["additional_kwargs"] = {}
    fields["response_metadata"] = {}
    fields["tool_calls"] = []
    fields["invalid_tool_calls"] = []
    fields["tool_call_chunks"] = []
    message = AIMessageChunk.__new__(AIMessageChunk)
    _set(message, "__dict__", fields)
    _set(message, "__pydantic_fields_set__", {"content"})
    _set(message, "__pydantic_extra__", {})
    _set(message, "__pydantic_private__", None)
    fields = _GENERATION_FIELDS.copy()
    fields["text"] = text
    fields["message"] = message
    generation = ChatGenerationChunk.__new__(ChatGenerationChunk)
    _set(generation, "__dict__", fields)
    _set(generation, "__pydantic_fields_set__", {"message"})
    _set(generation, "__pydantic_extra__", None)
    _set(generation, "__pydantic_private__", None)
    return generation


class ChunkMaker:
    """Builds the chunks of one answer.

    Args:
        v1: Whether content is a list of blocks (`output_version="v1"`).
        reasoning: Whether to pass on the model's reasoning.
        calls: Which tool calls to pass on; all by default.
        hosts: Whether there are several hosts, so that the metadata names the one that answered.
    """

    __slots__ = ("_block", "_calls", "_hosts", "_index", "_reasoning", "_v1", "_wanted", "finished")

    def __init__(self, *, v1: bool, reasoning: bool, calls: WantedCalls | None = None, hosts: bool = False) -> None:
        self._hosts = hosts
        self._v1 = v1
        self._reasoning = reasoning
        self._wanted = calls or WantedCalls()
        self._calls = 0
        self._block = ""
        self._index = -1
        self.finished = False

    def chunk(self, chunk: StreamChunk) -> ChatGenerationChunk | None:
        """The LangChain chunk; None if there is nothing to pass on."""
        if (
            chunk.response is None
            and not (chunk.thinking or chunk.tool_calls or chunk.invalid_tool_calls or (self._v1 and chunk.content))
            and chunk.logprobs is None
        ):
            return _text_chunk(chunk.content) if chunk.content else None
        thinking = chunk.thinking if self._reasoning else ""
        calls = self._wanted.of(chunk)
        if chunk.response is not None:
            return self._last(chunk.content, thinking, calls, chunk.response, chunk.logprobs)
        if not (chunk.content or thinking or calls or chunk.logprobs):
            return None
        info = {"logprobs": chunk.logprobs} if chunk.logprobs is not None else None
        message = self._message(chunk.content, thinking, calls)
        return ChatGenerationChunk(message=message, generation_info=info)

    def cut(self, response: LLMResponse, model: str) -> ChatGenerationChunk:
        """The last chunk of an answer that the caller's limit ended before the model finished."""
        return self.last(ended_by_limit(response), model)

    def last(self, response: LLMResponse, model: str) -> ChatGenerationChunk:
        """The last chunk of an answer whose text was passed on already."""
        return self._last("", "", (), response, None, model=model)

    def _last(
        self,
        content: str,
        thinking: str,
        calls: Sequence[BrokenCall],
        response: LLMResponse,
        logprobs: list[dict[str, Any]] | None,
        model: str = "",
    ) -> ChatGenerationChunk:
        self.finished = True
        message = self._message(content, thinking, calls, last=True, usage=usage_of(response))
        info = metadata_of(response, model, hosts=self._hosts)
        info["logprobs"] = logprobs  # earlier chunks had their own
        return ChatGenerationChunk(message=message, generation_info=info)

    def _message(
        self,
        content: str,
        thinking: str,
        calls: Sequence[BrokenCall],
        *,
        last: bool = False,
        usage: UsageMetadata | None = None,
    ) -> AIMessageChunk:
        made: dict[str, Any] = {"usage_metadata": usage} if usage else {}
        if last:
            made["chunk_position"] = "last"
        if self._v1:
            blocks, chunks = self._blocks(content, thinking, calls)
            return AIMessageChunk(
                content=cast("Any", blocks),
                tool_call_chunks=chunks,
                response_metadata={"output_version": "v1"},
                **made,
            )
        if thinking:
            made["additional_kwargs"] = {"reasoning_content": thinking}
        return AIMessageChunk(content=content, tool_call_chunks=[self._call(call) for call in calls], **made)

    def _call(self, call: BrokenCall, index: int | None = None) -> ToolCallChunk:
        if index is None:
            index = _FIRST_CALL_INDEX + self._calls
            self._calls += 1
        if isinstance(call, ToolCall) and call.invalid_arguments is None:
            return tool_call_chunk(name=call.name, args=json_arguments(call.arguments), id=call.id, index=index)
        broken = _invalid(call)
        return tool_call_chunk(
            name=broken["name"], args=sealed_arguments(broken["args"] or ""), id=call.id, index=index
        )

    def _blocks(
        self, content: str, thinking: str, calls: Sequence[BrokenCall]
    ) -> tuple[list[dict[str, Any]], list[ToolCallChunk]]:
        """The blocks of a chunk with their indices: text that continues a block has the index of that block."""
        blocks: list[dict[str, Any]] = []
        chunks: list[ToolCallChunk] = []
        if thinking:
            blocks.append({"type": "reasoning", "reasoning": thinking, "index": self._numbered("reasoning")})
        if content:
            blocks.append({"type": "text", "text": content, "index": self._numbered("text")})
        for call in calls:
            self._block = ""  # every call is a block of its own
            chunk = self._call(call, self._numbered("call"))
            chunks.append(chunk)
            if broken_text(call) is None:
                blocks.append(cast("dict[str, Any]", {**chunk}))
            else:
                blocks.append({**_invalid(call), "index": chunk["index"]})
        return blocks, chunks

    def _numbered(self, kind: str) -> int:
        if kind != self._block:
            self._block = kind
            self._index += 1
        return self._index


def ended_by_limit(partial: LLMResponse) -> LLMResponse:
    """The answer so far, marked as ended by `max_chunks`, for which servers have no `done_reason`."""
    return replace(partial, metadata={**partial.metadata, "done_reason": _LIMIT_OF_CHUNKS})


def unfit_answer(error: LLMError) -> LLMResponse | None:
    """The answer of an error about its format, for the output parser to check; None for any other error.

    Its metadata describes the attempts as "format_error".
    """
    if not isinstance(error, OutputValidationError) or error.response is None:
        return None
    response = error.response
    return replace(response, metadata={**response.metadata, "format_error": error.tried or error.message})


def generation_of(
    response: LLMResponse, *, v1: bool, reasoning: bool, calls: WantedCalls | None = None, hosts: bool = False
) -> ChatGeneration:
    """A complete answer.

    Args:
        response: The core's response.
        v1: As for `ChunkMaker`.
        reasoning: As for `ChunkMaker`.
        calls: As for `ChunkMaker`.
        hosts: As for `ChunkMaker`.
    """
    found = (calls or WantedCalls()).of(response)
    thinking = response.thinking if reasoning else ""
    made: dict[str, Any] = {}
    content: Any = response.content
    if v1:
        content = _finished_blocks(response, thinking, found)
        made["response_metadata"] = {"output_version": "v1"}
    elif thinking:
        made["additional_kwargs"] = {"reasoning_content": thinking}
    if found:
        made["tool_calls"] = [
            tool_call(name=c.name, args=dict(c.arguments), id=c.id)
            for c in found
            if isinstance(c, ToolCall) and c.error is None
        ]
        made["invalid_tool_calls"] = [_invalid(c) for c in found if c.error is not None]
    message = AIMessage(content=content, usage_metadata=usage_of(response), **made)
    return ChatGeneration(message=message, generation_info=metadata_of(response, hosts=hosts))


def _finished_blocks(response: LLMResponse, thinking: str, calls: Sequence[BrokenCall]) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if thinking:
        blocks.append({"type": "reasoning", "reasoning": thinking})
    if response.content:
        blocks.append({"type": "text", "text": response.content})
    blocks.extend(finished_call(call) for call in calls)
    return blocks


def finished_call(call: BrokenCall) -> dict[str, Any]:
    """The block of a tool call, valid or invalid."""
    if isinstance(call, ToolCall) and call.error is None:
        return {"type": "tool_call", "id": call.id, "name": call.name, "args": dict(call.arguments)}
    return cast("dict[str, Any]", _invalid(call))


def _invalid(call: BrokenCall) -> InvalidToolCall:
    name = call.name if isinstance(call, ToolCall) else None
    return invalid_tool_call(name=name, args=broken_text(call), id=call.id, error=call.error)


def usage_of(response: LLMResponse) -> UsageMetadata | None:
    """The token usage; None if the server sent no counts, as for a request that only loads a model."""
    if "prompt_eval_count" not in response.metadata and "eval_count" not in response.metadata:
        return None
    usage = response.usage
    counts: dict[str, int | dict[str, int]] = {
        "input_tokens": usage["prompt_tokens"],
        "output_tokens": usage["completion_tokens"],
        "total_tokens": usage["total_tokens"],
    }
    if usage.cached_tokens is not None:
        counts["input_token_details"] = {"cache_read": usage.cached_tokens}
    # Cast, because langchain-core 1.8 imports NotRequired from where mypy, which checks for 3.10, does not find it.
    return cast("UsageMetadata", counts)


def metadata_of(response: LLMResponse, model: str = "", *, hosts: bool = False) -> dict[str, Any]:
    """The `response_metadata`, under langchain-ollama's names.

    Args:
        response: The core's response.
        model: The requested model, for responses in which the server does not name it.
        hosts: Whether there are several hosts, so that "host" names the one that answered.
    """
    name = response.model or model
    metadata = {"model": name, "model_name": name, "model_provider": PROVIDER, "done": True, **response.metadata}
    metadata.update(finish_of(response))
    metadata["logprobs"] = response.logprobs
    if response.truncated_prompt:
        metadata["truncated_prompt"] = True
    if response.shifted_context:
        metadata["shifted_context"] = True
    if hosts and response.host:
        metadata["host"] = response.host
    return metadata


def finish_of(response: LLMResponse) -> dict[str, str]:
    """The finish reason, under the names that langchain-core 1.8.4 and newer read; empty if the server sent none.

    `finish_reason` is the server's `done_reason`. `normalized_finish_reason` is one of langchain-core's values:
    "tool_call" for an answer with tool calls, for which the server sends "stop".
    """
    reason = response.metadata.get("done_reason")
    if not isinstance(reason, str) or not reason:
        return {}
    normalized = _NORMALIZED.get(reason, "other")
    if normalized == "stop" and (response.tool_calls or response.invalid_tool_calls):
        normalized = "tool_call"
    return {"finish_reason": reason, "normalized_finish_reason": normalized}
