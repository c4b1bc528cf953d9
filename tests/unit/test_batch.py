"""Batches: limited concurrency, lazily consumed prompts, results in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from namel3ss_ollama.batch import run_batch

Virtual = Callable[[Any], Any]


async def batch(items: Any, ask: Any, **settings: Any) -> list[Any]:
    given = {"workers": 3, "return_exceptions": False, "on_result": None, "keep_results": True, **settings}
    return await run_batch(items, ask, **given)


async def slower_first(item: int) -> str:
    """Answers later prompts sooner."""
    await asyncio.sleep(100 - item)
    return f"answer {item}"


def answers(*numbers: int) -> list[str]:
    return [f"answer {n}" for n in numbers]


@pytest.mark.parametrize("workers", [1, 2, 7, 50])
def test_results_are_in_the_order_of_the_prompts(virtual: Virtual, workers: int) -> None:
    assert virtual(batch(range(20), slower_first, workers=workers)) == answers(*range(20))


@pytest.mark.parametrize("items", [[], (), iter(())])
def test_no_prompts_no_answers(virtual: Virtual, items: Any) -> None:
    assert virtual(batch(items, slower_first)) == []


@pytest.mark.parametrize("workers", [1, 3])
def test_concurrency_is_limited_to_the_workers(virtual: Virtual, workers: int) -> None:
    running = most = 0

    async def ask(item: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(1)
        running -= 1
        return item

    virtual(batch(range(10), ask, workers=workers))
    assert most == workers


def test_prompts_are_consumed_lazily(virtual: Virtual) -> None:
    drawn = answered = 0
    ahead: list[int] = []

    def endless() -> Iterator[int]:
        nonlocal drawn
        while True:
            drawn += 1
            ahead.append(drawn - answered)
            yield drawn

    async def ask(item: int) -> int:
        nonlocal answered
        await asyncio.sleep(1)
        if item == 100:
            raise LookupError("enough")
        answered += 1
        return item

    with pytest.raises(LookupError, match="enough"):
        virtual(batch(endless(), ask))
    assert max(ahead) <= 3
    assert drawn <= 105  # workers that finish at the same time consume one more each


def test_an_async_iterator_is_not_used_concurrently(virtual: Virtual) -> None:
    drawing = 0

    async def items() -> AsyncIterator[int]:
        nonlocal drawing
        for item in range(6):
            drawing += 1
            assert drawing == 1
            await asyncio.sleep(1)
            drawing -= 1
            yield item

    assert virtual(batch(items(), slower_first)) == answers(*range(6))


def test_an_async_iterable_works_as_well(virtual: Virtual) -> None:
    class Items:
        async def __aiter__(self) -> AsyncIterator[int]:
            for item in (1, 2):
                yield item

    assert virtual(batch(Items(), slower_first)) == answers(1, 2)


async def failing(item: int) -> str:
    await asyncio.sleep(item)
    if item % 2:
        raise LookupError(str(item))
    return f"answer {item}"


def test_the_first_error_cancels_the_rest_and_is_raised(virtual: Virtual) -> None:
    async def scenario() -> None:
        ended: list[int] = []
        started: list[int] = []
        drawn: list[int] = []

        def items() -> Iterator[int]:
            for item in range(100):
                drawn.append(item)
                yield item

        async def ask(item: int) -> None:
            started.append(item)
            try:
                await asyncio.sleep(5 if item else 1)
            finally:
                ended.append(item)
            raise LookupError(str(item))

        with pytest.raises(LookupError, match=r"^0$"):
            await batch(items(), ask)
        assert sorted(ended) == sorted(started) == drawn == [0, 1, 2]
        assert len(asyncio.all_tasks()) == 1  # only this one: nothing runs in the background

    virtual(scenario())


def test_failures_can_be_results(virtual: Virtual) -> None:
    results = virtual(batch(range(4), failing, return_exceptions=True))
    assert [r if isinstance(r, str) else repr(r) for r in results] == [
        "answer 0", "LookupError('1')", "answer 2", "LookupError('3')",
    ]  # fmt: skip


def test_a_cancellation_is_not_a_result(virtual: Virtual) -> None:
    async def scenario() -> None:
        ended: list[int] = []

        async def ask(item: int) -> None:
            try:
                await asyncio.sleep(100)
            finally:
                ended.append(item)

        task = asyncio.create_task(batch(range(5), ask, return_exceptions=True))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert sorted(ended) == [0, 1, 2]

    virtual(scenario())


@pytest.mark.parametrize("return_exceptions", [False, True])
def test_a_source_that_fails_ends_the_batch(virtual: Virtual, return_exceptions: bool) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        virtual(batch(items(), slower_first, return_exceptions=return_exceptions))


@pytest.mark.parametrize("asynchronous", [False, True])
def test_on_result_is_called_with_each_result(virtual: Virtual, asynchronous: bool) -> None:
    received: list[tuple[int, Any]] = []

    def listen(index: int, result: Any) -> None:
        received.append((index, result))

    async def listen_and_wait(index: int, result: Any) -> None:
        await asyncio.sleep(0.1)
        received.append((index, result))

    results = virtual(
        batch([3, 2, 1], failing, return_exceptions=True, on_result=listen_and_wait if asynchronous else listen)
    )
    assert [index for index, _ in received] == [2, 1, 0]
    assert [results[index] for index, _ in received] == [result for _, result in received]


def test_a_failing_callback_ends_the_batch(virtual: Virtual) -> None:
    def listen(index: int, result: Any) -> None:
        raise LookupError("cannot write")

    with pytest.raises(LookupError, match="cannot write"):
        virtual(batch(range(3), slower_first, on_result=listen, return_exceptions=True))


def test_results_need_not_be_kept(virtual: Virtual) -> None:
    received: list[int] = []
    assert virtual(batch(range(5), slower_first, keep_results=False, on_result=lambda i, _: received.append(i))) == []
    assert sorted(received) == list(range(5))
