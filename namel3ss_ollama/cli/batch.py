"""`namel3ss-ollama batch`: a file of prompts or texts in, a file of answers or vectors out, and a journal between them.

The input is read three times, a row at a time: to validate it before the first request; to send the requests; and to
write the output, which combines each input row with its result from the journal.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from namel3ss_ollama import BatchReport, JournalError, LLMError, ModelNotFoundError, OllamaProvider
from namel3ss_ollama.address import parse_address
from namel3ss_ollama.cli.batch_rows import BadRowError, FieldRows, RowKind
from namel3ss_ollama.cli.chat import read_format
from namel3ss_ollama.cli.choosing import check_chat_model, missing, pick_model, shown_or_missing
from namel3ss_ollama.cli.console import CommandError, UsageError, checked_arguments, note, shown_progress
from namel3ss_ollama.cli.interrupts import raising_interrupts, run
from namel3ss_ollama.cli.openai_batch import OpenAIRows, is_openai
from namel3ss_ollama.cli.options import HostsOption, ModelOption, Options, examples, named, read_options, utf8, where
from namel3ss_ollama.cli.process import INTERRUPTED
from namel3ss_ollama.cli.tables import Fields, Row, Table, open_table
from namel3ss_ollama.rows import BatchFailure, BatchRow, RowId

__all__ = ["EXAMPLES", "batch"]

EXAMPLES = examples(
    "namel3ss-ollama batch reviews.jsonl answers.jsonl -m llama3.2 -s 'Is this review kind? Say yes or no.'",
    "namel3ss-ollama batch in.csv out.csv -m llama3.2 --prompt-field question --id-field id -o temperature=0",
    "namel3ss-ollama batch in.parquet out.parquet -m llama3.2 --format schema.json",
    "namel3ss-ollama batch texts.jsonl vectors.jsonl -m all-minilm --embed",
    "namel3ss-ollama batch requests.jsonl responses.jsonl --host http://gpu1:11434 --host http://gpu2:11434",
)
_BAD_ROW = "BadRow"
_OF_A_CALL = ("system", "tools", "tool_choice")
"""Settings that differ from the provider's defaults."""


def batch(
    ctx: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="IN", help="The file with the rows: .jsonl, .csv or .parquet.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The file for the results; replaced if it exists.")],
    model: ModelOption = None,
    prompt_field: Annotated[
        str | None,
        typer.Option(
            "--prompt-field", metavar="NAME", callback=named, help="The field with the prompt; `text` if unset."
        ),
    ] = None,
    id_field: Annotated[
        str | None,
        typer.Option(
            "--id-field",
            metavar="NAME",
            callback=named,
            help="The field with an id, which identifies a row when the input changes; its position if unset.",
        ),
    ] = None,
    system: Annotated[str | None, typer.Option("--system", "-s", metavar="TEXT", help="The system prompt.")] = None,
    format: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="json|FILE", help="Answer in JSON, or in JSON that follows the schema in a file."
        ),
    ] = None,
    embed: Annotated[bool, typer.Option("--embed", help="Embed the texts; the results are vectors.")] = False,
    hosts: HostsOption = None,
    option: Options = None,
    think: Annotated[
        bool | None,
        typer.Option("--think/--no-think", help="Turn reasoning on or off; if unset, the model's default."),
    ] = None,
    journal: Annotated[
        Path | None,
        typer.Option(
            "--journal", metavar="FILE", help="The file that answers are saved to as they arrive; OUT.journal if unset."
        ),
    ] = None,
    retry_all: Annotated[
        bool, typer.Option("--retry-all", help="Retry every failed row, including permanent failures.")
    ] = False,
    max_concurrent: Annotated[
        int | None,
        typer.Option(
            "--max-concurrent",
            metavar="N",
            min=1,
            help="The concurrency limit over all servers; if unset, it adapts to the server, and for several it is the "
            "total of their slots.",
        ),
    ] = None,
) -> None:
    """Ask a model every row of a file, and write the answers to another.

    Each row of OUT has the fields of its row in IN, in the same order, and `answer`, `error`, `error_type`, `tokens`,
    `host` and `seconds`; with --embed `vector` in the place of `answer`. Parquet needs the package pyarrow.

    Answers are saved to a journal as they arrive, and OUT is written at the end. Running the same command again resumes
    the batch after Ctrl-C, a kill or a reboot, and retries temporary failures (no connection, a busy server). Other
    failures are kept unless you pass --retry-all. A row that has changed is asked again. With temperature=0 or a seed,
    equal rows are asked once. You can delete the journal once you have OUT.

    A prompt is text, or a list of messages (`role`, `content`). A row without the field, or with an empty or invalid
    prompt, fails; the other rows are still asked. An unreadable line or a duplicate id ends the command before the
    first request.

    OpenAI's batch format (`custom_id`, `url`, `body`; /v1/chat/completions and /v1/embeddings) is detected by the first
    row of a .jsonl file; the output is then in that format too. All rows must have the same model and settings. --model
    and OLLAMA_MODEL override the rows' model, --option and --format their settings.

    Exit code 0 if every row was answered, 1 if some failed or the batch could not run, 130 after Ctrl-C.
    """
    files = _Files(source, target, journal or target.with_name(f"{target.name}.journal"))
    inputs, outputs = files.tables()
    try:
        with raising_interrupts():
            kind = _kind_of(inputs, prompt_field, id_field, embed=embed, any_model=model is not None)
            if kind.embeds and (system or format or think is not None):
                raise UsageError("--system, --format and --think are for answers, and these rows are embedded")
            if isinstance(kind, OpenAIRows):
                _check_openai(outputs, {"--prompt-field": prompt_field, "--id-field": id_field, "--system": system})
            found = _survey(inputs, kind)
            stamp = files.stamp()
        given = {"think": think, "format": read_format(format), "system": utf8(system or "", "--system") or None}
        settings = {**read_options(option), **{name: value for name, value in given.items() if value is not None}}
        if isinstance(kind, OpenAIRows):
            model = model or kind.model
            settings = {**kind.settings, **settings}
        if kind.embeds and model is None:
            raise UsageError("--embed: name the model, such as -m all-minilm")
        model = run(pick_model(model, hosts))
        asked = _Asked(inputs, kind, found.good)
        report = run(_ask(asked, model, hosts, settings, files.journal, max_concurrent, "all" if retry_all else True))
        with raising_interrupts():
            if files.stamp() != stamp:
                raise _changed(inputs)
            written = _Written()
            outputs.write(written.rows(inputs, kind, report), found.columns)
    except KeyboardInterrupt:
        if sys.stderr.isatty():
            print(file=sys.stderr)  # after the ^C that the terminal shows
        note(_how_to_go_on(ctx, files.journal))
        raise typer.Exit(INTERRUPTED) from None
    except LLMError as error:
        if not isinstance(error, JournalError) and files.journal.exists():
            note(_how_to_go_on(ctx, files.journal))
        raise
    _sum_up(report, written, outputs)


@dataclass(frozen=True, slots=True)
class _Files:
    """The three files of a batch.

    Attributes:
        source: The input.
        target: The output.
        journal: The journal.
    """

    source: Path
    target: Path
    journal: Path

    def tables(self) -> tuple[Table, Table]:
        """Input and output.

        Raises:
            UsageError: Two of the files are the same.
            CommandError: The input does not exist, or the output cannot be written.
        """
        inputs, outputs = open_table(self.source), open_table(self.target)
        if not self.source.is_file():
            raise CommandError(f"{self.source} is not a file" if self.source.exists() else f"there is no {self.source}")
        for one, other, what in (
            (self.source, self.target, "the output would overwrite the input; name another OUT"),
            (self.source, self.journal, "the journal would overwrite the input; name another --journal"),
            (self.target, self.journal, "the output would overwrite the journal; name another --journal"),
        ):
            if one.resolve() == other.resolve() or (other.exists() and one.exists() and one.samefile(other)):
                raise UsageError(f"{one}: {what}")
        if self.target.is_dir():
            raise CommandError(f"{self.target} is a directory; name a file")
        for path in (self.target, self.journal):
            folder = path.resolve().parent
            if not folder.is_dir():
                raise CommandError(f"{path}: there is no directory {folder}; make it first")
            if not os.access(folder, os.W_OK):
                raise CommandError(f"{path}: the directory {folder} cannot be written to")
        return inputs, outputs

    def stamp(self) -> tuple[int, ...]:
        """A value that changes when the input does."""
        about = self.source.stat()
        return about.st_ino, about.st_size, about.st_mtime_ns


def _kind_of(inputs: Table, prompt_field: str | None, id_field: str | None, *, embed: bool, any_model: bool) -> RowKind:
    """How to read the rows; the first one shows whether they are in OpenAI's format."""
    first = next(inputs.rows(), None)
    if first is None or not is_openai(first[1]):
        return FieldRows(prompt_field or "text", id_field, embeds=embed)
    kind = OpenAIRows(first[1], inputs.at(first[0]), any_model=any_model)
    if embed and not kind.embeds:
        raise UsageError(f"--embed: the rows of {inputs.path} are for /v1/chat/completions")
    return kind


def _check_openai(outputs: Table, given: dict[str, str | None]) -> None:
    for name, value in given.items():
        if value is not None:
            raise UsageError(f"{name}: rows in OpenAI's batch format set that themselves; leave it out")
    if outputs.path.suffix.lower() not in (".jsonl", ".ndjson"):
        raise UsageError(f"{outputs.path}: responses in OpenAI's batch format are JSONL; name a .jsonl file")


@dataclass(frozen=True, slots=True)
class _Survey:
    """The result of validating the input.

    Attributes:
        good: How many rows can be asked.
        columns: The fields of the output.
    """

    good: int
    columns: dict[str, Any]


def _survey(inputs: Table, kind: RowKind) -> _Survey:
    """Read the input once, before the first request.

    Raises:
        CommandError: A line cannot be read, an id repeats, or a row does not match the others.
    """
    good = 0
    fields = Fields()
    # The ids may not fit into memory: SQLite keeps them in a temporary file, which it deletes.
    with contextlib.closing(sqlite3.connect("")) as seen:
        seen.execute("PRAGMA journal_mode = OFF")
        seen.execute("CREATE TABLE ids (id PRIMARY KEY, number INTEGER) WITHOUT ROWID")
        for index, (number, row) in enumerate(inputs.rows()):
            at = inputs.at(number)
            kind.check(row, at)
            id = kind.id(row, at, index)
            if kind.has_ids:
                try:
                    seen.execute("INSERT INTO ids VALUES (?, ?)", (id, number))
                except sqlite3.IntegrityError:
                    (before,) = seen.execute("SELECT number FROM ids WHERE id = ?", (id,)).fetchone()
                    raise CommandError(
                        f"{at}: the id {id!r} is also that of {inputs.unit} {before}; ids must be unique"
                    ) from None
            fields.see(row)
            with contextlib.suppress(BadRowError):
                kind.prompt(row)
                good += 1
    known = inputs.columns()
    return _Survey(good, kind.columns(fields.columns() if known is None else known))


class _Asked:
    """The valid rows in the form that `agenerate_batch` takes: prompts, with a length, and ids."""

    def __init__(self, inputs: Table, kind: RowKind, count: int) -> None:
        self._inputs = inputs
        self._kind = kind
        self._count = count
        ids, self._prompts = itertools.tee(self._rows())  # consumed in step: one row is in memory
        self.ids: Iterable[RowId] = (id for id, _ in ids)
        self.embeds = kind.embeds

    def _rows(self) -> Iterator[tuple[RowId, Any]]:
        for index, (number, row) in enumerate(self._inputs.rows()):
            with contextlib.suppress(BadRowError):
                yield self._kind.id(row, self._inputs.at(number), index), self._kind.prompt(row)

    def __iter__(self) -> Iterator[Any]:
        return (prompt for _, prompt in self._prompts)

    def __len__(self) -> int:
        return self._count


async def _ask(
    asked: _Asked,
    model: str,
    hosts: list[str] | None,
    settings: dict[str, Any],
    journal: Path,
    max_concurrent: int | None,
    retry_failed: Any,
) -> BatchReport:
    """Ask the rows for which the journal has no answer."""
    call: dict[str, Any] = {"journal": journal, "ids": asked.ids, "retry_failed": retry_failed, "progress": True}
    limit: int | Literal["auto"] = max_concurrent or "auto"
    with checked_arguments():
        if asked.embeds:
            call["dimensions"] = settings.pop("dimensions", None)
            call["options"] = {**settings.pop("options", {}), **settings}
            provider = OllamaProvider(model, where(hosts), max_concurrent=limit)
        else:
            call.update((name, settings.pop(name)) for name in _OF_A_CALL if name in settings)
            provider = OllamaProvider(model, where(hosts), max_concurrent=limit, **settings)
    report: BatchReport
    async with provider:
        # Checked before a journal is created, so that a misspelt model leaves none.
        if asked.embeds:
            await shown_or_missing(provider, model, hosts)
        else:
            await check_chat_model(provider, hosts, images=False)
        try:
            with checked_arguments(CommandError), shown_progress():
                if asked.embeds:
                    report = await provider.embed_batch(asked, **call)
                else:
                    report = await provider.agenerate_batch(asked, **call)
        except ModelNotFoundError:
            raise await missing(provider, model, hosts) from None
    return report


@dataclass(slots=True)
class _Written:
    """Counts the rows of the output as they are written.

    Attributes:
        count: The number of rows.
        failed: How many of them failed.
        first: The position of the first failed row, and why it failed.
    """

    count: int = 0
    failed: int = 0
    first: str = field(default="")

    def rows(self, inputs: Table, kind: RowKind, report: BatchReport) -> Iterator[Row]:
        """Each row of the input with its result.

        Raises:
            CommandError: The input's rows are not the ones that were asked.
        """
        results = report.rows()
        for index, (number, row) in enumerate(inputs.rows()):
            id = kind.id(row, inputs.at(number), index)
            try:
                kind.prompt(row)
            except BadRowError as error:
                failure = BatchFailure(_BAD_ROW, f"{inputs.unit} {number}: {error}", temporary=False)
                done = BatchRow(id, index, None, None, failure, "", 0, 0.0)
            else:
                found = next(results, None)
                if found is None or found.id != id:
                    raise _changed(inputs)
                done = found
            result = kind.result(row, done)
            self.count += 1
            if done.failure is not None:
                self.failed += 1
                self.first = self.first or f"{inputs.at(number)}: {done.failure.type}: {done.failure.message}"
            yield result


def _changed(inputs: Table) -> CommandError:
    return CommandError(
        f"{inputs.path} has changed since it was read; answers so far are kept, and the same command asks the rest"
    )


def _sum_up(report: BatchReport, written: _Written, outputs: Table) -> None:
    """Print a summary.

    Raises:
        CommandError: Rows failed.
    """
    before = report.skipped - report.failed_before
    answered = f"{written.count - written.failed:,} answered{f' ({before:,} of them before)' if before else ''}"
    note(
        f"{written.count:,} rows: {answered}, {written.failed:,} failed; {report.tokens:,} tokens in "
        f"{report.seconds:.1f} s; written to {outputs.path}"
    )
    if written.failed:
        raise CommandError(
            f"{written.failed:,} of {written.count:,} rows failed; the first: {written.first}. The same command "
            "retries temporary failures, --retry-all all of them"
        )


def _how_to_go_on(ctx: typer.Context, journal: Path) -> str:
    return f"answers so far are in {journal}; the same command resumes from there: {_same_command(ctx)}"


def _same_command(ctx: typer.Context) -> str:
    """The command line of this run, with secrets in URLs replaced."""
    words = ["namel3ss-ollama", "batch"]
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(str(parameter.name))
        if getattr(source, "name", "") != "COMMANDLINE":
            continue
        value = ctx.params[str(parameter.name)]
        if parameter.param_type_name == "argument":
            words.append(str(value))
        elif getattr(parameter, "is_flag", False):
            words.append((parameter.opts if value else parameter.secondary_opts)[0])
        else:
            for one in value if isinstance(value, list) else [value]:
                words += [parameter.opts[0], _without_secrets(str(one)) if parameter.name == "hosts" else str(one)]
    return shlex.join(words)


def _without_secrets(url: str) -> str:
    address = parse_address(url, lenient=True)
    return url if address.user is None else address.url.replace("://", f"://{address.user}:PASSWORD@", 1)
