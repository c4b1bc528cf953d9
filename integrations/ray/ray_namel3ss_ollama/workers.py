"""Processes a block of rows in an actor: asks those that the journal lacks, and adds the columns."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import ray

from namel3ss_ollama import BatchRow, Host, Hosts, LLMConnectionError, LLMError, OllamaProvider, RowId
from ray_namel3ss_ollama.keeper import Rows
from ray_namel3ss_ollama.shares import hosts_of

__all__ = ["Asker", "Embedder", "Job", "OnError", "check_columns", "details", "provider_of"]

OnError = Literal["keep", "raise"]
_DETAILS = {
    "error": pa.string(),
    "error_type": pa.string(),
    "tokens": pa.int64(),
    "host": pa.string(),
    "seconds": pa.float64(),
}


@dataclass(frozen=True, slots=True, repr=False)
class Job:
    """The job of a dataset's actors.

    Attributes:
        model: The model that is asked.
        hosts: All hosts.
        argument: Which argument names that column: "prompt" or "text".
        source: The column with the prompts or texts.
        id: The column with the ids; None for none.
        into: The column for the results.
        prefix: The prefix of the names of the other new columns.
        on_error: What to do with a row that fails.
        journal: Keywords of a batch with a journal.
        settings: Keywords of the provider.
        options: Keywords of each call.
        actors: The number of actors.
        path: The journal's file; empty without a journal.
        keeper: The handle of the journal's keeper, if there is one.
        shares: The handle of the actor that assigns the hosts; None for one actor.
    """

    model: str
    hosts: tuple[Host, ...]
    argument: str
    source: str
    id: str | None
    into: str
    prefix: str
    on_error: OnError
    journal: Mapping[str, Any]
    settings: Mapping[str, Any]
    options: Mapping[str, Any]
    actors: int
    path: str = ""
    keeper: Any = None
    shares: Any = None


def details(prefix: str) -> list[str]:
    """The names of the columns added with an answer or a vector."""
    return [prefix + name for name in _DETAILS]


def check_columns(job: Job, names: Sequence[str]) -> None:
    """Check that a dataset has the required columns, and none of those that are added.

    Raises:
        ValueError: A column is missing, or exists already.
    """
    for argument, name in ((job.argument, job.source), ("id", job.id)):
        if name is not None and name not in names:
            raise ValueError(f"{argument}: there is no column {name!r}; there are {', '.join(map(repr, names))}")
    if job.into in names:
        raise ValueError(f"into: there is a column {job.into!r} already; choose another name, or drop it first")
    for name in details(job.prefix):
        if name in names:
            raise ValueError(
                f"prefix: there is a column {name!r} already; pass one that differs, such as prefix='{job.into}_'"
            )


def provider_of(job: Job, share: int = 0) -> OllamaProvider:
    """The provider of a share's hosts. Nothing is sent.

    Raises:
        TypeError, ValueError: A setting is invalid.
    """
    hosts = hosts_of(job.hosts, share, job.actors)
    slots = [host.slots for host in hosts]
    # A single host is not a pool; its slots are then the provider's concurrency limit.
    bound: dict[str, Any] = {} if len(hosts) > 1 or "auto" in slots else {"max_concurrent": slots[0]}
    return OllamaProvider(job.model, Hosts(hosts), **bound, **job.settings)


class _Worker:
    """The common base. Ray creates one in each actor, and calls it with blocks of rows, several at a time."""

    def __init__(self, job: Job) -> None:
        self._job = job
        share = 0
        if job.shares is not None:
            share = ray.get(job.shares.take.remote(ray.get_runtime_context().get_actor_id()))
        self._hosts = hosts_of(job.hosts, share, job.actors)
        self._provider = provider_of(job, share)
        self._loop: asyncio.AbstractEventLoop | None = None

    async def _through(self, table: pa.Table, *, vectors: bool) -> pa.Table:
        job = self._job
        self._loop = asyncio.get_running_loop()
        check_columns(job, table.column_names)
        inputs = table.column(job.source).to_pylist()
        ids: list[RowId] | None = None if job.id is None else table.column(job.id).to_pylist()
        known = {} if job.keeper is None else await job.keeper.look_up.remote(ids)
        store = Rows(job.path, job.keeper, known)
        try:
            await self._batch(inputs, ids, store)
        except LLMConnectionError as error:
            raise LLMConnectionError(f"{error}; {self._remedy()}", original_error=error) from error
        finally:
            await store.written()
        rows = store.rows(vectors=vectors)
        if job.on_error == "raise":
            for row in rows:
                if row.failure is not None:
                    raise LLMError(f"row {row.id!r}: {row.failure.type}: {row.failure.message}")
        return _with_columns(table, rows, job, vectors=vectors)

    def _remedy(self) -> str:
        """The remedy if no host can be reached; with several actors, the job has other hosts."""
        job = self._job
        again = "run the job again" if job.keeper is None else "run the job again, which resumes it"
        if job.actors == 1:
            return f"too many rows in a row reached no host: start one of them and {again}"
        own = ", ".join(host.url for host in self._hosts)
        return (
            f"too many rows in a row reached none of this actor's hosts ({own}; there are {len(job.hosts)} in all): "
            f"start them, leave them out of hosts, or pass fewer actors, so that each has more hosts; then {again}"
        )

    async def _batch(self, inputs: list[Any], ids: list[RowId] | None, store: Rows) -> None:
        raise NotImplementedError  # asking and embedding each have their own

    def __del__(self) -> None:
        # Ray drops it when the actor ends, in a thread without a running event loop.
        loop = getattr(self, "_loop", None)
        if loop is not None and loop.is_running():
            with contextlib.suppress(TimeoutError):
                asyncio.run_coroutine_threadsafe(self._provider.aclose(), loop).result(timeout=5)


class Asker(_Worker):
    """Asks prompts."""

    async def __call__(self, table: pa.Table) -> pa.Table:
        """The table with the columns of the answers."""
        return await self._through(table, vectors=False)

    async def _batch(self, inputs: list[Any], ids: list[RowId] | None, store: Rows) -> None:
        await self._provider.agenerate_batch(inputs, ids=ids, journal=store, **self._job.journal, **self._job.options)


class Embedder(_Worker):
    """Embeds texts."""

    async def __call__(self, table: pa.Table) -> pa.Table:
        """The table with the columns of the vectors."""
        return await self._through(table, vectors=True)

    async def _batch(self, inputs: list[Any], ids: list[RowId] | None, store: Rows) -> None:
        await self._provider.embed_batch(inputs, ids=ids, journal=store, **self._job.journal, **self._job.options)


def _with_columns(table: pa.Table, rows: Sequence[BatchRow], job: Job, *, vectors: bool) -> pa.Table:
    """A table with the results of its rows. The types are explicit, since a column of a block may be empty."""
    if vectors:
        result = pa.array([row.vector for row in rows], pa.list_(pa.float64()))
    else:
        result = pa.array([None if row.answer is None else row.answer.content for row in rows], pa.string())
    table = table.append_column(job.into, result)
    values: dict[str, list[Any]] = {
        "error": [row.failure and row.failure.message for row in rows],
        "error_type": [row.failure and row.failure.type for row in rows],
        "tokens": [row.tokens for row in rows],
        "host": [row.host or None for row in rows],
        "seconds": [row.seconds for row in rows],
    }
    for name, kind in _DETAILS.items():
        table = table.append_column(job.prefix + name, pa.array(values[name], kind))
    return table
