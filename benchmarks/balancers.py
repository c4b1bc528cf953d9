"""Load balancing strategies: ours, and those of proxies and other programs.

The others forward a request at once, and count their own requests on each machine. They do not know about other
clients.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.simulation import Balancer, Clock, Machine, Request
from namel3ss_ollama.choosing import Wanted, choose
from namel3ss_ollama.fleet import Fleet, Loaded, Standing
from namel3ss_ollama.queues import Queues

__all__ = ["BALANCERS"]

_DECAY = 300.0
"""Seconds in which the weight of a latency in peak EWMA decays by two thirds: with the usual 10, it has forgotten a
host by the next request, and performs worse."""
_BOUND = 1.25
"""The maximum load of a machine with bounded loads, as a multiple of its share."""


class _AtOnce:
    """Forwards each request at once."""

    def __init__(self, clock: Clock, machines: list[Machine], chance: random.Random) -> None:
        self.clock, self.machines, self.chance = clock, machines, chance
        self.in_flight = [0] * len(machines)

    def ask(self, request: Request) -> None:
        at = self.pick(request)
        self.in_flight[at] += 1
        self.machines[at].send(request)

    def answered(self, request: Request, machine: Machine) -> None:
        self.in_flight[machine.number] -= 1

    def look(self, machine: Machine) -> None: ...

    def pick(self, request: Request) -> int:
        raise NotImplementedError  # each strategy has its own

    def _least(self, among: list[int]) -> int:
        least = min([self.in_flight[at] for at in among])
        return self.chance.choice([at for at in among if self.in_flight[at] == least])


class Chance(_AtOnce):
    def pick(self, request: Request) -> int:
        return self.chance.randrange(len(self.machines))


class RoundRobin(_AtOnce):
    _next = 0

    def pick(self, request: Request) -> int:
        self._next = (self._next + 1) % len(self.machines)
        return self._next


class LeastConnections(_AtOnce):
    def pick(self, request: Request) -> int:
        return self._least(list(range(len(self.machines))))


class PeakEwma(_AtOnce):
    """The better of two random machines, by latency times requests; a higher latency takes effect at once."""

    def __init__(self, clock: Clock, machines: list[Machine], chance: random.Random) -> None:
        super().__init__(clock, machines, chance)
        self._latency = [(0.0, 0.0)] * len(machines)

    def pick(self, request: Request) -> int:
        return min(self.chance.sample(range(len(self.machines)), 2), key=self._cost)

    def _cost(self, at: int) -> float:
        mean, measured = self._latency[at]
        return mean * math.exp((measured - self.clock.now) / _DECAY) * (self.in_flight[at] + 1)

    def answered(self, request: Request, machine: Machine) -> None:
        super().answered(request, machine)
        now, latency = self.clock.now, self.clock.now - request.sent
        mean, measured = self._latency[machine.number]
        weight = math.exp((measured - now) / _DECAY)
        self._latency[machine.number] = max(latency, mean * weight + latency * (1 - weight)), now


class BoundedHashing(_AtOnce):
    """A conversation's own machine, or the next one in its order that is not overloaded."""

    def pick(self, request: Request) -> int:
        count = len(self.machines)
        bound = math.ceil(_BOUND * (sum(self.in_flight) + 1) / count)
        order = random.Random(request.conversation)
        at, step = order.randrange(count), order.randrange(1, count)
        while math.gcd(step, count) != 1:
            step = order.randrange(1, count)
        while self.in_flight[at] >= bound:
            at = (at + step) % count
        return at


class LoadedLeastConnections(_AtOnce):
    """Least connections among the machines known to have the model loaded; among all, if none has."""

    def __init__(self, clock: Clock, machines: list[Machine], chance: random.Random) -> None:
        super().__init__(clock, machines, chance)
        self._holds: list[str | None] = [None] * len(machines)
        self._with: dict[str, set[int]] = {}

    def look(self, machine: Machine) -> None:
        before = self._holds[machine.number]
        if before is not None:
            self._with[before].discard(machine.number)
        self._holds[machine.number] = machine.loaded
        if machine.loaded is not None:
            self._with.setdefault(machine.loaded, set()).add(machine.number)

    def pick(self, request: Request) -> int:
        return self._least(sorted(self._with.get(request.model, ())) or list(range(len(self.machines))))

    def answered(self, request: Request, machine: Machine) -> None:
        super().answered(request, machine)
        if request.load:
            self.look(machine)


@dataclass(eq=False)
class _Waiter:
    wanted: Wanted
    request: Request


class Ours:
    """The rule of `namel3ss_ollama.choosing`: a request waits in the client until a host has a free slot."""

    def __init__(self, clock: Clock, machines: list[Machine], chance: random.Random) -> None:
        self.clock, self.machines = clock, machines
        self._hosts = [Standing(str(machine.number), slots=machine.kind.slots) for machine in machines]
        self._fleet = Fleet(self._hosts, rng=chance)
        self._queues: Queues[_Waiter] = Queues()
        self._homes: dict[int, Standing] = {}
        for host, machine in zip(self._hosts, machines, strict=True):
            # The load time of a model is estimated from its size, and underestimated.
            pulled = {model: (int(0.6e9 * seconds), "digest") for model, seconds in machine.load.items()}
            self._fleet.learn_pulled(host, pulled)

    def ask(self, request: Request) -> None:
        now, home = self.clock.now, self._homes.get(request.conversation)
        pace = home.pace.get(request.model) if home is not None else None
        saved = request.known / pace.prefill if pace is not None and pace.prefill else 0.0
        wanted = Wanted(request.model, request.tokens, home, saved)
        waiter = _Waiter(wanted, request)
        if not self._queues.blocks(wanted, now, _is_ready):
            host = choose(wanted, self._fleet, now, self._queues.waiting(wanted.model) + 1, self._queues.waiting)
            if host is not None:
                self._send(waiter, host)
                return
        wanted.since = now
        self._queues.add(waiter)
        if saved:
            self.clock.at(now + saved, self._go_on)

    def answered(self, request: Request, machine: Machine) -> None:
        fleet, host, now = self._fleet, self._hosts[machine.number], self.clock.now
        self._homes[request.conversation] = host
        fleet.measured(
            host,
            request.model,
            now,
            wait=request.wait,
            load=request.load,
            service=request.read + request.write,
            prefill=request.read_tokens / request.read if request.read_tokens > 100 else None,
            decode=request.answer / request.write,
        )
        fleet.release(host)
        if request.load:
            self.look(machine)
        self._go_on()

    def look(self, machine: Machine) -> None:
        held = {machine.loaded: Loaded("digest", 1)} if machine.loaded is not None else {}
        self._fleet.learn_loaded(self._hosts[machine.number], held)

    def _go_on(self) -> None:
        while (found := self._queues.next(self._fleet, self.clock.now, _is_ready)) is not None:
            self._queues.remove(found[0])
            self._send(*found)

    def _send(self, waiter: _Waiter, host: Standing) -> None:
        self._fleet.hold(host, waiter.wanted.model)
        self.machines[int(host.url)].send(waiter.request)


def _is_ready(_: _Waiter) -> bool:
    return True


BALANCERS: dict[str, Callable[[Clock, list[Machine], random.Random], Balancer]] = {
    "random": Chance,
    "round robin": RoundRobin,
    "least connections": LeastConnections,
    "P2C, peak EWMA": PeakEwma,
    "bounded-load hashing": BoundedHashing,
    "loaded, least connections": LoadedLeastConnections,
    "namel3ss-ollama": Ours,
}
