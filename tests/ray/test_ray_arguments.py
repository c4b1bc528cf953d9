"""Arguments are checked at the call, before anything runs."""

from __future__ import annotations

import re
from typing import Any

import pytest
import ray
import ray.data

from namel3ss_ollama.testing import OllamaServer
from ray_namel3ss_ollama import ask

pytestmark = pytest.mark.timeout(400)  # Ray may be started for the first of them


@pytest.fixture(scope="module")
def table(small_ray: str) -> ray.data.Dataset:
    """A dataset whose columns are known."""
    return ray.data.from_items([{"id": 1, "text": "a"}]).materialize()


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"prompt": "nothing"}, ValueError, "prompt: there is no column 'nothing'; there are 'id', 'text'"),
        ({"id": "nothing"}, ValueError, "id: there is no column 'nothing'"),
        ({"into": "text"}, ValueError, "into: there is a column 'text' already"),
        ({"into": "a/b", "journal": "x"}, ValueError, "into: 'a/b' is also the name of the journal's file"),
        ({"id": None, "journal": "x"}, ValueError, "id: a journal identifies rows by their ids"),
        ({"journal": 5}, TypeError, "journal: expected a folder, not int"),
        ({"hosts": []}, ValueError, "hosts: there must be at least one address"),
        ({"actors": 2}, ValueError, r"actors: 2 is more than the number of hosts \(1\)"),
        ({"actors": 0}, ValueError, "actors: 0 is not positive"),
        ({"batch_size": True}, TypeError, "batch_size: expected a number, not bool"),
        ({"on_error": "drop"}, ValueError, "on_error: 'drop' is not one of"),
        ({"on_change": "drop"}, ValueError, "on_change: 'drop' is not one of"),
        ({"retry_failed": "none"}, ValueError, "retry_failed: 'none' is not one of"),
        ({"temperatur": 1}, TypeError, "temperatur"),
        ({"max_concurrent": 4}, TypeError, r"max_concurrent: pass hosts=\[Host"),
        ({"model": ""}, ValueError, "model"),
    ],
)
def test_bad_input_fails_at_the_call(
    wrong: dict[str, Any], error: type[Exception], message: str, table: ray.data.Dataset, ollama_server: OllamaServer
) -> None:
    given: dict[str, Any] = {
        "model": "llama3.2", "hosts": [ollama_server.url], "prompt": "text", "id": "id", "into": "x"
    }  # fmt: skip
    with pytest.raises(error, match=message):
        ask(table, **{**given, **wrong})
    assert not ollama_server.requests


def test_only_a_dataset_is_accepted() -> None:
    rows: Any = [{"text": "a"}]
    with pytest.raises(TypeError, match=re.escape("dataset: expected a ray.data.Dataset, not list")):
        ask(rows, "llama3.2", hosts="http://localhost:1", prompt="text", into="x")
