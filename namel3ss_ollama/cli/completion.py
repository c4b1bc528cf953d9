"""`namel3ss-ollama completion`: shell completion scripts, generated from the commands.

The scripts contain the names, so pressing Tab does not start Python.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from typing import Annotated, Any

import typer

from namel3ss_ollama.cli.options import examples

__all__ = ["EXAMPLES", "completion"]

EXAMPLES = examples(
    'eval "$(namel3ss-ollama completion bash)"     # in ~/.bashrc',
    'eval "$(namel3ss-ollama completion zsh)"      # in ~/.zshrc, after compinit',
    "namel3ss-ollama completion fish | source      # in ~/.config/fish/config.fish",
)
_FILES = ("--image", "--format", "--journal")


class Shell(str, Enum):
    """The supported shells."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"


def completion(
    ctx: typer.Context, shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")]
) -> None:
    """Print a script that makes a shell complete commands and options."""
    root = ctx.find_root()
    commands = dict(_tree(root, root.command, ""))
    name = str(root.info_name)
    print(_fish(name, commands) if shell is Shell.fish else _bash(name, commands, zsh=shell is Shell.zsh))


def _tree(ctx: Any, command: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from _tree(ctx, inner, f"{path}/{name}")


def _options(command: Any) -> list[tuple[list[str], bool, str]]:
    """The names of each option, whether it takes a value, and its help."""
    found = [
        ([*one.opts, *one.secondary_opts], not one.is_flag, str(one.help or ""))
        for one in command.params
        if one.param_type_name == "option"
    ]
    return [*found, (["--help", "-h"], False, "Show the help.")]


def _bash(name: str, commands: dict[str, Any], *, zsh: bool) -> str:
    function = "_" + re.sub(r"\W", "_", name)
    paths = "|".join(path for path in commands if path)
    values: dict[bool, list[str]] = {True: [], False: []}
    words = []
    for path, command in commands.items():
        options = _options(command)
        for names, takes_value, _ in options:
            if takes_value:
                values[names[0] in _FILES] += [f"{path}:{one}" for one in names]
        offered = [*getattr(command, "commands", {}), *(one for names, _, _ in options for one in names)]
        if path == "/completion":
            offered = [*(one.value for one in Shell), *offered]
        words.append(f'        "{path}") words="{" ".join(offered)}" ;;')
    head = "autoload -U +X bashcompinit && bashcompinit\n" if zsh else ""
    lines = "\n".join(words)
    return f"""{head}{function}() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}" at="" words="" i
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "$at/${{COMP_WORDS[i]}}" in
            {paths}) at="$at/${{COMP_WORDS[i]}}" ;;
        esac
    done
    COMPREPLY=()
    case "$at:$previous" in
        {"|".join(values[True])})
            compopt -o default 2>/dev/null || COMPREPLY=($(compgen -f -- "$current"))
            return ;;
        {"|".join(values[False])}) return ;;
    esac
    case "$at" in
{lines}
    esac
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -F {function} {name}"""


def _fish(name: str, commands: dict[str, Any]) -> str:
    lines = [f"complete -c {name} -f"]
    for path, command in commands.items():
        seen = path.strip("/").split("/") if path else []
        inner = list(getattr(command, "commands", {}))
        tests = [f"__fish_seen_subcommand_from {one}" for one in seen]
        if inner:
            tests.append(f"not __fish_seen_subcommand_from {' '.join(inner)}")
        condition = f"-n {_quoted('; and '.join(tests))}"
        for one in inner:
            text = (command.commands[one].help or "").strip().split("\n")[0]
            lines.append(f"complete -c {name} {condition} -a {one} -d {_quoted(text)}")
        if path == "/completion":
            lines.append(f"complete -c {name} {condition} -a {_quoted(' '.join(one.value for one in Shell))}")
        for names, takes_value, text in _options(command):
            flags = " ".join(f"-l {one[2:]}" if one.startswith("--") else f"-s {one[1:]}" for one in names)
            value = "" if not takes_value else " -r -F" if names[0] in _FILES else " -x"
            lines.append(f"complete -c {name} {condition} {flags}{value} -d {_quoted(text)}")
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
