"""A model on a server of known capacity, for measurements in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from namel3ss_ollama import LLMResponse, ServerError, StreamChunk, Usage
from namel3ss_ollama.measuring import Loaded
from namel3ss_ollama.windows import Window


@dataclass
class SimulatedModel:
    """A `Subject` that answers in virtual time.

    Attributes:
        slots: The number of concurrent answers.
        rate: Tokens per second of one answer, by the number of concurrent answers.
        read: Prompt tokens that it reads per second.
        loading: Seconds to load the model, by the window; None if it cannot be loaded.
        window: The window in force.
        length: Tokens of an answer, unless fewer are requested.
        jitter: The relative variation of times.
        durations: Whether answers report their durations.
        refuses: The number of concurrent requests at which the server fails.
    """

    slots: int
    rate: Callable[[int], float]
    read: float = 1000.0
    loading: Callable[[int | None], float | None] = lambda num_ctx: 2.0
    window: Window = field(default_factory=lambda: Window(None, 4096, 32768))
    memory: Callable[[int], tuple[int, int]] = lambda num_ctx: (num_ctx * 1000, num_ctx * 1000)
    length: int = 500
    jitter: float = 0.0
    durations: bool = True
    refuses: int | None = None
    loaded_with: int | None = None
    is_loaded: bool = False
    running: int = 0
    in_flight: int = 0
    max_in_flight: int = 0
    loads: list[int | None] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._slots = asyncio.Semaphore(self.slots)
        self._random = random.Random(17)

    def _varied(self, seconds: float) -> float:
        return seconds * self._random.uniform(1 - self.jitter, 1 + self.jitter)

    async def load(self, num_ctx: int | None) -> None:
        self.loads.append(num_ctx)
        wanted = num_ctx or self.window.configured
        if not self.is_loaded or wanted != self.loaded_with:
            seconds = self.loading(num_ctx)
            if seconds is None:
                raise ServerError("model requires more system memory than is available")
            await asyncio.sleep(seconds)
        self.is_loaded, self.loaded_with = True, wanted

    async def look(self) -> Loaded:
        if not self.is_loaded:
            return Loaded(False, self.window)
        return Loaded(True, self.window, *self.memory(self.loaded_with or 4096))

    @contextlib.asynccontextmanager
    async def answer(self, prompt: str, tokens: int, num_ctx: int | None) -> AsyncIterator[AsyncIterator[StreamChunk]]:
        self.prompts.append(prompt)
        self.lengths.append(tokens)
        chunks = self._chunks(prompt, min(tokens, self.length))
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            async with contextlib.aclosing(chunks):
                yield chunks
        finally:
            self.in_flight -= 1

    async def _chunks(self, prompt: str, tokens: int) -> Any:
        clock = asyncio.get_running_loop().time
        if self.refuses is not None and self.in_flight >= self.refuses:
            raise ServerError("CUDA error: out of memory")
        asked = clock()
        async with self._slots:
            self.running += 1
            try:
                began = clock()
                counted = len(prompt.split())
                await asyncio.sleep(self._varied(counted / self.read))
                read = clock()
                for _ in range(tokens):
                    await asyncio.sleep(self._varied(1 / self.rate(self.running)))
                    yield StreamChunk("word ", "", (), {})
                ended = clock()
            finally:
                self.running -= 1
        spent = {"total": ended - asked, "load": 0.0, "prompt_eval": read - began, "eval": ended - read}
        metadata: dict[str, Any] = {f"{part}_duration": round(seconds * 1e9) for part, seconds in spent.items()}
        metadata["prompt_eval_count"] = counted
        usage = Usage(prompt_tokens=counted, completion_tokens=tokens, total_tokens=counted + tokens)
        response = LLMResponse("", "m", usage, "length", metadata if self.durations else {})
        yield StreamChunk("", "", (), {}, response)

    def throughput(self, at_once: int, prompt: int, tokens: int) -> float:
        """Tokens per second of all answers, with a constant number of requests in flight."""
        running = min(at_once, self.slots)
        return running * tokens / (prompt / self.read + tokens / self.rate(running))
