from __future__ import annotations

import random
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from namel3ss_ollama.choosing import Wanted, choose
from namel3ss_ollama.fleet import Fleet, Loaded, Standing

A, B, C = "a:latest", "b:latest", "c:latest"
THERE = Loaded("digest", 1)
NOW = 1000.0


def fleet_with(*models: str | None, slots: int = 1, seed: int = 1) -> Fleet:
    """A host for each model, which has that loaded."""
    fleet = Fleet([Standing(f"http://h{at}", slots=slots) for at in range(len(models))], rng=random.Random(seed))
    for host, model in zip(fleet.hosts, models, strict=True):
        fleet.learn_loaded(host, {model: THERE} if model else {})
    return fleet


def served(fleet: Fleet, host: Standing, model: str, service: float, *, wait: float = 0.0, now: float = NOW) -> None:
    fleet.measured(host, model, now, wait=wait, load=0.0, service=service)


def chosen(wanted: Wanted, fleet: Fleet, waiting: int = 1, now: float = NOW) -> set[Standing | None]:
    """The results of many choices."""
    return {choose(wanted, fleet, now, waiting) for _ in range(100)}


def test_a_host_that_has_the_model_loaded() -> None:
    fleet = fleet_with(None, A, B, A)
    assert chosen(Wanted(A), fleet) == {fleet.hosts[1], fleet.hosts[3]}


def test_none_while_all_are_busy() -> None:
    fleet = fleet_with(A, A)
    for host in fleet.hosts:
        fleet.hold(host, A)
    assert chosen(Wanted(A), fleet, waiting=1000) == {None}
    fleet.release(fleet.hosts[0])
    assert chosen(Wanted(A), fleet) == {fleet.hosts[0]}


def test_the_quickest_of_few() -> None:
    fleet = fleet_with(A, A, A)
    for host, service in zip(fleet.hosts, (5.0, 2.0, 3.0), strict=True):
        served(fleet, host, A, service)
    assert chosen(Wanted(A), fleet) == {fleet.hosts[1]}
    served(fleet, fleet.hosts[1], A, 2.0, wait=4.0)  # other clients' requests are there
    assert chosen(Wanted(A), fleet) == {fleet.hosts[2]}
    assert chosen(Wanted(A), fleet, now=NOW + 60.0) == {fleet.hosts[1]}  # that was long ago
    fleet.measured(fleet.hosts[2], A, NOW, wait=0.0, load=0.0, service=3.0, prefill=100.0)
    assert chosen(Wanted(A, tokens=1000.0), fleet) == {fleet.hosts[0]}  # whose rate is unknown


def test_a_host_that_has_not_answered_yet_is_tried() -> None:
    fleet = fleet_with(A, A)
    served(fleet, fleet.hosts[0], A, 0.1)
    assert chosen(Wanted(A), fleet) == {fleet.hosts[1]}


def test_of_many_equal_hosts_each_gets_its_share() -> None:
    fleet = fleet_with(*[A] * 20)
    counts = Counter(choose(Wanted(A), fleet, NOW) for _ in range(4000))
    assert len(counts) == 20
    assert max(counts.values()) < 2 * min(counts.values())


def test_of_three_equal_hosts_each_gets_its_share() -> None:
    fleet = fleet_with(*[A] * 3)
    counts = Counter(choose(Wanted(A), fleet, NOW) for _ in range(3000))
    assert min(counts.values()) > 800


def test_the_home_first_even_if_others_are_quicker() -> None:
    fleet = fleet_with(A, A, A)
    home = fleet.hosts[0]
    served(fleet, home, A, 9.0)
    served(fleet, fleet.hosts[1], A, 1.0)
    assert chosen(Wanted(A, home=home), fleet) == {home}
    assert home not in chosen(Wanted(A, home=home, tried={home}), fleet)


def test_a_busy_home_is_waited_for_as_long_as_reading_elsewhere_would_take() -> None:
    fleet = fleet_with(A, A)
    home, other = fleet.hosts
    fleet.hold(home, A)
    assert chosen(Wanted(A, home=home), fleet) == {other}
    assert chosen(Wanted(A, home=home, saved=4.0), fleet) == {None}
    assert chosen(Wanted(A, home=home, saved=4.0, since=NOW - 3.0), fleet) == {None}
    assert chosen(Wanted(A, home=home, saved=4.0, since=NOW - 4.0), fleet) == {other}


@pytest.mark.parametrize("why", ["out", "model gone", "failed with it", "another model there"])
def test_a_useless_home_is_not_waited_for(why: str) -> None:
    fleet = fleet_with(A, A)
    home, other = fleet.hosts
    fleet.hold(home, A)
    wanted = Wanted(A, home=home, saved=100.0)
    if why == "out":
        fleet.eject(home, NOW, "reset", spare_last=True)
    elif why == "model gone":
        fleet.without(home, A, NOW + 60.0)
    elif why == "failed with it":
        wanted.tried = {home}
    else:
        fleet.learn_loaded(home, {B: THERE})
    assert chosen(wanted, fleet) == {other}


def test_a_model_is_loaded_elsewhere_when_the_wait_is_worth_three_loads() -> None:
    fleet = fleet_with(A, None)
    busy, free = fleet.hosts
    fleet.hold(busy, A)
    served(fleet, busy, A, 4.0)
    fleet.measured(free, A, NOW, wait=0.0, load=10.0, service=4.0)
    assert chosen(Wanted(A), fleet, waiting=7) == {None}  # 28 seconds against 30
    assert chosen(Wanted(A), fleet, waiting=8) == {free}


def test_the_only_copy_of_a_model_in_use_is_not_evicted() -> None:
    fleet = fleet_with(A, B)
    busy, free = fleet.hosts
    fleet.hold(busy, A)
    served(fleet, free, B, 1.0)
    assert chosen(Wanted(A), fleet, waiting=1000) == {None}
    assert chosen(Wanted(A), fleet, waiting=1000, now=NOW + 16.0) == {free}  # three loads of 5 seconds later
    fleet = fleet_with(A, B, slots=2)
    for host, model in zip(fleet.hosts, (A, B), strict=True):
        fleet.hold(host, model)
    fleet.hold(fleet.hosts[0], A)
    assert chosen(Wanted(A), fleet, waiting=1000) == {None}  # it is answering with B
    fleet = fleet_with(A, B, B)
    fleet.hold(fleet.hosts[0], A)
    served(fleet, fleet.hosts[1], B, 1.0)
    served(fleet, fleet.hosts[2], B, 1.0)
    assert chosen(Wanted(A), fleet, waiting=1000) <= set(fleet.hosts[1:])  # one of the two keeps it


def test_a_host_is_not_taken_from_a_model_that_waits_as_long() -> None:
    fleet = fleet_with(A, B, B)
    busy = fleet.hosts[0]
    fleet.hold(busy, A)
    served(fleet, busy, A, 4.0, now=NOW - 100.0)
    for host in fleet.hosts[1:]:
        served(fleet, host, B, 4.0, now=NOW - 100.0)

    def choice(waiting: int, others: int) -> bool:
        host = choose(Wanted(A), fleet, NOW, waiting, lambda model: others if model == B else 0)
        return host is not None

    assert not choice(3, 0)  # 12 seconds against three loads of 5
    assert choice(4, 0)
    assert choice(14, 10)  # 56 seconds, against 15 and the 40 for which the others would wait on one host
    assert not choice(14, 11)
    fleet.eject(fleet.hosts[2], NOW, "reset", spare_last=True)
    assert not choice(1000, 1)  # it is their only host


def test_a_model_is_loaded_where_it_evicts_least() -> None:
    fleet = fleet_with(A, None, A)
    assert chosen(Wanted(B), fleet) == {fleet.hosts[1]}
    fleet = fleet_with(A, C, A)
    for host in fleet.hosts:
        served(fleet, host, next(iter(host.loaded)), 1.0)
    assert fleet.hosts[1] not in chosen(Wanted(B), fleet)
    fleet = fleet_with(A)
    served(fleet, fleet.hosts[0], A, 1.0)
    assert chosen(Wanted(B), fleet) == {fleet.hosts[0]}


def test_one_host_loads_it_and_the_others_wait() -> None:
    fleet = fleet_with(None, None, None)
    first = choose(Wanted(A), fleet, NOW)
    assert first is not None
    fleet.hold(first, A)
    assert chosen(Wanted(A), fleet) == {None}


def test_a_host_that_cannot_serve_a_request_is_not_waited_for() -> None:
    fleet = fleet_with(A, None)
    busy, free = fleet.hosts
    fleet.hold(busy, A)
    assert chosen(Wanted(A), fleet) == {None}
    assert chosen(Wanted(A, tried={busy}), fleet) == {free}
    fleet.learn_pulled(busy, {B: (1, "digest")})
    assert chosen(Wanted(A), fleet) == {free}


def test_the_last_resort_only_where_no_other_is_left() -> None:
    server, engine = Standing("http://h"), Standing("embedded://", last_resort=True)
    fleet = Fleet([engine, server], rng=random.Random(1))
    fleet.learn_loaded(engine, {A: THERE})
    assert chosen(Wanted(A), fleet) == {server}
    assert chosen(Wanted(A, home=engine), fleet) == {server}
    fleet.hold(engine, A)
    assert chosen(Wanted(A, home=engine, saved=9.0), fleet) == {server}
    fleet.release(engine)
    fleet.hold(server, A)
    assert chosen(Wanted(A), fleet) == {None}
    assert chosen(Wanted(A, tried={server}), fleet) == {engine}
    fleet.eject(server, NOW, "reset", spare_last=True)
    assert chosen(Wanted(A), fleet) == {engine}
    fleet.hold(engine, A)
    assert chosen(Wanted(A), fleet) == {None}


def test_if_no_host_is_known_to_have_the_model_one_is_tried() -> None:
    fleet = fleet_with(None, None)
    for host in fleet.hosts:
        fleet.learn_pulled(host, {B: (1, "digest")})
    assert chosen(Wanted(A), fleet) == {fleet.hosts[0]}
    assert chosen(Wanted(A, tried={fleet.hosts[0]}), fleet) == {fleet.hosts[1]}
    assert chosen(Wanted(A, tried=set(fleet.hosts)), fleet) == {None}
    fleet.learn_pulled(fleet.hosts[1], {A: (1, "digest")})
    fleet.eject(fleet.hosts[1], NOW, "reset", spare_last=True)
    assert chosen(Wanted(A), fleet) == {None}  # it comes back


MODELS = st.sampled_from([A, B, C])


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    """Hosts in any state that operations lead to."""
    count = draw(st.integers(1, 9))
    made = [
        Standing(f"http://h{at}", slots=draw(st.integers(1, 3)), last_resort=draw(st.integers(0, 9)) == 0)
        for at in range(count)
    ]
    fleet = Fleet(made, rng=random.Random(draw(st.integers(0, 99))))
    for host in made:
        fleet.learn_loaded(host, dict.fromkeys(draw(st.sets(MODELS)), THERE))
        if draw(st.booleans()):
            fleet.learn_pulled(host, dict.fromkeys(draw(st.sets(MODELS)), (10**9, "digest")))
        for model in draw(st.lists(MODELS, max_size=host.slots)):
            fleet.hold(host, model)
        if draw(st.booleans()):
            served(fleet, host, draw(MODELS), draw(st.floats(0.1, 30.0)), wait=draw(st.floats(0.0, 30.0)))
        if draw(st.integers(0, 4)) == 0:
            fleet.without(host, draw(MODELS), NOW + 30.0)
        if draw(st.integers(0, 4)) == 0:
            fleet.eject(host, NOW - 30.0, "reset", seconds=draw(st.floats(1.0, 60.0)), spare_last=False)
    fleet.advance(NOW)
    return fleet


@st.composite
def wanting(draw: st.DrawFn) -> tuple[Fleet, Wanted, int]:
    fleet = draw(fleets())
    some = st.sampled_from(fleet.hosts)
    return (
        fleet,
        Wanted(
            draw(MODELS),
            draw(st.floats(0.0, 5000.0)),
            draw(st.none() | some),
            draw(st.sampled_from([0.0, 5.0, 50.0])),
            draw(st.none() | st.floats(NOW - 60.0, NOW)),
            draw(st.sets(some, max_size=len(fleet.hosts))) if draw(st.booleans()) else frozenset(),
        ),
        draw(st.sampled_from([1, 2, 10, 1000])),
    )


@pytest.mark.slow
@given(wanting())
def test_never_a_host_without_room_or_that_was_tried_or_lacks_the_model(drawn: tuple[Fleet, Wanted, int]) -> None:
    fleet, wanted, waiting = drawn
    host = choose(wanted, fleet, NOW, waiting)
    if host is None:
        return
    assert not host.is_out
    assert host.in_flight < (1 if host.failures else host.slots)
    if host in wanted.tried:  # only where no other is left
        assert not any(wanted.may_go_to(other, NOW) and not other.is_out for other in fleet.hosts)
        return
    if any(wanted.may_go_to(other, NOW) for other in fleet.hosts):
        assert wanted.may_go_to(host, NOW)
    if host.last_resort:
        assert not any(
            wanted.may_go_to(other, NOW) for other in fleet.hosts if not other.last_resort and not other.is_out
        )


@pytest.mark.slow
@given(wanting())
def test_never_a_load_while_a_host_with_the_model_is_free(drawn: tuple[Fleet, Wanted, int]) -> None:
    fleet, wanted, waiting = drawn
    ready = {
        host
        for host in fleet.hosts
        if host.room() > 0 and not host.last_resort and wanted.model in host.loaded and wanted.may_go_to(host, NOW)
    }
    host = choose(wanted, fleet, NOW, waiting)
    if ready:
        assert host in ready or (host is None and wanted.waits_for_home(NOW))
        if wanted.home in ready:
            assert host is wanted.home


@pytest.mark.slow
@given(wanting())
def test_none_only_where_something_will_change(drawn: tuple[Fleet, Wanted, int]) -> None:
    """A request waits for a host that is busy, ejected or its home; never for one that it cannot use."""
    fleet, wanted, waiting = drawn
    host = choose(wanted, fleet, NOW, waiting)
    usable = [other for other in fleet.hosts if wanted.may_go_to(other, NOW)]
    if host is None and usable:
        assert any(other.room() <= 0 for other in usable)
    if host is None and not usable:
        assert all(other.room() <= 0 for other in fleet.hosts if other not in wanted.tried)


def test_a_choice_calls_few_functions() -> None:
    """Its cost, independent of the machine's speed, with 200 hosts, 8 models and 90 % of the slots busy."""
    models = [f"m{at}:latest" for at in range(8)]
    fleet = fleet_with(*[models[at % 8] for at in range(200)])
    chance = random.Random(1)
    for host in fleet.hosts:
        served(fleet, host, next(iter(host.loaded)), chance.uniform(1.0, 9.0), wait=1.0)
    busy = chance.sample(fleet.hosts, 180)
    for host in busy:
        fleet.hold(host, next(iter(host.loaded)))
    calls: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and "namel3ss_ollama" in Path(frame.f_code.co_filename).parts:
            calls[frame.f_code.co_qualname if sys.version_info >= (3, 11) else frame.f_code.co_name] += 1

    wanted = [Wanted(chance.choice(models), 1000.0, chance.choice(fleet.hosts)) for _ in range(1000)]
    before = sys.getprofile()
    sys.setprofile(count)
    try:
        for request in wanted:
            host = choose(request, fleet, NOW)
            if host is not None:
                fleet.hold(host, request.model)
                at = chance.randrange(len(busy))
                fleet.release(busy[at])
                busy[at] = host
    finally:
        sys.setprofile(before)
    assert sum(calls.values()) <= 36 * len(wanted), calls
