"""Models that some versions do not hold to a `format`, or not beside tools: object and call come all the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from drop_in import FRONTS, City
from version_table import VERSIONS

from namel3ss_ollama import OllamaProvider
from namel3ss_ollama.testing import Model, OllamaServer

CAN = ("completion", "tools")
MODELS = {
    "calls by a grammar": Model("own-calls", CAN, call_grammar=True),
    "MLX": Model("on-mlx", CAN, format="safetensors"),
    "parser": Model("parsed", (*CAN, "thinking"), parser="qwen3.5"),
    "cloud": Model("gpt-oss:120b-cloud", CAN),
}
THINKS = MODELS["parser"].name
ROME = City(name="Rome", people=3)
CALL = '{"name": "weather", "arguments": {"city": "Rome"}}'


@pytest.fixture(scope="module", params=[*VERSIONS, "0.12.6", "0.24", "0.31.1"])
def whole_server(request: pytest.FixtureRequest) -> Iterator[OllamaServer]:
    with OllamaServer(MODELS.values(), version=request.param) as server:
        yield server


@pytest.fixture
def server(whole_server: OllamaServer) -> OllamaServer:
    """A server whose models write JSON where the prompt asks for it, or where a grammar makes them."""
    whole_server.reset()
    whole_server.reply(ROME.model_dump_json(), contains="Answer with JSON alone")
    whole_server.reply(CALL, contains="Answer with one call of a function")
    return whole_server


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("front", FRONTS)
def test_an_object_and_a_forced_call(server: OllamaServer, front: str, model: Model) -> None:
    asked = FRONTS[front](server, model.name)
    for _ in range(2):
        begun = len(server.requests)
        assert isinstance(asked.structured("Rome"), City)
        assert [name for name, _, _ in asked.force("The weather in Rome?").calls] == ["weather"]
    assert len(server.requests) - begun == 2, "what was found out of a model is remembered"


@pytest.mark.parametrize("think", [True, False])
@pytest.mark.parametrize("front", FRONTS)
def test_with_thinking_asked_for_or_forbidden(server: OllamaServer, front: str, think: bool) -> None:
    asked = FRONTS[front](server, THINKS, think=think)
    assert isinstance(asked.structured("Rome"), City)
    assert [name for name, _, _ in asked.force("The weather in Rome?").calls] == ["weather"]


@pytest.mark.parametrize(
    ("model", "think"), [*((model.name, None) for model in MODELS.values()), (THINKS, True), (THINKS, False)]
)
def test_an_object_out_of_a_prompt(server: OllamaServer, model: str, think: bool | None) -> None:
    with OllamaProvider(model, server.url) as provider:
        for _ in range(2):
            response = provider.generate("Rome", format=City, think=think)
            assert isinstance(response.parsed, City)
            assert response.content == response.parsed.model_dump_json()
