"""What docs/compatibility.md says of a real server's version, checked against that server."""

from __future__ import annotations

import httpx
import pytest
from one_layer import one_layer
from version_table import CHAT, PROBES, Place

from namel3ss_ollama.testing.versions import FEATURES

pytestmark = pytest.mark.server_only("it is about versions of the server")


@pytest.mark.parametrize("name", [name for name, probe in PROBES.items() if probe.real])
def test_a_real_server_behaves_as_its_version(name: str, copies: str) -> None:
    version = httpx.get(f"{copies}/api/version").json()["version"]
    assert PROBES[name].found(Place(copies, chat_model=one_layer(CHAT))) is FEATURES[name].on(version)
