"""Messages, responses and their parts."""

from __future__ import annotations

import copy
import json
import pickle

import pytest

from namel3ss_ollama.media import Image
from namel3ss_ollama.types import EmbedResponse, LLMResponse, Message, StreamChunk, ToolCall, Usage, usage_of


def response(**more: object) -> LLMResponse:
    usage = Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3)
    return LLMResponse("an answer", "m", usage, "stop", {}, **more)


@pytest.mark.parametrize(
    ("final", "usage"),
    [
        ({"prompt_eval_count": 3, "eval_count": 4}, (3, 4, 7)),
        ({"eval_count": 4}, (0, 4, 4)),
        ({"prompt_eval_count": None, "eval_count": 0}, (0, 0, 0)),
        ({}, (0, 0, 0)),
    ],
)
def test_an_absent_counter_counts_as_zero(final: dict[str, int], usage: tuple[int, int, int]) -> None:
    found = usage_of(final)
    assert (found["prompt_tokens"], found["completion_tokens"], found["total_tokens"]) == usage


@pytest.mark.parametrize("role", ["User", " user", "", " ", None, [], 5])
def test_an_unknown_role_is_rejected(role: object) -> None:
    with pytest.raises(ValueError, match=r"^role: .* unknown; use one of system, user, assistant, tool"):
        Message(role)


@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool", "developer", "control", "context", "users"])
def test_known_roles_pass_and_those_a_template_may_support(role: str) -> None:
    assert Message(role).content == ""


@pytest.mark.parametrize("content", [None, b"bytes", ["parts"], 5])
def test_content_is_text(content: object) -> None:
    with pytest.raises(TypeError, match=f"^content: expected text, not {type(content).__name__}"):
        Message("user", content)


def test_a_tool_call_has_a_name_and_an_id_of_its_own() -> None:
    with pytest.raises(ValueError, match="needs a name"):
        ToolCall("")
    first, second = ToolCall("f"), ToolCall("f")
    assert first.id != second.id
    assert first.id.startswith("call_")
    assert (first.arguments, first.invalid_arguments) == ({}, None)
    assert first.arguments is not second.arguments


def test_messages_and_calls_are_immutable() -> None:
    with pytest.raises(AttributeError):
        Message("user", "x").content = "y"
    with pytest.raises(AttributeError):
        ToolCall("f").name = "y"


def test_a_chunk_before_the_last_is_not_done() -> None:
    chunk = StreamChunk("te", "th", (), {"model": "m", "logprobs": [{"token": "te"}]})
    assert not chunk.done
    assert (chunk.finish_reason, chunk.usage, chunk.response) == (None, None, None)
    assert (chunk.model, chunk.logprobs) == ("m", [{"token": "te"}])


def test_the_last_chunk_carries_the_response() -> None:
    whole = response()
    chunk = StreamChunk("", "", (), {}, whole)
    assert chunk.done
    assert (chunk.finish_reason, chunk.usage) == ("stop", whole.usage)
    assert (chunk.model, chunk.logprobs) == ("", None)


def test_a_response_is_its_text_and_a_message_for_the_history() -> None:
    call = ToolCall("f", {"a": 1})
    whole = response(thinking="hm", tool_calls=(call,))
    assert str(whole) == "an answer"
    assert whole.message == Message("assistant", "an answer", thinking="hm", tool_calls=(call,))
    assert response().message.thinking is None


SECRET = "c2VjcmV0"  # valid base64, so that it can be an image


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Image(SECRET), "Image(6 bytes)"),
        (StreamChunk(SECRET, SECRET, (), {"content": SECRET}), "StreamChunk(8 characters)"),
        (StreamChunk("", "", (), {}, response()), "StreamChunk(0 characters, done)"),
        (response(thinking=SECRET, tool_calls=(ToolCall("f", {"a": SECRET}),)), "9 characters, 1 tool calls"),
    ],
)
def test_reprs_show_sizes_and_no_content(value: object, shown: str) -> None:
    assert shown in repr(value)
    assert SECRET not in repr(value)


@pytest.mark.parametrize(
    "value",
    [
        Message("user", SECRET),
        Message("assistant", thinking=SECRET),
        Message("user", "x", images=[SECRET]),
        ToolCall("f", {"a": SECRET}),
        ToolCall("f", invalid_arguments=SECRET),
        EmbedResponse([[0.123456]], "m", Usage(prompt_tokens=1, completion_tokens=0, total_tokens=1)),
    ],
    ids=["content", "thinking", "images", "arguments", "invalid arguments", "embeddings"],
)
def test_the_reprs_of_messages_calls_and_vectors_hold_nothing_private(value: object) -> None:
    # Once wrong: these three classes had the default repr of a dataclass, which shows every field
    assert SECRET not in repr(value)
    assert "0.123456" not in repr(value)


def test_usage_is_a_dict_with_attributes() -> None:
    usage = Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3)
    plain = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (1, 2, 3)
    assert usage["total_tokens"] == 3
    assert usage == plain
    assert dict(usage) == {**usage} == plain
    assert dict(**usage) == plain
    assert json.loads(json.dumps(usage)) == plain
    assert repr(usage) == repr(plain)
    for twin in (pickle.loads(pickle.dumps(usage)), copy.copy(usage), copy.deepcopy(usage)):
        assert type(twin) is Usage
        assert twin == usage


def test_usages_add_up() -> None:
    one = Usage(prompt_tokens=3, completion_tokens=4, total_tokens=7)
    other = Usage(prompt_tokens=10, completion_tokens=1, total_tokens=11, cached_tokens=8)
    for added in (one.plus(other), other.plus(one)):
        assert added == {"prompt_tokens": 13, "completion_tokens": 5, "total_tokens": 18, "cached_tokens": 8}


def test_cached_tokens_are_present_if_the_server_counts_them() -> None:
    old = usage_of({"prompt_eval_count": 5, "eval_count": 1})
    assert old.cached_tokens is None
    assert "cached_tokens" not in old
    for cached in (0, 4):
        new = usage_of({"prompt_eval_count": 5, "prompt_eval_cached_count": cached, "eval_count": 1})
        assert new == {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6, "cached_tokens": cached}
        assert new.cached_tokens == new["cached_tokens"] == cached
        assert pickle.loads(pickle.dumps(new)) == new
