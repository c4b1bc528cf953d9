"""Options that several commands share, and parsing of `key=value`."""

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
    """Check the value of an option that names something; a blank one is a mistake in a script.

    Raises:
        typer.BadParameter: It is blank.
    """
    if value is not None and not value.strip():
        raise typer.BadParameter("is empty")
    return value


def all_named(values: list[str] | None) -> list[str] | None:
    """As `named`, for an option that can be given several times."""
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
        help="The server's address; embedded:// for none. Repeatable, for several servers.",
    ),
]
OneHostOption = Annotated[
    list[str] | None,
    typer.Option(
        "--host",
        "--base-url",
        metavar="URL",
        callback=all_named,
        help="The server's address; embedded:// for none. Only one server at a time.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, as the server sends it.")]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        "-o",
        metavar="KEY=VALUE",
        help="A runtime option, such as temperature=0 or num_ctx=8192; the value is JSON, else text. Repeatable.",
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
    """The values of --host for a provider: a single address as a string, so that error messages have no index."""
    return hosts[0] if hosts and len(hosts) == 1 else hosts or None


def addresses(hosts: list[str] | None) -> list[str | None]:
    """The addresses of the servers; None stands for the environment's server, or the default.

    Raises:
        UsageError: One of several addresses is invalid, or given twice.
    """
    with checked_arguments():
        found = read_hosts(where(hosts), os.environ)
    return [host.url for host in found.hosts] if isinstance(found, Hosts) else [found]


def server(hosts: list[str] | None, model: str = "none", **settings: Any) -> OllamaProvider:
    """A provider for requests that are answered promptly; it needs a model, even for requests without one.

    Raises:
        UsageError: An argument is invalid.
    """
    with checked_arguments():
        return OllamaProvider(model, where(hosts), **{"stream_config": _PROMPTLY, **settings})


def one_server(hosts: list[str] | None, model: str) -> OllamaProvider:
    """As `server`, for commands that change a server.

    Raises:
        UsageError: An argument is invalid, or there are several servers.
    """
    provider = server(hosts, model)
    if urls := [state.url for state in provider.hosts()]:
        raise UsageError(
            f"this changes one server, and there are {', '.join(urls)}; name one of them, such as --host {urls[0]}"
        )
    return provider


def place(provider: OllamaProvider) -> str:
    """A readable name for a provider's server."""
    return " and ".join(state.url for state in provider.hosts()) or provider.base_url


def utf8(text: str, hint: str) -> str:
    """The text of an argument, unchanged.

    Raises:
        typer.BadParameter: It is not valid in UTF-8 (or the locale's encoding) and cannot be sent.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise typer.BadParameter("is not text in the terminal's encoding", param_hint=hint) from None
    return text


def read_options(pairs: Iterable[str] | None) -> dict[str, Any]:
    """The provider's keywords for `--option` values; options without a keyword go into `options`.

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
            note(f"warning: {key} is not a known option and is sent unchanged{hint}", "yellow")
            others[key] = value
    return {**known, "options": others} if others else known


def examples(*lines: str) -> str:
    """The epilog of a help text: example commands. The first character tells click not to rewrap them."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
