"""The wait policy of llama.cpp's threads is set while it is loaded, and only then."""

from __future__ import annotations

import os

import pytest

from namel3ss_ollama.embedded.openmp import waiting_asleep


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)


def test_it_holds_while_the_binding_is_loaded() -> None:
    before = dict(os.environ)
    with waiting_asleep():
        assert dict(os.environ) == {**before, "GOMP_SPINCOUNT": "10000"}
    assert dict(os.environ) == before


def test_a_failed_import_restores_it() -> None:
    with pytest.raises(ImportError), waiting_asleep():
        raise ImportError
    assert "GOMP_SPINCOUNT" not in os.environ


@pytest.mark.parametrize(("name", "value"), [("OMP_WAIT_POLICY", "active"), ("GOMP_SPINCOUNT", "1000")])
def test_the_users_setting_is_kept(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with waiting_asleep():
        assert dict(os.environ) == before
    assert dict(os.environ) == before
