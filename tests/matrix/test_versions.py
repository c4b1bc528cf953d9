"""The provider and both adapters against the test server in each version of Ollama."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from drop_in import FRONTS, SCENARIOS, Scenario
from version_table import VERSIONS

from namel3ss_ollama.testing import OllamaServer


@pytest.fixture(scope="module", params=VERSIONS)
def server(request: pytest.FixtureRequest) -> Iterator[OllamaServer]:
    with OllamaServer(version=request.param) as server:
        yield server


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
@pytest.mark.parametrize("front", FRONTS)
def test_a_version(server: OllamaServer, front: str, scenario: Scenario, caplog: pytest.LogCaptureFixture) -> None:
    server.reset()
    scenario.run(FRONTS[front], server, caplog)
