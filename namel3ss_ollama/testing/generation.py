"""Converts a reply to the lines or the object of `/api/chat` and `/api/generate`, with the fields that Ollama writes.

Lines are assembled from text: only the content goes through a JSON encoder, so a thousand concurrent streams cost the
server little.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace

from . import versions
from .answers import JSON_TYPE, NDJSON_TYPE, Answer, Part, Piece, dumps, now
from .checks import State
from .cloud import remote_names
from .grammar import written
from .models import Model
from .record import Record
from .replies import Reply, ToolCall, tokens_of
from .schema import minimal
from .values import as_list, as_object

__all__ = ["default_reply", "default_tool_call", "generation", "idle"]

_MARK = "\0"  # the place of logprobs; JSON text never contains a NUL
_LOAD_NS = 20_000_000
_PROMPT_NS = 1_000_000
_TOKEN_NS = 10_000_000
_CACHED = "prompt_eval_cached_count"


def default_reply(record: Record, thinks: bool, held: bool, version: str, prompt: list[str]) -> Reply:
    """The reply of a server without a script: the prompt's last words, or JSON if `format` is enforced (`held`)."""
    payload = record.payload
    wanted = payload.get("format")
    if wanted and held:
        schema = as_object(wanted)
        words = tokens_of(written(dumps(minimal(schema) if schema else {}), version))
    else:
        words = tokens_of(f"You said: {''.join(prompt).rsplit(chr(10), 1)[-1][-500:]}")
    thinking = "The user said something; I say it back." if thinks else ""
    reason = "stop"
    limit = as_object(payload.get("options")).get("num_predict")
    if isinstance(limit, int) and 0 < limit < len(words):
        words, reason = words[:limit], "length"
    return Reply(words, thinking=thinking, done_reason=reason)


def default_tool_call(record: Record) -> ToolCall:
    """A call of the request's first tool, with the smallest valid arguments; for faults that need one."""
    for tool in as_list(record.payload.get("tools")):
        function = as_object(as_object(tool).get("function"))
        name = function.get("name")
        if isinstance(name, str):
            return ToolCall(name, as_object(minimal(function.get("parameters", {}))))
    return ToolCall("get_weather", {"city": "Rome"})


def idle(name: str, chat: bool, reason: str) -> Answer:
    """The answer to a request without a prompt: the model was loaded or unloaded."""
    head = f'{{"model":{dumps(name)},"created_at":"{now()}",'
    if chat:
        line = f'{head}"message":{{"role":"assistant","content":""}},"done_reason":"{reason}","done":true}}'
    else:
        line = f'{head}"response":"","done":true,"done_reason":"{reason}"}}'
    return Answer([Piece(line.encode())], headers={"Content-Type": JSON_TYPE})


def generation(
    state: State, record: Record, model: Model, reply: Reply, chat: bool, prompt: Mapping[str, int]
) -> Answer:
    """The answer to one request, streamed unless it says `stream: false`; `prompt` has its counters and the load's."""
    name = dumps(record.payload.get("model"))
    if versions.REMOTE_NAMES.on(state.version):
        name += "".join(f',"{key}":{dumps(value)}' for key, value in remote_names(state, model).items())
    rate = reply.tokens_per_second or state.tokens_per_second
    thinking, words = tokens_of(reply.thinking), tokens_of(reply.text)
    calls = [dumps(_numbered(call, place, record, state.version).wire()) for place, call in enumerate(reply.calls)]
    if calls and reply.tool_calls_in_one_line:
        calls = [",".join(calls)]
    count = len(thinking) + len(words) + len(calls)
    logprobs = _logprobs(record, reply, words, state.fields)
    tail = _tail(record, reply, prompt, count, rate, chat)
    build = _stream if record.payload.get("stream") is not False else _whole
    if reply.error is not None:
        tail = ""
    answer = build(_writer(name, chat), thinking, words, calls, logprobs, tail)
    if reply.error is not None:
        answer = _with_error(answer, reply.error)
    answer.headers.update(reply.headers)
    answer.tokens_per_second = rate
    return answer


def _numbered(call: ToolCall, place: int, record: Record, version: str) -> ToolCall:
    """The call with the version's index and id, unless the test set them."""
    if call.index is None and versions.TOOL_CALL_INDEX.on(version):
        call = replace(call, index=place)
    if call.id is None and versions.TOOL_CALL_IDS.on(version):
        digest = hashlib.sha256(f"{record.number} {place}".encode()).hexdigest()
        call = replace(call, id=f"call_{digest[:8]}")
    return call


_Writer = Callable[[str, str, str, str, str], bytes]


def _writer(name: str, chat: bool) -> _Writer:
    """A function that writes the object from content, thinking, tool calls, logprobs and the end of the object."""

    def chat_object(content: str, thinking: str, calls: str, logprobs: str, tail: str) -> bytes:
        message = f'"content":{dumps(content)}'
        if thinking:
            message += f',"thinking":{dumps(thinking)}'
        if calls:
            message += f',"tool_calls":[{calls}]'
        head = f'{{"model":{name},"created_at":"{now()}","message":{{"role":"assistant",{message}}}'
        return (head + tail.replace(_MARK, logprobs, 1)).encode()

    def generate_object(content: str, thinking: str, calls: str, logprobs: str, tail: str) -> bytes:
        thought = f',"thinking":{dumps(thinking)}' if thinking else ""
        called = f',"tool_calls":[{calls}]' if calls else ""
        head = f'{{"model":{name},"created_at":"{now()}","response":{dumps(content)}{thought}'
        return (head + tail.replace(_MARK, called + logprobs, 1)).encode()

    return chat_object if chat else generate_object


_GOES_ON = ',"done":false\0}\n'


def _stream(
    write: _Writer, thinking: list[str], words: list[str], calls: list[str], logprobs: list[str], tail: str
) -> Answer:
    parts: list[Part] = [Piece(write("", one, "", "", _GOES_ON), 1) for one in thinking]
    for index, one in enumerate(words):
        extra = f',"logprobs":[{logprobs[index]}]' if logprobs else ""
        parts.append(Piece(write(one, "", "", extra, _GOES_ON), 1))
    parts += [Piece(write("", "", call, "", _GOES_ON), 1) for call in calls]
    if tail:
        parts.append(Piece(write("", "", "", "", tail) + b"\n"))
    return Answer(parts, headers={"Content-Type": NDJSON_TYPE}, streamed=True)


def _whole(
    write: _Writer, thinking: list[str], words: list[str], calls: list[str], logprobs: list[str], tail: str
) -> Answer:
    parts: list[Part] = [Piece(b"", 1) for _ in range(len(thinking) + len(words) + len(calls))]
    if tail:
        extra = f',"logprobs":[{",".join(logprobs)}]' if logprobs else ""
        parts.append(Piece(write("".join(words), "".join(thinking), ",".join(calls), extra, tail)))
    return Answer(parts, headers={"Content-Type": JSON_TYPE})


def _with_error(answer: Answer, message: str) -> Answer:
    body = dumps({"error": message}).encode()
    if answer.streamed:
        answer.parts.append(Piece(body + b"\n"))
    else:
        answer.status = 500
        answer.parts.append(Piece(body))
    return answer


def _tail(record: Record, reply: Reply, prompt: Mapping[str, int], count: int, rate: float | None, chat: bool) -> str:
    """The end of the last line: done, its reason and the counters. A NUL marks the place of logprobs."""
    length = prompt["prompt_eval_count"]
    values: dict[str, int | None] = {
        "total_duration": 0,
        "load_duration": _LOAD_NS,
        **prompt,
        **({} if reply.load_duration is None else {"load_duration": reply.load_duration}),
        "prompt_eval_duration": length * _PROMPT_NS,
        "eval_count": count,
        "eval_duration": int(count * (1e9 / rate if rate else _TOKEN_NS)),
    }
    working = sum(values[f"{n}_duration"] or 0 for n in ("load", "prompt_eval", "eval"))
    values["total_duration"] = working + _PROMPT_NS + int(record.queued * 1e9)
    values.update(reply.counters)
    if values.get(_CACHED) is not None and _CACHED not in reply.counters:
        values[_CACHED] = min(values[_CACHED] or 0, values["prompt_eval_count"] or 0)  # the first is part of the second
    counters = "".join(f',"{key}":{value}' for key, value in values.items() if value is not None)
    reason = dumps(reply.done_reason)
    if chat:
        return f',"done_reason":{reason},"done":true\0{counters}}}'
    context = ""
    if not record.payload.get("raw"):
        context = f',"context":[{",".join(map(str, range(1, min(length + count, 32) + 1)))}]'
    return f',"done":true,"done_reason":{reason}{context}\0{counters}}}'


def _logprobs(record: Record, reply: Reply, words: list[str], version: str) -> list[str]:
    """One JSON object per token, if the request asks for them and the version supports them, or the test set them."""
    known = reply.logprobs is not None or versions.LOGPROBS.on(version)
    if record.payload.get("logprobs") is not True or not known:
        return []
    top = record.payload.get("top_logprobs")
    written: list[str] = []
    for index, word in enumerate(words):
        given = reply.logprobs
        value = given[index] if given is not None and index < len(given) else -0.05 * (1 + index % 7)
        one: dict[str, object] = {
            "token": word,
            "logprob": value,
            "bytes": list(word.encode("utf-8", "replace")),
        }
        if isinstance(top, int) and top > 0:
            others = [_alternative(word, value, rank) for rank in range(top)]
            one["top_logprobs"] = others
        written.append(dumps(one))
    return written


def _alternative(word: str, value: float, rank: int) -> dict[str, object]:
    token = word if rank == 0 else f"{word}{rank}"
    return {"token": token, "logprob": value - rank, "bytes": list(token.encode("utf-8", "replace"))}
