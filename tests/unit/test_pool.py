"""What a failure means for a host, and how hosts differ."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from namel3ss_ollama import errors
from namel3ss_ollama.choosing import Wanted
from namel3ss_ollama.dispatcher import Dispatcher
from namel3ss_ollama.errors import (
    AuthenticationError,
    BadRequestError,
    ContextWindowExceededError,
    JournalError,
    LLMConnectionError,
    LLMError,
    LLMTimeoutError,
    MalformedResponseError,
    ModelNotFoundError,
    OutputValidationError,
    QueueFullError,
    QuotaExceededError,
    ServerBusyError,
    ServerError,
    StreamInterruptedError,
    ToolCallParseError,
)
from namel3ss_ollama.fleet import Fleet, Loaded, Pace, Standing
from namel3ss_ollama.hosts import HostState
from namel3ss_ollama.pool import HostTurn, Pool, Verdict, differences, verdict
from namel3ss_ollama.server import Server


def passed(deadline: str) -> LLMTimeoutError:
    return LLMTimeoutError("x", deadline=deadline)


VERDICTS: list[tuple[LLMError, Verdict]] = [
    (LLMConnectionError("x"), "unreachable"),
    (LLMConnectionError("x", temporary=False), "unreachable"),  # a certificate that is not trusted
    (passed("connect"), "unreachable"),
    (ServerBusyError("x", status_code=503), "busy"),
    (ServerBusyError("x", status_code=429), "busy"),
    (ServerBusyError("x", status_code=408), "busy"),
    (ModelNotFoundError("x", status_code=404), "lacks the model"),
    (ServerError("x", status_code=500, temporary=True), "broken"),
    (ServerError("x", status_code=502, temporary=True), "broken"),
    (ServerError("x", temporary=True), "broken"),  # in a line of the answer
    (StreamInterruptedError("x", temporary=True), "broken"),
    (QuotaExceededError("x", status_code=429), "broken"),
    (QuotaExceededError("x", status_code=402), "broken"),
    (AuthenticationError("x", status_code=401), "refuses us"),
    (AuthenticationError("x", status_code=403), "refuses us"),
    (passed("first_chunk_timeout"), "hangs"),
    (passed("chunk_timeout"), "hangs"),
    (passed("tool_call_timeout"), "hangs"),
    (passed("stream_timeout"), "not the host's"),
    (passed("timeout"), "not the host's"),
    (BadRequestError("x", status_code=400), "not the host's"),
    (BadRequestError("x", status_code=404), "not the host's"),
    (ContextWindowExceededError("x", status_code=400), "not the host's"),
    (ServerError("x", status_code=500), "not the host's"),
    (StreamInterruptedError("x"), "not the host's"),  # the model repeated itself
    (ToolCallParseError("x"), "not the host's"),
    (MalformedResponseError("x"), "not the host's"),
    (OutputValidationError("x"), "not the host's"),
    (QueueFullError("x"), "not the host's"),
    (JournalError("x"), "not the host's"),
    (LLMError("x"), "not the host's"),
]


def named(error: LLMError) -> str:
    details = (error.status_code, getattr(error, "deadline", None), "temporary" if error.temporary else None)
    return " ".join([type(error).__name__, *(str(detail) for detail in details if detail)])


@pytest.mark.parametrize(("error", "found"), [pytest.param(*row, id=named(row[0])) for row in VERDICTS])
def test_the_verdict_on_the_host(error: LLMError, found: Verdict) -> None:
    assert verdict(error, loading=False) == found


@pytest.mark.parametrize(("error", "found"), [pytest.param(*row, id=named(row[0])) for row in VERDICTS])
def test_a_host_that_loads_the_model_does_not_hang(error: LLMError, found: Verdict) -> None:
    assert verdict(error, loading=True) == ("not the host's" if found == "hangs" else found)


def test_every_error_has_its_verdict() -> None:
    classes = {error for name in errors.__all__ if issubclass(error := getattr(errors, name), LLMError)}
    assert {type(error) for error, _ in VERDICTS} == classes


# What differs


def state(url: str, **loaded: int | None) -> HostState:
    models = {name: Loaded(digest="x", context_length=length) for name, length in loaded.items()}
    return HostState(url, True, "", "", models, 1, 0, 0.0, None)


def pulled(**digests: str) -> dict[str, tuple[int, str]]:
    return {name: (1, digest) for name, digest in digests.items()}


@pytest.mark.parametrize(
    ("states", "listed", "found"),
    [
        ([], {}, []),
        ([state("a", m=4096), state("b", m=4096)], {"a": pulled(m="1"), "b": pulled(m="1")}, []),
        ([state("a", m=4096), state("b")], {"a": pulled(m="1")}, []),
        ([state("a", m=4096), state("b", n=8192)], {"a": pulled(m="1"), "b": pulled(n="2")}, []),
        (
            [state("a", m=4096), state("b")],
            {"a": pulled(m="1" * 20), "b": pulled(m="2" * 20)},
            [f"m is not the same model on all hosts ({'1' * 12} on a, {'2' * 12} on b): pull it again where stale"],
        ),
        (
            [state("a", m=4096), state("b", m=32768)],
            {},
            ["m does not have the same context window on all hosts (4096 tokens on a, 32768 tokens on b): set num_ctx"],
        ),
        (
            [state("a", m=4096), state("b", m=32768), state("c", m=4096), state("d", m=4096)],
            {},
            [
                "m does not have the same context window on all hosts (4096 tokens on a and 2 more, 32768 tokens on b)"
                ": set num_ctx"
            ],
        ),
        ([state("a", m=None), state("b", m=4096)], {}, []),  # 0.9.3 does not say
        ([state("a", m=4096), state("b", m=4096)], {"a": pulled(m=""), "b": pulled(m="2")}, []),
    ],
)
def test_what_differs_between_hosts(states: list[HostState], listed: dict[str, Any], found: list[str]) -> None:
    assert [str(one) for one in differences(states, listed)] == found


def test_what_differs_for_one_model() -> None:
    states = [state("a", m=1, n=1), state("b", m=2, n=2)]
    assert len(differences(states, {})) == 2
    (found,) = differences(states, {}, "n")
    assert str(found).startswith("n does not have the same context window")
    # A model that is loaded nowhere may still differ between hosts.
    assert differences([], {"a": pulled(m="1"), "b": pulled(m="2")}) == []
    assert len(differences([], {"a": pulled(m="1"), "b": pulled(m="2")}, "m")) == 1


# The state of a host


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def make_pool(count: int = 2, **settings: Any) -> tuple[Pool, Clock]:
    clock = Clock()
    fleet = Fleet([Standing(f"http://{number}", **settings) for number in range(count)])
    servers = {host: cast("Server", SimpleNamespace(url=host.url)) for host in fleet.hosts}
    return Pool(servers, Dispatcher(fleet, clock=clock), 5.0), clock


def hosts_of(pool: Pool) -> list[Standing]:
    return list(pool.servers)


def test_an_unreachable_host_is_ejected_and_returns_on_trial() -> None:
    pool, clock = make_pool(slots=4)
    host, other = hosts_of(pool)
    assert pool.failed(host, Wanted("m:latest"), LLMConnectionError("connection refused"))
    state, _ = pool.states()
    assert (state.up, state.why_not) == (False, "connection refused")
    assert 0.8 <= host.out_until - clock.now <= 1.2
    clock.now = host.out_until
    assert pool.states()[0].up
    assert (host.room(), other.room()) == (1, 4)
    pool.works(host, "m:latest")
    assert host.room() == 4
    assert pool.states()[0].why_not == ""


def test_concurrent_failures_count_once() -> None:
    # Once wrong: ten requests in flight to a host that died ejected it for a minute
    pool, clock = make_pool(slots=10)
    host, _ = hosts_of(pool)
    for _ in range(10):
        pool.failed(host, Wanted("m:latest"), LLMConnectionError("x"))
    assert host.failures == 1
    assert host.out_until - clock.now <= 1.2


@pytest.mark.parametrize(("asked", "seconds"), [(None, 1.0), (7.0, 7.0), (3600.0, 60.0)])
def test_a_busy_host_pauses_and_is_not_blamed(asked: float | None, seconds: float) -> None:
    # Once wrong: a Retry-After of an hour from all hosts was waited for
    pool, clock = make_pool(slots=4)
    host, _ = hosts_of(pool)
    error = ServerBusyError("x", status_code=503)
    error.retry_after = asked
    assert pool.failed(host, Wanted("m:latest"), error)
    assert host.out_until - clock.now == seconds
    pool.works(host, "m:latest")  # an answer that was in flight
    assert not pool.states()[0].up
    clock.now += seconds
    assert pool.states()[0].up
    assert host.room() == 4


def test_a_busy_host_that_learns_its_slots_gets_one_fewer() -> None:
    pool, _ = make_pool(slots=4, auto=True)
    host, _ = hosts_of(pool)
    pool.failed(host, Wanted("m:latest"), ServerBusyError("x"))
    assert host.slots == 3


@pytest.mark.parametrize(
    ("error", "seconds"), [(ModelNotFoundError("x"), 60.0), (ServerError("x", temporary=True), 30.0)]
)
def test_a_host_that_fails_with_a_model_keeps_others(error: LLMError, seconds: float) -> None:
    pool, clock = make_pool()
    host, _ = hosts_of(pool)
    assert pool.failed(host, Wanted("m:latest"), error)
    assert not host.may_have("m:latest", clock.now + seconds - 0.1)
    assert host.may_have("m:latest", clock.now + seconds)
    assert host.may_have("n:latest", clock.now)
    assert pool.states()[0].up


@pytest.mark.parametrize("error", [AuthenticationError("x", status_code=401), passed("first_chunk_timeout")])
def test_the_last_host_is_not_ejected(error: LLMError) -> None:
    # Once wrong: where all hosts refused the key, the next call waited for ten minutes
    pool, clock = make_pool(3)
    for host in hosts_of(pool):
        assert pool.failed(host, Wanted("m:latest"), error)
    assert [state.up for state in pool.states()] == [False, False, True]
    clock.now += 10
    assert [state.up for state in pool.states()] == [False, False, True]


@pytest.mark.parametrize("model", ["gpt-oss:120b-cloud", "glm-4.6:cloud"])
def test_a_host_without_an_account_loses_only_cloud_models(model: str) -> None:
    # Once wrong: a host that was not signed in at ollama.com was ejected for ten minutes
    pool, clock = make_pool()
    host, _ = hosts_of(pool)
    assert pool.failed(host, Wanted(model), AuthenticationError("x", status_code=401))
    assert pool.states()[0].up
    assert not host.may_have(model, clock.now)


def test_a_refusal_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    pool, _ = make_pool()
    host, other = hosts_of(pool)
    for _ in range(3):
        pool.failed(host, Wanted("m:latest"), AuthenticationError("the key is wrong"))
    assert [record.getMessage() for record in caplog.records] == ["the key is wrong; trying the other hosts"]
    pool.failed(other, Wanted("m:latest"), AuthenticationError("the other key is wrong"))
    assert len(caplog.records) == 2


def test_a_bad_request_does_not_affect_the_host() -> None:
    pool, _ = make_pool()
    host, _ = hosts_of(pool)
    assert not pool.failed(host, Wanted("m:latest"), BadRequestError("x"))
    assert pool.states()[0].up
    assert host.failures == 0


@pytest.mark.parametrize(
    ("placeholder", "silent", "moves"), [(True, False, False), (True, True, True), (False, False, True)]
)
def test_a_host_hangs_unless_it_loads(placeholder: bool, silent: bool, moves: bool) -> None:
    # Once wrong: a host that did not respond at all was considered loading, and requests never moved on
    pool, _ = make_pool()
    host, _ = hosts_of(pool)
    host.loaded["m:latest"] = Loaded() if placeholder else Loaded(digest="x")
    if silent:
        pool.scout._silent.add(host)
    assert pool.failed(host, Wanted("m:latest"), passed("first_chunk_timeout")) is moves
    assert pool.states()[0].up is not moves


SECOND = 10**9
CHAT = {
    "total_duration": 10 * SECOND, "load_duration": 0, "prompt_eval_count": 100, "prompt_eval_duration": SECOND,
    "eval_count": 60, "eval_duration": 2 * SECOND,
}  # fmt: skip


def answered(pool: Pool, host: Standing, final: dict[str, Any], wanted: Wanted | None = None) -> None:
    turn = SimpleNamespace(slot=SimpleNamespace(host=host), wanted=wanted or Wanted("m:latest"))
    pool.answered(cast("HostTurn", turn), final)


def test_an_answer_measures_its_hosts_speed_and_its_wait() -> None:
    pool, clock = make_pool()
    host, _ = hosts_of(pool)
    answered(pool, host, CHAT)
    assert host.pace["m:latest"] == Pace(
        wait=7.0, wait_at=clock.now, prefill=100.0, decode=30.0, service=3.0, load=None
    )
    state = pool.states()[0]
    assert (state.wait, state.tokens_per_second) == (7.0, 30.0)
    clock.now += 10
    assert pool.states()[0].wait == 3.5


def test_cached_prompts_do_not_measure_the_prefill_rate() -> None:
    pool, _ = make_pool()
    host, other = hosts_of(pool)
    answered(pool, host, CHAT, Wanted("m:latest", home=host))
    answered(pool, other, {**CHAT, "prompt_eval_cached_count": 50})
    assert [standing.pace["m:latest"].prefill for standing in (host, other)] == [None, None]


def test_an_answer_with_embeddings_counts_no_wait() -> None:
    # Once wrong: the entire time of embeddings counted as a wait in the server's queue
    pool, _ = make_pool(auto=True, slots=4)
    host, _ = hosts_of(pool)
    answered(pool, host, {"total_duration": 3 * SECOND, "load_duration": SECOND // 20, "prompt_eval_count": 9})
    pace = host.pace["m:latest"]
    assert (pace.wait, pace.service) == (0.0, pytest.approx(2.95))
    assert host.slots == 4


@pytest.mark.parametrize("final", [{}, {"total_duration": None}, {"total_duration": "x", "eval_count": True}])
def test_an_answer_without_counters_still_heals_its_host(final: dict[str, Any]) -> None:
    pool, _ = make_pool()
    host, _ = hosts_of(pool)
    pool.failed(host, Wanted("m:latest"), LLMConnectionError("x"))
    answered(pool, host, final)
    assert pool.states()[0].up
    assert host.pace == {}


def test_the_host_that_answered_is_the_conversations_home() -> None:
    pool, _ = make_pool()
    host, _ = hosts_of(pool)
    messages = [{"role": "user", "content": "one"}]
    answered(pool, host, CHAT, pool.wanted({"model": "m", "messages": messages}))
    messages += [{"role": "assistant", "content": "x"}, {"role": "user", "content": "two"}]
    again = pool.wanted({"model": "m", "messages": messages})
    assert (again.home, again.saved) == (host, 1.0)  # 100 tokens, at 100 a second
    assert pool.wanted({"model": "m", "messages": [{"role": "user", "content": "two"}]}).home is None


def test_which_hosts_are_left() -> None:
    pool, clock = make_pool(3)
    one, two, three = hosts_of(pool)
    wanted = Wanted("m:latest", tried=frozenset({one}))
    assert pool.is_left(wanted)
    pool.failed(two, wanted, ModelNotFoundError("x"))
    pool.failed(three, wanted, LLMConnectionError("x"))
    assert not pool.is_left(wanted)
    assert pool.is_left(wanted, waits=True)  # the third will return
    clock.now += 1.2
    assert pool.is_left(wanted)
    assert not pool.is_left(Wanted("m:latest", tried=frozenset({one, three})), waits=True)


def test_a_model_that_no_host_lists_is_tried_once_on_each() -> None:
    # It may have been pulled since, or be listed under another name.
    pool, clock = make_pool(2)
    one, two = hosts_of(pool)
    one.pulled = two.pulled = {}
    wanted = Wanted("m:latest", tried=frozenset({one}))
    assert pool.is_left(wanted)
    pool.failed(one, wanted, ModelNotFoundError("x"))
    pool.failed(two, wanted, ModelNotFoundError("x"))
    assert not pool.is_left(wanted, waits=True)
    clock.now += 61
    assert pool.is_left(wanted)


def test_an_error_names_the_hosts_that_lack_a_model() -> None:
    pool, _ = make_pool(7)
    wanted = Wanted("m:latest")
    error = ModelNotFoundError("there is no m")
    for host in hosts_of(pool)[1:]:
        pool.failed(host, wanted, error)
    pool.name_lacking(wanted, error)
    assert error.message == "there is no m"  # one may have it
    hosts_of(pool)[0].pulled = {}
    pool.name_lacking(wanted, error)
    listed = ", ".join(f"http://{number}" for number in range(5))
    assert error.message == f"there is no m (it is on none of {listed} and 2 more)"
