"""How many tokens a prompt has, estimated from the characters in it. Plain functions over values, and one small model.

Most tokenizers spend a similar number of tokens on a letter of a script, a digit or a punctuation mark: over seven of
them, with vocabularies from 32,000 to 200,000 tokens, the spread is about 10 % for Latin letters and a third for other
scripts. So a prompt is counted by classes of characters, and an estimate is the weighted sum of the counts.

The weights start as the mean over those tokenizers and are learned for each model from the counts in its own answers:
Bayesian linear regression, one observation at a time, with a little drift so that it follows a change of language. Each
estimate carries its standard deviation. What varies beyond the weights (the same letters can be English, which is
cheap, or Czech) is a separate relative error, learned as well.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from namel3ss_ollama.media import audio_seconds

__all__ = ["Estimate", "Measure", "TokenModel", "measure_messages", "measure_prompt", "measure_text"]

Measure = tuple[float, ...]
"""How often each of `_CLASSES` is in a prompt."""


def _all_but(*ranges: tuple[int, int]) -> bytes:
    """The bytes outside some ranges, which are deleted to count those inside."""
    inside = {byte for low, high in ranges for byte in range(low, high + 1)}
    return bytes(byte for byte in range(256) if byte not in inside)


# Bytes of UTF-8: those below 0x80 are characters, those from 0xC2 on begin one.
_ASCII = {
    "lowercase": _all_but((0x61, 0x7A)),
    "uppercase": _all_but((0x41, 0x5A)),
    "digit": _all_but((0x30, 0x39)),
    "punctuation": _all_but((0x21, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0x7E)),
    "newline": _all_but((0x0A, 0x0A)),
}
_BEYOND = {
    "accented": _all_but((0xC3, 0xCB)),
    "Greek": _all_but((0xCC, 0xCF)),
    "Cyrillic": _all_but((0xD0, 0xD4)),
    "Semitic": _all_but((0xD5, 0xDF)),
    "Indic": _all_but((0xE0, 0xE1)),
    "typographic": _all_but((0xC2, 0xC2), (0xE2, 0xE2)),
    "kana": _all_but((0xE3, 0xE3)),
    "Han": _all_but((0xE4, 0xE9)),
    "Hangul": _all_but((0xEA, 0xED)),
    "full width": _all_but((0xEE, 0xEF)),
    "emoji": _all_but((0xF0, 0xF4)),
}
_CLASSES: dict[str, tuple[float, float]] = {
    # For a character: mean and standard deviation of the weight over tokenizers.
    "lowercase": (0.27, 0.04),
    "uppercase": (0.30, 0.10),
    "digit": (0.85, 0.30),
    "punctuation": (0.58, 0.12),
    "newline": (0.90, 0.45),
    "accented": (1.80, 0.70),
    "Greek": (0.95, 0.40),
    "Cyrillic": (0.54, 0.20),
    "Semitic": (0.80, 0.40),
    "Indic": (1.10, 0.70),
    "typographic": (1.00, 0.30),
    "kana": (1.00, 0.40),
    "Han": (1.25, 0.45),
    "Hangul": (1.10, 0.60),
    "full width": (1.70, 0.60),
    "emoji": (2.20, 1.00),
    # For a request: the tokens around it, and the model's own system prompt.
    "request": (15.0, 15.0),
    # For a message: the tokens around it.
    "message": (5.0, 2.5),
    # For an image: some models use 64 tokens, others several thousand.
    "image": (600.0, 400.0),
    # For a second of audio: from 6 to 25; some models count any recording as at least 30 seconds.
    "audio": (15.0, 15.0),
    # For a byte that a template may omit or write in its own way: tool definitions and calls, old thinking.
    "definition": (0.22, 0.12),
    "thinking": (0.12, 0.12),
    # For a known token.
    "token": (1.0, 0.0),
}
_NAMES = tuple(_CLASSES)
_INDEX = {name: index for index, name in enumerate(_NAMES)}
_MISFIT, _LEAST_MISFIT = 0.12, 0.08
"""The relative error of an estimate beyond that of its weights: initial value and minimum."""
_NOISE = 2.0
"""The error of a count in tokens, independent of the weights."""
_DRIFT = 0.1
"""The drift of the weights between two observations, relative to their initial spread."""
_SURE = 3.2
_LARGEST_EXPONENT = 50.0
_MEMORY = 0.9
"""How much of the learned misfit is kept at each observation."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimated number of tokens.

    Attributes:
        tokens: The number.
        deviation: Its standard deviation, in tokens.
    """

    tokens: float
    deviation: float

    @property
    def least(self) -> float:
        """A lower bound: 3.2 standard deviations below, on a logarithmic scale."""
        return self.tokens * math.exp(-min(_SURE * self.deviation / max(self.tokens, 1.0), _LARGEST_EXPONENT))

    @property
    def most(self) -> float:
        """An upper bound, in the same way."""
        return self.tokens + _SURE * self.deviation

    def __add__(self, other: Estimate) -> Estimate:
        """The sum of two independent ones."""
        return Estimate(self.tokens + other.tokens, math.hypot(self.deviation, other.deviation))


class TokenModel:
    """The learned token weights of one model."""

    def __init__(self) -> None:
        self._weights = [mean for mean, _ in _CLASSES.values()]
        self._spread = [spread**2 for _, spread in _CLASSES.values()]
        self._covariance = [
            [self._spread[row] if row == column else 0.0 for column in range(len(_NAMES))] for row in range(len(_NAMES))
        ]
        self._misfit = _MISFIT
        self.observations = 0

    def estimate(self, measure: Measure) -> Estimate:
        """Estimate the tokens of a prompt with that measure."""
        there = _there(measure)
        tokens = sum(count * self._weights[index] for index, count in there)
        variance = sum(a * b * self._covariance[i][j] for i, a in there for j, b in there)
        return Estimate(tokens, math.sqrt(variance + (self._misfit * tokens) ** 2 + _NOISE**2))

    def learn(self, measure: Measure, tokens: int) -> None:
        """Learn from the token count of a prompt with that measure."""
        there = _there(measure)
        if not there:
            return
        covariance = self._covariance
        for index, _ in there:
            covariance[index][index] += _DRIFT**2 * self._spread[index]
        expected = sum(count * self._weights[index] for index, count in there)
        error = tokens - expected
        gain = [sum(row[index] * count for index, count in there) for row in covariance]
        variance = sum(gain[index] * count for index, count in there)
        known = variance + (self._misfit * expected) ** 2 + _NOISE**2
        for row in range(len(_NAMES)):
            if gain[row]:
                step = gain[row] / known
                self._weights[row] = max(0.0, self._weights[row] + step * error)
                for column in range(len(_NAMES)):
                    covariance[row][column] -= step * gain[column]
        seen = min(abs(error) / max(expected, 20.0), 1.0)
        self._misfit = max(_LEAST_MISFIT, math.sqrt(_MEMORY * self._misfit**2 + (1 - _MEMORY) * seen**2))
        self.observations += 1


def measure_text(text: str) -> Measure:
    """The measure of a text alone."""
    return _measured({"text": text})


def measure_prompt(body: Mapping[str, Any]) -> Measure:
    """The measure of the prompt of a request to /api/generate or /api/chat."""
    if "messages" in body:
        return measure_messages(body["messages"], body.get("tools"))
    texts = [body.get(name) or "" for name in ("system", "prompt", "suffix")]
    return _measured(
        {
            "text": "\n".join(texts),
            "request": 1,
            "message": 1 + bool(texts[0]),
            **_measure_media(body.get("images") or ()),
            "token": len(body.get("context") or ()),
        }
    )


def measure_messages(
    messages: Iterable[Mapping[str, Any]], tools: Iterable[Mapping[str, Any]] | None = None, *, added: bool = False
) -> Measure:
    """The measure of a conversation, in the API's form.

    Args:
        messages: The messages.
        tools: The tools sent with it.
        added: Whether the messages extend a conversation whose tokens are known.
    """
    texts: list[str] = []
    media: list[str] = []
    thinking = definitions = 0
    for message in messages:
        texts.append(message.get("content") or "")
        media += message.get("images") or ()
        if message.get("thinking"):
            thinking += len(message["thinking"].encode("utf-8", "replace"))
        if message.get("tool_calls"):
            definitions += _written(message["tool_calls"])
    if tools:
        definitions += _written(list(tools))
    return _measured(
        {
            "text": "\n".join(texts),
            "request": 0 if added else 1,
            "message": len(texts),
            **_measure_media(media),
            "definition": definitions,
            "thinking": thinking,
        }
    )


def _measure_media(encoded: Sequence[str]) -> dict[str, float]:
    """The measure of a request's `images`, which include its audio."""
    seconds = [length for one in encoded if (length := audio_seconds(one)) is not None]
    return {"image": len(encoded) - len(seconds), "audio": sum(seconds)}


def _measured(found: dict[str, Any]) -> Measure:
    data: bytes = found.pop("text").encode("utf-8", "replace")
    counts = [0.0] * len(_NAMES)
    for name, others in (_ASCII if data.isascii() else {**_ASCII, **_BEYOND}).items():
        counts[_INDEX[name]] = len(data.translate(None, others))
    for name, count in found.items():
        counts[_INDEX[name]] = count
    return tuple(counts)


def _written(value: Any) -> int:
    """The number of bytes of a value as JSON."""
    return len(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


def _there(measure: Measure) -> list[tuple[int, float]]:
    return [(index, count) for index, count in enumerate(measure) if count]
