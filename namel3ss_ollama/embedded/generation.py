"""Chat and generate: from a request to the engine's events, and from the events to the lines of an answer."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Sequence
from typing import Any

from namel3ss_ollama.embedded.binding import complete, fitted
from namel3ss_ollama.embedded.engine import Cancelled
from namel3ss_ollama.embedded.options import load_options, sampling
from namel3ss_ollama.embedded.outputs import Outputs
from namel3ss_ollama.embedded.prompts import capabilities, chat_prompt
from namel3ss_ollama.embedded.refusal import Refused
from namel3ss_ollama.embedded.schema import compiled
from namel3ss_ollama.embedded.store import Model
from namel3ss_ollama.embedded.work import Json, Work, nanoseconds, now

__all__ = ["chat", "generate"]


def chat(work: Work) -> None:
    """POST /api/chat."""
    model, request = work.model(), work.request
    can = _able(model, "completion", "chat")
    messages = _messages(work.wanted("messages", list, []))
    tools = _tools(work.wanted("tools", list, []))
    think = _think(model, can, request.get("think"))
    if tools and "tools" not in can:
        raise Refused(400, f'"{model.name}" does not support tools')
    if not messages:
        _load_only(work, model, chat=True)
        return
    prompt = chat_prompt(model, messages, tools=tools, think=think)
    names = [str(tool["function"].get("name")) for tool in tools]
    outputs = Outputs(thinking=bool(think), tools=names, within=prompt.rstrip().endswith("<think>"))
    _generate_text(work, model, prompt, outputs, chat=True)


def generate(work: Work) -> None:
    """POST /api/generate."""
    model, request = work.model(), work.request
    can = _able(model, "completion", "generate")
    think = _think(model, can, request.get("think"))
    if request.get("suffix"):
        raise Refused(400, f'"{model.name}" does not support insert')
    if request.get("images"):
        raise Refused(400, f'"{model.name}" does not support vision')
    if request.get("context"):
        raise Refused(400, "context is not supported by the embedded engine: use chat with the messages so far")
    prompt = work.wanted("prompt", str, "")
    if not prompt:
        _load_only(work, model, chat=False)
        return
    if not work.wanted("raw", bool, False):
        turns = [{"role": "system", "content": system}] if (system := work.wanted("system", str, "")) else []
        turns.append({"role": "user", "content": prompt})
        prompt = chat_prompt(model, turns, think=think, template=work.wanted("template", str, ""))
    outputs = Outputs(thinking=bool(think), tools=(), within=prompt.rstrip().endswith("<think>"))
    _generate_text(work, model, prompt, outputs, chat=False)


def _generate_text(work: Work, model: Model, prompt: str, outputs: Outputs, *, chat: bool) -> None:
    options = work.options(model)
    schema = compiled(work.request.get("format"))
    constraint = {} if schema is None else {"json_schema": schema}
    loading = load_options(options, model.header.context_length)
    fields = {**sampling(options, loading.num_ctx), "prompt": prompt, **_logprobs(work), **constraint}
    # A cancelled or stopped answer may end within the JSON.
    whole = schema is not None and not work.wanted("options", dict, {}).get("stop")
    answer = _Answer(work, model.name, chat, outputs, whole_json=whole)
    keep = work.keep_alive()
    with work.engine.use(model, loading, "text", work.job, keep) as (server, waited):
        complete(server, fitted(server, fields, loading.num_ctx), answer.take)
    if work.job.cancelled:
        raise Cancelled
    answer.finish(waited)


class _Answer:
    """Builds the lines of an answer from the engine's events."""

    def __init__(self, work: Work, name: str, chat: bool, outputs: Outputs, *, whole_json: bool) -> None:
        self._work = work
        self._name = work.request.get("model", name)
        self._chat = chat
        self._outputs = outputs
        self._stream = work.wanted("stream", bool, True)
        self._top = work.wanted("top_logprobs", int, 0)
        self._written = io.StringIO() if whole_json else None
        self._text = ""
        self._thinking = ""
        self._logprobs: list[Json] = []
        self._last: Json = {}

    def take(self, event: Json) -> bool:
        """Handle an event: a token, and with the last one the counters; returns True if the caller has cancelled."""
        if self._work.job.cancelled:
            return True
        choice = event["choices"][0]
        logprobs = [_logprob(entry, self._top) for entry in (choice.get("logprobs") or {}).get("content") or ()]
        self._logprobs += logprobs
        if self._written is not None:
            self._written.write(choice["text"])
        thinking, content = self._outputs.feed(choice["text"])
        if "timings" in event:
            self._last = {**event, "finish_reason": choice["finish_reason"]}
        if self._stream:
            if content or thinking or logprobs:
                self._work.emit(self._line(content, thinking, logprobs=logprobs))
        else:
            self._text += content
            self._thinking += thinking
        return False

    def finish(self, waited: float) -> None:
        """The last lines.

        Raises:
            Refused: The answer was cut off, or it should be JSON and is not.
        """
        if not self._last:
            raise Refused(500, "the engine stopped before the end of the answer")
        self._check()
        thinking, content, calls = self._outputs.finish()
        if self._stream:
            if content or thinking or calls:
                self._work.emit(self._line(content, thinking, calls))
            self._work.emit({**self._line("", ""), **self._counters(waited)})
        else:
            line = self._line(self._text + content, self._thinking + thinking, calls, self._logprobs)
            self._work.emit({**line, **self._counters(waited)})

    def _check(self) -> None:
        if self._written is None or self._last["finish_reason"] != "stop":
            return
        try:
            json.loads(self._written.getvalue())
        except ValueError as error:
            raise Refused(500, "the engine did not follow the schema in format: simplify it") from error

    def _line(self, content: str, thinking: str, calls: Sequence[Json] = (), logprobs: Sequence[Json] = ()) -> Json:
        line: Json = {"model": self._name, "created_at": now(), "done": False}
        if self._chat:
            message: Json = {"role": "assistant", "content": content}
            line["message"] = message
        else:
            line["response"] = content
            message = line
        if thinking:
            message["thinking"] = thinking
        if calls:
            message["tool_calls"] = list(calls)
        if logprobs:
            line["logprobs"] = list(logprobs)
        return line

    def _counters(self, waited: float) -> Json:
        usage, timings = self._last["usage"], self._last["timings"]
        return {
            "done": True,
            "done_reason": self._last["finish_reason"],
            "total_duration": nanoseconds(time.monotonic() - self._work.began),
            "load_duration": nanoseconds(waited),
            "prompt_eval_count": usage["prompt_tokens"],
            "prompt_eval_duration": nanoseconds(timings["prompt_ms"] / 1e3),
            "eval_count": usage["completion_tokens"],
            "eval_duration": nanoseconds(timings["predicted_ms"] / 1e3),
        }


def _load_only(work: Work, model: Model, *, chat: bool) -> None:
    """A request without a prompt loads the model, or unloads it."""
    keep = work.keep_alive()
    if keep == 0:
        work.engine.unload(model.path)
    else:
        loading = load_options(work.options(model), model.header.context_length)
        with work.engine.use(model, loading, "text", work.job, keep):
            pass
    line: Json = {"model": work.request.get("model"), "created_at": now(), "done": True}
    line["done_reason"] = "unload" if keep == 0 else "load"
    work.emit({**line, **({"message": {"role": "assistant", "content": ""}} if chat else {"response": ""})})


def _able(model: Model, capability: str, what: str) -> list[str]:
    can = capabilities(model)
    if capability not in can:
        raise Refused(400, f'"{model.name}" does not support {what}')
    return can


def _think(model: Model, can: list[str], think: object) -> bool | str | None:
    if think is not None and not isinstance(think, (bool, str)):
        raise Refused(400, "think must be a boolean or a level")
    if think and "thinking" not in can:
        raise Refused(400, f'"{model.name}" does not support thinking')
    return think


def _messages(given: list[Any]) -> list[Json]:
    for message in given:
        texts = ("role", "content", "thinking", "tool_name")
        if not isinstance(message, dict) or not all(isinstance(message.get(name) or "", str) for name in texts):
            raise Refused(400, "messages: each must be an object with a role and a content")
        if message.get("images"):
            raise Refused(400, "images are not supported by the embedded engine")
        calls = message.get("tool_calls") or []
        if not isinstance(calls, list) or not all(map(_has_function, calls)):
            raise Refused(400, "messages: tool_calls must be a list of objects with a function")
    return given


def _tools(given: list[Any]) -> list[Json]:
    if not all(map(_has_function, given)):
        raise Refused(400, "tools: each must be an object with a function")
    return given


def _has_function(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("function"), dict)


def _logprobs(work: Work) -> Json:
    top = work.wanted("top_logprobs", int, 0)
    if not 0 <= top <= 20:
        raise Refused(400, "top_logprobs must be between 0 and 20")
    if not work.wanted("logprobs", bool, False):
        return {}
    return {"logprobs": max(top, 1)}


def _logprob(entry: Json, top: int) -> Json:
    """An entry in the API's format, with the `top` most likely tokens if requested."""
    kept: Json = {key: entry[key] for key in ("token", "logprob", "bytes")}
    if top:
        likely = entry.get("top_logprobs") or ()
        kept["top_logprobs"] = [{key: one[key] for key in ("token", "logprob", "bytes")} for one in likely]
    return kept
