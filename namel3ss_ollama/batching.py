"""Batches of prompts or texts: without a journal they return a list of answers, with one a report."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, overload

from typing_extensions import Unpack

from namel3ss_ollama.batch import OnResult, run_batch
from namel3ss_ollama.batches import (
    BatchReport,
    JournalSettings,
    OnChange,
    Question,
    RetryFailed,
    answer_rows,
    check_ids,
    embed_rows,
)
from namel3ss_ollama.embedding import Embeddings
from namel3ss_ollama.errors import LLMError
from namel3ss_ollama.fleet import tagged
from namel3ss_ollama.journal import RowStore
from namel3ss_ollama.limiter import patiently
from namel3ss_ollama.messages import MessageLike, has_files
from namel3ss_ollama.models import ModelManagement
from namel3ss_ollama.prepare import chat_request, generate_request, given_settings, streams_internally
from namel3ss_ollama.progress import OnProgress
from namel3ss_ollama.request import Request
from namel3ss_ollama.rows import RowId, fingerprint, is_deterministic
from namel3ss_ollama.settings import (
    NOT_GIVEN,
    BatchOptions,
    EmbedOptions,
    NotGiven,
    check_positive,
    reject_unknown,
)
from namel3ss_ollama.types import EmbedResponse, LLMResponse, Message

__all__ = ["Batch", "Batching", "Prompt"]

Prompt = str | Sequence[MessageLike]
_MOST_WORKERS = 1000
_ADAPTIVE_WORKERS = 100
"""Workers if the limit adapts: each draws a prompt before it waits, and few servers answer more at once."""
_ONLY_IN_CHATS = frozenset({"tools", "tool_choice"})


class BoundBatch(Protocol):
    """The overloads of `agenerate_batch`, blocking: mypy keeps only the first of them through a ParamSpec."""

    @overload
    def __call__(
        self,
        prompts: Iterable[Prompt] | AsyncIterable[Prompt],
        *,
        return_exceptions: Literal[False] = False,
        on_result: OnResult | None = None,
        keep_results: bool = True,
        **options: Unpack[BatchOptions],
    ) -> list[LLMResponse]: ...

    @overload
    def __call__(
        self,
        prompts: Iterable[Prompt] | AsyncIterable[Prompt],
        *,
        return_exceptions: bool,
        on_result: OnResult | None = None,
        keep_results: bool = True,
        **options: Unpack[BatchOptions],
    ) -> list[LLMResponse | BaseException]: ...

    @overload
    def __call__(
        self,
        prompts: Iterable[Prompt] | AsyncIterable[Prompt],
        *,
        journal: str | os.PathLike[str] | RowStore,
        ids: Iterable[RowId] | None = None,
        retry_failed: RetryFailed = True,
        on_change: OnChange = "ask",
        progress: bool | OnProgress = False,
        on_result: OnResult | None = None,
        **options: Unpack[BatchOptions],
    ) -> BatchReport: ...


class Batch(Protocol):
    """A blocking `agenerate_batch` as a method."""

    def __get__(self, instance: object, owner: type | None = None) -> BoundBatch: ...


class Batching(ModelManagement, Embeddings):
    """The batch methods of a provider; construct an `OllamaProvider` to use them."""

    # `OllamaProvider` has them.
    agenerate: Callable[..., Awaitable[LLMResponse]]
    achat: Callable[..., Awaitable[LLMResponse]]
    _digests: dict[str, str]

    @overload
    async def agenerate_batch(
        self,
        prompts: Iterable[Prompt] | AsyncIterable[Prompt],
        *,
        return_exceptions: Literal[False] = False,
        on_result: OnResult | None = None,
        keep_results: bool = True,
        **options: Unpack[BatchOptions],
    ) -> list[LLMResponse]: ...

    @overload
    async def agenerate_batch(
        self,
        prompts: Iterable[Prompt] | AsyncIterable[Prompt],
        *,
        return_exceptions: bool,
        on_result: OnResult | None = None,
        keep_results: bool = True,
        **options: Unpack[BatchOptions],
    ) -> list[LLMResponse | BaseException]: ...

    @overload
    async def agenerate_batch(
        self,
        prompts: Iterable[Prompt] | AsyncIterable[Prompt],
        *,
        journal: str | os.PathLike[str] | RowStore,
        ids: Iterable[RowId] | None = None,
        retry_failed: RetryFailed = True,
        on_change: OnChange = "ask",
        progress: bool | OnProgress = False,
        on_result: OnResult | None = None,
        **options: Unpack[BatchOptions],
    ) -> BatchReport: ...

    async def agenerate_batch(
        self,
        prompts: Iterable[Prompt] | AsyncIterable[Prompt],
        *,
        return_exceptions: bool = False,
        on_result: OnResult | None = None,
        keep_results: bool = True,
        journal: str | os.PathLike[str] | RowStore | None = None,
        ids: Iterable[RowId] | None = None,
        retry_failed: RetryFailed = True,
        on_change: OnChange = "ask",
        progress: bool | OnProgress = False,
        **options: Unpack[BatchOptions],
    ) -> Any:
        """The answers to many prompts, in their order, `max_concurrent` at a time.

        With a `journal`, answers and failures are written to a file as they arrive, one row per prompt, and the result
        is a report. The same call resumes the batch: it sends only the prompts that have no answer yet. With
        temperature 0 or a seed, equal prompts are sent once.

        Args:
            prompts: Texts, or conversations (lists of messages), from any iterable, async ones included; consumed as
                slots become free, so an endless iterator is fine. Up to 100 are consumed ahead if `max_concurrent` is
                "auto".
            return_exceptions: Whether failures are returned as results; if not, the first one ends the batch and is
                raised. With a journal, failures are rows.
            on_result: Called with index and result as each one completes, in any order; may be async. With a journal,
                not called for rows that it already has.
            keep_results: Whether to return the results; False, with `on_result`, keeps memory flat. With a journal,
                results stay on disk.
            journal: The path of the journal, created if missing: a SQLite database that holds answers, not prompts.
                Or a `RowStore` to use in its place.
            ids: With a journal: an id for each prompt, a string or a 64-bit integer; its position by default.
            retry_failed: With a journal: whether prompts with a temporary failure (no connection, a server that was
                busy or failed, a timeout) are retried; "all": prompts with any failure.
            on_change: With a journal: what to do with an id whose request has changed (another prompt or option, other
                weights): "ask" again, or "error".
            progress: With a journal: True for a bar on a terminal (with rich) or a line in the log every ten seconds,
                or a callback that gets a `BatchProgress`.
            **options: Options of `agenerate` or `achat`, applied to every prompt.

        Raises:
            TypeError: `prompts` is one prompt or message, not several.
            ValueError: An id repeats; where `ids` is a collection, raised before the first request.
            LLMError: The first failure, unless `return_exceptions`; `prompt_index` is the index of its prompt, as it
                is for failures among the results. With a journal: a failure that no prompt causes (no such model, a
                wrong key, an exhausted quota, no connection for many prompts in a row).
            JournalError: The journal is of another batch, in use, or cannot be written.
        """
        if isinstance(prompts, (str, bytes, Mapping, Message)):
            raise TypeError(f"prompts: expected several prompts, not one {type(prompts).__name__}; wrap it in [...]")
        if journal is not None:
            settings = JournalSettings(journal, retry_failed, on_change, progress)
            return await self._journaled(prompts, ids, settings, on_result, options)
        alone = {"ids": ids is None, "retry_failed": retry_failed is True, "on_change": on_change == "ask"}
        for name, absent in {**alone, "progress": progress is False}.items():
            if not absent:
                raise TypeError(f"{name}: goes with a journal; give one, as journal='batch.db'")
        given: dict[str, Any] = {**options}

        async def ask(numbered: tuple[int, Prompt]) -> LLMResponse:
            index, prompt = numbered
            try:
                with patiently():
                    if isinstance(prompt, str):
                        return await self.agenerate(prompt, **given)
                    return await self.achat(prompt, **given)
            except LLMError as error:
                error.prompt_index = index
                raise

        run = functools.partial(
            run_batch,
            ask=ask,
            workers=self._workers,
            return_exceptions=return_exceptions,
            on_result=on_result,
            keep_results=keep_results,
        )
        if not isinstance(prompts, AsyncIterable):
            return await run(enumerate(prompts))
        async with contextlib.aclosing(_numbered(prompts)) as numbered:
            return await run(numbered)

    async def embed_batch(
        self,
        texts: Iterable[str] | AsyncIterable[str],
        *,
        journal: str | os.PathLike[str] | RowStore,
        ids: Iterable[RowId] | None = None,
        retry_failed: RetryFailed = True,
        on_change: OnChange = "ask",
        progress: bool | OnProgress = False,
        batch_size: int = 64,
        **options: Unpack[EmbedOptions],
    ) -> BatchReport:
        """Embed many texts, writing each vector to a file as it arrives; the same call resumes the batch.

        Args:
            texts: The texts, from any iterable, consumed as slots become free.
            journal: As in `agenerate_batch`.
            ids: As in `agenerate_batch`.
            retry_failed: As in `agenerate_batch`.
            on_change: As in `agenerate_batch`.
            progress: As in `agenerate_batch`.
            batch_size: The number of texts per request.
            **options: Options of `embed`, applied to every text.

        Raises:
            TypeError, ValueError, LLMError, JournalError: As `agenerate_batch` with a journal.
        """
        if isinstance(texts, (str, bytes, Mapping)):
            raise TypeError(f"texts: expected several texts, not one {type(texts).__name__}; wrap it in [...]")
        reject_unknown(options, frozenset(EmbedOptions.__annotations__), "embed_batch")
        check_positive("batch_size", batch_size, integer=True)
        check_positive("timeout", options.get("timeout"))
        settings = JournalSettings(journal, retry_failed, on_change, progress)
        truncate = options.get("truncate")
        policy = self._embedding_policy(truncate, options.get("on_truncation"))
        body = self._embedding_body(
            options.get("model"),
            truncate,
            options.get("dimensions"),
            options.get("keep_alive"),
            options.get("options"),
            options.get("extra_body"),
        )
        check_ids(texts, ids)
        model = body["model"]
        digest = await self._digest(model, settings.path)

        def print_of(text: str) -> bytes:
            return fingerprint(digest, f"embed, {policy}", {**body, "input": text})

        async def embed(some: list[str]) -> EmbedResponse:
            return await self.embed(some, batch_size=batch_size, **options)

        return await embed_rows(
            texts,
            ids,
            settings,
            model=model,
            fingerprint=print_of,
            embed=embed,
            batch_size=batch_size,
            workers=self._workers,
        )

    async def _journaled(
        self,
        prompts: Iterable[Prompt] | AsyncIterable[Prompt],
        ids: Iterable[RowId] | None,
        settings: JournalSettings,
        on_result: OnResult | None,
        options: BatchOptions,
    ) -> BatchReport:
        given: dict[str, Any] = {**options}
        timeout: float | NotGiven | None = given.pop("timeout", NOT_GIVEN)
        streams = streams_internally(given.pop("stream_internally", None), given.pop("stream", None))
        call = given_settings(given, timeout, given.pop("stream_config", None), given.pop("on_truncation", None))
        call["stream_internally"] = streams

        async def prepared(prompt: Prompt) -> Request:
            make: Callable[[], Request]
            if isinstance(prompt, str):
                make, files = functools.partial(generate_request, self._defaults, prompt, call), has_files([call])
            else:
                messages = _checked_messages(prompt)
                make, files = functools.partial(chat_request, self._defaults, messages, call), has_files(messages)
            return await asyncio.to_thread(make) if files else make()

        # Invalid options fail before the first prompt is consumed.
        first = await prepared([{"role": "user", "content": "-"}] if _ONLY_IN_CHATS & call.keys() else "-")
        check_ids(prompts, ids)
        digest = await self._digest(first.model, settings.path)

        async def question(prompt: Prompt) -> Question[Request]:
            request = await prepared(prompt)
            return Question(request, fingerprint(digest, request.kind, request.body))

        return await answer_rows(
            prompts,
            ids,
            settings,
            model=first.model,
            question=question,
            complete=self._runner.complete,
            alike=is_deterministic(first.body.get("options") or {}),
            parse_as=first.parse_as,
            workers=self._workers,
            on_result=on_result,
        )

    @property
    def _workers(self) -> int:
        limiter = self._runner.limiter
        if limiter.max_concurrent == "auto":
            return _ADAPTIVE_WORKERS
        return min(limiter.most or _MOST_WORKERS, _MOST_WORKERS)

    async def _digest(self, model: str, journal: str | os.PathLike[str] | RowStore) -> str:
        """The digest of a model's weights and settings, or the digests on all hosts; empty if the model is not listed.

        Batches with a store are parts of a longer batch, which looks the digest up once.
        """
        name = tagged(model)
        if name in self._digests and not isinstance(journal, (str, os.PathLike)):
            return self._digests[name]
        listed = await self.list_models()
        digests = {str(each.get("digest")) for each in listed if tagged(str(each.get("name"))) == name}
        self._digests[name] = ", ".join(sorted(digests))
        return self._digests[name]


def _checked_messages(prompt: object) -> Sequence[MessageLike]:
    if not isinstance(prompt, Sequence) or isinstance(prompt, (bytes, bytearray)):
        raise TypeError(f"prompt: expected text or a list of messages, not {type(prompt).__name__}")
    return prompt


async def _numbered(prompts: AsyncIterable[Prompt]) -> AsyncGenerator[tuple[int, Prompt], None]:
    index = 0
    async for prompt in prompts:
        yield index, prompt
        index += 1
