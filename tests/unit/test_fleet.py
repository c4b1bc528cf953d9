from __future__ import annotations

import math
import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from namel3ss_ollama.fleet import Fleet, Loaded, Standing, tagged

A, B = "a:latest", "b:latest"
THERE = Loaded("digest", 1)


def fleet_of(*hosts: Standing, eject: float = 1.0, eject_most: float = 60.0) -> Fleet:
    return Fleet(hosts, eject=eject, eject_most=eject_most, rng=random.Random(1))


def hosts(number: int, slots: int = 1) -> list[Standing]:
    return [Standing(f"http://h{at}", slots=slots) for at in range(number)]


@pytest.mark.parametrize(
    ("name", "full"),
    [("m", "m:latest"), ("m:7b", "m:7b"), ("hf.co/x/m", "hf.co/x/m:latest"), ("host:1/m", "host:1/m:latest")],
)
def test_a_name_gets_its_tag(name: str, full: str) -> None:
    assert tagged(name) == full


def test_an_ejection_is_twice_as_long_each_time_and_ends_with_one_trial() -> None:
    host, other = hosts(2, slots=4)
    fleet = fleet_of(host, other)
    now, lengths = 100.0, []
    for _ in range(12):
        fleet.eject(host, now, "reset", spare_last=True)
        assert host.is_out
        assert host.room() == 0
        assert host not in fleet.free
        lengths.append(host.out_until - now)
        assert fleet.next_return() == host.out_until
        fleet.advance(math.nextafter(host.out_until, 0.0))
        assert host.is_out
        now = host.out_until
        fleet.advance(now)
        assert host.room() == 1
        assert host in fleet.free
        assert host.why_out == "reset"
        fleet.hold(host, A)
        assert host.room() == 0
        assert host not in fleet.free
        fleet.release(host)
    for time, length in enumerate(lengths):
        assert min(60.0, 2.0**time) * 0.8 <= length <= min(60.0, 2.0**time * 1.2)
    fleet.heal(host)
    assert host.room() == 4
    assert host.why_out == ""
    fleet.eject(host, now, "reset", spare_last=True)
    assert host.out_until - now <= 1.2


def test_concurrent_failures_count_once() -> None:
    host, other = hosts(2, slots=4)
    fleet = fleet_of(host, other)
    for _ in range(4):
        fleet.hold(host, A)
    for now in (10.0, 10.1, 10.2, 10.3):
        fleet.eject(host, now, "reset", spare_last=True)
        fleet.release(host)
    assert host.failures == 1
    assert host.out_until <= 11.2


def test_a_failure_with_a_duration_extends_an_ejection() -> None:
    host, other = hosts(2)
    fleet = fleet_of(host, other)
    fleet.eject(host, 10.0, "reset", spare_last=True)
    fleet.eject(host, 10.0, "nothing came", seconds=100.0, spare_last=True)
    assert 90.0 <= host.out_until <= 130.0
    assert host.failures == 1
    fleet.advance(89.0)
    assert host.is_out
    fleet.advance(130.0)
    assert host.room() == 1


def test_spare_last_keeps_the_last_host() -> None:
    one, two = hosts(2)
    fleet = fleet_of(one, two)
    fleet.eject(one, 10.0, "reset", spare_last=True)
    fleet.eject(two, 10.0, "reset", spare_last=True)
    assert one.is_out
    assert not two.is_out
    assert not fleet.all_out
    fleet.eject(two, 10.0, "reset", spare_last=False)
    assert fleet.all_out
    fleet.heal(one)
    assert not fleet.all_out
    fleet.eject(one, 10.0, "reset", spare_last=True)
    assert not one.is_out


def test_a_host_is_up_once_after_a_successful_trial() -> None:
    one, two = hosts(2)
    fleet = fleet_of(one, two)
    fleet.eject(one, 10.0, "reset", spare_last=True)
    fleet.advance(20.0)
    fleet.heal(one)
    fleet.eject(one, 30.0, "reset", spare_last=True)
    fleet.eject(two, 30.0, "reset", spare_last=False)
    assert fleet.all_out


def test_an_answer_ends_an_ejection_but_no_pause() -> None:
    host, other = hosts(2, slots=2)
    fleet = fleet_of(host, other)
    fleet.pause(host, 40.0, "429")
    assert host.failures == 0
    fleet.eject(host, 10.0, "reset", seconds=100.0, spare_last=True)
    fleet.heal(host)
    assert host.is_out
    assert fleet.next_return() == 40.0
    fleet.advance(40.0)
    assert host.room() == 2
    assert fleet.next_return() is None
    fleet.eject(host, 50.0, "reset", spare_last=True)
    fleet.heal(host)
    assert host.room() == 2
    assert fleet.next_return() is None


def test_a_model_that_a_host_lacks_is_not_expected_there_even_if_it_is_loaded() -> None:
    (host,) = hosts(1)
    fleet = fleet_of(host)
    fleet.learn_loaded(host, {A: THERE})
    fleet.without(host, A, 30.0)
    assert not fleet.holders(A)
    assert not host.may_have(A, 29.0)
    fleet.learn_loaded(host, {A: THERE})
    assert not fleet.holders(A)
    assert fleet.slots_with(A) == 0
    assert fleet.next_return() == 30.0
    fleet.advance(30.0)
    assert host.may_have(A, 30.0)
    assert fleet.holders(A) == {host}
    fleet.learn_pulled(host, {B: (1, "digest")})
    assert not fleet.holders(A)
    assert not host.may_have(A, 30.0)


def test_a_loading_model_is_kept_while_the_host_is_busy() -> None:
    (host,) = hosts(1)
    fleet = fleet_of(host)
    fleet.hold(host, A)
    assert fleet.holders(A) == {host}
    fleet.learn_loaded(host, {B: THERE})
    assert set(host.loaded) == {A, B}
    fleet.learn_loaded(host, {A: THERE})
    assert set(host.loaded) == {A}
    fleet.learn_loaded(host, {})
    assert not host.loaded
    fleet.hold(host, B)
    fleet.release(host)
    fleet.release(host)
    fleet.learn_loaded(host, {})
    assert not host.loaded


def test_a_forked_child_has_no_requests() -> None:
    one, two = hosts(2)
    fleet = fleet_of(one, two)
    fleet.hold(one, A)
    fleet.forget_requests()
    assert one.room() == 1
    assert set(fleet.free) == {one, two}


def test_loading_is_guessed_from_the_size_until_it_is_measured() -> None:
    (host,) = hosts(1)
    fleet = fleet_of(host)
    assert host.load_seconds(A) == 5.0
    fleet.learn_pulled(host, {A: (7_000_000_000, "digest")})
    assert host.load_seconds(A) == 7.0
    fleet.measured(host, A, 10.0, wait=0.0, load=12.0, service=1.0)
    fleet.measured(host, A, 10.0, wait=0.0, load=0.01, service=1.0)
    assert host.load_seconds(A) == 12.0


def test_measurements_are_means_and_a_wait_fades() -> None:
    (host,) = hosts(1)
    fleet = fleet_of(host)
    assert host.seconds(A, 1000, 10.0) == 0.0
    assert fleet.service(A) == 3.0
    fleet.measured(host, A, 10.0, wait=8.0, load=0.0, service=2.0, prefill=500.0, decode=50.0)
    assert host.seconds(A, 1000, 10.0) == 8.0 + 2.0 + 2.0
    assert host.seconds(A, 1000, 20.0) == 4.0 + 2.0 + 2.0
    fleet.measured(host, A, 20.0, wait=0.0, load=0.0, service=12.0)
    assert host.pace[A].service == pytest.approx(5.0)
    assert fleet.service(A) == pytest.approx(5.0)
    assert host.pace[A].prefill == 500.0


def test_slots_follow_the_waits_where_they_are_not_fixed() -> None:
    host = Standing("http://h", slots=1, auto=True)
    fleet = fleet_of(host)
    fleet.hold(host, A)
    assert fleet.slots_with(A) == 1

    def answer(wait: float) -> int:
        while host.in_flight < host.slots:
            fleet.hold(host, A)
        fleet.measured(host, A, 10.0, wait=wait, load=0.0, service=10.0)
        assert fleet.slots_with(A) == host.slots
        return host.slots

    assert [answer(0.1) for _ in range(6)] == [2, 2, 3, 3, 3, 4]
    assert [answer(1.0), answer(6.0), answer(6.0), answer(6.0), answer(6.0)] == [4, 3, 2, 1, 1]
    fleet.fewer(host)
    assert host.slots == 1
    assert [answer(0.1) for _ in range(5000)][-1] == 64
    fleet.fewer(host)
    assert host.slots == 63
    fixed = Standing("http://f", slots=2)
    fleet = fleet_of(fixed)
    fleet.fewer(fixed)
    fleet.measured(fixed, A, 10.0, wait=60.0, load=0.0, service=10.0)
    assert fixed.slots == 2


MODELS = [A, B, "c:latest"]
NUMBERS = st.integers(0, 5)
NAMES = st.sampled_from(MODELS)
SPANS = st.floats(0.5, 50.0)


class Indexes(RuleBasedStateMachine):
    """After any operations, the indexes match a scan of all hosts."""

    @initialize(slots=st.lists(st.tuples(st.integers(1, 3), st.booleans(), st.booleans()), min_size=1, max_size=6))
    def begin(self, slots: list[tuple[int, bool, bool]]) -> None:
        self.now = 1.0
        self.held: list[Standing] = []
        made = [
            Standing(f"http://h{at}", slots=n, auto=auto, last_resort=last) for at, (n, auto, last) in enumerate(slots)
        ]
        self.fleet = fleet_of(*made)

    def host(self, number: int) -> Standing:
        return self.fleet.hosts[number % len(self.fleet.hosts)]

    @rule(seconds=SPANS)
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.fleet.advance(self.now)
        assert not any(0.0 < host.out_until <= self.now for host in self.fleet.hosts)
        assert not any(end <= self.now for host in self.fleet.hosts for end in host.without.values())

    @rule(number=NUMBERS, model=NAMES)
    def hold(self, number: int, model: str) -> None:
        if self.host(number).room() > 0:
            self.fleet.hold(self.host(number), model)
            self.held.append(self.host(number))

    @rule(number=NUMBERS)
    def release(self, number: int) -> None:
        if self.held:
            self.fleet.release(self.held.pop(number % len(self.held)))

    @rule()
    def fork(self) -> None:
        self.held.clear()
        self.fleet.forget_requests()

    @rule(number=NUMBERS, models=st.sets(NAMES))
    def learn_loaded(self, number: int, models: set[str]) -> None:
        self.fleet.learn_loaded(self.host(number), dict.fromkeys(models, THERE))

    @rule(number=NUMBERS, models=st.sets(NAMES))
    def learn_pulled(self, number: int, models: set[str]) -> None:
        self.fleet.learn_pulled(self.host(number), dict.fromkeys(models, (1, "digest")))

    @rule(number=NUMBERS, spare_last=st.booleans(), seconds=st.none() | SPANS)
    def eject(self, number: int, spare_last: bool, seconds: float | None) -> None:
        up = sum(not host.is_out for host in self.fleet.hosts)
        self.fleet.eject(self.host(number), self.now, "it failed", seconds=seconds, spare_last=spare_last)
        assert not (spare_last and up and self.fleet.all_out)

    @rule(number=NUMBERS, seconds=SPANS)
    def pause(self, number: int, seconds: float) -> None:
        self.fleet.pause(self.host(number), self.now + seconds, "503")

    @rule(number=NUMBERS)
    def heal(self, number: int) -> None:
        self.fleet.heal(self.host(number))

    @rule(number=NUMBERS, model=NAMES, seconds=SPANS)
    def without(self, number: int, model: str, seconds: float) -> None:
        self.fleet.without(self.host(number), model, self.now + seconds)

    @rule(number=NUMBERS, model=NAMES, wait=st.sampled_from([0.0, 1.0, 9.0]))
    def measured(self, number: int, model: str, wait: float) -> None:
        self.fleet.measured(self.host(number), model, self.now, wait=wait, load=0.0, service=10.0)

    @rule(number=NUMBERS)
    def fewer(self, number: int) -> None:
        self.fleet.fewer(self.host(number))

    @invariant()
    def indexes_agree(self) -> None:
        if not hasattr(self, "fleet"):
            return
        fleet = self.fleet
        regular = {host for host in fleet.hosts if not host.last_resort}
        free = {host for host in regular if host.room() > 0}
        assert set(fleet.free) == free
        assert len(fleet.free) == len(free)
        for model in MODELS:
            holders = {h for h in regular if not h.is_out and model in h.loaded and h.may_have(model, self.now)}
            assert fleet.holders(model) == holders
            assert fleet.slots_with(model) == sum(host.slots for host in holders)
            assert set(fleet.free_with(model)) == holders & free
        assert fleet.all_out == all(host.is_out for host in fleet.hosts)
        ends = [host.out_until for host in fleet.hosts if host.is_out]
        ends += [end for host in fleet.hosts for end in host.without.values()]
        assert fleet.next_return() == min(ends, default=None)


TestIndexes = Indexes.TestCase
TestIndexes.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
