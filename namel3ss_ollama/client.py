"""The HTTP API, one method an endpoint; the only module that talks HTTP.

A generation is an `Exchange`; everything else is one request and one JSON answer. Retries and queueing belong to the
provider. Only a request that failed on a pooled connection which the server had closed is sent again at once: it got no
answer, and the failure says nothing about the server.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, BinaryIO

import httpx

from namel3ss_ollama.address import EMBEDDED_URL, Address
from namel3ss_ollama.cancellation import in_own_task
from namel3ss_ollama.connections import Connections
from namel3ss_ollama.diagnosis import error_for_line, error_for_status
from namel3ss_ollama.errors import LLMError
from namel3ss_ollama.exact import write_json
from namel3ss_ollama.exchange import Exchange, translated
from namel3ss_ollama.pooling import StaleConnectionError
from namel3ss_ollama.proxies import blaming_the_proxy, is_not_from_ollama
from namel3ss_ollama.reasons import reason_in_line
from namel3ss_ollama.streamer import Watch, parse_line
from namel3ss_ollama.transport import HTTPSettings

__all__ = ["Client", "encode"]

Json = dict[str, Any]
_LONGEST_JSON_BODY = 256 * 1024 * 1024
_BLOB_PIECE = 1024 * 1024
_JSON = {"content-type": "application/json"}
_BYTES = {"content-type": "application/octet-stream"}


class Client:
    """Ollama's HTTP API.

    Args:
        address: Where the server is.
        headers: Headers for every request, including credentials.
        http: How connections are opened.

    Attributes:
        refusal: If requests must not be sent, why: the text of the `ValueError` that each call raises.
    """

    def __init__(self, address: Address, headers: Mapping[str, str], http: HTTPSettings) -> None:
        http.check(address.url)
        self.url = address.url
        # httpx parses the URLs of requests, and needs a host in them.
        self._base = f"{EMBEDDED_URL}engine" if address.url == EMBEDDED_URL else address.url
        self.http = http
        self._headers = dict(headers)
        self.refusal: str | None = None
        self.connections = Connections(
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
        headers: Mapping[str, str] | None = None,
        on_resend: Callable[[], None] | None = None,
    ) -> Exchange:
        """Send a request and check the response status; the caller closes the exchange.

        Args:
            method: The HTTP method.
            path: The endpoint.
            body: What to send, as an object.
            watch: The deadlines.
            model: The model that is asked for, for error messages.
            content: `body` as already encoded, if it was.
            headers: Headers for this request only, names in lower case.
            on_resend: Called when the request is sent again because a pooled connection was closed.

        Raises:
            LLMError: No connection, a timeout, or a status other than 2xx.
        """
        content = encode(body) if content is None else content
        sent = {**self._headers, **(headers or {}), **(_JSON if content is not None else {})}
        return await self._send(method, path, content, sent, watch, model, on_resend)

    async def _send(
        self,
        method: str,
        path: str,
        content: bytes | AsyncIterator[bytes] | None,
        headers: Mapping[str, str],
        watch: Watch,
        model: str | None = None,
        on_resend: Callable[[], None] | None = None,
    ) -> Exchange:
        if self.refusal is not None:
            raise ValueError(self.refusal)
        connect = watch.config.connect_timeout
        http = self.connections.current()
        if http is None:
            http = await watch.guard(self.connections.get, idle=False)
        request = http.build_request(
            method, self._base + path, content=content, headers=headers, timeout=httpx.Timeout(None, connect=connect)
        )
        watch.restart()
        while True:
            try:
                response = await watch.guard(lambda: _sent(http, request))
                break
            except StaleConnectionError as error:
                if not isinstance(content, (bytes, type(None))):  # its pieces are gone
                    raise self._failure(error, http, connect) from None
                if on_resend is not None:
                    on_resend()
            except Exception as error:
                failure = self._failure(error, http, connect)
                if failure is error:
                    raise
                raise failure from failure.__cause__
        exchange = Exchange(self.url, http, response, watch)
        if 200 <= response.status_code < 300:
            return exchange
        async with exchange:
            body = await exchange.start_of_body()
            refusal = error_for_status(response.status_code, response.headers, body, url=self.url, model=model)
            raise self._through_a_proxy(refusal) if is_not_from_ollama(body) else refusal

    def _failure(self, error: Exception, http: httpx.AsyncClient, connect_timeout: float | None) -> Exception:
        failure = translated(error, url=self.url, http=http, began=False, connect_timeout=connect_timeout)
        return self._through_a_proxy(failure) if isinstance(failure, LLMError) else failure

    def _through_a_proxy(self, error: LLMError) -> LLMError:
        proxy = self.http.proxy_for(self.url)
        if proxy is None:
            return error
        return blaming_the_proxy(error, proxy, self.url, given=self.http.proxy is not None)

    async def chat(
        self, body: Json, watch: Watch, content: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Exchange:
        """POST /api/chat."""
        model = body.get("model")
        return await self.open("POST", "/api/chat", body, watch, model=model, content=content, headers=headers)

    async def generate(
        self, body: Json, watch: Watch, content: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Exchange:
        """POST /api/generate."""
        model = body.get("model")
        return await self.open("POST", "/api/generate", body, watch, model=model, content=content, headers=headers)

    async def progress(self, path: str, body: Json, watch: Watch) -> AsyncIterator[Json]:
        """POST to an endpoint that reports progress (pull, push, create), and iterate over its objects.

        Raises:
            LLMError: As `open`; also for an error sent as a line.
        """
        async with await self.open("POST", path, body, watch, model=body.get("model")) as exchange:
            while (lines := await exchange.lines()) is not None:
                for line in lines:
                    if (said := reason_in_line(line)) is not None:
                        raise error_for_line(said, url=self.url)
                    yield line

    # One request, one answer

    async def request(
        self,
        method: str,
        path: str,
        body: Json | None,
        watch: Watch,
        *,
        model: str | None = None,
        content: bytes | None = None,
        on_resend: Callable[[], None] | None = None,
    ) -> Json:
        """Send a request and return its JSON answer; an empty answer is an empty object.

        Raises:
            LLMError: No connection, a timeout, a status other than 2xx, or a body that is not a JSON object.
        """
        async with await self.open(
            method, path, body, watch, model=model, content=content, on_resend=on_resend
        ) as exchange:
            data = await exchange.body(_LONGEST_JSON_BODY)
            answer = (parse_line(data) or {}) if data else {}
            if answer.get("error") and (said := reason_in_line(answer)) is not None:  # under status 200
                raise error_for_line(said, url=self.url)
            return answer

    async def embed(self, body: Json, watch: Watch) -> Json:
        """POST /api/embed."""
        return await self.request("POST", "/api/embed", body, watch, model=body.get("model"))

    async def systemone(self, body: Json, watch: Watch, content: bytes) -> Json:
        """POST /v1/systemone."""
        return await self.request("POST", "/v1/systemone", body, watch, model=body.get("model"), content=content)

    async def tags(self, watch: Watch) -> Json:
        """GET /api/tags: the installed models."""
        return await self.request("GET", "/api/tags", None, watch)

    async def ps(self, watch: Watch) -> Json:
        """GET /api/ps: the loaded models."""
        return await self.request("GET", "/api/ps", None, watch)

    async def version(self, watch: Watch) -> Json:
        """GET /api/version."""
        return await self.request("GET", "/api/version", None, watch)

    async def show(self, model: str, watch: Watch, *, verbose: bool = False) -> Json:
        """POST /api/show: the details of a model."""
        body: Json = {"model": model, **({"verbose": True} if verbose else {})}
        return await self.request("POST", "/api/show", body, watch, model=model)

    async def copy(self, source: str, destination: str, watch: Watch) -> None:
        """POST /api/copy."""
        body = {"source": source, "destination": destination}
        await self.request("POST", "/api/copy", body, watch, model=source)

    async def delete(self, model: str, watch: Watch, *, on_resend: Callable[[], None]) -> None:
        """DELETE /api/delete."""
        await self.request("DELETE", "/api/delete", {"model": model}, watch, model=model, on_resend=on_resend)

    async def upload_blob(self, source: bytes | os.PathLike[str], watch: Watch) -> str:
        """HEAD and, if the server does not have it, POST /api/blobs/:digest; returns the digest.

        Raises:
            LLMError: As `request`.
            OSError: The file cannot be read.
        """
        digest = await asyncio.to_thread(_digest, source)
        path = f"/api/blobs/{digest}"
        try:
            await (await self._send("HEAD", path, None, self._headers, watch)).aclose()
            return digest
        except LLMError as error:
            if error.status_code != 404:
                raise
        headers = {**self._headers, **_BYTES}
        async with await self._send("POST", path, _pieces(source, watch), headers, watch) as exchange:
            await exchange.body(_LONGEST_JSON_BODY)
        return digest


async def _sent(http: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
    sending = http.send(request, stream=True, follow_redirects=False)
    if getattr(http, "survives_cancellation", False):
        return await sending
    return await in_own_task(sending, close=httpx.Response.aclose)


def encode(body: Json | None) -> bytes | None:
    """A request's body.

    Raises:
        ValueError: A value cannot be written as JSON: a lone surrogate in a text, an object in the options.
    """
    if body is None:
        return None
    try:
        return write_json(body)
    except ValueError as error:
        raise ValueError(f"the request cannot be written as JSON: {error}") from error


def _digest(source: bytes | os.PathLike[str]) -> str:
    sha = hashlib.sha256()
    if isinstance(source, bytes):
        sha.update(source)
    else:
        with _open(source) as file:
            while piece := file.read(_BLOB_PIECE):
                sha.update(piece)
    return f"sha256:{sha.hexdigest()}"


def _open(source: os.PathLike[str]) -> BinaryIO:
    return open(source, "rb")  # noqa: PTH123 -- any os.PathLike; closed by the caller


async def _pieces(source: bytes | os.PathLike[str], watch: Watch) -> AsyncIterator[bytes]:
    """The pieces of a body; deadlines start when the last one was taken, not when the first was sent."""
    if isinstance(source, bytes):
        for start in range(0, len(source), _BLOB_PIECE):
            yield source[start : start + _BLOB_PIECE]
            watch.alive()
        return
    with _open(source) as file:
        while piece := await asyncio.to_thread(file.read, _BLOB_PIECE):
            yield piece
            watch.alive()
