"""Tables in files, read and written row by row: JSONL, CSV, and Parquet where pyarrow is there."""

from __future__ import annotations

import csv
import importlib.util
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from namel3ss_ollama.cli.console import CommandError, UsageError

__all__ = ["checked_table", "has_pyarrow", "read_table", "write_table"]

Row = dict[str, Any]
_KINDS = (".jsonl", ".csv", ".parquet")
_AT_ONCE = 1000
"""Rows of Parquet that are in memory at once."""


def checked_table(path: Path) -> Path:
    """The path, if its suffix says what kind of table it is.

    Raises:
        UsageError: It does not.
        CommandError: It is Parquet, and pyarrow is not installed.
    """
    if path.suffix not in _KINDS:
        raise UsageError(f"{path}: the name must end with {', '.join(_KINDS[:-1])} or {_KINDS[-1]}")
    if path.suffix == ".parquet" and not has_pyarrow():
        raise CommandError(f"{path}: reading and writing Parquet needs pyarrow: pip install pyarrow")
    return path


def has_pyarrow() -> bool:
    """Whether Parquet can be read and written here."""
    return importlib.util.find_spec("pyarrow") is not None


def read_table(path: Path) -> Iterator[tuple[int, Row]]:
    """The rows of a table with the numbers of their lines (of Parquet: of the rows), from 1.

    Raises:
        CommandError: The file cannot be read, or a line cannot; the message has its number.
    """
    reader = {".jsonl": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}[path.suffix]
    try:
        yield from reader(path)
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise CommandError(f"cannot read {path}: it is not UTF-8 ({error.reason})") from error


def _read_jsonl(path: Path) -> Iterator[tuple[int, Row]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise CommandError(f"{path}, line {number}: this is no JSON ({error})") from error
            if not isinstance(row, dict):
                raise CommandError(f"{path}, line {number}: expected an object, not {type(row).__name__}")
            yield number, row


def _read_csv(path: Path) -> Iterator[tuple[int, Row]]:
    with path.open(encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines, strict=True)
        try:
            for row in reader:
                if None in row:
                    raise CommandError(f"{path}, line {reader.line_num}: there are more fields than in the first line")
                yield reader.line_num, row
        except csv.Error as error:
            raise CommandError(f"{path}, line {reader.line_num}: this is no CSV ({error})") from error


def _read_parquet(path: Path) -> Iterator[tuple[int, Row]]:
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(_AT_ONCE):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except ArrowException as error:
        raise CommandError(f"cannot read {path}: {error}") from error


def write_table(path: Path, rows: Iterable[Row], columns: Sequence[str]) -> None:
    """Write a table whole, or not at all: what was there before stays until the new one is complete.

    Args:
        path: The file.
        rows: The rows.
        columns: The names of the columns, which JSONL has no need of.

    Raises:
        CommandError: It cannot be written, or a row has a field that is no column.
    """
    if path.suffix != ".jsonl":
        rows = _fitting(path, rows, columns)
    try:
        with _replacing(path) as scratch:
            if path.suffix == ".parquet":
                _write_parquet(scratch, rows)
            else:
                with scratch.open("w", encoding="utf-8", newline="") as file:
                    (_write_csv if path.suffix == ".csv" else _write_jsonl)(file, rows, columns)
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror or error}; the journal has the answers") from error


def _fitting(path: Path, rows: Iterable[Row], columns: Sequence[str]) -> Iterator[Row]:
    for number, row in enumerate(rows, 1):
        if more := row.keys() - set(columns):
            raise CommandError(
                f"cannot write {path}: row {number} has a field {min(more)!r}, which the first row lacks; name a "
                ".jsonl file for the output"
            )
        yield row


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    scratch = path.with_name(f".{path.name}.part")
    try:
        yield scratch
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def _write_jsonl(file: TextIO, rows: Iterable[Row], columns: Sequence[str]) -> None:
    for row in rows:
        file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")


def _write_csv(file: TextIO, rows: Iterable[Row], columns: Sequence[str]) -> None:
    writer = csv.DictWriter(file, columns)
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value) for name, value in row.items()})


def _cell(value: object) -> object:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else value


def _write_parquet(path: Path, rows: Iterable[Row]) -> None:
    import pyarrow
    from pyarrow import ArrowException, parquet

    writer: Any = None
    try:
        for some in _in_parts(rows):
            schema = None if writer is None else writer.schema
            table = pyarrow.Table.from_pylist(some, schema=schema)
            if writer is None:
                table = table.cast(_with_types(table.schema))
                writer = parquet.ParquetWriter(path, table.schema)
            writer.write_table(table)
        if writer is None:
            parquet.write_table(pyarrow.table({}), path)
    except ArrowException as error:
        raise CommandError(f"cannot write the rows as Parquet: {error}; name a .jsonl file for the output") from error
    finally:
        if writer is not None:
            writer.close()


def _with_types(schema: Any) -> Any:
    """The schema, with text for columns of which the first rows have nothing: errors, most often."""
    import pyarrow

    fields = [pyarrow.field(f.name, pyarrow.string()) if pyarrow.types.is_null(f.type) else f for f in schema]
    return pyarrow.schema(fields)


def _in_parts(rows: Iterable[Row]) -> Iterator[list[Row]]:
    left = iter(rows)
    while part := list(itertools.islice(left, _AT_ONCE)):
        yield part
