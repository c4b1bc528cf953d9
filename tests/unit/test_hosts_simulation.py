"""A short run of the simulation in `benchmarks.hosts`: our strategy stays within its limits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.balancers import BALANCERS
from benchmarks.hosts import OURS, SCENARIOS, outcome
from benchmarks.simulation import simulate

SEEDS = range(1, 3)


def short(name: str) -> dict[str, float]:
    scenario = replace(SCENARIOS[name], requests=800)
    return {way: outcome(scenario, way, SEEDS).mean for way in ("least connections", "loaded, least connections", OURS)}


def test_eight_hosts_and_four_models() -> None:
    means = short("A")
    assert means[OURS] <= means["least connections"] / 5, means
    assert means[OURS] <= means["loaded, least connections"], means


def test_two_hosts_and_two_models() -> None:
    means = short("F")
    assert means[OURS] <= 1.3 * means["loaded, least connections"], means


@pytest.mark.parametrize("name", ["A", "F"])
def test_models_are_rarely_loaded(name: str) -> None:
    assert outcome(replace(SCENARIOS[name], requests=800), OURS, SEEDS).loads <= 10


@pytest.mark.parametrize("way", BALANCERS)
def test_a_seed_reproduces_the_figures(way: str) -> None:
    scenario = replace(SCENARIOS["B"], requests=100)
    assert simulate(scenario, BALANCERS[way], 1) == simulate(scenario, BALANCERS[way], 1)
    assert simulate(scenario, BALANCERS[way], 1) != simulate(scenario, BALANCERS[way], 2)
