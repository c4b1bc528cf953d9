"""`ask` and `embed`, the public functions. They validate the arguments, and pass the work to Ray."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

import ray
from ray.data import ActorPoolStrategy, Dataset

from namel3ss_ollama import Host, Hosts
from ray_namel3ss_ollama.keeper import Kind, file_of, keeper_of
from ray_namel3ss_ollama.shares import Shares
from ray_namel3ss_ollama.workers import Asker, Embedder, Job, OnError, check_columns, provider_of

__all__ = ["ask", "embed"]

_HOSTS_AN_ACTOR = 16
"""The number of hosts per actor: a request takes it about a millisecond of CPU, and a model seconds."""
_CALLS = 4
"""Blocks that an actor processes concurrently; Ray passes it four concurrent batches of each."""
_CPU = 0.1
"""The share of a CPU that Ray reserves for an actor, which mostly waits."""
_OURS = frozenset({"base_url", "max_concurrent"})


def ask(
    dataset: Dataset,
    model: str,
    *,
    hosts: str | Host | Iterable[str | Host] | Hosts,
    prompt: str,
    into: str,
    id: str | None = None,
    system: str | None = None,
    journal: str | os.PathLike[str] | None = None,
    retry_failed: bool | Literal["all"] = True,
    on_change: Literal["ask", "error"] = "ask",
    on_error: OnError = "keep",
    prefix: str = "",
    actors: int | None = None,
    batch_size: int = 64,
    **settings: Any,
) -> Dataset:
    """Answer a column of prompts, row by row.

    The new dataset has the columns `into` (the answer's text; null if there is none), `error` and `error_type` (null if
    there is an answer), `tokens` (of prompt and answer), `host` and `seconds` (including the wait for a slot).

    With a `journal`, answers are saved as they arrive. After a kill, the same call asks only the rows that have no
    answer yet. Rows are identified by their ids, which must be unique.

    Args:
        dataset: Any dataset; it is read lazily.
        model: The model's name, which all hosts must have.
        hosts: Addresses, or `Host` objects; each gets as many concurrent requests as its `slots`, 1 by default.
        prompt: The column with the prompts: text, or lists of messages (`{"role": ..., "content": ...}`).
        into: The column for the answers.
        id: The column with the ids, text or integers; needed for a journal.
        system: The system prompt of prompts that are text.
        journal: The folder of the journal, on the driver's machine; created if needed. Its file is
            `<into>.db`, which `namel3ss_ollama.read_journal` reads.
        retry_failed: With a journal: whether rows with a temporary failure are retried; "all": rows with any failure.
        on_change: With a journal: what to do with an id whose request has changed: "ask" it again, or raise an "error".
        on_error: "keep": a failed row has its error in its columns. "raise": the first failure ends the job. A failure
            that no row causes (no such model, a wrong key, no host left) always does.
        prefix: A prefix for the names of the columns other than `into`, to distinguish them from those of another call.
        actors: The number of Ray actors; the hosts are divided among them. By default one per 16 hosts. A share should
            have more than one host, so that another one can take over for a failed host.
        batch_size: The number of rows per batch of an actor.
        **settings: Keywords of `OllamaProvider`: options such as `temperature` and `format`, `timeout`, `headers`, ...

    Raises:
        TypeError, ValueError: An argument is invalid, or a column is missing, as far as the columns are known.
        JournalError: The journal belongs to another batch, is in use, or cannot be written.
    """
    job = Job(
        model=model,
        hosts=_hosts(hosts),
        argument="prompt",
        source=prompt,
        id=id,
        into=into,
        prefix=prefix,
        on_error=on_error,
        journal={"retry_failed": retry_failed, "on_change": on_change},
        settings=settings,
        options={} if system is None else {"system": system},
        actors=1,
    )
    return _mapped(dataset, job, Asker, "answers", journal, actors, batch_size)


def embed(
    dataset: Dataset,
    model: str,
    *,
    hosts: str | Host | Iterable[str | Host] | Hosts,
    text: str,
    into: str,
    id: str | None = None,
    dimensions: int | None = None,
    journal: str | os.PathLike[str] | None = None,
    retry_failed: bool | Literal["all"] = True,
    on_change: Literal["ask", "error"] = "ask",
    on_error: OnError = "keep",
    prefix: str = "",
    actors: int | None = None,
    batch_size: int = 64,
    **settings: Any,
) -> Dataset:
    """Embed a column of texts, row by row.

    The new dataset has the columns `into` (a list of numbers) and those of `ask`. Texts in one request share its
    tokens.

    Args:
        dataset: As in `ask`.
        model: As in `ask`.
        hosts: As in `ask`.
        text: The column with the texts.
        into: The column for the vectors.
        id: As in `ask`.
        dimensions: The length of the vectors, if the model supports a choice.
        journal: As in `ask`.
        retry_failed: As in `ask`.
        on_change: As in `ask`.
        on_error: As in `ask`.
        prefix: As in `ask`.
        actors: As in `ask`.
        batch_size: The number of rows per batch of an actor, and of texts per request.
        **settings: Keywords of `OllamaProvider`: `on_truncation`, `num_ctx`, `timeout`, `headers`, ...

    Raises:
        TypeError, ValueError, JournalError: As `ask`.
    """
    job = Job(
        model=model,
        hosts=_hosts(hosts),
        argument="text",
        source=text,
        id=id,
        into=into,
        prefix=prefix,
        on_error=on_error,
        journal={"retry_failed": retry_failed, "on_change": on_change},
        settings=settings,
        options={"batch_size": batch_size, **({} if dimensions is None else {"dimensions": dimensions})},
        actors=1,
    )
    return _mapped(dataset, job, Embedder, "vectors", journal, actors, batch_size)


def _mapped(
    dataset: Dataset,
    job: Job,
    worker: type[Asker] | type[Embedder],
    kind: Kind,
    journal: str | os.PathLike[str] | None,
    actors: int | None,
    batch_size: int,
) -> Dataset:
    """The dataset with the job applied, lazily."""
    if not isinstance(dataset, Dataset):
        raise TypeError(f"dataset: expected a ray.data.Dataset, not {type(dataset).__name__}")
    _check(job, journal)
    _check_positive("batch_size", batch_size)
    job = replace(job, actors=_actors(actors, len(job.hosts)))
    for share in range(job.actors):
        provider_of(job, share)  # an invalid setting raises before anything is started
    schema = dataset.schema(fetch_if_missing=False)  # not fetched: that would run the previous steps
    if schema is not None:
        check_columns(job, schema.names)
    if journal is not None:
        path = file_of(journal, job.into)
        job = replace(job, path=path, keeper=keeper_of(path, kind, job.model))
    if job.actors > 1:
        job = replace(job, shares=ray.remote(Shares).options(num_cpus=0, max_restarts=-1).remote(job.actors))
    return dataset.map_batches(
        worker,
        fn_constructor_kwargs={"job": job},
        batch_size=batch_size,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            size=job.actors, max_concurrent_calls_per_actor=_CALLS, max_tasks_in_flight_per_actor=_CALLS
        ),
        num_cpus=_CPU,
    )


def _hosts(given: Any) -> tuple[Host, ...]:
    if isinstance(given, Hosts):
        return given.hosts
    return Hosts([given] if isinstance(given, (str, Host)) else given).hosts


def _check(job: Job, journal: object) -> None:
    for name, value in {job.argument: job.source, "into": job.into}.items():
        if not isinstance(value, str):
            raise TypeError(f"{name}: expected a column's name, not {type(value).__name__}")
        if not value:
            raise ValueError(f"{name}: the column's name is empty")
    if not (job.id is None or isinstance(job.id, str)):
        raise TypeError(f"id: expected a column's name, not {type(job.id).__name__}")
    if not isinstance(job.prefix, str):
        raise TypeError(f"prefix: expected text, not {type(job.prefix).__name__}")
    if job.on_error not in ("keep", "raise"):
        raise ValueError(f"on_error: {job.on_error!r} is not one of 'keep', 'raise'")
    for name in job.settings:
        if name in _OURS:
            raise TypeError(f"{name}: pass hosts=[Host(url, slots=4), ...], which sets addresses and concurrency")
    again: Mapping[str, Any] = job.journal
    if again["retry_failed"] not in (True, False, "all"):
        raise ValueError(f"retry_failed: {again['retry_failed']!r} is not one of True, False, 'all'")
    if again["on_change"] not in ("ask", "error"):
        raise ValueError(f"on_change: {again['on_change']!r} is not one of 'ask', 'error'")
    if journal is not None and job.id is None:
        raise ValueError("id: a journal identifies rows by their ids; name the column that has them")


def _check_positive(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name}: expected a number, not {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name}: {value} is not positive")


def _actors(given: int | None, hosts: int) -> int:
    if given is None:
        return -(-hosts // _HOSTS_AN_ACTOR)
    _check_positive("actors", given)
    if given > hosts:
        raise ValueError(f"actors: {given} is more than the number of hosts ({hosts}); each actor needs its own hosts")
    return given
