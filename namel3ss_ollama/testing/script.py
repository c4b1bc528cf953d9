"""Rules that match requests, each with a queue of replies and faults.

A `Script` holds rules in the order of their creation. Each rule has criteria and a queue of outcomes (replies, faults,
functions), each for a number of requests or for all of them. A request takes the first reply and, independently, the
first fault whose rule matches, so the order in which a fault and its reply are scripted does not matter. A fault
affects the next reply of its own rule, else that of the other rules, else the default. A request that gets a fault does
not use up a counted reply: its retry gets the same one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from .faults import Fault
from .models import canonical
from .record import Record
from .replies import Reply

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .faults import FaultOptions
    from .replies import ReplyOptions

__all__ = ["Rule", "Script", "Scripted"]

Scripted: TypeAlias = Reply | Fault | Callable[[Record], Reply]


class Rule:
    """Matches requests, and holds their replies and faults.

    Made by `server.on(...)`; its methods return the rule, so that
    `server.on(model="m").fault("cut", times=2).reply("fine")` reads in the order of events.
    """

    def __init__(
        self,
        *,
        path: str | None = None,
        model: str | None = None,
        contains: str | None = None,
        predicate: Callable[[Record], bool] | None = None,
    ) -> None:
        if path is not None and not path.startswith("/"):
            raise ValueError(f"path: {path!r} does not begin with a slash")
        if predicate is not None and not callable(predicate):
            raise ValueError("predicate: is not callable")
        self.path = path
        self._model, self._contains, self._predicate = model, contains, predicate
        self._queue: list[_Entry] = []
        self._lock = threading.Lock()

    def reply(
        self,
        text: str | Sequence[str] | Reply | Callable[[Record], Reply] = "",
        *,
        times: int | None = None,
        **options: Unpack[ReplyOptions],
    ) -> Rule:
        """Answer the next `times` requests (None: all) with this; see `Reply` for the keywords.

                A function gets the request's record and returns a `Reply`. It runs in the server's thread; an exception
        becomes a 500 and, when the `with` block ends, a `RuntimeError`.
        """
        if isinstance(text, Reply) or callable(text):
            if options:
                raise ValueError(f"{next(iter(options))}: set it on the Reply that is given")
            return self._add(text, times)
        return self._add(Reply(text, **options), times)

    def fault(self, name: str | Fault, *, times: int | None = None, **options: Unpack[FaultOptions]) -> Rule:
        """Apply a fault to the next `times` requests (None: all); see `FAULTS` for the names."""
        if isinstance(name, Fault):
            if options:
                raise ValueError(f"{next(iter(options))}: set it on the Fault that is given")
            return self._add(name, times)
        return self._add(Fault(name, **options), times)

    def sequence(self, *outcomes: str | Scripted) -> Rule:
        """One request each, in this order: texts, replies, faults or functions."""
        if not outcomes:
            raise ValueError("outcomes: none given")
        for outcome in outcomes:
            self._add(Reply(outcome) if isinstance(outcome, str) else outcome, 1)
        return self

    def _add(self, outcome: Scripted, times: int | None) -> Rule:
        if times is not None and times < 1:
            raise ValueError(f"times: {times} is not positive (None is for all requests)")
        with self._lock:
            self._queue.append(_Entry(outcome, times))
        return self

    def matches(self, record: Record) -> bool:
        """Whether the request meets every criterion."""
        if self.path is not None and record.path != self.path:
            return False
        if self._model is not None and canonical(record.model) != canonical(self._model):
            return False
        if self._contains is not None and self._contains not in record.text:
            return False
        return self._predicate is None or bool(self._predicate(record))

    def current(self) -> _Entry | None:
        """The entry for the next request."""
        with self._lock:
            return next((entry for entry in self._queue if entry.left is None or entry.left > 0), None)

    def next_reply(self) -> Reply | Callable[[Record], Reply] | None:
        """The reply after the faults in the queue, which they apply to."""
        with self._lock:
            for entry in self._queue:
                if not isinstance(entry.outcome, Fault) and entry.left != 0:
                    return entry.outcome
        return None

    def use(self, entry: _Entry) -> None:
        """Count one request for this outcome."""
        with self._lock:
            if entry.left is not None:
                entry.left -= 1


@dataclass
class _Entry:
    outcome: Scripted
    left: int | None


_GENERATION = ("/api/chat", "/api/generate", "/v1/chat/completions")
_EMBEDDING = ("/api/embed", "/api/embeddings", "/v1/embeddings")
_DECISION = "/v1/systemone"


def _suits(rule: Rule, reply: Reply | Callable[[Record], Reply], record: Record) -> bool:
    """Whether the reply is for that endpoint: `/api/version` or loading a model does not use up a text."""
    if reply.raw if isinstance(reply, Reply) else rule.path is not None:
        return True
    if record.path in _GENERATION:
        decides = isinstance(reply, Reply) and reply.answers is not None
        return not decides and bool(record.payload.get("messages") or record.payload.get("prompt"))
    if record.path == _DECISION:
        return not isinstance(reply, Reply) or reply.answers is not None
    return record.path in _EMBEDDING and (not isinstance(reply, Reply) or reply.embeddings is not None)


class Script:
    """The rules of a server, in order."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []

    def add(self, rule: Rule) -> Rule:
        """Add a rule after all others."""
        self._rules.append(rule)
        return rule

    def clear(self) -> None:
        """Remove all rules."""
        self._rules = []

    def pick(self, record: Record) -> tuple[Reply | None, Fault | None]:
        """The reply and the fault for a request, counted as used once. Runs the user's functions."""
        reply: Reply | Callable[[Record], Reply] | None = None
        fault: Fault | None = None
        source: tuple[Rule, _Entry] | None = None
        for rule in self._rules:
            if reply is not None and fault is not None:
                break
            entry = rule.current() if rule.matches(record) else None
            if entry is None:
                continue
            if isinstance(entry.outcome, Fault):
                if fault is None:
                    fault = entry.outcome
                    rule.use(entry)
                    if reply is None:
                        reply = rule.next_reply()
            elif reply is None and _suits(rule, entry.outcome, record):
                reply, source = entry.outcome, (rule, entry)
        if source is not None and fault is None:
            source[0].use(source[1])
        if callable(reply):
            reply = reply(record)
            if not isinstance(reply, Reply):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"a function given to reply() returned {type(reply).__name__}, not a Reply")
        return reply, fault
