"""OpenAI's endpoints under /v1, as on Ollama's server: translated to the engine's own API and back.

`created` and ids are generated here; usage comes from the engine's counters. Unset options have the model's defaults,
as in the engine's own API.
"""

from __future__ import annotations

import base64
import struct
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime

import orjson

from namel3ss_ollama.embedded import embedding, generation, registry
from namel3ss_ollama.embedded.openai_requests import chat_request, completion_request, embedding_request
from namel3ss_ollama.embedded.refusal import Refused
from namel3ss_ollama.embedded.work import Handler, Json, Work

__all__ = ["ROUTES", "error", "model"]


def chat_completions(work: Work) -> None:
    """POST /v1/chat/completions."""
    answer = _Answer(work, "chatcmpl", "chat.completion", _said)
    generation.chat(replace(work, request=chat_request(work.request), emit=answer.take))


def completions(work: Work) -> None:
    """POST /v1/completions."""
    answer = _Answer(work, "cmpl", "text_completion", _written)
    generation.generate(replace(work, request=completion_request(work.request), emit=answer.take))


def embeddings(work: Work) -> None:
    """POST /v1/embeddings."""
    packed = work.request.get("encoding_format") == "base64"

    def emit(answer: Json) -> None:
        count = answer["prompt_eval_count"]
        data = [
            {"object": "embedding", "index": index, "embedding": _packed(vector) if packed else vector}
            for index, vector in enumerate(answer["embeddings"])
        ]
        usage = {"prompt_tokens": count, "total_tokens": count}
        work.emit({"object": "list", "data": data, "model": answer["model"], "usage": usage})

    embedding.embed(replace(work, request=embedding_request(work.request), emit=emit))


def models(work: Work) -> None:
    """GET /v1/models."""
    registry.tags(
        replace(work, emit=lambda tags: work.emit({"object": "list", "data": list(map(_model, tags["models"]))}))
    )


def model(name: str) -> Handler:
    """The handler of GET /v1/models/NAME."""

    def show(work: Work) -> None:
        asked = replace(work, request={"model": name})
        registry.show(replace(asked, emit=lambda shown: work.emit(_model({**shown, "name": name}))))

    return show


ROUTES: Mapping[tuple[str, str], Handler] = {
    ("POST", "/v1/chat/completions"): chat_completions,
    ("POST", "/v1/completions"): completions,
    ("POST", "/v1/embeddings"): embeddings,
    ("GET", "/v1/models"): models,
}


def error(refused: Refused) -> Json:
    """The body of a refusal."""
    kind = {400: "invalid_request_error", 404: "not_found_error"}.get(refused.status, "api_error")
    return {"error": {"message": str(refused), "type": kind, "param": None, "code": None}}


class _Answer:
    """Converts the engine's lines to an answer of OpenAI's API: one object, or one chunk per line.

    Args:
        work: The request, which receives the objects.
        prefix: The prefix of ids.
        kind: The name of the object.
        content: Called with a line, and whether it is a chunk; returns the content fields of a choice.
    """

    def __init__(self, work: Work, prefix: str, kind: str, content: Callable[[Json, bool], Json]) -> None:
        self._emit = work.emit
        self._content = content
        self._stream = work.wanted("stream", bool, False)
        streaming = work.wanted("stream_options", dict, {})
        self._counted = self._stream and bool(streaming.get("include_usage"))
        kind = kind if kind == "text_completion" or not self._stream else f"{kind}.chunk"
        self._head = {"id": f"{prefix}-{uuid.uuid4().hex[:12]}", "object": kind, "created": int(time.time())}
        self._begun = False
        self._called = False

    def take(self, line: Json) -> None:
        """Handle a line of the engine."""
        self._head["model"] = line["model"]
        self._called = self._called or bool(line.get("message", {}).get("tool_calls"))
        content = self._content(line, self._stream)
        if self._stream and not self._begun and "delta" in content:
            content["delta"] = {"role": "assistant", **content["delta"]}
        self._begun = True
        choice: Json = {"index": 0, **content, "logprobs": _logprobs(line), "finish_reason": self._reason(line)}
        answer: Json = {**self._head, "system_fingerprint": "fp_ollama", "choices": [choice]}
        if not self._stream:
            answer["usage"] = _usage(line)
        self._emit(answer)
        if self._counted and line["done"]:
            self._emit({**self._head, "system_fingerprint": "fp_ollama", "choices": [], "usage": _usage(line)})

    def _reason(self, line: Json) -> str | None:
        if not line["done"]:
            return None
        if self._called:
            return "tool_calls"
        return "length" if line.get("done_reason") == "length" else "stop"


def _said(line: Json, chunk: bool) -> Json:
    message = line["message"]
    calls = [
        {
            "id": call["id"],
            "index": call["function"]["index"],
            "type": "function",
            "function": {
                "name": call["function"]["name"],
                "arguments": orjson.dumps(call["function"]["arguments"]).decode(),
            },
        }
        for call in message.get("tool_calls") or ()
    ]
    said: Json = {"content": message["content"]} if message["content"] or not calls else {"content": None}
    if message.get("thinking"):
        said["reasoning"] = message["thinking"]
    if calls:
        said["tool_calls"] = calls
    return {"delta": said} if chunk else {"message": {"role": "assistant", **said}}


def _written(line: Json, chunk: bool) -> Json:
    return {"text": line["response"]}


def _usage(line: Json) -> Json:
    read, written = line.get("prompt_eval_count", 0), line.get("eval_count", 0)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _logprobs(line: Json) -> Json | None:
    return {"content": line["logprobs"]} if line.get("logprobs") else None


def _packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _model(listed: Json) -> Json:
    created = int(datetime.fromisoformat(listed["modified_at"]).timestamp())
    return {"id": listed["name"], "object": "model", "created": created, "owned_by": "library"}
