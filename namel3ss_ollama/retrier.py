"""Which failures are retried, when, and how often.

Three pure rules decide, and tenacity runs them: `LLMError.temporary` says whether a retry may help (set where the
failure is diagnosed), `backoff` says how long to wait, and `RetryBudget` says whether the provider can afford another
retry. Callers of `run` must ensure that nothing was delivered yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, TypeVar

from namel3ss_ollama.errors import LLMError, ToolCallParseError
from namel3ss_ollama.forks import renewed_after_fork
from namel3ss_ollama.greenlets import allocate_lock
from namel3ss_ollama.settings import RetryPolicy

if TYPE_CHECKING:
    from tenacity import RetryCallState

__all__ = ["Retrier", "RetryBudget", "backoff", "instant_retries"]

T = TypeVar("T")


class _Waits:
    """How many contexts that skip waits are entered; for the process, including its threads."""

    skipped_by = 0


@contextlib.contextmanager
def instant_retries() -> Generator[None]:
    """For tests: within this context, retries happen as usual but without waiting."""
    _Waits.skipped_by += 1
    try:
        yield
    finally:
        _Waits.skipped_by -= 1


def backoff(policy: RetryPolicy, attempt: int, retry_after: float | None, chance: float) -> float:
    """Seconds to wait after failed attempt number `attempt` (from 1): exponential, half of it random.

    The other half is fixed, so that the waits of one request outlast a server's restart.

    Args:
        policy: The waits.
        attempt: The attempt that failed.
        retry_after: The wait that the server asked for, if any; a lower bound.
        chance: A random number from 0 to 1.
    """
    # Past 64 doublings every wait is at its maximum; larger powers would not fit a float.
    ceiling = min(policy.wait_max, policy.wait_initial * 2.0 ** min(attempt - 1, 64))
    return max(ceiling * (0.5 + 0.5 * chance), retry_after or 0.0)


class RetryBudget:
    """Retries as a fraction of requests: each request pays in, each retry takes one out.

    Args:
        ratio: What a request pays in; None for no limit.
        reserve: The initial amount, and the maximum.
    """

    def __init__(self, ratio: float | None, reserve: int) -> None:
        self._ratio = ratio
        self._most = float(max(reserve, 1))
        self._balance = float(reserve)
        self.after_fork()
        renewed_after_fork(self)

    def after_fork(self) -> None:
        """A thread of the parent may have held the lock."""
        self._lock = allocate_lock()

    def deposit(self) -> None:
        """A request begins."""
        if self._ratio is not None:
            with self._lock:
                self._balance = min(self._most, self._balance + self._ratio)

    def withdraw(self) -> bool:
        """Take out one retry; False if there is none."""
        if self._ratio is None:
            return True
        with self._lock:
            if self._balance < 1.0 - 1e-9:  # ten times 0.1 is a little less than 1
                return False
            self._balance -= 1.0
            return True


class Retrier:
    """Runs an attempt, and retries it while that makes sense.

    Args:
        policy: When and how often.
        slots: The slots of several hosts. They add as many retries to the reserve, since the requests of a host that
            fails move to others.
    """

    def __init__(self, policy: RetryPolicy, slots: int = 0) -> None:
        self.policy = policy
        self._budget = RetryBudget(policy.budget, policy.budget_reserve + slots)

    async def run(
        self,
        attempt: Callable[[], Awaitable[T]],
        *,
        on_retry: Callable[[LLMError, float], None] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        remaining: Callable[[], float | None] = lambda: None,
    ) -> T:
        """The result of the first attempt that succeeds.

        Args:
            attempt: Makes one attempt.
            on_retry: Called before each wait with the failure and the seconds to wait.
            sleep: Waits for a number of seconds.
            remaining: Seconds left for all attempts; a longer wait is not started.

        Raises:
            LLMError: The last attempt's failure.
        """
        self._budget.deposit()
        began = asyncio.get_running_loop().time()
        try:
            return await attempt()
        except LLMError as error:
            if self.policy.attempts == 1 or not self._worth_it(error):
                raise
            failed = [error]
        # Only for failures: tenacity takes longer to import than all of this package, and each time as long to
        # set up as it takes to send a request.
        from tenacity import AsyncRetrying, retry_if_exception

        unread_calls = 0

        def is_last(state: RetryCallState) -> bool:
            nonlocal unread_calls
            unread_calls += isinstance(_failure(state), ToolCallParseError)
            if state.attempt_number >= self.policy.attempts or unread_calls > self.policy.call_retries:
                return True
            left = remaining()
            if left is not None and state.upcoming_sleep > left:
                return True
            waited_until = asyncio.get_running_loop().time() - began + state.upcoming_sleep
            if self.policy.deadline is not None and waited_until > self.policy.deadline:
                return True
            return not self._budget.withdraw()

        def wait(state: RetryCallState) -> float:
            return self._wait(state.attempt_number, _failure(state))

        def before_sleep(state: RetryCallState) -> None:
            if on_retry is not None:
                on_retry(_failure(state), state.upcoming_sleep)

        async def once() -> T:  # tenacity awaits only what it recognizes as a coroutine function
            if failed:
                raise failed.pop()
            return await attempt()

        retrying = AsyncRetrying(
            retry=retry_if_exception(self._worth_it),
            stop=is_last,
            wait=wait,
            before_sleep=before_sleep,
            sleep=sleep,
            reraise=True,
        )
        return await retrying(once)

    def _wait(self, attempt: int, error: LLMError) -> float:
        if _Waits.skipped_by or isinstance(error, ToolCallParseError):
            return 0.0
        return backoff(self.policy, attempt, error.retry_after, random.random())

    def _worth_it(self, error: BaseException) -> bool:
        return (
            isinstance(error, LLMError)
            and error.temporary
            and (error.retry_after or 0.0) <= self.policy.retry_after_max
        )

    def affords(self) -> bool:
        """Whether the provider can afford one more request; if so, it is paid."""
        return self._budget.withdraw()

    async def pause(self, failures: int, error: LLMError, remaining: float | None = None) -> bool:
        """For callers with their own retry loop: sleep, then return True; False if no retry is allowed.

        Args:
            failures: How many attempts in a row have failed.
            error: The last failure.
            remaining: Seconds left for all attempts; a longer wait is not started. None for no limit.
        """
        seconds = self._wait(failures, error)
        if failures >= self.policy.attempts or not self._worth_it(error):
            return False
        if (remaining is not None and seconds > remaining) or not self._budget.withdraw():
            return False
        await asyncio.sleep(seconds)
        return True


def _failure(state: RetryCallState) -> LLMError:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, LLMError)  # nothing else is retried
    return error
