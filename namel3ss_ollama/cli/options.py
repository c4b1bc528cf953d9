"""What several commands share: their options, and reading `key=value`."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from namel3ss_ollama import OllamaProvider, StreamConfig
from namel3ss_ollama.cli.console import UsageError, checked_arguments, note
from namel3ss_ollama.hosts import Hosts, read_hosts
from namel3ss_ollama.settings import RUNTIME_OPTIONS

__all__ = [
    "AsJson",
    "HostsOption",
    "ModelOption",
    "OneHostOption",
    "Options",
    "addresses",
    "examples",
    "named",
    "one_server",
    "place",
    "read_options",
    "server",
    "utf8",
    "where",
]


def named(value: str | None) -> str | None:
    """The value of an option that names something; a blank one is a mistake in a script.

    Raises:
        typer.BadParameter: It is blank.
    """
    if value is not None and not value.strip():
        raise typer.BadParameter("is empty")
    return value


def all_named(values: list[str] | None) -> list[str] | None:
    """As `named`, of an option that can be given several times."""
    for value in values or ():
        named(value)
    return values


HostsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--host",
        "--base-url",
        metavar="URL",
        callback=all_named,
        help="Where the server is; embedded:// for none. Given several times: several servers.",
    ),
]
OneHostOption = Annotated[
    list[str] | None,
    typer.Option(
        "--host",
        "--base-url",
        metavar="URL",
        callback=all_named,
        help="Where the server is; embedded:// for none. One is changed at a time.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, as the server sends it.")]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        "-o",
        metavar="KEY=VALUE",
        help="A runtime option, such as temperature=0 or num_ctx=8192; the value is JSON, or else text. Repeatable.",
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME",
        envvar="OLLAMA_MODEL",
        callback=named,
        help="The model; the server's only chat model if unset.",
    ),
]
_PROMPTLY = StreamConfig(first_chunk_timeout=30.0, chunk_timeout=30.0)


def where(hosts: list[str] | None) -> str | list[str] | None:
    """What --host said, as a provider takes it: one address as text, so that what is wrong with it has no index."""
    return hosts[0] if hosts and len(hosts) == 1 else hosts or None


def addresses(hosts: list[str] | None) -> list[str | None]:
    """The address of each server that is meant; None for the one that the environment names, or the default.

    Raises:
        UsageError: One of several is wrong, or there twice.
    """
    with checked_arguments():
        found = read_hosts(where(hosts), os.environ)
    return [host.url for host in found.hosts] if isinstance(found, Hosts) else [found]


def server(hosts: list[str] | None, model: str = "none", **settings: Any) -> OllamaProvider:
    """A provider for questions that are answered promptly; a model has to be named, even where none is meant.

    Raises:
        UsageError: An argument is wrong.
    """
    with checked_arguments():
        return OllamaProvider(model, where(hosts), **{"stream_config": _PROMPTLY, **settings})


def one_server(hosts: list[str] | None, model: str) -> OllamaProvider:
    """As `server`, for what changes a server.

    Raises:
        UsageError: An argument is wrong, or there are several servers.
    """
    provider = server(hosts, model)
    if urls := [state.url for state in provider.hosts()]:
        raise UsageError(
            f"this changes one server, and there are {', '.join(urls)}; say which is meant, such as --host {urls[0]}"
        )
    return provider


def place(provider: OllamaProvider) -> str:
    """Where a provider's answers come from, in words."""
    return " and ".join(state.url for state in provider.hosts()) or provider.base_url


def utf8(text: str, hint: str) -> str:
    """The text of an argument as it is.

    Raises:
        typer.BadParameter: It was not UTF-8 (or whatever else the locale says) and cannot be sent.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise typer.BadParameter("is not text in the terminal's encoding", param_hint=hint) from None
    return text


def read_options(pairs: Iterable[str] | None) -> dict[str, Any]:
    """The keywords for a provider that `--option`s stand for; options without a keyword go into `options`.

    Raises:
        typer.BadParameter: One is not `key=value`.
    """
    known: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for pair in pairs or ():
        key, equals, text = utf8(pair, "--option").partition("=")
        if not key or not equals:
            raise typer.BadParameter(f"{pair!r} is not of the form key=value", param_hint="--option")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        if key in RUNTIME_OPTIONS:
            known[key] = value
        else:
            near = difflib.get_close_matches(key, RUNTIME_OPTIONS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            note(f"warning: {key} is no option that is known here and is sent as it is{hint}", "yellow")
            others[key] = value
    return {**known, "options": others} if others else known


def examples(*lines: str) -> str:
    """The end of a help text: commands to try. The first letter is click's sign for lines that stay as they are."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
