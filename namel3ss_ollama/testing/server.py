"""The server that tests use: a thread with its own event loop and a listening socket.

Everything here is safe to call from any thread: socket operations run in the server's thread, observations come from
the hub (`hub.py`), and scripts take effect with the next request.

To refuse connections, a second socket is bound to the port without listening, so the kernel refuses connections and no
other process can take the port; it starts to listen when the server accepts again.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Literal, get_args

from namel3ss_ollama.versions import numbers

from .checks import Cloud, State
from .faults import Fault
from .hub import Hub
from .models import DEFAULT_MODELS, Model, Models
from .protocol import Connection
from .record import Record
from .replies import Reply
from .script import Rule, Scripted

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from .faults import FaultOptions
    from .replies import ReplyOptions

__all__ = ["OllamaServer", "close_listener"]

_BACKLOG = 4096
_DEFAULT, _NEWEST = "0.9.3", "0.40"
_ACCEPTING = 3
"""Event loop iterations that asyncio needs to turn an accepted socket into a connection."""


class OllamaServer:
    """An Ollama server on a loopback port, for tests.

    `models` are its models: names or `Model`s, `None` to accept any name. `version` is the version that `/api/version`
    reports and that the server behaves as: docs/compatibility.md. By default it is a 0.9.3 that also supports levels of
    `think` and `logprobs`, which that version does not. `context_length` is the window in tokens if neither request nor
    model set `num_ctx`, like OLLAMA_CONTEXT_LENGTH (None: the version's default). `tokens_per_second` limits the speed
    of every stream (None: no limit). `num_parallel` is the number of concurrent answers (None: no limit); other
    requests wait for a slot, and `total_duration` includes the wait. `keep_alive=False` closes each connection after
    its answer. `port` 0 picks a free one. `cloud` is its access to cloud models ("gpt-oss:120b-cloud"): "signed_in",
    "signed_out" (only requests with a key succeed), or "disabled". Raises `ValueError` for an invalid value, `OSError`
    from `start()` if the port is taken.

    Use it as a context manager, or call `start()` and `stop()`. Leaving the `with` block raises `RuntimeError` if a
    predicate or reply function of the test, or the server itself, failed while answering.
    """

    def __init__(
        self,
        models: Iterable[str | Model] | None = DEFAULT_MODELS,
        *,
        version: str | None = None,
        context_length: int | None = None,
        tokens_per_second: float | None = None,
        num_parallel: int | None = None,
        keep_alive: bool = True,
        port: int = 0,
        cloud: Cloud = "signed_in",
    ) -> None:
        if tokens_per_second is not None and not tokens_per_second > 0:
            raise ValueError(f"tokens_per_second: {tokens_per_second} is not positive")
        if num_parallel is not None and num_parallel < 1:
            raise ValueError(f"num_parallel: {num_parallel} is not positive")
        if not 0 <= port <= 65535:
            raise ValueError(f"port: {port} is not a port")
        if context_length is not None and context_length < 1:
            raise ValueError(f"context_length: {context_length} is not positive")
        fields = _NEWEST if version is None else version
        version = _DEFAULT if version is None else version
        numbers(version)
        if cloud not in get_args(Cloud):
            raise ValueError(f"cloud: {cloud!r} is none of {', '.join(get_args(Cloud))}")
        state = State(Models(models), version, context_length, tokens_per_second, cloud, fields)
        self._hub = Hub(state, keep_alive, self._close_port, num_parallel)
        self._wanted_port = port
        self._port: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._listener: asyncio.Server | None = None
        self._listening: socket.socket | None = None
        self._holder: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # Lifecycle

    def start(self) -> Self:
        """Listen. Returns the server. Raises `RuntimeError` if it is running."""
        if self._thread is not None:
            raise RuntimeError("the server is running")
        self._holder = _bound(self._wanted_port)
        self._port = self._holder.getsockname()[1]
        # Not new_event_loop(): the application's event loop policy must not affect the server.
        self._loop = loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._run, args=(loop,), name=f"ollama-server-{self._port}", daemon=True)
        self._thread.start()
        self._call(self._listen)
        return self

    def stop(self) -> None:
        """Close everything and wait for the thread to end. Does nothing if the server is not running."""
        thread, loop = self._thread, self._loop
        if thread is None or loop is None:
            return
        asyncio.run_coroutine_threadsafe(self._shut_down(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        self._thread = self._loop = None
        self._hub.changed()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: object) -> None:
        self.stop()
        errors = self._hub.errors
        if errors and value is None:
            raise RuntimeError(f"answering a request failed: {errors[0]!r}") from errors[0]

    @property
    def running(self) -> bool:
        """Whether the server is running."""
        return self._thread is not None

    @property
    def port(self) -> int:
        """The port. Raises `RuntimeError` before the first `start()`."""
        if self._port is None:
            raise RuntimeError("the server was not started yet; use `with OllamaServer() as server:` or start()")
        return self._port

    @property
    def url(self) -> str:
        """`http://127.0.0.1:<port>`, without a trailing slash."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def version(self) -> str:
        """The version of Ollama that it behaves as."""
        return self._hub.state.version

    @property
    def models(self) -> Models:
        """The server's models; `server.models.add(...)` and `.remove(...)` change them."""
        return self._hub.state.models

    # Script

    def on(
        self,
        *,
        path: str | None = None,
        model: str | None = None,
        contains: str | None = None,
        predicate: Callable[[Record], bool] | None = None,
    ) -> Rule:
        """Add a rule for requests that match all given criteria, then give it replies and faults.

        `path` is the exact path, `model` the name with or without `:latest`, `contains` a text that occurs in prompt,
        messages or input, `predicate` a function of the record, called in the server's thread.
        """
        return self._hub.script.add(Rule(path=path, model=model, contains=contains, predicate=predicate))

    def reply(
        self,
        text: str | Sequence[str] | Reply | Callable[[Record], Reply] = "",
        *,
        times: int | None = None,
        path: str | None = None,
        model: str | None = None,
        contains: str | None = None,
        predicate: Callable[[Record], bool] | None = None,
        **options: Unpack[ReplyOptions],
    ) -> Rule:
        """Answer matching requests with this: `on(...).reply(...)`, see there and `Reply` for the keywords."""
        rule = Rule(path=path, model=model, contains=contains, predicate=predicate)
        return self._hub.script.add(rule.reply(text, times=times, **options))

    def fault(
        self,
        name: str | Fault,
        *,
        times: int | None = None,
        path: str | None = None,
        model: str | None = None,
        contains: str | None = None,
        predicate: Callable[[Record], bool] | None = None,
        **options: Unpack[FaultOptions],
    ) -> Rule:
        """Apply a fault to matching requests: `on(...).fault(...)`, see there and `FAULTS` for the names."""
        rule = Rule(path=path, model=model, contains=contains, predicate=predicate)
        return self._hub.script.add(rule.fault(name, times=times, **options))

    def sequence(self, *outcomes: str | Scripted) -> Rule:
        """Give each of the next requests one outcome: texts, `Reply`s, `Fault`s or functions of the record."""
        return self.on().sequence(*outcomes)

    def reset(self) -> None:
        """Clear rules and records. Connections and models stay."""
        self._hub.script.clear()
        self._hub.records = []
        self._hub.errors = []

    # The socket

    def refuse(self) -> None:
        """Stop listening: new connections are refused. Idle connections are closed; answers in progress continue."""
        self._call(self._refuse)

    def accept(self) -> None:
        """Listen again on the same port."""
        self._call(self._listen)

    def drop_connections(self, how: Literal["close", "reset"] = "close") -> None:
        """Close every open connection, idle or not, with FIN or RST; answers in progress record this as a fault."""
        if how not in ("close", "reset"):
            raise ValueError(f"how: {how!r} is neither 'close' nor 'reset'")

        async def drop() -> None:
            for connection in list(self._hub.open):
                connection.shut("fault", reset=how == "reset")

        self._call(drop)

    # Observations

    @property
    def requests(self) -> list[Record]:
        """All requests in the order received, including those in progress."""
        return list(self._hub.records)

    @property
    def connections(self) -> int:
        """Connections accepted so far."""
        return self._hub.accepted

    @property
    def open_connections(self) -> int:
        """Connections open now."""
        return len(self._hub.open)

    @property
    def active_requests(self) -> int:
        """The number of requests that are not completely answered yet."""
        return self._hub.active

    @property
    def errors(self) -> list[BaseException]:
        """Exceptions in predicates, reply functions or the server itself; such requests got a 500."""
        return list(self._hub.errors)

    def wait_for(self, predicate: Callable[[OllamaServer], bool], timeout: float = 5.0) -> None:
        """Wait until `predicate(server)` is true; an `IndexError` in it (`server.requests[0]` too early) means false.

        Raises `AssertionError` with the server's state after `timeout` seconds. It blocks the thread: in an async
        test use `wait_for_async`.
        """
        self._hub.wait(lambda: _holds(predicate, self), lambda: self._in_vain(predicate, timeout), timeout)

    async def wait_for_async(self, predicate: Callable[[OllamaServer], bool], timeout: float = 5.0) -> None:
        """As `wait_for`, without blocking the running loop."""
        await self._hub.wait_async(lambda: _holds(predicate, self), lambda: self._in_vain(predicate, timeout), timeout)

    def _in_vain(self, predicate: Callable[[OllamaServer], bool], timeout: float) -> str:
        name = getattr(predicate, "__name__", repr(predicate))
        code = getattr(predicate, "__code__", None)
        where = f" ({code.co_filename}:{code.co_firstlineno})" if code is not None else ""
        return f"waited {timeout:g} s, but {name}{where} is still false; the server has {self._hub.describe()}"

    # The thread

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        loop.run_forever()

    def _call(self, work: Callable[[], Coroutine[None, None, None]]) -> None:
        """Run something in the server's thread, and wait for it unless already in that thread."""
        if self._loop is None:
            raise RuntimeError("the server is not running")
        if threading.current_thread() is self._thread:
            task = self._loop.create_task(work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            asyncio.run_coroutine_threadsafe(work(), self._loop).result()

    def _close_port(self) -> None:
        if self._listener is not None and self._listening is not None:
            loop = asyncio.get_running_loop()
            # Not Server.close(): a connection that is being accepted would be left open (see `close_listener`).
            loop.remove_reader(self._listening.fileno())
            self._listening.close()
            self._listener = self._listening = None
            self._holder = _bound(self.port)
            self._abort_idle_connections()
            task = loop.create_task(self._abort_accepted())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._hub.changed()

    def _abort_idle_connections(self) -> None:
        for connection in list(self._hub.open):
            if connection.record is None:
                connection.abort()

    async def _abort_accepted(self) -> None:
        """Abort what was being accepted when the port was closed."""
        for _ in range(_ACCEPTING):
            await asyncio.sleep(0)
        if self._listener is None:
            self._abort_idle_connections()

    async def _refuse(self) -> None:
        self._close_port()

    async def _listen(self) -> None:
        sock, self._holder = self._holder, None
        if sock is not None:
            loop = asyncio.get_running_loop()
            self._listening = sock
            self._listener = await loop.create_server(lambda: Connection(self._hub), sock=sock, backlog=_BACKLOG)
        self._hub.changed()

    async def _shut_down(self) -> None:
        if self._listener is not None:
            await close_listener(self._listener)
            self._listener = self._listening = None
        if self._holder is not None:
            self._holder.close()
            self._holder = None
        for connection in list(self._hub.open):
            connection.shut("server_stopped")
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        await self._hub.all_closed()


async def close_listener(listener: asyncio.Server) -> None:
    """Close a listening server once all accepted sockets have become connections.

    asyncio fails to make a connection for a closed server, and then leaves the accepted socket open.
    """
    for sock in listener.sockets:
        asyncio.get_running_loop().remove_reader(sock.fileno())
    for _ in range(_ACCEPTING):
        await asyncio.sleep(0)
    listener.close()


def _holds(predicate: Callable[[OllamaServer], bool], server: OllamaServer) -> bool:
    try:
        return bool(predicate(server))
    except IndexError:  # server.requests[2] before there are three
        return False


def _bound(port: int) -> socket.socket:
    """A socket that is bound but not listening."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
    except OSError:
        sock.close()
        raise
    return sock
