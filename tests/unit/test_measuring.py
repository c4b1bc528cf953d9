"""Measurements of simulated models, in virtual time: recommendations are compared with a complete sweep."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from simulated_model import SimulatedModel
from virtual_time import run_in_virtual_time

from namel3ss_ollama import LLMTimeoutError, ServerError, TuneProgress
from namel3ss_ollama.measuring import measure
from namel3ss_ollama.tuning import Measured, advise
from namel3ss_ollama.windows import Window

Rate = Callable[[int], float]


def by_slots(running: int) -> float:
    """A GPU that has room for all slots."""
    return 10.0


def by_cpu(running: int) -> float:
    """Two cores, which all answers share."""
    return min(10.0, 18.0 / running)


def worse_and_worse(running: int) -> float:
    """A machine that begins to swap at five answers."""
    return 10.0 if running < 5 else 10.0 / running


def sublinear(running: int) -> float:
    """A GPU whose batches become slower as they grow."""
    return 12.0 / running**0.4


def slow(running: int) -> float:
    return 1.5


def measured_in(
    model_of: Callable[[], SimulatedModel], budget: float = 170.0, most: int = 64
) -> tuple[Measured, float]:
    """The measurements, and the seconds that they took."""

    async def run() -> tuple[Measured, float]:
        start = asyncio.get_running_loop().time()
        measured = await measure(model_of(), budget=budget, most=most, windows=None)
        return measured, asyncio.get_running_loop().time() - start

    return run_in_virtual_time(run())


def recommended(measured: Measured, name: str = "max_concurrent") -> int:
    value = next(one.value for one in advise(measured) if one.name == name)
    assert isinstance(value, int)
    return value


@pytest.mark.parametrize("budget", [60.0, 170.0])
@pytest.mark.parametrize("rate", [by_slots, by_cpu, worse_and_worse, sublinear, slow], ids=lambda rate: rate.__name__)
@pytest.mark.parametrize("slots", [1, 3, 6, 16])
def test_the_advice_is_within_a_tenth_of_the_best_of_a_sweep(slots: int, rate: Rate, budget: float) -> None:
    models: list[SimulatedModel] = []

    def model() -> SimulatedModel:
        models.append(SimulatedModel(slots, rate, jitter=0.2))
        return models[0]

    measured, seconds = measured_in(model, budget)
    assert seconds <= budget
    if rate is slow and budget < 100:
        return  # 1.5 tokens a second are too few for a verdict on 16 slots
    prompt, tokens = len(models[0].prompts[-1].split()), models[0].lengths[-1]
    sweep = {number: models[0].throughput(number, prompt, tokens) for number in range(1, 65)}
    chosen = recommended(measured)
    assert sweep[chosen] >= 0.9 * max(sweep.values()), (chosen, measured.at_once)
    assert chosen < 2 * slots


@pytest.mark.parametrize("budget", [0.5, 3.0, 20.0])
@pytest.mark.parametrize("loading", [0.1, 8.0])
def test_it_ends_within_the_budget_however_slow_the_server_is(budget: float, loading: float) -> None:
    model = SimulatedModel(2, slow, loading=lambda num_ctx: loading)

    async def run() -> float:
        start = asyncio.get_running_loop().time()
        if budget == 20.0:
            assert (await measure(model, budget=budget, most=64, windows=None)).at_once
        else:
            with pytest.raises(LLMTimeoutError, match="raise budget"):
                await measure(model, budget=budget, most=64, windows=None)
        return asyncio.get_running_loop().time() - start

    assert run_in_virtual_time(run()) <= budget
    assert model.in_flight == 0


def test_a_server_that_writes_nothing_is_an_error() -> None:
    with pytest.raises(LLMTimeoutError, match=r"too few tokens came .* within budget=30 s"):
        measured_in(lambda: SimulatedModel(1, lambda running: 0.001), 30.0)


def test_answers_without_durations_are_enough() -> None:
    measured, _ = measured_in(lambda: SimulatedModel(3, by_slots, durations=False))
    assert all(row.queue_wait is None for row in measured.at_once)
    assert recommended(measured) in (3, 4)


def test_answers_that_end_early_are_asked_again() -> None:
    measured, _ = measured_in(lambda: SimulatedModel(4, by_slots, length=3))
    assert recommended(measured) == 4
    assert measured.at_once[0].tokens_per_answer == 3


def test_the_waits_are_those_in_the_servers_queue() -> None:
    measured, _ = measured_in(lambda: SimulatedModel(2, by_slots))
    waits = {row.at_once: row.queue_wait or 0.0 for row in measured.at_once}
    service = measured.at_once[0].service or 0.0
    assert waits[1] == waits[2] == pytest.approx(0, abs=1e-6)
    assert 0.6 * service < waits[4] < 1.1 * service  # of four, the last two wait for the one before them
    assert [row.at_once for row in measured.at_once] == [1, 2, 4]


def test_a_failure_with_many_at_once_ends_the_search() -> None:
    measured, _ = measured_in(lambda: SimulatedModel(64, by_slots, refuses=6))
    failed = measured.at_once[-1]
    assert (failed.at_once, failed.failure) == (8, "CUDA error: out of memory")
    assert recommended(measured) == 4


def test_a_failure_with_one_is_raised() -> None:
    with pytest.raises(ServerError, match="CUDA"):
        measured_in(lambda: SimulatedModel(1, by_slots, refuses=1))


def test_never_more_at_once_than_most() -> None:
    model = SimulatedModel(64, by_slots)
    measured, _ = measured_in(lambda: model, most=6)
    assert [row.at_once for row in measured.at_once] == [1, 2, 4, 6]
    assert model.max_in_flight == recommended(measured) == 6
    assert len(set(model.prompts)) == len(model.prompts)


def test_windows_are_compared_and_the_model_is_loaded_as_before() -> None:
    model = SimulatedModel(2, by_slots)
    measured, _ = measured_in(lambda: model)
    assert [row.num_ctx for row in measured.windows] == [4096, 8192, 16384, 2048]
    assert [row.load for row in measured.windows] == [None, 2.0, 2.0, 2.0]
    assert [row.memory for row in measured.windows] == [4096000, 8192000, 16384000, 2048000]
    assert model.loads == [None, 8192, 16384, 2048, None]
    assert measured.load == 2.0
    assert recommended(measured, "num_ctx") == 16384


def test_a_window_that_cannot_be_loaded_is_a_row() -> None:
    model = SimulatedModel(2, by_slots, loading=lambda num_ctx: None if (num_ctx or 0) > 8192 else 1.0)
    measured, _ = measured_in(lambda: model)
    assert "memory" in next(row.failure for row in measured.windows if row.num_ctx == 16384)
    assert recommended(measured, "num_ctx") == 8192
    assert model.loads[-1] is None


def test_without_windows_the_model_is_loaded_once() -> None:
    model = SimulatedModel(2, by_slots, is_loaded=True, loaded_with=4096)
    measured = run_in_virtual_time(measure(model, budget=60, most=8, windows=[]))
    assert model.loads == [None]
    assert measured.load is None  # it was loaded before
    assert [row.num_ctx for row in measured.windows] == [4096]


def test_no_window_is_larger_than_what_the_model_was_trained_for() -> None:
    model = SimulatedModel(2, by_slots, window=Window(None, None, 8192))
    measured, _ = measured_in(lambda: model)
    assert [row.num_ctx for row in measured.windows] == [None, 4096, 8192, 2048]


def test_the_progress_rises_to_the_end() -> None:
    seen: list[TuneProgress] = []
    run_in_virtual_time(measure(SimulatedModel(2, by_slots), budget=60, most=4, windows=[8192], progress=seen.append))
    assert [one.fraction for one in seen] == sorted(one.fraction for one in seen)
    assert str(seen[-1]) == "100%: done"
    assert {"loading the model", "2 at once", "loading with num_ctx=8192"} <= {one.what for one in seen}


def test_a_cancellation_leaves_no_requests() -> None:
    model = SimulatedModel(2, by_slots)

    async def run() -> None:
        task = asyncio.ensure_future(measure(model, budget=170, most=64, windows=None))
        while model.max_in_flight < 4:
            await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run_in_virtual_time(run())
    assert model.in_flight == 0


def test_a_server_that_reads_slowly_gets_short_prompts() -> None:
    model = SimulatedModel(1, by_slots, read=12.0)
    measured, _ = measured_in(lambda: model)
    assert len(model.prompts[0].split()) > 90
    assert {len(prompt.split()) for prompt in model.prompts[1:]} == {5}
    assert recommended(measured) == 1
    assert all(row.read_per_second is None for row in measured.at_once)  # too short to measure
