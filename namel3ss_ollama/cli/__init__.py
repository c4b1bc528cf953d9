"""The command `namel3ss-ollama`: chat with a model, manage the models of a server, diagnose problems.

Needs the extra `cli` (typer and rich); importing `namel3ss_ollama` does not. The commands are thin: they parse
arguments, call `OllamaProvider` and print the result, the answer to standard output and everything else to standard
error.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # see `namel3ss_ollama`: imports here run before Ctrl-C can be handled
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; raises `SystemExit` with 0, 1 (failure), 2 (wrong usage), 130 (Ctrl-C) or 141 (pipe).

    Args:
        args: The arguments; by default those of the process, in which case the command also handles Ctrl-C.
    """
    from namel3ss_ollama.cli.process import leave_on_interrupt, open_closed_streams

    if args is None:
        leave_on_interrupt()
    open_closed_streams()
    try:
        import rich  # noqa: F401 # imported lazily elsewhere; here so that a missing package shows at once
        import typer  # noqa: F401
    except ModuleNotFoundError as error:
        print(
            f"namel3ss-ollama: {error.name} is not installed; pip install 'namel3ss-ollama[cli]' installs the command "
            "line's dependencies",
            file=sys.stderr,
        )
        raise SystemExit(1) from None
    from namel3ss_ollama.cli.app import app
    from namel3ss_ollama.cli.console import show_warnings

    show_warnings()
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="replace")  # a character that the terminal lacks becomes `?`, not a traceback
    app(args=args, prog_name="namel3ss-ollama")
