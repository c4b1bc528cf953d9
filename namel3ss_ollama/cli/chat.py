"""`namel3ss-ollama chat`: one question and its answer, or an interactive session."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from namel3ss_ollama import LLMError, LLMResponse, Message, ModelNotFoundError, OllamaProvider, StreamChunk
from namel3ss_ollama.cli.answering import stream_answer
from namel3ss_ollama.cli.choosing import check_chat_model, missing, pick_model
from namel3ss_ollama.cli.console import (
    AnswerPrinter,
    CommandError,
    checked_arguments,
    note,
    print_json,
    stats_line,
)
from namel3ss_ollama.cli.history import History
from namel3ss_ollama.cli.interrupts import run
from namel3ss_ollama.cli.options import HostsOption, ModelOption, Options, examples, read_options, server, utf8, where
from namel3ss_ollama.cli.session import Session
from namel3ss_ollama.cli.wording import in_the_commands_words

__all__ = ["EXAMPLES", "chat"]

EXAMPLES = examples(
    'namel3ss-ollama chat "Why is the sky blue?"',
    "namel3ss-ollama chat -m llama3.2 -s 'Be brief.' -o temperature=0",
    'namel3ss-ollama chat "Sum up:" < notes.txt > summary.txt',
    'namel3ss-ollama chat --image photo.jpg "What is this?"',
)


def chat(
    prompt: Annotated[
        str | None,
        typer.Argument(metavar="PROMPT", help="The question; `-` reads it from standard input.", show_default=False),
    ] = None,
    model: ModelOption = None,
    system: Annotated[str | None, typer.Option("--system", "-s", metavar="TEXT", help="The system prompt.")] = None,
    hosts: HostsOption = None,
    option: Options = None,
    think: Annotated[
        bool | None,
        typer.Option("--think/--no-think", help="Turn reasoning on or off; if unset, the model's default."),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="json|FILE", help="Answer in JSON, or in JSON that follows the schema in a file."
        ),
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(
            "--image",
            metavar="PATH",
            exists=True,
            dir_okay=False,
            readable=True,
            help="An image file to send with the question. Repeatable.",
        ),
    ] = None,
    stats: Annotated[
        bool, typer.Option("--stats", help="Report tokens/s and the time to the first token afterwards.")
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object at the end: content, usage, finish_reason, metadata, ..."),
    ] = False,
    history: Annotated[
        bool,
        typer.Option(
            "--history/--no-history",
            envvar="NAMEL3SS_OLLAMA_HISTORY",
            help="Whether to save a conversation's questions for the next one (arrow up), in "
            "~/.local/state/namel3ss-ollama/history.",
        ),
    ] = True,
) -> None:
    """Ask a model, and print the answer as it arrives.

    The answer goes to standard output, reasoning and statistics to standard error. Piped input is appended to PROMPT.

    Without PROMPT, on a terminal, this starts a conversation. Ctrl-C stops an answer; the part that has arrived stays
    in the conversation. Ctrl-D or /bye ends the conversation, /clear clears it, /help lists the commands; a question
    between triple quotation marks can span several lines.

    Ctrl-C during a single answer prints what has arrived and ends with exit code 130; with --json, finish_reason is
    then null.
    """
    settings = {**read_options(option), "think": think, "format": read_format(format)}
    text = _question(prompt)
    if text is None and as_json:
        raise typer.BadParameter("a conversation cannot be printed as JSON; give a PROMPT", param_hint="--json")
    name = run(pick_model(model, hosts))
    with checked_arguments():
        provider = OllamaProvider(name, where(hosts), **settings)
    opening = [Message("system", utf8(system, "--system"))] if system else []
    if text is None:
        run(_check(name, hosts, images=bool(image)))
        Session(provider, opening, image or (), stats=stats, lines=History(kept=history)).run()
        return
    messages = [*opening, Message("user", text, images=image or ())]
    if run(_answer(provider, messages, hosts, stats=stats, as_json=as_json)):
        raise KeyboardInterrupt


async def _check(name: str, hosts: list[str] | None, *, images: bool) -> None:
    async with server(hosts, name) as provider:
        await check_chat_model(provider, hosts, images=images)


def _question(prompt: str | None) -> str | None:
    """The prompt with any piped input; None without either, on a terminal."""
    if prompt is None and sys.stdin.isatty():
        if not sys.stdout.isatty():
            raise typer.BadParameter("is needed when the output is not a terminal", param_hint="PROMPT")
        return None
    given = "" if prompt in (None, "-") else utf8(str(prompt), "PROMPT")
    piped = b"" if given and not _is_piped() else sys.stdin.buffer.read()
    try:
        text = "\n\n".join(filter(None, [given, piped.decode().rstrip("\n")]))
    except UnicodeDecodeError:
        raise CommandError("standard input is not UTF-8 text") from None
    if not text.strip():
        raise typer.BadParameter("is empty", param_hint="PROMPT")
    return text


def _is_piped() -> bool:
    """Whether standard input is a pipe or a file; anything else (a daemon's, cron's) is not read."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):
        return not sys.stdin.isatty()  # not a system file: an object in its place
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def read_format(value: str | None) -> Any:
    """The value of `--format`: "json", or the schema in a file.

    Raises:
        typer.BadParameter: The file does not exist, or is not a JSON object.
    """
    if value in (None, "json"):
        return value
    try:
        schema = json.loads(Path(str(value)).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problem = error.strerror if isinstance(error, OSError) else "not valid JSON"
        raise typer.BadParameter(
            f"{value!r} is neither json nor a file with a JSON schema ({problem})", param_hint="--format"
        ) from None
    if not isinstance(schema, dict):
        raise typer.BadParameter(f"{value!r} is not a JSON object", param_hint="--format")
    return schema


async def _answer(
    provider: OllamaProvider, messages: list[Message], hosts: list[str] | None, *, stats: bool, as_json: bool
) -> bool:
    """Print one answer; returns whether Ctrl-C stopped it."""
    printer = None if as_json else AnswerPrinter()
    try:
        response, interrupted = await stream_answer(provider, messages, printer.show if printer else _ignore)
    except ModelNotFoundError:
        async with server(hosts, provider.model) as asked:
            raise await missing(asked, provider.model, hosts) from None
    except LLMError as error:
        if as_json and error.partial:
            print_json({**_as_json(error.partial), "error": in_the_commands_words(error.message)})
        raise
    finally:
        if printer:
            printer.end()
    if as_json:
        print_json(_as_json(response))
    if stats:
        note(stats_line(response))
    return interrupted


def _ignore(chunk: StreamChunk) -> None:
    pass


def _as_json(response: LLMResponse) -> dict[str, Any]:
    return {
        "model": response.model,
        "host": response.host,
        "content": response.content,
        "thinking": response.thinking,
        "finish_reason": response.finish_reason,
        "usage": response.usage,
        "truncated_prompt": response.truncated_prompt,
        "metadata": response.metadata,
    }
