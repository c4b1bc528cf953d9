"""Finding a host that resumes an answer that broke off, and asking it. The rules are in `resume.py`.

Any host will do that has the same model, by its digest, and whose window holds prompt and text: another one if one is
left, otherwise the same again. Whether the model's template leaves the last turn open is checked once per host and
model.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from namel3ss_ollama.client import encode
from namel3ss_ollama.errors import LLMError, LLMTimeoutError
from namel3ss_ollama.fleet import Fleet, Standing
from namel3ss_ollama.pool import HostTurn, Pool
from namel3ss_ollama.request import Request
from namel3ss_ollama.resume import CLOSED, continuation, is_open, rendering, template_is_open
from namel3ss_ollama.retrier import Retrier
from namel3ss_ollama.telemetry import Telemetry
from namel3ss_ollama.versions import numbers

__all__ = ["NotResumed", "Resuming"]

logger = logging.getLogger("namel3ss_ollama")
T = TypeVar("T")
Check = Callable[[], Awaitable[None]]
_SHOWS_PROMPTS = "0.11.5"
"""The first version with `_debug_render_only`; before, a template in Ollama's language renders every model."""
_UNKNOWN = "whether the model's template leaves the turn open cannot be found out"


class NotResumed(Exception):
    """An answer cannot be resumed; the message says why, in a few words."""


class _Unsuited(NotResumed):
    """The current host cannot resume it; another may."""


class Resuming:
    """Resumes answers that broke off.

    Args:
        pool: The hosts.
        retrier: Holds the retry budget and the number of attempts.
        telemetry: Counts the retries.
    """

    def __init__(self, pool: Pool, retrier: Retrier, telemetry: Telemetry) -> None:
        self._pool = pool
        self._retrier = retrier
        self._telemetry = telemetry
        self._found: dict[tuple[str, str, object], str] = {}

    async def go_on(
        self,
        turn: HostTurn,
        request: Request,
        pieces: Sequence[str],
        failure: LLMError,
        ask: Callable[[Request, Check], Awaitable[T]],
    ) -> T:
        """The result of `ask` on the host that resumes the answer.

        Args:
            turn: The request's turn, on the host where the answer broke off.
            request: The original request.
            pieces: The text that was handed out, one item per chunk.
            failure: The failure that broke it off.
            ask: Sends a request to the current host, after a check that may raise.

        Raises:
            NotResumed: The answer cannot be resumed.
            LLMTimeoutError: A limit of the request passed.
        """
        assert turn.slot is not None
        failed, server = turn.slot.host, turn.server
        body = continuation(request.body, pieces)
        if isinstance(body, str):
            raise NotResumed(body)
        if len(turn.earlier) + 1 >= self._retrier.policy.attempts:
            raise NotResumed("RetryPolicy.attempts are used up")
        if not self._retrier.affords():
            raise NotResumed("the budget of RetryPolicy is used up")
        again = replace(request, body=body, content=encode(body), refusable=False)
        begins_again = body["messages"] is request.body["messages"]

        async def check() -> None:
            if not begins_again:
                await self._check(turn, again)

        self._telemetry.retried(turn.call, failure)
        logger.info("%s: %s; resuming the answer on another host", server.url, type(failure).__name__)
        self._pool.failed(failed, turn.wanted, failure)
        turn.leave()
        turn.watch.forgive()
        unsuited = frozenset[Standing]() if begins_again else self._others(failed, turn.wanted.model)
        try:
            while True:
                turn.wanted.barred = self._apart(turn, unsuited, failed)
                try:
                    result = await ask(again, check)
                except _Unsuited:
                    assert turn.slot is not None
                    unsuited |= {turn.slot.host}
                    turn.leave()
                    if len(unsuited) == len(self._pool.servers):
                        raise
                else:
                    turn.earlier.append(server.url)
                    return result
        except NotResumed:
            turn.server = server
            raise
        except LLMError as error:
            turn.server = server
            if isinstance(error, LLMTimeoutError) and error.deadline == turn.watch.expires_name:
                raise
            raise NotResumed(f"no host could resume: {error.message}") from error

    def _others(self, host: Standing, model: str) -> frozenset[Standing]:
        """The hosts on which that name is a different model, as far as is known."""

        def find(fleet: Fleet, _: float) -> frozenset[Standing]:
            digest = _digest(host, model)
            return frozenset(
                other for other in fleet.hosts if other is not host and not (digest and _digest(other, model) == digest)
            )

        return self._pool.dispatcher.look(find)

    def _apart(self, turn: HostTurn, unsuited: frozenset[Standing], failed: Standing) -> frozenset[Standing]:
        """The hosts to avoid: includes the one that failed while another is left."""
        turn.wanted.tried = unsuited | {failed}
        return turn.wanted.tried if self._pool.is_left(turn.wanted) else unsuited

    async def _check(self, turn: HostTurn, request: Request) -> None:
        """Check that the current host can resume the answer.

        Raises:
            NotResumed: It cannot.
        """
        assert turn.slot is not None
        server, guard = turn.server, turn.server.context_guard
        expected = guard.expect(request.body)
        if not await turn.watch.guard(lambda: guard.fits(expected), idle=False):
            raise _Unsuited(f"prompt and text may not fit the context window of {server.url}")
        key = server.url, _digest(turn.slot.host, turn.wanted.model), request.body.get("think")
        if key not in self._found:
            self._found[key] = await self._why_closed(turn, request)
        if self._found[key]:
            raise _Unsuited(self._found[key])

    async def _why_closed(self, turn: HostTurn, request: Request) -> str:
        """Why the host's template rules out resuming; empty if it does not."""
        server, watch, model = turn.server, turn.watch, request.model
        await watch.guard(server.version.ask, idle=False)
        if server.version.before(_SHOWS_PROMPTS) and any(numbers(server.version.text)):
            shown = await server.client.show(model, watch)
            leaves_open = template_is_open(shown.get("template"), request.body.get("think"))
        else:  # also a development build, which reports 0.0.0
            body = rendering(request.body)
            leaves_open = is_open(await server.client.request("POST", "/api/chat", body, watch, model=model))
        return _UNKNOWN if leaves_open is None else "" if leaves_open else CLOSED


def _digest(host: Standing, model: str) -> str:
    return host.pulled[model][1] if host.pulled and model in host.pulled else ""
