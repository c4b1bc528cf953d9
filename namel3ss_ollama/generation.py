"""One generation from its slot to its end: attempts, deadlines, and what is left when it fails.

Every request, embeddings included, has a turn (`turn.py`). `Runner.complete` assembles an answer from a stream, so that
a stall is noticed and a failure keeps what had arrived; nothing reaches the caller before the end, so the request can
be retried at any point. `Stream` (`stream.py`) hands out chunks as they arrive and retries only before the first one.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from namel3ss_ollama.answers import Answer, ServerReportedError
from namel3ss_ollama.diagnosis import error_for_line
from namel3ss_ollama.errors import (
    BadRequestError,
    ContextWindowExceededError,
    LLMError,
    LLMTimeoutError,
    OutputValidationError,
    StreamInterruptedError,
    ToolCallParseError,
)
from namel3ss_ollama.exchange import Exchange
from namel3ss_ollama.fleet import Standing
from namel3ss_ollama.formats import without_reasoning
from namel3ss_ollama.guards import Expected, Finding
from namel3ss_ollama.insisting import asking_again, read, shows_no_format, suited
from namel3ss_ollama.limiter import Limiter
from namel3ss_ollama.overflow import exceeded, lost
from namel3ss_ollama.pool import HostTurn, Pool
from namel3ss_ollama.request import Request
from namel3ss_ollama.resuming import Resuming
from namel3ss_ollama.retrier import Retrier
from namel3ss_ollama.server import Server
from namel3ss_ollama.settings import StreamConfig
from namel3ss_ollama.streamer import Watch, WatchCancelled
from namel3ss_ollama.telemetry import Telemetry
from namel3ss_ollama.turn import Turn
from namel3ss_ollama.types import LLMResponse

if TYPE_CHECKING:
    from opentelemetry.context import Context

__all__ = ["Runner", "ended_early"]

logger = logging.getLogger("namel3ss_ollama")
T = TypeVar("T")
_REFUSES_TOOLS = re.compile(r"does not support tools|failed to parse grammar", re.IGNORECASE)
"""The latter since 0.30, where a template's own call grammar and `format` are incompatible."""
_AT_ONCE = "the server sends this answer in one piece, when it is complete: raise first_chunk_timeout, or stream it"
_TOGETHER = {
    "embeddings": "a request's vectors arrive together: raise first_chunk_timeout, or send fewer texts (batch_size)",
    "decisions": "all answers of a request arrive together: raise first_chunk_timeout, or ask fewer questions",
}
"""Operations answered in one piece, and what to do when the answer is late."""


class Runner:
    """Runs the requests of a provider."""

    def __init__(
        self,
        server: Server,
        limiter: Limiter,
        retrier: Retrier,
        telemetry: Telemetry,
        pool: Pool | None = None,
        *,
        resumes: bool = False,
    ) -> None:
        self._server = server
        self.limiter = limiter
        self.pool = pool
        self.retrier = retrier
        self.telemetry = telemetry
        self.resuming = Resuming(pool, retrier, telemetry) if pool is not None and resumes else None
        self._warned: set[tuple[str, bool]] = set()

    def turn(
        self,
        operation: str,
        body: dict[str, Any],
        config: StreamConfig,
        timeout: float | None,
        *,
        streaming: bool = False,
        context: Context | None = None,
        only: Standing | None = None,
    ) -> Turn:
        """A request's turn; its deadlines start now, its slot when it is opened."""
        at_once = _TOGETHER.get(operation) or (_AT_ONCE if body.get("stream") is False else None)
        watch = Watch(config, timeout, at_once, tools=bool(body.get("tools")))
        call = self.telemetry.begin(operation, body, streaming=streaming, context=context)
        if self.pool is not None:
            return HostTurn(self.pool, self.pool.wanted(body, only), self.telemetry, call, watch)
        return Turn(self._server, self.limiter, self.telemetry, call, watch)

    def turn_of(self, request: Request) -> Turn:
        """The turn of a generation that returns a complete response."""
        return self.turn(request.operation, request.body, request.config, request.timeout, only=request.only)

    def turn_of_stream(self, request: Request, context: Context | None) -> Turn:
        """The turn of a stream; `context` is the trace of the call that made it."""
        config, timeout = request.config, request.timeout
        return self.turn(request.operation, request.body, config, timeout, streaming=True, context=context)

    async def complete(self, request: Request) -> LLMResponse:
        """The complete answer.

        Raises:
            LLMError: The generation failed; `partial` holds what the last attempt had received.
        """

        async def attempt(sent: Request) -> Answer:
            nonlocal request
            request = sent
            return await self._assemble(sent, turn)

        async with self.turn_of(request) as turn:
            request = suited(request, turn.server.fitting)
            while True:
                try:
                    answer = await self.ask(request, attempt, turn)
                    response = await self.finish(request, answer, turn)
                except OutputValidationError as error:
                    request = self.insist(request, error, turn)
                else:
                    described = request.in_prompt() if shows_no_format(request, response, turn.server.fitting) else None
                    if described is None:
                        turn.response = response
                        return response
                    request = self._instead(described, response, turn)

    def insist(self, request: Request, error: OutputValidationError, turn: Turn, *, delivered: bool = False) -> Request:
        """As `asking_again`; the invalid answer is counted in the turn's numbers."""
        again = asking_again(request, error, turn.server.fitting, delivered=delivered)
        return self._instead(again, error.response, turn)

    def _instead(self, again: Request, response: LLMResponse | None, turn: Turn) -> Request:
        """A request that replaces an answered one, which is counted in the numbers."""
        if response is not None:
            turn.spend(response.usage)
        logger.info("%s: the answer is not what was asked for; asking again, in the prompt", again.model)
        return again

    async def ask(self, request: Request, attempt: Callable[[Request], Awaitable[T]], turn: Turn) -> T:
        """Run attempts of a generation. A prompt that the server refuses to cut is sent again for cutting, if allowed.

        Raises:
            ContextWindowExceededError: The prompt does not fit the context window and must not be cut.
        """
        looks = request.on_truncation != "ignore" and not request.loads_only
        expects: Server | None = None

        async def once() -> T:
            nonlocal request, expects
            if looks and expects is not turn.server:
                expects = turn.server
                request = self._expect(request, turn)
            while True:  # each workaround for a refusal is tried once
                try:
                    return await attempt(request)
                except ContextWindowExceededError as error:
                    if error.partial is not None or not (request.refusable and turn.refuses):
                        raise  # once the answer has begun, this is not a refusal of the prompt
                    turn.server.context_guard.saw_refusal()
                    if request.on_truncation == "error":
                        raise exceeded(error, turn.expected) from error
                    turn.refused, turn.refuses = error, False
                    request = request.cut_allowed()
                except BadRequestError as error:
                    # A call forced by a grammar needs neither a template with tools nor their own grammar.
                    described = request.in_prompt() if request.forced and _REFUSES_TOOLS.search(error.message) else None
                    if described is None:
                        raise
                    turn.server.fitting.ask_in_prompt(request.model, forced=True)
                    request = described

        return await self.attempts(once, turn, request)

    def _expect(self, request: Request, turn: Turn) -> Request:
        """Note the counts expected from the turn's server; the request, asking to refuse a prompt that may not fit."""
        guard = turn.server.context_guard
        turn.expected = guard.expect(request.body)
        if guard.may_not_fit(turn.expected) and request.refusable:
            request = request.refusing()
        turn.refuses = request.body.get("truncate") is False
        if turn.look_up is None and guard.wants_window(turn.expected):
            turn.look_up = asyncio.ensure_future(guard.windows.ask(request.model))
        return request

    async def attempts(self, attempt: Callable[[], Awaitable[T]], turn: Turn, request: Request | None = None) -> T:
        """Run attempts, with the watch covering the waits between them.

        Args:
            attempt: Makes one attempt.
            turn: The request's turn.
            request: The request that `attempt` sends. If its schema is refused, another attempt sends a simpler one.
        """
        watch, call = turn.watch, turn.call

        async def once() -> T:
            turn.sent()
            if request is None or "format" not in request.body:
                return await attempt()
            simplified = turn.server.fitting.is_simplified(request.body)
            try:
                return await attempt()
            except BadRequestError as error:
                if simplified or not turn.server.fitting.simplify(request.body, error):
                    raise
            return await attempt()

        async def sleep(seconds: float) -> None:
            await watch.guard(lambda: asyncio.sleep(seconds), idle=False)

        def on_retry(error: LLMError, seconds: float) -> None:
            self.telemetry.retried(call, error)
            logger.info("%s; trying again in %.2f s", type(error).__name__, seconds)

        def on_move(error: LLMError) -> None:
            self.telemetry.retried(call, error)

        run = once
        if isinstance(turn, HostTurn):
            run = functools.partial(turn.over_hosts, once, self.retrier, on_move)
        return await self.retrier.run(run, on_retry=on_retry, sleep=sleep, remaining=watch.remaining)

    async def open(self, request: Request, turn: Turn) -> Exchange:
        """Send the request."""
        server, watch = turn.server, turn.watch
        if options := request.body.get("options"):
            server.ignored.check(options)
        body, content = request.body, request.content
        if "format" in body:
            body = await server.fitting.fitted(request.kind, request.body)
            if body is not request.body:
                content = None
                if request.parse_as is not None and not body.get("think"):
                    request.parse_as.thinking = False
        if request.kind == "generate":
            return await server.client.generate(body, watch, content, request.headers)
        return await server.client.chat(body, watch, content, request.headers)

    async def _assemble(self, request: Request, turn: Turn) -> Answer:
        answer = request.begin_answer()
        try:
            async with await self.open(request, turn) as exchange:
                while (lines := await exchange.lines()) is not None:
                    if answer.time_to_first_token is None:
                        answer.time_to_first_token = turn.first()
                    if answer.absorb(lines):
                        await exchange.drain()
                        return answer
                raise ended_early(turn.server.url)
        except (LLMError, ServerReportedError) as error:
            raise self.with_partial(error, answer, turn) from error.__cause__

    def with_partial(self, error: LLMError | ServerReportedError, answer: Answer, turn: Turn) -> LLMError:
        """The error, carrying what had arrived."""
        if isinstance(error, ServerReportedError):
            error = error_for_line(str(error), url=turn.server.url)
            if isinstance(error, ToolCallParseError) and not answer.is_empty():
                error.partial = answer.response()
                error.partial.content += error.text  # in the order in which the model wrote it
        if error.partial is None and not answer.is_empty():
            error.partial = answer.response()
        if error.partial is not None:
            _name_hosts(error.partial, turn)
        if isinstance(error, OutputValidationError) and error.response is None:
            error.response = error.partial
        return error

    async def finish(self, request: Request, answer: Answer, turn: Turn) -> LLMResponse:
        """The response of a complete answer, checked by the guards.

        Raises:
            ContextWindowExceededError: The prompt was cut or the window shifted, and `on_truncation` is "error".
            OutputValidationError: The answer does not validate.
        """
        response = answer.response()
        _name_hosts(response, turn)
        if isinstance(turn, HostTurn):
            turn.answered(answer.final or {})
        if answer.formatted:
            without_reasoning(response)
        duration = response.metadata.get("load_duration") or 0
        guard = turn.server.reload_guard
        if changed := guard.changed(request.body, duration):
            with contextlib.suppress(LLMTimeoutError, WatchCancelled):  # as in `_found`
                await turn.watch.guard(lambda: guard.tell(request.model, changed, duration), idle=False)
        if turn.expected is not None:
            plain = None if response.tool_calls or turn.earlier else response.thinking + response.content
            found = await self._found(turn.expected, answer.final or {}, plain, turn)
            response.truncated_prompt = found.cut or turn.refused is not None
            response.shifted_context = found.shifted
            if response.truncated_prompt or response.shifted_context:
                self._report(request, found, turn, response)
        if request.wants_json and not request.forced and response.finish_reason not in ("load", "tool_calls"):
            read(request, response, turn.server.fitting)
        return response

    async def _found(self, expected: Expected, final: dict[str, Any], text: str | None, turn: Turn) -> Finding:
        def judge() -> Awaitable[Finding]:
            return turn.server.context_guard.judge(expected, final, text, refuses=turn.refuses)

        try:
            return await turn.watch.guard(judge, idle=False)
        except (LLMTimeoutError, WatchCancelled):
            return Finding()  # a complete answer must not become an error while the window is looked up

    def _report(self, request: Request, found: Finding, turn: Turn, response: LLMResponse) -> None:
        tokens, window = found.tokens, found.window
        if turn.refused is not None:
            tokens, window = turn.refused.tokens or tokens, turn.refused.window or window
        message = lost(response.truncated_prompt, tokens, window)
        if request.on_truncation == "error":
            raise ContextWindowExceededError(message, partial=response, tokens=tokens, window=window)
        if (request.model, response.truncated_prompt) not in self._warned:
            self._warned.add((request.model, response.truncated_prompt))
            logger.warning("%s: %s", request.model, message)


def _name_hosts(response: LLMResponse, turn: Turn) -> None:
    response.host = turn.server.url
    if turn.earlier:
        response.resumed = len(turn.earlier)
        response.metadata["hosts"] = [*turn.earlier, turn.server.url]


def ended_early(url: str) -> StreamInterruptedError:
    """The error for a stream that ends like a complete one but is not."""
    return StreamInterruptedError(
        f"{url} ended the answer before the model was done (a server does so when the model repeats itself without "
        "end, or when it is shut down); what had arrived is in `partial`"
    )
