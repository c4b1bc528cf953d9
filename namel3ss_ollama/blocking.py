"""Blocking counterparts of async methods, made by one function, each with the parameters of its async method.

A counterpart looks the async method up by name when it is called, so overriding the method in a subclass changes both.
The result is driven on the background event loop of `sync`: a coroutine to its result, a `Stream` as a `SyncStream`,
any other async iterator as a `SyncIterator`.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import typing
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar, overload

from typing_extensions import Self

from namel3ss_ollama.stream import Stream
from namel3ss_ollama.sync import SyncStream, run

__all__ = ["Facade", "SyncIterator", "blocking"]

P = ParamSpec("P")
T = TypeVar("T")
# Bound, so that a Stream, which is also an async iterator, matches only one overload: mypy infers Any from several.
Progress = TypeVar("Progress", bound=Mapping[str, Any])


class Facade:
    """The base of a class whose methods are blocking counterparts of another object's async methods."""

    def __init__(self, asynchronous: object) -> None:
        self._asynchronous = asynchronous

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._asynchronous!r})"


@overload
def blocking(
    method: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]], name: str | None = None
) -> Callable[Concatenate[Any, P], T]: ...


@overload
def blocking(
    method: Callable[Concatenate[Any, P], Stream], name: str | None = None
) -> Callable[Concatenate[Any, P], SyncStream]: ...


@overload
def blocking(
    method: Callable[Concatenate[Any, P], AsyncIterator[Progress]], name: str | None = None
) -> Callable[Concatenate[Any, P], SyncIterator[Progress]]: ...


def blocking(method: Callable[..., Any], name: str | None = None) -> Callable[..., Any]:
    """The blocking counterpart of an async method, as a method of its class or of a `Facade`.

    Args:
        method: A method that returns a coroutine, a `Stream` or another async iterator.
        name: The counterpart's name, if it differs from the method's.

    Example:
        ```python
        class SyncProvider(Facade):
            embed = blocking(OllamaProvider.embed)
        ```
    """
    asynchronous_name = method.__name__

    @functools.wraps(method)
    def twin(self: object, *args: Any, **kwargs: Any) -> Any:
        target = self._asynchronous if isinstance(self, Facade) else self
        result = getattr(target, asynchronous_name)(*args, **kwargs)
        if isinstance(result, Stream):
            return SyncStream(result)
        return run(result) if isinstance(result, Coroutine) else SyncIterator(result)

    if name is not None:
        twin.__name__ = name
        twin.__qualname__ = f"{method.__qualname__.rpartition('.')[0]}.{name}"
    if not inspect.iscoroutinefunction(method):  # there the annotation is already what the counterpart returns
        returned = _blocked(typing.get_type_hints(method)["return"])
        twin.__annotations__ = {**method.__annotations__, "return": returned}
        signature = inspect.signature(method).replace(return_annotation=returned)
        twin.__signature__ = signature  # type: ignore[attr-defined] # `inspect.signature` reads it
    return twin


def _blocked(returned: Any) -> Any:
    """The return annotation of the counterpart of an async method with the annotation `returned`."""
    return SyncStream if returned is Stream else SyncIterator[typing.get_args(returned)]  # type: ignore[misc] # at run time


class SyncIterator(Iterator[T]):
    """An async iterator for synchronous code: a plain iterator, and a context manager that closes it.

    Iteration starts at the first `next`. It ends with the source, at the first exception, or when it is closed; after
    that it yields nothing. Dropping it closes the source without waiting.

    Example:
        ```python
        with provider.sync.pull_model("llama3.2") as progress:
            for step in progress:
                print(step["status"])
        ```
    """

    _loop: asyncio.AbstractEventLoop | None = None  # set by the first step, as is the process
    _process = 0

    def __init__(self, source: AsyncIterator[T]) -> None:
        self._source = source
        self._turn = asyncio.Lock()  # one step at a time, also when a step is interrupted and closed at once
        self._step: asyncio.Task[Any] | None = None
        self._closed = False

    def __next__(self) -> T:
        if self._closed:
            raise StopIteration
        if self._loop is not None and self._process != os.getpid():
            raise RuntimeError("this iterator was started before a fork, and its connection is the parent's")
        try:
            return run(self._next())
        except StopAsyncIteration:
            raise StopIteration from None

    async def _next(self) -> T:
        async with self._turn:
            if self._closed:
                raise StopAsyncIteration
            self._loop, self._process = asyncio.get_running_loop(), os.getpid()
            self._step = asyncio.current_task()
            try:
                return await anext(self._source)
            except BaseException as error:
                if self._closed and isinstance(error, asyncio.CancelledError):
                    raise StopAsyncIteration from None  # closed by another thread
                self._closed = True
                await _aclose(self._source)
                raise
            finally:
                self._step = None

    def close(self) -> None:
        """End the iteration, from any thread, and wait until the source is closed."""
        self._closed = True
        if self._loop is None or self._loop.is_closed():  # nothing has started, or the end of the loop closed it
            return
        if self._process == os.getpid():  # a child has nothing to close: the connection belongs to the parent
            run(self._close())

    async def _close(self) -> None:
        if self._step is not None:
            self._step.cancel()
        async with self._turn:
            await _aclose(self._source)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if self._loop is not None and not self._closed:
            try:
                self._loop.call_soon_threadsafe(_close_soon, self._source)
            except RuntimeError:  # the loop has ended, and closed what was open on it
                pass


_closing: set[asyncio.Task[None]] = set()


def _close_soon(source: AsyncIterator[Any]) -> None:
    task = asyncio.get_running_loop().create_task(_aclose(source))
    _closing.add(task)
    task.add_done_callback(_closing.discard)


async def _aclose(source: AsyncIterator[Any]) -> None:
    aclose = getattr(source, "aclose", None)  # generators have it, other iterators may
    if aclose is not None:
        await aclose()
