"""Several servers as one: which host answers, what a failure says about a host, and where a request goes next.

A request gets its turn (`turn.py`) on one host after the other, on each at most once while others are left. A pure
function (`verdict`) decides what a failure means: an unreachable host is ejected for a while, a host that lacks a model
is not asked for that model, and a failure caused by the request itself is not tried elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar, cast

from namel3ss_ollama.choosing import Wanted
from namel3ss_ollama.conversations import beginnings
from namel3ss_ollama.dispatcher import Dispatcher, HostSlot
from namel3ss_ollama.errors import (
    AuthenticationError,
    LLMError,
    LLMTimeoutError,
    ModelNotFoundError,
    QuotaExceededError,
    ServerBusyError,
    ServerError,
    StreamInterruptedError,
    ToolCallParseError,
)
from namel3ss_ollama.fleet import EJECT_MOST, Fleet, Loaded, Standing, tagged
from namel3ss_ollama.hosts import HostState
from namel3ss_ollama.preflight import Problem
from namel3ss_ollama.retrier import Retrier
from namel3ss_ollama.scout import Scout, is_unreachable
from namel3ss_ollama.server import Server
from namel3ss_ollama.streamer import Watch
from namel3ss_ollama.telemetry import Call, Outcome, Telemetry
from namel3ss_ollama.turn import Turn

__all__ = ["HostTurn", "Pool", "differences", "verdict"]

logger = logging.getLogger("namel3ss_ollama")
T = TypeVar("T")
_LACKS_HOLDS = 60.0
_BROKEN_HOLDS = 30.0
_WEDGED_HOLDS = 30.0
_BUSY_HOLDS = 1.0
_REFUSED_HOLDS = 600.0
_BUSY_MOST = EJECT_MOST
_CHARACTERS_A_TOKEN = 4
_SILENCE = frozenset({"first_chunk_timeout", "chunk_timeout", "tool_call_timeout"})
_NAMED = 5
"""How many hosts an error message names."""
_SHORTEST_LOAD = 0.1
"""Seconds: a real load takes longer; a loaded model reports less."""

Verdict = Literal["unreachable", "busy", "lacks the model", "broken", "refuses us", "hangs", "not the host's"]


def verdict(error: LLMError, *, loading: bool) -> Verdict:
    """What a failure says about its host.

    Args:
        error: The failure, before anything was handed out.
        loading: Whether the host was loading the model for this request.
    """
    if isinstance(error, ToolCallParseError):
        return "not the host's"
    if is_unreachable(error):
        return "unreachable"
    if isinstance(error, ServerBusyError):
        return "busy"
    if isinstance(error, ModelNotFoundError):
        return "lacks the model"
    if isinstance(error, AuthenticationError):
        return "refuses us"
    if isinstance(error, LLMTimeoutError):
        # Other hosts would have to load it, too: a short deadline must not make all of them do so.
        return "hangs" if error.deadline in _SILENCE and not loading else "not the host's"
    if isinstance(error, QuotaExceededError):  # a matter of the host's account
        return "broken"
    if error.temporary and isinstance(error, (ServerError, StreamInterruptedError)):
        return "broken"
    return "not the host's"


class Pool:
    """Several servers.

    Args:
        servers: The servers, by their state.
        dispatcher: Manages their slots.
        refresh: The interval at which each is polled for its loaded models, in seconds.
    """

    def __init__(self, servers: Mapping[Standing, Server], dispatcher: Dispatcher, refresh: float) -> None:
        self.servers = servers
        self.dispatcher = dispatcher
        self.scout = Scout(servers, dispatcher, refresh, self._compare)
        self._warned: set[str] = set()

    @property
    def any(self) -> Server:
        """Any of the servers."""
        return next(iter(self.servers.values()))

    def first(self) -> Server:
        """The first available host, for requests that any host can answer."""
        return self.servers[self._in_order()[0]]

    async def ask_first(self, ask: Callable[[Server], Awaitable[T]]) -> T:
        """The answer of the first available host that has what is requested.

        Raises:
            LLMError: No host has it; otherwise the first host's failure.
        """
        await self.scout.know()
        failures: list[LLMError] = []
        lacking: dict[str, LLMError] = {}
        for host in self._in_order():
            server = self.servers[host]
            try:
                return await ask(server)
            except LLMError as error:
                found = verdict(error, loading=False)
                if found == "not the host's":
                    raise
                if found == "lacks the model":
                    lacking[server.url] = error
                else:
                    failures.append(error)
                    self._eject_if_unreachable(host, error)
        failure = [*lacking.values(), *failures][0]
        _name_hosts(failure, list(lacking))
        raise failure

    async def ask_each(self, ask: Callable[[Server], Awaitable[T]]) -> list[tuple[Server, T]]:
        """The answers of all hosts; one that fails is skipped with a warning.

        Raises:
            LLMError: The first failure, if all hosts failed.
        """

        async def ask_one(host: Standing, server: Server) -> T | LLMError:
            try:
                return await ask(server)
            except LLMError as error:
                self._eject_if_unreachable(host, error)
                return error

        answers = await asyncio.gather(*(ask_one(host, server) for host, server in self.servers.items()))
        found: list[tuple[Server, T]] = []
        failures: list[tuple[Server, LLMError]] = []
        for server, answer in zip(self.servers.values(), answers, strict=True):
            if isinstance(answer, LLMError):
                failures.append((server, answer))
            else:
                found.append((server, answer))
        if not found:
            raise failures[0][1]
        for server, error in failures:
            self._warn(f"{server.url} is skipped: {error}")
        return found

    async def able_to_load(self, model: str) -> list[Standing]:
        """The available hosts with the model: first those that have it loaded, then those that load it soonest."""
        await self.scout.look()
        name = tagged(model)

        def find(fleet: Fleet, now: float) -> list[Standing]:
            able = [host for host in fleet.hosts if not host.is_out and host.may_have(name, now)]
            return sorted(able, key=lambda host: (host.last_resort, name not in host.loaded, host.load_seconds(name)))

        return self.dispatcher.look(find)

    async def having_loaded(self, model: str) -> list[Standing]:
        """The available hosts that have the model loaded, or are loading it."""
        await self.scout.look()
        return self.dispatcher.look(
            lambda fleet, _: [host for host in fleet.hosts if host in fleet.holders(tagged(model))]
        )

    def _in_order(self) -> list[Standing]:
        """All hosts, the available ones first."""
        return self.dispatcher.look(
            lambda fleet, _: sorted(fleet.hosts, key=lambda host: (host.is_out, host.last_resort))
        )

    def _eject_if_unreachable(self, host: Standing, error: LLMError) -> None:
        why = str(error)
        if is_unreachable(error):
            self.dispatcher.change(lambda fleet, now: fleet.eject(host, now, why))

    def wanted(self, body: Mapping[str, Any], only: Standing | None = None) -> Wanted:
        """What a request needs from a host, or from a given one only."""
        wanted = Wanted(tagged(str(body.get("model", ""))), _characters(body) / _CHARACTERS_A_TOKEN)
        if only is not None:
            # As if the others had failed on it, so that it does not block requests that may go elsewhere.
            wanted.tried = wanted.barred = frozenset(self.servers) - {only}
        keys = beginnings(body) if "messages" in body else []
        if keys:
            wanted.key = keys[-1]
            self.dispatcher.find_home(wanted, keys)
        return wanted

    def states(self) -> list[HostState]:
        """The current state of the hosts."""

        def read(fleet: Fleet, now: float) -> list[HostState]:
            return [_state(host, now) for host in fleet.hosts]

        return self.dispatcher.look(read)

    def failed(self, host: Standing, wanted: Wanted, error: LLMError) -> bool:
        """A host failed on a request; whether the request may go elsewhere."""
        known = host.loaded.get(wanted.model)
        loading = known is not None and not known.digest and not self.scout.is_silent(host)
        found = verdict(error, loading=loading)
        why = str(error)

        def learn(fleet: Fleet, now: float) -> None:
            if found == "unreachable":
                fleet.eject(host, now, why)
            elif found == "busy":
                fleet.fewer(host)
                fleet.pause(host, now + min(error.retry_after or _BUSY_HOLDS, _BUSY_MOST), why)
            elif found == "lacks the model":
                fleet.without(host, wanted.model, now + _LACKS_HOLDS, missing=True)
            elif found == "broken":
                fleet.without(host, wanted.model, now + _BROKEN_HOLDS)
            elif found == "refuses us" and _is_cloud(wanted.model):  # a matter of its account or cloud access
                fleet.without(host, wanted.model, now + _REFUSED_HOLDS)
            elif found == "refuses us":
                fleet.eject(host, now, why, seconds=_REFUSED_HOLDS, spare_last=True)
            elif found == "hangs":
                fleet.eject(host, now, why, seconds=_WEDGED_HOLDS, spare_last=True)

        if found != "not the host's":
            self.dispatcher.change(learn)
        if found == "refuses us":
            self._warn(f"{why}; trying the other hosts")
        return found != "not the host's"

    def works(self, host: Standing, model: str) -> None:
        """A host has begun to answer."""
        if host.failures or model in host.without:
            self.dispatcher.change(lambda fleet, _: fleet.works(host, model))

    def answered(self, turn: HostTurn, final: Mapping[str, Any]) -> None:
        """A host has answered; its last line reports the durations."""
        if turn.slot is None:
            return
        host, wanted = turn.slot.host, turn.wanted
        times = [_seconds(final.get(f"{part}_duration")) for part in ("total", "load", "prompt_eval", "eval")]
        total, load, reading, writing = times
        counted, written = _count(final.get("prompt_eval_count")), _count(final.get("eval_count"))
        cached = _count(final.get("prompt_eval_cached_count"))

        # For embeddings a server reports only total and load, so the wait is unknown.
        service = reading + writing or max(total - load, 0.0)

        def learn(fleet: Fleet, now: float) -> None:
            fleet.works(host, wanted.model)
            if not total:
                return
            at_home = wanted.home is host or cached
            fleet.measured(
                host,
                wanted.model,
                now,
                wait=max(total - load - service, 0.0),
                load=load,
                service=service,
                prefill=counted / reading if counted and reading and not at_home else None,
                decode=written / writing if written and writing else None,
            )

        self.dispatcher.change(learn)
        if wanted.key:
            self.dispatcher.remember_home(wanted.key, host, counted)
        if load > _SHORTEST_LOAD:
            self.scout.again(host)

    def is_left(self, wanted: Wanted, *, waits: bool = False) -> bool:
        """Whether there is an untried host that can be asked.

        Args:
            wanted: What the request needs, and which hosts failed on it.
            waits: Whether it may wait for a host that is ejected, or that failed with the model recently.
        """
        model = wanted.model

        def find(fleet: Fleet, now: float) -> bool:
            untried = [host for host in fleet.hosts if host not in wanted.tried]
            left = [host for host in untried if (host.has if waits else host.may_have)(model, now)]
            if not left and not any(host.has(model, now) for host in fleet.hosts):
                left = [host for host in untried if host.missing.get(model, 0.0) <= now]  # it may have it by now
            return any(not host.is_out or (waits and host.out_until - now <= EJECT_MOST) for host in left)

        return self.dispatcher.look(find)

    def name_lacking(self, wanted: Wanted, error: LLMError) -> None:
        """Make the error name the hosts if all lack the model."""
        if not isinstance(error, ModelNotFoundError):
            return

        def find(fleet: Fleet, now: float) -> list[str]:
            return [host.url for host in fleet.hosts if not host.has(wanted.model, now)]

        lacking = self.dispatcher.look(find)
        if len(lacking) == len(self.servers):
            _name_hosts(error, lacking)

    def _compare(self) -> None:
        """Warn if a model that is loaded on several hosts differs between them."""
        for difference in differences(self.states(), dict(self._pulled())):
            # Once per model, however many hosts load it later.
            self._warn(str(difference), difference.what.partition(" (")[0])

    def _pulled(self) -> Sequence[tuple[str, Mapping[str, tuple[int, str]]]]:
        def read(fleet: Fleet, _: float) -> Sequence[tuple[str, Mapping[str, tuple[int, str]]]]:
            return [(host.url, host.pulled or {}) for host in fleet.hosts]

        return self.dispatcher.look(read)

    def differing(self, model: str) -> list[Problem]:
        """Descriptions of how a model differs between the hosts."""
        return differences(self.states(), dict(self._pulled()), tagged(model))

    def _warn(self, message: str, once: str | None = None) -> None:
        if (once or message) not in self._warned:
            self._warned.add(once or message)
            logger.warning("%s", message)


class HostTurn(Turn):
    """A turn on one of several hosts, and on the next one if that fails.

    Args:
        pool: The hosts.
        wanted: What the request needs.
        telemetry: Where its numbers go.
        call: Its numbers, started.
        watch: Its deadlines, started.
    """

    __slots__ = ("pool", "wanted")

    slot: HostSlot | None

    def __init__(self, pool: Pool, wanted: Wanted, telemetry: Telemetry, call: Call, watch: Watch) -> None:
        super().__init__(pool.any, pool.dispatcher, telemetry, call, watch)
        self.pool = pool
        self.wanted = wanted

    async def take_slot(self) -> None:
        """Wait for a slot of a host."""
        self.call.host = None  # none has it
        await self.watch.guard(self.pool.scout.know, idle=False)
        dispatcher = self.pool.dispatcher
        try:
            slot = dispatcher.try_acquire(self.wanted) or await self.watch.guard(
                lambda: dispatcher.acquire(self.wanted), idle=False
            )
        except LLMTimeoutError as error:
            if (out := dispatcher.why_all_out()) is not None:
                error.args = (f"{error.message} (no host is available: {out})",)
            raise
        self.slot = cast("HostSlot", slot)
        self.server = self.pool.servers[self.slot.host]
        self.call.host = self.server.url
        self.call.slot()
        if self.call.streaming:
            self.slot.mark()

    def leave(self) -> None:
        """Release the host's slot."""
        if self.slot is not None:
            self.slot.unmark()
            self.pool.dispatcher.release(self.slot)
            self.slot = None

    async def over_hosts(
        self, attempt: Callable[[], Awaitable[T]], retrier: Retrier, on_move: Callable[[LLMError], None]
    ) -> T:
        """The result of an attempt on a host, or on the next ones if the host caused the failure.

        Args:
            attempt: Sends the request to `self.server`.
            retrier: Holds the retry budget.
            on_move: Called with the failure before the request goes to another host.

        Raises:
            LLMError: The last failure.
        """
        wanted, pool = self.wanted, self.pool
        failed: LLMError | None = None  # a failure other than a missing model
        wanted.tried = wanted.barred
        while True:
            if self.slot is None:
                await self.take_slot()
            assert self.slot is not None
            host = self.slot.host
            try:
                result = await attempt()
            except LLMError as error:
                wanted.tried, wanted.asked = wanted.tried | {host}, True
                lacks = isinstance(error, ModelNotFoundError)
                moves = pool.failed(host, wanted, error) and retrier.policy.attempts > 1
                self.leave()
                if not moves or not pool.is_left(wanted, waits=lacks) or not retrier.affords():
                    if lacks and failed is not None:
                        raise failed from failed.__cause__
                    pool.name_lacking(wanted, error)
                    raise
                failed = failed if lacks else error
                on_move(error)
                self.watch.forgive()
                logger.info("%s: %s; trying another host", host.url, type(error).__name__)
            else:
                pool.works(host, wanted.model)
                return result

    def answered(self, final: Mapping[str, Any]) -> None:
        """The host has answered to the end."""
        self.pool.answered(self, final)

    def end(self, error: BaseException | None = None, outcome: Outcome | None = None) -> None:
        """As `Turn.end`; a failure after the answer began to reach the caller counts against the host."""
        if self.slot is not None and isinstance(error, LLMError):
            self.pool.failed(self.slot.host, self.wanted, error)
        super().end(error, outcome)


def _name_hosts(error: LLMError, lacking: Sequence[str]) -> None:
    """Make the error name the hosts if several lack the model."""
    if len(lacking) > 1:
        listed = ", ".join(lacking[:_NAMED])
        more = f" and {len(lacking) - _NAMED} more" if len(lacking) > _NAMED else ""
        error.args = (f"{error.message} (it is on none of {listed}{more})",)


def differences(
    states: Sequence[HostState], pulled: Mapping[str, Mapping[str, tuple[int, str]]], model: str | None = None
) -> list[Problem]:
    """Descriptions of how a model differs between hosts, so that the same request may get different answers.

    Args:
        states: The hosts.
        pulled: The installed models, by address: sizes in bytes and digests by name.
        model: The model; None for each that is loaded on several hosts.
    """
    loaded = {name for state in states for name in state.loaded}
    found: list[Problem] = []
    for name in sorted({model} if model is not None else loaded):
        digests = {url: models[name][1][:12] for url, models in pulled.items() if name in models and models[name][1]}
        if len(set(digests.values())) > 1:
            found.append(
                Problem(
                    f"{name} is not the same model on all hosts ({_grouped(digests)})",
                    "pull it again where it is stale",
                )
            )
        windows = {
            state.url: f"{known.context_length} tokens"
            for state in states
            if (known := state.loaded.get(name)) is not None and known.context_length
        }
        if len(set(windows.values())) > 1:
            what = f"{name} does not have the same context window on all hosts ({_grouped(windows)})"
            found.append(Problem(what, "set num_ctx"))
    return found


def _grouped(values: Mapping[str, str]) -> str:
    """Each value with one of its hosts, and the number of further hosts."""
    hosts: dict[str, list[str]] = {}
    for url, value in values.items():
        hosts.setdefault(value, []).append(url)
    return ", ".join(
        f"{value} on {urls[0]}{f' and {len(urls) - 1} more' if len(urls) > 1 else ''}" for value, urls in hosts.items()
    )


def _is_cloud(model: str) -> bool:
    """Whether a model runs at ollama.com, with the host's account."""
    tag = model.rpartition(":")[2]
    return tag == "cloud" or tag.endswith("-cloud")


def _state(host: Standing, now: float) -> HostState:
    speeds = [pace.decode for pace in host.pace.values() if pace.decode is not None]
    return HostState(
        url=host.url,
        up=not host.is_out,
        why_not=host.why_out if host.is_out or host.failures else "",
        version=host.version,
        loaded={name: known for name, known in host.loaded.items() if known != Loaded()},
        slots=host.slots,
        in_flight=host.in_flight,
        wait=max((pace.wait_now(now) for pace in host.pace.values()), default=0.0),
        tokens_per_second=sum(speeds) / len(speeds) if speeds else None,
    )


def _characters(body: Mapping[str, Any]) -> int:
    prompt = body.get("prompt")
    count = len(prompt) if isinstance(prompt, str) else 0
    for message in body.get("messages") or ():
        content = message.get("content")
        count += len(content) if isinstance(content, str) else 0
    return count


def _seconds(value: object) -> float:
    return value / 1e9 if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0 else 0.0


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
