"""The ollama.com account behind a server or an API key, and its usage. Objects are returned as they are sent."""

from __future__ import annotations

from typing import Any, Literal, get_args
from urllib.parse import urlencode

from namel3ss_ollama.asking import Asking, Endpoint

__all__ = ["Account", "UsageRange", "UsageScope"]

Json = dict[str, Any]
UsageRange = Literal["24h", "7d", "30d"]
UsageScope = Literal["self", "team"]
_ME = Endpoint("POST", "/api/me", "Ollama 0.12.0 and newer, and in the API of https://ollama.com")
_STATUS = Endpoint("GET", "/api/status", "Ollama 0.16.2 and newer, not in the API of https://ollama.com")
_USAGE = Endpoint("GET", "/api/usage", "Ollama 0.40.6 and newer, and in the API of https://ollama.com")
_BALANCE = Endpoint(
    "GET", "/api/balance", "the API of https://ollama.com: make a provider with that base_url and a key"
)


class Account(Asking):
    """The account methods of a provider; construct an `OllamaProvider` to use them."""

    async def account(self) -> Json:
        """The account that the server is signed in to, or that owns the API key: id, email, name, plan.

        Raises:
            AuthenticationError: The server is not signed in (the message says how to), or the key is wrong.
            BadRequestError: The server has no such endpoint (Ollama before 0.12.0).
            LLMError: The server failed.
        """
        return await self._ask_endpoint(_ME)

    async def server_status(self) -> Json:
        """Whether the cloud features are disabled, and by what: `{"cloud": {"disabled": ..., "source": ...}}`.

        The source is "none", "env", "config" or "both".

        Raises:
            BadRequestError: The server has no such endpoint (Ollama before 0.16.2, and ollama.com).
            LLMError: The server failed.
        """
        return await self._ask_endpoint(_STATUS)

    async def usage(
        self,
        *,
        range: UsageRange | None = None,
        scope: UsageScope | None = None,
        group_by: Literal["model"] | None = None,
    ) -> Json:
        """The account's cloud usage: requests, tokens and US dollars, as `totals` and per hour or day.

        Args:
            range: How far to look back: "24h", "7d" (the service's default) or "30d".
            scope: Whose usage: "self" (the service's default), or "team" for team administrators.
            group_by: "model" to break the figures down by model.

        Raises:
            ValueError: An argument has another value; nothing was sent.
            AuthenticationError: The server is not signed in, or the key is missing or wrong.
            BadRequestError: The server has no such endpoint (Ollama before 0.40.6).
            LLMError: The server failed.
        """
        given = {"range": (range, UsageRange), "scope": (scope, UsageScope), "group_by": (group_by, Literal["model"])}
        query: dict[str, str] = {}
        for name, (value, known) in given.items():
            if value is None:
                continue
            if value not in get_args(known):
                raise ValueError(f"{name}: expected {' or '.join(map(repr, get_args(known)))}, not {value!r:.80}")
            query[name] = value
        return await self._ask_endpoint(_USAGE, query=f"?{urlencode(query)}" if query else "")

    async def balance(self) -> Json:
        """The remaining balance of the account's plan (`included`) and of its credits (`purchased`), in US dollars.

        For plans with session and weekly limits, the remaining percentages and when they reset. The service allows ten
        requests a minute.

        Raises:
            AuthenticationError: The key is missing or wrong.
            BadRequestError: The server has no such endpoint: ollama.com has.
            ServerBusyError: Too many requests; `retry_after` is the wait in seconds.
            LLMError: The server failed.
        """
        return await self._ask_endpoint(_BALANCE)
