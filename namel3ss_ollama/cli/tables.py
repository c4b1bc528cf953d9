"""Tables in files: JSONL, CSV and Parquet, read row by row and written atomically.

A row is a dict of its fields. Parquet needs pyarrow, which is imported only for such files.
"""

from __future__ import annotations

import csv
import importlib
import itertools
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from namel3ss_ollama.cli.console import CommandError, UsageError
from namel3ss_ollama.exact import read_json, write_json

__all__ = ["Columns", "Fields", "Row", "Table", "open_table"]

Row = dict[str, Any]
Columns = Mapping[str, Any]
"""The kind of each field: "text", "integer", "number", "boolean", "vector", "any", or a pyarrow type."""
_KINDS = {"str": "text", "int": "integer", "float": "number", "bool": "boolean"}
_ROWS_AT_ONCE = 1000
"""How many rows of a Parquet file are in memory at a time."""
_LONGEST_FIELD = 2**31 - 1
"""The most characters in a CSV field; the csv module's default is too small for long texts."""


class Table(ABC):
    """A file with rows.

    Args:
        path: Its path, to read or to write.
    """

    unit: ClassVar[str] = "line"
    """What a row's number counts, such as lines."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def at(self, number: int) -> str:
        """The position of a row, for messages."""
        return f"{self.path}, {self.unit} {number}"

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Each row, and its number for `at`.

        Raises:
            CommandError: The file cannot be read, or a row in it.
        """
        try:
            with self.path.open("rb") as file:
                yield from self._read(file)
        except OSError as error:
            raise CommandError(f"{self.path} cannot be read: {error.strerror or error}") from error

    def columns(self) -> dict[str, Any] | None:
        """The fields and their kinds, if the file itself declares them."""
        return None

    def write(self, rows: Iterable[Row], columns: Columns) -> None:
        """Write all rows, or leave the file unchanged.

        Raises:
            CommandError: It cannot be written.
        """
        path = self.path.resolve()  # a link's target is replaced, not the link
        part = path.with_name(f".{path.name}.part")
        try:
            with part.open("wb") as file:
                self._write(file, rows, columns)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError as error:
            raise CommandError(f"{self.path} cannot be written: {error.strerror or error}") from error
        finally:
            part.unlink(missing_ok=True)

    @abstractmethod
    def _read(self, file: BinaryIO) -> Iterator[tuple[int, Row]]: ...

    @abstractmethod
    def _write(self, file: BinaryIO, rows: Iterable[Row], columns: Columns) -> None: ...

    def _unreadable(self, number: int, why: str) -> CommandError:
        return CommandError(f"{self.at(number)}: {why}; fix it and run the same command again")

    def _lines(self, file: BinaryIO) -> Iterator[tuple[int, str]]:
        for number, line in enumerate(file, 1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise self._unreadable(number, "is not UTF-8 text") from error


class _Jsonl(Table):
    """One JSON object per line; blank lines are skipped."""

    def _read(self, file: BinaryIO) -> Iterator[tuple[int, Row]]:
        for number, line in self._lines(file):
            if not line.strip():
                continue
            try:
                row = read_json(line)
            except (ValueError, RecursionError) as error:
                raise self._unreadable(number, f"is not JSON ({error})") from error
            if not isinstance(row, dict):
                raise self._unreadable(number, f"is not a JSON object: {line.strip()!r:.40}")
            yield number, row

    def _write(self, file: BinaryIO, rows: Iterable[Row], columns: Columns) -> None:
        for row in rows:
            file.write(_json(row) + b"\n")


class _Csv(Table):
    """A header and rows, with commas between fields."""

    def _read(self, file: BinaryIO) -> Iterator[tuple[int, Row]]:
        csv.field_size_limit(_LONGEST_FIELD)
        reader = csv.reader((line for _, line in self._lines(file)), strict=True)
        head: list[str] | None = None
        number = 1
        try:
            for cells in reader:
                if head is None:
                    head = self._head(cells)
                elif cells:
                    if len(cells) != len(head):
                        raise self._unreadable(number, f"has {len(cells)} fields, and the header {len(head)}")
                    yield number, dict(zip(head, cells, strict=True))
                number = reader.line_num + 1  # the first line of the next row: a field may contain line ends
        except csv.Error as error:
            raise self._unreadable(number, f"is not CSV ({error})") from error

    def _head(self, cells: list[str]) -> list[str]:
        if len(set(cells)) < len(cells):
            raise self._unreadable(1, "names a field twice")
        return cells

    def columns(self) -> dict[str, Any] | None:
        """The fields in the header."""
        try:
            with self.path.open("rb") as file:
                reader = csv.reader((line for _, line in self._lines(file)), strict=True)
                return dict.fromkeys(next(reader, []), "text")
        except (OSError, csv.Error):
            return {}  # reading the rows says what is wrong

    def _write(self, file: BinaryIO, rows: Iterable[Row], columns: Columns) -> None:
        lines = _Lines(file)
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow([_text(row.get(name)) or "" for name in columns])


class _Lines:
    """The file object that `csv` writes to."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, text: str) -> None:
        self._file.write(text.encode(errors="replace"))


class _Parquet(Table):
    """A Parquet file, read and written in row batches."""

    unit = "row"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            self._arrow: Any = importlib.import_module("pyarrow")
            self._parquet: Any = importlib.import_module("pyarrow.parquet")
        except ModuleNotFoundError as error:
            raise CommandError(f"{path}: Parquet needs pyarrow; pip install pyarrow, or use .jsonl or .csv") from error

    def _read(self, file: BinaryIO) -> Iterator[tuple[int, Row]]:
        number = 0
        try:
            for batch in self._parquet.ParquetFile(file).iter_batches(batch_size=_ROWS_AT_ONCE):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        except self._arrow.ArrowException as error:
            raise self._unreadable(number + 1, f"cannot be read ({error})") from error

    def columns(self) -> dict[str, Any] | None:
        """The fields and types in the file."""
        try:
            schema = self._parquet.read_schema(self.path)
        except (OSError, self._arrow.ArrowException):
            return {}  # reading the rows says what is wrong
        return {name: schema.field(name).type for name in schema.names}

    def _write(self, file: BinaryIO, rows: Iterable[Row], columns: Columns) -> None:
        arrow = self._arrow
        types = {
            "text": arrow.string(),
            "any": arrow.string(),
            "integer": arrow.int64(),
            "number": arrow.float64(),
            "boolean": arrow.bool_(),
            "vector": arrow.list_(arrow.float64()),
        }
        schema = arrow.schema([(n, types[kind] if isinstance(kind, str) else kind) for n, kind in columns.items()])
        as_text = [name for name, kind in columns.items() if isinstance(kind, str) and kind == "any"]
        left = iter(rows)
        with self._parquet.ParquetWriter(file, schema) as writer:
            while some := list(itertools.islice(left, _ROWS_AT_ONCE)):
                for row in some:
                    row.update((name, _text(row.get(name))) for name in as_text)
                writer.write_table(arrow.Table.from_pylist(some, schema=schema))


_BY_SUFFIX: Mapping[str, type[Table]] = {".jsonl": _Jsonl, ".ndjson": _Jsonl, ".csv": _Csv, ".parquet": _Parquet}


def open_table(path: Path) -> Table:
    """The table in a file, of the kind given by its suffix.

    Raises:
        UsageError: The suffix is unknown.
        CommandError: It needs a package that is not installed.
    """
    kind = _BY_SUFFIX.get(path.suffix.lower())
    if kind is None:
        raise UsageError(f"{path}: the suffix must be one of {', '.join(_BY_SUFFIX)}, which sets the format")
    return kind(path)


class Fields:
    """Collects the fields of rows, for a table that does not declare them."""

    def __init__(self) -> None:
        self._kinds: dict[str, set[str]] = {}

    def see(self, row: Row) -> None:
        """Add the fields of a row."""
        for name, value in row.items():
            kinds = self._kinds.setdefault(name, set())
            if value is not None:
                long = type(value) is int and not -(2**63) <= value < 2**63
                kinds.add("any" if long else _KINDS.get(type(value).__name__, "any"))

    def columns(self) -> dict[str, Any]:
        """The kind of each field that fits all its values."""
        return {name: _common(kinds) for name, kinds in self._kinds.items()}


def _common(kinds: set[str]) -> str:
    if len(kinds) <= 1:
        return next(iter(kinds), "text")
    return "number" if kinds == {"integer", "number"} else "any"


def _json(value: Any) -> bytes:
    try:
        return write_json(value)
    except ValueError:  # a date or bytes, from a Parquet file
        return json.dumps(value, ensure_ascii=False, default=str).encode(errors="replace")


def _text(value: object) -> str | None:
    """A value for a text column."""
    return value if value is None or isinstance(value, str) else _json(value).decode()
