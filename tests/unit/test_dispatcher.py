"""Slots of several hosts: never more than a host has, granted in order, and none is ever lost."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from namel3ss_ollama.choosing import Wanted
from namel3ss_ollama.dispatcher import Dispatcher, HostSlot
from namel3ss_ollama.errors import QueueFullError
from namel3ss_ollama.fleet import Fleet, Loaded, Standing
from namel3ss_ollama.limiter import Slot, patiently

Virtual = Callable[[Any], Any]
M, N = "m:latest", "n:latest"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def make_dispatcher(
    *slots: int, clock: Callable[[], float] | None = None, last_resort: int | None = None, **limits: Any
) -> tuple[Dispatcher, list[Standing]]:
    """Hosts with these numbers of slots, which all have the model `M` loaded."""
    hosts = [Standing(f"http://{i}", slots=count, last_resort=i == last_resort) for i, count in enumerate(slots)]
    fleet = Fleet(hosts, rng=random.Random(1))
    for host in hosts:
        fleet.learn_loaded(host, {M: Loaded(digest="x")})
    return Dispatcher(fleet, clock=clock or Clock(), **limits), hosts


async def settle(turns: int = 5) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


def state(dispatcher: Dispatcher) -> tuple[int, int]:
    return dispatcher.running, dispatcher.queued


def busy(hosts: list[Standing]) -> list[int]:
    return [host.in_flight for host in hosts]


async def take(dispatcher: Dispatcher, model: str = M, **wants: Any) -> HostSlot:
    slot = await dispatcher.acquire(Wanted(model, **wants))
    assert isinstance(slot, HostSlot)
    return slot


def waiter(dispatcher: Dispatcher, model: str = M, **wants: Any) -> asyncio.Task[HostSlot]:
    return asyncio.create_task(take(dispatcher, model, **wants))


@contextmanager
def stopped_loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    try:
        yield loop
    finally:
        loop.close()


# Slots


async def test_every_slot_of_every_host_is_used_and_no_more() -> None:
    dispatcher, hosts = make_dispatcher(1, 2, 3)
    slots = [await take(dispatcher) for _ in range(6)]
    assert busy(hosts) == [1, 2, 3]
    assert Counter(slot.host.url for slot in slots) == {"http://0": 1, "http://1": 2, "http://2": 3}
    assert dispatcher.try_acquire(Wanted(M)) is None
    more = waiter(dispatcher)
    await settle()
    assert state(dispatcher) == (6, 1)
    dispatcher.release(slots[3])
    assert (await more).host is slots[3].host
    for slot in [*slots, more.result()]:
        dispatcher.release(slot)
    assert (state(dispatcher), busy(hosts)) == ((0, 0), [0, 0, 0])


async def test_slots_are_granted_in_order_of_arrival() -> None:
    dispatcher, hosts = make_dispatcher(1, 2)
    order: list[int] = []

    async def work(number: int) -> None:
        slot = await take(dispatcher)
        order.append(number)
        assert all(host.in_flight <= host.slots for host in hosts)
        await settle(number % 3)
        dispatcher.release(slot)

    await asyncio.gather(*(work(number) for number in range(20)))
    assert order == list(range(20))
    assert (state(dispatcher), busy(hosts)) == ((0, 0), [0, 0])


async def test_a_newcomer_does_not_overtake_a_waiter_that_got_a_slot() -> None:
    dispatcher, _ = make_dispatcher(1)
    slot = await take(dispatcher)
    first = waiter(dispatcher)
    await settle()
    dispatcher.release(slot)
    assert dispatcher.try_acquire(Wanted(M)) is None
    assert (await first).held


async def test_models_do_not_wait_for_each_other() -> None:
    dispatcher, hosts = make_dispatcher(1, 1)
    dispatcher.change(lambda fleet, _: fleet.learn_loaded(hosts[1], {N: Loaded(digest="y")}))
    for host in hosts:
        host.pulled = dict.fromkeys(host.loaded, (1, "x"))
    one = await take(dispatcher)
    behind = [waiter(dispatcher) for _ in range(3)]
    await settle()
    other = await take(dispatcher, N)  # though three wait
    assert (one.host, other.host) == (hosts[0], hosts[1])
    for task in behind:
        task.cancel()
    await asyncio.wait(behind)
    assert state(dispatcher) == (2, 0)


@pytest.mark.parametrize("limit", [1, 2, 5])
async def test_a_limit_on_all_hosts_together(limit: int) -> None:
    dispatcher, hosts = make_dispatcher(2, 2, max_concurrent=limit)
    slots = [await take(dispatcher) for _ in range(min(limit, 4))]
    assert dispatcher.try_acquire(Wanted(M)) is None
    more = waiter(dispatcher)
    await settle()
    assert state(dispatcher) == (min(limit, 4), 1)
    assert all(host.in_flight <= host.slots for host in hosts)
    dispatcher.release(slots.pop())
    slots.append(await more)
    assert state(dispatcher) == (min(limit, 4), 0)


async def test_a_request_goes_where_it_has_not_failed() -> None:
    dispatcher, hosts = make_dispatcher(2, 2)
    for host, other in (hosts, reversed(hosts)):
        slot = await take(dispatcher, tried=frozenset({host}))
        assert slot.host is other
        dispatcher.release(slot)


async def test_a_retried_request_is_served_first() -> None:
    dispatcher, hosts = make_dispatcher(1, 1)
    held = [await take(dispatcher) for _ in range(2)]
    other = waiter(dispatcher)
    await settle()
    moved = waiter(dispatcher, tried=frozenset({hosts[0]}))
    await settle()
    dispatcher.release(next(slot for slot in held if slot.host is hosts[1]))
    await settle()
    assert (moved.done(), other.done()) == (True, False)
    other.cancel()


# The queue's limits


@pytest.mark.parametrize("max_queue", [0, 2])
async def test_a_full_queue_rejects_requests(max_queue: int) -> None:
    dispatcher, _ = make_dispatcher(1, max_queue=max_queue)
    slot = await take(dispatcher)
    waiting = [waiter(dispatcher) for _ in range(max_queue)]
    await settle()
    with pytest.raises(QueueFullError, match=rf"1 requests run and {max_queue} wait .* or the slots of the hosts"):
        await take(dispatcher)
    with patiently():
        patient = waiter(dispatcher)
    # Once wrong: a request whose host had failed was rejected
    moved = waiter(dispatcher, asked=True)
    await settle()
    assert state(dispatcher) == (1, max_queue + 2)
    for task in [*waiting, patient, moved]:
        dispatcher.release(slot)
        slot = await task
    dispatcher.release(slot)
    assert state(dispatcher) == (0, 0)


def test_a_queue_timeout_is_an_error(virtual: Virtual) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        dispatcher, _ = make_dispatcher(1, 1, queue_timeout=5, clock=loop.time)
        slots = [await take(dispatcher) for _ in range(2)]
        start = loop.time()
        with pytest.raises(QueueFullError, match=r"within queue_timeout=5 s \(2 on 2 hosts\); try again later"):
            await take(dispatcher)
        assert loop.time() - start == pytest.approx(5)
        assert state(dispatcher) == (2, 0)
        for slot in slots:
            dispatcher.release(slot)

    virtual(scenario())


@pytest.mark.parametrize("turns", range(5))
@pytest.mark.parametrize("others", [0, 1])
async def test_a_slot_survives_a_cancellation_at_any_point_after_the_handover(turns: int, others: int) -> None:
    dispatcher, hosts = make_dispatcher(1)
    slot = await take(dispatcher)
    first = waiter(dispatcher)
    queue = [waiter(dispatcher) for _ in range(others)]
    await settle()
    dispatcher.release(slot)
    for _ in range(turns):
        await asyncio.sleep(0)
    if first.cancel():
        with pytest.raises(asyncio.CancelledError):
            await first
    else:
        dispatcher.release(first.result())
    slots = await asyncio.gather(*queue)
    assert (state(dispatcher), busy(hosts)) == ((others, 0), [others])
    for slot in slots:
        dispatcher.release(slot)
    assert (await asyncio.wait_for(take(dispatcher), 1)).host is hosts[0]


async def test_all_waiters_can_be_cancelled_at_once() -> None:
    dispatcher, hosts = make_dispatcher(1, 1)
    held = [await take(dispatcher) for _ in range(2)]
    tasks = [waiter(dispatcher, model) for model in (M, N) for _ in range(5)]
    await settle()
    for slot in held:
        dispatcher.release(slot)
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    assert (state(dispatcher), busy(hosts)) == ((0, 0), [0, 0])
    assert dispatcher._queues._by_model == {}


async def test_a_slot_is_released_once() -> None:
    dispatcher, hosts = make_dispatcher(2)
    slot, _ = await take(dispatcher), await take(dispatcher)
    for _ in range(3):
        dispatcher.release(slot)
    assert (state(dispatcher), busy(hosts)) == ((1, 0), [1])


# Hosts that go and come back


def eject(dispatcher: Dispatcher, *hosts: Standing, seconds: float | None = None) -> None:
    def change(fleet: Fleet, now: float) -> None:
        for host in hosts:
            fleet.eject(host, now, "it failed", seconds=seconds)

    dispatcher.change(change)


def test_waiters_get_the_first_host_that_returns(virtual: Virtual) -> None:
    # Once wrong: after a quarter of a second every waiter was sent to an ejected host
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        dispatcher, hosts = make_dispatcher(4, 4, clock=loop.time)
        eject(dispatcher, hosts[0], seconds=100)
        eject(dispatcher, hosts[1], seconds=10)
        assert dispatcher.try_acquire(Wanted(M)) is None
        waiting = [waiter(dispatcher) for _ in range(10)]
        await asyncio.sleep(7)
        assert state(dispatcher) == (0, 10)
        await asyncio.sleep(6)  # ten seconds, plus or minus 20 %
        assert busy(hosts) == [0, 1]  # one on trial
        assert state(dispatcher) == (1, 9)
        trial = next(task for task in waiting if task.done()).result()
        dispatcher.release(trial)
        await asyncio.sleep(1)
        assert busy(hosts) == [0, 1]  # there was no answer, so the next one is on trial
        dispatcher.change(lambda fleet, _: fleet.heal(hosts[1]))
        assert busy(hosts) == [0, 4]
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        for task in waiting:
            if not task.cancelled():
                dispatcher.release(task.result())
        assert (state(dispatcher), busy(hosts)) == ((0, 0), [0, 0])

    virtual(scenario())


def test_a_queue_timeout_names_the_failures_of_the_hosts(virtual: Virtual) -> None:
    async def scenario() -> None:
        dispatcher, hosts = make_dispatcher(*[1] * 5, queue_timeout=2, clock=asyncio.get_running_loop().time)
        eject(dispatcher, *hosts, seconds=60)
        reasons = "http://0: it failed; http://1: it failed; http://2: it failed; and 2 more"
        with pytest.raises(QueueFullError, match=rf"^no host was available within queue_timeout=2 s \({reasons}\)"):
            await take(dispatcher)

    virtual(scenario())


async def test_a_look_readmits_hosts_for_waiters() -> None:
    clock = Clock()
    dispatcher, hosts = make_dispatcher(1, clock=clock)
    eject(dispatcher, *hosts)
    waiting = waiter(dispatcher)
    await settle()
    clock.now += 5
    dispatcher.look(lambda *_: None)
    await asyncio.wait_for(waiting, 0.2)  # at once, not at the next tick


async def test_a_host_that_fails_while_its_waiter_has_tried_the_others_is_not_waited_for() -> None:
    # Once wrong: a request that had tried the other host waited until this one returned
    clock = Clock()
    dispatcher, hosts = make_dispatcher(1, 1, clock=clock)
    held = [await take(dispatcher) for _ in range(2)]
    moved = waiter(dispatcher, tried=frozenset({hosts[0]}))
    await settle()
    eject(dispatcher, hosts[1], seconds=600)
    dispatcher.release(next(slot for slot in held if slot.host is hosts[0]))
    assert (await asyncio.wait_for(moved, 1)).host is hosts[0]


async def test_the_embedded_engine_is_used_if_no_server_is_left() -> None:
    dispatcher, hosts = make_dispatcher(1, 1, 1, last_resort=0)
    slots = [await take(dispatcher) for _ in range(2)]
    assert hosts[0] not in {slot.host for slot in slots}
    assert dispatcher.try_acquire(Wanted(M)) is None  # the servers are busy, not ejected
    eject(dispatcher, *hosts[1:], seconds=60)
    slot = await take(dispatcher)
    assert slot.host is hosts[0]
    assert dispatcher.try_acquire(Wanted(M)) is None


async def test_a_request_waits_for_its_home_if_that_is_worth_it(virtual: Virtual) -> None:
    dispatcher, hosts = make_dispatcher(1, 1)
    slot = await take(dispatcher, home=hosts[1])
    assert slot.host is hosts[1]
    waiting = waiter(dispatcher, home=hosts[1], saved=50.0)
    await settle()
    assert not waiting.done()
    dispatcher.release(slot)
    assert (await waiting).host is hosts[1]


def test_a_request_waits_for_its_home_no_longer_than_that_saves(virtual: Virtual) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        dispatcher, hosts = make_dispatcher(1, 1, clock=loop.time)
        await take(dispatcher, home=hosts[1])
        start = loop.time()
        slot = await take(dispatcher, home=hosts[1], saved=5.0)
        assert slot.host is hosts[0]
        assert loop.time() - start == pytest.approx(5, abs=0.3)

    virtual(scenario())


def test_homes_are_forgotten_by_age_and_number(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    dispatcher, hosts = make_dispatcher(1, 1, clock=clock)
    dispatcher.change(lambda fleet, now: fleet.measured(hosts[1], M, now, wait=0, load=0, service=1, prefill=100.0))
    monkeypatch.setattr("namel3ss_ollama.dispatcher._HOMES", 3)
    for key in range(1, 6):
        dispatcher.remember_home(key, hosts[1], 500)
    wanted = Wanted(M)
    dispatcher.find_home(wanted, [1, 2])
    assert wanted.home is None  # forgotten for newer ones
    dispatcher.find_home(wanted, [1, 3, 4, 77])
    assert (wanted.home, wanted.saved) == (hosts[1], 5.0)
    clock.now += 601
    wanted = Wanted(M)
    dispatcher.find_home(wanted, [5])
    assert wanted.home is None


@pytest.mark.parametrize("count", [3, 9, 20])
@pytest.mark.parametrize("slots", [1, 4])
def test_each_host_gets_its_share_and_is_busy(virtual: Virtual, count: int, slots: int) -> None:
    """Hosts of speeds 1:2:5, with random response times."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        dispatcher, hosts = make_dispatcher(*[slots] * count, clock=loop.time)
        chance = random.Random(7)
        speeds = {host: (1.0, 2.0, 5.0)[index % 3] for index, host in enumerate(hosts)}
        calls, seconds, answered = 300 * count, Counter[Standing](), Counter[Standing]()
        left, ended = calls, 0.0

        async def call() -> None:
            nonlocal left, ended
            slot = await take(dispatcher)
            left -= 1
            ended = loop.time() if left == 0 else ended
            took = chance.uniform(0.5, 1.5) / speeds[slot.host]
            await asyncio.sleep(took)
            if left:
                seconds[slot.host] += took
                answered[slot.host] += 1
            dispatcher.release(slot)

        start = loop.time()
        await asyncio.gather(*(call() for _ in range(calls)))
        span = ended - start
        assert sum(seconds.values()) >= 0.95 * span * count * slots
        for speed in (1.0, 2.0, 5.0):
            of_speed = [host for host in hosts if speeds[host] == speed]
            share = sum(answered[host] for host in of_speed) / sum(answered.values())
            assert share == pytest.approx(speed * len(of_speed) / sum(speeds.values()), rel=0.1)

    virtual(scenario())


# Requests within requests


async def test_a_nested_request_may_exceed_the_limit() -> None:
    dispatcher, hosts = make_dispatcher(1, 1)
    outer = [await take(dispatcher) for _ in range(2)]
    outer[0].mark()
    inner = await take(dispatcher)
    assert sum(busy(hosts)) == 3
    for slot in [inner, *outer]:
        dispatcher.release(slot)
    assert (state(dispatcher), busy(hosts)) == ((0, 0), [0, 0])


def test_a_nested_request_waits_for_a_host_that_is_up(virtual: Virtual) -> None:
    # Once wrong: it was sent to an ejected host
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        monotonic = loop.time
        dispatcher, hosts = make_dispatcher(2, clock=monotonic)
        outer = await take(dispatcher)
        outer.mark()
        eject(dispatcher, hosts[0], seconds=10)
        inner = waiter(dispatcher)
        await asyncio.sleep(5)
        assert not inner.done()
        outer.unmark()
        dispatcher.release(outer)
        assert (await inner).host is hosts[0]
        assert loop.time() > 1000 + 8

    virtual(scenario())


def test_streams_that_all_wait_for_their_callers_let_others_run(virtual: Virtual, monkeypatch: Any) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr("namel3ss_ollama.limiter.time.monotonic", loop.time)
        dispatcher, hosts = make_dispatcher(1, 1, clock=loop.time)
        slots = [await take(dispatcher) for _ in range(2)]
        slots[0].idle_since = loop.time()
        waiting = [waiter(dispatcher) for _ in range(5)]
        await asyncio.sleep(10)
        assert state(dispatcher) == (2, 5)  # the other stream is still reading
        slots[1].idle_since = loop.time()
        await asyncio.sleep(1)
        assert state(dispatcher) == (4, 3)
        assert busy(hosts) == [2, 2]
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        for slot in [*slots, *(task.result() for task in waiting if not task.cancelled())]:
            dispatcher.release(slot)
        assert (state(dispatcher), busy(hosts)) == ((0, 0), [0, 0])

    virtual(scenario())


def test_streams_of_another_model_block_no_request(virtual: Virtual, monkeypatch: Any) -> None:
    # Once wrong: a host that was always busy with another model blocked a nested request for ever
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr("namel3ss_ollama.limiter.time.monotonic", loop.time)
        dispatcher, hosts = make_dispatcher(1, 1, clock=loop.time)
        dispatcher.change(lambda fleet, _: fleet.learn_loaded(hosts[1], {N: Loaded(digest="y")}))
        for host in hosts:
            host.pulled = dict.fromkeys(host.loaded, (1, "x"))
        outer, other = await take(dispatcher), await take(dispatcher, N)
        outer.idle_since = loop.time()
        slot = await asyncio.wait_for(take(dispatcher), 2)
        assert slot.host is hosts[0]
        assert other.idle_since is None

    virtual(scenario())


# Event loops, threads, forks, finalizers


@pytest.mark.timeout(60)
@pytest.mark.parametrize("limit", [None, 2])
def test_event_loops_in_several_threads_share_the_hosts(limit: int | None) -> None:
    dispatcher, hosts = make_dispatcher(1, 2, 1, max_concurrent=limit)
    lock = threading.Lock()
    now: Counter[str] = Counter()
    most: Counter[str] = Counter()
    done: Counter[str] = Counter()
    together = 0

    async def work(model: str) -> None:
        nonlocal together
        slot = await take(dispatcher, model)
        url = slot.host.url
        with lock:
            now[url] += 1
            most[url] = max(most[url], now[url])
            together = max(together, sum(now.values()))
        await settle(2)
        with lock:
            now[url] -= 1
            done[url] += 1
        dispatcher.release(slot)

    async def many() -> None:
        await asyncio.gather(*(work(M) for _ in range(50)))

    threads = [threading.Thread(target=asyncio.run, args=(many(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert not any(thread.is_alive() for thread in threads)
    assert sum(done.values()) == 200
    assert all(most[host.url] <= host.slots for host in hosts)
    assert together <= (limit or 4)
    assert (state(dispatcher), busy(hosts)) == ((0, 0), [0, 0, 0])


@pytest.mark.timeout(60)
def test_a_host_that_returns_in_one_thread_wakes_a_waiter_in_another() -> None:
    dispatcher, hosts = make_dispatcher(1)
    eject(dispatcher, *hosts, seconds=1000)
    held: list[HostSlot] = []

    async def wait() -> None:
        held.append(await take(dispatcher))

    thread = threading.Thread(target=asyncio.run, args=(wait(),))
    thread.start()
    while not dispatcher.queued:
        pass
    dispatcher.change(lambda fleet, _: fleet.heal(hosts[0]))
    thread.join(10)
    assert not thread.is_alive()
    assert held


@pytest.mark.timeout(20)
async def test_slots_of_a_closed_event_loop_are_reclaimed() -> None:
    dispatcher, hosts = make_dispatcher(1, 2)
    for _ in range(3):
        loop = asyncio.new_event_loop()
        slot = await asyncio.to_thread(loop.run_until_complete, take(dispatcher))
        assert isinstance(slot, Slot)
        loop.close()
    loops = [asyncio.new_event_loop() for _ in range(3)]
    for loop in loops:
        await asyncio.to_thread(loop.run_until_complete, take(dispatcher))
    assert busy(hosts) == [1, 2]
    waiting = waiter(dispatcher)
    await settle()
    assert state(dispatcher) == (3, 1)
    loops[0].close()
    await waiting
    assert state(dispatcher) == (3, 0)
    for loop in loops:
        loop.close()
    dispatcher.release(waiting.result())
    assert (state(dispatcher), busy(hosts)) == ((0, 0), [0, 0])


def test_a_closed_event_loop_gets_no_slot() -> None:
    dispatcher, _ = make_dispatcher(1)
    with stopped_loop() as holder, stopped_loop() as dead:
        slot = holder.run_until_complete(take(dispatcher))
        task = dead.create_task(take(dispatcher))
        dead.run_until_complete(asyncio.sleep(0))
        assert state(dispatcher) == (1, 1)
        setattr(task, "_log_destroy_pending", False)  # noqa: B010 -- asyncio would warn about it
        dead.close()

        async def next_one() -> None:
            waiting = waiter(dispatcher)
            await settle()
            dispatcher.release(slot)
            dispatcher.release(await waiting)

        asyncio.run(next_one())
    assert state(dispatcher) == (0, 0)
    assert dispatcher._queues._by_model == {}


def test_a_stopped_event_loop_gets_no_slot_until_it_runs_again() -> None:
    dispatcher, _ = make_dispatcher(1)
    with stopped_loop() as stopped:
        slot = stopped.run_until_complete(take(dispatcher))
        first = stopped.create_task(take(dispatcher))
        stopped.run_until_complete(asyncio.sleep(0))

        async def behind_it() -> None:
            second = waiter(dispatcher)
            await settle()
            dispatcher.release(slot)
            dispatcher.release(await asyncio.wait_for(second, 5))
            assert state(dispatcher) == (0, 1)

        asyncio.run(behind_it())
        dispatcher.release(stopped.run_until_complete(first))
    assert state(dispatcher) == (0, 0)


async def test_a_parents_slot_gives_a_child_no_extra_slot() -> None:
    dispatcher, hosts = make_dispatcher(1)
    slot = await take(dispatcher)
    dispatcher.remember_home(1, hosts[0], 100)
    waiting = waiter(dispatcher)
    await settle()
    dispatcher.after_fork()
    assert (state(dispatcher), busy(hosts)) == ((0, 0), [0])
    dispatcher.release(slot)  # a child closes a stream that the parent opened
    assert busy(hosts) == [0]
    await take(dispatcher)
    assert dispatcher.try_acquire(Wanted(M)) is None
    waiting.cancel()


def test_a_finalizer_releases_a_slot_within_any_critical_section() -> None:
    dispatcher, hosts = make_dispatcher(1)
    with stopped_loop() as loop:
        slot = loop.run_until_complete(take(dispatcher))
        with dispatcher._lock:
            dispatcher.release(slot)  # would deadlock if it waited
        assert (state(dispatcher), busy(hosts)) == ((0, 0), [0])


# Any sequence of events


class Events(RuleBasedStateMachine):
    """Requests for two models start, end and are cancelled; hosts fail, return, load and unload; time passes."""

    @initialize(slots=st.lists(st.integers(1, 3), min_size=1, max_size=4), limit=st.none() | st.integers(1, 4))
    def begin(self, slots: list[int], limit: int | None) -> None:
        self.clock = Clock()
        self.dispatcher, self.hosts = make_dispatcher(*slots, clock=self.clock, max_concurrent=limit)
        self.limit = limit
        self.loop = asyncio.new_event_loop()
        self.held: list[HostSlot] = []
        self.waiting: list[asyncio.Task[HostSlot]] = []

    def run(self) -> None:
        self.loop.run_until_complete(settle(3))
        for task in [task for task in self.waiting if task.done()]:
            self.waiting.remove(task)
            if not task.cancelled():
                self.held.append(task.result())

    @rule(model=st.sampled_from([M, N]), home=st.integers(0, 3), saved=st.sampled_from([0.0, 5.0]))
    def ask(self, model: str, home: int, saved: float) -> None:
        at = self.hosts[home] if home < len(self.hosts) else None
        self.waiting.append(self.loop.create_task(take(self.dispatcher, model, home=at, saved=saved)))
        self.run()

    @rule(data=st.data(), fails=st.booleans())
    def end(self, data: st.DataObject, fails: bool) -> None:
        if self.held:
            slot = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
            if fails:
                eject(self.dispatcher, slot.host)
            self.dispatcher.release(slot)
            self.run()

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if self.waiting:
            self.waiting[data.draw(st.integers(0, len(self.waiting) - 1))].cancel()
            self.run()

    @rule(seconds=st.sampled_from([0.1, 1.3, 20.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        self.loop.call_soon(self.dispatcher._look_after, self.loop)
        self.run()

    @rule(index=st.integers(0, 3), loaded=st.sets(st.sampled_from([M, N])))
    def learn(self, index: int, loaded: set[str]) -> None:
        host = self.hosts[index % len(self.hosts)]
        known = {name: Loaded(digest="x") for name in loaded}
        self.loop.call_soon(self.dispatcher.change, lambda fleet, _: fleet.learn_loaded(host, known))
        self.run()

    @rule(index=st.integers(0, 3))
    def heal(self, index: int) -> None:
        host = self.hosts[index % len(self.hosts)]
        self.loop.call_soon(self.dispatcher.change, lambda fleet, _: fleet.heal(host))
        self.run()

    @invariant()
    def no_host_has_more_than_its_slots(self) -> None:
        if hasattr(self, "hosts"):
            assert Counter(slot.host for slot in self.held) == Counter(
                {host: host.in_flight for host in self.hosts if host.in_flight}
            )
            assert all(host.in_flight <= host.slots for host in self.hosts)
            assert len(self.held) <= (self.limit or 100)
            assert len(self.dispatcher._waiters) == len(self.waiting)

    def teardown(self) -> None:
        if not hasattr(self, "hosts"):
            return
        # Once all hosts have returned and time has passed, every request gets a slot.
        for _ in range(1000):
            if not self.held and not self.waiting:
                break
            for slot in self.held:
                self.dispatcher.release(slot)
            self.held.clear()
            for host in self.hosts:
                self.loop.call_soon(self.dispatcher.change, lambda fleet, _, host=host: fleet.heal(host))
            self.pass_time(20.0)
        assert (self.held, self.waiting) == ([], [])
        assert busy(self.hosts) == [0] * len(self.hosts)
        self.loop.close()


Events.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None, derandomize=True)
TestEvents = Events.TestCase
