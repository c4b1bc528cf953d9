"""Measurements of simulated models, in virtual time: what is recommended is held to a sweep over all numbers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from simulated_model import SimulatedModel, throughput
from virtual_time import run_in_virtual_time

from namel3ss_ollama.measuring import measure
from namel3ss_ollama.tuning import Measured, advise

Rate = Callable[[int], float]


def by_slots(running: int) -> float:
    """A GPU that has room for all slots."""
    return 40.0


def by_cpu(running: int) -> float:
    """Two cores, which all answers share."""
    return min(20.0, 36.0 / running)


def worse_and_worse(running: int) -> float:
    """A machine that begins to swap at five answers."""
    return 30.0 if running < 5 else 30.0 / running


def sublinear(running: int) -> float:
    """A GPU whose batches become slower as they grow."""
    return 50.0 / running**0.4


def slow(running: int) -> float:
    return 1.5


def measured_in(
    model_of: Callable[[], SimulatedModel], budget: float = 170.0, most: int = 64
) -> tuple[Measured, float]:
    """What is measured, and the seconds that it took."""

    async def run() -> tuple[Measured, float]:
        measured = await measure(model_of(), budget=budget, most=most, windows=None)
        return measured, asyncio.get_running_loop().time()

    return run_in_virtual_time(run())


def recommended(measured: Measured, name: str = "max_concurrent") -> int:
    value = next(one.value for one in advise(measured) if one.name == name)
    assert isinstance(value, int)
    return value


@pytest.mark.parametrize("budget", [40.0, 170.0])
@pytest.mark.parametrize("jitter", [0.0, 0.3])
@pytest.mark.parametrize("rate", [by_slots, by_cpu, worse_and_worse, sublinear, slow], ids=lambda rate: rate.__name__)
@pytest.mark.parametrize("slots", [1, 2, 3, 4, 5, 7, 16])
def test_the_advice_is_within_a_tenth_of_the_best_of_a_sweep(
    slots: int, rate: Rate, jitter: float, budget: float
) -> None:
    if rate is slow and budget < 100:
        pytest.skip("1.5 tokens a second are too few for a verdict in 40 s")

    def model() -> SimulatedModel:
        return SimulatedModel(slots, rate, jitter=jitter)

    measured, seconds = measured_in(model, budget)
    assert seconds <= budget

    async def sweep() -> dict[int, float]:
        return {number: await throughput(model(), number) for number in range(1, 2 * slots + 2)}

    found = run_in_virtual_time(sweep())
    chosen = recommended(measured)
    at = found.get(chosen) or found[2 * slots + 1]  # beyond all slots a number changes nothing
    assert at >= 0.9 * max(found.values()), (chosen, found)
