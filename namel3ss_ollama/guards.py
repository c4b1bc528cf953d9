"""Detect silent server behaviour from an answer's counters: cut prompts, shifted windows, model reloads.

A server that receives more than its context window holds silently drops the oldest messages of a chat, or cuts a
prompt. Newer servers can be asked to refuse instead (`truncate: false`, since 0.12.6). For the others the context guard
estimates how many tokens a prompt should have, and compares that with the count in the answer:

- A count that reaches the window means that the prompt was cut to it.
- A count below the estimate, by more than its error, means that the prompt was cut to less.
- Prompt and answer together exceeding the window mean that the window was shifted: the oldest half of the tokens was
  dropped during generation.

The estimate is that of `tokens.py`, or, for a conversation that grew, the count of its beginning and an estimate of
what was added. Answers that were certainly not cut calibrate it.

The reload guard: a setting of how the model is loaded that changes between requests makes the server load the model
again, which takes seconds. Since 0.30 `shift` is such a setting, because llama-server is started with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any

from namel3ss_ollama.conversations import Conversations, beginnings
from namel3ss_ollama.forks import renewed_after_fork
from namel3ss_ollama.greenlets import allocate_lock
from namel3ss_ollama.server_version import ServerVersion
from namel3ss_ollama.settings import LOAD_OPTIONS
from namel3ss_ollama.tokens import Estimate, Measure, TokenModel, measure_messages, measure_prompt, measure_text
from namel3ss_ollama.windows import Windows

__all__ = ["ContextGuard", "Expected", "Finding", "ReloadGuard"]

logger = logging.getLogger("namel3ss_ollama")
_SMALLEST_DEFAULT = 2048
"""The smallest default window of any server, in tokens: a shorter prompt is not cut unless its count says so."""
_SMALLEST_WINDOW = 512
"""No model gets a smaller window unless the request sets it."""
_REFUSES = "0.12.6"
"""The first version that supports `truncate: false` in a chat or generation."""
_LOADS_WITH_SHIFT = "0.30"
"""The first version where `shift` is a load setting."""
_COUNTS_ALL = "0.4"
"""The first version whose counts include cached tokens."""
_RELOAD_NANOSECONDS = 100_000_000
_PATIENCE = 0.5
"""Seconds that a finished answer may wait for a look-up of the window or version, once every few minutes."""
_EAGER = 64
"""How many answers calibrate a model's token estimate before only some of them do."""
_SELDOM = 8


@dataclass(frozen=True, slots=True)
class Expected:
    """The expected counts of a request.

    Attributes:
        model: The model that was asked for.
        measure: Its prompt, or what was added to a conversation that the server has counted.
        counted: The tokens of that conversation, 0 if there is none; None if they are an estimate themselves.
        tokens: The tokens of its prompt.
        key: The key of its conversation; None if it has none.
        num_ctx: The window that it requests.
        shifts: Whether the window may be shifted during generation.
        known: Whether the server has counted exactly this conversation before.
    """

    model: str
    measure: Measure
    counted: int | None
    tokens: Estimate
    key: int | None
    num_ctx: int | None
    shifts: bool
    known: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """What an answer's counters reveal about its prompt.

    Attributes:
        cut: Whether the prompt was cut.
        shifted: Whether the window was shifted during generation.
        window: The effective window, in tokens; None if unknown.
        tokens: The approximate number of tokens of the prompt.
    """

    cut: bool = False
    shifted: bool = False
    window: int | None = None
    tokens: int | None = None


_NOTHING = Finding()


class ContextGuard:
    """Detects that a server cut a prompt or shifted its window.

    Args:
        windows: Looks up windows.
        version: The server's.
    """

    def __init__(self, windows: Windows, version: ServerVersion) -> None:
        self.windows = windows
        self._version = version
        self._models: dict[str, TokenModel] = {}
        self._conversations = Conversations()
        self.after_fork()
        renewed_after_fork(self)

    def after_fork(self) -> None:
        """A thread of the parent may have held the lock."""
        self._lock = allocate_lock()

    def expect(self, body: Mapping[str, Any]) -> Expected:
        """The expected counts of a request, before it is sent."""
        model = str(body["model"])
        keys = beginnings(body)
        with self._lock:
            length, begun = self._conversations.longest(keys) or (0, Estimate(0, 0))
            measure = measure_messages(body["messages"][length:], added=True) if length else measure_prompt(body)
            added = not length or length < len(keys)
            tokens = begun + self._model(model).estimate(measure) if added else begun
        return Expected(
            model=model,
            measure=measure,
            counted=round(begun.tokens) if begun.deviation == 0 else None,
            tokens=tokens,
            key=keys[-1] if keys else None,
            num_ctx=_number((body.get("options") or {}).get("num_ctx")),
            shifts=body.get("shift") is not False,
            known=not added and tokens.deviation == 0,
        )

    def estimate(self, model: str, measure: Measure) -> Estimate:
        """The estimated tokens of a prompt of that measure for a model."""
        with self._lock:
            return self._model(model).estimate(measure)

    def may_not_fit(self, expected: Expected) -> bool:
        """Whether the prompt may exceed the window; a prompt that certainly fits is never cut."""
        return expected.tokens.most > (expected.num_ctx or _SMALLEST_WINDOW)

    def wants_window(self, expected: Expected) -> bool:
        """Whether to look up the window during generation: the prompt may exceed some windows."""
        return (
            expected.num_ctx is None
            and expected.tokens.most >= _SMALLEST_DEFAULT
            and self.windows.known(expected.model) is None
        )

    async def fits(self, expected: Expected) -> bool:
        """Whether the prompt certainly fits the window, which is looked up if necessary."""
        if not self.may_not_fit(expected):
            return True
        if expected.num_ctx is not None:
            return False
        known = await self.windows.ask(expected.model)
        window = known.in_force(None) if known is not None and (known.running or known.configured) else None
        return expected.tokens.most <= (window or _SMALLEST_DEFAULT)

    async def judge(
        self, expected: Expected, final: Mapping[str, Any], text: str | None, *, refuses: bool = False
    ) -> Finding:
        """What the server did with a prompt.

        Args:
            expected: The result of `expect` for the request.
            final: The last line of the answer.
            text: The answer, if its tokens are only its text.
            refuses: Whether the server was asked to refuse a prompt that is too long.
        """
        count, generated = _number(final.get("prompt_eval_count")), _number(final.get("eval_count")) or 0
        if count is None:
            return _NOTHING
        if expected.num_ctx is None and _reloaded(final.get("load_duration")):
            self.windows.forget(expected.model)  # maybe with another window
        known = self.windows.known(expected.model)
        window = self._window(expected)
        short = count < expected.tokens.least and self.may_not_fit(expected)
        doubted = expected.num_ctx is None and (
            short if known is None else count + generated >= (window or float("inf"))
        )
        if doubted or (known is None and count + generated >= _SMALLEST_DEFAULT):
            # Not known yet, or a hit, which is checked twice to avoid false alarms.
            await _within(_PATIENCE, self.windows.ask(expected.model))
            window = self._window(expected)
        full = window is not None and count >= window
        short = short and expected.tokens.most > (window or 0)
        cut = full or short
        if cut and refuses:
            await _within(_PATIENCE, self._version.ask())
        refused = refuses and self._version.at_least(_REFUSES)  # so it has cut nothing
        if refused or (short and not full and self._version.before(_COUNTS_ALL)):
            cut = False
        whole = not cut and (
            refused or count >= expected.tokens.tokens or expected.tokens.most < (window or _SMALLEST_DEFAULT)
        )
        self._learn(expected, count, generated, text, whole)
        shifted = expected.shifts and window is not None and count + generated > window
        return Finding(cut, shifted, window, max(round(expected.tokens.tokens), count) if cut else count)

    def _window(self, expected: Expected) -> int | None:
        known = self.windows.known(expected.model)
        return known.in_force(expected.num_ctx) if known is not None else expected.num_ctx

    def saw_refusal(self) -> None:
        """The server refused to cut a prompt, so its version supports that."""
        self._version.saw(_REFUSES)

    def _model(self, model: str) -> TokenModel:
        known = self._models.get(model)
        if known is None:
            known = self._models[model] = TokenModel()
        return known

    def _learn(self, expected: Expected, count: int, generated: int, text: str | None, whole: bool) -> None:
        with self._lock:
            if expected.key is not None:
                self._conversations.remember(expected.key, Estimate(count, 0.0) if whole else expected.tokens)
            known = self._model(expected.model)
            if known.observations >= _EAGER and hash((count, generated)) % _SELDOM:
                return
            if whole and expected.counted is not None and count > expected.counted:
                known.learn(expected.measure, count - expected.counted)
            if text and generated:
                known.learn(measure_text(text), generated)


async def _within(seconds: float, asked: Awaitable[object]) -> None:
    try:
        await asyncio.wait_for(asked, seconds)
    except asyncio.TimeoutError:
        pass  # a complete answer does not wait for it


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _reloaded(load_duration: object) -> bool:
    """Whether the server loaded the model for this answer: a loaded one takes milliseconds."""
    return isinstance(load_duration, int) and load_duration >= _RELOAD_NANOSECONDS


class ReloadGuard:
    """Warns, once per model and setting, when a changed load setting made the server reload the model.

    Args:
        version: The server's.
    """

    def __init__(self, version: ServerVersion) -> None:
        self._version = version
        self.after_fork()
        renewed_after_fork(self)
        self._last: dict[str, dict[str, Any]] = {}
        self._told: set[tuple[str, str]] = set()

    def after_fork(self) -> None:
        """A thread of the parent may have held the lock."""
        self._lock = allocate_lock()

    def changed(self, body: Mapping[str, Any], load_duration: object) -> set[str]:
        """The settings that differ from the previous request, if the server reloaded the model for this one.

        Args:
            body: The request, which was answered.
            load_duration: The answer's load duration, in nanoseconds.
        """
        options = body.get("options") or {}
        now = {name: options[name] for name in LOAD_OPTIONS & options.keys()}
        if body.get("shift") is False:  # the default is True
            now["shift"] = False
        with self._lock:
            before = self._last.get(str(body["model"]))
            self._last[str(body["model"])] = now
        if before is None or not _reloaded(load_duration):
            return set()
        return {name for name in before.keys() | now.keys() if before.get(name) != now.get(name)}

    async def tell(self, model: str, changed: set[str], load_duration: float) -> list[str]:
        """Warn about changed settings that have not been reported before; returns these.

        Args:
            model: The model that was asked for.
            changed: Their names.
            load_duration: How long the load took, in nanoseconds.
        """
        if "shift" in changed:
            await _within(_PATIENCE, self._version.ask())
            if not self._version.at_least(_LOADS_WITH_SHIFT):
                changed = changed - {"shift"}
        with self._lock:
            fresh = sorted(name for name in changed if (model, name) not in self._told)
            self._told.update((model, name) for name in fresh)
        if fresh:
            logger.warning(
                "the server reloaded %s (%.1f s) because %s changed between requests; send the same value each time",
                model,
                load_duration / 1e9,
                " and ".join(fresh),
            )
        return fresh
