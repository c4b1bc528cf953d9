"""`namel3ss-ollama serve`: the model in this process, for every client of Ollama's API."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from namel3ss_ollama.cli.console import CommandError, note
from namel3ss_ollama.cli.interrupts import run

__all__ = ["serve"]


def serve(
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Serve the engine in this process; there is nothing else to serve yet.")
    ] = False,
    port: Annotated[int, typer.Option("--port", metavar="PORT", help="The port; 0 takes a free one.")] = 11434,
    host: Annotated[
        str, typer.Option("--host", metavar="HOST", help="The address to listen on; nobody has to authenticate.")
    ] = "127.0.0.1",
) -> None:
    """Serve models from this process under Ollama's API, until Ctrl-C.

    Any client of Ollama can talk to it, in any language. The models are those of Ollama's own store, and those that
    were pulled with --embedded. Needs the extra `embedded`.
    """
    if not embedded:
        raise CommandError("say --embedded: serving means the engine in this process; Ollama's own is `ollama serve`")
    run(_serve(port, host))


async def _serve(port: int, host: str) -> None:
    try:
        from namel3ss_ollama.embedded.serve import serving
    except ModuleNotFoundError as error:
        raise CommandError(f"{error.name} is not installed: pip install 'namel3ss-ollama[embedded]'") from error
    try:
        async with serving(port, host) as url:
            note(f"serving at {url}; Ctrl-C ends it")
            await asyncio.Event().wait()
    except OSError as error:
        raise CommandError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
