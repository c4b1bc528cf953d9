"""Lines in, chunks and a response out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from namel3ss_ollama.answers import Answer, ServerReportedError, read_arguments, read_tool_calls
from namel3ss_ollama.errors import LLMError, MalformedResponseError, OutputValidationError
from namel3ss_ollama.types import LLMResponse, StreamChunk, ToolCall

Line = dict[str, Any]
LAST = {
    "model": "m:latest",
    "created_at": "2025-01-01T00:00:00Z",
    "done": True,
    "done_reason": "stop",
    "total_duration": 9_000_000_000,
    "load_duration": 1_000_000,
    "prompt_eval_count": 10,
    "prompt_eval_duration": 2_000_000_000,
    "eval_count": 6,
    "eval_duration": 3_000_000_000,
}


def chat(content: str = "", done: bool = False, **message: Any) -> Line:
    line = {"role": "assistant", "content": content, **message}
    return {"model": "m", "message": line, "done": False, **(LAST if done else {})}


def generate(text: str = "", done: bool = False, **more: Any) -> Line:
    return {"model": "m", "response": text, "done": False, **(LAST if done else {}), **more}


def call(name: str = "f", arguments: Any = None, **more: Any) -> Line:
    return {"function": {"name": name, "arguments": {} if arguments is None else arguments}, **more}


def absorbed(kind: Any, *lines: Line, forced: tuple[str, ...] = ()) -> LLMResponse:
    answer = Answer(kind, forced)
    assert answer.absorb(lines)
    return answer.response()


def streamed(kind: Any, *lines: Line, forced: tuple[str, ...] = ()) -> tuple[list[StreamChunk], LLMResponse]:
    """Like a stream that receives one line at a time."""
    answer = Answer(kind, forced)
    chunks: list[StreamChunk] = []
    for line in lines:
        chunk = answer.chunk(line)
        answer.deliver(chunk)
        chunks.append(chunk)
    return chunks, answer.response()


# Complete answers


def test_the_pieces_of_a_chat_are_put_together() -> None:
    response = absorbed("chat", chat("Hel"), chat("lo"), chat("", done=True))
    assert (response.content, response.thinking, response.model) == ("Hello", "", "m:latest")
    assert response.finish_reason == "stop"
    assert response.usage == {"prompt_tokens": 10, "completion_tokens": 6, "total_tokens": 16}
    assert (response.tool_calls, response.logprobs, response.parsed, response.truncated_prompt) == (
        (),
        None,
        None,
        False,
    )


def test_the_pieces_of_a_generation_are_put_together() -> None:
    response = absorbed("generate", generate("Hel"), generate("lo"), generate("!", done=True))
    assert response.content == "Hello!"


def test_an_answer_in_one_line_is_complete() -> None:
    assert absorbed("chat", chat("Hello", done=True)).content == "Hello"
    assert absorbed("generate", generate("Hello", done=True)).content == "Hello"


def test_thinking_is_kept_apart() -> None:
    lines = [chat(thinking="Let me "), chat(thinking="see."), chat("Yes"), chat(".", done=True)]
    response = absorbed("chat", *lines)
    assert (response.thinking, response.content) == ("Let me see.", "Yes.")
    response = absorbed("generate", generate(thinking="Hm"), generate("Yes", done=True))
    assert (response.thinking, response.content) == ("Hm", "Yes")


def test_metadata_is_what_the_server_sent_and_rates() -> None:
    metadata = absorbed("chat", chat("x", done=True)).metadata
    assert metadata == {
        "created_at": "2025-01-01T00:00:00Z",
        "done_reason": "stop",
        "total_duration": 9_000_000_000,
        "load_duration": 1_000_000,
        "prompt_eval_count": 10,
        "prompt_eval_duration": 2_000_000_000,
        "eval_count": 6,
        "eval_duration": 3_000_000_000,
        "tokens_per_second": 2.0,
        "prompt_tokens_per_second": 5.0,
    }


@pytest.mark.parametrize("absent", ["eval_count", "eval_duration"])
@pytest.mark.parametrize("value", [None, 0])
def test_without_its_counters_there_is_no_rate(absent: str, value: int | None) -> None:
    metadata = absorbed("chat", {**chat("x", done=True), absent: value}).metadata
    assert "tokens_per_second" not in metadata
    assert "prompt_tokens_per_second" in metadata


def test_the_time_to_the_first_token_is_in_the_metadata() -> None:
    answer = Answer("chat")
    answer.time_to_first_token = 0.25
    answer.absorb([chat("x", done=True)])
    assert answer.response().metadata["time_to_first_token"] == 0.25


@pytest.mark.parametrize("reason", ["stop", "length", "load", "unload"])
def test_the_servers_reason_is_the_finish_reason(reason: str) -> None:
    assert absorbed("chat", {**chat("", done=True), "done_reason": reason}).finish_reason == reason


def test_an_old_server_gives_no_reason() -> None:
    line = chat("x", done=True)
    del line["done_reason"]
    assert absorbed("chat", line).finish_reason == "stop"


@pytest.mark.parametrize("kind", ["chat", "generate"])
def test_a_bare_last_line_is_fine(kind: str) -> None:
    line = chat("Hi") if kind == "chat" else generate("Hi")
    response = absorbed(kind, line, {"done": True, "done_reason": "stop"})
    assert (response.content, response.finish_reason, response.model) == ("Hi", "stop", "m")
    assert response.usage["total_tokens"] == 0


@pytest.mark.parametrize("message", [None, [], {}, {"content": None, "thinking": None, "tool_calls": None}])
def test_an_empty_last_message_is_fine(message: Any) -> None:
    assert absorbed("chat", chat("Hi"), {**LAST, "message": message}).content == "Hi"


def test_lines_after_the_last_are_ignored() -> None:
    answer = Answer("chat")
    assert answer.absorb([chat("Hi", done=True), {"error": "late"}, chat("more")])
    assert answer.text == "Hi"


def test_log_probabilities_of_all_lines_are_collected() -> None:
    first, second = {"token": "H", "logprob": -0.1}, {"token": "i", "logprob": -0.2}
    lines = [
        {**chat("H"), "logprobs": [first]},
        {**chat("i"), "logprobs": [second]},
        {**chat("", done=True), "logprobs": None},
    ]
    assert absorbed("chat", *lines).logprobs == [first, second]
    chunks, response = streamed("chat", *lines)
    assert response.logprobs == [first, second]
    assert [chunk.logprobs for chunk in chunks] == [[first], [second], None]


# Partial answers


def test_an_answer_that_ended_early_is_partial() -> None:
    answer = Answer("chat")
    assert answer.is_empty()
    assert not answer.absorb([chat(thinking="hm"), chat("Hel"), chat("lo")])
    assert not answer.is_empty()
    partial = answer.response()
    assert (partial.content, partial.thinking, partial.finish_reason, partial.metadata) == ("Hello", "hm", None, {})


@pytest.mark.parametrize(
    "line", [chat("x"), chat(thinking="x"), chat(tool_calls=[call()]), chat("", done=True)], ids=str
)
def test_any_output_makes_an_answer_not_empty(line: Line) -> None:
    answer = Answer("chat")
    answer.absorb([chat("")])
    assert answer.is_empty()
    answer.absorb([line])
    assert not answer.is_empty()


def test_lines_before_a_broken_one_are_kept() -> None:
    answer = Answer("chat")
    with pytest.raises(ServerReportedError, match=r"^out of memory$"):
        answer.absorb([chat("Hel"), chat("lo"), {"error": "out of memory"}, chat("!")])
    assert answer.response().content == "Hello"


def test_the_model_of_an_answer_that_ended_early_is_known() -> None:
    # Once wrong: the model is read from the last line only, though every line names it
    answer = Answer("chat")
    answer.absorb([chat("Hel")])
    assert answer.response().model == "m"


def test_a_line_may_have_no_model() -> None:
    # Once wrong: str(None), so that the model was called "None"
    answer = Answer("chat")
    answer.absorb([{**chat("Hi"), "model": None}])
    assert answer.response().model == ""


def test_durations_need_not_be_integers() -> None:
    # Once wrong: a complete answer was rejected at its last line because of an unimportant number
    assert absorbed("chat", {**chat("Hi", done=True), "eval_duration": 3e9}).metadata["tokens_per_second"] == 2.0


def test_an_answer_grows_when_a_chunk_is_delivered_and_not_before() -> None:
    answer = Answer("chat")
    chunk = answer.chunk(chat("Hi", thinking="hm", tool_calls=[call()]))
    assert answer.is_empty()
    answer.deliver(chunk)
    response = answer.response()
    assert (response.content, response.thinking, len(response.tool_calls)) == ("Hi", "hm", 1)


def test_log_probabilities_too_wait_for_delivery() -> None:
    # Once wrong: `partial` had those of chunks that were never delivered
    answer = Answer("chat")
    answer.chunk({**chat("H"), "logprobs": [{"token": "H"}]})
    assert answer.response().logprobs is None


# Lines that are not of the endpoint's shape


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("chat", {}),
        ("chat", generate("x")),
        ("chat", {"message": "x"}),
        ("chat", {"message": None}),
        ("chat", {"message": ["x"]}),
        ("chat", {"message": {"content": 5}}),
        ("chat", {"message": {"content": ["x"]}}),
        ("chat", {"message": {"content": "x", "thinking": 5}}),
        ("generate", {}),
        ("generate", chat("x")),
        ("generate", {"response": 5}),
        ("generate", {"response": "x", "thinking": ["x"]}),
        ("chat", {"object": "chat.completion.chunk", "choices": []}),
    ],
)
def test_a_line_of_another_shape_is_malformed(kind: Any, line: Line) -> None:
    for read in (Answer(kind).chunk, lambda line: Answer(kind).absorb([line])):
        with pytest.raises(MalformedResponseError, match=f"not of the shape of /api/{kind}"):
            read(line)


@pytest.mark.parametrize(
    "line",
    [
        {**chat("x"), "logprobs": 5},
        {**chat("x", done=True), "eval_count": "6"},
        {**chat("x", done=True), "prompt_eval_count": [1]},
        {**chat("x", done=True), "prompt_eval_cached_count": "1"},
    ],
    ids=["logprobs", "eval_count", "prompt_eval_count", "prompt_eval_cached_count"],
)
def test_an_invalid_number_is_malformed_too(line: Line) -> None:
    # Once wrong: a TypeError from deep inside instead of an LLMError
    answer = Answer("chat")
    with pytest.raises(MalformedResponseError):
        answer.absorb([line])
        answer.response()


@pytest.mark.parametrize(("error", "text"), [("boom", "boom"), ({"message": "boom"}, "boom")])
def test_an_error_line_is_the_servers_error(error: Any, text: str) -> None:
    for line in ({"error": error}, {**chat("x"), "error": error}, {"error": error, "done": True}):
        with pytest.raises(ServerReportedError) as caught:
            Answer("chat").chunk(line)
        assert str(caught.value) == text


scalars = st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3)
junk = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["content", "thinking", "tool_calls", "function", "name", "arguments", "x"]), inner
        )
    ),
    max_leaves=8,
)


@pytest.mark.slow
@given(
    st.sampled_from(["chat", "generate"]),
    st.dictionaries(
        st.sampled_from(["message", "response", "thinking", "tool_calls", "done", "done_reason", "error"]), junk
    ),
)
def test_any_object_is_read_or_is_an_error_of_ours(kind: Any, line: Line) -> None:
    answer = Answer(kind)
    try:
        answer.deliver(answer.chunk(line))
    except (MalformedResponseError, ServerReportedError):
        return
    assert isinstance(answer.response(), LLMResponse)
    assert isinstance(answer.text, str)


# Tool calls


def test_tool_calls_are_complete_and_the_finish_reason() -> None:
    lines = [chat(tool_calls=[call("f", {"a": 1}), call("g")]), chat("", done=True)]
    for response in (absorbed("chat", *lines), streamed("chat", *lines)[1]):
        assert [(c.name, c.arguments, c.invalid_arguments) for c in response.tool_calls] == [
            ("f", {"a": 1}, None),
            ("g", {}, None),
        ]
        assert response.finish_reason == "tool_calls"
        assert response.content == ""
    chunks, _ = streamed("chat", *lines)
    assert [len(chunk.tool_calls) for chunk in chunks] == [2, 0]


def test_tool_calls_of_several_lines_are_one_list() -> None:
    response = absorbed("chat", chat(tool_calls=[call("f")]), chat("", done=True, tool_calls=[call("g")]))
    assert [c.name for c in response.tool_calls] == ["f", "g"]


def test_a_servers_id_is_kept_and_a_missing_one_is_made() -> None:
    first, second, third = read_tool_calls([call(id="call_7"), call(), call(id="")])
    assert first.id == "call_7"
    assert second.id.startswith("call_")
    assert len({first.id, second.id, third.id}) == 3


@pytest.mark.parametrize(
    ("arguments", "read", "invalid"),
    [
        ({"a": 1}, {"a": 1}, None),
        ('{"a": 1}', {"a": 1}, None),
        (' {"a": {"b": []}} ', {"a": {"b": []}}, None),
        (None, {}, None),
        ("", {}, None),
        ({}, {}, None),
        ("{}", {}, None),
        ('{"a": 1', {}, '{"a": 1'),
        ("[1]", {}, "[1]"),
        ("null", {}, None),
        (" null\n", {}, None),
        ([], {}, None),
        ("[]", {}, None),
        ("[ ]", {}, None),
        ("  ", {}, None),
        ('""', {}, None),
        ('"{\\"a\\": 1}"', {"a": 1}, None),
        ('{"a": "x\ny"}', {"a": "x\ny"}, None),
        ('{"a": 123456789012345678901234567890}', {"a": 123456789012345678901234567890}, None),
        ('{"a": -9223372036854775809}', {"a": -9223372036854775809}, None),
        ('{"a": "\\ud83d"}', {"a": "\ufffd"}, None),
        ('{"a": NaN}', {}, '{"a": NaN}'),
        ('{"a": [1e400]}', {}, '{"a": [1e400]}'),
        (f'{{"a": {"1" * 5000}}}', {}, f'{{"a": {"1" * 5000}}}'),
        ('"text"', {}, '"text"'),
        ("a=1", {}, "a=1"),
        ([1, "ä"], {}, '[1, "ä"]'),
        (5, {}, "5"),
        (False, {}, "false"),
    ],
)
def test_arguments_are_an_object_or_invalid_text(arguments: Any, read: Line, invalid: str | None) -> None:
    assert read_arguments(arguments) == (read, invalid)
    (found,) = read_tool_calls([{"function": {"name": "f", "arguments": arguments}}])
    assert (found.arguments, found.invalid_arguments) == (read, invalid)


def test_absent_arguments_are_empty() -> None:
    (found,) = read_tool_calls([{"function": {"name": "f"}}])
    assert (found.arguments, found.invalid_arguments) == ({}, None)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), values, max_size=4), st.booleans())
def test_an_object_is_read_the_same_whether_sent_as_such_or_as_text(arguments: Line, ascii_only: bool) -> None:
    assert read_arguments(arguments) == (arguments, None)
    text = json.dumps(arguments, ensure_ascii=ascii_only)
    assert read_arguments(text) == (arguments, None)


@given(st.text() | values)
def test_nothing_of_other_arguments_is_lost(value: Any) -> None:
    arguments, invalid = read_arguments(value)
    if invalid is None:
        assert isinstance(arguments, dict)
        read = json.loads(value) if isinstance(value, str) and value.strip() else value
        assert arguments == read if isinstance(read, dict) else read in (None, "", []) or not read.strip()
    else:
        assert arguments == {}
        assert invalid == (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


@pytest.mark.parametrize(
    "raw",
    [
        5,
        "f",
        [{}],
        ["f"],
        [None],
        [[]],
        [{"function": None}],
        [{"function": "f"}],
        [{"function": {}}],
        [{"function": {"name": ""}}],
        [{"function": {"name": " "}}],
        [{"function": {"name": None, "arguments": {"a": 1}}}],
        *([{"function": {"name": name}}] for name in (5, {"a": 1}, ["f"], True)),
    ],
)
def test_a_call_without_a_name_is_kept_as_invalid(raw: Any) -> None:
    # Once wrong: MalformedResponseError, and the text that came with it was lost
    (entry,) = raw if isinstance(raw, list) else [raw]
    lines = [chat("Let me see.", tool_calls=raw), chat("", done=True)]
    chunks, whole = streamed("chat", *lines)
    for response in (absorbed("chat", *lines), whole):
        assert (response.content, response.tool_calls, response.finish_reason) == ("Let me see.", (), "stop")
        (found,) = response.invalid_tool_calls
        assert json.loads(found.text) == entry
        assert found.id.startswith("call_")
        assert response.message.invalid_tool_calls == (found,)
    assert chunks[0].invalid_tool_calls == whole.invalid_tool_calls
    assert chunks[1].invalid_tool_calls == ()


@pytest.mark.parametrize(
    "raw",
    [
        {"function": {"name": "f", "arguments": {"a": 1}}},
        [{"name": "f", "arguments": {"a": 1}}],
        [{"function": None, "name": "f", "arguments": {"a": 1}}],
        [{"function": {"name": "f", "parameters": {"a": 1}}}],
        [{"function": {"name": "f", "arguments": {"a": 1}}, "id": None}],
    ],
)
def test_a_call_in_another_form_is_understood(raw: Any) -> None:
    (found,) = read_tool_calls(raw)
    assert isinstance(found, ToolCall)
    assert (found.name, found.arguments, found.error) == ("f", {"a": 1}, None)


def test_an_invalid_call_does_not_affect_the_others() -> None:
    raw = [call("f", {"a": 1}), None, call("g", "{"), call("", {"b": 2})]
    response = absorbed("chat", chat("Hm.", tool_calls=raw), chat("", done=True))
    assert [(c.name, c.arguments, c.error) for c in response.tool_calls] == [
        ("f", {"a": 1}, None),
        ("g", {}, "the arguments are not a JSON object"),
    ]
    assert [json.loads(c.text) for c in response.invalid_tool_calls] == [None, call("", {"b": 2})]
    assert (response.content, response.finish_reason) == ("Hm.", "tool_calls")


@pytest.mark.parametrize(
    ("sent", "read"), [("c", "c"), (7, "7"), (0, "0"), ("", None), (None, None), ({}, None), (True, None)]
)
def test_ids_are_text_and_unique(sent: Any, read: str | None) -> None:
    for lines in ([[call(id=sent), call(id=sent)]], [[call(id=sent)], [call(id=sent)]]):
        made = [chat(tool_calls=calls) for calls in lines]
        for response in (absorbed("chat", *made, chat("", done=True)), streamed("chat", *made, chat("", done=True))[1]):
            first, second = (c.id for c in response.tool_calls)
            assert first == read or (read is None and first.startswith("call_"))
            assert second.startswith("call_")
            assert first != second


# Forced calls

FORCED = '{"name": "f", "arguments": {"a": 1}}'


def spread(text: str) -> list[Line]:
    return [chat(text[:5]), chat(text[5:12]), chat(text[12:]), chat("", done=True)]


def test_a_forced_call_that_comes_as_text_is_only_a_call() -> None:
    chunks, response = streamed("chat", *spread(FORCED), forced=("f", "g"))
    for found in (absorbed("chat", *spread(FORCED), forced=("f", "g")), response):
        assert [(c.name, c.arguments) for c in found.tool_calls] == [("f", {"a": 1})]
        assert (found.content, found.finish_reason) == ("", "tool_calls")
    assert [chunk.content for chunk in chunks] == [""] * 4
    assert [len(chunk.tool_calls) for chunk in chunks] == [0, 0, 0, 1]


def test_a_forced_call_in_one_line_is_a_call() -> None:
    response = absorbed("chat", chat(FORCED, done=True), forced=("f",))
    assert [c.name for c in response.tool_calls] == ["f"]


NATIVE = [chat(tool_calls=[call("f", {"a": 1}, id="call_1")]), chat("", done=True)]


def test_a_forced_call_that_comes_as_a_call_is_one() -> None:
    in_last_line = [chat("", done=True, tool_calls=[call("f", {"a": 1}, id="call_1")])]
    for lines in (NATIVE, in_last_line):
        for response in (absorbed("chat", *lines, forced=("f",)), streamed("chat", *lines, forced=("f",))[1]):
            assert response.tool_calls == (ToolCall("f", {"a": 1}, "call_1"),)
            assert (response.content, response.finish_reason) == ("", "tool_calls")


def test_a_forced_call_whose_lines_come_in_one_read_is_one_too() -> None:
    # Once wrong: a stream makes the chunks of all lines of a read before it delivers the first, and the last line looks
    # for the call in what was delivered only: "the forced tool call is incomplete (0 characters)"
    answer = Answer("chat", ["f"])
    chunks = [answer.chunk(line) for line in NATIVE]
    for chunk in chunks:
        answer.deliver(chunk)
    assert answer.response().tool_calls == (ToolCall("f", {"a": 1}, "call_1"),)


def test_thinking_before_a_forced_call_is_not_held_back() -> None:
    chunks, response = streamed("chat", chat(thinking="hm"), *spread(FORCED), forced=("f",))
    assert chunks[0].thinking == "hm"
    assert (response.thinking, response.content) == ("hm", "")


@pytest.mark.parametrize("text", ["", FORCED[:-1], FORCED[:10], "f(1)", "[]", "5", "null", '{"name": "f"}',
                                  '{"arguments": {}}', '{"name": "", "arguments": {}}'])  # fmt: skip
@pytest.mark.parametrize(("reason", "advice"), [("length", "raise max_tokens"), ("stop", "did not hold to `format`")])
def test_an_invalid_forced_call_is_an_error_with_the_text(text: str, reason: str, advice: str) -> None:
    answer = Answer("chat", ["f"])
    with pytest.raises(
        OutputValidationError, match=rf"call is incomplete \({len(text)} characters\); .*{advice}"
    ) as caught:
        answer.absorb([chat(text), {**chat("", done=True), "done_reason": reason}])
    assert caught.value.text == text
    assert text == "" or text not in str(caught.value)


def test_a_cut_forced_call_is_the_partial_text() -> None:
    answer = Answer("chat", ["f"])
    answer.absorb([chat(FORCED[:10])])
    assert answer.held_text == FORCED[:10]
    assert answer.text == ""
    assert not answer.is_empty()
    assert answer.response().content == FORCED[:10]


@pytest.mark.parametrize(
    "lines",
    [
        spread('{"name": "other", "arguments": {}}'),
        [chat(tool_calls=[call("other")]), chat("", done=True)],
        [chat("", done=True, tool_calls=[call("f"), call("other")])],
    ],
)
def test_another_tool_than_the_forced_ones_is_an_error(lines: list[Line]) -> None:
    with pytest.raises(OutputValidationError, match="asked for f or g, the model called another tool"):
        absorbed("chat", *lines, forced=("g", "f"))
    with pytest.raises(OutputValidationError, match="asked for f or g"):
        streamed("chat", *lines, forced=("g", "f"))


def test_a_forced_call_may_have_its_arguments_as_text() -> None:
    (found,) = absorbed("chat", *spread('{"name": "f", "arguments": "{\\"a\\": 1}"}'), forced=("f",)).tool_calls
    assert found.arguments == {"a": 1}
    (found,) = absorbed("chat", *spread('{"name": "f", "arguments": [1]}'), forced=("f",)).tool_calls
    assert (found.arguments, found.invalid_arguments) == ({}, "[1]")


@pytest.mark.parametrize("name", ["5", '{"a": 1}', '["f"]'])
def test_a_forced_call_whose_name_is_not_text_is_our_error(name: str) -> None:
    # Once wrong for an object and a list: TypeError, unhashable type
    with pytest.raises(LLMError):
        absorbed("chat", chat(f'{{"name": {name}, "arguments": {{}}}}', done=True), forced=("f",))
