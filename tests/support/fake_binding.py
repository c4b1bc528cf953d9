"""A fake of the llama.cpp binding: models that load at once and give the answers that a test sets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from namel3ss_ollama.embedded.binding import Json, Kind
from namel3ss_ollama.embedded.options import LoadOptions
from namel3ss_ollama.embedded.store import Model

Take = Callable[[Json], bool]
PATIENCE = 30.0
"""Seconds after which a hanging test fails; a working one never waits that long."""


def token(text: str, **more: Any) -> Json:
    """A token, as the binding delivers it."""
    return {"choices": [{"text": text, "logprobs": None, "finish_reason": None, **more}]}


def last(reason: str = "stop", *, prompt: int = 3, completion: int = 2) -> Json:
    """The last event of an answer."""
    event = token("", finish_reason=reason)
    usage = {"prompt_tokens": prompt, "completion_tokens": completion}
    return {**event, "usage": usage, "timings": {"prompt_ms": 4.0, "predicted_ms": 5.0}}


@dataclass(eq=False)
class FakeServer:
    """A model in memory.

    Attributes:
        model: The model.
        options: The options that it is loaded with.
        kind: What it is used for.
        slots: The number of concurrent requests.
    """

    binding: FakeBinding
    model: Model
    options: LoadOptions
    kind: Kind
    slots: int

    def handle_completions(self, prompt: Json, callback: Take) -> None:
        if callback({**token(""), "prompt_progress": {"total": self.binding.prompt_tokens}}):
            return
        self.binding.requests.append(prompt)
        self.binding.answer(prompt, callback)

    def handle_embeddings(self, prompt: Json) -> Json:
        self.binding.requests.append(prompt)
        return self.binding.embedded(prompt)


@dataclass
class FakeBinding:
    """Takes the place of `binding.start`.

    Attributes:
        loads: The loaded models: file name, options and kind.
        requests: The requests to the models, except those that ended once the prompt's tokens were counted.
        prompt_tokens: The number of tokens of each prompt.
        answer: Called with a request and a callback for events; answers "Hello." by default.
        embedded: Called with a request for vectors.
        loading: Called while a model is loaded.
    """

    loads: list[tuple[str, LoadOptions, Kind]] = field(default_factory=list)
    requests: list[Json] = field(default_factory=list)
    prompt_tokens: int = 3
    answer: Callable[[Json, Take], None] = field(default=lambda request, take: say(take, "Hel", "lo."))
    embedded: Callable[[Json], Json] = field(default=lambda request: vectors([3.0, 4.0]))
    loading: Callable[[], None] = field(default=lambda: None)

    def start(self, model: Model, options: LoadOptions, kind: Kind, slots: int) -> FakeServer:
        self.loads.append((model.path.name, options, kind))
        self.loading()
        return FakeServer(self, model, options, kind, slots)


def say(take: Take, *texts: str) -> bool:
    """Deliver an answer until the consumer stops it; returns whether it was delivered completely."""
    return not any(take(event) for event in [*map(token, texts), last()])


def vectors(*values: list[float]) -> Json:
    data = [{"index": index, "embedding": value} for index, value in enumerate(values)]
    return {"data": data[::-1], "usage": {"prompt_tokens": 2}}


class Endless:
    """Makes a binding answer "a" repeatedly, until the consumer stops it.

    Attributes:
        begun: Set when a request has arrived.
        go: Waited for after that, before the first token.
        ended: Set when the consumer has stopped it.
        tokens: The number of tokens delivered.
    """

    def __init__(self, binding: FakeBinding) -> None:
        self.go, self.begun, self.ended = threading.Event(), threading.Event(), threading.Event()
        self.tokens = 0
        binding.answer = self._answer

    def _answer(self, request: Json, take: Take) -> None:
        self.begun.set()
        assert self.go.wait(PATIENCE)
        while not take(token("a")):
            self.tokens += 1
        self.ended.set()


class Watched(threading.Condition):
    """A condition that reports when a thread begins to wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self._begun = threading.Semaphore(0)

    def wait(self, timeout: float | None = None) -> bool:
        self._begun.release()
        return super().wait(timeout)

    def wait_for_waiter(self) -> None:
        """Return when a thread has begun to wait since the last call."""
        assert self._begun.acquire(timeout=PATIENCE), "no thread waits"


class Clock:
    """A clock that a test sets, in place of the module `time`."""

    def __init__(self) -> None:
        self.now = time.time()

    def time(self) -> float:
        return self.now

    monotonic = time
