from __future__ import annotations

import random
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from namel3ss_ollama.choosing import Wanted
from namel3ss_ollama.fleet import Fleet, Loaded, Standing
from namel3ss_ollama.queues import Queues

A, B, C = "a:latest", "b:latest", "c:latest"
THERE = Loaded("digest", 1)
NOW = 1000.0


@dataclass(eq=False)
class Waiter:
    wanted: Wanted
    is_ready: bool = True


def ready(waiter: Waiter) -> bool:
    return waiter.is_ready


def fleet_with(*models: str, slots: int = 1) -> Fleet:
    fleet = Fleet([Standing(f"http://h{at}", slots=slots) for at in range(len(models))], rng=random.Random(1))
    for host, model in zip(fleet.hosts, models, strict=True):
        fleet.learn_loaded(host, {model: THERE})
    return fleet


def queued(*wanted: Wanted) -> tuple[Queues[Waiter], list[Waiter]]:
    queues: Queues[Waiter] = Queues()
    waiters = [Waiter(one) for one in wanted]
    for at, waiter in enumerate(waiters):
        if waiter.wanted.since is None:
            waiter.wanted.since = NOW - 10.0 + 0.001 * at
        queues.add(waiter)
    return queues, waiters


def drain(queues: Queues[Waiter], fleet: Fleet, now: float = NOW) -> list[tuple[Waiter, Standing]]:
    """Assign hosts to waiters until no waiter can have one."""
    served: list[tuple[Waiter, Standing]] = []
    while (found := queues.next(fleet, now, ready)) is not None:
        waiter, host = found
        queues.remove(waiter)
        fleet.hold(host, waiter.wanted.model)
        served.append(found)
    return served


def test_an_empty_queue() -> None:
    assert Queues[Waiter]().next(fleet_with(A), NOW, ready) is None


def test_first_in_first_out() -> None:
    queues, waiters = queued(Wanted(A), Wanted(A), Wanted(A))
    fleet = fleet_with(A, A)
    assert [waiter for waiter, _ in drain(queues, fleet)] == waiters[:2]
    assert queues.waiting(A) == 1
    fleet.release(fleet.hosts[1])
    assert drain(queues, fleet) == [(waiters[2], fleet.hosts[1])]
    assert queues.waiting(A) == 0


def test_the_oldest_waiter_of_all_models_gets_a_slot() -> None:
    queues, waiters = queued(Wanted(A, since=NOW - 1.0), Wanted(B, since=NOW - 2.0))
    fleet = fleet_with(A)
    fleet.learn_loaded(fleet.hosts[0], {A: THERE, B: THERE})
    assert drain(queues, fleet) == [(waiters[1], fleet.hosts[0])]


def test_a_waiter_for_its_home_is_skipped_until_that_is_free_or_not_worth_it() -> None:
    fleet = fleet_with(A, A)
    home, other = fleet.hosts
    fleet.hold(home, A)
    queues, (first, second) = queued(Wanted(A, home=home, saved=5.0, since=NOW), Wanted(A, since=NOW))
    assert not queues.blocks(Wanted(A), NOW, lambda waiter: waiter is first)
    assert drain(queues, fleet) == [(second, other)]
    fleet.release(other)
    assert drain(queues, fleet) == []
    assert not queues.blocks(Wanted(A), NOW, ready)
    assert queues.blocks(Wanted(A), NOW + 5.0, ready)
    fleet.release(home)
    assert drain(queues, fleet) == [(first, home)]
    queues, (first,) = queued(Wanted(A, home=home, saved=5.0, since=NOW))
    assert drain(queues, fleet, NOW + 5.0) == [(first, other)]


def test_a_newcomer_waits_behind_the_queue() -> None:
    queues, (waiter,) = queued(Wanted(A))
    assert queues.blocks(Wanted(A), NOW, ready)
    assert not queues.blocks(Wanted(B), NOW, ready)
    host = fleet_with(A).hosts[0]
    assert not queues.blocks(Wanted(A, tried={host}), NOW, ready)
    waiter.is_ready = False
    assert not queues.blocks(Wanted(A), NOW, ready)


def test_a_failed_request_goes_first_and_blocks_no_other() -> None:
    fleet = fleet_with(A, A)
    failed, other = fleet.hosts
    fleet.hold(other, A)
    queues, (_, _, again) = queued(Wanted(A), Wanted(A), Wanted(A, tried={failed}))
    queues_without, _ = queued(Wanted(A, tried={failed}))
    assert not queues_without.blocks(Wanted(A), NOW, ready)
    assert [host for _, host in drain(queues, fleet)] == [failed]  # one of the others, since it cannot use that host
    fleet.release(other)
    assert drain(queues, fleet) == [(again, other)]


def test_a_waiter_that_is_not_ready_is_skipped() -> None:
    queues, (first, second) = queued(Wanted(A), Wanted(A))
    first.is_ready = False
    fleet = fleet_with(A, A)
    assert [waiter for waiter, _ in drain(queues, fleet)] == [second]
    queues.remove(second)
    queues.remove(first)
    assert queues.waiting(A) == 0
    queues.remove(first)


def test_models_with_equal_waits_take_no_hosts_from_each_other() -> None:
    fleet = fleet_with(A, B, slots=1)
    free = fleet.hosts[1]
    fleet.hold(fleet.hosts[0], A)
    queues, waiters = queued(*(Wanted(A) for _ in range(9)))
    assert drain(queues, fleet)[0] == (waiters[0], free)
    fleet.release(free)
    fleet.learn_loaded(free, {B: THERE})
    queues, waiters = queued(*(Wanted(A) for _ in range(9)), Wanted(B))
    waiters[-1].is_ready = False
    assert drain(queues, fleet) == []


def test_the_last_resort_serves_the_queue() -> None:
    server, engine = Standing("http://h"), Standing("embedded://", last_resort=True)
    fleet = Fleet([server, engine], rng=random.Random(1))
    fleet.eject(server, NOW, "reset", spare_last=True)
    queues, (waiter,) = queued(Wanted(A))
    assert drain(queues, fleet) == [(waiter, engine)]


def test_a_host_that_returns_gets_one_request() -> None:
    fleet = fleet_with(A, slots=4)
    (host,) = fleet.hosts
    fleet.eject(host, NOW - 10.0, "reset", seconds=1.0, spare_last=False)
    queues, waiters = queued(Wanted(A), Wanted(A))
    assert drain(queues, fleet) == [(waiters[0], host)]
    fleet.heal(host)
    assert drain(queues, fleet) == [(waiters[1], host)]


MODELS = st.sampled_from([A, B, C])


@given(
    loaded=st.lists(st.sets(MODELS), min_size=1, max_size=5),
    slots=st.integers(1, 3),
    asks=st.lists(
        st.tuples(MODELS, st.none() | st.integers(0, 4), st.sampled_from([0.0, 3.0, 30.0]), st.sets(st.integers(0, 4))),
        max_size=30,
    ),
    order=st.randoms(use_true_random=False),
)
def test_every_request_gets_a_host_in_order(
    loaded: list[set[str]],
    slots: int,
    asks: list[tuple[str, int | None, float, set[int]]],
    order: random.Random,
) -> None:
    """Requests finish in any order, and none of the rest waits for ever."""
    fleet = Fleet([Standing(f"http://h{at}", slots=slots) for at in range(len(loaded))], rng=random.Random(1))
    for host, models in zip(fleet.hosts, loaded, strict=True):
        fleet.learn_loaded(host, dict.fromkeys(models, THERE))

    def host_at(number: int) -> Standing:
        return fleet.hosts[number % len(fleet.hosts)]

    queues, waiters = queued(
        *(
            Wanted(
                model,
                home=None if home is None else host_at(home),
                saved=saved,
                # No request has tried every host.
                tried={host_at(at) for at in tried} - {fleet.hosts[0]},
            )
            for model, home, saved, tried in asks
        )
    )
    now, busy, served = NOW, list[Standing](), list[Waiter]()
    for _ in range(len(waiters) + 1):
        for waiter, host in drain(queues, fleet, now):
            assert host not in waiter.wanted.tried
            served.append(waiter)
            busy.append(host)
        assert all(host.in_flight <= host.slots for host in fleet.hosts)
        if not busy:
            break
        now += 1.0
        fleet.release(busy.pop(order.randrange(len(busy))))
    assert len(served) == len(waiters)
    for model in (A, B, C):
        plain = [w for w in waiters if w.wanted.model == model and w.wanted.home is None and not w.wanted.tried]
        assert [waiter for waiter in served if waiter in plain] == plain


@given(st.integers(1, 4), st.integers(1, 40), st.integers(0, 40))
def test_a_rare_model_gets_a_host_however_many_want_another(count: int, before: int, after: int) -> None:
    """All older requests go first, but only as many younger ones as there are slots."""
    fleet = fleet_with(*[A] * count)
    queues, waiters = queued(*(Wanted(A) for _ in range(before)), Wanted(B), *(Wanted(A) for _ in range(after)))
    rare = waiters[before]
    served, busy = list[Waiter](), list[Standing]()
    while rare not in served:
        for waiter, host in drain(queues, fleet):
            served.append(waiter)
            busy.append(host)
        if rare not in served:
            fleet.release(busy.pop(0))
    assert served.index(rare) <= before + count
