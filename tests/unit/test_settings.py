"""Settings: their defaults, and errors that name the invalid one."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from namel3ss_ollama import settings
from namel3ss_ollama.settings import (
    LOAD_OPTIONS,
    REQUEST_FIELDS,
    RUNTIME_OPTIONS,
    RetryPolicy,
    StreamConfig,
    check_positive,
    check_think,
    merge_options,
    read_keep_alive,
    reject_unknown,
)

NAN, INF = math.nan, math.inf
STREAM_TIMES = ["stream_timeout", "chunk_timeout", "first_chunk_timeout", "connect_timeout", "tool_call_timeout"]
RETRY_TIMES = ["wait_initial", "wait_max", "retry_after_max"]


def test_the_defaults() -> None:
    assert StreamConfig() == StreamConfig(None, 60.0, 300.0, 10.0, None, 16 * 1024 * 1024, 600.0)
    assert RetryPolicy() == RetryPolicy(3, 1.5, 10.0, 60.0, None, 0.2, 20, 1)
    assert RetryPolicy.off() == RetryPolicy(attempts=1)


@pytest.mark.parametrize("value", [0, -1, -0.5, NAN, INF, -INF])
@pytest.mark.parametrize("name", STREAM_TIMES)
def test_a_deadline_is_above_zero(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{name}: must be above zero, not {value!r}"):
        StreamConfig(**{name: value})


@pytest.mark.parametrize("name", [*STREAM_TIMES, "max_chunks"])
def test_a_deadline_and_max_chunks_can_be_switched_off(name: str) -> None:
    assert getattr(StreamConfig(**{name: None}), name) is None


@pytest.mark.parametrize("value", ["5", True, 1j, object(), [1]])
@pytest.mark.parametrize("name", STREAM_TIMES)
def test_a_deadline_is_a_number(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"^{name}: expected a number, not "):
        StreamConfig(**{name: value})


@pytest.mark.parametrize("name", ["max_chunks", "max_line_bytes"])
@pytest.mark.parametrize("value", [1.0, "1", True])
def test_a_count_is_an_integer(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"^{name}: expected an integer, not "):
        StreamConfig(**{name: value})
    with pytest.raises(ValueError, match=f"^{name}: must be above zero, not 0"):
        StreamConfig(**{name: 0})


@pytest.mark.parametrize("value", [1.0, "1", True])
@pytest.mark.parametrize("name", ["attempts", "budget_reserve", "call_retries"])
def test_a_count_of_retries_is_an_integer(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"^{name}: expected an integer, not "):
        RetryPolicy(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"), [("attempts", 0), ("attempts", -1), ("deadline", 0), ("deadline", NAN), ("deadline", -1)]
)
def test_attempts_and_deadline_are_above_zero(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name}: must be above zero"):
        RetryPolicy(**{name: value})


@pytest.mark.parametrize("name", [*RETRY_TIMES, "budget", "budget_reserve", "call_retries"])
def test_waits_and_budget_may_be_zero_but_not_less(name: str) -> None:
    assert getattr(RetryPolicy(**{name: 0}), name) == 0
    with pytest.raises(ValueError, match=f"^{name}: must be zero or more, not -1"):
        RetryPolicy(**{name: -1})


@pytest.mark.parametrize("name", ["deadline", "budget"])
def test_deadline_and_budget_of_retries_can_be_switched_off(name: str) -> None:
    assert getattr(RetryPolicy(**{name: None}), name) is None


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (StreamConfig, "max_line_bytes"),
        *((RetryPolicy, n) for n in [*RETRY_TIMES, "attempts", "budget_reserve", "call_retries"]),
    ],
)
def test_settings_that_cannot_be_switched_off_reject_none(cls: type, name: str) -> None:
    # Once wrong: None passes for every limit, and the first request that needs it raises a TypeError about '<'
    with pytest.raises(TypeError, match=f"^{name}: "):
        cls(**{name: None})


def test_an_integer_too_large_for_a_float_is_a_number_like_any_other() -> None:
    # Once wrong: math.isfinite raises OverflowError, which names no argument
    check_positive("x", 10**400)
    assert merge_options({"seed": 10**400}) == {"seed": 10**400}


@given(st.floats() | st.integers(-(2**53), 2**53), st.booleans())
def test_check_positive_accepts_only_finite_numbers(value: float, zero: bool) -> None:
    fine = math.isfinite(value) and (value > 0 or (zero and value == 0))
    if fine:
        check_positive("x", value, zero=zero)
    else:
        with pytest.raises(ValueError, match=r"^x: must be"):
            check_positive("x", value, zero=zero)


# Unknown keywords


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("temprature", "temperature"),
        ("max_token", "max_tokens"),
        ("num_context", "num_ctx"),
        ("topk", "top_k"),
        ("repeat_penality", "repeat_penalty"),
    ],
)
def test_an_unknown_keyword_names_the_nearest(wrong: str, nearest: str) -> None:
    with pytest.raises(
        TypeError, match=rf"^here got an unexpected keyword argument '{wrong}'; did you mean '{nearest}'"
    ):
        reject_unknown({"seed": 1, wrong: 2}, RUNTIME_OPTIONS, "here")


def test_an_unknown_keyword_without_a_match_points_to_options() -> None:
    with pytest.raises(TypeError, match=r"'zzzzzz'; options=\{\.\.\.\} passes on"):
        reject_unknown(["zzzzzz"], RUNTIME_OPTIONS, "here")


def test_known_keywords_pass() -> None:
    reject_unknown(RUNTIME_OPTIONS, RUNTIME_OPTIONS, "here")
    reject_unknown([], [], "here")


# Options

REALS = sorted(
    RUNTIME_OPTIONS - settings._INTEGERS - settings._BOOLEANS - {"stop", "max_tokens"}  # what is left
)
INTEGERS = sorted(settings._INTEGERS)
BOOLEANS = sorted(settings._BOOLEANS)


def test_every_option_is_of_one_kind() -> None:
    assert len(REALS) + len(INTEGERS) + len(BOOLEANS) + 2 == len(RUNTIME_OPTIONS)
    assert set(settings._MINIMUM) <= set(REALS) | set(INTEGERS)
    assert LOAD_OPTIONS <= RUNTIME_OPTIONS
    assert {"format", "think", "logprobs", "top_logprobs", "keep_alive", "shift", "truncate"} == REQUEST_FIELDS


def fine(name: str) -> Any:
    return 1 if name in INTEGERS or name == "max_tokens" else True if name in BOOLEANS else 0.5


@pytest.mark.parametrize("name", [*REALS, *INTEGERS, *BOOLEANS])
def test_each_option_is_sent_as_it_was_given(name: str) -> None:
    assert merge_options({name: fine(name)}) == {name: fine(name)}
    assert merge_options({name: None}) == {}


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("name", REALS)
def test_a_number_is_finite(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{name}: must be finite"):
        merge_options({name: value})


@pytest.mark.parametrize("value", ["0.5", True, [0.5], 1j])
@pytest.mark.parametrize("name", REALS)
def test_a_number_is_a_number(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"^{name}: expected a number, not "):
        merge_options({name: value})


@pytest.mark.parametrize("value", ["1", True, 1.0, NAN])
@pytest.mark.parametrize("name", [*INTEGERS, "max_tokens"])
def test_an_integer_is_an_integer(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"^{name}: expected an integer, not "):
        merge_options({name: value})


@pytest.mark.parametrize("value", [1, 0, "true", "yes"])
@pytest.mark.parametrize("name", BOOLEANS)
def test_a_switch_is_a_boolean(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"^{name}: expected True or False, not "):
        merge_options({name: value})


@pytest.mark.parametrize(
    ("name", "low", "too_low"),
    [
        ("temperature", 0, -0.1),
        ("top_k", 0, -1),
        ("top_p", 0, -0.1),
        ("min_p", 0, -0.1),
        ("typical_p", 0, -0.1),
        ("tfs_z", 0, -0.1),
        ("repeat_last_n", -1, -2),
        ("repeat_penalty", 0, -0.1),
        ("mirostat", 0, -1),
        ("mirostat_eta", 0, -0.1),
        ("mirostat_tau", 0, -0.1),
        ("num_keep", -1, -2),
        ("num_ctx", 1, 0),
        ("num_batch", 1, 0),
        ("num_gpu", -1, -2),
        ("main_gpu", 0, -1),
        ("draft_num_predict", 0, -1),
        ("num_thread", 0, -1),
    ],
)
def test_the_lowest_value_of_an_option(name: str, low: float, too_low: float) -> None:
    assert merge_options({name: low}) == {name: low}
    with pytest.raises(ValueError, match=f"^{name}: must be {low} or more, not {too_low}"):
        merge_options({name: too_low})


@pytest.mark.parametrize(("name", "high", "too_high"), [("top_p", 1, 1.1), ("min_p", 1, 1.1), ("mirostat", 2, 3)])
def test_the_highest_value_of_an_option(name: str, high: float, too_high: float) -> None:
    assert merge_options({name: high}) == {name: high}
    with pytest.raises(ValueError, match=f"^{name}: must be {high} or less, not {too_high}"):
        merge_options({name: too_high})


@pytest.mark.parametrize("name", ["presence_penalty", "frequency_penalty", "seed"])
def test_some_options_may_be_negative(name: str) -> None:
    assert merge_options({name: -2}) == {name: -2}


@pytest.mark.parametrize("name", ["max_tokens", "num_predict"])
@pytest.mark.parametrize("value", [1, 4096, -1, -2])
def test_max_tokens_is_sent_as_num_predict(name: str, value: int) -> None:
    assert merge_options({name: value}) == {"num_predict": value}


@pytest.mark.parametrize("name", ["max_tokens", "num_predict"])
@pytest.mark.parametrize("value", [0, -3])
def test_max_tokens_is_above_zero_or_one_of_two_special_values(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"^{name}: must be above zero"):
        merge_options({name: value})


@pytest.mark.parametrize(
    ("value", "sent"), [("END", ["END"]), (["a", "b"], ["a", "b"]), (("a",), ["a"]), ([], []), ("ab", ["ab"])]
)
def test_stop_is_sent_as_a_list(value: Any, sent: list[str]) -> None:
    assert merge_options({"stop": value}) == {"stop": sent}


@pytest.mark.parametrize("value", ["", ["a", ""], ["a", 5], [None], b"END"])
def test_stop_holds_text(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^stop: expected non-empty strings"):
        merge_options({"stop": value})


def test_a_stop_that_is_not_a_list_is_named() -> None:
    # Once wrong: "'int' object is not iterable"
    with pytest.raises(TypeError, match=r"^stop: "):
        merge_options({"stop": 5})


# Layers

A_LAYER = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.none() | st.floats(0, 2),
        "top_k": st.none() | st.integers(0, 100),
        "seed": st.none() | st.integers(),
        "num_ctx": st.none() | st.integers(1, 10**6),
        "stop": st.none() | st.lists(st.text(min_size=1), max_size=2),
        "use_mmap": st.none() | st.booleans(),
        "format": st.just("json"),  # a field of the request, not an option
    },
)


@given(st.lists(A_LAYER, max_size=4))
def test_a_later_layer_overrides_and_none_is_not_sent(layers: list[dict[str, Any]]) -> None:
    before = [dict(layer) for layer in layers]
    merged = merge_options(*layers)
    for name in {name for layer in layers for name in layer} - {"format"}:
        given_values = [layer[name] for layer in layers if layer.get(name) is not None]
        assert merged.get(name) == (given_values[-1] if given_values else None)
    assert None not in merged.values()
    assert "format" not in merged
    assert layers == before


@given(
    st.sampled_from(["max_tokens", "num_predict"]),
    st.sampled_from(["max_tokens", "num_predict"]),
    st.integers(1),
    st.integers(1),
)
def test_two_names_of_one_option_merge_over_layers_and_clash_within_one(
    first: str, second: str, one: int, other: int
) -> None:
    assert merge_options({first: one}, {second: other}) == {"num_predict": other}
    with pytest.raises(TypeError, match="the same option: give one of them"):
        merge_options({"max_tokens": one, "num_predict": other})


def test_options_without_a_keyword_go_through_options() -> None:
    assert merge_options({"options": {"new_in_0_99": [1], "off": None}}) == {"new_in_0_99": [1]}


@pytest.mark.parametrize(
    ("first", "second", "sent"),
    [
        ({"options": {"seed": 1}}, {"seed": 2}, {"seed": 2}),
        ({"seed": 1}, {"options": {"seed": 2}}, {"seed": 2}),
        ({"options": {"a": 1, "b": 1}}, {"options": {"b": 2}}, {"a": 1, "b": 2}),
        ({"max_tokens": 1}, {"options": {"num_predict": 2}}, {"num_predict": 2}),
        ({"options": {"num_predict": 1}}, {"max_tokens": 2}, {"num_predict": 2}),
        ({"options": {"seed": 1}}, {"options": None}, {"seed": 1}),
        ({"options": {"seed": 1}}, {"options": {}}, {"seed": 1}),
    ],
)
def test_options_and_keywords_merge_over_layers(first: Any, second: Any, sent: Any) -> None:
    assert merge_options(first, second) == sent


@pytest.mark.parametrize(
    "layer",
    [
        {"seed": 1, "options": {"seed": 1}},
        {"max_tokens": 1, "options": {"num_predict": 2}},
    ],
)
def test_one_option_twice_in_one_layer_is_rejected(layer: Any) -> None:
    with pytest.raises(TypeError, match=r"^\w+: given as a keyword and in options; give it once"):
        merge_options(layer)


@pytest.mark.parametrize("value", [[("a", 1)], "a", 5])
def test_options_is_a_mapping(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^options: expected a mapping, not "):
        merge_options({"options": value})


def test_max_tokens_inside_options_is_num_predict_too() -> None:
    # Once wrong: it was sent as "max_tokens", which servers silently ignore
    assert merge_options({"options": {"max_tokens": 5}}) == {"num_predict": 5}


def test_options_with_a_keyword_are_checked_inside_options_too() -> None:
    # Once wrong: NaN was sent as null, and a wrong type caused status 500
    with pytest.raises(ValueError, match=r"^temperature: must be finite"):
        merge_options({"options": {"temperature": NAN}})


@pytest.mark.parametrize("value", [True, False, "low", "medium", "high", "max", "minimal", "LOW"])
def test_a_known_think_passes(value: Any) -> None:
    check_think(value)


@pytest.mark.parametrize("value", ["", " ", 1, 0, None, [], b"low"])
def test_an_invalid_think_is_rejected(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^think: expected True, False or a level of the model's, such as 'high'"):
        check_think(value)


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("-1", -1), ("3600", 3600), ("0", 0), ("+5", 5), ("1.5", 1.5), (" 300 ", 300), ("5m", "5m"), ("1h30m", "1h30m"),
        ("-1s", "-1s"), ("1.5h", "1.5h"), ("100ms", "100ms"), (" 5m ", "5m"), (-1, -1), (0, 0), (2.5, 2.5),
    ],
)  # fmt: skip
def test_keep_alive_is_a_duration_or_seconds(given: Any, sent: object) -> None:
    # Once wrong: "-1" and "3600", as environment variables have them, came back as "missing unit in duration"
    assert read_keep_alive(given) == sent
    assert type(read_keep_alive(given)) is type(sent)


@pytest.mark.parametrize(
    "given", ["", "abc", "5 minutes", "5m!", "m", "1d", "True", "nan", "inf", "- 1", "1.2.3", NAN, -INF]
)
def test_an_invalid_keep_alive_is_named(given: Any) -> None:
    with pytest.raises(ValueError, match=r"^keep_alive: "):
        read_keep_alive(given)


@pytest.mark.parametrize("given", [True, False, [], {}, b"5m"])
def test_a_keep_alive_of_another_type_is_rejected(given: Any) -> None:
    with pytest.raises(TypeError, match=r"^keep_alive: expected '5m' or seconds"):
        read_keep_alive(given)
