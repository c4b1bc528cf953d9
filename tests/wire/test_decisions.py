"""Decision models: the request, the response, and what is rejected before and after sending."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from namel3ss_ollama import (
    BadRequestError,
    ChoiceAnswer,
    ChoiceQuestion,
    Image,
    LLMTimeoutError,
    MalformedResponseError,
    ModelNotFoundError,
    NoulAnswer,
    NoulQuestion,
    OllamaProvider,
    RetryPolicy,
    ScoreAnswer,
    ScoreQuestion,
    ServerError,
    StreamConfig,
)
from namel3ss_ollama.testing import Gate, Model, OllamaServer

PATH = "/v1/systemone"
MODELS = [Model("nimble", ("completion", "decision")), Model("clef", ("decision", "vision")), Model("llama3.2")]
URGENT = NoulQuestion("Is it urgent?")
ALL: dict[str, Any] = {
    "team": ChoiceQuestion("Which team?", {"billing": "Payments", "support": None}),
    "urgent": NoulQuestion({"ask": "Is it urgent?"}, {"false": "It can wait", "true": "It can't"}),
    "mood": ScoreQuestion(["How angry", "is the customer?"], ("calm", "annoyed", "furious")),
}
SENT = {
    "team": {"type": "choice", "instructions": "Which team?", "criteria": {"billing": "Payments", "support": None}},
    "urgent": {
        "type": "noul",
        "instructions": {"ask": "Is it urgent?"},
        "criteria": {"false": "It can wait", "true": "It can't"},
    },
    "mood": {
        "type": "score",
        "instructions": ["How angry", "is the customer?"],
        "criteria": ["calm", "annoyed", "furious"],
    },
}
CHOICE = {"type": "choice", "choice": "support", "probabilities": {"billing": 0.25, "support": 0.75}, "confidence": 0.2}
SCORE = {
    "type": "score",
    "score": 1,
    "legend": {"0": "calm", "1": "annoyed", "2": "furious"},
    "probabilities": {"2": 0.25, "0": 0.25, "1": 0.5},
    "confidence": 0.05,
}
ANSWERED = {"team": CHOICE, "urgent": {"type": "noul", "noul": 0.9}, "mood": SCORE}
USAGE = {"input_tokens": 174, "output_tokens": 3}


@pytest.fixture
def newest() -> Iterator[OllamaServer]:
    with OllamaServer(MODELS, version="0.40") as server:
        yield server


@pytest.fixture
def decider(make: Any, newest: OllamaServer) -> OllamaProvider:
    return make(model="nimble", base_url=newest.url, temperature=0.5, keep_alive="10m")


async def test_request_and_response(decider: OllamaProvider, newest: OllamaServer) -> None:
    newest.reply(path=PATH, json={"model": "nimble", "answers": ANSWERED, "usage": USAGE})
    response = await decider.systemone({"ticket": "Größe"}, ALL)
    request = newest.requests[-1]
    assert (request.method, request.path, len(newest.requests)) == ("POST", PATH, 1)
    assert request.payload == {"model": "nimble", "state": {"ticket": "Größe"}, "questions": SENT, "keep_alive": "10m"}
    assert list(request.payload["questions"]) == list(ALL), "in their order"
    assert response.answers == {
        "team": ChoiceAnswer("support", {"billing": 0.25, "support": 0.75}, 0.2),
        "urgent": NoulAnswer(0.9),
        "mood": ScoreAnswer(1.0, {0: 0.25, 1: 0.5, 2: 0.25}, {0: "calm", 1: "annoyed", 2: "furious"}, 0.05),
    }
    assert (response.model, response.usage.prompt_tokens, response.usage.total_tokens) == ("nimble", 174, 177)
    assert (set(response.choices), set(response.nouls), set(response.scores)) == ({"team"}, {"urgent"}, {"mood"})
    assert response.scores["mood"].score == 1.0


async def test_questions_as_dicts(decider: OllamaProvider, newest: OllamaServer) -> None:
    await decider.systemone(["x"], SENT, model="clef", keep_alive=0, extra_body={"videos": []})
    assert newest.requests[-1].payload == {
        "model": "clef", "state": ["x"], "questions": SENT, "keep_alive": 0, "videos": [],
    }  # fmt: skip


async def test_answers_without_a_script(decider: OllamaProvider) -> None:
    answers = (await decider.systemone("The support was slow.", ALL)).answers
    assert answers["team"].choice == "support"  # type: ignore[union-attr] # of a choice question
    for answer in answers.values():
        assert sum(getattr(answer, "probabilities", {"": 1.0}).values()) == pytest.approx(1)


def test_blocking(newest: OllamaServer) -> None:
    newest.reply(answers={"urgent": 0.25})
    with OllamaProvider("nimble", newest.url) as provider:
        assert provider.sync.systemone("x", {"urgent": URGENT}).nouls["urgent"] == NoulAnswer(0.25)


async def test_stats(decider: OllamaProvider, newest: OllamaServer) -> None:
    newest.fault("status", status=503, retry_after=0, times=1)
    response = await decider.systemone("x", ALL)
    with pytest.raises(ModelNotFoundError, match="ollama pull nope"):
        await decider.systemone("x", ALL, model="nope")
    stats = decider.stats()
    assert (stats.decisions_succeeded, stats.decisions_failed, stats.decisions_cancelled, stats.retries) == (1, 1, 0, 1)
    assert stats.prompt_tokens == response.usage.prompt_tokens > 0
    assert (stats.generations_failed, stats.embeddings_failed) == (0, 0)


async def test_a_slot_and_a_deadline(make: Any, newest: OllamaServer) -> None:
    decider = make(model="nimble", base_url=newest.url, max_concurrent=1)
    gate = Gate()
    newest.reply(answers={}, gate=gate, times=1)
    with pytest.raises(LLMTimeoutError) as caught:
        await decider.systemone("x", ALL, timeout=0.05)
    assert caught.value.deadline == "timeout"
    gate.open()
    slow = make(model="nimble", base_url=newest.url, stream_config=StreamConfig(first_chunk_timeout=0.05))
    newest.reply(answers={}, gate=(held := Gate()), times=1)
    with pytest.raises(LLMTimeoutError, match="ask fewer questions"):
        await slow.systemone("x", ALL)
    held.open()
    async with decider._runner.turn("chat", {}, StreamConfig(), None):  # the only slot is taken
        with pytest.raises(LLMTimeoutError):
            await decider.systemone("x", ALL, timeout=0.05)
    assert len(newest.requests) == 2


async def test_images_may_exceed_the_limit_of_a_text(
    decider: OllamaProvider, newest: OllamaServer, tmp_path: Path
) -> None:
    file = tmp_path / "large.png"
    file.write_bytes(b"x" * 70_000)
    response = await decider.systemone("A screenshot.", {"q": URGENT}, images=[file, b"abc"], model="clef")
    sent: Any = newest.requests[-1].payload["images"]
    assert sent == [Image(b"x" * 70_000).base64, "YWJj"]
    assert response.usage.completion_tokens == 0
    with pytest.raises(BadRequestError, match="does not support images"):
        await decider.systemone("x", {"q": URGENT}, images=[b"abc"])


async def test_images_that_a_server_would_ignore(make: Any) -> None:
    with OllamaServer(MODELS, version="0.35.0") as server:
        decider = make(model="clef", base_url=server.url)
        with pytest.raises(BadRequestError, match=r"^images: decision models support them since Ollama 0\.35\.1, and"):
            await decider.systemone("x", {"q": URGENT}, images=[b"abc"])
        assert [request.path for request in server.requests] == ["/api/version"]
        assert (await decider.systemone("x", {"q": URGENT})).nouls["q"].noul == 0.5
        await decider.aclose()


@pytest.mark.parametrize("version", ["0.9.3", "0.33", "0.34.9"])
async def test_a_server_without_the_endpoint(make: Any, version: str) -> None:
    with OllamaServer(MODELS, version=version) as server:
        decider = make(model="nimble", base_url=server.url)
        for images in (None, [b"abc"]):
            found = r"\(POST /v1/systemone is in Ollama 0\.35\.0 and newer\)$"
            with pytest.raises(BadRequestError, match=found) as caught:
                await decider.systemone("x", {"q": URGENT}, images=images)
            assert caught.value.status_code == 404
            assert isinstance(caught.value.__cause__, BadRequestError)
        await decider.aclose()


async def test_a_model_that_is_not_a_decision_model(decider: OllamaProvider) -> None:
    with pytest.raises(BadRequestError, match=r"does not support decision.*choose a decision model, such as nimble"):
        await decider.systemone("x", {"q": URGENT}, model="llama3.2")


async def test_models_in_the_cloud(make: Any) -> None:
    for version, runs in (("0.40.4", False), ("0.40.5", True)):
        with OllamaServer(MODELS, version=version) as server:
            decider = make(model="clef:cloud", base_url=server.url)
            if runs:
                assert (await decider.systemone("x", {"q": URGENT})).model == "clef:cloud"
            else:
                with pytest.raises(BadRequestError, match="400"):
                    await decider.systemone("x", {"q": URGENT})
            await decider.aclose()


async def test_a_body_that_a_proxy_finds_too_large(decider: OllamaProvider, newest: OllamaServer) -> None:
    newest.reply(path=PATH, body="<html><h1>413 Request Entity Too Large</h1></html>", status=413)
    with pytest.raises(BadRequestError, match="send less at once, or raise the limit of the proxy in front"):
        await decider.systemone("x", {"q": URGENT})


async def test_the_size_limit_of_a_request(decider: OllamaProvider, newest: OllamaServer) -> None:
    questions = {"q": URGENT}
    await decider.systemone("x", questions)
    room = 64 * 1024 - len(newest.requests[-1].body) + 1
    await decider.systemone("x" * room, questions)
    assert len(newest.requests[-1].body) == 64 * 1024
    with pytest.raises(ValueError, match=r"^state: the request has 65,537 bytes, .* servers accept at most 65,536"):
        await decider.systemone("x" * (room + 1), questions)
    with pytest.raises(ValueError, match=r"^questions: the request has"):
        await decider.systemone("x", {"q": NoulQuestion("x" * 70_000)})
    with pytest.raises(ValueError, match=r"^images: the request has .* at most 33,554,432;"):
        await decider.systemone("x", questions, images=[b"x" * 26_000_000])
    assert len(newest.requests) == 2, "nothing else was sent"


OPTIONS = {str(number): None for number in range(27)}
WRONG: dict[str, tuple[type[Exception], str, Any]] = {
    "no state": (ValueError, "^state: is empty", {"state": " "}),
    "a number as state": (TypeError, "^state: expected a text, a dict or a list, not int", {"state": 1}),
    "a state that is not JSON": (ValueError, "state.*object", {"state": {"a": object()}}),
    "no questions": (ValueError, "^questions: there must be 1 to 64 of them, not 0", {"questions": {}}),
    "many": (ValueError, "not 65", {"questions": {str(number): URGENT for number in range(65)}}),
    "a list": (TypeError, "^questions: expected a mapping of names to questions", {"questions": [URGENT]}),
    "a number as name": (TypeError, "^questions: expected texts as names, not int", {"questions": {1: URGENT}}),
    "no name": (ValueError, "^questions: a name is empty", {"questions": {" ": URGENT}}),
    "no question": (TypeError, r"^questions\['q'\]: expected a ChoiceQuestion", {"questions": {"q": "Urgent?"}}),
    "an unknown kind": (
        ValueError,
        r"^questions\['q'\]: type must be 'choice' or 'noul' or 'score', not 'box'",
        {"questions": {"q": {"type": "box", "instructions": "x"}}},
    ),
    "an unknown field": (
        TypeError,
        r"^questions\['q'\]: 'hint' is unknown",
        {"questions": {"q": {"type": "noul", "instructions": "x", "hint": 1}}},
    ),
    "a field that is missing": (
        ValueError,
        r"^questions\['q'\]: a score question needs criteria",
        {"questions": {"q": {"type": "score", "instructions": "x"}}},
    ),
    "no instructions": (
        ValueError,
        r"^questions\['q'\].instructions: is empty",
        {"questions": {"q": NoulQuestion("")}},
    ),
    "one option": (ValueError, "to 26 of them, not 1", {"questions": {"q": ChoiceQuestion("x", {"a": None})}}),
    "27 options": (ValueError, "to 26 of them, not 27", {"questions": {"q": ChoiceQuestion("x", OPTIONS)}}),
    "a blank option": (
        ValueError,
        "name of an option is empty",
        {"questions": {"q": ChoiceQuestion("x", {" ": "a", "b": "c"})}},
    ),
    "options without descriptions": (
        TypeError,
        r"criteria: expected a mapping of options",
        {"questions": {"q": {"type": "choice", "instructions": "x", "criteria": ["a", "b"]}}},
    ),
    "a number as description": (
        TypeError,
        "texts as options",
        {"questions": {"q": {"type": "choice", "instructions": "x", "criteria": {"a": 1, "b": "c"}}}},
    ),
    "another meaning": (
        ValueError,
        "expected 'true' and 'false', not 'yes'",
        {"questions": {"q": {"type": "noul", "instructions": "x", "criteria": {"yes": "a"}}}},
    ),
    "meanings that are not a mapping": (
        TypeError,
        "expected a mapping of 'true' and 'false'",
        {"questions": {"q": {"type": "noul", "instructions": "x", "criteria": "yes"}}},
    ),
    "no meaning": (
        TypeError,
        "expected a text for 'true', not NoneType",
        {"questions": {"q": {"type": "noul", "instructions": "x", "criteria": {"true": None}}}},
    ),
    "one level": (ValueError, "to 26 of them, not 1", {"questions": {"q": ScoreQuestion("x", ["a"])}}),
    "a text of levels": (TypeError, "expected a list of descriptions", {"questions": {"q": ScoreQuestion("x", "ab")}}),
    "a number as level": (
        TypeError,
        "criteria: expected texts, not int",
        {"questions": {"q": {"type": "score", "instructions": "x", "criteria": [1, 2]}}},
    ),
    "one image": (TypeError, "^images: expected a list", {"images": b"abc"}),
    "a file that is not there": (ValueError, "^images: cannot read", {"images": [Path("/nowhere/x.png")]}),
    "a blank model": (ValueError, "^model: ", {"model": " "}),
    "a timeout of 0": (ValueError, "^timeout: ", {"timeout": 0}),
    "an argument in extra_body": (ValueError, "^extra_body: 'state' has an argument", {"extra_body": {"state": "y"}}),
}


@pytest.mark.parametrize("name", WRONG)
async def test_bad_input_names_the_argument_and_is_not_sent(
    decider: OllamaProvider, newest: OllamaServer, name: str
) -> None:
    kind, message, given = WRONG[name]
    with pytest.raises(kind, match=message):
        await decider.systemone(**{"state": "x", "questions": {"q": URGENT}, **given})
    assert newest.requests == []


NO_TEAM = {name: answer for name, answer in ANSWERED.items() if name != "team"}
MALFORMED: dict[str, tuple[str, Any]] = {
    "no answers": ("sent no answers with their usage", {"usage": USAGE}),
    "no usage": ("sent no answers with their usage", {"answers": ANSWERED}),
    "a usage of texts": ("without token counts", {"answers": ANSWERED, "usage": {"input_tokens": "1"}}),
    "one is missing": ("no choice answer to the question 'team'", {"answers": NO_TEAM}),
    "of another kind": ("no choice answer", {"answers": {**ANSWERED, "team": {"type": "noul", "noul": 1}}}),
    "a choice of nothing": ("no choice answer", {"answers": {**ANSWERED, "team": {**CHOICE, "choice": "sales"}}}),
    "an option is missing": (
        "no choice answer",
        {"answers": {**ANSWERED, "team": {**CHOICE, "probabilities": {"support": 1.0}}}},
    ),
    "beyond 1": ("no noul answer", {"answers": {**ANSWERED, "urgent": {"type": "noul", "noul": 1.5}}}),
    "a flag": ("no noul answer", {"answers": {**ANSWERED, "urgent": {"type": "noul", "noul": True}}}),
    "a level is missing": (
        "no score answer",
        {"answers": {**ANSWERED, "mood": {**SCORE, "probabilities": {"0": 0.5, "1": 0.5}}}},
    ),
    "no legend": ("no score answer", {"answers": {**ANSWERED, "mood": {**SCORE, "legend": None}}}),
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_a_malformed_answer(decider: OllamaProvider, newest: OllamaServer, name: str) -> None:
    message, answer = MALFORMED[name]
    usage = {} if name == "no usage" else {"usage": USAGE}
    newest.reply(path=PATH, json={"model": "nimble", **usage, **answer})
    with pytest.raises(MalformedResponseError, match=message):
        await decider.systemone("x", ALL)
    assert decider.stats().decisions_failed == 1


async def test_a_server_that_fails(make: Any, newest: OllamaServer) -> None:
    newest.reply(path=PATH, json={"error": "runner failed"}, status=500)
    with pytest.raises(ServerError, match="runner failed"):
        await make(model="nimble", base_url=newest.url, retry=RetryPolicy.off()).systemone("x", ALL)


async def test_nothing_private_in_reprs_and_logs(
    decider: OllamaProvider, newest: OllamaServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    questions: dict[str, Any] = {
        "team": ChoiceQuestion("secret", {"secret": "secret", "other secret": None}),
        "urgent": NoulQuestion("secret"),
        "mood": ScoreQuestion("secret", ["secret", "secret"]),
    }
    response = await decider.systemone("secret", questions)
    shown = [repr(one) for one in [*questions.values(), *response.answers.values(), response]]
    assert shown[0] == "ChoiceQuestion(2 criteria)"
    assert "3 answers" in shown[-1]
    assert not any("secret" in text or "0.9" in text for text in [*shown, caplog.text])
    with pytest.raises(dataclasses.FrozenInstanceError):
        questions["team"].instructions = "x"
