"""`/v1/systemone`: decision models, which answer typed questions with probabilities.

The checks and their texts are those of Ollama's decision/systemone.go, the statuses and the sizes those of its test of
`SystemOneHandler`, both read after 0.35; the texts for a body that is too large, and for a cloud model before 0.40.5,
are not known. Answers are scripted (`Reply(answers=...)`), or else depend only on the request.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from . import versions
from .answers import Answer, dumps, unary
from .checks import Handler, Refused, Scripted, State, load, name_of, needs, payload_of
from .cloud import check_cloud, found_model, runs_in_cloud
from .record import Record
from .replies import tokens_of
from .values import as_list, as_object

__all__ = ["ROUTES"]

_LARGEST, _LARGEST_WITH_IMAGES = 64 * 1024, 32 * 1024 * 1024
_MOST_QUESTIONS, _FEWEST, _MOST = 64, 2, 26
_LIKELY = 0.9  # the probability of the chosen option; the others share the rest
_IMAGE_TOKENS = 768


def _systemone(state: State, record: Record, scripted: Scripted) -> Answer:
    sees = versions.SYSTEMONE_IMAGES.on(state.version)
    images = as_list(record.payload.get("images")) if sees else []
    if len(record.body) > (_LARGEST_WITH_IMAGES if images else _LARGEST):
        raise Refused(413, "http: request body too large")
    payload = payload_of(record, "SystemOneRequest")
    name = name_of(payload)
    if not name.strip():
        raise Refused(400, "model is required")
    model = found_model(state, name)
    if model is None:
        raise Refused(404, f"model '{name}' not found")
    if runs_in_cloud(state, model) and not versions.SYSTEMONE_CLOUD.on(state.version):
        raise Refused(400, f"cloud model '{name}' does not support decision")
    check_cloud(state, record, model)
    needs(model, "decision", name)
    if images and "vision" not in model.capabilities:
        raise Refused(400, "this decision model does not support images")
    questions = _checked(payload)
    load(state, model, payload)
    wanted = (scripted.reply.answers if scripted.reply is not None else None) or {}
    content = payload["state"] if isinstance(payload["state"], str) else dumps(payload["state"])
    answers = {one: _answer(question, wanted.get(one), content) for one, question in questions.items()}
    read = len(tokens_of(dumps({"state": content, "questions": questions}))) + _IMAGE_TOKENS * len(images)
    usage = {"input_tokens": read, "output_tokens": 0 if "vision" in model.capabilities else len(questions)}
    return unary({"model": name, "answers": answers, "usage": usage})


def _checked(payload: dict[str, object]) -> dict[str, dict[str, object]]:
    """The questions; refused if they or the state are invalid."""
    questions = {name: as_object(question) for name, question in as_object(payload.get("questions")).items()}
    if not 1 <= len(questions) <= _MOST_QUESTIONS:
        raise Refused(400, "questions must contain 1\N{EN DASH}64 fields")
    try:
        if not _content(payload.get("state")):
            raise Refused(400, "state must not be empty")
    except TypeError as problem:
        raise Refused(400, f"state: {problem}") from None
    for name, question in questions.items():
        if wrong := _problem(name, question):
            raise Refused(400, f"question {dumps(name)}: {wrong}")
    return questions


def _content(value: object) -> bool:
    """Whether a text, an object or an array is not empty."""
    if not isinstance(value, (str, dict, list)):
        raise TypeError("must be a string, object, or array")
    return not isinstance(value, str) or bool(value.strip())


def _problem(name: str, question: dict[str, object]) -> str:
    if not name.strip():
        return "field name must not be empty"
    try:
        asks = _content(question.get("instructions"))
    except TypeError:
        asks = False
    if not asks:
        return "instructions must be a nonempty string, object, or array"
    kind, criteria = question.get("type"), question.get("criteria")
    if kind == "noul":
        return _problem_of_noul(question)
    if kind == "choice":
        if not isinstance(criteria, dict) or not _texts(as_object(criteria).values(), optional=True):
            return "choice criteria must map option keys to descriptions or null"
        if not all(key.strip() for key in as_object(criteria)):
            return "choice keys must not be empty"
    elif kind == "score":
        if not isinstance(criteria, list) or not _texts(as_list(criteria)):
            return "score criteria must be an array of descriptions"
    else:
        return "type must be choice, noul, or score"
    return "" if _FEWEST <= len(_options(question)) <= _MOST else "criteria must contain 2\N{EN DASH}26 candidates"


def _problem_of_noul(question: dict[str, object]) -> str:
    if "criteria" not in question:
        return ""
    if not isinstance(question["criteria"], dict):
        return "noul criteria must be an object of true/false descriptions"
    criteria = as_object(question["criteria"])
    if not _texts(criteria.values()):
        return "noul descriptions must be strings"
    unknown = [key for key in criteria if key not in ("true", "false")]
    return f"unknown noul criterion {dumps(unknown[0])}" if unknown else ""


def _texts(values: Iterable[object], *, optional: bool = False) -> bool:
    return all(isinstance(one, str) or (optional and one is None) for one in values)


def _options(question: dict[str, object]) -> dict[str, object]:
    """The options by name, each with its description; for a score, its levels."""
    criteria = question["criteria"]
    if isinstance(criteria, list):
        return {str(level): description for level, description in enumerate(as_list(criteria))}
    return {name: name if said is None else said for name, said in as_object(criteria).items()}


def _answer(question: dict[str, object], wanted: object, state: str) -> dict[str, object]:
    """The scripted answer; else an option that the state names, and no preference for the other kinds."""
    if isinstance(wanted, Mapping):
        return dict(wanted)
    if question["type"] == "noul":
        return {"type": "noul", "noul": 0.5 if wanted is None else wanted}
    options = _options(question)
    if wanted is None and question["type"] == "choice":
        wanted = next((name for name in options if name.casefold() in state.casefold()), next(iter(options)))
    if wanted is None:
        shares = dict.fromkeys(options, 1 / len(options))
    else:
        shares = dict.fromkeys(options, (1 - _LIKELY) / (len(options) - 1)) | {str(wanted): _LIKELY}
    entropy = -sum(share * math.log(share) for share in shares.values())
    known = {"probabilities": shares, "confidence": max(0.0, 1 - entropy / math.log(len(options)))}
    if question["type"] == "choice":
        return {"type": "choice", "choice": str(wanted), **known}
    score = sum(level * share for level, share in enumerate(shares.values()))
    return {"type": "score", "score": score, "legend": options, **known}


ROUTES: dict[str, tuple[versions.Feature, dict[str, Handler]]] = {
    "/v1/systemone": (versions.SYSTEMONE, {"POST": _systemone}),
}
"""Path, the feature it came with, and its handlers by method."""
