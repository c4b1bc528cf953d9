"""How a command group handles an unknown name, and how the root command ends."""

from __future__ import annotations

import difflib
import errno
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from namel3ss_ollama import LLMError
from namel3ss_ollama.cli.console import CommandError, UsageError, fail
from namel3ss_ollama.cli.process import BROKEN_PIPE, INTERRUPTED, discard_output
from namel3ss_ollama.cli.wording import in_the_commands_words
from namel3ss_ollama.settings import RUNTIME_OPTIONS

__all__ = ["Commands", "Group"]

_OTHER_WORDS = {"run": "chat", "ask": "chat", "delete": "rm", "remove": "rm", "ls": "list", "download": "pull"}
_CANNOT_WRITE = frozenset({errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EDQUOT, errno.EBADF})


class Group(TyperGroup):
    """A group that suggests the command that was probably meant."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the first argument names."""
        name = str(args[0])
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            meant = _meant(ctx.find_root(), name)
            ctx.fail(f"No such command {name!r}" + (f"; did you mean `{meant}`?" if meant else ""))
        return super().resolve_command(ctx, args)


def _meant(root: Any, name: str) -> str | None:
    paths = {path.rpartition(" ")[2]: path for path in _paths(root.command, root.info_name)}
    name = _OTHER_WORDS.get(name, name)
    near = difflib.get_close_matches(name, paths, n=1, cutoff=0.7)
    return paths[near[0]] if near else None


def _paths(command: Any, path: str) -> Iterator[str]:
    for name, inner in getattr(command, "commands", {}).items():
        yield f"{path} {name}"
        yield from _paths(inner, f"{path} {name}")


class Commands(Group):
    """The root group. It raises nothing but `SystemExit`."""

    def make_context(self, *args: Any, **extra: Any) -> Any:
        """Parse the arguments, and print the help if requested."""
        try:
            return super().make_context(*args, **extra)
        except BrokenPipeError:
            raise _reader_gone() from None

    def invoke(self, ctx: Any) -> Any:
        """Run the command; errors become a line on standard error and an exit code."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # here, where a broken pipe can still be distinguished from a bug
            return result
        except BrokenPipeError:  # typer would use another exit code
            raise _reader_gone() from None
        except KeyboardInterrupt:
            if sys.stderr.isatty():
                print(file=sys.stderr)  # after the ^C that the terminal shows
            raise typer.Exit(INTERRUPTED) from None
        except UsageError as error:
            fail(str(error))
            raise typer.Exit(2) from None
        except (LLMError, CommandError) as error:
            fail(in_the_commands_words(str(error)))
            raise typer.Exit(1) from None

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:
        """Parse and run; usage errors also become one line."""
        try:
            sys.exit(self._code(args, *rest, **{**extra, "standalone_mode": False}))
        except BrokenPipeError:
            discard_output()
            sys.exit(BROKEN_PIPE)
        except OSError as error:
            if error.errno not in _CANNOT_WRITE:
                raise
            discard_output(sys.stdout)
            fail(f"cannot write the output: {error.strerror}")
            sys.exit(1)

    def _code(self, args: Sequence[str] | None, *rest: Any, **extra: Any) -> int:
        try:
            code = super().main(args, *rest, **extra)
            sys.stdout.flush()
        except typer.Abort:
            fail("aborted")
            return 1
        except Exception as error:
            # Some versions of typer bundle click, others depend on it: recognised by its attributes.
            if not hasattr(error, "format_message"):
                raise
            context = getattr(error, "ctx", None)
            hint = f"{_as_option(error, context)} (see {context.command_path} --help)" if context else ""
            fail(f"{' '.join(error.format_message().split()).rstrip('.')}{hint}")
            return int(getattr(error, "exit_code", 2))
        return code if isinstance(code, int) else 0


def _as_option(error: Exception, context: Any) -> str:
    """How to pass an option of the model that was written as an option of the command."""
    name = str(getattr(error, "option_name", "")).lstrip("-").replace("-", "_")
    passes = any("--option" in parameter.opts for parameter in context.command.params)
    return f"; pass it as --option {name}=VALUE" if passes and name in RUNTIME_OPTIONS else ""


def _reader_gone() -> typer.Exit:
    discard_output()
    return typer.Exit(BROKEN_PIPE)
