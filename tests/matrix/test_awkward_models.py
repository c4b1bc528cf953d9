"""Models whose `format` some versions ignore, maybe only with tools: structured output and forced calls still work."""

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
def shared_server(request: pytest.FixtureRequest) -> Iterator[OllamaServer]:
    with OllamaServer(MODELS.values(), version=request.param) as server:
        yield server


@pytest.fixture
def server(shared_server: OllamaServer) -> OllamaServer:
    """A server whose models write JSON where the prompt asks for it, or where a grammar enforces it."""
    shared_server.reset()
    shared_server.reply(ROME.model_dump_json(), contains="Answer with JSON alone")
    shared_server.reply(CALL, contains="Answer with one call of a function")
    return shared_server


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("front", FRONTS)
def test_structured_output_and_a_forced_call(server: OllamaServer, front: str, model: Model) -> None:
    client = FRONTS[front](server, model.name)
    for _ in range(2):
        before = len(server.requests)
        assert isinstance(client.structured("Rome"), City)
        assert [name for name, _, _ in client.force("The weather in Rome?").calls] == ["weather"]
    assert len(server.requests) - before == 2, "what is learned about a model is remembered"


@pytest.mark.parametrize("think", [True, False])
@pytest.mark.parametrize("front", FRONTS)
def test_with_thinking_enabled_or_disabled(server: OllamaServer, front: str, think: bool) -> None:
    client = FRONTS[front](server, THINKS, think=think)
    assert isinstance(client.structured("Rome"), City)
    assert [name for name, _, _ in client.force("The weather in Rome?").calls] == ["weather"]


@pytest.mark.parametrize(
    ("model", "think"), [*((model.name, None) for model in MODELS.values()), (THINKS, True), (THINKS, False)]
)
def test_structured_output_from_a_prompt(server: OllamaServer, model: str, think: bool | None) -> None:
    with OllamaProvider(model, server.url) as provider:
        for _ in range(2):
            response = provider.generate("Rome", format=City, think=think)
            assert isinstance(response.parsed, City)
            assert response.content == response.parsed.model_dump_json()
