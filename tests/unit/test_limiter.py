"""The concurrency limit: slots are granted in order, and none is ever lost."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from namel3ss_ollama.errors import QueueFullError
from namel3ss_ollama.limiter import Limiter, Slot, _expire, patiently

Virtual = Callable[[Any], Any]


async def settle(turns: int = 5) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


def state(limiter: Limiter) -> tuple[int, int]:
    return limiter.running, limiter.queued


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("max_concurrent", 0, ValueError),
        ("max_concurrent", -1, ValueError),
        ("max_concurrent", 1.5, TypeError),
        ("max_queue", -1, ValueError),
        ("max_queue", True, TypeError),
        ("queue_timeout", 0, ValueError),
        ("queue_timeout", "1", TypeError),
    ],
)
def test_invalid_limits(name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"^{name}: "):
        Limiter(**{name: value})


async def test_slots_are_granted_in_order_of_arrival() -> None:
    limiter = Limiter(2)
    order: list[int] = []
    most = 0

    async def work(number: int) -> None:
        nonlocal most
        async with limiter.slot():
            order.append(number)
            most = max(most, limiter.running)
            await settle(number % 3)

    await asyncio.gather(*(work(n) for n in range(20)))
    assert order == list(range(20))
    assert most == 2
    assert state(limiter) == (0, 0)


async def test_an_adaptive_limit_counts_requests_without_a_first_token() -> None:
    limiter = Limiter("auto")
    waiting = [asyncio.create_task(limiter.acquire()) for _ in range(100)]
    await settle()
    assert state(limiter) == (10, 90)
    for count, running in ((4, 14), (10, 20), (11, 22), (20, 40), (40, 80)):  # as many as are answered, at least 10
        for task in waiting[:count]:
            limiter.answered(task.result())
            limiter.answered(task.result())  # counts once
        await settle()
        assert state(limiter) == (running, 100 - running)
    for task in waiting[:40]:  # none of the other 40 has its first token, so none follows
        limiter.release(task.result())
        limiter.answered(task.result())  # too late
    assert state(limiter) == (40, 20)
    for task in waiting[40:71]:
        limiter.release(task.result())
    await settle()
    assert state(limiter) == (10, 19)
    for task in waiting[71:]:
        await task
        limiter.release(task.result())
    assert state(limiter) == (0, 0)


async def test_a_request_that_is_sent_again_waits_for_its_first_token() -> None:
    limiter = Limiter("auto")
    slots = [await limiter.acquire() for _ in range(10)]
    for slot in slots:
        limiter.answered(slot)
    slots += [await limiter.acquire() for _ in range(10)]
    for slot in slots[:5]:
        limiter.answered(slot, False)
    assert limiter.try_acquire() is None
    for slot in slots[10:]:
        limiter.answered(slot)
    assert limiter.try_acquire() is not None


async def test_a_fixed_limit_does_not_adapt() -> None:
    limiter = Limiter(1)
    limiter.answered(await limiter.acquire())
    assert limiter.try_acquire() is None


async def test_a_newcomer_does_not_overtake_a_waiter_that_got_a_slot() -> None:
    limiter = Limiter(1)
    slot = await limiter.acquire()
    first = asyncio.create_task(limiter.acquire())
    await settle()
    limiter.release(slot)  # now the first task owns it, but has not run yet
    second = asyncio.create_task(limiter.acquire())
    await settle()
    assert (first.done(), second.done()) == (True, False)
    assert state(limiter) == (1, 1)
    limiter.release(first.result())
    limiter.release(await second)
    assert state(limiter) == (0, 0)


async def test_without_a_limit_requests_are_counted_but_do_not_wait() -> None:
    limiter = Limiter(None)
    slots = [await limiter.acquire() for _ in range(1000)]
    assert state(limiter) == (1000, 0)
    for slot in slots:
        limiter.release(slot)
    assert state(limiter) == (0, 0)


async def test_a_slot_is_released_after_an_exception() -> None:
    limiter = Limiter(1)
    with pytest.raises(ZeroDivisionError):
        async with limiter.slot():
            assert state(limiter) == (1, 0)
            raise ZeroDivisionError
    assert state(limiter) == (0, 0)


async def test_a_cancelled_waiter_leaves_the_queue() -> None:
    limiter = Limiter(1)
    slot = await limiter.acquire()
    tasks = [asyncio.create_task(limiter.acquire()) for _ in range(3)]
    await settle()
    tasks[1].cancel()
    await settle()
    assert tasks[1].cancelled()
    assert state(limiter) == (1, 2)
    limiter.release(slot)
    limiter.release(await tasks[0])
    limiter.release(await tasks[2])
    assert state(limiter) == (0, 0)


@pytest.mark.parametrize("turns", range(5))
@pytest.mark.parametrize("others", [0, 1])
async def test_a_slot_survives_a_cancellation_at_any_point_after_the_handover(turns: int, others: int) -> None:
    limiter = Limiter(1)
    slot = await limiter.acquire()
    waiter = asyncio.create_task(limiter.acquire())
    queue = [asyncio.create_task(limiter.acquire()) for _ in range(others)]
    await settle()
    limiter.release(slot)
    for _ in range(turns):
        await asyncio.sleep(0)
    if waiter.cancel():  # it was granted a slot, but never sees it
        with pytest.raises(asyncio.CancelledError):
            await waiter
    else:
        limiter.release(waiter.result())
    slots = await asyncio.gather(*queue)
    assert state(limiter) == (others, 0)
    for slot in slots:
        limiter.release(slot)
    await asyncio.wait_for(limiter.acquire(), 1)
    assert state(limiter) == (1, 0)


async def test_a_slot_is_released_once() -> None:
    limiter = Limiter(2)
    slot, _ = await limiter.acquire(), await limiter.acquire()
    for _ in range(3):
        limiter.release(slot)
    assert state(limiter) == (1, 0)


async def test_all_waiters_can_be_cancelled_at_once() -> None:
    limiter = Limiter(1)
    slot = await limiter.acquire()
    tasks = [asyncio.create_task(limiter.acquire()) for _ in range(10)]
    await settle()
    limiter.release(slot)
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    assert state(limiter) == (0, 0)


@pytest.mark.parametrize("max_queue", [0, 1, 3])
async def test_a_full_queue_rejects_requests(max_queue: int) -> None:
    limiter = Limiter(1, max_queue=max_queue)
    slot = await limiter.acquire()
    waiting = [asyncio.create_task(limiter.acquire()) for _ in range(max_queue)]
    await settle()
    with pytest.raises(
        QueueFullError, match=rf"1 requests run and {max_queue} wait \(max_queue={max_queue}\)"
    ) as caught:
        await limiter.acquire()
    assert not caught.value.temporary
    assert state(limiter) == (1, max_queue)
    for task in waiting:
        limiter.release(slot)
        slot = await task
    limiter.release(slot)
    await limiter.acquire()
    assert state(limiter) == (1, 0)


def test_a_queue_timeout_is_an_error(virtual: Virtual) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        limiter = Limiter(1, queue_timeout=5)
        slot = await limiter.acquire()
        start = loop.time()
        with pytest.raises(QueueFullError, match=r"queue_timeout=5 s \(max_concurrent=1\)") as caught:
            await limiter.acquire()
        assert loop.time() - start == pytest.approx(5)
        assert caught.value.__cause__ is None
        assert state(limiter) == (1, 0)
        limiter.release(slot)
        await limiter.acquire()
        assert state(limiter) == (1, 0)

    virtual(scenario())


def test_a_queue_timeout_ends_with_the_wait(virtual: Virtual) -> None:
    async def scenario() -> None:
        limiter = Limiter(1, queue_timeout=5)
        slot = await limiter.acquire()
        task = asyncio.create_task(limiter.acquire())
        await asyncio.sleep(4.9)
        limiter.release(slot)
        await task
        await asyncio.sleep(100)
        assert state(limiter) == (1, 0)

    virtual(scenario())


def test_a_slot_released_at_the_moment_of_the_timeout_is_not_lost(virtual: Virtual) -> None:
    async def scenario() -> None:
        loop: Any = asyncio.get_running_loop()
        limiter = Limiter(1, queue_timeout=5)
        slot = await limiter.acquire()
        late = asyncio.create_task(limiter.acquire())
        await settle()
        loop.spend(5)  # the timer is due, but has not run
        limiter.release(slot)
        await asyncio.wait([late])
        if late.exception() is None:
            limiter.release(late.result())
        else:
            assert isinstance(late.exception(), QueueFullError)
        assert state(limiter) == (0, 0)

        # The other way round: the timer has run, the waiter has not, and a slot comes free.
        slot = await limiter.acquire()
        late = asyncio.create_task(limiter.acquire())
        await settle()
        (waiter,) = limiter._waiters
        _expire(waiter.future)
        limiter.release(slot)
        with pytest.raises(QueueFullError):
            await late
        assert state(limiter) == (0, 0)
        _expire(waiter.future)  # too late: nothing happens

    virtual(scenario())


@pytest.mark.timeout(60)
def test_event_loops_in_several_threads_share_one_limit() -> None:
    limiter = Limiter(3)
    lock = threading.Lock()
    now = most = done = 0

    async def work() -> None:
        nonlocal now, most, done
        async with limiter.slot():
            with lock:
                now += 1
                most = max(most, now)
            await settle(2)
            with lock:
                now -= 1
                done += 1

    async def many() -> None:
        await asyncio.gather(*(work() for _ in range(50)))

    threads = [threading.Thread(target=asyncio.run, args=(many(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (done, now) == (200, 0)
    assert 1 <= most <= 3
    assert state(limiter) == (0, 0)


@contextmanager
def stopped_loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    try:
        yield loop
    finally:
        for task in asyncio.all_tasks(loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined] # it is left pending on purpose
        loop.close()


@pytest.mark.timeout(60)
def test_a_slot_released_in_one_thread_wakes_a_waiter_in_another() -> None:
    limiter = Limiter(1)
    with stopped_loop() as loop:
        slot = loop.run_until_complete(limiter.acquire())
        held: list[Slot] = []

        async def take() -> None:
            held.append(await limiter.acquire())
            assert state(limiter) == (1, 0)

        thread = threading.Thread(target=asyncio.run, args=(take(),))
        thread.start()
        while not limiter.queued:
            pass
        limiter.release(slot)
        thread.join(10)
        assert not thread.is_alive()
        assert held


def test_a_limiter_works_in_one_loop_after_another() -> None:
    limiter = Limiter(1)

    async def use() -> None:
        async with limiter.slot():
            assert state(limiter) == (1, 0)

    for _ in range(3):
        asyncio.run(use())
    assert state(limiter) == (0, 0)


@pytest.mark.timeout(20)
async def test_slots_of_a_closed_event_loop_are_reclaimed() -> None:
    # Once wrong: ten streams left on loops that were closed by hand, and the provider hung for ever
    limiter = Limiter(3)
    for _ in range(3):
        loop = asyncio.new_event_loop()
        await asyncio.to_thread(loop.run_until_complete, limiter.acquire())
        assert limiter.running == limiter.max_concurrent or not loop.is_closed()
        loop.close()
        assert limiter.running == 0
    loops = [asyncio.new_event_loop() for _ in range(3)]
    for loop in loops:
        await asyncio.to_thread(loop.run_until_complete, limiter.acquire())
    waiter = asyncio.create_task(limiter.acquire())
    await settle()
    assert state(limiter) == (3, 1)
    loops[0].close()  # while a task waits
    await waiter
    assert state(limiter) == (3, 0)
    limiter.release(waiter.result())
    for loop in loops[1:]:
        loop.close()
    assert state(limiter) == (0, 0)


def test_a_closed_event_loop_gets_no_slot() -> None:
    limiter = Limiter(1)
    with stopped_loop() as holder, stopped_loop() as dead:
        slot = holder.run_until_complete(limiter.acquire())
        task = dead.create_task(limiter.acquire())
        dead.run_until_complete(asyncio.sleep(0))
        assert state(limiter) == (1, 1)
        task._log_destroy_pending = False
        dead.close()  # without cancelling what waits on it
        assert state(limiter) == (1, 0)

        async def next_one() -> None:
            waiter = asyncio.create_task(limiter.acquire())
            await settle()
            limiter.release(slot)
            await waiter
            assert state(limiter) == (1, 0)

        asyncio.run(next_one())
    assert state(limiter) == (0, 0)


def test_a_stopped_event_loop_gets_no_slot_until_it_runs_again() -> None:
    # Once wrong: a loop that was stopped, not closed, was granted the slot and starved the others
    limiter = Limiter(1)
    with stopped_loop() as stopped:
        slot = stopped.run_until_complete(limiter.acquire())
        first = stopped.create_task(limiter.acquire())
        stopped.run_until_complete(asyncio.sleep(0))

        async def behind_it() -> None:
            second = asyncio.create_task(limiter.acquire())
            await settle()
            assert state(limiter) == (1, 2)
            limiter.release(slot)
            limiter.release(await asyncio.wait_for(second, 5))
            assert state(limiter) == (0, 1)

        asyncio.run(behind_it())
        limiter.release(stopped.run_until_complete(first))
    assert state(limiter) == (0, 0)


def test_an_event_loop_that_ends_during_the_handover_releases_the_slot() -> None:
    limiter = Limiter(1)

    async def leave_at_once() -> None:
        slot = await limiter.acquire()
        task = asyncio.create_task(limiter.acquire())
        await settle()
        limiter.release(slot)
        assert not task.done()  # asyncio.run cancels it now

    asyncio.run(leave_at_once())
    assert state(limiter) == (0, 0)


async def test_a_parents_slot_gives_a_child_no_extra_slot() -> None:
    limiter = Limiter(1)
    slot = await limiter.acquire()
    limiter.after_fork()
    assert limiter.running == 0
    limiter.release(slot)  # a child closes a stream that the parent opened
    await limiter.acquire()
    assert limiter.running == limiter.max_concurrent


# Requests within requests


async def test_a_nested_request_may_exceed_the_limit() -> None:
    # Once wrong: as many streams as slots, each with a request in the body of its loop, waited for ever
    limiter = Limiter(1)
    async with limiter.slot():
        async with limiter.slot():
            assert state(limiter) == (2, 0)

            async def child() -> int:
                async with limiter.slot():
                    return limiter.running

            assert await child() == 3
            assert await asyncio.create_task(child()) == 3
        assert await asyncio.create_task(child()) == 2
    assert state(limiter) == (0, 0)


async def test_a_task_without_a_slot_is_not_nested() -> None:
    limiter, other = Limiter(1), Limiter(1)
    async with other.slot(), limiter.slot():
        pass
    async with other.slot():
        slot = await limiter.acquire()
        waiter = asyncio.create_task(limiter.acquire())
        await settle()
        assert state(limiter) == (1, 1)
        limiter.release(slot)
        limiter.release(await waiter)


def test_streams_that_all_wait_for_their_callers_let_others_run(virtual: Virtual, monkeypatch: Any) -> None:
    """Where no context variable shows the nesting (LangChain's chains iterate their streams in separate tasks)."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr("namel3ss_ollama.limiter.time.monotonic", loop.time)
        limiter = Limiter(2)
        slots = [await limiter.acquire() for _ in range(2)]
        slots[0].idle_since = loop.time()
        waiters = [asyncio.create_task(limiter.acquire()) for _ in range(5)]
        await asyncio.sleep(10)
        assert state(limiter) == (2, 5)  # the other stream is still reading
        slots[1].idle_since = loop.time()
        await asyncio.sleep(1)
        assert state(limiter) == (4, 3)  # two more, and they run
        for waiter in waiters[:2]:
            waiter.result().idle_since = loop.time()
        await asyncio.sleep(0.6)
        assert state(limiter) == (5, 2)  # then one at a time
        for waiter in waiters:
            waiter.cancel()
        await asyncio.wait(waiters)
        for slot in [*slots, *(waiter.result() for waiter in waiters if not waiter.cancelled())]:
            limiter.release(slot)
        assert state(limiter) == (0, 0)

    virtual(scenario())


async def test_patient_requests_wait_outside_the_queues_limits() -> None:
    limiter = Limiter(1, max_queue=1)
    slot = await limiter.acquire()
    with patiently():
        patient = [asyncio.create_task(limiter.acquire()) for _ in range(3)]
    await settle()
    other = asyncio.create_task(limiter.acquire())
    await settle()
    assert state(limiter) == (1, 4)
    with pytest.raises(QueueFullError, match="1 wait"):
        await limiter.acquire()
    for task in [*patient, other]:
        limiter.release(slot)
        slot = await task
    limiter.release(slot)
    assert state(limiter) == (0, 0)


def test_a_finalizer_releases_a_slot_within_any_critical_section() -> None:
    # Once wrong: the collector closed a suspended coroutine while its own thread, or another, held the lock
    limiter = Limiter(1)
    with stopped_loop() as loop:
        slot = loop.run_until_complete(limiter.acquire())
        with limiter._lock:
            limiter.release(slot)  # would deadlock if it waited
        assert state(limiter) == (0, 0)


def test_a_patient_coroutine_may_be_destroyed_in_another_context() -> None:
    # Once wrong: "Exception ignored", since the collector closes a coroutine in a context that is not its own
    async def request() -> None:
        with patiently():
            await asyncio.sleep(0)

    coroutine = request()
    contextvars.copy_context().run(coroutine.send, None)
    coroutine.close()
