"""Which host gets a request: the rule, a plain function over what is known. No I/O, no clock, no lock.

A request is bound to a host only when that has a slot free for it; until then it waits here, where it can still go
anywhere. The rule, in its order:

1. The conversation's home, the host that has its prompt cached. While that is busy, the request waits for it, but no
   longer than reading the prompt elsewhere would take.
2. Of the hosts that have the model loaded and a slot free, the best of a few drawn at random: by the wait that was last
   measured there, the reading of the prompt and the usual time of an answer. Drawn at random, because several clients
   that know nothing of each other would all choose the same best one.
3. Where none of those is free, the request waits, unless the wait is worth several loads: loading takes seconds, and
   throws out a model that others may want.
4. Where no host has the model loaded, one loads it, and later requests wait for that rather than load it everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from namel3ss_ollama.fleet import Fleet, Standing

__all__ = ["Wanted", "choose"]

_FEW = 3
_LOADS = 3.0
"""How many loads a wait must be worth, so that the model is loaded on one more host."""


@dataclass(slots=True, eq=False)
class Wanted:
    """What a request wants of a host.

    Attributes:
        model: The model's name, with its tag.
        tokens: About how many tokens its prompt has.
        home: The host that answered the conversation's last turn, if that is known.
        saved: Seconds of reading that the home saves, because it has the beginning cached.
        since: When the request began to wait; None before that.
        tried: Hosts that have failed with this request.
        key: Of its conversation, 0 for none.
        asked: Whether a host was asked already, so that the request waits a second time.
    """

    model: str
    tokens: float = 0.0
    home: Standing | None = None
    saved: float = 0.0
    since: float | None = None
    tried: AbstractSet[Standing] = field(default_factory=frozenset[Standing])
    key: int = 0
    asked: bool = False

    def may_go_to(self, host: Standing, now: float) -> bool:
        """Whether the host can be asked, once it is free."""
        return host not in self.tried and host.may_have(self.model, now)

    def waits_for_home(self, now: float) -> bool:
        """Whether it waits for its home although another host may be free."""
        home = self.home
        return (
            home is not None
            and self.since is not None
            and now - self.since < self.saved
            and not home.is_out
            and home.room() <= 0
            and self.model in home.loaded
            and self.may_go_to(home, now)
        )


def choose(wanted: Wanted, fleet: Fleet, now: float, waiting: int = 1) -> Standing | None:
    """The host for a request; None while it is better to wait.

    Args:
        wanted: The request.
        fleet: The hosts.
        now: The time.
        waiting: How many requests for the model wait, this one included.
    """
    if not fleet.free or wanted.waits_for_home(now):
        return None
    free, home = fleet.free_with(wanted.model), wanted.home
    if home is not None and home in free and wanted.may_go_to(home, now):
        return home
    best = _best(free.some(fleet.rng), wanted, now, lambda host: host.seconds(wanted.model, wanted.tokens, now))
    if best is None:
        best = _best(fleet.free.some(fleet.rng), wanted, now, lambda host: _cost_of_loading(host, wanted.model, now))
        if best is not None and _should_wait(wanted, fleet, best, now, waiting):
            return None
    if best is None:
        return _last_resort(wanted, fleet, now)
    return best


def _best(hosts: Iterable[Standing], wanted: Wanted, now: float, cost: Callable[[Standing], float]) -> Standing | None:
    """The cheapest of the first few that can be asked."""
    best, least, seen = None, math.inf, 0
    for host in hosts:
        if host.last_resort or not wanted.may_go_to(host, now):
            continue
        seconds = cost(host)
        if seconds < least:
            best, least = host, seconds
        seen += 1
        if seen == _FEW:
            break
    return best


def _cost_of_loading(host: Standing, model: str, now: float) -> float:
    """Where loading is quick and throws nothing out, and answers are quick afterwards."""
    in_memory = sum(loaded.size for loaded in host.loaded.values())
    return host.load_seconds(model) * (2.0 if in_memory else 1.0) + host.seconds(model, 0.0, now)


def _should_wait(wanted: Wanted, fleet: Fleet, loading: Standing, now: float, waiting: int) -> bool:
    """Whether it is better to wait for those that have the model than to load it on one more host."""
    if wanted.tried:
        slots = sum(host.slots for host in fleet.holders(wanted.model) if wanted.may_go_to(host, now))
    else:
        slots = fleet.slots_with(wanted.model)
    if not slots:
        return False
    return waiting * fleet.service(wanted.model) / slots <= _LOADS * loading.load_seconds(wanted.model)


def _last_resort(wanted: Wanted, fleet: Fleet, now: float) -> Standing | None:
    """Where no server is left: the engine in this process, or a host that has failed with the model or the request.

    Where none is known to have the model, any host: for its error, or because it has the model by now.
    """
    left = [host for host in fleet.hosts if wanted.may_go_to(host, now)]
    if any(not host.last_resort and not host.is_out for host in left):
        return None
    untried = [host for host in fleet.hosts if host not in wanted.tried]
    left = left or [host for host in untried if host.has(wanted.model, now)] or untried
    again = [host for host in wanted.tried if host.may_have(wanted.model, now)]
    return next((host for host in (*left, *again) if host.room() > 0), None)
