"""Ollama's endpoints: they turn a request and its scripted reply into an `Answer`.

Only the server's state (models, loaded models, blobs) changes here; there is no I/O. Checks run in the order of the
real server, with its texts. A complete scripted reply (json, lines, body) is sent without checks; text and embeddings
have to pass them.
"""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import replace
from functools import lru_cache
from itertools import takewhile
from typing import cast

from . import grammar, versions
from .answers import NDJSON_TYPE, Answer, Part, Piece, dumps, error, lines, now, text, unary
from .checks import (
    Handler,
    Refused,
    Scripted,
    State,
    check_options,
    check_think,
    load,
    name_of,
    needs,
    payload_of,
    seconds_of,
    thinks,
)
from .cloud import ROUTES as _CLOUD
from .cloud import check_cloud, found_model, runs_in_cloud
from .decisions import ROUTES as _DECISIONS
from .faults import Fault
from .generation import default_reply, default_tool_call, generation, idle
from .kept import kept_tools
from .media import media_in, refusal_of_media
from .models import Model
from .openai import CHAT as _OPENAI_CHAT
from .openai import openai_routes
from .record import Record
from .registry import ROUTES as _REGISTRY
from .replies import Reply
from .spoil import spoil_answer, spoil_reply
from .values import as_list, as_object
from .web import ROUTES as _WEB
from .windows import TooLong, bounded, fitting_text, seen_prompt, shortened

__all__ = ["State", "respond"]

_RELOAD_NS = 1_500_000_000


def respond(state: State, record: Record, reply: Reply | None, fault: Fault | None) -> Answer:
    """The answer to a request, with any scripted reply and fault."""
    if fault is not None:
        record.fault = fault.name
    try:
        answer = _answer(state, record, reply, fault)
    except Refused as refused:
        answer = refused.answer
    if reply is not None:
        answer.delay = reply.delay
        answer.gates = {**reply.gates, **({0: reply.gate} if reply.gate is not None else {})}
    return answer if fault is None else spoil_answer(fault, answer, state.version)


def _answer(state: State, record: Record, reply: Reply | None, fault: Fault | None) -> Answer:
    if reply is not None and reply.raw:
        return _raw(reply)
    path = "/api/blobs/:digest" if record.path.startswith("/api/blobs/") else record.path
    methods = _ROUTES.get(path)
    since, later = _LATER.get(path, (None, None))
    if since is not None and since.on(state.version):
        methods = later
    if methods is None:
        return text(404, "404 page not found")
    handler = methods.get(record.method)
    if handler is None:
        answer = text(405, "405 method not allowed")
        answer.headers = {"Allow": ", ".join(methods), **answer.headers}
        return answer
    if handler in _SAYING:
        return handler(state, record, Scripted(reply, fault))
    answer = handler(state, record, Scripted(reply, None))
    if reply is not None:
        answer.headers.update(reply.headers)
    return answer


def _raw(reply: Reply) -> Answer:
    if reply.lines is not None:
        parts: list[Part] = []
        for index, line in enumerate(reply.lines):
            data = line if isinstance(line, bytes) else dumps(line).encode() + b"\n"
            parts.append(Piece(data, 1 if index < len(reply.lines) - 1 else 0))
        answer = Answer(parts, reply.status, {"Content-Type": NDJSON_TYPE}, streamed=True)
    elif reply.body is not None:
        data = reply.body.encode() if isinstance(reply.body, str) else reply.body
        answer = Answer([Piece(data)], reply.status, {"Content-Type": "text/plain; charset=utf-8"})
    elif reply.json is not None:
        answer = unary(reply.json, reply.status)
    else:
        answer = Answer([], reply.status)
    _override(answer.headers, reply)
    answer.tokens_per_second = reply.tokens_per_second
    return answer


def _override(headers: dict[str, str], reply: Reply) -> None:
    for name, value in reply.headers.items():
        for old in [one for one in headers if one.lower() == name.lower()]:
            del headers[old]
        headers[name] = value


def _format(payload: dict[str, object], version: str) -> str | None:
    """The error for an invalid `format`, in the server's words."""
    wanted = payload.get("format")
    if wanted in (None, "", "json"):
        return None
    if isinstance(wanted, dict):
        return grammar.problem(as_object(wanted), version)
    return f'invalid format: {dumps(dumps(wanted))}; expected "json" or a valid JSON Schema object'


def _counters(state: State, model: Model, prompt: list[str], again: bool) -> dict[str, int]:
    """The counters of a prompt: its tokens, those cached from the model's last prompt, and the time of a reload."""
    counters = {"prompt_eval_count": max(len(prompt), 1), **({"load_duration": _RELOAD_NS} if again else {})}
    if versions.CACHED_COUNT.on(state.version):
        held = state.last_prompts.get(model.name, [])
        pairs = zip(prompt[:-1], held, strict=False)  # the last token is always computed
        counters["prompt_eval_cached_count"] = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        state.last_prompts[model.name] = prompt
    return counters


def _generated(
    state: State, record: Record, payload: dict[str, object], model: Model, scripted: Scripted, think: bool
) -> Answer:
    chat = record.path == "/api/chat"
    remote = runs_in_cloud(state, model)
    problem = None if remote else _format(payload, state.version)
    if problem is not None:
        return error(500, problem) if payload.get("stream") is False else lines([{"error": problem}])
    if not remote and (clashing := grammar.clash(payload, model, state.version)) is not None:
        raise Refused(400, clashing)
    window, again = load(state, model, payload)
    record.kept_tools = kept_tools(payload.get("tools"), state.version)
    media = media_in(payload, as_list(payload.get("messages")))
    if refusal := refusal_of_media(media, model, state.version):
        raise Refused(*refusal)
    try:
        prompt = seen_prompt(payload, record.text, record.kept_tools, chat, window)
    except TooLong as problem:
        raise Refused(400, str(problem)) from None
    if versions.RENDER_ONLY.on(state.version) and payload.get("_debug_render_only") is True:
        return unary(
            {"model": payload["model"], "created_at": now(), **_rendered(record, model, prompt, chat, len(media))}
        )
    reply = scripted.reply
    if reply is None:
        held = not remote and grammar.holds(payload, model, state.version, chat=chat)
        reply = default_reply(record, think, held, state.version, prompt)
        if held and grammar.is_taken_for_thinking(payload, model, state.version, chat=chat, think=think):
            reply = replace(reply, text="", thinking=reply.text)
    if scripted.fault is not None:
        reply = spoil_reply(scripted.fault, reply, default_tool_call(record))
    reply = bounded(shortened(reply, payload, len(prompt), window), window)
    return generation(state, record, model, reply, chat, _counters(state, model, prompt, again))


def _rendered(record: Record, model: Model, prompt: list[str], chat: bool, images: int) -> dict[str, object]:
    """The answer that shows the rendered prompt; the model does not run.

    A template that supports messages renders all of them (ollama 0.11.5: server/routes.go, server/prompt.go).
    """
    written = "".join(prompt)
    if chat and ".Messages" in model.template:
        from namel3ss_ollama.embedded.prompts import go_prompt  # needed by few tests

        messages = [as_object(one) for one in as_list(record.payload.get("messages"))]
        think = record.payload.get("think")
        asked = think if isinstance(think, (bool, str)) else None
        written = go_prompt(model.template, messages, tools=record.kept_tools, think=asked)
    empty: dict[str, object] = {"message": {"role": "", "content": ""}} if chat else {"response": ""}
    info = {"rendered_template": written, **({"image_count": images} if images else {})}
    return {**empty, "done": False, "_debug_info": info}


def _check_logprobs(payload: dict[str, object], version: str) -> None:
    top = payload.get("top_logprobs")
    if versions.LOGPROBS.on(version) and isinstance(top, int) and not 0 <= top <= 20:
        raise Refused(400, "top_logprobs must be between 0 and 20")


def _chat(state: State, record: Record, scripted: Scripted) -> Answer:
    payload = payload_of(record, "ChatRequest")
    check_think(payload, "ChatRequest", state.fields)
    _check_logprobs(payload, state.fields)
    name = name_of(payload)
    keep = seconds_of(payload.get("keep_alive"))
    if not name:
        raise Refused(400, "model is required")
    model = found_model(state, name)
    if model is None and versions.NAMES_CHAT_MODEL.on(state.version):
        raise Refused(404, f"model '{name}' not found")
    if model is None:
        raise Refused(404, f'model "{name}" not found, try pulling it first')
    check_cloud(state, record, model)
    if "completion" not in model.capabilities:
        raise Refused(400, f'"{name}" does not support chat')
    if payload.get("tools"):
        needs(model, "tools", name)
    think = thinks(payload, model, name, state.version)
    check_options(payload, state.version)
    if not payload.get("messages"):
        load(state, model, payload)
        return idle(name, True, "unload" if keep == 0 else "load")
    return _generated(state, record, payload, model, scripted, think)


def _generate(state: State, record: Record, scripted: Scripted) -> Answer:
    payload = payload_of(record, "GenerateRequest")
    check_think(payload, "GenerateRequest", state.fields)
    _check_logprobs(payload, state.fields)
    name = name_of(payload)
    keep = seconds_of(payload.get("keep_alive"))
    model = found_model(state, name)
    if model is None:
        raise Refused(404, f"model '{name}' not found")
    check_cloud(state, record, model)
    if "completion" not in model.capabilities:
        raise Refused(400, f'"{name}" does not support generate')
    if payload.get("suffix"):
        needs(model, "insert", name)
    think = thinks(payload, model, name, state.version)
    check_options(payload, state.version)
    if not payload.get("prompt"):
        load(state, model, payload)
        return idle(name, False, "unload" if keep == 0 else "load")
    return _generated(state, record, payload, model, scripted, think)


@lru_cache(maxsize=4096)
def _vector(written: str, size: int) -> tuple[float, ...]:
    """A unit vector that depends only on the text."""
    digest = hashlib.shake_256(written.encode("utf-8", "replace")).digest(2 * size)
    values = array("h", digest)
    norm = sum(value * value for value in values) ** 0.5 or 1.0
    return tuple(round(value / norm, 8) for value in values)


def _embedding_model(state: State, payload: dict[str, object]) -> Model:
    name = name_of(payload)
    model = state.models.get(name)
    if model is None:
        raise Refused(404, f'model "{name}" not found, try pulling it first')
    check_options(payload, state.version)
    return model


def _embed(state: State, record: Record, scripted: Scripted) -> Answer:
    payload = payload_of(record, "EmbedRequest")
    given = payload.get("input")
    texts = cast("list[object]", given) if isinstance(given, list) else [given] if given else []
    if not all(isinstance(one, str) for one in texts):
        raise Refused(400, "invalid input type")
    model = _embedding_model(state, payload)
    window = load(state, model, payload).window
    if not texts:
        return unary({"model": payload["model"], "embeddings": []})
    asked = payload.get("dimensions")
    size = model.embedding_length
    if isinstance(asked, int) and 0 < asked < size and versions.DIMENSIONS.on(state.version):
        size = asked
    try:
        seen = [fitting_text(one, payload.get("truncate") is not False, window) for one in cast("list[str]", texts)]
    except TooLong as problem:
        raise Refused(400, str(problem)) from None
    reply = scripted.reply or Reply()
    vectors: list[list[float]] = [list(one) for one in reply.embeddings or ()]
    if reply.embeddings is None:
        vectors = [list(_vector("".join(one), size)) for one in seen]
    count = sum(max(1, len(one)) for one in seen)
    counters: dict[str, int | None] = {
        "total_duration": 25_000_000,
        "load_duration": 20_000_000 if reply.load_duration is None else reply.load_duration,
        "prompt_eval_count": count,
    }
    counters.update({key: value for key, value in reply.counters.items() if key in counters})
    known = {key: value for key, value in counters.items() if value is not None}
    return unary({"model": payload["model"], "embeddings": vectors, **known})


def _embeddings(state: State, record: Record, scripted: Scripted) -> Answer:
    payload = payload_of(record, "EmbeddingRequest")
    model = _embedding_model(state, payload)
    load(state, model, payload)
    prompt = payload.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        return unary({"embedding": []})
    if scripted.reply is not None and scripted.reply.embeddings:
        return unary({"embedding": list(scripted.reply.embeddings[0])})
    return unary({"embedding": list(_vector(prompt, model.embedding_length))})


_ROUTES: dict[str, dict[str, Handler]] = {
    "/api/chat": {"POST": _chat},
    "/api/generate": {"POST": _generate},
    "/api/embed": {"POST": _embed},
    "/api/embeddings": {"POST": _embeddings},
    **_REGISTRY,
    **openai_routes(_chat, _embed, _REGISTRY["/api/tags"]["GET"]),
}
_SAYING = (_chat, _generate, _ROUTES[_OPENAI_CHAT]["POST"])
"""The endpoints at which a model generates, which some faults change."""
_LATER = {**_CLOUD, **_WEB, **_DECISIONS}
"""Paths that a version introduced."""
