"""docs/cli.md is the help of every command; this holds it to that, and writes it anew when asked to."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from namel3ss_ollama.cli.app import app

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
WRITE = "NAMEL3SS_WRITE_DOCS"
HEAD = f"""# The command line

`pip install 'namel3ss-ollama[cli]'` brings the command `namel3ss-ollama`; `python -m namel3ss_ollama.cli` is the same.
This page is what `--help` says, of every command.

<!-- Made by tests/cli/test_cli_docs.py out of the commands; {WRITE}=1 makes it anew. -->
"""


def test_the_page_is_what_the_commands_say() -> None:
    page = "\n".join([HEAD, *sections(get_command(app), "namel3ss-ollama")])
    if os.environ.get(WRITE):
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page, (
        f"docs/cli.md is stale; make it anew: {WRITE}=1 python -m pytest tests/cli/test_cli_docs.py"
    )


def test_everything_has_a_help_text() -> None:
    for path, command in tree(get_command(app), "namel3ss-ollama"):
        assert command.help, path
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{path}: {parameter.name}"


def tree(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, command
    for name in sorted(getattr(command, "commands", {})):
        yield from tree(command.commands[name], f"{path} {name}")


def sections(root: Any, name: str) -> Iterator[str]:
    """The page, from what the commands are rather than how a version of typer prints it."""
    for path, command in tree(root, name):
        yield f"## {path}\n"
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        options = [p for p in command.params if p.param_type_name == "option"]
        commands = sorted(getattr(command, "commands", {}))
        usage = [path, "[OPTIONS]", *(placeholder(p) for p in arguments), *(["COMMAND ..."] if commands else [])]
        yield f"```\n{' '.join(usage)}\n```\n"
        yield f"{inspect.cleandoc(command.help)}\n"
        items = [*((placeholder(p), p) for p in arguments), *((flags(p), p) for p in options)]
        if items:
            yield "\n".join(f"- `{what}`: {text(p)}" for what, p in items) + "\n"
        if command.epilog:
            title, *examples = command.epilog.removeprefix("\b\n").splitlines()
            yield f"{title}\n\n```console\n{inspect.cleandoc(chr(10).join(examples))}\n```\n"
        if commands:
            yield f"Commands: {', '.join(f'`{path} {one}`' for one in commands)}\n"


def placeholder(parameter: Any) -> str:
    return str(parameter.metavar) if parameter.required else f"[{parameter.metavar}]"


def flags(parameter: Any) -> str:
    names = ", ".join(sorted(parameter.opts, key=len))
    if parameter.secondary_opts:
        names += " / " + ", ".join(parameter.secondary_opts)
    return names if parameter.is_flag else f"{names} {parameter.metavar}"


def text(parameter: Any) -> str:
    variable = f" Else the environment's {parameter.envvar}." if parameter.envvar else ""
    return f"{parameter.help}{variable}"
