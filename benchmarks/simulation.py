"""Servers, conversations and clients in virtual time, with which `benchmarks.hosts` compares load balancing strategies.

A machine is modelled on an Ollama server: it accepts every request and answers in order, with as many concurrent
requests as it has slots; it holds one model, and replaces it by another once idle; loading takes seconds, during which
all later requests wait. It caches the last prompts of a model while that stays loaded, and reads only the new part of a
known conversation. Clients can query its loaded model, but not its queue.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["Balancer", "Figures", "Kind", "Machine", "Request", "Scenario", "simulate"]

LOOK = 5.0
"""Seconds between polls of a machine's loaded model."""
_PREFIXES = 20


@dataclass(frozen=True)
class Kind:
    """A kind of machine: tokens written and read per second, and slots."""

    decode: float
    prefill: float
    slots: int = 1


@dataclass(frozen=True)
class Scenario:
    """Machines, and the load on them.

    Attributes:
        machines: The number of machines of each kind.
        models: The number of models; a machine holds one at a time, and starts with one.
        clients: The number of client programs, each of which knows only its own requests.
        rate: Requests per second of all clients together.
        requests: The approximate number of requests.
    """

    name: str
    about: str
    machines: Sequence[tuple[int, Kind]]
    models: int
    clients: int
    rate: float
    requests: int


@dataclass(slots=True, eq=False)
class Request:
    """A turn of a conversation, and its outcome: times are seconds of the virtual clock."""

    conversation: int
    client: int
    model: str
    tokens: int
    answer: int
    known: int
    """How many of its tokens are cached on the machine that answered the last turn."""
    asked: float = 0.0
    sent: float = 0.0
    wait: float = 0.0
    load: float = 0.0
    read: float = 0.0
    read_tokens: int = 0
    write: float = 0.0


class Balancer(Protocol):
    """Chooses the machine for each request of one client."""

    def ask(self, request: Request) -> None:
        """Handle a new request: `Machine.send` is called with it, now or later."""

    def answered(self, request: Request, machine: Machine) -> None:
        """A machine has answered it."""

    def look(self, machine: Machine) -> None:
        """Observe a machine's loaded model."""


@dataclass
class Clock:
    """The virtual time, and scheduled calls."""

    now: float = 0.0
    due: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    count: itertools.count[int] = field(default_factory=itertools.count)

    def at(self, time: float, call: Callable[[], None]) -> None:
        heapq.heappush(self.due, (time, next(self.count), call))

    def run(self) -> None:
        while self.due:
            self.now, _, call = heapq.heappop(self.due)
            call()


class Machine:
    """A server; `changed` is when its loaded model last changed."""

    def __init__(self, number: int, kind: Kind, clock: Clock, load: dict[str, float], holds: str) -> None:
        self.number, self.kind, self.load = number, kind, load
        self.loaded: str | None = holds
        self.changed = 0.0
        self.loads = 0
        self.answered: Callable[[Request, Machine], None]
        self._clock = clock
        self._queue: deque[Request] = deque()
        self._active = 0
        self._loading = False
        self._known: OrderedDict[int, int] = OrderedDict()

    def send(self, request: Request) -> None:
        request.sent = self._clock.now
        self._queue.append(request)
        self._go_on()

    def _go_on(self) -> None:
        while self._queue and not self._loading and self._active < self.kind.slots:
            request = self._queue[0]
            if request.model == self.loaded:
                self._answer(self._queue.popleft())
            elif self._active:
                return
            else:
                self._loading = True
                self.loads += 1
                self._hold(None)
                request.load = self.load[request.model]
                self._clock.at(self._clock.now + request.load, self._has_loaded)

    def _has_loaded(self) -> None:
        self._loading = False
        self._hold(self._queue[0].model)
        self._go_on()

    def _hold(self, model: str | None) -> None:
        self.loaded, self.changed = model, self._clock.now
        self._known.clear()

    def _answer(self, request: Request) -> None:
        now = self._clock.now
        self._active += 1
        request.wait = now - request.sent - request.load
        request.read_tokens = request.tokens - min(self._known.get(request.conversation, 0), request.tokens - 1)
        request.read = request.read_tokens / self.kind.prefill
        request.write = request.answer / self.kind.decode
        self._clock.at(now + request.read + request.write, lambda: self._done(request))

    def _done(self, request: Request) -> None:
        self._active -= 1
        self._known[request.conversation] = request.tokens + request.answer
        self._known.move_to_end(request.conversation)
        if len(self._known) > _PREFIXES:
            self._known.popitem(last=False)
        self.answered(request, self)
        self._go_on()


@dataclass(frozen=True)
class Figures:
    """The results: the seconds to first token of every request, and the number of model loads."""

    firsts: list[float]
    loads: int


Maker = Callable[[Clock, list[Machine], random.Random], Balancer]


def simulate(scenario: Scenario, make: Maker, seed: int) -> Figures:
    """Run a scenario with one balancer per client. The same seed gives all balancers the same conversations."""
    clock, chance = Clock(), random.Random(seed)
    models = [f"model-{number}:latest" for number in range(scenario.models)]
    load = {model: 5.0 + 15.0 * at / max(scenario.models - 1, 1) for at, model in enumerate(models)}
    kinds = [kind for count, kind in scenario.machines for _ in range(count)]
    machines = [Machine(at, kind, clock, load, models[at % len(models)]) for at, kind in enumerate(kinds)]
    balancers = [make(clock, machines, random.Random(f"{seed} {number}")) for number in range(scenario.clients)]
    firsts: list[float] = []
    turns: dict[int, list[tuple[float, int, int]]] = {}

    def ask(request: Request) -> None:
        request.asked = clock.now
        balancers[request.client].ask(request)

    def answered(request: Request, machine: Machine) -> None:
        firsts.append(request.sent + request.wait + request.load + request.read - request.asked)
        balancers[request.client].answered(request, machine)
        left = turns[request.conversation]
        if left:
            pause, question, answer = left.pop()
            known = request.tokens + request.answer
            following = Request(request.conversation, request.client, request.model, known + question, answer, known)
            clock.at(clock.now + pause, lambda: ask(following))

    for machine in machines:
        machine.answered = answered
    begins, asked = 0.0, 0
    while asked < scenario.requests:
        begins += chance.expovariate(scenario.rate / 6)
        first = Request(
            len(turns),
            chance.randrange(scenario.clients),
            chance.choice(models),
            1000 + int(chance.expovariate(1 / 1500)),
            _answer(chance),
            0,
        )
        count = 0
        while chance.random() < 5 / 6:
            count += 1
        turns[first.conversation] = [
            (5 + chance.expovariate(1 / 10), 20 + int(chance.expovariate(1 / 80)), _answer(chance))
            for _ in range(count)
        ]
        asked += 1 + count
        clock.at(begins, lambda first=first: ask(first))  # type: ignore[misc] # its default is its own
    for at, balancer in enumerate(balancers):
        _look_regularly(clock, balancer, machines, LOOK * at / len(balancers), lambda: len(firsts) < asked)
    clock.run()
    assert len(firsts) == asked, "a request got no answer"
    return Figures(firsts, sum(machine.loads for machine in machines))


def _answer(chance: random.Random) -> int:
    return 60 + int(chance.expovariate(1 / 200))


def _look_regularly(
    clock: Clock, balancer: Balancer, machines: list[Machine], first: float, has_work: Callable[[], bool]
) -> None:
    for machine in machines:
        balancer.look(machine)
    last = -1.0

    def look() -> None:
        nonlocal last
        for machine in machines:
            if machine.changed >= last:  # the others have not changed
                balancer.look(machine)
        last = clock.now
        if has_work():
            clock.at(clock.now + LOOK, look)

    clock.at(first, look)
