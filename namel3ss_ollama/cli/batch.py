"""`namel3ss-ollama batch`: ask a prompt of each row of a table; the same command again goes on after a kill."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from namel3ss_ollama import BatchReport, BatchRow, OllamaProvider
from namel3ss_ollama.cli.console import CommandError, UsageError, checked_arguments, note
from namel3ss_ollama.cli.interrupts import run
from namel3ss_ollama.cli.options import HostsOption, ModelOption, Options, examples, named, read_options, utf8, where
from namel3ss_ollama.cli.tables import checked_table, read_table, write_table

__all__ = ["EXAMPLES", "batch"]

Row = dict[str, Any]
EXAMPLES = examples(
    "namel3ss-ollama batch reviews.jsonl tagged.jsonl -m llama3.2 --prompt-field text --system 'Answer yes or no.'",
    "namel3ss-ollama batch in.csv out.csv -m llama3.2 --format city.json --host gpu1 --host gpu2",
    "namel3ss-ollama batch texts.parquet vectors.parquet -m all-minilm --embed --prompt-field text",
)
_ADDED = ("error", "error_type", "host", "tokens", "seconds")


def batch(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="The table: a .jsonl, .csv or .parquet file.")],
    target: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Where the rows go with their answers.")],
    model: ModelOption = None,
    prompt_field: Annotated[
        str, typer.Option("--prompt-field", metavar="NAME", callback=named, help="The field with the prompt.")
    ] = "prompt",
    id_field: Annotated[
        str | None,
        typer.Option(
            "--id-field", metavar="NAME", callback=named, help="The field with the row's id; its place if unset."
        ),
    ] = None,
    system: Annotated[str | None, typer.Option("--system", "-s", metavar="TEXT", help="The system prompt.")] = None,
    schema: Annotated[
        Path | None, typer.Option("--format", metavar="FILE", help="A JSON schema that the answers are to follow.")
    ] = None,
    embed: Annotated[bool, typer.Option("--embed", help="Embed the texts instead of answering them.")] = False,
    host: HostsOption = None,
    option: Options = None,
    journal: Annotated[
        Path | None,
        typer.Option("--journal", metavar="FILE", help="The file that answers are kept in; OUTPUT.journal if unset."),
    ] = None,
    max_concurrent: Annotated[
        int | None, typer.Option("--max-concurrent", metavar="N", min=1, help="How many requests run at once.")
    ] = None,
) -> None:
    """Ask the prompt of each row of a table, and write the rows with their answers.

    Each answer is kept in the journal as it comes. The same command again asks only what has no answer yet, and what
    failed in a way that may have passed: after Ctrl-C, a kill or a reboot it goes on.

    OUTPUT has each row of INPUT, in its order, with `answer` (or `vector`), `error`, `error_type`, `host`, `tokens`
    and `seconds`. It is written when all rows are done. A prompt is text, or in JSONL and Parquet a list of messages; a
    row without one is a row with an error.

    Exit codes: 0 all rows have an answer, 1 some have none or it could not go on, 130 Ctrl-C.
    """
    if not model:
        raise UsageError("name the model with --model")
    table, output = checked_table(source), checked_table(target)
    if output.exists() and table.exists() and output.samefile(table):
        raise UsageError(f"{output} is the input, too; name another file for the output")
    kept = journal or output.with_name(f"{output.name}.journal")
    settings = read_options(option)
    if max_concurrent is not None:
        settings["max_concurrent"] = max_concurrent
    if embed and (system is not None or schema is not None):
        raise UsageError("--system and --format are for answers; leave them out, or --embed")
    if schema is not None:
        settings["format"] = _read_schema(schema)
    with checked_arguments():
        provider = OllamaProvider(model, where(host), **settings)
    into = "vector" if embed else "answer"
    columns = [*next((row for _, row in read_table(table)), {}), into, *_ADDED]
    if taken := [name for name in (into, *_ADDED) if columns.count(name) > 1]:
        raise CommandError(f"{table} has a field {taken[0]!r} already, which the output would hide; rename it")
    prompts = (row.get(prompt_field) for _, row in read_table(table))
    ids = None if id_field is None else _ids(table, id_field)
    call = {} if system is None else {"system": utf8(system, "--system")}
    try:
        report = run(_ask(provider, prompts, ids, kept, call, embed=embed))
    except KeyboardInterrupt:
        note(f"what was answered is in {kept}; the same command goes on from there")
        raise
    write_table(output, _merged(table, report, into, prompt_field), columns)
    _say(report, output)


async def _ask(
    provider: OllamaProvider, prompts: Any, ids: Any, journal: Path, call: dict[str, Any], *, embed: bool
) -> BatchReport:
    with checked_arguments(CommandError):
        async with provider:
            if embed:
                return await provider.embed_batch(prompts, ids=ids, journal=journal, progress=True)
            return await provider.agenerate_batch(prompts, ids=ids, journal=journal, progress=True, **call)


def _ids(table: Path, field: str) -> Iterator[Any]:
    for number, row in read_table(table):
        if field not in row:
            raise CommandError(f"{table}, line {number}: there is no field {field!r} for the id")
        yield row[field]


def _read_schema(path: Path) -> dict[str, Any]:
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"--format: cannot read {path}: {error}") from error
    if not isinstance(schema, dict):
        raise UsageError(f"--format: {path} holds no JSON schema, which is an object")
    return schema


def _merged(table: Path, report: BatchReport, into: str, field: str) -> Iterator[Row]:
    """The rows of the input, each with what came of it."""
    for (number, row), done in zip(read_table(table), report.rows(), strict=True):
        about = {into: _answer(done), **_about(done, None if field in row else f"line {number} has no {field!r}")}
        if taken := row.keys() & about.keys():
            raise CommandError(f"{table}, line {number}: the output would hide the field {min(taken)!r}; rename it")
        yield {**row, **about}


def _answer(row: BatchRow) -> object:
    return row.vector if row.answer is None else row.answer.content


def _about(row: BatchRow, missing: str | None) -> Row:
    failure = row.failure
    error = None if failure is None else missing or failure.message
    kind = None if failure is None else failure.type
    return dict(zip(_ADDED, (error, kind, row.host or None, row.tokens, round(row.seconds, 3)), strict=True))


def _say(report: BatchReport, output: Path) -> None:
    failed = report.failed + report.failed_before
    skipped = f", {report.skipped:,} were in the journal" if report.skipped else ""
    note(f"{report.answered:,} answered in {report.seconds:,.1f} s{skipped}; written to {output}")
    if failed:
        rows = "1 row has" if failed == 1 else f"{failed:,} rows have"
        raise CommandError(
            f"{rows} no answer; the column `error` of {output} says why, and the same command asks again what may have "
            "passed"
        )
