"""Fields of a request that have no keyword."""

from __future__ import annotations

import json
from typing import Any

import pytest

from namel3ss_ollama import OllamaProvider
from namel3ss_ollama.prepare import _HAVE_ARGUMENTS, Defaults, chat_request, generate_request
from namel3ss_ollama.settings import StreamConfig

NEW = {"_debug_render_only": True, "think_budget": {"tokens": 5}}
ASK = [{"role": "user", "content": "Hi"}]


def defaults(**options: Any) -> Defaults:
    return Defaults("m", options, StreamConfig(), None, "warn")


def test_fields_without_a_keyword_are_sent_last() -> None:
    for request in (
        chat_request(defaults(temperature=1), ASK, {"extra_body": NEW}),
        generate_request(defaults(temperature=1), "Hi", {"extra_body": NEW}),
    ):
        assert list(request.body.items())[-2:] == list(NEW.items())
        assert json.loads(request.content or b"") == request.body
        assert request.body["options"] == {"temperature": 1}


def test_a_forced_call_and_a_format_keep_them() -> None:
    tool = {"name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "string"}}}}
    body = chat_request(defaults(extra_body=NEW), ASK, {"tools": [tool], "tool_choice": "f"}).body
    assert {**body, **NEW} == body
    assert body["format"]["properties"]["name"] == {"const": "f"}


@pytest.mark.parametrize(
    ("call", "sent"),
    [
        ({}, {"a": 1, "b": 2}),
        ({"extra_body": {"b": 3, "c": 4}}, {"a": 1, "b": 3, "c": 4}),
        ({"extra_body": {"a": None}}, {"b": 2}),
        ({"extra_body": None}, {}),
        ({"extra_body": {}}, {"a": 1, "b": 2}),
    ],
)
def test_fields_of_a_call_override_one_by_one_and_none_removes(call: dict[str, Any], sent: dict[str, int]) -> None:
    body = generate_request(defaults(extra_body={"a": 1, "b": 2}), "Hi", call).body
    assert body == {"model": "m", "prompt": "Hi", **sent}


@pytest.mark.parametrize("name", sorted(_HAVE_ARGUMENTS))
def test_a_field_with_an_argument_is_rejected(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^extra_body: '{name}' has an argument of its own; give it as "):
        chat_request(defaults(), ASK, {"extra_body": {name: 1}})
    with pytest.raises(ValueError, match=rf"^extra_body: '{name}' "):
        OllamaProvider("m", "http://localhost", extra_body={name: None})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([("a", 1)], r"^extra_body: expected a mapping of fields, not list$"),
        ("a", r"^extra_body: expected a mapping of fields, not str$"),
        ({1: 2}, r"^extra_body: expected names of fields, not 1$"),
    ],
)
def test_only_a_mapping_of_names_is_accepted(given: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        generate_request(defaults(), "Hi", {"extra_body": given})
    with pytest.raises(TypeError, match=message):
        OllamaProvider("m", "http://localhost", extra_body=given)


def test_an_unknown_keyword_mentions_extra_body() -> None:
    with pytest.raises(TypeError, match=r"extra_body=\{\.\.\.\} other fields of the request$"):
        chat_request(defaults(), ASK, {"_debug_render_only": True})
