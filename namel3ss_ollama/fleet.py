"""The state of several hosts, indexed so that the time to choose one hardly grows with their number.

Values only: no I/O, no clock, no lock. `dispatcher.py` holds the lock and the clock, `scout.py` polls the hosts, and
`choosing.py` has the rule. All times are in seconds, greater than 0, by the caller's clock.
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
"""The assumed rate of loading weights from disk, where no load was measured."""
_UNKNOWN_LOAD = 5.0
_UNKNOWN_SERVICE = 3.0
_WAIT_HALVES = 10.0
"""The half-life of a measured wait, in seconds."""
_SWAY = 0.3
"""The weight of a new measurement in a moving average."""
_AUTO_MOST = 64


def tagged(model: str) -> str:
    """A model's name with its tag, as servers list it."""
    return model if ":" in model.rpartition("/")[2] else f"{model}:latest"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in a host's memory.

    Attributes:
        digest: The digest of its weights.
        size: Its total size in bytes.
        vram: The part of it in GPU memory, in bytes.
        context_length: Its context window in tokens; None where the host does not report it.
        expires_at: When the host will unload it, as reported.
    """

    digest: str = ""
    size: int = 0
    vram: int = 0
    context_length: int | None = None
    expires_at: str = ""


@dataclass(slots=True)
class Pace:
    """The speed of a host with a model: moving averages of what its answers report, None before the first.

    Attributes:
        wait: Seconds that the last request spent in the host's own queue.
        wait_at: When that was measured.
        prefill: Prompt tokens per second.
        decode: Answer tokens per second.
        service: Seconds per answer, without waiting and loading.
        load: Seconds per load.
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
    """The state of one host.

    Attributes:
        url: Its address.
        slots: The number of concurrent requests that it gets.
        auto: Whether `slots` adapts to the measured waits.
        last_resort: Whether it is used only where no other host is left.
        in_flight: The requests that it has now.
        failures: Consecutive failures.
        out_until: The end of its ejection; 0 while it is up.
        paused_until: Until when it wants no more requests (Retry-After); an answer does not end this.
        why_out: Its last failure; empty once it has answered again.
        pulled: Its installed models, with their sizes in bytes and digests; None before it has reported them.
        loaded: The models in its memory, including those that it is loading for us.
        without: Models that it is not asked for until a time: it lacks them, or failed with them.
        missing: Those of them that it reported as missing.
        pace: Its speed, by model.
        answers: Consecutive answers with a short wait, if `auto`.
        version: Its version; empty if unknown.
        asked_at: When its loaded models were last polled; None for never.
        pulled_at: When its installed models were last polled.
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
        """Whether it is ejected."""
        return self.out_until > 0.0

    def room(self) -> int:
        """How many more requests it may get: a host that comes back gets one until that succeeds (half-open)."""
        if self.is_out:
            return 0
        return (1 if self.failures else self.slots) - self.in_flight

    def may_have(self, model: str, now: float) -> bool:
        """Whether it can be asked for the model, as far as is known."""
        if self.without and self.without.get(model, 0.0) > now:
            return False
        return self.pulled is None or model in self.pulled

    def has(self, model: str, now: float) -> bool:
        """Whether it has the model, as far as is known, though it may have failed with it."""
        return self.missing.get(model, 0.0) <= now and (self.pulled is None or model in self.pulled)

    def load_seconds(self, model: str) -> float:
        """The expected load time."""
        pace = self.pace.get(model)
        if pace is not None and pace.load is not None:
            return pace.load
        size = self.pulled[model][0] if self.pulled and model in self.pulled else 0
        return size / _BYTES_A_SECOND if size else _UNKNOWN_LOAD

    def seconds(self, model: str, tokens: float, now: float) -> float:
        """The expected time of an answer, including the host's own queue and prompt evaluation."""
        pace = self.pace.get(model)
        if pace is None:
            return 0.0  # so that every host is tried once
        reading = tokens / pace.prefill if pace.prefill else 0.0
        return pace.wait_now(now) + reading + (pace.service or 0.0)


class _Bag:
    """A set of hosts with random sampling in constant time.

    Attributes:
        items: The hosts, unordered; read-only.
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
    """Hosts and their state.

    Args:
        hosts: The hosts, in order of preference where all else is equal.
        eject: The first ejection time of a host that fails; it doubles with each failure.
        eject_most: The maximum ejection time, unless a failure names its own.
        rng: The source of randomness.
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
        """When a host or a model on it comes back; outdated entries are skipped when they are due."""
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
        """The total number of slots."""
        return sum(host.slots for host in self.hosts)

    def free_with(self, model: str) -> _Bag:
        """The hosts with free slots that have the model loaded or are loading it; none of last resort."""
        return self._free_with.get(model, _NONE)

    def holders(self, model: str) -> AbstractSet[Standing]:
        """The hosts that are up and have the model loaded or are loading it, busy or not; none of last resort."""
        return self._holders.get(model, _NOBODY)

    def slots_with(self, model: str) -> int:
        """The number of slots of those hosts."""
        slots = self._slots_with.get(model)
        if slots is None:
            slots = self._slots_with[model] = sum(host.slots for host in self.holders(model))
        return slots

    def service(self, model: str) -> float:
        """The seconds per answer of the model, averaged over the hosts, or an initial assumption."""
        return self._service.get(model, _UNKNOWN_SERVICE)

    # What happens to a host

    def hold(self, host: Standing, model: str) -> None:
        """A request goes to a host, which loads the model if necessary."""
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
        """Reset all hosts to no requests: for a forked child."""
        for host in self.hosts:
            host.in_flight = 0
            self._settle(host)

    def learn_loaded(self, host: Standing, loaded: Mapping[str, Loaded]) -> None:
        """The host reports its loaded models. Those that it is loading for us may be missing."""
        # Models of requests in flight may still be loading; they are kept until the host is idle.
        kept = {name: known for name, known in host.loaded.items() if not known.digest} if host.in_flight else {}
        host.loaded = {**kept, **loaded}
        self._relist(host)

    def learn_pulled(self, host: Standing, pulled: Mapping[str, tuple[int, str]]) -> None:
        """The host reports its installed models."""
        host.pulled = pulled
        self._relist(host)

    def pause(self, host: Standing, until: float, why: str) -> None:
        """The host wants no more requests until then. That is not a failure, and its answers do not end it."""
        host.paused_until = max(host.paused_until, until)
        self._leave(host, until, why)

    def eject(
        self, host: Standing, now: float, why: str, *, seconds: float | None = None, spare_last: bool = False
    ) -> None:
        """The host failed: eject it, for twice as long as the last time, with a jitter of a fifth.

        Requests that were in flight when it was ejected fail as well; they do not double the time.

        Args:
            host: The host.
            now: The time.
            why: The failure.
            seconds: The ejection time, if the failure names it.
            spare_last: Whether the last available host is never ejected.
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
        """Let hosts whose ejection has ended come back, with one request each until that succeeds."""
        while self._returns and self._returns[0][0] <= now:
            until, _, host = heapq.heappop(self._returns)
            if host.out_until == until:  # otherwise it was ejected again, or recovered, in the meantime
                self._come_back(host)
            over = [model for model, end in host.without.items() if end <= now]
            if over:
                for model in over:
                    del host.without[model]
                self._relist(host)

    def next_return(self) -> float | None:
        """When the next host, or a model on one, comes back; None if none is ejected."""
        while self._returns:
            until, _, host = self._returns[0]
            if until == host.out_until or until in host.without.values():
                return until
            heapq.heappop(self._returns)
        return None

    @property
    def all_out(self) -> bool:
        """Whether every host is ejected."""
        return self._up == 0

    def without(self, host: Standing, model: str, until: float, *, missing: bool = False) -> None:
        """Do not ask the host for this model until then.

        Args:
            host: The host.
            model: The model.
            until: Until when.
            missing: Whether it reported that it lacks the model.
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
        """Take in the durations that an answer reports.

        Args:
            host: The host that answered.
            model: The model.
            now: The time.
            wait: Seconds in the host's own queue.
            load: Seconds of loading, if the model was loaded.
            service: Seconds of prompt evaluation and generation.
            prefill: Prompt tokens per second, if the prompt was not cached.
            decode: Generated tokens per second.
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
        """The host reports that it is busy: it gets one slot fewer, if the number is adaptive."""
        if host.auto and host.slots > 1:
            self._resize(host, host.slots - 1)

    def _adapt(self, host: Standing, wait: float, service: float) -> None:
        """One slot more after as many short waits as there are slots; one fewer after a long wait."""
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
        """Update the index of free hosts after the host's requests or slots have changed."""
        has_room = host.room() > 0
        if has_room != host._listed:
            host._listed = has_room
            for bag in host._bags:
                if has_room:
                    bag.add(host)
                else:
                    bag.discard(host)

    def _relist(self, host: Standing) -> None:
        """Update the index of models after anything else about the host has changed."""
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
