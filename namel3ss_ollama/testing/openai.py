"""`/v1/chat/completions`, `/v1/embeddings` and `/v1/models`: OpenAI's API on top of the handlers of Ollama's own.

A request is translated to one of `/api/chat` or `/api/embed`, and the answer back, by the rules of Ollama's
documentation of its OpenAI compatibility (docs/api/openai-compatibility.mdx) and of openai/openai.go and
middleware/openai.go: unknown fields are ignored, and `temperature` and `top_p` default to 1.
"""

from __future__ import annotations

import base64
import json
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from .answers import JSON_TYPE, Answer, Part, Piece, dumps, unary
from .checks import Handler, Refused, Scripted, State, payload_of
from .record import Record
from .values import as_list, as_object

__all__ = ["CHAT", "EMBEDDINGS", "openai_routes"]

CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
_FINGERPRINT = "fp_ollama"
_OPTIONS = ("seed", "frequency_penalty", "presence_penalty")
_IMAGES = ("data:;base64,", *(f"data:image/{kind};base64," for kind in ("jpeg", "jpg", "png", "webp")))


def openai_routes(chat: Handler, embed: Handler, tags: Handler) -> dict[str, dict[str, Handler]]:
    """The endpoints, by path and method.

    Args:
        chat: The handler of `/api/chat`.
        embed: That of `/api/embed`.
        tags: That of `/api/tags`.
    """

    def completions(state: State, record: Record, scripted: Scripted) -> Answer:
        given = payload_of(record, "ChatCompletionRequest")
        if not given.get("messages"):
            raise Refused(400, "[] is too short - 'messages'")
        inner = _inner(record, "/api/chat", _chat_request(given))
        answer = chat(state, inner, scripted)
        record.kept_tools = inner.kept_tools
        return _completion(record, given, answer) if answer.status == 200 else answer

    def embeddings(state: State, record: Record, scripted: Scripted) -> Answer:
        given = payload_of(record, "EmbedRequest")
        if given.get("input") in (None, []):
            raise Refused(400, "invalid input")
        asked = {"model": given.get("model"), "input": given["input"], "dimensions": given.get("dimensions")}
        answer = embed(state, _inner(record, "/api/embed", asked), scripted)
        return unary(_embedding_list(given, as_object(json.loads(answer.body))))

    def models(state: State, record: Record, scripted: Scripted) -> Answer:
        listed = as_list(as_object(json.loads(tags(state, record, scripted).body)).get("models"))
        return unary({"object": "list", "data": [_model(as_object(one)) for one in listed]})

    return {
        CHAT: {"POST": _in_its_words(completions)},
        EMBEDDINGS: {"POST": _in_its_words(embeddings)},
        "/v1/models": {"GET": models},
    }


def _in_its_words(handler: Handler) -> Handler:
    """The handler, with errors in OpenAI's format."""

    def handle(state: State, record: Record, scripted: Scripted) -> Answer:
        try:
            answer = handler(state, record, scripted)
        except Refused as refused:
            answer = refused.answer
        if answer.status == 200:
            return answer
        kind = {400: "invalid_request_error", 404: "not_found_error"}.get(answer.status, "api_error")
        message = as_object(json.loads(answer.body)).get("error")
        said = {"error": {"message": message, "type": kind, "param": None, "code": None}}
        return replace(answer, parts=[Piece(dumps(said).encode())], headers={"Content-Type": JSON_TYPE})

    return handle


def _inner(record: Record, path: str, payload: dict[str, object]) -> Record:
    """The request of Ollama's API for one of OpenAI's."""
    inner = Record(
        record.method, path, record.query, record.raw_headers, dumps(payload).encode(), record.connection, record.time
    )
    inner.number = record.number
    return inner


def _chat_request(given: dict[str, object]) -> dict[str, object]:
    options: dict[str, object] = {name: given[name] for name in _OPTIONS if given.get(name) is not None}
    stop = given.get("stop")
    if stop is not None:
        options["stop"] = [stop] if isinstance(stop, str) else stop
    if given.get("max_tokens") is not None:
        options["num_predict"] = given["max_tokens"]
    for name in ("temperature", "top_p"):
        options[name] = 1.0 if given.get(name) is None else given[name]
    request: dict[str, object] = {
        "model": given.get("model"),
        "messages": _messages(as_list(given["messages"])),
        "options": options,
        "stream": bool(given.get("stream")),
        "tools": given.get("tools"),
    }
    wanted = as_object(given.get("response_format"))
    if wanted.get("type") == "json_object":
        request["format"] = "json"
    elif wanted.get("type") == "json_schema":
        request["format"] = as_object(wanted.get("json_schema")).get("schema")
    effort = given.get("reasoning_effort")
    if effort:
        request["think"] = False if effort == "none" else effort
    return {name: value for name, value in request.items() if value is not None}


def _messages(given: list[object]) -> list[object]:
    """The messages; each part of a content becomes a message, as on the server."""
    made: list[object] = []
    names: dict[object, object] = {}
    for one in given:
        message = as_object(one)
        calls: list[dict[str, object]] = []
        for call in map(as_object, as_list(message.get("tool_calls"))):
            function = as_object(call.get("function"))
            names[call.get("id")] = function.get("name")
            arguments = json.loads(str(function.get("arguments")))
            calls.append({"function": {"name": function.get("name"), "arguments": arguments}})
        head: dict[str, object] = {"role": message.get("role")}
        if message.get("role") == "tool":
            head["tool_name"] = message.get("name") or names.get(message.get("tool_call_id"), "")
        content = message.get("content")
        parts = [_part(as_object(part)) for part in as_list(content)] or [{"content": content or ""}]
        made += [{**head, **part} for part in parts[:-1]]
        made.append({**head, **parts[-1], **({"tool_calls": calls} if calls else {})})
    return made


def _part(part: dict[str, object]) -> dict[str, object]:
    if part.get("type") == "text":
        return {"content": part.get("text")}
    image = part.get("image_url")
    url = str(as_object(image).get("url", image))
    prefix = next((one for one in _IMAGES if url.startswith(one)), None)
    if part.get("type") != "image_url":
        raise Refused(400, "invalid message format")
    if prefix is None:
        raise Refused(400, "invalid image input")
    return {"content": "", "images": [url.removeprefix(prefix)]}


def _completion(record: Record, given: dict[str, object], answer: Answer) -> Answer:
    """The lines of a chat as events, or its single object."""
    kind = "chat.completion.chunk" if answer.streamed else "chat.completion"
    head = {
        "id": f"chatcmpl-{record.number}",
        "object": kind,
        "created": int(time.time()),
        "model": given.get("model"),
        "system_fingerprint": _FINGERPRINT,
    }
    called = False

    def translated(line: dict[str, object]) -> str:
        nonlocal called
        said = as_object(line.get("message"))
        message: dict[str, object] = {"role": "assistant", "content": said.get("content", "")}
        if said.get("thinking"):
            message["reasoning"] = said["thinking"]
        if calls := as_list(said.get("tool_calls")):
            message["tool_calls"] = [_call(as_object(call), place) for place, call in enumerate(calls)]
            called = True
        # An error in the middle of a stream has none of these fields: it becomes an empty chunk.
        reason = None if not line.get("done") else "tool_calls" if called else line.get("done_reason")
        choice = {"index": 0, "delta" if answer.streamed else "message": message, "finish_reason": reason}
        whole: dict[str, object] = {**head, "choices": [choice]}
        if not answer.streamed:
            return dumps({**whole, "usage": _usage(line)})
        events = [dumps(whole)]
        if line.get("done") and as_object(given.get("stream_options")).get("include_usage"):
            events.append(dumps({**whole, "choices": [], "usage": _usage(line)}))
        if line.get("done"):
            events.append("[DONE]")
        return "".join(f"data: {event}\n\n" for event in events)

    parts: list[Part] = []
    for part in answer.parts:
        if isinstance(part, Piece) and part.data:
            parts.append(part._replace(data=translated(as_object(json.loads(part.data))).encode()))
        else:
            parts.append(part)
    content_type = "text/event-stream" if answer.streamed else "application/json"
    return replace(answer, parts=parts, headers={**answer.headers, "Content-Type": content_type})


def _call(call: dict[str, object], place: int) -> dict[str, object]:
    function = as_object(call.get("function"))
    return {
        "id": call.get("id", f"call_{place}"),
        "index": function.get("index", place),
        "type": "function",
        "function": {"name": function.get("name"), "arguments": dumps(function.get("arguments"))},
    }


def _usage(line: dict[str, object]) -> dict[str, int]:
    read, written = (_count(line.get(name)) for name in ("prompt_eval_count", "eval_count"))
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0


def _embedding_list(given: dict[str, object], answer: dict[str, object]) -> dict[str, object]:
    written: Callable[[object], object] = _packed if given.get("encoding_format") == "base64" else lambda vector: vector
    data = [
        {"object": "embedding", "embedding": written(vector), "index": index}
        for index, vector in enumerate(as_list(answer.get("embeddings")))
    ]
    count = _count(answer.get("prompt_eval_count"))
    usage = {"prompt_tokens": count, "total_tokens": count}
    return {"object": "list", "data": data, "model": given.get("model"), "usage": usage}


def _packed(vector: object) -> str:
    numbers = as_list(vector)
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def _model(listed: dict[str, object]) -> dict[str, object]:
    stamp = str(listed.get("modified_at"))[:19]  # Python 3.10 parses neither nanoseconds nor the Z
    created = int(datetime.fromisoformat(f"{stamp}+00:00").timestamp())
    return {"id": listed.get("name"), "object": "model", "created": created, "owned_by": "library"}
