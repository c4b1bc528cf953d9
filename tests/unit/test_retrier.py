"""Which errors are retried, after which wait, and how often."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from namel3ss_ollama import retrier as module
from namel3ss_ollama.errors import (
    AuthenticationError,
    BadRequestError,
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
from namel3ss_ollama.retrier import Retrier, RetryBudget, backoff, instant_retries
from namel3ss_ollama.settings import RetryPolicy

Virtual = Callable[[Any], Any]
BUSY = ServerBusyError("busy")


@pytest.fixture(autouse=True)
def longest_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every random wait is as long as possible."""
    monkeypatch.setattr(module.random, "random", lambda: 1.0)


class Attempts:
    """An attempt that fails with one error after the other, then succeeds."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.times: list[float] = []

    async def __call__(self) -> str:
        self.times.append(asyncio.get_running_loop().time())
        if self.errors:
            raise self.errors.pop(0)
        return "an answer"

    @property
    def waits(self) -> list[float]:
        return [round(b - a, 6) for a, b in zip(self.times, self.times[1:], strict=False)]


# backoff

seconds = st.floats(0, 1e6)
policies = st.builds(RetryPolicy, wait_initial=seconds, wait_max=seconds)
chances = st.floats(0, 1)


@given(policies, st.integers(1, 10**6), st.none() | seconds, chances)
def test_a_wait_is_within_its_limits(
    policy: RetryPolicy, attempt: int, retry_after: float | None, chance: float
) -> None:
    wait = backoff(policy, attempt, retry_after, chance)
    assert 0 <= wait <= max(policy.wait_max, retry_after or 0)
    assert wait >= (retry_after or 0)
    if attempt <= 50:
        assert wait <= max(policy.wait_initial * 2.0 ** (attempt - 1), retry_after or 0)


@given(policies, st.integers(1, 200), chances)
def test_waits_grow_with_the_attempts(policy: RetryPolicy, attempt: int, chance: float) -> None:
    assert backoff(policy, attempt, None, chance) <= backoff(policy, attempt + 1, None, chance)


@pytest.mark.parametrize(
    ("attempt", "retry_after", "chance", "wait"),
    [
        (1, None, 1.0, 1.5),
        (2, None, 1.0, 3.0),
        (3, None, 1.0, 6.0),
        (6, None, 1.0, 10.0),
        (10**9, None, 1.0, 10.0),
        (3, None, 0.25, 3.75),
        (3, None, 0.0, 3.0),
        (1, 7.0, 1.0, 7.0),
        (1, 0.1, 1.0, 1.5),
        (1, 30.0, 0.0, 30.0),
    ],
)
def test_the_waits_of_the_default_policy(attempt: int, retry_after: float | None, chance: float, wait: float) -> None:
    assert backoff(RetryPolicy(), attempt, retry_after, chance) == wait


@given(chances, chances)
def test_the_waits_of_the_default_policy_outlast_a_restart(first: float, second: float) -> None:
    # Once wrong: they could be nothing at all, and a server that restarts in a second was an error.
    waits = [backoff(RetryPolicy(), attempt, None, chance) for attempt, chance in ((1, first), (2, second))]
    assert 2.25 <= sum(waits) <= 4.5
    assert RetryPolicy().attempts == len(waits) + 1


# RetryBudget


def drain(budget: RetryBudget, most: int = 1000) -> int:
    return next((n for n in range(most) if not budget.withdraw()), most)


@pytest.mark.parametrize("reserve", [0, 1, 10])
def test_the_reserve_is_there_before_any_request(reserve: int) -> None:
    assert drain(RetryBudget(0.2, reserve)) == reserve


@pytest.mark.parametrize(
    ("ratio", "requests", "retries"), [(0.25, 3, 0), (0.25, 4, 1), (0.5, 2, 1), (1, 5, 5), (0, 99, 0)]
)
def test_requests_pay_for_retries(ratio: float, requests: int, retries: int) -> None:
    budget = RetryBudget(ratio, 10)
    drain(budget)
    for _ in range(requests):
        budget.deposit()
    assert drain(budget) == retries


def test_no_more_is_saved_than_the_reserve() -> None:
    budget = RetryBudget(1, 3)
    for _ in range(100):
        budget.deposit()
    assert drain(budget) == 3


def test_without_a_reserve_one_retry_can_be_saved() -> None:
    budget = RetryBudget(0.5, 0)
    for _ in range(100):
        budget.deposit()
    assert drain(budget) == 1


def test_without_a_ratio_there_is_no_limit() -> None:
    budget = RetryBudget(None, 0)
    budget.deposit()
    assert drain(budget) == 1000


@given(st.floats(0, 1), st.integers(0, 20), st.lists(st.booleans(), max_size=200))
def test_retries_are_never_more_than_was_paid_for(ratio: float, reserve: int, asked: list[bool]) -> None:
    budget = RetryBudget(ratio, reserve)
    granted = 0
    for requests, retry in enumerate(asked, 1):
        budget.deposit()
        granted += retry and budget.withdraw()
        assert granted <= reserve + ratio * requests + 1e-6


# run


@pytest.mark.parametrize(
    "error",
    [
        LLMConnectionError("x"),
        ServerBusyError("x"),
        ServerError("x", temporary=True),
        StreamInterruptedError("x", temporary=True),
        LLMTimeoutError("x", deadline="connect"),
        ToolCallParseError("x"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_temporary_errors_are_retried(virtual: Virtual, error: LLMError) -> None:
    attempts = Attempts(error)
    assert virtual(Retrier(RetryPolicy()).run(attempts)) == "an answer"
    assert len(attempts.times) == 2


@pytest.mark.parametrize(
    "error",
    [
        AuthenticationError("x"),
        BadRequestError("x"),
        LLMTimeoutError("x", deadline="chunk_timeout"),
        MalformedResponseError("x"),
        ModelNotFoundError("x"),
        OutputValidationError("x"),
        QueueFullError("x"),
        QuotaExceededError("x", retry_after=1),
        ServerError("x"),
        StreamInterruptedError("x"),
        ServerBusyError("x", temporary=False),
        ValueError("x"),
        OSError("x"),
        asyncio.CancelledError(),
        KeyboardInterrupt(),
    ],
    ids=lambda e: type(e).__name__,
)
def test_other_errors_are_not_retried(virtual: Virtual, error: BaseException) -> None:
    async def scenario() -> BaseException | None:
        # Caught here: some of these would end the loop.
        try:
            await Retrier(RetryPolicy()).run(attempts)
        except BaseException as raised:
            return raised
        return None

    attempts = Attempts(error)
    assert virtual(scenario()) is error
    assert len(attempts.times) == 1


@pytest.mark.parametrize("attempts", [1, 2, 3, 5])
def test_attempts_is_the_total_number(virtual: Virtual, attempts: int) -> None:
    errors = [ServerBusyError(str(n)) for n in range(10)]
    tried = Attempts(*errors)
    with pytest.raises(ServerBusyError) as caught:
        virtual(Retrier(RetryPolicy(attempts=attempts)).run(tried))
    assert caught.value is errors[attempts - 1]
    assert len(tried.times) == attempts


def test_an_error_keeps_its_cause(virtual: Virtual) -> None:
    cause = OSError("underneath")
    with pytest.raises(LLMConnectionError) as caught:
        virtual(Retrier(RetryPolicy(attempts=2)).run(Attempts(BUSY, LLMConnectionError("x", original_error=cause))))
    assert caught.value.__cause__ is cause


def test_the_waits_between_attempts(virtual: Virtual) -> None:
    attempts = Attempts(BUSY, BUSY, BUSY, BUSY, BUSY)
    virtual(Retrier(RetryPolicy(attempts=6, wait_initial=1, wait_max=6)).run(attempts))
    assert attempts.waits == [1, 2, 4, 6, 6]


def test_waits_are_random_so_that_clients_do_not_retry_together(
    virtual: Virtual, monkeypatch: pytest.MonkeyPatch
) -> None:
    chances = iter([0.5, 0.25])
    monkeypatch.setattr(module.random, "random", lambda: next(chances))
    attempts = Attempts(BUSY, BUSY)
    virtual(Retrier(RetryPolicy(wait_initial=1)).run(attempts))
    assert attempts.waits == [0.75, 1.25]


@pytest.mark.parametrize(
    ("retry_after", "waits"), [(20.0, [20]), (60.0, [60]), (0.0, [1.5]), (60.1, None), (1e9, None)]
)
def test_retry_after_is_waited_for_or_the_error_is_raised_at_once(
    virtual: Virtual, retry_after: float, waits: list[float] | None
) -> None:
    attempts = Attempts(ServerBusyError("x", retry_after=retry_after))
    if waits is None:
        with pytest.raises(ServerBusyError):
            virtual(Retrier(RetryPolicy()).run(attempts))
        assert len(attempts.times) == 1
    else:
        assert virtual(Retrier(RetryPolicy()).run(attempts)) == "an answer"
        assert attempts.waits == waits


@pytest.mark.parametrize(("deadline", "tried"), [(0.9, 1), (1, 2), (2.9, 2), (3, 3), (6.9, 3), (7, 4), (None, 5)])
def test_no_retry_starts_after_the_deadline(virtual: Virtual, deadline: float | None, tried: int) -> None:
    attempts = Attempts(*[BUSY] * 9)
    policy = RetryPolicy(attempts=5, wait_initial=1, wait_max=100, deadline=deadline)
    with pytest.raises(ServerBusyError):
        virtual(Retrier(policy).run(attempts))
    assert len(attempts.times) == tried


def test_the_time_of_the_attempts_counts_for_the_deadline(virtual: Virtual) -> None:
    async def scenario() -> int:
        tried = 0

        async def slow() -> None:
            nonlocal tried
            tried += 1
            await asyncio.sleep(10)
            raise BUSY

        with pytest.raises(ServerBusyError):
            await Retrier(RetryPolicy(attempts=9, wait_initial=0, deadline=25)).run(slow)
        return tried

    assert virtual(scenario()) == 3


def test_one_budget_for_all_requests(virtual: Virtual) -> None:
    async def scenario() -> list[int]:
        retrier = Retrier(RetryPolicy(attempts=3, wait_initial=0, budget=0.5, budget_reserve=3))
        tried: list[int] = []
        for _ in range(6):
            attempts = Attempts(*[BUSY] * 9)
            with pytest.raises(ServerBusyError):
                await retrier.run(attempts)
            tried.append(len(attempts.times))
        return tried

    # 3 in reserve, each request pays half a retry.
    assert virtual(scenario()) == [3, 2, 2, 1, 2, 1]


def test_a_request_that_is_not_retried_costs_nothing(virtual: Virtual) -> None:
    async def scenario() -> int:
        retrier = Retrier(RetryPolicy(attempts=2, wait_initial=0, deadline=10, budget=0, budget_reserve=1))
        for error in (BadRequestError("x"), ServerBusyError("x", retry_after=50), ServerBusyError("x", retry_after=99)):
            with pytest.raises(LLMError):
                await retrier.run(Attempts(error))
        attempts = Attempts(BUSY)
        assert await retrier.run(attempts) == "an answer"
        return len(attempts.times)

    assert virtual(scenario()) == 2


def test_requests_that_succeed_pay_too_even_without_retries_of_their_own(virtual: Virtual) -> None:
    retrier = Retrier(RetryPolicy(attempts=1, budget=0.5, budget_reserve=2))
    drain(retrier._budget)
    for _ in range(2):
        virtual(retrier.run(Attempts()))
    assert drain(retrier._budget) == 1


def test_on_retry_is_called_before_each_wait(virtual: Virtual) -> None:
    calls: list[tuple[str, float, int]] = []
    attempts = Attempts(ServerBusyError("one"), LLMConnectionError("two"))

    def on_retry(error: LLMError, wait: float) -> None:
        calls.append((error.message, wait, len(attempts.times)))

    virtual(Retrier(RetryPolicy()).run(attempts, on_retry=on_retry))
    assert calls == [("one", 1.5, 1), ("two", 3.0, 2)]


@pytest.mark.parametrize(
    ("policy", "tried"),
    [
        (RetryPolicy(), 2),
        (RetryPolicy(call_retries=0), 1),
        (RetryPolicy(call_retries=2), 3),
        (RetryPolicy(call_retries=9), 3),
        (RetryPolicy(budget_reserve=0, call_retries=9), 1),
        (RetryPolicy.off(), 1),
    ],
)
def test_an_unparsable_tool_call_is_retried_at_once(virtual: Virtual, policy: RetryPolicy, tried: int) -> None:
    attempts = Attempts(*[ToolCallParseError("x")] * 9)
    with pytest.raises(ToolCallParseError):
        virtual(Retrier(policy).run(attempts))
    assert attempts.waits == [0] * (tried - 1)


def test_other_failures_do_not_count_as_unparsable_tool_calls(virtual: Virtual) -> None:
    attempts = Attempts(BUSY, ToolCallParseError("x"), BUSY)
    assert virtual(Retrier(RetryPolicy(attempts=4)).run(attempts)) == "an answer"
    assert attempts.waits == [1.5, 0, 6]
    attempts = Attempts(ToolCallParseError("x"), BUSY, ToolCallParseError("x"))
    with pytest.raises(ToolCallParseError):
        virtual(Retrier(RetryPolicy(attempts=4)).run(attempts))
    assert len(attempts.times) == 3


def test_the_last_failure_is_not_a_retry(virtual: Virtual) -> None:
    calls: list[str] = []
    with pytest.raises(ServerBusyError):
        virtual(
            Retrier(RetryPolicy(attempts=2)).run(
                Attempts(BUSY, BUSY), on_retry=lambda error, _: calls.append(error.message)
            )
        )
    assert calls == ["busy"]


def test_waits_use_the_sleep_argument(virtual: Virtual) -> None:
    slept: list[float] = []

    async def sleep(wait: float) -> None:
        slept.append(wait)

    attempts = Attempts(BUSY, BUSY)
    virtual(Retrier(RetryPolicy()).run(attempts, sleep=sleep))
    assert slept == [1.5, 3.0]
    assert attempts.waits == [0, 0]


def test_a_cancellation_during_a_wait_ends_it(virtual: Virtual) -> None:
    async def scenario() -> int:
        attempts = Attempts(BUSY)
        task = asyncio.create_task(Retrier(RetryPolicy(wait_initial=10)).run(attempts))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return len(attempts.times)

    assert virtual(scenario()) == 1


def test_instant_retries_do_not_wait_but_count_the_same(virtual: Virtual) -> None:
    errors = [BUSY, ServerBusyError("x", retry_after=30)]
    calls: list[float] = []
    with instant_retries():
        with instant_retries():
            pass
        attempts = Attempts(*errors)
        virtual(Retrier(RetryPolicy()).run(attempts, on_retry=lambda _, wait: calls.append(wait)))
    assert attempts.waits == [0, 0]
    assert calls == [0, 0]
    attempts = Attempts(*errors)
    virtual(Retrier(RetryPolicy()).run(attempts))
    assert attempts.waits == [1.5, 30]


def test_instant_retries_end_with_an_exception_too(virtual: Virtual) -> None:
    with pytest.raises(ZeroDivisionError), instant_retries():
        raise ZeroDivisionError
    attempts = Attempts(BUSY)
    virtual(Retrier(RetryPolicy()).run(attempts))
    assert attempts.waits == [1.5]


# The complete decision: the policy holds for any failures.

failures = st.builds(
    ServerBusyError, st.just("x"), temporary=st.booleans(), retry_after=st.none() | st.floats(0, 100)
)  # fmt: skip


@given(
    st.lists(failures, max_size=6),
    st.integers(1, 5),
    st.none() | st.floats(0.1, 100),
    st.none() | st.integers(0, 3),
)
def test_the_policy_holds_whatever_fails(
    virtual: Virtual, errors: list[LLMError], attempts: int, deadline: float | None, reserve: int | None
) -> None:
    policy = RetryPolicy(
        attempts=attempts,
        retry_after_max=50,
        deadline=deadline,
        budget=None if reserve is None else 0,
        budget_reserve=reserve or 0,
    )
    tried = Attempts(*errors)

    async def scenario() -> BaseException | str:
        try:
            return await Retrier(policy).run(tried)
        except LLMError as error:
            return error

    result = virtual(scenario())
    assert len(tried.times) <= min(attempts, len(errors) + 1)
    if reserve is not None:
        assert len(tried.times) <= reserve + 1
    for error in errors[: len(tried.times) - 1]:  # those that were followed by another attempt
        assert error.temporary
        assert (error.retry_after or 0) <= 50
    if deadline is not None:
        assert tried.times[-1] - tried.times[0] <= deadline + 1e-6
    if len(tried.times) > len(errors):
        assert result == "an answer"
    else:
        assert result is errors[len(tried.times) - 1]


# pause, for callers that repeat a request themselves


def test_pause_waits_as_run_does(virtual: Virtual) -> None:
    async def scenario() -> list[tuple[bool, float]]:
        loop = asyncio.get_running_loop()
        retrier = Retrier(RetryPolicy())
        seen: list[tuple[bool, float]] = []
        for failed, error in ((1, BUSY), (2, BUSY), (1, ServerBusyError("x", retry_after=9)), (3, BUSY)):
            start = loop.time()
            again = await retrier.pause(failed, error)
            seen.append((again, round(loop.time() - start, 6)))
        return seen

    assert virtual(scenario()) == [(True, 1.5), (True, 3), (True, 9), (False, 0)]


def test_pause_gives_up_where_run_does(virtual: Virtual) -> None:
    async def scenario() -> None:
        assert not await Retrier(RetryPolicy()).pause(1, ServerBusyError("x", retry_after=61))
        retrier = Retrier(RetryPolicy(attempts=99, budget=0, budget_reserve=2))
        with instant_retries():
            start = asyncio.get_running_loop().time()
            assert [await retrier.pause(1, BUSY) for _ in range(3)] == [True, True, False]
            assert asyncio.get_running_loop().time() == start

    virtual(scenario())
