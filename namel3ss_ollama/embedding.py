"""Embeddings: batching, texts that are too long, and which text a failure is about.

A server silently truncates a text that does not fit the context window. So it is asked not to (`truncate: false`), and
then refuses a batch in which one text is too long. The batch is halved, with the longer texts on one side, until the
texts at fault are alone; the vectors of the others are kept. Refusing costs the server no more than counting tokens,
and a valid batch takes one request. Any other text on which a server fails is found in the same way, so that one text
among a thousand is named.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from namel3ss_ollama.batch import run_batch
from namel3ss_ollama.errors import (
    BadRequestError,
    ContextWindowExceededError,
    LLMError,
    MalformedResponseError,
    ServerError,
)
from namel3ss_ollama.generation import Runner
from namel3ss_ollama.limiter import patiently
from namel3ss_ollama.pieces import cut_in_two, mean_vector
from namel3ss_ollama.pool import HostTurn
from namel3ss_ollama.prepare import Defaults, checked_model
from namel3ss_ollama.settings import (
    LOAD_OPTIONS,
    RUNTIME_OPTIONS,
    EmbedTruncation,
    check_positive,
    merge_extra_body,
    merge_options,
    read_keep_alive,
)
from namel3ss_ollama.streamer import Watch
from namel3ss_ollama.turn import Turn
from namel3ss_ollama.types import EmbedResponse, usage_of

__all__ = ["Embeddings"]

logger = logging.getLogger("namel3ss_ollama")
Json = dict[str, Any]
Vector = list[float]
EMBED_TRUNCATION: tuple[EmbedTruncation, ...] = ("warn", "error", "ignore", "split")
_HAVE_ARGUMENTS = {"model", "input", "truncate", "dimensions", "keep_alive", "options"} | RUNTIME_OPTIONS
"""Keys that `extra_body` must not contain."""
_HARMLESS = "a"
_NAMED_IN_A_WARNING = 10
_DURATIONS = ("total_duration", "load_duration")


class Embeddings:
    """The embedding methods of a provider; construct an `OllamaProvider` to use them."""

    _defaults: Defaults
    _runner: Runner

    async def embed(
        self,
        input: str | Iterable[str],
        *,
        model: str | None = None,
        truncate: bool | None = None,
        on_truncation: EmbedTruncation | None = None,
        dimensions: int | None = None,
        keep_alive: str | float | None = None,
        batch_size: int = 64,
        batch_chars: int | None = None,
        options: Mapping[str, Any] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> EmbedResponse:
        """Embed texts; the vectors are in the order of the texts.

        Args:
            input: A text, or several.
            model: The embedding model; the provider's by default.
            truncate: Sent unchanged, overriding `on_truncation`: True makes the server truncate texts that are too
                long, silently; False makes it refuse them, which raises an error. By default `on_truncation` decides.
            on_truncation: What to do with a text that does not fit the context window. "warn": embed its beginning,
                list it in the response's `truncated` and log a warning. "error": raise. "ignore": embed its beginning.
                "split": embed it in pieces that fit, cut at the ends of sentences or words; its vector is their mean,
                weighted by length. The provider's setting by default.
            dimensions: The length of the vectors, for models that support several.
            keep_alive: How long the model stays loaded; the provider's setting by default.
            batch_size: The number of texts per request; up to `max_concurrent` requests run concurrently.
            batch_chars: The maximum number of characters per request; a longer text goes alone. None for no limit.
            options: Runtime options; of the provider's, only those for loading (num_ctx, ...) are sent.
            extra_body: Request fields without a keyword; the provider's are not sent.
            timeout: The limit for the call, in seconds.

        Raises:
            TypeError, ValueError: An argument is invalid, or `input` is empty.
            ContextWindowExceededError: A text is too long; `index` is its position.
            MalformedResponseError: The number of vectors is wrong, or their lengths differ from each other or from
                `dimensions`.
            LLMError: The server failed; `index` is the text's position, if one text caused it.
        """
        texts = [input] if isinstance(input, str) else list(input)
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"input[{index}]: expected text, not {type(text).__name__}")
        if not texts:
            raise ValueError("input: there must be at least one text")
        check_positive("batch_size", batch_size, integer=True)
        check_positive("batch_chars", batch_chars, integer=True)
        check_positive("timeout", timeout)
        policy = self._embedding_policy(truncate, on_truncation)
        body = self._embedding_body(model, truncate, dimensions, keep_alive, options, extra_body)
        bound = self._defaults.timeout if timeout is None else timeout
        call = _Call(self._runner, self._defaults, body, policy, batch_size, batch_chars, bound)
        watch = Watch(self._defaults.config, bound)
        try:
            return await watch.guard(lambda: call.embed(texts), idle=False)
        finally:
            watch.close()

    def _embedding_policy(self, truncate: bool | None, on_truncation: EmbedTruncation | None) -> EmbedTruncation:
        policy = _policy(self._defaults.on_truncation if on_truncation is None else on_truncation)
        if truncate is not None:
            policy = "ignore" if truncate else "error"
        return policy

    def _embedding_body(
        self,
        model: str | None,
        truncate: bool | None,
        dimensions: int | None,
        keep_alive: str | float | None,
        options: Mapping[str, Any] | None,
        extra_body: Mapping[str, Any] | None,
    ) -> Json:
        """The request body of a call, without its texts; arguments as in `embed`."""
        check_positive("dimensions", dimensions, integer=True)
        if keep_alive is None:
            keep_alive = self._defaults.options.get("keep_alive")
        if keep_alive is not None:
            keep_alive = read_keep_alive(keep_alive)
        body: Json = {"model": self._defaults.model if model is None else checked_model(model)}
        for name, value in (("truncate", truncate), ("dimensions", dimensions), ("keep_alive", keep_alive)):
            if value is not None:
                body[name] = value
        loading = {name: value for name, value in merge_options(self._defaults.options).items() if name in LOAD_OPTIONS}
        if merged := {**loading, **merge_options({"options": options})}:
            body["options"] = merged
        body.update(merge_extra_body(extra_body, keywords=_HAVE_ARGUMENTS))
        return body


@dataclass(frozen=True, slots=True, repr=False)
class _Piece:
    """A text, or a part of one.

    Attributes:
        index: Where the text is in the input.
        text: What is sent.
    """

    index: int
    text: str

    def __str__(self) -> str:
        return f"input[{self.index}] ({len(self.text):,} characters)"


@dataclass(slots=True, repr=False)
class _Call:
    """One call of `embed`: its settings, and the totals of its results.

    Attributes:
        runner: Slots and attempts.
        defaults: The provider's deadlines.
        body: The requests' body, without texts.
        policy: What to do with a text that is too long.
        batch_size: The maximum number of texts per request.
        batch_chars: The maximum number of characters per request.
        timeout: The limit for each request, in seconds.
        several: Whether the call has more than one text.
        length: The length of the vectors, once known.
        model: The model, as the server names it.
        tokens: The tokens that the server counted.
        durations: The server's times in nanoseconds.
        host: The address of the server that answered last.
    """

    runner: Runner
    defaults: Defaults
    body: Json
    policy: EmbedTruncation
    batch_size: int
    batch_chars: int | None
    timeout: float | None
    several: bool = False
    length: int | None = None
    model: str = ""
    tokens: int = 0
    durations: dict[str, int] = field(default_factory=dict[str, int])
    host: str = ""

    async def embed(self, texts: Sequence[str]) -> EmbedResponse:
        """The vectors of texts, under the call's policy."""
        self.several = len(texts) > 1
        pieces = [_Piece(index, text) for index, text in enumerate(texts)]
        vectors = await self._ask(pieces, refuse=self.policy != "ignore")
        too_long = [piece for piece, vector in zip(pieces, vectors, strict=True) if vector is None]
        truncated: tuple[int, ...] = ()
        if too_long and self.policy == "split":
            for index, vector in (await self._split(too_long)).items():
                vectors[index] = vector
        elif too_long:
            for piece, cut in zip(too_long, await self._ask(too_long, refuse=False), strict=True):
                vectors[piece.index] = cut
            truncated = tuple(piece.index for piece in too_long)
            self._warn(too_long, len(texts))
        found = [vector for vector in vectors if vector is not None]
        usage = usage_of({"prompt_eval_count": self.tokens})
        return EmbedResponse(found, self.model, usage, truncated, dict(self.durations), self.host)

    def _warn(self, cut: Sequence[_Piece], count: int) -> None:
        named = ", ".join(map(str, cut[:_NAMED_IN_A_WARNING]))
        more = f" and {len(cut) - _NAMED_IN_A_WARNING} more" if len(cut) > _NAMED_IN_A_WARNING else ""
        logger.warning(
            "%s: %d of %d texts to embed were cut to the context window, so their vectors stand for their beginnings "
            'only: %s%s; split them (on_truncation="split"), shorten them, or raise num_ctx if the model can have more',
            self.body["model"],
            len(cut),
            count,
            named,
            more,
        )

    async def _split(self, texts: Sequence[_Piece]) -> dict[int, Vector]:
        """The vectors of texts that are too long, by index: of each the mean of its pieces' vectors."""
        weights: dict[int, list[int]] = {}
        vectors: dict[int, list[Vector]] = {}
        left: Sequence[_Piece] = texts
        while left:
            level = [part for piece in left for part in _parts(piece)]
            left = []
            for part, vector in zip(level, await self._ask(level, refuse=True), strict=True):
                if vector is None:
                    left.append(part)
                else:
                    weights.setdefault(part.index, []).append(len(part.text))
                    vectors.setdefault(part.index, []).append(vector)
        return {index: mean_vector(vectors[index], weights[index]) for index in vectors}

    async def _ask(self, pieces: Sequence[_Piece], *, refuse: bool) -> list[Vector | None]:
        """The vectors of texts; None for a text that is too long, if the server should refuse instead of cutting it."""
        batches = _batches(pieces, self.batch_size, self.batch_chars)

        async def ask(batch: Sequence[_Piece]) -> list[Vector | None]:
            with patiently():
                return await _Batch(self, batch, refuse=refuse).vectors()

        answers: list[list[Vector | None]] = await run_batch(
            batches,
            ask,
            workers=min(self.runner.limiter.most or len(batches), len(batches)),
            return_exceptions=False,
            on_result=None,
            keep_results=True,
        )
        return [vector for answer in answers for vector in answer]


class _Batch:
    """Texts of one request, under one slot; of several requests if it is refused."""

    def __init__(self, call: _Call, pieces: Sequence[_Piece], *, refuse: bool) -> None:
        self._call = call
        self._pieces = pieces
        self._refuse = refuse
        self._body = {**call.body, "truncate": False} if refuse else call.body
        self._vectors: list[Vector | None] = [None] * len(pieces)
        self._tokens = 0

    async def vectors(self) -> list[Vector | None]:
        """A vector for each text, or None where the server refuses it as too long."""
        call = self._call
        body = {**self._body, "input": [piece.text for piece in self._pieces]}
        async with call.runner.turn("embeddings", body, call.defaults.config, call.timeout) as turn:
            try:
                await self._ask(range(len(self._pieces)), turn)
            finally:
                turn.usage = usage_of({"prompt_eval_count": self._tokens})
        return self._vectors

    async def _ask(self, numbers: Sequence[int], turn: Turn) -> None:
        """Embed the texts at these positions, and find the one at fault if the server refuses."""
        try:
            await self._request(numbers, turn)
            return
        except (BadRequestError, ContextWindowExceededError, MalformedResponseError, ServerError) as error:
            refused = error
        too_long = self._refuse and isinstance(refused, ContextWindowExceededError)
        if refused.temporary or refused.index is not None or not (too_long or self._call.several):
            raise refused
        if len(numbers) == 1:
            if too_long and self._call.policy != "error":
                return
            if too_long or await self._works_otherwise(turn):
                _name(refused, self._pieces[numbers[0]])
            raise refused
        by_length = sorted(numbers, key=lambda number: -len(self._pieces[number].text))
        middle = len(numbers) // 2
        await self._ask(by_length[:middle], turn)
        await self._ask(by_length[middle:], turn)
        if isinstance(refused, MalformedResponseError):
            raise refused  # no text caused it: one by one they succeeded

    async def _works_otherwise(self, turn: Turn) -> bool:
        """Whether the server embeds another text, so that the text caused the failure, not the model."""
        if self._call.length is not None:
            return True
        try:
            await self._answer([_HARMLESS], turn)
        except LLMError:
            return False
        return True

    async def _request(self, numbers: Sequence[int], turn: Turn) -> None:
        call = self._call
        pieces = [self._pieces[number] for number in numbers]
        answer = await self._answer([piece.text for piece in pieces], turn)
        for number, piece, vector in zip(numbers, pieces, answer["embeddings"], strict=True):
            if not _is_vector(vector):
                raise _name(
                    MalformedResponseError(
                        f"{turn.server.url} sent a vector that is not a list of numbers; is this an Ollama server?"
                    ),
                    piece,
                )
            self._check_length(piece, len(vector), turn.server.url)
            self._vectors[number] = vector
        tokens = usage_of(answer)["prompt_tokens"]
        self._tokens += tokens
        call.tokens += tokens
        call.model = call.model or str(answer.get("model", ""))
        call.host = turn.server.url
        for name in _DURATIONS:
            if isinstance(value := answer.get(name), int):
                call.durations[name] = call.durations.get(name, 0) + value

    async def _answer(self, texts: Sequence[str], turn: Turn) -> Json:
        body = {**self._body, "input": texts}

        def attempt() -> Awaitable[Json]:
            turn.server.ignored.check(body.get("options") or ())
            return turn.server.client.embed(body, turn.watch)

        answer = await self._call.runner.attempts(attempt, turn)
        if isinstance(turn, HostTurn):
            turn.answered(answer)
        vectors = answer.get("embeddings")
        if not isinstance(vectors, list) or len(vectors) != len(texts):
            raise MalformedResponseError(
                f"{turn.server.url} did not send one vector per text; is this an Ollama server of 0.2 or newer?"
            )
        if not isinstance(answer.get("prompt_eval_count") or 0, int):
            raise MalformedResponseError(f"{turn.server.url} sent a prompt_eval_count that is not a number")
        return answer

    def _check_length(self, piece: _Piece, length: int, url: str) -> None:
        call = self._call
        wanted = call.body.get("dimensions")
        if call.length is None:
            call.length = wanted or length
        if length != call.length:
            hint = "as `dimensions` requires; do server (0.11.11+) and model support it?" if wanted else "as others"
            raise _name(
                MalformedResponseError(f"{url} sent a vector of {length} dimensions, not of {call.length} {hint}"),
                piece,
            )


def _name(error: LLMError, piece: _Piece) -> LLMError:
    """Make the error name the text that it is about."""
    error.index = piece.index
    error.args = (f"{piece}: {error.message}",)
    return error


def _parts(piece: _Piece) -> list[_Piece]:
    """Split a text that is too long in two; blank parts are dropped.

    Raises:
        ContextWindowExceededError: The text cannot be split further.
    """
    if len(piece.text) < 2:
        raise _name(ContextWindowExceededError("not one character fits the context window; raise num_ctx"), piece)
    both = cut_in_two(piece.text)
    return [_Piece(piece.index, text) for text in both if text.strip()] or [_Piece(piece.index, text) for text in both]


def _batches(pieces: Sequence[_Piece], size: int, chars: int | None) -> list[list[_Piece]]:
    """The texts in batches within both limits; a text with more characters is alone in its batch."""
    batches: list[list[_Piece]] = []
    room = 0
    for piece in pieces:
        length = len(piece.text) if chars is not None else 0
        if not batches or len(batches[-1]) == size or length > room:
            batches.append([])
            room = chars or 0
        batches[-1].append(piece)
        room -= length
    return batches


def _policy(value: object) -> EmbedTruncation:
    for known in EMBED_TRUNCATION:
        if value == known:
            return known
    raise ValueError(f"on_truncation: {value!r} is not one of {', '.join(EMBED_TRUNCATION)}")


def _is_vector(value: object) -> bool:
    """Whether this is a vector; only the first number is checked, since there may be millions."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], (int, float))
