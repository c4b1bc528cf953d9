"""`namel3ss-ollama serve`: models in this process, served over Ollama's API."""

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
        bool,
        typer.Option(
            "--embedded", help="Serve the engine in this process; required, as nothing else can be served yet."
        ),
    ] = False,
    port: Annotated[
        int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="The port; 0 picks a free one.")
    ] = 11434,
    host: Annotated[
        str, typer.Option("--host", metavar="HOST", help="The address to listen on; there is no authentication.")
    ] = "127.0.0.1",
) -> None:
    """Serve models from this process over Ollama's API, until Ctrl-C.

    Any Ollama client can use it, in any language. The models are those of Ollama's own store, and those pulled with
    --embedded. Needs the extra `embedded`. Each request logs one line to standard error: time, request, status,
    duration and client address.
    """
    if not embedded:
        raise CommandError(
            "add --embedded: only the engine in this process can be served; Ollama's server is `ollama serve`"
        )
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
                    f"warning: {host or 'every address'} can be reached from other machines, without authentication",
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
    """Whether a listen address is reachable from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
