"""Which host gets a request: the rule as a pure function of the known state. No I/O, no clock, no lock.

A request is assigned to a host only when the host has a free slot; until then it waits here, where it can still go
anywhere. The rule, in order:

1. The conversation's home, the host that has its prompt cached. While it is busy, the request waits for it, but no
   longer than processing the prompt elsewhere would take.
2. Of the hosts that have the model loaded and a free slot, the best of a few random ones: by the last measured wait,
   the time to process the prompt and the usual time of an answer. Random, because several independent clients would
   otherwise all choose the same best host.
3. Where none of those is free, the request waits, unless waiting costs several loads more than waiting for the model
   that the load would evict. A model that is in use and on no other host is never evicted for this. Without this rule,
   an overload makes models take turns on all hosts, which then spend most of their time loading.
4. Where no host has the model loaded, one loads it, and later requests wait for it rather than load it everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import islice

from namel3ss_ollama.fleet import Fleet, Standing

__all__ = ["Wanted", "choose"]

_FEW = 3
_FOREVER = 1e6
_LOADS = 3.0
"""How many loads a wait must be worth, so that the model is loaded on one more host; and for how many loads a model is
in use after an answer."""


@dataclass(slots=True, eq=False)
class Wanted:
    """What a request needs from a host.

    Attributes:
        model: The model's name, with its tag.
        tokens: About how many tokens its prompt has.
        home: The host that answered the conversation's last turn, if known.
        saved: Seconds of prompt processing that the home saves, because it has the beginning cached.
        since: When the request began to wait; None before that.
        tried: Hosts that failed on this request, and those in `barred`.
        barred: Hosts that it never goes to, because it is meant for another one.
        key: The key of its conversation; 0 for none.
        asked: Whether the request was already sent to a host, so that it waits for the second time.
    """

    model: str
    tokens: float = 0.0
    home: Standing | None = None
    saved: float = 0.0
    since: float | None = None
    tried: AbstractSet[Standing] = field(default_factory=frozenset[Standing])
    barred: AbstractSet[Standing] = field(default_factory=frozenset[Standing])
    key: int = 0
    asked: bool = False

    def may_go_to(self, host: Standing, now: float) -> bool:
        """Whether the request can go to the host, once it is free."""
        return host not in self.tried and host.may_have(self.model, now)

    def waits_for_home(self, now: float) -> bool:
        """Whether it waits for its home although another host may be free."""
        home = self.home
        return (
            home is not None
            and (0.0 if self.since is None else now - self.since) < self.saved
            and home.room() <= 0
            and not (home.is_out or home.last_resort)
            and self.model in home.loaded
            and self.may_go_to(home, now)
        )


def _nobody(_: str) -> int:
    return 0


def choose(
    wanted: Wanted, fleet: Fleet, now: float, waiting: int = 1, others: Callable[[str], int] = _nobody
) -> Standing | None:
    """The host for a request; None while waiting is better.

    Args:
        wanted: The request.
        fleet: The hosts.
        now: The time.
        waiting: How many requests wait for the model, including this one.
        others: How many requests wait for other models.
    """
    if not fleet.free.items:
        return _last_resort(wanted, fleet, now) if fleet.last_resorts else None
    free, home = fleet.free_with(wanted.model), wanted.home
    if home is not None:
        if wanted.waits_for_home(now):
            return None
        if home in free and wanted.may_go_to(home, now):
            return home

    def seconds(host: Standing) -> float:
        return host.seconds(wanted.model, wanted.tokens, now)

    if free.items:
        best = _best(free.items, wanted, fleet, now, seconds)
        if best is not None:
            return best

    def with_load(host: Standing) -> float:
        return seconds(host) + _cost_of_loading(host, wanted.model, fleet, now, others)

    best = _best(fleet.free.items, wanted, fleet, now, with_load)
    if best is None:
        return _last_resort(wanted, fleet, now)
    return None if _should_wait(wanted, fleet, best, now, waiting, others) else best


def _best(
    hosts: list[Standing], wanted: Wanted, fleet: Fleet, now: float, cost: Callable[[Standing], float]
) -> Standing | None:
    """The cheapest of a few random eligible hosts."""
    draw, count = fleet.rng.random, len(hosts)
    start = int(draw() * count)
    if count <= _FEW:
        few = hosts[start:] + hosts[:start]
    else:
        few = [hosts[start], hosts[int(draw() * count)], hosts[int(draw() * count)]]
    best = _cheapest([host for host in few if wanted.may_go_to(host, now)], cost)
    if best is None and count > _FEW:
        left = (host for host in hosts[start:] + hosts[:start] if wanted.may_go_to(host, now))
        best = _cheapest(islice(left, _FEW), cost)
    return best


def _cheapest(hosts: Iterable[Standing], cost: Callable[[Standing], float]) -> Standing | None:
    return min(hosts, key=cost, default=None)


def _cost_of_loading(host: Standing, model: str, fleet: Fleet, now: float, others: Callable[[str], int]) -> float:
    """Twice the load time where it may evict a model, plus what waits for that model."""
    seconds = host.load_seconds(model)
    return seconds * 2.0 + _wait_without(host, model, fleet, now, others) if host.loaded else seconds


def _wait_without(host: Standing, model: str, fleet: Fleet, now: float, others: Callable[[str], int]) -> float:
    """How long requests for the models that the load could evict would wait without this host."""
    longest = 0.0
    for other in host.loaded:
        if other == model or other in host.without:
            continue
        waiting, slots = others(other), fleet.slots_with(other) - host.slots
        if slots > 0:
            longest = max(longest, waiting * fleet.service(other) / slots)
        elif waiting or _is_in_use(host, other, now):
            return _FOREVER
    return longest


def _is_in_use(host: Standing, model: str, now: float) -> bool:
    pace = host.pace.get(model)
    return host.in_flight > 0 or (pace is not None and now - pace.wait_at < _LOADS * host.load_seconds(model))


def _should_wait(
    wanted: Wanted, fleet: Fleet, loading: Standing, now: float, waiting: int, others: Callable[[str], int]
) -> bool:
    """Whether waiting for the hosts that have the model is better than loading it on another one."""
    if wanted.tried:
        slots = sum(host.slots for host in fleet.holders(wanted.model) if wanted.may_go_to(host, now))
    else:
        slots = fleet.slots_with(wanted.model)
    if not slots:
        return False
    gain = waiting * fleet.service(wanted.model) / slots - _LOADS * loading.load_seconds(wanted.model)
    return gain <= 0.0 or gain <= _wait_without(loading, wanted.model, fleet, now, others)


def _last_resort(wanted: Wanted, fleet: Fleet, now: float) -> Standing | None:
    """Where no server is left: the engine in this process, or a host that failed with the model or the request.

    Where no host is known to have the model, any host: for its error, or because it has the model by now.
    """
    left = [host for host in fleet.last_resorts if wanted.may_go_to(host, now)]
    for host in fleet.hosts:
        if not host.last_resort and wanted.may_go_to(host, now):
            if not host.is_out:
                return None  # it will have a slot free
            left.append(host)
    if not left:
        untried = [host for host in fleet.hosts if host not in wanted.tried]
        left = [host for host in untried if host.has(wanted.model, now)] or untried
    again = [host for host in wanted.tried - wanted.barred if host.may_have(wanted.model, now)]
    return next((host for host in (*left, *again) if host.room() > 0), None)
