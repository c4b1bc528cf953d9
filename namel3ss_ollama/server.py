"""One server, and what is known about it: its version, its models' windows, what it accepts and ignores."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from namel3ss_ollama.client import Client
from namel3ss_ollama.fitting import Fitting
from namel3ss_ollama.guards import ContextGuard, ReloadGuard
from namel3ss_ollama.ignored import IgnoredOptions
from namel3ss_ollama.server_version import ServerVersion
from namel3ss_ollama.settings import StreamConfig
from namel3ss_ollama.streamer import Watch
from namel3ss_ollama.windows import Window, Windows, window_of

__all__ = ["SILENT", "Server"]

T = TypeVar("T")
SILENT = "the server does not answer: look at its log, or raise first_chunk_timeout"
_QUICK = StreamConfig(connect_timeout=2.0, first_chunk_timeout=5.0, chunk_timeout=5.0)


class Server:
    """A server.

    Args:
        client: Its HTTP client.

    Attributes:
        client: Its HTTP client.
        version: Its version.
        context_guard: Detects cut prompts.
        fitting: What it ignores, and what it has refused.
        ignored: Options that it lacks.
        reload_guard: Detects that it reloads a model.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self.version = ServerVersion(self._tell_version)
        self.context_guard = ContextGuard(Windows(self._look_up_window), self.version)
        self.fitting = Fitting(self.version)
        self.ignored = IgnoredOptions(self.version)
        self.reload_guard = ReloadGuard(self.version)

    @property
    def url(self) -> str:
        """Its address, without credentials."""
        return self.client.url

    async def ask_quickly(self, ask: Callable[[Watch], Awaitable[T]], within: StreamConfig = _QUICK) -> T:
        """Ask once, within seconds, for information that is not worth a long wait."""
        watch = Watch(within, remedy=SILENT)
        try:
            return await ask(watch)
        finally:
            watch.close()

    async def window(self, model: str, watch: Watch) -> Window:
        """The context window of a model, as far as the server reports it."""
        shown = await self.client.show(model, watch)
        running = await self.client.ps(watch)
        return window_of(model, shown, running)

    async def _look_up_window(self, model: str) -> Window:
        return await self.ask_quickly(lambda watch: self.window(model, watch))

    async def _tell_version(self) -> str:
        return str((await self.ask_quickly(self.client.version)).get("version", ""))
