"""`namel3ss-ollama serve`: the model in this process, for every client of Ollama's API."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from typing import TYPE_CHECKING, Annotated

import typer

from namel3ss_ollama.cli.console import CommandError, note
from namel3ss_ollama.cli.interrupts import run
from namel3ss_ollama.cli.options import examples

if TYPE_CHECKING:
    from namel3ss_ollama.embedded.serve import Served

__all__ = ["EXAMPLES", "serve"]

EXAMPLES = examples(
    "namel3ss-ollama models pull smollm2:135m --embedded",
    "namel3ss-ollama serve --embedded --port 11500",
    "namel3ss-ollama chat --host localhost:11500",
)


def serve(
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Serve the engine in this process; there is nothing else to serve yet.")
    ] = False,
    port: Annotated[
        int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="The port; 0 takes a free one.")
    ] = 11434,
    host: Annotated[
        str, typer.Option("--host", metavar="HOST", help="The address to listen on; nobody has to authenticate.")
    ] = "127.0.0.1",
) -> None:
    """Serve models from this process under Ollama's API, until Ctrl-C.

    Any client of Ollama can talk to it, in any language. The models are those of Ollama's own store, and those that
    were pulled with --embedded. Needs the extra `embedded`. Each request is one line on standard error: when, which,
    its status, how long it took, and from where it came.
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
        async with serving(port, host, on_request=_log) as url:
            if not _is_loopback(host):
                note(
                    f"warning: {host or 'every address'} can be reached from other machines, and nobody has to "
                    "authenticate",
                    "yellow",
                )
            note(f"serving at {url}; Ctrl-C ends it")
            await asyncio.Event().wait()
    except OSError as error:
        hint = "; --port takes another one" if "in use" in str(error) else ""
        raise CommandError(f"cannot listen on {host}:{port}: {error.strerror or error}{hint}") from error


def _log(served: Served) -> None:
    when = time.strftime("%H:%M:%S")
    note(f"{when} {served.method} {served.path} {served.status} {served.seconds:.2f} s {served.remote}")


def _is_loopback(host: str) -> bool:
    """Whether an address to listen on is this machine's alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
