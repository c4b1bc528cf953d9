"""One connection: h11 reads requests, and the steps of `wire.py` are carried out in order.

h11 only parses. Each request gets a fresh h11 connection that is fed the leftover bytes of the last one, so it never
has to agree with the faults in an answer. The read side stays open while an answer is sent: a client's disconnect is
seen at once, even while an answer is held or stalled. A plan of a single write runs immediately; only others get a
task.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
import time
from typing import Protocol

import h11

from .answers import End, Hold, Wait
from .gate import Gate
from .record import Outcome, Record
from .wire import Send, Status, Step

__all__ = ["Connection", "Host"]

_ENCODE = "latin-1"
_LINGER = struct.pack("hh", 1, 0) if sys.platform == "win32" else struct.pack("ii", 1, 0)
_BAD_REQUEST = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n400 Bad Request"
)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Host(Protocol):
    """What a connection needs from its server."""

    def opened(self, connection: Connection) -> int:
        """A connection was accepted; returns its number."""
        ...

    def closed(self, connection: Connection) -> None:
        """A connection was closed."""
        ...

    def received(self, record: Record) -> asyncio.Future[None] | None:
        """A request was read; returns a slot to wait for, if none is free."""
        ...

    def planned(self, record: Record) -> tuple[list[Step], bool]:
        """A request has its slot; returns what to do, and whether to close the connection afterwards."""
        ...

    def ended(self, record: Record) -> None:
        """A request's answer has ended."""
        ...

    def changed(self) -> None:
        """Something that a test may wait for has changed."""
        ...

    def refuse_from_loop(self) -> None:
        """Stop listening."""
        ...


class Connection(asyncio.Protocol):
    """One accepted connection."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._parser = h11.Connection(h11.SERVER)
        self._request: h11.Request | None = None
        self._body: list[bytes] = []
        self._early = b""
        self._task: asyncio.Task[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._paused = False
        self._gone = False
        self._gate: tuple[Gate, asyncio.Future[None]] | None = None
        self.record: Record | None = None
        """The request being answered."""
        self.number = 0

    # Called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accepted."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        # Paused as soon as the kernel's buffer is full, so that a slow reader delays the answer as it would a real one.
        transport.set_write_buffer_limits(high=0)
        self.number = self._host.opened(self)

    def data_received(self, data: bytes) -> None:
        """Receive bytes of a request; buffered while another one is being answered."""
        if self._gone:
            return
        if self.record is not None:
            self._early += data
        else:
            self._feed(data)

    def eof_received(self) -> bool:
        """The client has closed its side, which counts as a disconnect, as with a real server."""
        self._client_gone()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection was closed, by either side."""
        self._client_gone()
        self._host.closed(self)

    def pause_writing(self) -> None:
        """The kernel's buffer is full."""
        self._paused = True

    def resume_writing(self) -> None:
        """The kernel's buffer has room again."""
        self._paused = False
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    # Reading

    def _feed(self, data: bytes) -> None:
        parser = self._parser
        try:
            parser.receive_data(data)
            while True:
                event = parser.next_event()
                if event is h11.NEED_DATA:
                    if parser.they_are_waiting_for_100_continue:
                        parser.send(h11.InformationalResponse(status_code=100, headers=[]))
                        self._transport.write(_CONTINUE)
                    return
                if isinstance(event, h11.Request):
                    self._request = event
                elif isinstance(event, h11.Data):
                    self._body.append(bytes(event.data))
                elif isinstance(event, h11.EndOfMessage):
                    self._complete()
                    return
                else:
                    return
        except h11.RemoteProtocolError:
            self._gone = True
            self._transport.write(_BAD_REQUEST)
            self._transport.close()

    def _complete(self) -> None:
        """A request has been read completely: answer it."""
        request = self._request
        assert request is not None
        path, _, query = request.target.decode(_ENCODE).partition("?")
        record = Record(
            method=request.method.decode(_ENCODE),
            path=path,
            query=query,
            raw_headers=tuple((name.decode(_ENCODE), value.decode(_ENCODE)) for name, value in request.headers),
            body=b"".join(self._body),
            connection=self.number,
            time=time.monotonic(),
            http_version=request.http_version.decode(_ENCODE),
        )
        self._early = bytes(self._parser.trailing_data[0])
        self._parser = h11.Connection(h11.SERVER)
        self._request, self._body = None, []
        self.record = record
        slot = self._host.received(record)
        if slot is None:
            self._answer(record)
        else:
            self._task = asyncio.get_running_loop().create_task(self._wait(record, slot))

    # Answering

    async def _wait(self, record: Record, slot: asyncio.Future[None]) -> None:
        await slot
        record.queued = time.monotonic() - record.time
        self._answer(record)

    def _answer(self, record: Record) -> None:
        plan, close = self._host.planned(record)
        if len(plan) == 2 and isinstance(plan[0], Status) and isinstance(plan[1], Send):
            record.status = plan[0].status
            self._write(plan[1])
            if not self._paused:
                self._done(record, close)
                return
            plan = []
        self._task = asyncio.get_running_loop().create_task(self._carry_out(record, plan, close))

    def _write(self, step: Send) -> None:
        record = self.record
        assert record is not None
        self._transport.write(step.data)
        record.bytes_sent += len(step.data)
        record.tokens_sent += step.tokens

    async def _carry_out(self, record: Record, plan: list[Step], close: bool) -> None:
        count = 0
        loop = asyncio.get_running_loop()
        due = loop.time()
        if self._paused:
            await self._drained()
        for step in plan:
            if isinstance(step, Send):
                if self._transport.is_closing():  # the client has disconnected, and asyncio is about to report it
                    self._client_gone()
                    return
                self._write(step)
                if self._paused:
                    await self._drained()
                self._host.changed()
                count += 1
                if count % 16 == 0:
                    await asyncio.sleep(0)
            elif isinstance(step, Status):
                record.status = step.status
            elif isinstance(step, Wait):
                # By absolute times, so that the rate is kept although each wait ends a bit late.
                due += step.seconds
                await asyncio.sleep(max(0.0, due - loop.time()))
            elif isinstance(step, Hold):
                await self._held(step)
                due = loop.time()
            else:
                self._end(record, step)
                return
        self._done(record, close)

    async def _drained(self) -> None:
        self._writable = asyncio.get_running_loop().create_future()
        try:
            await self._writable
        finally:
            self._writable = None

    async def _held(self, step: Hold) -> None:
        if step.gate is None:
            self._host.changed()
            await asyncio.get_running_loop().create_future()
            return
        future = step.gate.enter()
        if future is None:
            return
        self._gate = (step.gate, future)
        self._host.changed()
        await future
        self._gate = None
        self._host.changed()

    def _end(self, record: Record, step: End) -> None:
        """A fault ends the answer."""
        self._task = None
        if step.how == "half_close":
            # The connection stays until the client closes its side too.
            self._transport.write_eof()
            self._finish(record, "fault")
            self._gone = True
            return
        self._gone = True
        self._finish(record, "fault")
        if step.how == "refuse":
            self._host.refuse_from_loop()
        if step.how == "close":
            self._transport.close()
        else:
            self.abort(reset=True)

    def _done(self, record: Record, close: bool) -> None:
        self._task = None
        self._finish(record, "complete" if record.fault is None else "fault")
        if close or self._transport.is_closing():
            self._gone = True
            self._transport.close()
        elif self._early:
            early, self._early = self._early, b""
            asyncio.get_running_loop().call_soon(self.data_received, early)

    def _finish(self, record: Record, outcome: Outcome) -> None:
        if record.outcome == "active":
            record.ended = time.monotonic()
            record.outcome = outcome
            self.record = None
            self._host.ended(record)

    def _client_gone(self) -> None:
        self._gone = True
        self._stop("client_closed")

    def _stop(self, outcome: Outcome) -> None:
        record, task = self.record, self._task
        if self._gate is not None:
            # Not in the task: once the record has ended, the gate must not be seen holding it.
            gate, future = self._gate
            gate.leave(future)
            self._gate = None
        if record is not None:
            self._finish(record, outcome)
        if task is not None:
            self._task = None
            task.cancel()

    # Called by the server

    def abort(self, reset: bool = False) -> None:
        """Close without sending buffered data; with `reset`, by a TCP reset."""
        if reset:
            sock = self._transport.get_extra_info("socket")
            if sock is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
        self._transport.abort()

    def shut(self, outcome: Outcome, reset: bool = False) -> None:
        """End the current answer and the connection."""
        self._gone = True
        self._stop(outcome)
        self.abort(reset)
