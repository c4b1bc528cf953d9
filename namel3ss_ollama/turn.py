"""One request's turn, from the wait for a slot to the end: however it ends, one place releases everything."""

from __future__ import annotations

import asyncio

from typing_extensions import Self

from namel3ss_ollama.errors import ContextWindowExceededError, LLMError, LLMTimeoutError
from namel3ss_ollama.guards import Expected
from namel3ss_ollama.limiter import Limiter, Slot
from namel3ss_ollama.server import Server
from namel3ss_ollama.streamer import Watch, WatchCancelled
from namel3ss_ollama.telemetry import Call, Outcome, Telemetry
from namel3ss_ollama.types import LLMResponse, Usage

__all__ = ["Turn", "outcome_of"]


class Turn:
    """One request's turn: its slot, its deadlines and its statistics, from the wait in the queue to the end.

    An async context manager, or `open` and `end` where a block does not fit.

    Args:
        server: The server.
        limiter: Manages the slots.
        call: Its statistics, started.
        telemetry: Where they go.
        watch: Its deadlines, started.

    Attributes:
        server: The server.
        call: Its numbers.
        watch: Its deadlines.
        slot: Its slot, once it has one.
        response: The answer, for the statistics; set before the end.
        usage: The tokens of an answer that is not an `LLMResponse`.
        spent: The tokens of invalid answers that were requested again.
        expected: The expected counts, if they are checked.
        refuses: Whether the server was asked to refuse a prompt that is too long.
        refused: The server's refusal to cut the prompt; it was then asked to do so.
        look_up: The look-up of the context window, if one was started.
        earlier: The addresses of earlier servers of an answer that was resumed elsewhere.
    """

    __slots__ = (
        *("_limiter", "_telemetry", "call", "earlier", "expected", "look_up", "refused", "refuses", "response"),
        *("server", "slot", "spent", "usage", "watch"),
    )

    def __init__(self, server: Server, limiter: Limiter, telemetry: Telemetry, call: Call, watch: Watch) -> None:
        self.server = server
        self._limiter = limiter
        self._telemetry = telemetry
        self.call = call
        self.watch = watch
        self.slot: Slot | None = None
        self.response: LLMResponse | None = None
        self.usage: Usage | None = None
        self.spent: Usage | None = None
        self.expected: Expected | None = None
        self.refuses = False
        self.refused: ContextWindowExceededError | None = None
        self.look_up: asyncio.Task[object] | None = None
        self.earlier: list[str] = []

    async def take_slot(self) -> None:
        """Wait for a slot."""
        # A slot that is handed over too late is returned by the limiter.
        self.slot = self._limiter.try_acquire() or await self.watch.guard(self._limiter.acquire, idle=False)
        self.call.slot()

    async def open(self) -> None:
        """Wait for a slot and begin."""
        try:
            await self.take_slot()
        except BaseException as error:
            self.end(error)
            raise
        self.watch.begin()

    def sent(self) -> None:
        """An attempt begins."""
        if self.slot is not None:
            self._limiter.answered(self.slot, False)
        self.call.sent()

    def first(self) -> float:
        """The first chunk has arrived; returns the seconds since the attempt began."""
        if self.slot is not None:
            self._limiter.answered(self.slot)
        return self.call.first()

    def spend(self, usage: Usage) -> None:
        """Count the tokens of an answer that another one replaces."""
        self.spent = usage if self.spent is None else self.spent.plus(usage)

    def end(self, error: BaseException | None = None, outcome: Outcome | None = None) -> None:
        """Release everything; only the first call has an effect. May be called by a finalizer."""
        self.watch.close()
        if self.look_up is not None and not self.watch.loop.is_closed():
            self.look_up.cancel()
        if self.slot is not None:
            self._limiter.release(self.slot)
        if isinstance(error, GeneratorExit) or (error is not None and self.watch.loop.is_closed()):
            # The latter is raised by libraries that clean up after a GeneratorExit without their loop.
            self._telemetry.dropped(self.call)
            return
        partial = error.partial if isinstance(error, LLMError) else self.response
        usage = partial.usage if partial is not None else self.usage
        if self.spent is not None:
            usage = self.spent if usage is None else self.spent.plus(usage)
        outcome = outcome or ("success" if error is None else outcome_of(error))
        self._telemetry.end(self.call, outcome, usage=usage, response=self.response, error=error)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        self.end(error)


def outcome_of(error: BaseException) -> Outcome:
    """The outcome for telemetry."""
    if isinstance(error, LLMTimeoutError):
        return "timeout"
    return "cancelled" if isinstance(error, (asyncio.CancelledError, GeneratorExit, WatchCancelled)) else "error"
