"""One request in flight and the lines of its response.

Closing an exchange before the end of the body closes the connection, which makes the server stop generating.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import httpx
from typing_extensions import Self

from namel3ss_ollama.cancellation import to_the_end
from namel3ss_ollama.compression import unpacked
from namel3ss_ollama.diagnosis import error_for_exception
from namel3ss_ollama.errors import LLMConnectionError, LLMError, MalformedResponseError, StreamInterruptedError
from namel3ss_ollama.pooling import ReadableBody
from namel3ss_ollama.streamer import LineDecoder, LineParser, Watch, is_cut

__all__ = ["Exchange", "translated"]

Json = dict[str, Any]
_LONGEST_ERROR_BODY = 1024 * 1024  # it may quote a tool call, which may hold a file
_LONGEST_DRAIN = 0.1  # seconds; the end of a body arrives with its last line, or shortly after


class Exchange:
    """A response as it arrives.

    Args:
        url: The server's address, for error messages.
        http: The client that sent the request.
        response: Its unread response.
        watch: The deadlines.
    """

    __slots__ = ("_broken", "_decoder", "_ended", "_http", "_next", "_parser", "_response", "_url", "_watch", "began")

    def __init__(self, url: str, http: httpx.AsyncClient, response: httpx.Response, watch: Watch) -> None:
        self._url = url
        self._http = http
        self._response = response
        self._watch = watch
        self._next = _reader(response)
        self._decoder = LineDecoder(watch.config.max_line_bytes)
        self._parser = LineParser()
        self._ended = False
        self._broken: LLMError | None = None
        self.began = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is GeneratorExit or self._watch.loop.is_closed():  # a coroutine that is being destroyed cannot wait
            self.abort()
        else:
            await self.aclose()

    @property
    def closed_here(self) -> bool:
        """Whether its client was closed on this side."""
        return self._http.is_closed

    async def lines(self) -> list[Json] | None:
        """The objects that the next read completes, at least one; None at the end of the body.

        A malformed line raises only after the complete lines before it were returned.

        Raises:
            LLMError: The connection broke, a timeout, or a malformed line.
        """
        if self._broken is not None:
            raise self._broken
        while not self._ended:
            try:
                data = await self._watch.guard(self._next)
            except Exception as error:
                self._raise(error)
            if data:
                raw = self._decoder.feed(data)
            else:
                self._ended = True
                raw = [self._decoder.finish()]
            objects: list[Json] = []
            parse = self._parser.parse
            for line in raw:
                try:
                    value = parse(line)
                except MalformedResponseError as error:
                    self._broken = self._explained(error, line)
                    if not objects:
                        raise self._broken from error.original_error
                    break
                if value is not None:
                    objects.append(value)
            if objects:
                self.began = True
                self._watch.progress()
                return objects
        return None

    async def drain(self) -> None:
        """Read to the end of the body so that the connection can be reused, without waiting long."""
        if self._ended or self._broken is not None:
            return
        watch = Watch(self._watch.config, _LONGEST_DRAIN)
        try:
            # The answer is complete: neither data nor a failure after the last line matters.
            with contextlib.suppress(Exception):
                self._ended = not await watch.guard(self._next, idle=False)
        finally:
            watch.close()

    async def body(self, limit: int) -> bytes:
        """The body.

        Raises:
            MalformedResponseError: It is longer than `limit` bytes.
            LLMError: As `lines`.
        """
        pieces: list[bytes] = []
        size = 0
        while data := await self._read():
            self._watch.progress()
            pieces.append(data)
            size += len(data)
            if size > limit:
                raise MalformedResponseError(f"{self._url} sent a response of more than {limit} bytes")
        return b"".join(pieces)

    async def start_of_body(self) -> bytes:
        """The first MiB of the body, or as much of it as arrives before a failure."""
        body = b""
        try:
            while len(body) < _LONGEST_ERROR_BODY and (data := await self._read()):
                body += data
        except LLMError:
            pass  # the status is already an error; the body would only say why
        return body[:_LONGEST_ERROR_BODY]

    async def aclose(self) -> None:
        """Close; before the end of the body that closes the connection."""
        try:
            if not isinstance(self._response.stream, ReadableBody):
                await to_the_end(self._close_httpx())
            elif self._ended:  # which waits for nothing
                await self._response.aclose()
            else:
                await to_the_end(self._response.aclose())
        except Exception as error:
            # A connection that breaks while being closed is closed.
            if translated(error, url=self._url, http=self._http, began=True) is error:
                raise

    async def _close_httpx(self) -> None:
        try:
            await self._response.aclose()
        finally:
            # A second cancellation while httpcore cleaned up after the first one has left the connection open.
            network = self._response.extensions.get("network_stream")
            if network is not None and not self._ended and self._response.http_version.startswith("HTTP/1"):
                await network.aclose()

    def abort(self) -> bool:
        """Close at once and without the event loop, if the transport supports that; for finalizers. Whether it did."""
        if not isinstance(self._response.stream, ReadableBody):
            return False
        with contextlib.suppress(RuntimeError):  # of a closed loop
            self._response.stream.abort()
        return True

    async def _read(self) -> bytes:
        try:
            data = await self._watch.guard(self._next)
        except Exception as error:
            self._raise(error)
        self._ended = not data
        return data

    def _raise(self, error: Exception) -> NoReturn:
        failure = translated(error, url=self._url, http=self._http, began=self.began)
        if failure is error:
            raise error
        raise failure from failure.__cause__

    def _explained(self, error: MalformedResponseError, line: bytes) -> LLMError:
        if self._ended and (self.began or line.lstrip().startswith(b"{")) and is_cut(line):
            return StreamInterruptedError(
                f"{self._url} ended the answer in the middle of a line; what had arrived is in `partial`",
                original_error=error.original_error,
            )
        content_type = self._response.headers.get("content-type", "")
        if "json" in content_type or not content_type:
            return error
        return MalformedResponseError(
            f"{self._url} answered with {content_type.partition(';')[0]} instead of JSON; "
            "is base_url an Ollama server, and does no proxy answer in its place?",
            original_error=error.original_error,
        )


def _reader(response: httpx.Response) -> Callable[[], Awaitable[bytes]]:
    """A function that returns the next bytes received, or none at the end.

    It goes straight to the transport, which avoids several layers per read; httpx would decompress without a limit.
    """
    encoding = response.headers.get("content-encoding", "identity")
    if encoding == "identity" and isinstance(response.stream, ReadableBody):
        return response.stream.read
    pieces: AsyncIterator[bytes] = unpacked(cast("httpx.AsyncByteStream", response.stream), encoding)

    async def read() -> bytes:
        async for piece in pieces:
            if piece:
                return piece
        return b""

    return read


def translated(
    error: Exception, *, url: str, http: httpx.AsyncClient, began: bool, connect_timeout: float | None = None
) -> Exception:
    """The `LLMError` that a transport's exception stands for, or the exception itself.

    Args:
        error: What was raised while sending or reading.
        url: The server's address.
        http: The client.
        began: Whether anything of the answer's content had arrived.
        connect_timeout: That deadline in seconds, for the message.
    """
    if isinstance(error, LLMError):
        return error
    _strip(error)
    if http.is_closed and isinstance(error, (httpx.HTTPError, RuntimeError)):
        kind = StreamInterruptedError if began else LLMConnectionError
        return kind(
            "the provider or its http_client was closed during the request; ask again, or close later",
            temporary=False,
        )
    if isinstance(error, RuntimeError) and "loop" in str(error):
        return LLMConnectionError(
            f"the HTTP client or transport belongs to another event loop ({error}); make one for each event loop, or "
            "let the provider make its connections",
            temporary=False,
        )
    return error_for_exception(error, url=url, connect_timeout=connect_timeout, began=began) or error


def _strip(error: BaseException | None) -> None:
    """Remove the requests, with their headers and bodies, from a transport's exceptions."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, httpx.RequestError):
            error._request = None
        if (info := getattr(error, "request_info", None)) is not None:
            error.args = ()
            setattr(error, "request_info", SimpleNamespace(real_url=info.real_url))  # noqa: B010 -- its text names it
        error = error.__cause__ or error.__context__
