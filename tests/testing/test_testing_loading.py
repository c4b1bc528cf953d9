"""What makes a server reload a model that is already in memory."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from namel3ss_ollama.testing import Model, OllamaServer

OLD, NEW = "0.9.3", "0.40"
MODELS = [Model("gguf"), Model("mlx", format="safetensors")]


def reloads(version: str, *requests: dict[str, Any], model: str = "gguf") -> list[bool]:
    """For each request after the first, whether the server loaded the model."""
    with OllamaServer(MODELS, version=version) as server:
        answers = [
            httpx.post(f"{server.url}/api/generate", json={"model": model, "prompt": "Hi", "stream": False, **one})
            for one in requests
        ]
    return [answer.json()["load_duration"] > 1_000_000_000 for answer in answers[1:]]


@pytest.mark.parametrize(
    ("options", "again"),
    [
        ({"num_ctx": 4096}, False),  # the default
        ({"num_ctx": 512}, True),
        ({"num_batch": 64}, True),
        ({"num_thread": 2}, True),
        ({"num_gpu": 3}, True),
        ({"num_gpu": -1}, False),
        ({"temperature": 0.5, "num_predict": 3}, False),
    ],
)
@pytest.mark.parametrize("version", [OLD, NEW])
def test_options(version: str, options: dict[str, Any], again: bool) -> None:
    with_options = {"options": options}
    assert reloads(version, {}, with_options, with_options) == [again, False]


def test_a_default_layer_count_causes_no_reload() -> None:
    assert reloads(NEW, {"options": {"num_gpu": 3}}, {}, {"options": {"num_gpu": 3}}) == [False, False]


@pytest.mark.parametrize(("version", "again"), [(OLD, False), ("0.12.6", False), ("0.30.0", True), (NEW, True)])
def test_shift(version: str, again: bool) -> None:
    assert reloads(version, {}, {"shift": True}, {"shift": False}, {}) == [False, again, again]


@pytest.mark.parametrize(("version", "again"), [("0.29.9", False), ("0.30.0", True)])
def test_draft_tokens(version: str, again: bool) -> None:
    assert reloads(version, {}, {"options": {"draft_num_predict": 2}}) == [again]


def test_mlx_and_unloaded_models_are_not_reloaded() -> None:
    small = {"options": {"num_ctx": 512}, "shift": False}
    assert reloads(NEW, {}, small, model="mlx") == [False]
    assert reloads(NEW, {"keep_alive": 0}, small) == [False]


def test_a_reload_clears_the_prompt_cache() -> None:
    with OllamaServer(MODELS, version=NEW) as server:
        counts = [
            httpx.post(
                f"{server.url}/api/generate", json={"model": "gguf", "prompt": "a b c", "stream": False, **more}
            ).json()["prompt_eval_cached_count"]
            for more in ({}, {}, {"shift": False}, {"shift": False})
        ]
    assert counts == [0, 2, 0, 2]
