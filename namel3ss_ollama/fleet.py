"""What is known of several hosts, indexed so that one can be chosen in a time that hardly grows with their number.

Values and no I/O, no clock, no lock: `dispatcher.py` holds the lock and the clock, `scout.py` asks the hosts, and
`choosing.py` has the rule. All times are seconds, greater than 0, by one clock of the caller's.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

__all__ = ["EJECT_MOST", "Fleet", "Loaded", "Pace", "Standing", "tagged"]

EJECT_MOST = 60.0
_BYTES_A_SECOND = 1e9
"""How fast weights come off a disk, where no load was measured."""
_UNKNOWN_LOAD = 5.0
_UNKNOWN_SERVICE = 3.0
_WAIT_HALVES = 10.0
"""A wait that was measured says half as much so many seconds later."""
_SWAY = 0.3
"""How much a new measurement moves a mean."""
_AUTO_MOST = 64


def tagged(model: str) -> str:
    """A model's name with its tag, as servers list it."""
    return model if ":" in model.rpartition("/")[2] else f"{model}:latest"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in a host's memory.

    Attributes:
        digest: Of its weights.
        size: Bytes in all.
        vram: Bytes of these on a GPU.
        context_length: Its window in tokens; None where the host does not say.
        expires_at: When the host will unload it, as the host writes it.
    """

    digest: str = ""
    size: int = 0
    vram: int = 0
    context_length: int | None = None
    expires_at: str = ""


@dataclass(slots=True)
class Pace:
    """How fast a host is with a model: means of what its answers report, None before the first.

    Attributes:
        wait: Seconds for which the last request waited in the host's own queue.
        wait_at: When that was.
        prefill: Tokens of prompts a second.
        decode: Tokens of answers a second.
        service: Seconds that an answer takes, without the wait and the load.
        load: Seconds that loading takes.
    """

    wait: float = 0.0
    wait_at: float = 0.0
    prefill: float | None = None
    decode: float | None = None
    service: float | None = None
    load: float | None = None

    def wait_now(self, now: float) -> float:
        """The wait to expect."""
        return self.wait * 0.5 ** ((now - self.wait_at) / _WAIT_HALVES) if self.wait else 0.0


@dataclass(slots=True, eq=False)
class Standing:
    """One host's standing.

    Attributes:
        url: Its address.
        slots: How many requests it gets at once.
        auto: Whether `slots` follows from the waits that are measured.
        last_resort: Whether it is asked only where no other host is left.
        in_flight: Requests that it has now.
        failures: How often it has failed in a row.
        out_until: Until when it gets nothing; 0 while it is up.
        paused_until: Until when it has asked for no more requests, which an answer does not end.
        why_out: What it failed with; empty once it has answered again.
        pulled: The models that it has, with their bytes and digests; None before it has reported them.
        loaded: The models in its memory, those that it is loading for us included.
        without: Models that it does not get until then: it lacks them, or failed with them.
        missing: Those of them that it said it lacks.
        pace: How fast it is, by model.
        answers: How many answers in a row had a short wait, where `auto`.
        version: Its version; empty where it is not known.
        asked_at: When it was last asked what it has loaded; None for never.
        pulled_at: When it was last asked what it has pulled.
    """

    url: str
    slots: int = 1
    auto: bool = False
    last_resort: bool = False
    in_flight: int = 0
    failures: int = 0
    out_until: float = 0.0
    paused_until: float = 0.0
    why_out: str = ""
    pulled: Mapping[str, tuple[int, str]] | None = None
    loaded: dict[str, Loaded] = field(default_factory=dict[str, Loaded])
    without: dict[str, float] = field(default_factory=dict[str, float])
    missing: dict[str, float] = field(default_factory=dict[str, float])
    pace: dict[str, Pace] = field(default_factory=dict[str, Pace])
    answers: int = 0
    version: str = ""
    asked_at: float | None = None
    pulled_at: float | None = None
    _listed: bool = field(default=False, init=False, repr=False)
    _bags: list[_Bag] = field(default_factory=list, init=False, repr=False)
    _held: set[str] = field(default_factory=set[str], init=False, repr=False)

    @property
    def is_out(self) -> bool:
        """Whether it was ejected and has not come back."""
        return self.out_until > 0.0

    def room(self) -> int:
        """How many more requests it may have: a host that comes back gets one until that has succeeded."""
        if self.is_out:
            return 0
        return (1 if self.failures else self.slots) - self.in_flight

    def may_have(self, model: str, now: float) -> bool:
        """Whether the model can be asked of it, as far as is known."""
        if self.without and self.without.get(model, 0.0) > now:
            return False
        return self.pulled is None or model in self.pulled

    def has(self, model: str, now: float) -> bool:
        """Whether it has the model, as far as is known, though it may have failed with it."""
        return self.missing.get(model, 0.0) <= now and (self.pulled is None or model in self.pulled)

    def load_seconds(self, model: str) -> float:
        """How long loading will take."""
        pace = self.pace.get(model)
        if pace is not None and pace.load is not None:
            return pace.load
        size = self.pulled[model][0] if self.pulled and model in self.pulled else 0
        return size / _BYTES_A_SECOND if size else _UNKNOWN_LOAD

    def seconds(self, model: str, tokens: float, now: float) -> float:
        """How long an answer will take, the host's own queue and the reading of the prompt included."""
        pace = self.pace.get(model)
        if pace is None:
            return 0.0  # so that every host is tried once
        reading = tokens / pace.prefill if pace.prefill else 0.0
        return pace.wait_now(now) + reading + (pace.service or 0.0)


class _Bag:
    """A set of hosts from which some can be drawn at random in constant time.

    Attributes:
        items: The hosts, in no order, to be read only.
    """

    __slots__ = ("_at", "items")

    def __init__(self) -> None:
        self.items: list[Standing] = []
        self._at: dict[Standing, int] = {}

    def add(self, item: Standing) -> None:
        if item not in self._at:
            self._at[item] = len(self.items)
            self.items.append(item)

    def discard(self, item: Standing) -> None:
        at = self._at.pop(item, None)
        if at is None:
            return
        last = self.items.pop()
        if last is not item:
            self.items[at] = last
            self._at[last] = at

    def __len__(self) -> int:
        return len(self.items)

    def __contains__(self, item: object) -> bool:
        return item in self._at

    def __iter__(self) -> Iterator[Standing]:
        return iter(self.items)


class Fleet:
    """Hosts and their standing.

    Args:
        hosts: The hosts, in the order of preference where nothing else tells them apart.
        eject: How long a host that fails is out the first time; that doubles with each failure.
        eject_most: What that never exceeds, where a failure does not say how long it is.
        rng: Where chance comes from.
    """

    def __init__(
        self,
        hosts: Iterable[Standing],
        *,
        eject: float = 1.0,
        eject_most: float = EJECT_MOST,
        rng: random.Random | None = None,
    ) -> None:
        self.hosts = list(hosts)
        self.rng = rng or random.Random()
        self._eject = eject
        self._eject_most = eject_most
        self._returns: list[tuple[float, int, Standing]] = []
        """When a host comes back, or a model on it; what no longer holds is passed over when it is due."""
        self._up = len(self.hosts)
        self.free = _Bag()
        self.last_resorts = [host for host in self.hosts if host.last_resort]
        self._free_with: dict[str, _Bag] = {}
        self._holders: dict[str, set[Standing]] = {}
        self._slots_with: dict[str, int] = {}
        self._service: dict[str, float] = {}
        for host in self.hosts:
            self._relist(host)

    @property
    def slots(self) -> int:
        """The slots of all hosts together."""
        return sum(host.slots for host in self.hosts)

    def free_with(self, model: str) -> _Bag:
        """The hosts with room that have the model loaded, or are loading it; none of last resort."""
        return self._free_with.get(model, _NONE)

    def holders(self, model: str) -> AbstractSet[Standing]:
        """The hosts that are up and have the model loaded or are loading it, busy or not; none of last resort."""
        return self._holders.get(model, _NOBODY)

    def slots_with(self, model: str) -> int:
        """The slots of those."""
        slots = self._slots_with.get(model)
        if slots is None:
            slots = self._slots_with[model] = sum(host.slots for host in self.holders(model))
        return slots

    def service(self, model: str) -> float:
        """The seconds that an answer of the model takes, as a mean over the hosts, or what is assumed at first."""
        return self._service.get(model, _UNKNOWN_SERVICE)

    # What happens to a host

    def hold(self, host: Standing, model: str) -> None:
        """A request goes to a host, which loads the model for it if need be."""
        host.in_flight += 1
        if model in host.loaded:
            self._settle(host)
        else:
            host.loaded[model] = Loaded()
            self._relist(host)

    def release(self, host: Standing) -> None:
        """A request is over."""
        host.in_flight -= 1
        self._settle(host)

    def forget_requests(self) -> None:
        """No host has any: for a forked child."""
        for host in self.hosts:
            host.in_flight = 0
            self._settle(host)

    def learn_loaded(self, host: Standing, loaded: Mapping[str, Loaded]) -> None:
        """The host says what it has in memory. What it is loading for us may not be in it yet."""
        # What it is busy with for us may be loading still, and is kept until it has nothing to do.
        kept = {name: known for name, known in host.loaded.items() if not known.digest} if host.in_flight else {}
        host.loaded = {**kept, **loaded}
        self._relist(host)

    def learn_pulled(self, host: Standing, pulled: Mapping[str, tuple[int, str]]) -> None:
        """The host says which models it has."""
        host.pulled = pulled
        self._relist(host)

    def pause(self, host: Standing, until: float, why: str) -> None:
        """The host asks for no more requests until then; that is no failure, and no answer of its own ends it."""
        host.paused_until = max(host.paused_until, until)
        self._leave(host, until, why)

    def eject(
        self, host: Standing, now: float, why: str, *, seconds: float | None = None, spare_last: bool = False
    ) -> None:
        """The host failed: it gets nothing for a while, twice as long as the last time, a fifth more or less.

        Requests that were under way when it was ejected fail as well; that doubles nothing.

        Args:
            host: The host.
            now: The time.
            why: What it failed with.
            seconds: How long it is out, where the failure says that.
            spare_last: Whether the last host that is up stays so.
        """
        sway = 0.8 + 0.4 * self.rng.random()
        if host.is_out and host.failures:
            if seconds is not None:
                self._leave(host, now + seconds * sway, why)
            return
        if not host.is_out and spare_last and self._up <= 1:
            return
        length = min(self._eject_most, self._eject * 2.0 ** min(host.failures, 30) * sway)
        host.failures += 1
        self._leave(host, now + (length if seconds is None else seconds * sway), why)

    def _leave(self, host: Standing, until: float, why: str) -> None:
        host.why_out = why
        self._up -= not host.is_out
        host.out_until = max(host.out_until, until)
        heapq.heappush(self._returns, (host.out_until, id(host), host))
        self._relist(host)

    def heal(self, host: Standing) -> None:
        """The host answered."""
        if not host.failures and not host.is_out:
            return
        host.failures = 0
        if not host.paused_until:
            self._come_back(host)
        elif host.out_until != host.paused_until:
            host.out_until = host.paused_until
            heapq.heappush(self._returns, (host.out_until, id(host), host))

    def _come_back(self, host: Standing) -> None:
        self._up += host.is_out
        host.out_until = host.paused_until = 0.0
        if not host.failures:
            host.why_out = ""
        self._relist(host)

    def works(self, host: Standing, model: str) -> None:
        """The host answers with the model."""
        self.heal(host)
        if host.without.pop(model, None) is not None:
            host.missing.pop(model, None)
            self._relist(host)

    def advance(self, now: float) -> None:
        """Let hosts come back whose time is over, for one request each until that has succeeded."""
        while self._returns and self._returns[0][0] <= now:
            until, _, host = heapq.heappop(self._returns)
            if host.out_until == until:  # else it was ejected again, or healed, meanwhile
                self._come_back(host)
            over = [model for model, end in host.without.items() if end <= now]
            if over:
                for model in over:
                    del host.without[model]
                self._relist(host)

    def next_return(self) -> float | None:
        """When the next host comes back, or a model on one; None if none is out."""
        while self._returns:
            until, _, host = self._returns[0]
            if until == host.out_until or until in host.without.values():
                return until
            heapq.heappop(self._returns)
        return None

    @property
    def all_out(self) -> bool:
        """Whether every host is out."""
        return self._up == 0

    def without(self, host: Standing, model: str, until: float, *, missing: bool = False) -> None:
        """The host does not get this model until then.

        Args:
            host: The host.
            model: The model.
            until: Until when.
            missing: Whether it has said that it lacks the model.
        """
        host.without[model] = until
        if missing:
            host.missing[model] = until
        host.loaded.pop(model, None)
        heapq.heappush(self._returns, (until, id(host), host))
        self._relist(host)

    def measured(
        self,
        host: Standing,
        model: str,
        now: float,
        *,
        wait: float,
        load: float,
        service: float,
        prefill: float | None = None,
        decode: float | None = None,
    ) -> None:
        """An answer reports how long its parts took.

        Args:
            host: The host that answered.
            model: The model.
            now: The time.
            wait: Seconds in the host's own queue.
            load: Seconds of loading, if it had to.
            service: Seconds of reading and answering.
            prefill: Tokens read a second, where the prompt was not cached.
            decode: Tokens written a second.
        """
        pace = host.pace.get(model)
        if pace is None:
            pace = host.pace[model] = Pace()
        pace.wait, pace.wait_at = wait, now
        pace.service = _mean(pace.service, service)
        self._service[model] = _mean(self._service.get(model), service)
        if load > 0.1:
            pace.load = _mean(pace.load, load)
        if prefill is not None:
            pace.prefill = _mean(pace.prefill, prefill)
        if decode is not None:
            pace.decode = _mean(pace.decode, decode)
        if host.auto:
            self._adapt(host, wait, service)

    def fewer(self, host: Standing) -> None:
        """The host says that it is busy: it gets one request less at once, where that is not fixed."""
        if host.auto and host.slots > 1:
            self._resize(host, host.slots - 1)

    def _adapt(self, host: Standing, wait: float, service: float) -> None:
        """One slot more once as many answers as there are slots had hardly to wait; one fewer for a long wait."""
        if wait > 0.5 * service and host.slots > 1:
            self._resize(host, host.slots - 1)
        elif wait < 0.05 * service and host.in_flight >= host.slots:
            host.answers += 1
            if host.answers >= host.slots and host.slots < _AUTO_MOST:
                self._resize(host, host.slots + 1)
        else:
            host.answers = 0

    def _resize(self, host: Standing, slots: int) -> None:
        host.slots, host.answers = slots, 0
        for model in host._held:
            self._slots_with.pop(model, None)
        self._settle(host)

    # The indexes

    def _settle(self, host: Standing) -> None:
        """List the host as free or not, after its requests or slots have changed."""
        has_room = host.room() > 0
        if has_room != host._listed:
            host._listed = has_room
            for bag in host._bags:
                if has_room:
                    bag.add(host)
                else:
                    bag.discard(host)

    def _relist(self, host: Standing) -> None:
        """List the host under the models that it has, after anything else has changed."""
        for bag in host._bags:
            bag.discard(host)
        held: set[str] = set()
        host._listed, host._bags = False, []
        if not (host.is_out or host.last_resort):
            pulled, without = host.pulled, host.without
            held = {m for m in host.loaded if m not in without and (pulled is None or m in pulled)}
            host._bags = [self.free, *[self._free_with.setdefault(model, _Bag()) for model in held]]
        for model in host._held ^ held:
            holders = self._holders.setdefault(model, set())
            (holders.add if model in held else holders.discard)(host)
            self._slots_with.pop(model, None)
        host._held = held
        self._settle(host)


_NONE = _Bag()
_NOBODY: AbstractSet[Standing] = frozenset()


def _mean(known: float | None, measured: float) -> float:
    return measured if known is None else known + _SWAY * (measured - known)
