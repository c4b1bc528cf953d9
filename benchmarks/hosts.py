"""Compares load balancing strategies in a simulation: `python -m benchmarks.hosts [--quick]`.

Writes docs/hosts.md. The simulation runs in virtual time, so the figures are the same on every machine; only the cost
of a choice is measured in real time.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from benchmarks.balancers import BALANCERS
from benchmarks.simulation import Figures, Kind, Scenario, simulate
from namel3ss_ollama.choosing import Wanted, choose
from namel3ss_ollama.fleet import Fleet, Loaded, Standing

__all__ = ["OURS", "SCENARIOS", "Outcome", "outcome"]

ROOT = Path(__file__).parents[1]
OURS = "namel3ss-ollama"
_PLAIN, _INFORMED = "least connections", "loaded, least connections"
_QUICK, _MIDDLE, _SLOW = Kind(90, 2500), Kind(45, 1200), Kind(20, 300)
_EIGHT = [(3, _QUICK), (3, _MIDDLE), (2, _SLOW)]
SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("A", "8 hosts, 4 models, 1 client", _EIGHT, 4, 1, 0.9, 2500),
        Scenario("A light", "as A, a third of the requests", _EIGHT, 4, 1, 0.3, 2500),
        Scenario("A heavy", "as A, nearly all that the hosts can do", _EIGHT, 4, 1, 1.3, 2500),
        Scenario("B", "as A, 20 clients", _EIGHT, 4, 20, 0.9, 2500),
        Scenario("C", "8 hosts, 1 model, 1 client", _EIGHT, 1, 1, 0.9, 2500),
        Scenario("C2", "as C, 20 clients", _EIGHT, 1, 20, 0.9, 2500),
        Scenario("E", "8 equal hosts of 4 slots, 1 model, 1 client", [(8, Kind(45, 1200, 4))], 1, 1, 3.5, 2500),
        Scenario("F", "2 hosts, 2 models, 1 client", [(2, _QUICK)], 2, 1, 0.4, 1500),
        Scenario("D", "60 hosts, 8 models, 1 client", [(22, _QUICK), (22, _MIDDLE), (16, _SLOW)], 8, 1, 6.8, 4000),
        Scenario("G", "200 hosts, 8 models, 20 clients", [(75, _QUICK), (75, _MIDDLE), (50, _SLOW)], 8, 20, 23, 6000),
    )
}


@dataclass(frozen=True)
class Outcome:
    """Seconds to first token, mean and 99th percentile, and model loads per thousand requests."""

    mean: float
    p99: float
    loads: float


def outcome(scenario: Scenario, name: str, seeds: range) -> Outcome:
    """The outcome of a strategy, over all seeds."""
    runs: list[Figures] = [simulate(scenario, BALANCERS[name], seed) for seed in seeds]
    firsts = sorted(first for run in runs for first in run.firsts)
    loads = sum(run.loads for run in runs)
    return Outcome(mean(firsts), firsts[int(0.99 * len(firsts))], 1000 * loads / len(firsts))


Results = Mapping[str, Mapping[str, Outcome]]


def cost_of_a_choice(choices: int = 20_000) -> float:
    """Microseconds of CPU time to choose, reserve and release one of 200 hosts, nine tenths of which are busy."""
    chance = random.Random(1)
    models = [f"model-{number}:latest" for number in range(8)]
    fleet = Fleet([Standing(str(number)) for number in range(200)], rng=random.Random(2))
    for number, host in enumerate(fleet.hosts):
        fleet.learn_loaded(host, {models[number % 8]: Loaded("digest", 1)})
        fleet.measured(host, models[number % 8], 1.0, wait=1.0, load=5.0, service=3.0, prefill=1000.0)
    busy = chance.sample(fleet.hosts, 180)
    for host in busy:
        fleet.hold(host, next(iter(host.loaded)))
    plan = [
        (Wanted(chance.choice(models), 1000.0, chance.choice(fleet.hosts)), chance.randrange(180))
        for _ in range(choices)
    ]
    began = time.process_time()
    for wanted, at in plan:
        chosen = choose(wanted, fleet, 2.0)
        if chosen is not None:
            fleet.hold(chosen, wanted.model)
            fleet.release(busy[at])
            busy[at] = chosen
    return (time.process_time() - began) / choices * 1e6


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.3g}"


def _table(results: Results) -> str:
    rows = [
        "| | " + " | ".join(f"**{name}**" if name == OURS else name for name in BALANCERS) + " |",
        "| --- |" + " ---: |" * len(BALANCERS),
    ]
    for scenario, row in results.items():
        cells = [f"{_figure(out.mean)} / {_figure(out.p99)} ({out.loads:.0f})" for out in row.values()]
        rows.append(f"| {scenario} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _ratios(results: Results) -> str:
    rows = [f"| | to {_PLAIN} | to {_INFORMED} |", "| --- | ---: | ---: |"]
    for scenario, row in results.items():
        ours = row[OURS].mean
        rows.append(f"| {scenario} | {ours / row[_PLAIN].mean:.2f} | {ours / row[_INFORMED].mean:.2f} |")
    return "\n".join(rows)


def _scenarios() -> str:
    rows = ["| | | requests per second | requests per run |", "| --- | --- | ---: | ---: |"]
    rows += [f"| {name} | {one.about} | {one.rate} | {one.requests} |" for name, one in SCENARIOS.items()]
    return "\n".join(rows)


def page(results: Results, seeds: int, cost: float, plot: str) -> str:
    """docs/hosts.md."""
    return f"""# Which host gets a request

Generated by `python -m benchmarks.hosts`: a simulation in virtual time, the same on every machine. It ranks load
balancing strategies; it does not predict the times of real hosts.

## The simulation

A host accepts every request, answers in order in its slots, and holds one model at a time. Another model is loaded once
the host is idle, which takes 5 to 20 seconds, depending on the model; all later requests wait. While a model stays
loaded, the host caches its last 20 conversations and reads only the new part of these. Each host starts with a model.
Of eight hosts, three write 90 tokens per second and read 2,500, three 45 and 1,200, and two 20 and 300; D and G have
about the same mix; those of E write 45 and read 1,200, in four slots; those of F are of the first kind.

Conversations start at random, at the rates below, with prompts of at least 1,000 tokens, 2,500 on average; an answer
has at least 60, 260 on average; a conversation has six turns on average, with 15 seconds between an answer and the next
question. All models are equally popular. Clients do not know each other's requests. They see a host's loaded model
every 5 seconds, and after an answer that required a load; they do not see its queue.

{_scenarios()}

The other strategies forward a request at once: to a random host; to each in turn; to the one with the fewest of this
client's requests; to the better of two random ones, by peak latency (EWMA over five minutes, the best setting here)
times requests; to the conversation's own host, unless that has more than 1.25 times its share; to the one with the
fewest requests among those that have the model loaded. Ours holds a request until a host has a free slot for it, by the
rule of `namel3ss_ollama/choosing.py`; the simulation runs that code.

## Results

Seconds to first token: mean / 99th percentile, and in brackets the model loads per thousand requests;
{seeds} runs each.

{_table(results)}

![Mean seconds to the first token]({plot})

Our mean, relative to those of two others:

{_ratios(results)}

If a strategy cannot keep up, its means grow with the length of a run. That happens in A, B, D, F and G for all
strategies that do not know the loaded models, since nearly every request loads a model there, and wherever slow hosts
get the same share as fast ones. In A light, least connections keeps up.

## Tuning

- A model is loaded on one more host if its queue exceeds that of the model to be replaced by the cost of **three**
  loads. With two, B is a sixth faster and A heavy a third slower; with four, A heavy is a fifth faster, and A and B
  hardly differ. If the other model's queue is ignored, A heavy takes six times as long: models take turns on all hosts.
- The only copy of a model in use is not replaced for that: without this rule, F takes one and a half times as long.
- **Three** hosts are drawn at random. Two are up to a sixteenth slower; five are somewhat faster (B by a seventh) and
  make a choice more expensive.
- Rejected: loading a model elsewhere because of other clients' requests in a host's queue. With twenty clients, that is
  faster for some thresholds and slower for others, because all of them do it at the same time.

## The cost of a choice

Choosing, reserving and releasing a host took {cost:.1f} us of CPU time per request on the machine that generated this
page (with 200 hosts, 8 models, nine tenths of the slots busy). It hardly grows with the number of hosts.
"""


def draw(path: Path, results: Results) -> None:
    """Draw the means as bars, with a panel for each scenario."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(2, (len(results) + 1) // 2, figsize=(10, 4.6), sharey=True)
    for panel, (scenario, row) in zip(panels.flat, results.items(), strict=True):
        names = list(reversed(row))
        means = [row[name].mean for name in names]
        panel.barh(names, means, color=["#2a6f97" if name == OURS else "#adb5bd" for name in names])
        panel.set_xscale("log")
        panel.set_xlim(min(means) / 2, max(means) * 8)
        for place, value in enumerate(means):
            panel.annotate(_figure(value), (value, place), (3, 0), textcoords="offset points", va="center", size=7)
        panel.set_title(f"{scenario}\n{SCENARIOS[scenario].about}".replace(", 1 client", ""), fontsize=6.5)
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle("mean seconds to the first token (logarithmic)", fontsize=10)
    figure.tight_layout()
    # Without the version of matplotlib, so that equal results give equal files.
    figure.savefig(path, dpi=90, metadata={"Software": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hosts", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one run each, written into .benchmarks/")
    seeds = range(1, 2 if parser.parse_args().quick else 4)
    began = time.monotonic()
    results: dict[str, dict[str, Outcome]] = {}
    for scenario in SCENARIOS.values():
        print(f"{time.monotonic() - began:5.0f} s  {scenario.name}", file=sys.stderr, flush=True)
        results[scenario.name] = {name: outcome(scenario, name, seeds) for name in BALANCERS}
    cost = min(cost_of_a_choice() for _ in range(5))
    folder = ROOT / ("docs" if len(seeds) > 1 else ".benchmarks")
    folder.mkdir(exist_ok=True)
    draw(folder / "hosts.png", results)
    (folder / "hosts.md").write_text(page(results, len(seeds), cost, "hosts.png"), encoding="utf-8")
    print(_table(results), _ratios(results), f"{cost:.1f} us a choice", sep="\n\n")
    if results["A"][OURS].mean > results["A"][_PLAIN].mean / 5:
        sys.exit(f"A: more than a fifth of {_PLAIN}")
    for name, row in results.items():
        if row[OURS].mean > 1.3 * row[_INFORMED].mean:
            sys.exit(f"{name}: more than 1.3 times {_INFORMED}")


if __name__ == "__main__":
    main()
