"""Decision models on the test server: its answers, and its errors in Ollama's words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from namel3ss_ollama.testing import Model, OllamaServer, Reply

NOUL: dict[str, Any] = {"type": "noul", "instructions": "Urgent?"}
CHOICE: dict[str, Any] = {"type": "choice", "instructions": "Which?", "criteria": {"red": None, "blue": "Cold"}}
SCORE: dict[str, Any] = {"type": "score", "instructions": "How much?", "criteria": ["no", "a bit", "much"]}
QUESTIONS = {"n": NOUL, "c": CHOICE, "s": SCORE}
FEW = "criteria must contain 2\N{EN DASH}26 candidates"


@pytest.fixture
def server() -> Iterator[OllamaServer]:
    models = [Model("nimble", ("completion", "decision")), Model("clef", ("decision", "vision")), Model("llama3.2")]
    with OllamaServer(models, version="0.40.5") as server:
        yield server


def ask(server: OllamaServer, **payload: Any) -> httpx.Response:
    body = {"model": "nimble", "state": "x", "questions": QUESTIONS, **payload}
    sent = {name: value for name, value in body.items() if value is not None}
    return httpx.post(f"{server.url}/v1/systemone", json=sent)


def test_it_exists_from_its_version_on() -> None:
    for version, status in (("0.34.9", 404), ("0.35.0", 200)):
        with OllamaServer(None, version=version) as server:
            assert ask(server).status_code == status
            other = httpx.get(f"{server.url}/v1/systemone")
            assert other.status_code == (405 if status == 200 else 404)


def test_answers_without_a_script(server: OllamaServer) -> None:
    answer = ask(server, state={"colour": "Blue"}).json()
    assert answer["model"] == "nimble"
    assert answer["usage"]["input_tokens"] > 10
    noul, choice, score = (answer["answers"][name] for name in "ncs")
    assert noul == {"type": "noul", "noul": 0.5}
    assert (choice["choice"], choice["probabilities"]["blue"]) == ("blue", 0.9)
    assert sum(choice["probabilities"].values()) == pytest.approx(1)
    assert 0 < choice["confidence"] < 1
    assert (score["legend"], score["score"]) == ({"0": "no", "1": "a bit", "2": "much"}, pytest.approx(1))
    assert score["confidence"] == pytest.approx(0)
    assert ask(server).json()["answers"]["c"]["choice"] == "red", "the first"


def test_scripted_answers(server: OllamaServer) -> None:
    whole = {"type": "choice", "choice": "red", "probabilities": {"red": 1, "blue": 0}, "confidence": 1}
    server.on(contains="Cold").reply(answers={"n": 0.75, "s": 2, "c": whole}, times=1)
    server.reply("a text, which is for other endpoints")
    answers = ask(server).json()["answers"]
    assert (answers["n"]["noul"], answers["c"]) == (0.75, whole)
    assert answers["s"]["probabilities"] == {"0": pytest.approx(0.05), "1": pytest.approx(0.05), "2": 0.9}
    assert ask(server).json()["answers"]["n"]["noul"] == 0.5
    server.reset()
    server.reply(lambda record: Reply(answers={"n": len(record.text) / 1000}), path="/v1/systemone")
    assert ask(server).json()["answers"]["n"]["noul"] > 0.1


def test_scripted_answers_are_for_decisions_only(server: OllamaServer) -> None:
    server.reply(answers={"n": 0.75}, times=1)
    chat = {"model": "nimble", "messages": [{"role": "user", "content": "Hi"}], "stream": False}
    assert httpx.post(f"{server.url}/api/chat", json=chat).json()["message"]["content"] == "You said: Hi"
    assert ask(server).json()["answers"]["n"]["noul"] == 0.75


@pytest.mark.parametrize(
    ("payload", "status", "words"),
    [
        ({"model": " "}, 400, "model is required"),
        ({"model": None}, 400, "model is required"),
        ({"model": "nope"}, 404, "model 'nope' not found"),
        ({"model": "llama3.2"}, 400, "does not support decision"),
        ({"images": ["aW1hZ2U="]}, 400, "this decision model does not support images"),
        ({"state": None}, 400, "state: must be a string, object, or array"),
        ({"state": " "}, 400, "state must not be empty"),
        ({"questions": {}}, 400, "questions must contain 1\N{EN DASH}64 fields"),
        ({"questions": {str(number): NOUL for number in range(65)}}, 400, "64 fields"),
        ({"questions": {" ": NOUL}}, 400, "field name must not be empty"),
        ({"questions": {"q": {"type": "noul"}}}, 400, "instructions must be a nonempty string, object, or array"),
        ({"questions": {"q": {**NOUL, "instructions": ""}}}, 400, "instructions must be a nonempty"),
        ({"questions": {"q": {**NOUL, "type": "box"}}}, 400, 'question "q": type must be choice, noul, or score'),
        ({"questions": {"q": {**NOUL, "criteria": None}}}, 400, "noul criteria must be an object"),
        ({"questions": {"q": {**NOUL, "criteria": {"true": None}}}}, 400, "noul descriptions must be strings"),
        ({"questions": {"q": {**NOUL, "criteria": {"yes": "x"}}}}, 400, 'unknown noul criterion "yes"'),
        ({"questions": {"q": {**CHOICE, "criteria": ["a", "b"]}}}, 400, "choice criteria must map option keys"),
        ({"questions": {"q": {**CHOICE, "criteria": {"a": 1}}}}, 400, "choice criteria must map option keys"),
        ({"questions": {"q": {**CHOICE, "criteria": {"": "x", "b": "y"}}}}, 400, "choice keys must not be empty"),
        ({"questions": {"q": {**CHOICE, "criteria": {"a": None}}}}, 400, FEW),
        ({"questions": {"q": {**SCORE, "criteria": {"a": "b"}}}}, 400, "score criteria must be an array"),
        ({"questions": {"q": {**SCORE, "criteria": ["x"] * 27}}}, 400, FEW),
        ({"state": "x" * 65_536}, 413, "http: request body too large"),
    ],
)
def test_refusals(server: OllamaServer, payload: dict[str, Any], status: int, words: str) -> None:
    answer = ask(server, **payload)
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text


def test_images_are_supported_from_their_version_on(server: OllamaServer) -> None:
    seen = ask(server, model="clef", images=["aW1hZ2U="]).json()["usage"]
    assert seen["input_tokens"] > 768
    assert seen["output_tokens"] == 0
    assert ask(server, model="clef", images=["A" * 70_000]).status_code == 200
    assert ask(server, model="clef", images=["A" * (32 << 20)]).status_code == 413
    with OllamaServer([Model("nimble", ("decision",))], version="0.35.0") as older:
        assert ask(older, images=["aW1hZ2U="]).json()["usage"]["input_tokens"] < 768
        assert ask(older, images=["A" * 70_000]).status_code == 413


def test_cloud_models(server: OllamaServer) -> None:
    assert ask(server, model="clef:cloud").status_code == 200
    with OllamaServer(version="0.40.5", cloud="signed_out") as signed_out:
        assert ask(signed_out, model="clef:cloud").status_code == 401
    with OllamaServer(version="0.40.4") as older:
        assert ask(older, model="clef:cloud").status_code == 400


def test_a_reply_takes_answers_or_json() -> None:
    with pytest.raises(ValueError, match="json: is the complete answer"):
        Reply(answers={}, json={})
