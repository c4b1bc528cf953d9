"""A request's options, translated for the engine."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from namel3ss_ollama.embedded.options import LoadOptions, load_options, sampling, seconds
from namel3ss_ollama.embedded.refusal import Refused

WINDOW = 2048


def test_without_options_ollamas_defaults_apply() -> None:
    assert load_options({}, 0) == LoadOptions(num_ctx=4096, num_batch=512, num_thread=None, num_gpu=None)
    assert sampling({}, WINDOW) == {
        "temperature": 0.8,
        "top_k": 40,
        "top_p": 0.9,
        "min_p": 0.0,
        "repeat_last_n": 64,
        "repeat_penalty": 1.1,
        "n_predict": -1,
    }


@pytest.mark.parametrize(
    ("options", "trained", "loading"),
    [
        ({"num_ctx": 1000}, 2000, LoadOptions(1000)),
        ({"num_ctx": 2000}, 2000, LoadOptions(2000)),
        ({"num_ctx": 1}, 2000, LoadOptions(1, num_batch=1)),
        ({"num_ctx": 4096}, 0, LoadOptions(4096)),
        ({"num_batch": 2**31 - 1}, 2000, LoadOptions(2000, num_batch=2000)),
        ({}, 2000, LoadOptions(2000)),
        ({}, 100_000, LoadOptions(4096)),
        ({"num_ctx": 256.0}, 2000, LoadOptions(256, num_batch=256)),
        ({"num_batch": 64}, 2000, LoadOptions(2000, num_batch=64)),
        ({"num_thread": 3, "num_gpu": 0}, 2000, LoadOptions(2000, num_thread=3, num_gpu=0)),
        ({"num_thread": 0, "num_gpu": -1}, 2000, LoadOptions(2000)),
        ({"num_ctx": None, "temperature": "nothing to do with it"}, 2000, LoadOptions(2000)),
    ],
)
def test_how_a_model_is_loaded(options: dict[str, Any], trained: int, loading: LoadOptions) -> None:
    assert load_options(options, trained) == loading


@pytest.mark.parametrize("window", [2001, 4096, 10**9])
def test_a_window_larger_than_the_models_is_reduced(window: int) -> None:
    assert load_options({"num_ctx": window}, 2000).num_ctx == 2000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_ctx": 0}, '"num_ctx" is out of range: it must be from 1 to 2147483647'),
        ({"num_ctx": -1}, "1 to 2147483647"),
        ({"num_batch": 0}, '"num_batch" is out of range: it must be from 1 to 2147483647'),
        ({"num_thread": 65}, '"num_thread" is out of range: it must be from 0 to 64'),
        ({"num_thread": -1}, "0 to 64"),
        ({"num_gpu": -2}, '"num_gpu" is out of range: it must be from -1 to 2147483647'),
        ({"num_ctx": "big"}, "must be of type integer"),
        ({"num_ctx": True}, "must be of type integer"),
        ({"num_ctx": 1.5}, "must be of type integer"),
        ({"num_ctx": 2**31}, "out of range"),
        ({"num_gpu": []}, "must be of type integer"),
    ],
)
def test_invalid_load_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message) as refused:
        load_options(options, 2000)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"num_predict": 7, "num_keep": 3}, {"n_predict": 7, "n_keep": 3}),
        ({"num_predict": 0}, {"n_predict": -1}),
        ({"num_predict": -2}, {"n_predict": -1}),
        ({"seed": 42}, {"seed": 42}),
        ({"seed": 2**40 + 5}, {"seed": 5}),
        ({"seed": -7}, {"seed": -1}),
        ({"stop": "end"}, {"stop": ["end"]}),
        ({"stop": ["a", "b"]}, {"stop": ["a", "b"]}),
        ({"repeat_last_n": -1}, {"repeat_last_n": WINDOW}),
        ({"repeat_last_n": 2**31 - 1}, {"repeat_last_n": WINDOW}),
        ({"repeat_last_n": 0}, {"repeat_last_n": 0}),
        ({"mirostat": 2, "mirostat_tau": 5, "mirostat_eta": 0.1}, {"mirostat": 2, "mirostat_tau": 5.0}),
        ({"temperature": None, "num_ctx": 100}, {"temperature": 0.8}),
    ],
)
def test_sampling_options(options: dict[str, Any], fields: dict[str, Any]) -> None:
    made = sampling(options, WINDOW)
    assert {name: made[name] for name in fields} == fields
    assert "num_ctx" not in made


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": "hot"}, '"temperature" must be of type float32'),
        ({"temperature": True}, "must be of type float32"),
        ({"top_p": float("nan")}, "must be of type float32"),
        ({"top_p": 1e300}, "must be of type float32"),
        ({"top_k": 0.5}, '"top_k" must be of type integer'),
        ({"seed": float("inf")}, "must be of type integer"),
        ({"seed": float("nan")}, "must be of type integer"),
        ({"seed": "one"}, "must be of type integer"),
        ({"top_k": 2**40}, '"top_k" is out of range'),
        ({"num_predict": 2**31}, '"num_predict" is out of range'),
        ({"mirostat": 3}, '"mirostat" is out of range: it must be from 0 to 2'),
        ({"temperature": -0.1}, '"temperature" is out of range: it must be from 0 to 1000'),
        ({"top_p": 1.01}, '"top_p" is out of range: it must be from 0 to 1'),
        ({"repeat_penalty": 0}, '"repeat_penalty" is out of range: it must be from 0.01 to 100'),
        ({"presence_penalty": -101}, "-100 to 100"),
        ({"repeat_last_n": -2}, '"repeat_last_n" is out of range: it must be from -1 to 2147483647'),
        ({"stop": 7}, '"stop" must be of type array'),
        ({"stop": ["a", 7]}, '"stop" must be of type array'),
        ({"low_vram": True}, '"low_vram" is not supported by the embedded engine'),
    ],
)
def test_invalid_sampling_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message) as refused:
        sampling(options, WINDOW)
    assert refused.value.status == 400


anything = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.text(max_size=2))
)
NAMES = ["num_ctx", "num_batch", "num_gpu", "seed", "top_k", "temperature", "repeat_last_n", "mirostat", "stop", "x"]


@settings(deadline=None, derandomize=True, database=None, max_examples=200)
@given(st.dictionaries(st.sampled_from(NAMES), anything))
def test_any_values_are_valid_or_rejected(options: dict[str, Any]) -> None:
    try:
        loading, fields = load_options(options, 2000), sampling(options, WINDOW)
    except Refused:
        return
    assert 1 <= loading.num_batch <= loading.num_ctx <= 2000
    assert 0 <= fields["repeat_last_n"] <= WINDOW
    assert all(abs(value) < 2**32 for value in fields.values() if isinstance(value, int))


@pytest.mark.parametrize(
    ("given", "result"),
    [
        (None, 300.0),
        (0, 0.0),
        (2.5, 2.5),
        (-1, None),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        (".5s", 0.5),
        ("2.s", 2.0),
        ("100ms", 0.1),
        ("+1s", 1.0),
        ("0", 0.0),
        ("0s", 0.0),
        ("-1s", None),
        ("-1h30m", None),
        (1e300, None),
        ("9999999h", None),
        (float("inf"), None),
    ],
)
def test_how_long_a_model_is_kept(given: object, result: float | None) -> None:
    kept = seconds(given, 300.0)
    assert kept == (result if result is None else pytest.approx(result))


@pytest.mark.parametrize("given", ["", "5", "m", "5x", "1.2.3s", "5m ", "1h-5m", "--5m", "soon", True, [], {}, "٣s"])
def test_an_invalid_duration(given: object) -> None:
    with pytest.raises(Refused) as refused:
        seconds(given, 300.0)
    assert refused.value.status == 400
