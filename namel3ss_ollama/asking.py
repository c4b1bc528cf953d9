"""One request other than a generation: its attempts, its deadlines, and the error where a server lacks the endpoint.

`Asking` is the base class of the parts of `OllamaProvider` that request something other than a model's answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from namel3ss_ollama.client import Client
from namel3ss_ollama.errors import BadRequestError, LLMError, ModelNotFoundError
from namel3ss_ollama.pool import Pool
from namel3ss_ollama.prepare import Defaults
from namel3ss_ollama.retrier import Retrier
from namel3ss_ollama.server import SILENT, Server
from namel3ss_ollama.streamer import Watch

__all__ = ["Asking", "Endpoint", "saying_where"]

T = TypeVar("T")
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint that not every server has.

    Attributes:
        method: The HTTP method.
        path: The path.
        found: Which servers have it, for the error of a server that lacks it.
    """

    method: str
    path: str
    found: str


@contextmanager
def saying_where(endpoint: Endpoint) -> Iterator[None]:
    """Make the error of a server that lacks an endpoint say which servers have it.

    Raises:
        BadRequestError: The server has no such endpoint; the message says which servers do.
    """
    try:
        yield
    except LLMError as error:
        if error.status_code not in (404, 405) or isinstance(error, ModelNotFoundError):
            raise
        raise BadRequestError(
            f"{error.message} ({endpoint.method} {endpoint.path} is in {endpoint.found})",
            status_code=error.status_code,
            original_error=error,
        ) from error


class Asking:
    """How a provider sends single requests; construct an `OllamaProvider` to use it."""

    _defaults: Defaults
    _retrier: Retrier
    _pool: Pool | None

    @property
    def _server(self) -> Server:
        """The server, or the first of several that is available."""
        raise NotImplementedError  # `OllamaProvider` has it, and an ABC would make each of its parts one

    @property
    def _servers(self) -> list[Server]:
        """The server, or all of several."""
        raise NotImplementedError  # `OllamaProvider` has it, and an ABC would make each of its parts one

    @property
    def _client(self) -> Client:
        return self._server.client

    async def _ask(self, attempt: Callable[[Watch], Awaitable[T]], watch: Watch | None = None) -> T:
        """Run attempts within the provider's deadlines, or within those of a watch that spans several requests."""
        own = watch or self._watch()
        try:
            return await self._retrier.run(
                lambda: attempt(own),
                sleep=lambda seconds: own.guard(lambda: asyncio.sleep(seconds), idle=False),
                remaining=own.remaining,
            )
        finally:
            if watch is None:
                own.close()

    async def _ask_first(self, attempt: Callable[[Server, Watch], Awaitable[T]]) -> T:
        """As `_ask`; with several hosts, the answer of the first that is available and has what is requested."""
        pool = self._pool
        if pool is None:
            return await self._ask(lambda watch: attempt(self._server, watch))
        return await self._ask(lambda watch: pool.ask_first(lambda server: attempt(server, watch)))

    async def _ask_each(self, attempt: Callable[[Server, Watch], Awaitable[T]]) -> list[tuple[Server, T]]:
        """As `_ask`, for each of several hosts; hosts that fail are skipped with a warning, unless all fail."""
        pool = self._pool
        if pool is None:
            return [(self._server, await self._ask(lambda watch: attempt(self._server, watch)))]

        async def ask(server: Server) -> T:
            watch = self._watch()
            try:
                return await attempt(server, watch)
            finally:
                watch.close()

        return await self._ask(lambda _: pool.ask_each(ask))

    async def _ask_endpoint(self, endpoint: Endpoint, body: Json | None = None, *, query: str = "") -> Json:
        """The answer of an endpoint that the server may lack.

        Args:
            endpoint: The endpoint.
            body: What to send, as an object.
            query: The query string, including its question mark.

        Raises:
            BadRequestError: The server has no such endpoint; the message says which servers do.
            LLMError: The server failed.
        """
        path = endpoint.path + query
        with saying_where(endpoint):
            return await self._ask(lambda watch: self._client.request(endpoint.method, path, body, watch))

    def _watch(self) -> Watch:
        return Watch(self._defaults.config, self._defaults.timeout, remedy=SILENT)
