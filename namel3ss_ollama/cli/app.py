"""The tree of commands, and how each of them ends: exit codes, and errors as one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from namel3ss_ollama import LLMError, __version__
from namel3ss_ollama.cli import chat, doctor, models, serve
from namel3ss_ollama.cli.console import CommandError, fail

__all__ = ["app"]

INTERRUPTED = 130
BROKEN_PIPE = 141
"""What a shell reports for a program that SIGPIPE ended."""


class Commands(TyperGroup):
    """The outermost group. Nothing gets past it but `SystemExit`."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what it raises becomes a line on standard error and an exit code."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # here, where a broken pipe can still be told from a bug
            return result
        except BrokenPipeError:
            _discard_output()
            raise typer.Exit(BROKEN_PIPE) from None
        except KeyboardInterrupt:
            fail("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except (LLMError, CommandError) as error:
            fail(str(error))
            raise typer.Exit(1) from None

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:
        """Parse and run; usage errors become one line, too."""
        extra["standalone_mode"] = False
        try:
            code = super().main(args, *rest, **extra)
        except typer.Abort:
            fail("aborted")
            code = 1
        except Exception as error:
            # Typer brings click along in some versions and depends on it in others: known by what it can do.
            if not hasattr(error, "format_message"):
                raise
            context = getattr(error, "ctx", None)
            hint = f" (see {context.command_path} --help)" if context else ""
            fail(f"{' '.join(error.format_message().split()).rstrip('.')}{hint}")
            code = getattr(error, "exit_code", 2)
        sys.exit(code if isinstance(code, int) else 0)


def _discard_output() -> None:
    """Let the interpreter's last flush go nowhere."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        pass  # standard output is no file: nothing will complain


app = typer.Typer(
    cls=Commands,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit()


@app.callback(invoke_without_command=True)
def _root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Chat with models on an Ollama server, look after them, and find out what is wrong.

    The server is the one at --base-url, else at OLLAMA_BASE_URL, else at OLLAMA_HOST, else at http://localhost:11434;
    embedded:// is a model in this process. OLLAMA_API_KEY, where set, is sent along.

    Exit codes: 0 fine, 1 it failed (one line on standard error says why), 2 wrong usage, 130 Ctrl-C, 141 whoever
    read the output went away.
    """
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())


app.command()(chat.chat)
app.add_typer(models.app, name="models")
app.command()(doctor.doctor)
app.command()(serve.serve)
