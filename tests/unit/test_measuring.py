"""Measurements of simulated models, in virtual time: what is recommended is held to a sweep over all numbers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from simulated_model import SimulatedModel
from virtual_time import run_in_virtual_time

from namel3ss_ollama.measuring import measure
from namel3ss_ollama.tuning import Measured, advise

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
    """What is measured, and the seconds that it took."""

    async def run() -> tuple[Measured, float]:
        measured = await measure(model_of(), budget=budget, most=most, windows=None)
        return measured, asyncio.get_running_loop().time()

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
    assert chosen <= slots + 1
