"""The journal of a job on Ray: one file, held by one small actor, in which the asking actors look up rows.

A journal belongs to one process, since only SQLite's lock works on every file system. If each asking actor had its own,
a block that Ray moves to another actor would be looked up in the wrong file, or in one locked by a live process; and
files by a hash of the id would require shuffling all rows. With one keeper, an id is found whatever the blocks and
actors are:

- An asking actor is killed: the keeper survives with every answer but those in flight. Ray gives the block to another.
- The keeper is killed: Ray restarts it on the same node, and resends what it had not acknowledged. Writing a row twice
  has the same effect as writing it once.
- The driver is killed: Ray ends the keeper, which releases the lock. The next run's keeper waits for that.

The keeper runs on the driver's node, so the folder need not be shared. It is not a bottleneck: rows that arrive while
it writes are sent together. A row costs it one or two milliseconds at most, while a model takes seconds.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from weakref import WeakValueDictionary

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from namel3ss_ollama import BatchRow, Journal, JournalError, Known, Outcome, RowId

__all__ = ["Keeper", "Kind", "Rows", "file_of", "keeper_of"]

Kind = Literal["answers", "vectors"]
_WAIT = 60.0
"""Seconds to wait for a journal that the processes of a killed driver still hold."""
_KEEPERS: WeakValueDictionary[str, Any] = WeakValueDictionary()
"""This driver's keepers, by file. A dataset holds its keeper's handle; with the last handle, Ray ends the keeper."""
Written = tuple[RowId, int, bytes | None, Outcome]
"""What `Journal.record` takes."""


class Keeper:
    """Holds the journal open. Ray calls the methods, one at a time.

    Args:
        path: The file.
        kind: Whether it holds answers or vectors.
        model: The model that is asked.
    """

    def __init__(self, path: str, kind: Kind, model: str) -> None:
        self._path = path
        self._what: tuple[Kind, str] = (kind, model)
        self._journal: Journal | None = None

    def check(self, kind: Kind, model: str) -> None:
        """Open the journal, and check that it is for that kind and model.

        Raises:
            JournalError: It is not, or cannot be used.
        """
        if (kind, model) == self._what:
            self._opened()
            return
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        Path(self._path).parent.mkdir(parents=True, exist_ok=True)
        Journal(self._path, kind, model, wait=_WAIT).close()
        self._what = (kind, model)

    def look_up(self, ids: Sequence[RowId]) -> dict[RowId, tuple[Known, Outcome]]:
        """Look up rows."""
        journal = self._opened()
        found: dict[RowId, tuple[Known, Outcome]] = {}
        for id in ids:
            known, outcome = journal.find(id), journal.outcome(id)
            if known is not None and outcome is not None:
                found[id] = known, outcome
        return found

    def record(self, rows: Sequence[Written]) -> None:
        """Write rows; each is committed separately."""
        journal = self._opened()
        for row in rows:
            journal.record(*row)

    def _opened(self) -> Journal:
        if self._journal is None:
            Path(self._path).parent.mkdir(parents=True, exist_ok=True)
            self._journal = Journal(self._path, *self._what, wait=_WAIT)
        return self._journal


def file_of(folder: str | os.PathLike[str], column: str) -> str:
    """The file of a column's journal.

    Raises:
        TypeError: The folder is not a path.
        ValueError: The column's name cannot be a file name.
    """
    if not isinstance(folder, (str, os.PathLike)):
        raise TypeError(f"journal: expected a folder, not {type(folder).__name__}")
    if Path(column).name != column or "\0" in column:
        raise ValueError(f"into: {column!r} is also the name of the journal's file, and is not a valid file name")
    return str(Path(folder).absolute() / f"{column}.db")


def keeper_of(path: str, kind: Kind, model: str) -> Any:
    """The handle of a journal's keeper, shared by all datasets of the driver.

    Raises:
        JournalError: The journal belongs to another batch, is in use, or cannot be written.
    """
    keeper = old = _KEEPERS.get(path)
    if keeper is None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
        keeper = ray.remote(Keeper).options(**options).remote(path, kind, model)
        _KEEPERS[path] = keeper
    try:
        ray.get(keeper.check.remote(kind, model))
    except RayActorError:
        if old is None:
            raise
        del _KEEPERS[path]  # it belongs to a Ray instance that has been shut down
        return keeper_of(path, kind, model)
    except RayTaskError as error:
        if isinstance(error.cause, (JournalError, OSError)):
            raise error.cause from None
        raise
    return keeper


@dataclass(frozen=True, slots=True)
class _Came:
    id: RowId
    outcome: Outcome


class Rows:
    """The rows of one block as a `RowStore`: those that the keeper has, and new ones.

    Args:
        path: The journal's file, for messages.
        keeper: The keeper's handle; None without a journal.
        known: The rows that the keeper has, as returned by `look_up`.
    """

    run = 1

    def __init__(self, path: str, keeper: Any, known: dict[RowId, tuple[Known, Outcome]]) -> None:
        self.path = path
        self._keeper = keeper
        self._known = known
        self._came: dict[int, _Came] = {}
        self._ids: set[RowId] = set()
        self._unsent: list[Written] = []
        self._sender: asyncio.Task[None] | None = None

    def find(self, id: RowId) -> Known | None:
        """Look up a row."""
        if id in self._ids:
            return Known(self.run, None, self._known[id][0].state)
        if id not in self._known:
            return None
        known = self._known[id][0]
        return Known(0, known.fingerprint, known.state)

    def equal(self, fingerprint: bytes) -> Outcome | None:
        """Always None: equal prompts are asked once only within a block."""
        del fingerprint
        return None

    def record(self, id: RowId, position: int, fingerprint: bytes | None, outcome: Outcome) -> None:
        """Keep a row's outcome, and send it to the keeper; while the keeper writes, rows are collected.

        Raises:
            JournalError: The keeper could not write earlier rows.
        """
        self._known[id] = Known(self.run, fingerprint, outcome.state), outcome
        self._note(id, position)
        if self._keeper is None:
            return
        self._unsent.append((id, position, fingerprint, outcome))
        if self._sender is None or self._sender.done():
            if self._sender is not None:
                self._sender.result()
            self._sender = asyncio.get_running_loop().create_task(self._send())

    def mark(self, id: RowId, position: int) -> None:
        """Use the keeper's result for a row."""
        self._note(id, position)

    async def written(self) -> None:
        """Wait until the keeper has all rows.

        Raises:
            JournalError: The keeper could not write them.
        """
        if self._sender is not None:
            await self._sender

    def rows(self, *, vectors: bool) -> list[BatchRow]:
        """The rows in their order."""
        return [came.outcome.row(came.id, at, vectors=vectors) for at, came in sorted(self._came.items())]

    def _note(self, id: RowId, position: int) -> None:
        self._ids.add(id)
        self._came[position] = _Came(id, self._known[id][1])

    async def _send(self) -> None:
        while self._unsent:
            rows, self._unsent = self._unsent, []
            await self._keeper.record.remote(rows)
