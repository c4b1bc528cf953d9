"""The command `namel3ss-ollama`: chat with a model, look after the models of a server, find out what is wrong.

Needs the extra `cli` (typer and rich); importing `namel3ss_ollama` does not. The commands are thin: they read
arguments, call `OllamaProvider` and write what comes back, the answer to standard output and all else to standard
error.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = (
    False  # see `namel3ss_ollama`: what is imported here is imported before anything can be done about Ctrl-C
)
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; ends in `SystemExit` with 0, 1 (it failed), 2 (wrong usage), 130 (Ctrl-C) or 141 (pipe).

    Args:
        args: The arguments; those of the process by default, whose handling of Ctrl-C is then the command's.
    """
    from namel3ss_ollama.cli.process import leave_on_interrupt, open_closed_streams

    if args is None:
        leave_on_interrupt()
    open_closed_streams()
    try:
        import rich  # noqa: F401 # imported where it is needed; here, so that its lack shows at once
        import typer  # noqa: F401
    except ModuleNotFoundError as error:
        print(
            f"namel3ss-ollama: {error.name} is not installed; pip install 'namel3ss-ollama[cli]' brings the command "
            "line's needs along",
            file=sys.stderr,
        )
        raise SystemExit(1) from None
    from namel3ss_ollama.cli.app import app
    from namel3ss_ollama.cli.console import show_warnings

    show_warnings()
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="replace")  # a terminal that lacks a letter gets a `?`, not a traceback
    app(args=args, prog_name="namel3ss-ollama")
