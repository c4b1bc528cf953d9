"""Convert the core's chunks to LangChain's protocol events (`stream_events(version="v3")`), without messages between.

A message is a sequence of blocks: reasoning, text, tool calls. A block starts with the first content of its kind and
finishes when content of another kind arrives. `message-finish` is emitted once the answer is complete and the
connection released, because consumers stop reading there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from langchain_namel3ss_ollama.arguments import BrokenCall, broken_text, json_arguments
from langchain_namel3ss_ollama.chunks import (
    PROVIDER,
    ended_by_limit,
    finish_of,
    finished_call,
    metadata_of,
    usage_of,
)
from langchain_namel3ss_ollama.stand_ins import WantedCalls
from namel3ss_ollama import LLMResponse, StreamChunk, ToolCall

if TYPE_CHECKING:
    from langchain_protocol.protocol import MessagesData

__all__ = ["EventMaker"]

Event = dict[str, Any]


class EventMaker:
    """Builds the events of one answer.

    Args:
        message_id: The id of the message.
        model: The requested model.
        reasoning: Whether to pass on the model's reasoning.
        calls: As for `ChunkMaker`.
        hosts: As for `ChunkMaker`.
    """

    def __init__(
        self, message_id: str, model: str, *, reasoning: bool, calls: WantedCalls | None = None, hosts: bool = False
    ) -> None:
        self._hosts = hosts
        self._wanted = calls or WantedCalls()
        self._id = message_id
        self._model = model
        self._reasoning = reasoning
        self._index = -1
        self._kind = ""
        self._parts: list[str] = []
        self._logprobs: list[dict[str, Any]] = []
        self._started = False
        self._response: LLMResponse | None = None

    def events(self, chunk: StreamChunk) -> Iterator[MessagesData]:
        """The events of a chunk."""
        if not self._started:
            yield self._start()
        if chunk.thinking and self._reasoning:
            yield from self._piece("reasoning", chunk.thinking)
        if chunk.content:
            yield from self._piece("text", chunk.content)
        if chunk.tool_calls or chunk.invalid_tool_calls:
            for call in self._wanted.of(chunk):
                yield from self._call(call)
        if chunk.logprobs:
            self._logprobs.extend(chunk.logprobs)
        if chunk.response is not None:
            self._response = chunk.response

    def finish(self, partial: LLMResponse) -> Iterator[MessagesData]:
        """The closing events.

        Args:
            partial: The answer so far, used if the caller's limit ended it before the model finished.
        """
        if not self._started:
            yield self._start()
        yield from self._close()
        response = self._response or ended_by_limit(partial)
        metadata = metadata_of(response, self._model, hosts=self._hosts)
        metadata["logprobs"] = self._logprobs or None
        event: Event = {"event": "message-finish", **finish_of(response), "metadata": metadata}
        if usage := usage_of(response):
            event["usage"] = dict(usage)
        yield cast("MessagesData", event)

    def _start(self) -> MessagesData:
        self._started = True
        metadata = {"provider": PROVIDER, "model": self._model}
        return cast("MessagesData", {"event": "message-start", "role": "ai", "id": self._id, "metadata": metadata})

    def _piece(self, kind: str, text: str) -> Iterator[MessagesData]:
        if kind != self._kind:
            yield from self._close()
            self._kind = kind
            yield self._begin({"type": kind, kind: ""})
        self._parts.append(text)
        delta = {"type": f"{kind}-delta", kind: text}
        yield cast("MessagesData", {"event": "content-block-delta", "index": self._index, "delta": delta})

    def _call(self, call: BrokenCall) -> Iterator[MessagesData]:
        yield from self._close()
        valid = isinstance(call, ToolCall) and call.error is None
        arguments = json_arguments(call.arguments) if isinstance(call, ToolCall) and valid else broken_text(call)
        name = call.name if isinstance(call, ToolCall) else None
        chunk = {"type": "tool_call_chunk", "id": call.id, "name": name, "args": "", "index": self._index + 1}
        yield self._begin(chunk)
        delta = {"type": "tool-call-delta", "args": arguments}
        yield cast("MessagesData", {"event": "content-block-delta", "index": self._index, "delta": delta})
        yield self._end(finished_call(call))

    def _begin(self, block: Event) -> MessagesData:
        self._index += 1
        return cast("MessagesData", {"event": "content-block-start", "index": self._index, "content": block})

    def _end(self, block: Event) -> MessagesData:
        return cast("MessagesData", {"event": "content-block-finish", "index": self._index, "content": block})

    def _close(self) -> Iterator[MessagesData]:
        if self._kind:
            text = "".join(self._parts)
            kind, self._kind, self._parts = self._kind, "", []
            yield self._end({"type": kind, kind: text})
