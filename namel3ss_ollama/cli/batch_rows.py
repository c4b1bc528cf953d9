"""The rows of a batch: a row's id, its prompt, and how its result is written. Plain functions of a row."""

from __future__ import annotations

from typing import Any, Protocol

from namel3ss_ollama.cli.console import CommandError
from namel3ss_ollama.cli.tables import Row
from namel3ss_ollama.cli.wording import in_the_commands_words
from namel3ss_ollama.rows import BatchRow, RowId

__all__ = ["BadRowError", "FieldRows", "RowKind", "checked_id", "checked_text"]

_RESULTS = {"error": "text", "error_type": "text", "tokens": "integer", "host": "text", "seconds": "number"}
_MOST_NAMED = 8


class BadRowError(Exception):
    """A row has no valid prompt; the message says why. The row fails, and the others are asked."""


class RowKind(Protocol):
    """How rows are read and written.

    Attributes:
        embeds: Whether the rows are texts to embed.
        has_ids: Whether the rows have ids of their own.
    """

    embeds: bool
    has_ids: bool

    def check(self, row: Row, at: str) -> None:
        """Check that a row matches the others.

        Raises:
            CommandError: It does not, so the batch cannot run; `at` is the row's position.
        """

    def id(self, row: Row, at: str, index: int) -> RowId:
        """The row's id.

        Raises:
            CommandError: It has none.
        """

    def prompt(self, row: Row) -> Any:
        """The row's prompt, or the text to embed.

        Raises:
            BadRowError: The row has none.
        """

    def result(self, row: Row, done: BatchRow) -> Row:
        """The output row."""

    def columns(self, found: dict[str, Any]) -> dict[str, Any]:
        """The fields of the output, given those of the input."""


class FieldRows:
    """Rows with the prompt in a field.

    Args:
        prompt_field: The field with the prompt or text.
        id_field: The field with the id; None if the row's position is the id.
        embeds: Whether the texts are embedded.
    """

    def __init__(self, prompt_field: str, id_field: str | None, *, embeds: bool) -> None:
        self.embeds = embeds
        self.has_ids = id_field is not None
        self._prompt_field = prompt_field
        self._id_field = id_field
        self._results = {"vector": "vector", **_RESULTS} if embeds else {"answer": "text", **_RESULTS}

    def check(self, row: Row, at: str) -> None:
        """Check that the result would not overwrite a field of the row."""
        for name in self._results:
            if name in row:
                raise CommandError(f"{at}: has a field {name!r}, which the output uses for the result; rename it")

    def id(self, row: Row, at: str, index: int) -> RowId:
        """The row's id."""
        return index if self._id_field is None else checked_id(row, self._id_field, at)

    def prompt(self, row: Row) -> Any:
        """The text of the row, or its messages, which the batch itself validates."""
        if self._prompt_field not in row:
            names = ", ".join(list(row)[:_MOST_NAMED])
            raise BadRowError(
                f"there is no field {self._prompt_field!r} among {names}; name the right one with --prompt-field"
            )
        value = row[self._prompt_field]
        if isinstance(value, list) and value and not self.embeds:
            return value
        return checked_text(value, self._prompt_field)

    def result(self, row: Row, done: BatchRow) -> Row:
        """The row with its result."""
        failure = done.failure
        made = {"vector": done.vector} if self.embeds else {"answer": done.answer and done.answer.content}
        return {
            **row,
            **made,
            "error": failure and in_the_commands_words(failure.message),
            "error_type": failure and failure.type,
            "tokens": done.tokens,
            "host": done.host or None,
            "seconds": round(done.seconds, 6),
        }

    def columns(self, found: dict[str, Any]) -> dict[str, Any]:
        """The input's fields, then those of the result."""
        return {**found, **self._results}


def checked_text(value: object, name: str) -> str:
    """A text to send.

    Raises:
        BadRowError: It is not a text, or is blank.
    """
    if not isinstance(value, str):
        raise BadRowError(f"{name!r} is not a text but {'null' if value is None else type(value).__name__}")
    if not value.strip():
        raise BadRowError(f"{name!r} is empty")
    return value


def checked_id(row: Row, name: str, at: str) -> RowId:
    """The id in a field.

    Raises:
        CommandError: It cannot be an id.
    """
    id = row.get(name)
    if isinstance(id, str) and id:
        return id
    if isinstance(id, int) and not isinstance(id, bool) and -(2**63) <= id < 2**63:
        return id
    what = f"{id!r:.40} in {name!r}" if name in row else f"no field {name!r}"
    raise CommandError(f"{at}: an id must be a text or a 64-bit integer; got {what}")
