"""The settings recommended for measurements, and how they are formatted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from namel3ss_ollama import AtOnce, OllamaProvider, StreamConfig, Tuning, WindowCost
from namel3ss_ollama.settings import check_positive
from namel3ss_ollama.tuning import Measured, Recommendation, advise, is_saturated, slots_of


def row(at_once: int, rate: float, wait: float | None = 0.0, *, service: float = 1.0, failure: str = "") -> AtOnce:
    return AtOnce(
        at_once, rate, 0.2, 0.4 + (wait or 0.0), wait, service, 0.05, 500.0, tokens_per_answer=10.0, failure=failure
    )


FOUR_SLOTS = (row(1, 10), row(2, 20), row(4, 39), row(8, 40, 1.0))


def of(name: str, measured: Measured) -> Recommendation:
    return next(one for one in advise(measured) if one.name == name)


def tuning(measured: Measured) -> Tuning:
    return Tuning("m", "http://gpu1:11434", 12.0, measured.at_once, measured.windows, advise(measured))


def test_the_smallest_number_that_is_fast_enough() -> None:
    found = of("max_concurrent", Measured(FOUR_SLOTS))
    assert found.value == 4
    assert found.reason == (
        "39.0 tokens/s in all, 3.9 times as many as 1 at a time; the server answers 4 at once, and more requests wait "
        "in its queue"
    )


@pytest.mark.parametrize(
    ("rows", "value", "words"),
    [
        ((row(1, 10), row(2, 10, 1.0)), 1, "raise OLLAMA_NUM_PARALLEL there and measure again"),
        ((row(1, 10), row(2, 19), row(4, 19.5)), 2, "more at once are hardly faster"),
        ((row(1, 10), row(2, 20)), 2, "the most that was measured, more may be faster"),
        ((row(1, 10), row(2, 20), row(4, 0, failure="out of memory")), 2, "4 at once failed"),
        ((row(1, 10), row(2, 8), row(4, 5)), 1, "10.0 tokens/s in all; more at once"),
    ],
)
def test_the_reason_names_the_limit(rows: tuple[AtOnce, ...], value: int, words: str) -> None:
    found = of("max_concurrent", Measured(rows))
    assert found.value == value
    assert words in found.reason


def test_the_slots_follow_from_the_waits() -> None:
    assert slots_of(FOUR_SLOTS) == 4
    assert slots_of(FOUR_SLOTS[:3]) is None  # none waited
    assert slots_of([row(8, 40, None)]) is None  # waits are unknown


def test_one_sign_does_not_end_the_search() -> None:
    assert not is_saturated([row(1, 10)])
    assert not is_saturated([row(1, 10), row(2, 10)])  # may be chance
    assert is_saturated([row(1, 10), row(2, 10, 1.0)])
    assert is_saturated([row(1, 10), row(2, 10), row(4, 10)])
    assert not is_saturated([row(1, 10), row(2, 10), row(4, 20)])
    assert is_saturated([row(1, 10), row(2, 0, failure="busy")])


def window(num_ctx: int | None, rate: float = 40, memory: int = 2**30, share: float = 1.0, **more: str) -> WindowCost:
    return WindowCost(num_ctx, 2.0, rate, memory, int(memory * share), **more)


@pytest.mark.parametrize(
    ("windows", "value", "words"),
    [
        ((window(4096), window(8192), window(16384)), 16384, "the largest that was measured, and it costs no speed"),
        ((window(4096), window(8192, 30)), 4096, "8192 is slower, with 30.0 tokens/s"),
        ((window(4096), window(8192, 38, share=0.6)), 4096, "8192 leaves only 60% of the model on the GPU"),
        ((window(4096, share=0.7), window(2048, 60)), 2048, "4096 leaves only 70% of the model on the GPU"),
        ((window(4096, share=0), window(8192, 40, 2**32, 0)), 4096, "8192 takes 4.3 GB of memory"),
        ((window(4096, memory=10**8, share=0), window(8192, 40, 3 * 10**8, 0)), 8192, "300 MB, on the CPU"),
        ((window(4096), window(8192, failure="no memory")), 4096, "with 8192 the server failed"),
        ((window(4096),), 4096, "no other was measured"),
        ((window(None), window(4096, 30)), None, "4096 is slower, with 30.0 tokens/s: the one in force stays"),
        ((window(None),), None, "the server does not tell its window"),
    ],
)
def test_the_largest_window_without_a_drawback(windows: tuple[WindowCost, ...], value: int | None, words: str) -> None:
    found = of("num_ctx", Measured(FOUR_SLOTS, windows))
    assert found.value == value
    assert words in found.reason


def test_never_a_smaller_window_than_the_provider_asks_for() -> None:
    windows = (window(8192, share=0.5), window(4096))
    assert of("num_ctx", Measured(FOUR_SLOTS, windows)).value == 4096
    assert of("num_ctx", Measured(FOUR_SLOTS, windows, asked=8192)).value == 8192


def test_the_deadlines_are_multiples_of_what_was_measured() -> None:
    measured = Measured(FOUR_SLOTS, (window(10_000),), load=6.0)
    first = of("first_chunk_timeout", measured)  # 3 * (6 + 0.4 + 10_000 / 500)
    assert first.value == 90
    assert "6.0 s to load the model, 0.4 s to the first token with 4 at once, and 20.0 s to read" in first.reason
    assert of("chunk_timeout", measured).value == 15  # 10 * 512 / 500
    assert of("first_chunk_timeout", Measured(FOUR_SLOTS)).value == 300
    assert of("chunk_timeout", Measured((AtOnce(1, 10.0, longest_gap=0.2),))).value == 10


@pytest.mark.parametrize(
    ("load", "kept"), [(None, None), (0.5, "5m"), (6.0, "15m"), (30.0, "1h"), (100.0, "4h"), (5000.0, "24h")]
)
def test_a_slow_load_means_a_longer_keep_alive(load: float | None, kept: str | None) -> None:
    assert of("keep_alive", Measured(FOUR_SLOTS, load=load)).value == kept


def test_as_python_and_as_environment() -> None:
    found = tuning(Measured(FOUR_SLOTS, (window(4096), window(8192)), load=1.0))
    assert found.python == (
        'OllamaProvider(\n    "m",\n    "http://gpu1:11434",\n    max_concurrent=4,\n    num_ctx=8192,\n'
        '    keep_alive="5m",\n    stream_config=StreamConfig(first_chunk_timeout=60, chunk_timeout=15),\n)'
    )
    made = eval(found.python, {"OllamaProvider": OllamaProvider, "StreamConfig": StreamConfig})
    assert repr(made) == repr(OllamaProvider("m", "http://gpu1:11434", **found.keywords))
    assert found.environment == {
        "OLLAMA_NUM_PARALLEL": "4",
        "OLLAMA_CONTEXT_LENGTH": "8192",
        "OLLAMA_KEEP_ALIVE": "5m",
    }
    assert found.slots == found.to_dict()["slots"] == 4
    assert found["keep_alive"].value == "5m"
    with pytest.raises(KeyError):
        found["num_gpu"]


def test_unknown_settings_are_omitted() -> None:
    found = tuning(Measured(FOUR_SLOTS))
    assert found.environment == {"OLLAMA_NUM_PARALLEL": "4"}
    assert set(found.keywords) == {"max_concurrent", "stream_config"}
    assert "num_ctx" not in found.python


def test_the_environment_has_no_more_slots_than_the_server_showed() -> None:
    found = tuning(Measured((row(1, 10), row(2, 20), row(4, 30, 0.4))))
    assert (found["max_concurrent"].value, found.slots) == (4, 3)
    assert found.environment["OLLAMA_NUM_PARALLEL"] == "3"


def test_nothing_measured() -> None:
    with pytest.raises(ValueError, match="at_once"):
        advise(Measured(()))


seconds = st.none() | st.floats(0, 1e4)
rows = st.builds(
    AtOnce,
    at_once=st.integers(1, 1000),
    tokens_per_second=st.floats(0, 1e6),
    first_token_p50=seconds,
    first_token_p95=seconds,
    queue_wait=seconds,
    service=seconds,
    longest_gap=seconds,
    read_per_second=st.none() | st.floats(1e-3, 1e6),
    tokens_per_answer=st.none() | st.floats(1, 1e4),
    failure=st.sampled_from(["", "", "busy"]),
)
windows = st.builds(
    WindowCost,
    num_ctx=st.none() | st.integers(1, 10**6),
    load=seconds,
    tokens_per_second=st.none() | st.floats(0, 1e6),
    memory=st.none() | st.integers(0, 10**12),
    gpu_memory=st.none() | st.integers(0, 10**12),
    failure=st.sampled_from(["", "", "no memory"]),
)


@pytest.mark.slow
@given(
    st.lists(rows, min_size=1, max_size=8, unique_by=lambda one: one.at_once),
    st.lists(windows, max_size=5),
    seconds,
    st.none() | st.integers(1, 10**6),
)
def test_whatever_was_measured_the_advice_is_valid(
    at_once: list[AtOnce], costs: list[WindowCost], load: float | None, asked: int | None
) -> None:
    good = [one for one in at_once if not one.failure]
    measured = Measured(tuple(at_once), tuple(costs), load, asked)
    if not good:
        with pytest.raises(ValueError, match="at_once"):
            advise(measured)
        return
    found = tuning(measured)
    assert [one.name for one in found.recommendations] == [
        "max_concurrent",
        "num_ctx",
        "first_chunk_timeout",
        "chunk_timeout",
        "keep_alive",
    ]
    assert all(one.reason for one in found.recommendations)
    chosen = next(one for one in good if one.at_once == found["max_concurrent"].value)
    assert chosen.tokens_per_second >= 0.9 * max(one.tokens_per_second for one in good)
    OllamaProvider("m", "http://gpu1:11434", **found.keywords)
    check_positive("slots", found.slots, integer=True)
    assert set(found.environment) <= {"OLLAMA_NUM_PARALLEL", "OLLAMA_CONTEXT_LENGTH", "OLLAMA_KEEP_ALIVE"}
