"""docs/compatibility.md matches the table of versions, and the test server behaves as the table says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from inspect import signature
from pathlib import Path

import pytest
from left_out import LEFT_OUT, LeftOut
from version_table import MODELS, PROBES, VERSIONS, Place, page

from namel3ss_ollama import OllamaProvider
from namel3ss_ollama.ignored import _SINCE, _UNTIL
from namel3ss_ollama.settings import BatchOptions, ChatOptions
from namel3ss_ollama.testing import OllamaServer
from namel3ss_ollama.testing.checks import _BY_VERSION
from namel3ss_ollama.testing.versions import FEATURES

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"


def test_the_page_is_what_the_table_says() -> None:
    if os.environ.get("NAMEL3SS_WRITE_DOCS"):
        PAGE.write_text(page(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page(), "docs/compatibility.md is stale: `make pages` writes it again"


def test_the_provider_warns_of_options_by_the_same_versions() -> None:
    until = {name: feature.until for feature, names in _BY_VERSION.items() for name in names if feature.until}
    since = {name: feature.since for feature, names in _BY_VERSION.items() for name in names if feature.since}
    assert (until, since) == (_UNTIL, _SINCE)


def test_every_feature_has_a_probe() -> None:
    assert list(PROBES) == list(FEATURES)


@pytest.mark.parametrize("row", [row for rows in LEFT_OUT.values() for row in rows], ids=lambda row: row.what[:30])
def test_features_left_out_do_not_exist(row: LeftOut) -> None:
    keywords = {*BatchOptions.__annotations__, *ChatOptions.__annotations__, *signature(OllamaProvider).parameters}
    embedding = signature(OllamaProvider.embed).parameters
    for name in row.names:
        assert name not in keywords
        assert name not in embedding
        assert not hasattr(OllamaProvider, name), f"{row.what} is done: take it out of tests/support/left_out.py"


@pytest.fixture(scope="module", params=[*VERSIONS, "0.3.3", "0.6.6", "0.12.6", "0.0.0"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with OllamaServer(MODELS, version=request.param) as server:
        yield Place(server.url, server)


@pytest.mark.parametrize("name", FEATURES)
def test_the_test_server_behaves_as_its_version(place: Place, name: str) -> None:
    place.script.reset()
    version = place.script.version
    assert PROBES[name].found(place) is FEATURES[name].on(version)
