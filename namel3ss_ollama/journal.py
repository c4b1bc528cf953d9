"""A batch's journal: a SQLite file with one row per prompt that was answered or failed.

Each row is committed as it arrives, so a kill loses no received answer; SQLite's write-ahead log makes that cheap (tens
of microseconds). A power failure may lose the last rows, never the file. A journal belongs to one process at a time:
SQLite's own lock ensures that, and is released however the process ends.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from typing_extensions import Self

from namel3ss_ollama.errors import JournalError
from namel3ss_ollama.rows import BatchRow, Outcome, RowId, State

__all__ = ["Journal", "JournalKind", "Known", "RowStore", "opened", "read_rows"]

JournalKind = Literal["answers", "vectors"]
_APPLICATION = 0x6E336F6A
"""SQLite's `application_id` of a journal: "n3oj"."""
_FORMAT = 1
"""SQLite's `user_version`: the version of the layout."""
_MARKED = 1000
"""How many skipped rows are marked in one transaction."""
_TABLES = """
CREATE TABLE batch (kind TEXT NOT NULL, model TEXT NOT NULL, run INTEGER NOT NULL);
CREATE TABLE rows (
    id NOT NULL PRIMARY KEY, position INTEGER NOT NULL, run INTEGER NOT NULL, fingerprint BLOB, state INTEGER NOT NULL,
    content BLOB NOT NULL, host TEXT NOT NULL, tokens INTEGER NOT NULL, seconds REAL NOT NULL
);
CREATE INDEX rows_in_order ON rows (position);
"""
_RECORD = "INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_ROWS = "SELECT id, position, state, content, host, tokens, seconds FROM rows"


@dataclass(frozen=True, slots=True)
class Known:
    """What a journal holds about a row.

    Attributes:
        run: The number of the last run that reached it.
        fingerprint: The fingerprint of its request; None if there could be none.
        state: Its outcome.
    """

    run: int
    fingerprint: bytes | None
    state: State


class RowStore(Protocol):
    """What a batch needs from a journal, so that one kept elsewhere (by another process) can replace the file.

    A store belongs to a longer job: the caller opens and closes it, and the provider looks the model up once for all
    its stores.
    """

    @property
    def path(self) -> str | os.PathLike[str]:
        """Its name in messages."""

    @property
    def run(self) -> int:
        """The number of this run; a row that this run has already reached has a repeated id."""

    def find(self, id: RowId) -> Known | None:
        """What is known of a row."""

    def equal(self, fingerprint: bytes) -> Outcome | None:
        """The answer to an equal request with another id; None if there is none."""

    def record(self, id: RowId, position: int, fingerprint: bytes | None, outcome: Outcome) -> None:
        """Store the outcome of a row."""

    def mark(self, id: RowId, position: int) -> None:
        """Note that this run has skipped a row."""


class Journal:
    """An open journal.

    Args:
        path: The file; created if missing.
        kind: Whether it holds answers or vectors.
        model: The model that is asked.
        find_equal: Whether answers are looked up by fingerprint, too.
        wait: How long to wait for another process that uses it, in seconds.

    Raises:
        JournalError: The file is not a journal, or one of another kind, model or version; or it is in use or not
            writable.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        kind: JournalKind,
        model: str,
        *,
        find_equal: bool = False,
        wait: float = 0.0,
    ) -> None:
        self.path = Path(path)
        self._vectors = kind == "vectors"
        self._marked: dict[RowId, int] = {}
        # Answers are private: other users of the machine must not read them.
        with _failures(self.path), contextlib.suppress(FileExistsError):
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        with _failures(self.path):
            self._database = sqlite3.connect(self.path, timeout=wait, isolation_level=None, check_same_thread=False)
        try:
            with _failures(self.path):
                self.run = self._begin(kind, model, find_equal)
        except BaseException:  # an interrupt, too: the file would stay locked as long as the exception is kept
            self._database.close()
            raise

    def _begin(self, kind: JournalKind, model: str, find_equal: bool) -> int:
        """Lock the file; returns the number of this run, from 1."""
        execute = self._database.execute
        execute("PRAGMA locking_mode = EXCLUSIVE")  # before the log's mode, which then needs no shared memory
        _check_format(self.path, self._database, new=True)
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = NORMAL")
        execute("BEGIN IMMEDIATE")
        if not execute("PRAGMA application_id").fetchone()[0]:
            for statement in _TABLES.split(";"):
                execute(statement)
            execute("INSERT INTO batch VALUES (?, ?, 0)", (kind, model))
            execute(f"PRAGMA application_id = {_APPLICATION}")
            execute(f"PRAGMA user_version = {_FORMAT}")
        if not execute("SELECT EXISTS (SELECT 1 FROM rows)").fetchone()[0]:
            execute("UPDATE batch SET kind = ?, model = ?", (kind, model))  # from a run that ended before its first row
        had_kind, had_model, run = execute("SELECT kind, model, run FROM batch").fetchone()
        for what, had, asked in (("kind", had_kind, kind), ("model", had_model, model)):
            if had != asked:
                raise JournalError(
                    f"journal: {self.path} is of another batch: its {what} is {had!r}, not {asked!r}; name another"
                )
        execute("UPDATE batch SET run = ?", (run + 1,))
        if find_equal:
            execute("CREATE INDEX IF NOT EXISTS rows_by_fingerprint ON rows (fingerprint)")
        execute("COMMIT")
        return int(run) + 1

    def find(self, id: RowId) -> Known | None:
        """What is known of a row."""
        with _failures(self.path):
            found = self._database.execute("SELECT run, fingerprint, state FROM rows WHERE id = ?", (id,)).fetchone()
        if found is None:
            return None
        return Known(self.run if id in self._marked else found[0], found[1], State(found[2]))

    def outcome(self, id: RowId) -> Outcome | None:
        """The outcome of a row."""
        with _failures(self.path):
            found = self._database.execute(
                "SELECT state, content, host, tokens, seconds FROM rows WHERE id = ?", (id,)
            ).fetchone()
        return None if found is None else Outcome(State(found[0]), *found[1:])

    def equal(self, fingerprint: bytes) -> Outcome | None:
        """The answer to an equal request with another id."""
        with _failures(self.path):
            found = self._database.execute(
                "SELECT content, host FROM rows WHERE fingerprint = ? AND state = ?", (fingerprint, State.ANSWERED)
            ).fetchone()
        return None if found is None else Outcome(State.ANSWERED, *found)

    def record(self, id: RowId, position: int, fingerprint: bytes | None, outcome: Outcome) -> None:
        """Write the outcome of a row, and commit.

        Raises:
            JournalError: It cannot be written; `unwritten` has the row.
        """
        row = (
            id, position, self.run, fingerprint, outcome.state, outcome.content, outcome.host, outcome.tokens,
            outcome.seconds,
        )  # fmt: skip
        try:
            with _failures(self.path):
                self._database.execute(_RECORD, row)
        except JournalError as error:
            error.unwritten = outcome.row(id, position, vectors=self._vectors)
            raise

    def mark(self, id: RowId, position: int) -> None:
        """Note that this run has skipped a row; written in groups."""
        self._marked[id] = position
        if len(self._marked) >= _MARKED:
            self._write_marked()

    def _write_marked(self) -> None:
        marked = [(position, self.run, id) for id, position in self._marked.items()]
        with _failures(self.path):
            self._database.execute("BEGIN")
            with self._database:  # which commits, or rolls back
                self._database.executemany("UPDATE rows SET position = ?, run = ? WHERE id = ?", marked)
        self._marked.clear()

    def close(self) -> None:
        """Write pending marks and release the file."""
        try:
            if self._marked:
                self._write_marked()
        finally:
            with _failures(self.path):
                self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self._marked.clear()  # the next run marks them; a failure to write them would hide the original error
        self.close()


@contextlib.contextmanager
def opened(
    where: str | os.PathLike[str] | RowStore, kind: JournalKind, model: str, *, find_equal: bool = False
) -> Iterator[RowStore]:
    """The journal at a path, closed at the end; a store unchanged."""
    if isinstance(where, (str, os.PathLike)):
        with Journal(where, kind, model, find_equal=find_equal) as journal:
            yield journal
    else:
        yield where


def read_rows(path: str | os.PathLike[str], run: int | None = None) -> Iterator[BatchRow]:
    """Iterate over the rows of a journal in input order, reading from disk: memory stays flat.

    Args:
        path: The file.
        run: Only the rows that this run or a later one reached; None for all.

    Raises:
        JournalError: The file is missing, not a journal, of another version, or in use.
    """
    where = Path(path)
    if not where.is_file():
        raise JournalError(f"journal: there is no {where}")
    with _failures(where):
        database = sqlite3.connect(where, timeout=0, isolation_level=None, check_same_thread=False)
        with contextlib.closing(database):
            _check_format(where, database, new=False)
            vectors = database.execute("SELECT kind FROM batch").fetchone()[0] == "vectors"
            of_run, values = ("", ()) if run is None else (" WHERE run >= ?", (run,))
            for id, position, state, *rest in database.execute(f"{_ROWS}{of_run} ORDER BY position", values):
                yield Outcome(State(state), *rest).row(id, position, vectors=vectors)


def _check_format(path: Path, database: sqlite3.Connection, *, new: bool) -> None:
    application = database.execute("PRAGMA application_id").fetchone()[0]
    if application == _APPLICATION:
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version != _FORMAT:
            raise JournalError(
                f"journal: {path} has layout {version}, this version reads {_FORMAT}; read it with the version that "
                "wrote it, or name another file"
            )
    elif not new or database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise JournalError(f"journal: {path} is a file of another program; name another file")


@contextlib.contextmanager
def _failures(path: Path) -> Iterator[None]:
    """Turn failures of SQLite and the system into a `JournalError` with a remedy."""
    try:
        yield
    except OSError as error:
        raise JournalError(f"journal: {path} cannot be opened: {error.strerror}", original_error=error) from error
    except sqlite3.Error as error:
        raise JournalError(f"journal: {path} {_advice(str(error))}", original_error=error) from error


def _advice(reason: str) -> str:
    if "locked" in reason:
        return "is in use by another batch or program; wait for it to end, or name another file"
    if "full" in reason:
        return "cannot be written, since the disk is full; free some space and run the same again"
    if "not a database" in reason or "malformed" in reason:
        return f"is not a journal, or is damaged ({reason}); name another file"
    return f"cannot be used: {reason}"
