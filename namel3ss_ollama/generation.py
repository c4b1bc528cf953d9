"""One generation from its slot to its end: queueing, attempts, deadlines, and what is left when it fails.

`Runner.complete` assembles a whole answer inside, from a stream, so that a stall is noticed and a failure keeps what
had come; nothing reaches the caller before the end, so all of it can be tried again. `Stream` hands chunks out as
they come and is tried again only until the first.

Both take their slot, send, read and give everything back in one place each, in `finally` blocks that hold whatever
ends them: the answer's end, an error, a cancelled task, or the caller walking away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import anyio
from typing_extensions import Self

from namel3ss_ollama.answers import Answer, Kind, ServerReportedError
from namel3ss_ollama.client import Client, Exchange
from namel3ss_ollama.diagnosis import error_for_line
from namel3ss_ollama.errors import (
    BadRequestError,
    ContextWindowExceededError,
    LLMError,
    LLMTimeoutError,
    OutputValidationError,
    StreamInterruptedError,
)
from namel3ss_ollama.formats import ParseAs, parsed
from namel3ss_ollama.guards import ContextGuard, ReloadGuard
from namel3ss_ollama.limiter import Limiter
from namel3ss_ollama.retrier import Retrier
from namel3ss_ollama.settings import StreamConfig, Truncation
from namel3ss_ollama.streamer import Watch, WatchCancelled
from namel3ss_ollama.telemetry import Call, Outcome, Telemetry
from namel3ss_ollama.tools import describe_in_prompt
from namel3ss_ollama.types import LLMResponse, StreamChunk, Usage

__all__ = ["Request", "Runner", "Stream"]

logger = logging.getLogger("namel3ss_ollama")
T = TypeVar("T")
End = Literal["done", "cancelled", "max_chunks", "error"]


@dataclass(frozen=True, slots=True, repr=False)
class Request:
    """A generation as it will be sent, and what to make of its answer.

    Attributes:
        kind: Which endpoint.
        body: The request's body.
        content: The body as it goes over the wire, encoded once for all attempts.
        config: Deadlines and limits.
        timeout: A bound on the whole, retries and the wait for a slot included, in seconds.
        forced: Names of the tools of which one must be called.
        parse_as: The type that the answer must validate against.
        on_truncation: What a cut prompt is: a warning, an error, or nothing.
    """

    kind: Kind
    body: dict[str, Any]
    config: StreamConfig
    timeout: float | None = None
    forced: frozenset[str] = field(default_factory=frozenset[str])
    parse_as: ParseAs | None = None
    on_truncation: Truncation = "warn"
    content: bytes | None = None

    @property
    def model(self) -> str:
        """The model that is asked for."""
        return str(self.body["model"])

    def __repr__(self) -> str:
        return f"Request({self.kind}, {self.model!r})"  # the body holds the prompt

    @property
    def operation(self) -> str:
        """What OpenTelemetry's conventions call this."""
        return "chat" if self.kind == "chat" else "text_completion"


class Runner:
    """What every generation of a provider goes through."""

    def __init__(
        self,
        client: Client,
        limiter: Limiter,
        retrier: Retrier,
        telemetry: Telemetry,
        context_guard: ContextGuard,
    ) -> None:
        self.client = client
        self.limiter = limiter
        self.retrier = retrier
        self.telemetry = telemetry
        self._context_guard = context_guard
        self._reload_guard = ReloadGuard()
        self._without_tools: set[str] = set()

    async def complete(self, request: Request) -> LLMResponse:
        """The whole answer.

        Raises:
            LLMError: What kept it from coming; `partial` holds what had come of the last attempt.
        """
        call = self.telemetry.begin(request.operation, request.body, streaming=False)
        watch = Watch(request.config, request.timeout)
        try:
            await self.enter(watch, call)
            try:
                answer = await self.attempts(lambda: self._assemble(request, watch, call), watch, call)
                response = await self.finish(request, answer, watch)
            finally:
                self.limiter.release()
        except BaseException as error:
            usage = error.partial.usage if isinstance(error, LLMError) and error.partial else None
            self.telemetry.end(call, outcome_of(error), usage=usage, error=error)
            raise
        finally:
            watch.close()
        self.telemetry.end(call, "success", usage=response.usage, response=response)
        return response

    async def enter(self, watch: Watch, call: Call) -> None:
        """Wait for a slot; the caller gives it back."""
        await watch.guard(self.limiter.acquire, idle=False)
        call.slot()

    async def attempts(self, attempt: Callable[[], Awaitable[T]], watch: Watch, call: Call) -> T:
        """Run attempts, with the waits between them under the watch."""

        async def sleep(seconds: float) -> None:
            await watch.guard(lambda: asyncio.sleep(seconds), idle=False)

        def on_retry(error: LLMError, seconds: float) -> None:
            self.telemetry.retried(call, error)
            logger.info("%s; trying again in %.2f s", type(error).__name__, seconds)

        return await self.retrier.run(attempt, on_retry=on_retry, sleep=sleep)

    async def open(self, request: Request, watch: Watch) -> Exchange:
        """Send the request."""
        if request.kind == "generate":
            return await self.client.generate(request.body, watch, request.content)
        if not request.forced:
            return await self.client.chat(request.body, watch, request.content)
        # A call that a grammar forces needs no template that knows tools, but such a model's server refuses them.
        if request.model not in self._without_tools:
            try:
                return await self.client.chat(request.body, watch, request.content)
            except BadRequestError as error:
                if "does not support tools" not in error.message:
                    raise
                self._without_tools.add(request.model)
                logger.info("%s has no template for tools: they are described in its system message", request.model)
        return await self.client.chat(describe_in_prompt(request.body), watch)

    async def _assemble(self, request: Request, watch: Watch, call: Call) -> Answer:
        answer = Answer(request.kind, request.forced)
        try:
            async with contextlib.aclosing(await self.open(request, watch)) as exchange:
                while (lines := await exchange.lines()) is not None:
                    if answer.time_to_first_token is None:
                        answer.time_to_first_token = call.first()
                    if answer.absorb(lines):
                        await exchange.drain()
                        return answer
                raise ended_early(self.client.url)
        except (LLMError, ServerReportedError) as error:
            raise self.with_partial(error, answer) from error.__cause__

    def with_partial(self, error: LLMError | ServerReportedError, answer: Answer) -> LLMError:
        """The error, carrying what had arrived."""
        if isinstance(error, ServerReportedError):
            error = error_for_line(str(error), url=self.client.url)
        if error.partial is None and not answer.is_empty():
            error.partial = answer.response()
        if isinstance(error, OutputValidationError) and error.response is None:
            error.response = error.partial
        return error

    async def finish(self, request: Request, answer: Answer, watch: Watch) -> LLMResponse:
        """The response of a whole answer, after the guards had a look at it.

        Raises:
            ContextWindowExceededError: The prompt was cut and that is to be an error.
            OutputValidationError: The answer does not validate.
        """
        response = answer.response()
        options = request.body.get("options") or {}
        self._reload_guard.check(request.model, options, response.metadata.get("load_duration"))
        if request.on_truncation != "ignore":
            cut_at = None
            # An answer that is whole does not become an error because the time is up while the window is asked for.
            with anyio.move_on_after(watch.remaining()):
                cut_at = await self._context_guard.cut_at(request.model, options.get("num_ctx"), answer.final or {})
            if cut_at is not None:
                response.truncated_prompt = True
                self._report_cut(request, cut_at, response)
        if request.parse_as is not None and response.finish_reason not in ("load", "tool_calls"):
            response.parsed = parsed(request.parse_as, response)
        return response

    def _report_cut(self, request: Request, cut_at: int, response: LLMResponse) -> None:
        message = (
            f"the prompt was cut to the context window of {cut_at} tokens, so the model has not seen all of it; "
            "raise num_ctx, or shorten the prompt"
        )
        if request.on_truncation == "error":
            raise ContextWindowExceededError(message, partial=response)
        logger.warning("%s: %s", request.model, message)


def outcome_of(error: BaseException) -> Outcome:
    """How telemetry counts an end."""
    if isinstance(error, LLMTimeoutError):
        return "timeout"
    return "cancelled" if isinstance(error, (asyncio.CancelledError, GeneratorExit, WatchCancelled)) else "error"


def ended_early(url: str) -> StreamInterruptedError:
    """The error for a stream that ends as if it were complete, but is not."""
    return StreamInterruptedError(
        f"{url} ended the answer before the model was done (a server does so when the model repeats itself without "
        "end, or when it is shut down); what had arrived is in `partial`"
    )


class Batches:
    """A generator within a generator, which the event loop does not know of.

    A loop that ends closes all generators that it knows at once, and the garbage collector may close both, too. The
    outer one, closing the inner one, would find it being closed already, and the loop would complain.

    Args:
        generator: One that was not begun.
    """

    __slots__ = ("_generator",)

    def __init__(self, generator: AsyncGenerator[list[StreamChunk], None]) -> None:
        self._generator = generator

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Awaitable[list[StreamChunk]]:
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=None, finalizer=_leave_open)
        try:
            return self._generator.__anext__()
        finally:
            sys.set_asyncgen_hooks(*hooks)

    async def aclose(self) -> None:
        """Close the generator."""
        await self._generator.aclose()


def _leave_open(generator: AsyncGenerator[Any, Any]) -> None:
    """What is done to an inner generator that is garbage: nothing, since the outer one closes it."""


class Stream:
    """An answer as it comes: an async iterator of `StreamChunk`.

    The request is sent when iteration begins. The stream ends in one of four ways, told by `end`: "done" (the model is
    done, `response` holds the whole), "max_chunks" (that limit), "cancelled" (`cancel()`, `aclose()`, leaving the
    loop, a cancelled task), or "error" (the iteration raises an `LLMError` that carries what had arrived).
    However it ends, the connection is closed, the server stops computing and the slot is free.

    Example:
        ```python
        stream = provider.stream_chat([{"role": "user", "content": "Count to three."}])
        async for chunk in stream:
            print(chunk.content, end="")
        print(stream.usage)
        ```
    """

    def __init__(self, runner: Runner, request: Request) -> None:
        self._runner = runner
        self._request = request
        self._answer = Answer(request.kind, request.forced)
        self._watch: Watch | None = None
        self._exchange: Exchange | None = None
        self._broken: LLMError | ServerReportedError | None = None
        self._holds_slot = False
        self._cancelled = False
        self._closing: asyncio.Task[None] | None = None
        self._stepper: AsyncGenerator[StreamChunk, None] | None = None
        self._stepping = False
        self.end: End | None = None
        self.response: LLMResponse | None = None

    @property
    def text(self) -> str:
        """The text that was handed out so far."""
        return self._answer.text

    @property
    def usage(self) -> Usage | None:
        """Tokens used; None until the model is done."""
        return self.response.usage if self.response else None

    @property
    def partial(self) -> LLMResponse:
        """What was handed out so far, as a response; `finish_reason` is None until the model is done."""
        return self.response or self._answer.response()

    def __aiter__(self) -> AsyncGenerator[StreamChunk, None]:
        # A generator that nobody else holds: leaving the loop drops it, and that closes the stream. (Not so where it
        # was stepped by hand before: then whoever leaves the loop can go on.)
        return self._stepper or self._chunks()

    async def __anext__(self) -> StreamChunk:
        """The next chunk, for stepping by hand; `async for` is the usual way."""
        if self._stepper is None:
            self._stepper = self._chunks()
        self._stepping = True
        try:
            return await self._stepper.__anext__()
        finally:
            self._stepping = False

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def cancel(self) -> None:
        """End the stream, from any task of its event loop: the connection closes, the iteration ends."""
        self._cancelled = True
        woken = self._watch is not None and self._watch.cancel()
        if not woken and self._holds_slot and self._closing is None:
            # Nobody waits for a chunk who would give things back now, so that is done here.
            self._closing = asyncio.ensure_future(self._give_back())

    async def aclose(self) -> None:
        """End the stream and wait until its connection is closed."""
        self.cancel()
        if self._closing is not None:
            await self._closing
        if self._stepper is not None and not self._stepping:
            await self._stepper.aclose()

    async def _chunks(self) -> AsyncGenerator[StreamChunk, None]:
        async with contextlib.aclosing(self.batches()) as batches:
            async for batch in batches:
                for chunk in batch:
                    self.deliver(chunk)
                    yield chunk
                    if self._cancelled:
                        return

    def deliver(self, chunk: StreamChunk) -> None:
        """The chunk goes to the caller: `text` and `partial` hold it from now on."""
        if chunk.response is None:  # the last chunk was counted in when the response was made
            self._answer.deliver(chunk)

    def batches(self) -> Batches:
        """The chunks as they come off the wire, several at a time; each goes through `deliver` when handed out.

        For who closes it, also when closed himself: unlike a plain generator it does not close when it is dropped.
        """
        return Batches(self._batches())

    async def _batches(self) -> AsyncGenerator[list[StreamChunk], None]:
        if self._watch is not None:
            raise RuntimeError("a stream can be iterated once; make another call for another answer")
        runner, request = self._runner, self._request
        watch = self._watch = Watch(request.config, request.timeout)
        if self._cancelled:
            watch.cancel()
        call = runner.telemetry.begin(request.operation, request.body, streaming=True)
        failure: BaseException | None = None
        last: list[StreamChunk] = []
        try:
            await runner.enter(watch, call)
            self._holds_slot = True
            batch = await runner.attempts(lambda: self._first_batch(watch, call), watch, call)
            while not self._is_last(batch, call):
                yield batch
                batch = await self._next_batch()
            if self.end != "max_chunks":
                if len(batch) > 1:
                    yield batch[:-1]
                batch = batch[-1:]
                await self._finish(batch[0], watch)
            last = batch
        except (LLMError, ServerReportedError) as error:
            self.end = "error"
            failure = runner.with_partial(error, self._answer)
            raise failure from error.__cause__
        except WatchCancelled as error:
            failure = error
        except BaseException as error:
            self.end = self.end or ("error" if isinstance(error, Exception) else "cancelled")
            failure = error
            raise
        finally:
            self.end = self.end or "cancelled"
            watch.close()
            try:
                await self._give_back()
            finally:
                whole = self.end in ("done", "max_chunks")
                outcome: Outcome = "success" if whole or failure is None else outcome_of(failure)
                runner.telemetry.end(call, outcome, usage=self.usage, response=self.response, error=failure)
        if last:
            yield last  # with everything given back: who has the last chunk may take their time

    async def _first_batch(self, watch: Watch, call: Call) -> list[StreamChunk]:
        if self._exchange is not None:  # that of an attempt before
            await self._exchange.aclose()
        self._answer = Answer(self._request.kind, self._request.forced)
        self._broken = None
        self._exchange = await self._runner.open(self._request, watch)
        batch = await self._next_batch()
        self._answer.time_to_first_token = call.first()
        return batch

    async def _next_batch(self) -> list[StreamChunk]:
        """The chunks of the next lines; ends at the last line of the answer, whatever follows it."""
        if self._broken is not None:
            raise self._broken
        if self._exchange is None:
            raise RuntimeError("the request was not sent")
        lines = await self._exchange.lines()
        if lines is None:
            raise ended_early(self._runner.client.url)
        answer = self._answer
        batch: list[StreamChunk] = []
        try:
            for line in lines:
                batch.append(answer.chunk(line))
                if answer.final is not None:
                    break
        except (LLMError, ServerReportedError) as error:
            if not batch:
                raise
            self._broken = error  # after the chunks that came before it
        return batch

    def _is_last(self, batch: list[StreamChunk], call: Call) -> bool:
        """Whether the stream ends with this batch; cuts it where `max_chunks` is reached."""
        limit = self._request.config.max_chunks
        if limit is not None and call.chunks + len(batch) >= limit:
            del batch[limit - call.chunks :]
            call.chunks = limit
            if not batch[-1].raw.get("done"):
                self.end = "max_chunks"
                self._answer.final = None  # the last line may have been read, but nobody gets it
            return True
        call.chunks += len(batch)
        return self._answer.final is not None and self._broken is None

    async def _finish(self, chunk: StreamChunk, watch: Watch) -> None:
        """Make the response of the whole answer, and let the last chunk carry it."""
        self._answer.deliver(chunk)
        self.response = chunk.response = await self._runner.finish(self._request, self._answer, watch)
        self.end = "done"
        if self._exchange is not None:
            await self._exchange.drain()

    async def _give_back(self) -> None:
        """Close the connection and free the slot; only the first call does anything."""
        if not self._holds_slot:
            return
        self._holds_slot = False
        try:
            if self._exchange is not None:
                await self._exchange.aclose()
        finally:
            self._runner.limiter.release()
