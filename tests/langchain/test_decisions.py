"""`OllamaDecisions`: LangChain's decision model, alone and in the middleware that uses it."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.exceptions import ModelInvalidRequestError
from langchain_core.load import dumpd, load
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

import langchain_namel3ss_ollama
from langchain_namel3ss_ollama import ChatOllama, OllamaBusyError, OllamaInvalidRequestError, OllamaModelNotFoundError
from namel3ss_ollama import OllamaProvider
from namel3ss_ollama.testing import Model, OllamaServer, Reply, ToolCall

PATH = "/v1/systemone"
MODELS = [Model("nimble", ("decision",)), Model("clef", ("decision", "vision")), Model("small"), Model("large")]
BETA = pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")
IMAGE = base64.b64encode(b"image").decode()


def test_without_the_base_class_the_error_names_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "langchain_core.decisions", None)
    monkeypatch.delitem(sys.modules, "langchain_namel3ss_ollama.decisions", raising=False)
    with pytest.raises(ImportError, match=r"OllamaDecisions needs langchain-core 1\.8 or newer"):
        langchain_namel3ss_ollama.OllamaDecisions  # noqa: B018 -- looking it up imports it
    with pytest.raises(AttributeError, match="no attribute 'OllamaDecision'"):
        langchain_namel3ss_ollama.OllamaDecision  # type: ignore[attr-defined] # noqa: B018 -- there is none
    assert "ChatOllama" in langchain_namel3ss_ollama.__all__


def test_everything_else_works_without_it() -> None:
    code = "import sys, langchain_namel3ss_ollama; sys.exit('langchain_core.decisions' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


decisions = pytest.importorskip("langchain_core.decisions", reason="decision models came with langchain-core 1.8")


def questions() -> dict[str, Any]:
    return {
        "team": decisions.Choice(instructions="Which team?", criteria={"billing": "Payments", "support": None}),
        "urgent": decisions.Noul(instructions="Urgent?", criteria=decisions.NoulCriteria(true="It can't wait")),
        "mood": decisions.Score(instructions=["How angry?"], criteria=["calm", {"level": "furious"}]),
    }


SENT = {
    "team": {"type": "choice", "instructions": "Which team?", "criteria": {"billing": "Payments", "support": None}},
    "urgent": {"type": "noul", "instructions": "Urgent?", "criteria": {"true": "It can't wait"}},
    "mood": {"type": "score", "instructions": ["How angry?"], "criteria": ["calm", '{"level":"furious"}']},
}


@pytest.fixture
def server() -> Iterator[OllamaServer]:
    with OllamaServer(MODELS, version="0.40") as server:
        yield server


def make(server: OllamaServer, **settings: Any) -> Any:
    return langchain_namel3ss_ollama.OllamaDecisions(**{"model": "nimble", "base_url": server.url, **settings})


def ask(state: Any, **more: Any) -> dict[str, Any]:
    return {"state": state, "questions": {"q": decisions.Noul(instructions="Urgent?")}, **more}


@pytest.mark.parametrize("sync", [True, False])
async def test_questions_and_answers(server: OllamaServer, sync: bool) -> None:
    server.reply(answers={"team": "support", "urgent": 0.75, "mood": 1})
    model = make(server, keep_alive="5m", extra_body={"videos": []}, headers={"x-a": "b"})
    request = {"state": {"ticket": "Twice!"}, "questions": questions()}
    response = model.invoke(request) if sync else await model.ainvoke(request)
    assert isinstance(response, decisions.ClassifierResponse)
    assert server.requests[-1].payload == {
        "model": "nimble", "state": {"ticket": "Twice!"}, "questions": SENT, "keep_alive": "5m", "videos": [],
    }  # fmt: skip
    assert server.requests[-1].headers["x-a"] == "b"
    team, mood = response.choices["team"], response.scores["mood"]
    assert (team.choice, team.probabilities["support"], response.nouls["urgent"].noul) == ("support", 0.9, 0.75)
    assert (mood.score, mood.probabilities[1]) == (pytest.approx(0.9), 0.9)
    assert mood.legend == {0: "calm", 1: '{"level":"furious"}'}
    assert response.usage is not None
    assert response.usage["total_tokens"] == response.usage["input_tokens"] + 3


def test_a_state_of_messages(server: OllamaServer) -> None:
    call = {"name": "refund", "args": {"euros": 5}, "id": "1"}
    messages = [
        SystemMessage("Be kind."),
        HumanMessage([{"type": "text", "text": "See:"}, {"type": "image", "base64": IMAGE, "mime_type": "image/png"}]),
        AIMessage("", tool_calls=[call]),
        ToolMessage("done", tool_call_id="1", name="refund"),
    ]
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{IMAGE}"}}
    state = {"messages": messages, "last": HumanMessage("Hi"), "more": [image, 1, None, {"type": "file"}, "x"]}
    make(server, model="clef").invoke(ask(state))
    assert server.requests[-1].payload["state"] == {
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "See:\n[image 1]"},
            {"role": "assistant", "content": "", "tool_calls": [{"name": "refund", "arguments": {"euros": 5}}]},
            {"role": "tool", "content": "done", "tool_name": "refund"},
        ],
        "last": {"role": "user", "content": "Hi"},
        "more": ["[image 2]", 1, None, {"type": "file"}, "x"],
    }
    assert server.requests[-1].payload["images"] == [IMAGE, IMAGE]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (lambda: ask([{"type": "audio", "base64": "x"}]), "state: a block of type 'audio'"),
        (lambda: ask({"type": "image", "url": "https://a/b.png"}), "state: an image given as a URL"),
        (
            lambda: ask(HumanMessage([{"type": "image_url", "image_url": {"url": "https://a/b.png"}}])),
            "state: an image given as a URL",
        ),
        (lambda: ask(" "), "state: is empty"),
        (lambda: ask("x", questions={}), "questions: there must be 1 to 64"),
        (
            lambda: ask("x", questions={"q": decisions.Box(instructions="Where?")}),
            r"questions\['q'\]: Ollama has no box",
        ),
        (
            lambda: ask("x", questions={"q": decisions.Noul(instructions=[{"type": "image", "base64": IMAGE}])}),
            r"questions\['q'\]: an image in a question",
        ),
        (
            lambda: ask("x", questions={"q": decisions.Choice(instructions="Which?", criteria={"a": None})}),
            r"questions\['q'\]\.criteria: there must be 2 to 26",
        ),
        (lambda: ask("x" * 70_000), "state: the request has"),
    ],
)
def test_unsupported_requests_are_not_sent(server: OllamaServer, request_: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(server).invoke(request_())
    assert server.requests == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0}, "temperature: decision models take no runtime options"),
        ({"num_ctx": 2048}, "num_ctx: decision models take no runtime options"),
        ({"options": {"seed": 1}}, "options: decision models take no runtime options"),
        ({"on_truncation": "error"}, "on_truncation: decision models take no runtime options"),
        ({"model": ""}, "model: is needed"),
    ],
)
def test_invalid_settings(server: OllamaServer, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(server, **settings)


async def test_errors_are_langchains(server: OllamaServer, ollama_server: OllamaServer) -> None:
    with pytest.raises(OllamaModelNotFoundError):
        make(server, model="nope").invoke(ask("x"))
    with pytest.raises(OllamaInvalidRequestError, match="choose a decision model"):
        await make(server, model="small").ainvoke(ask("x"))
    with pytest.raises(ModelInvalidRequestError, match=r"Ollama 0\.35\.0 and newer"):
        make(ollama_server).invoke(ask("x"))
    server.fault("status", status=503)
    with pytest.raises(OllamaBusyError):
        await make(server, max_retries=0).ainvoke(ask("x"))


@BETA
def test_a_shared_provider_and_serialisation(server: OllamaServer) -> None:
    provider = OllamaProvider("nimble", server.url, keep_alive="1m")
    model = langchain_namel3ss_ollama.OllamaDecisions(provider=provider)
    assert model.batch([ask("a"), ask("b")])[1].model == "nimble"
    assert provider.stats().decisions_succeeded == 2
    assert server.requests[-1].payload["keep_alive"] == "1m"
    again = load(dumpd(make(server)), valid_namespaces=["langchain_namel3ss_ollama"], allowed_objects=[type(model)])
    assert (type(again), again.model, again.base_url) == (type(model), "nimble", server.url)


@BETA
@pytest.mark.parametrize("sync", [True, False])
async def test_the_model_router(server: OllamaServer, sync: bool) -> None:
    middleware = pytest.importorskip("langchain.agents.middleware")
    from langchain.agents import create_agent

    small, large = (ChatOllama(model=name, base_url=server.url) for name in ("small", "large"))
    router = middleware.ModelRouterMiddleware(
        choices={
            "small": middleware.ModelChoice(model=small, criteria="Simple tasks."),
            "large": middleware.ModelChoice(model=large, criteria={"tasks": ["hard"]}),
        },
        instructions="Choose a model.",
        classifier=make(server),
    )
    server.on(path=PATH, contains="proof").reply(answers={"model_route": "large"})
    agent = create_agent(small, middleware=[router])
    for text, routed in (("Write a proof.", "large:latest"), ("Say hi, small one.", "small:latest")):
        given: Any = {"messages": [HumanMessage(text)]}
        state: Any = agent.invoke(given) if sync else await agent.ainvoke(given)
        asked, answered = server.requests[-2:]
        assert (asked.path, asked.payload["state"]) == (PATH, {"role": "user", "content": text})
        assert (answered.path, answered.model) == ("/api/chat", routed.removesuffix(":latest"))
        assert state["model_route"].choice == routed.removesuffix(":latest")


@pytest.mark.parametrize("risk", [0.9, 0.1])
async def test_the_tool_guard(server: OllamaServer, risk: float) -> None:
    middleware = pytest.importorskip("langchain.agents.middleware")
    from langchain.agents import create_agent

    deleted: list[str] = []

    def delete(name: str) -> str:
        """Delete a file."""
        deleted.append(name)
        return "gone"

    server.reply(answers={"is_risky": risk})
    server.on(path="/api/chat").sequence(Reply(tool_calls=[ToolCall("delete", {"name": "a"})]), "Ready.")
    guard = middleware.AutoModeMiddleware(tools=["delete"], classifier=make(server))
    agent = create_agent(ChatOllama(model="small", base_url=server.url), tools=[delete], middleware=[guard])
    state: Any = await agent.ainvoke({"messages": [HumanMessage("Delete a.")]})
    assert deleted == ([] if risk > 0.5 else ["a"])
    assert state["messages"][-2].status == ("error" if risk > 0.5 else "success")
    asked = next(record for record in server.requests if record.path == PATH)
    assert asked.payload["state"]["tool_call"]["args"] == {"name": "a"}
    assert asked.payload["state"]["messages"][-1]["tool_calls"] == [{"name": "delete", "arguments": {"name": "a"}}]
