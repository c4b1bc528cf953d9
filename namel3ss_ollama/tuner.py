"""`provider.tune`: measures a provider's server, and recommends settings."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from namel3ss_ollama.fleet import tagged
from namel3ss_ollama.generation import Runner
from namel3ss_ollama.limiter import Limiter
from namel3ss_ollama.measuring import Loaded, OnTuneProgress, measure
from namel3ss_ollama.models import ModelManagement
from namel3ss_ollama.prepare import generate_request
from namel3ss_ollama.retrier import Retrier
from namel3ss_ollama.settings import RetryPolicy, StreamConfig, check_positive, merge_options
from namel3ss_ollama.stream import Stream
from namel3ss_ollama.telemetry import Telemetry
from namel3ss_ollama.tuning import Tuning, advise
from namel3ss_ollama.windows import window_of

__all__ = ["TuningMethod"]

Json = dict[str, Any]
_BUDGET = 170.0
"""Seconds: under three minutes, with the time that a command takes to start."""


class TuningMethod(ModelManagement):
    """The tuning method of a provider; construct an `OllamaProvider` to use it."""

    async def tune(
        self,
        model: str | None = None,
        *,
        budget: float = _BUDGET,
        most: int = 64,
        windows: Iterable[int] | None = None,
        progress: OnTuneProgress | None = None,
    ) -> Tuning:
        """Measure the server, and recommend settings that fit it.

        Measures tokens per second, the time to the first token and the wait in the server's queue for several numbers
        of concurrent requests, and the cost of other context windows. The requests have the provider's options, but not
        its `max_concurrent`, deadlines and retries. Other load on the server affects the measurement. Each window
        reloads the model; at the end it is loaded as before.

        Args:
            model: The model; the provider's by default.
            budget: The maximum duration, in seconds. Below ten, the result is little more than a guess.
            most: The maximum number of concurrent requests.
            windows: The context windows to compare with the current one, in tokens; twice, four times and half of it
                by default. Empty for none: then the model is not reloaded.
            progress: Called with a `TuneProgress` at each step.

        Returns:
            The measured rows, and recommendations, each with its reason: `max_concurrent`, `num_ctx`,
            `first_chunk_timeout`, `chunk_timeout`, `keep_alive`.

        Raises:
            ValueError: An argument is out of range, or the provider has several hosts: use one with a single address.
            LLMTimeoutError: The server did not answer within the budget.
            LLMError: The server failed with one request at a time.

        Example:
            ```python
            tuning = await provider.tune(budget=60)
            print(tuning["max_concurrent"].reason)
            fitting = OllamaProvider("llama3.2", **tuning.keywords)
            ```
        """
        self._check_one_host("tune", "measures")
        check_positive("budget", budget, optional=False)
        check_positive("most", most, integer=True, optional=False)
        chosen = None if windows is None else sorted(set(_checked_windows(windows)))
        name = self._name(model)
        asked = merge_options(self._defaults.options).get("num_ctx")
        began = time.monotonic()
        measured = await measure(
            _Model(self, name), budget=budget, most=most, windows=chosen, asked=asked, progress=progress
        )
        rows = measured.at_once, measured.windows
        return Tuning(name, self._server.url, time.monotonic() - began, *rows, advise(measured))


def _checked_windows(windows: Iterable[int]) -> list[int]:
    if isinstance(windows, (str, bytes)) or not isinstance(windows, Iterable):
        raise TypeError(f"windows: expected several numbers of tokens, not {windows!r}")
    found = list(windows)
    for window in found:
        check_positive("windows", window, integer=True, optional=False)
    return found


class _Model:
    """A provider's model, as a `Subject`."""

    def __init__(self, provider: TuningMethod, name: str) -> None:
        self._provider = provider
        self._name = name
        # Without the provider's limit, retries and statistics: the first two would distort the measurement, which is
        # not usage to be counted in the last.
        self._runner = Runner(
            provider._server, Limiter(None), Retrier(RetryPolicy.off()), Telemetry(None, enabled=False)
        )

    def answer(self, prompt: str, tokens: int, num_ctx: int | None) -> Stream:
        """A stream without deadlines: the budget is the limit."""
        config = StreamConfig(chunk_timeout=None, first_chunk_timeout=None)
        call: Json = {
            "model": self._name,
            "max_tokens": tokens,
            "format": None,
            "timeout": None,
            "stream_config": config,
            "on_truncation": "ignore",
        }
        if num_ctx is not None:
            call["num_ctx"] = num_ctx
        return Stream(self._runner, generate_request(self._provider._defaults, prompt, call))

    async def load(self, num_ctx: int | None) -> None:
        """Load the model."""
        await self._provider.preload(self._name, options=None if num_ctx is None else {"num_ctx": num_ctx})

    async def look(self) -> Loaded:
        """The reports of /api/show and /api/ps."""
        provider = self._provider
        shown = await provider.show_model(self._name)
        running = await provider.running_models()
        window = window_of(self._name, shown, {"models": running})
        for one in running:
            if tagged(str(one.get("name"))) == tagged(self._name):
                return Loaded(True, window, _bytes(one.get("size")), _bytes(one.get("size_vram")))
        return Loaded(False, window)


def _bytes(size: object) -> int | None:
    return size if isinstance(size, int) and not isinstance(size, bool) and size >= 0 else None
