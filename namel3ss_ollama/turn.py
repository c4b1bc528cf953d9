"""One request's turn, from the wait for a slot to the end: whatever ends it, everything is given back in one place."""

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
    """One request's turn: its slot, its deadlines and its numbers, from the wait in the queue to the end.

    An async context manager, or `open` and `end` where no block fits.

    Args:
        server: Which server is asked.
        limiter: Has the slots.
        call: Its numbers, begun.
        telemetry: Where they go.
        watch: Its deadlines, begun.

    Attributes:
        server: Which server is asked.
        call: Its numbers.
        watch: Its deadlines.
        slot: Its slot, once it has one.
        response: The answer, for the numbers; set before the end.
        usage: The tokens of an answer that is no `LLMResponse`.
        spent: The tokens of answers that were not what was asked for, where it was asked for again.
        expected: What the answer should count, where that is looked at.
        refuses: Whether the server was asked to refuse a prompt that is too long.
        refused: The server's refusal to cut the prompt; it was asked again to do so.
        look_up: The look-up of the context window, where one was begun.
        earlier: The addresses of the servers that the answer broke off at and was gone on with elsewhere.
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
        # A hand-over that comes too late for the deadline is returned by the limiter.
        self.slot = self._limiter.try_acquire() or await self.watch.guard(self._limiter.acquire, idle=False)
        self.call.slot()

    async def open(self) -> None:
        """Wait for a slot, and begin."""
        try:
            await self.take_slot()
        except BaseException as error:
            self.end(error)
            raise
        self.watch.begin()

    def spend(self, usage: Usage) -> None:
        """Count the tokens of an answer that another one takes the place of."""
        self.spent = usage if self.spent is None else self.spent.plus(usage)

    def end(self, error: BaseException | None = None, outcome: Outcome | None = None) -> None:
        """Give everything back; only the first call does anything. May be called by a finalizer."""
        self.watch.close()
        if self.look_up is not None and not self.watch.loop.is_closed():
            self.look_up.cancel()
        if self.slot is not None:
            self._limiter.release(self.slot)
        if isinstance(error, GeneratorExit) or (error is not None and self.watch.loop.is_closed()):
            # The latter is what others raise when they clean up after a GeneratorExit without their loop.
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
    """How telemetry counts an end."""
    if isinstance(error, LLMTimeoutError):
        return "timeout"
    return "cancelled" if isinstance(error, (asyncio.CancelledError, GeneratorExit, WatchCancelled)) else "error"
