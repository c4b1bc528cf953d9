"""The HTTP API, one method an endpoint; the only module that talks HTTP.

A generation is an `Exchange`: `open` sends the request and checks the status, `lines` gives what each read
completes, decoded, and closing it closes the connection, which is how a server is told to stop computing.
Everything else is one request and one JSON answer. No retry and no queueing here: that is the provider's.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import sys
import zlib
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from typing import Any, cast

import anyio
import httpx
import orjson
from typing_extensions import Self

from namel3ss_ollama.address import Address
from namel3ss_ollama.diagnosis import error_for_exception, error_for_line, error_for_status, reported
from namel3ss_ollama.errors import LLMConnectionError, LLMError, MalformedResponseError, StreamInterruptedError
from namel3ss_ollama.settings import StreamConfig, check_positive
from namel3ss_ollama.streamer import LineDecoder, Watch, is_cut, parse_line
from namel3ss_ollama.transport import HTTPSettings, PerLoopClients
from namel3ss_ollama.types import Image

__all__ = ["Client", "Exchange", "basic_auth", "encode", "fetch_image"]

Json = dict[str, Any]
_LONGEST_ERROR_BODY = 64 * 1024
_LONGEST_JSON_BODY = 256 * 1024 * 1024
_LONGEST_DRAIN = 0.1  # seconds; what ends a body comes with its last line, or hardly later
_BLOB_PIECE = 1024 * 1024
_UNPACKED_PIECE = 64 * 1024
_PACKINGS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""The encodings of a body that are understood, though none is asked for, and zlib's window bits for each."""


class Exchange:
    """One request under way and the lines of its answer."""

    __slots__ = ("_broken", "_client", "_decoder", "_ended", "_response", "_source", "_watch", "began")

    def __init__(self, client: Client, response: httpx.Response, watch: Watch) -> None:
        self._client = client
        self._response = response
        self._watch = watch
        # The transport's own iterator: it spares a layer or two a read, and httpx would decompress without a bound.
        self._source = unpacked(
            cast("httpx.AsyncByteStream", response.stream), response.headers.get("content-encoding", "identity")
        )
        self._decoder = LineDecoder(watch.config.max_line_bytes)
        self._ended = False
        self._broken: LLMError | None = None
        self.began = False

    async def lines(self) -> list[Json] | None:
        """The objects that the next read completes, at least one; None at the end of the body.

        A broken line raises only after the whole ones before it were returned.

        Raises:
            LLMError: The connection broke, a deadline passed, a line is malformed.
        """
        if self._broken is not None:
            raise self._broken
        while not self._ended:
            data = await self._read()
            if data:
                raw = self._decoder.feed(data)
            else:
                self._ended = True
                raw = [self._decoder.finish()]
            objects: list[Json] = []
            for line in raw:
                try:
                    value = parse_line(line)
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
        """Read to the end of the body, so that the connection can be used again, but do not wait long for it."""
        if self._ended or self._broken is not None:
            return
        with anyio.move_on_after(_LONGEST_DRAIN), contextlib.suppress(Exception):
            # What follows the last line is of no interest, and neither is a failure there: the answer is whole.
            await self._next()

    async def body(self, limit: int) -> bytes:
        """The whole body.

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
                raise MalformedResponseError(f"{self._client.url} sent an answer of over {limit} bytes")
        return b"".join(pieces)

    async def start_of_body(self) -> bytes:
        """The first 64 KiB of the body, or as much of them as comes without trouble."""
        body = b""
        try:
            while len(body) < _LONGEST_ERROR_BODY and (data := await self._read()):
                body += data
        except LLMError:
            pass  # the status has said already that it failed; the text was to say why
        return body[:_LONGEST_ERROR_BODY]

    async def aclose(self) -> None:
        """Close; before the end of the body that closes the connection."""
        with anyio.CancelScope(shield=True):
            try:
                await self._response.aclose()
            except Exception as error:
                # A connection that breaks while it is being closed is closed.
                if self._client.translate(error, began=True) is None:
                    raise

    async def _read(self) -> bytes:
        try:
            return await self._watch.guard(self._next)
        except StopAsyncIteration:
            return b""
        except Exception as error:
            translated = self._client.translate(error, began=self.began)
            if translated is None:
                raise
            raise translated from translated.original_error

    async def _next(self) -> bytes:
        return await self._source.__anext__()

    def _explained(self, error: MalformedResponseError, line: bytes) -> LLMError:
        if self._ended and (self.began or line.lstrip().startswith(b"{")) and is_cut(line):
            return StreamInterruptedError(
                f"{self._client.url} ended the answer in the middle of a line; what had arrived is in `partial`",
                original_error=error.original_error,
            )
        content_type = self._response.headers.get("content-type", "")
        if "json" in content_type or not content_type:
            return error
        return MalformedResponseError(
            f"{self._client.url} answered with {content_type.partition(';')[0]} instead of JSON; "
            "is base_url an Ollama server, and nothing between that answers in its place?",
            original_error=error.original_error,
        )


class Client:
    """Ollama's HTTP API.

    Args:
        address: Where the server is.
        headers: Headers of every request, credentials included.
        http: How connections are made.
    """

    def __init__(self, address: Address, headers: Mapping[str, str], http: HTTPSettings) -> None:
        self.url = address.url
        self.http = http
        self._headers = dict(headers)
        self.clients = PerLoopClients(
            lambda: http.make_client(self.url), lambda: http.to_import(self.url), owned=http.client is None
        )

    # Generations and other streams of lines

    async def open(
        self,
        method: str,
        path: str,
        body: Json | None,
        watch: Watch,
        *,
        model: str | None = None,
        content: bytes | None = None,
    ) -> Exchange:
        """Send a request and check the status of its answer; whoever gets the exchange closes it.

        Args:
            method: The HTTP method.
            path: The endpoint.
            body: What to send, as an object.
            watch: The deadlines.
            model: The model that is asked for, for error messages.
            content: `body` as it was encoded before, if it was.

        Raises:
            LLMError: No connection, a deadline passed, or a status other than 2xx.
        """
        return await self._send(method, path, content or encode(body), watch, model)

    async def _send(
        self, method: str, path: str, content: bytes | AsyncIterator[bytes] | None, watch: Watch, model: str | None
    ) -> Exchange:
        http = await self.clients.get()
        headers = self._headers if content is None else {**self._headers, "content-type": "application/json"}
        request = http.build_request(
            method,
            self.url + path,
            content=content,
            headers=headers,
            timeout=httpx.Timeout(None, connect=watch.config.connect_timeout),
        )
        watch.restart()
        try:
            response = await watch.guard(lambda: _send(http, request))
        except Exception as error:
            translated = self.translate(error, began=False, connect_timeout=watch.config.connect_timeout)
            if translated is None:
                raise
            raise translated from translated.original_error
        exchange = Exchange(self, response, watch)
        if 200 <= response.status_code < 300:
            return exchange
        async with contextlib.aclosing(exchange):
            raise error_for_status(
                response.status_code,
                response.headers,
                await exchange.start_of_body(),
                url=self.url,
                model=model,
            )

    async def chat(self, body: Json, watch: Watch, content: bytes | None = None) -> Exchange:
        """POST /api/chat."""
        return await self.open("POST", "/api/chat", body, watch, model=body.get("model"), content=content)

    async def generate(self, body: Json, watch: Watch, content: bytes | None = None) -> Exchange:
        """POST /api/generate."""
        return await self.open("POST", "/api/generate", body, watch, model=body.get("model"), content=content)

    async def progress(self, path: str, body: Json, watch: Watch) -> AsyncIterator[Json]:
        """POST to an endpoint that reports progress (pull, push, create): its objects, one by one.

        Raises:
            LLMError: As `open`; also for an error that comes as a line.
        """
        exchange = await self.open("POST", path, body, watch, model=body.get("model"))
        async with contextlib.aclosing(exchange):
            while (lines := await exchange.lines()) is not None:
                for line in lines:
                    if "error" in line:
                        raise error_for_line(reported(line["error"]), url=self.url)
                    yield line

    # One request, one answer

    async def request(
        self, method: str, path: str, body: Json | None, config: StreamConfig, *, model: str | None = None
    ) -> Json:
        """Send a request and return its JSON answer; an empty answer is an empty object.

        Raises:
            LLMError: No connection, a deadline passed, a status other than 2xx, no JSON object.
        """
        watch = Watch(config)
        try:
            async with contextlib.aclosing(await self.open(method, path, body, watch, model=model)) as exchange:
                data = await exchange.body(_LONGEST_JSON_BODY)
                return (parse_line(data) or {}) if data else {}
        finally:
            watch.close()

    async def embed(self, body: Json, config: StreamConfig) -> Json:
        """POST /api/embed."""
        return await self.request("POST", "/api/embed", body, config, model=body.get("model"))

    async def tags(self, config: StreamConfig) -> Json:
        """GET /api/tags: the models that are there."""
        return await self.request("GET", "/api/tags", None, config)

    async def ps(self, config: StreamConfig) -> Json:
        """GET /api/ps: the models that are loaded."""
        return await self.request("GET", "/api/ps", None, config)

    async def version(self, config: StreamConfig) -> Json:
        """GET /api/version."""
        return await self.request("GET", "/api/version", None, config)

    async def show(self, model: str, config: StreamConfig, *, verbose: bool = False) -> Json:
        """POST /api/show: what there is to know of a model."""
        body: Json = {"model": model, **({"verbose": True} if verbose else {})}
        return await self.request("POST", "/api/show", body, config, model=model)

    async def copy(self, source: str, destination: str, config: StreamConfig) -> None:
        """POST /api/copy."""
        body = {"source": source, "destination": destination}
        await self.request("POST", "/api/copy", body, config, model=source)

    async def delete(self, model: str, config: StreamConfig) -> None:
        """DELETE /api/delete."""
        await self.request("DELETE", "/api/delete", {"model": model}, config, model=model)

    async def upload_blob(self, source: bytes | os.PathLike[str], config: StreamConfig) -> str:
        """HEAD and, if the server does not have it, POST /api/blobs/:digest; returns the digest.

        Raises:
            LLMError: As `request`.
            OSError: The file cannot be read.
        """
        digest = await anyio.to_thread.run_sync(_digest, source)
        path = f"/api/blobs/{digest}"
        watch = Watch(config)
        try:
            try:
                await (await self._send("HEAD", path, None, watch, None)).aclose()
                return digest
            except LLMError as error:
                if error.status_code != 404:
                    raise
            async with contextlib.aclosing(
                await self._send("POST", path, _pieces(source, watch), watch, None)
            ) as exchange:
                await exchange.body(_LONGEST_ERROR_BODY)
            return digest
        finally:
            watch.close()

    def translate(self, error: Exception, *, began: bool, connect_timeout: float | None = None) -> LLMError | None:
        """The `LLMError` that a transport's exception stands for, or None."""
        if isinstance(error, LLMError):
            return None
        return error_for_exception(error, url=self.url, connect_timeout=connect_timeout, began=began)


async def _send(http: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
    sending = http.send(request, stream=True, follow_redirects=False)
    if sys.version_info >= (3, 11):
        return await sending
    # Before Python 3.11 a task group that ends cannot tell its own cancellation from one that comes from outside in
    # that moment, and swallows both; plain httpx connects within one. So it gets a task of its own there.
    task = asyncio.ensure_future(sending)
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled() and task.exception() is None:
            await task.result().aclose()
        raise
    return task.result()


def encode(body: Json | None) -> bytes | None:
    """A request's body.

    Raises:
        ValueError: Something in it is no JSON: a lone surrogate in a text, an object in the options.
    """
    if body is None:
        return None
    try:
        return orjson.dumps(body)
    except TypeError as error:
        raise ValueError(
            f"the request cannot be written as JSON: {error}; check the texts for lone surrogates "
            "(text.encode('utf-8', 'replace').decode()) and the options for objects"
        ) from error


async def fetch_image(url: str, *, max_bytes: int = 20_000_000, timeout: float = 30.0) -> Image:
    """A picture from the web, for who wants pictures given as an address to be fetched. Nothing calls this by itself.

    Whoever may choose the address may make this machine ask any server that it can reach: pass on only addresses of
    people who are trusted with that.

    Args:
        url: An http or https address.
        max_bytes: The largest picture that is taken.
        timeout: A bound on the whole, in seconds.

    Raises:
        ValueError: The address is none of http or https, the picture is too large, or what came is no picture.
        LLMConnectionError: It could not be fetched.
        LLMTimeoutError: It took too long.
    """
    check_positive("max_bytes", max_bytes, integer=True)
    if not url.lower().startswith(("http://", "https://")):
        raise ValueError("image: only an http or https address can be fetched")
    watch = Watch(StreamConfig(first_chunk_timeout=None, chunk_timeout=None), timeout)
    try:
        return Image(await watch.guard(lambda: _fetch(url, max_bytes), idle=False))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise LLMConnectionError(
            f"the picture cannot be fetched: {type(error).__name__}", original_error=error
        ) from error
    finally:
        watch.close()


async def _fetch(url: str, max_bytes: int) -> bytes:
    headers = {"accept-encoding": "identity"}
    async with (
        httpx.AsyncClient(follow_redirects=True, max_redirects=3, headers=headers) as http,
        http.stream("GET", url) as response,
    ):
        response.raise_for_status()
        kind = response.headers.get("content-type", "image/").partition(";")[0].strip().lower()
        if not kind.startswith("image/") and kind != "application/octet-stream":
            raise ValueError(f"image: the address has {kind}, not a picture")
        content = b""
        async for piece in unpacked(response.aiter_raw(), response.headers.get("content-encoding", "identity")):
            content += piece
            if len(content) > max_bytes:
                raise ValueError(f"image: the picture has over {max_bytes} bytes")
        return content


def unpacked(source: AsyncIterable[bytes], encoding: str) -> AsyncIterator[bytes]:
    """A body as it was before it was compressed.

    Args:
        source: The body as it comes.
        encoding: Its Content-Encoding.

    Raises:
        MalformedResponseError: While iterating: the encoding is none that is known, or the body does not decompress.
    """
    name = encoding.strip().lower()
    return source.__aiter__() if name in ("", "identity") else _Unpacked(source.__aiter__(), name)


class _Unpacked:
    """Decompresses in small pieces: a few bytes can stand for gigabytes, and the limits are looked at by who reads."""

    def __init__(self, source: AsyncIterator[bytes], encoding: str) -> None:
        self._source = source
        self._encoding = encoding
        self._unpacker = zlib.decompressobj(_PACKINGS.get(encoding, 0))
        self._left = b""
        self._more = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._encoding not in _PACKINGS:
            raise MalformedResponseError(
                f"the answer's body is compressed ({self._encoding[:40]!r}), and nothing asked for that; "
                "something between changes it"
            )
        unpacker = self._unpacker
        while True:
            while not self._more:
                self._left = await self._source.__anext__()
                self._more = not unpacker.eof  # what follows the end is no part of the body
            try:
                piece = unpacker.decompress(self._left, _UNPACKED_PIECE)
            except zlib.error as error:
                raise MalformedResponseError(
                    "the answer's body does not decompress; is something between that changes answers?",
                    original_error=error,
                ) from error
            self._left = unpacker.unconsumed_tail
            self._more = not unpacker.eof and (bool(self._left) or len(piece) == _UNPACKED_PIECE)
            if piece:
                return piece


def basic_auth(user: str, password: str) -> str:
    """The value of an Authorization header (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")


def _digest(source: bytes | os.PathLike[str]) -> str:
    sha = hashlib.sha256()
    if isinstance(source, bytes):
        sha.update(source)
    else:
        with open(source, "rb") as file:  # noqa: PTH123 -- any os.PathLike
            while piece := file.read(_BLOB_PIECE):
                sha.update(piece)
    return f"sha256:{sha.hexdigest()}"


async def _pieces(source: bytes | os.PathLike[str], watch: Watch) -> AsyncIterator[bytes]:
    """The pieces of a body; the deadlines count from when the last one was taken, not from when the first was sent."""
    if isinstance(source, bytes):
        for start in range(0, len(source), _BLOB_PIECE):
            yield source[start : start + _BLOB_PIECE]
            watch.alive()
        return
    async with await anyio.open_file(source, "rb") as file:
        while piece := await file.read(_BLOB_PIECE):
            yield piece
            watch.alive()
