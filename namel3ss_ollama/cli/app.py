"""The command tree."""

from __future__ import annotations

from typing import Annotated

import typer

from namel3ss_ollama import __version__
from namel3ss_ollama.cli import batch, chat, completion, doctor, hosts, models, serve, tune
from namel3ss_ollama.cli.commands import Commands
from namel3ss_ollama.cli.options import examples

__all__ = ["app"]

app = typer.Typer(
    cls=Commands,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples(
        "namel3ss-ollama models pull llama3.2",
        'namel3ss-ollama chat "Why is the sky blue?"',
        'git diff | namel3ss-ollama chat -m llama3.2 "Write a commit message for this:"',
        "namel3ss-ollama chat --host embedded:// -m smollm2:135m",
        "namel3ss-ollama batch questions.jsonl answers.jsonl -m llama3.2",
        "namel3ss-ollama doctor",
        "namel3ss-ollama tune -m llama3.2",
    ),
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit()


@app.callback(invoke_without_command=True)
def _root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Chat with models on an Ollama server, run batches, manage models, and diagnose problems.

    The server is the one at --host, else at OLLAMA_BASE_URL, else at OLLAMA_HOST, else at http://localhost:11434;
    embedded:// runs the model in this process. For several servers, repeat --host, or separate them by commas in
    OLLAMA_HOSTS. OLLAMA_API_KEY is sent if set. NO_COLOR and FORCE_COLOR are respected.

    Exit codes: 0 success, 1 failure (one line on standard error says why), 2 wrong usage, 130 Ctrl-C, 141 the output
    pipe was closed.
    """
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())


app.command(epilog=chat.EXAMPLES)(chat.chat)
app.command(epilog=batch.EXAMPLES)(batch.batch)
app.add_typer(models.app, name="models")
app.command()(doctor.doctor)
app.command(epilog=hosts.HOSTS_EXAMPLES)(hosts.hosts)
app.command(epilog=hosts.TOP_EXAMPLES)(hosts.top)
app.command(epilog=tune.EXAMPLES)(tune.tune)
app.command(epilog=serve.EXAMPLES)(serve.serve)
app.command(epilog=completion.EXAMPLES)(completion.completion)
