"""Many prompts through one provider: bounded in requests and in memory, results in order.

One worker per concurrent request draws from a shared iterator, so prompts are read as they are needed: an iterator over
a hundred thousand prompts is never in memory at once.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from typing import Any, TypeVar

__all__ = ["run_batch"]

T = TypeVar("T")
R = TypeVar("R")
OnResult = Callable[[int, Any], Awaitable[None] | None]


async def run_batch(
    items: Iterable[T] | AsyncIterable[T],
    ask: Callable[[T], Awaitable[R]],
    *,
    workers: int,
    return_exceptions: bool,
    on_result: OnResult | None,
    keep_results: bool,
) -> list[Any]:
    """The answers to `items`, in their order.

    Args:
        items: What to ask, consumed as slots become free.
        ask: Asks one.
        workers: How many requests run concurrently.
        return_exceptions: Whether failures are returned as results; if not, the first one ends the batch and is raised.
        on_result: Called with index and result as each one completes; may be async.
        keep_results: Whether to return the results; if not, the list is empty and memory stays flat.

    Raises:
        Exception: The first failure, unless `return_exceptions`.
    """
    results: dict[int, Any] = {}
    source = _numbered(items)
    drawing = asyncio.Lock()

    async def work() -> None:
        while True:
            async with drawing:
                drawn = await anext(source, None)
            if drawn is None:
                return
            index, item = drawn
            result: R | Exception
            try:
                result = await ask(item)
            except Exception as error:
                if not return_exceptions:
                    raise
                result = error
            if keep_results:
                results[index] = result
            if on_result is not None:
                pending = on_result(index, result)
                if inspect.isawaitable(pending):
                    await pending

    tasks = [asyncio.create_task(work()) for _ in range(workers)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await source.aclose()
    return [results[i] for i in sorted(results)]


async def _numbered(items: Iterable[T] | AsyncIterable[T]) -> AsyncGenerator[tuple[int, T], None]:
    index = 0
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield index, item
            index += 1
    else:
        for item in items:
            yield index, item
            index += 1
