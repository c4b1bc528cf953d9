"""`namel3ss-ollama hosts` and `top`: the state of several servers, once or continuously."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from typing import Annotated, Any

import typer

from namel3ss_ollama import LLMError, OllamaProvider, RetryPolicy, StreamConfig
from namel3ss_ollama.cli.console import human_size, print_json, print_paragraph, print_table
from namel3ss_ollama.cli.interrupts import run
from namel3ss_ollama.cli.models import time_left
from namel3ss_ollama.cli.options import HostsOption, addresses, examples, named, server
from namel3ss_ollama.cli.wording import in_the_commands_words

__all__ = ["HOSTS_EXAMPLES", "TOP_EXAMPLES", "hosts", "top"]

HOSTS_EXAMPLES = examples(
    "namel3ss-ollama hosts --host http://gpu1:11434 --host http://gpu2:11434",
    "OLLAMA_HOSTS=http://gpu1:11434,http://gpu2:11434 namel3ss-ollama hosts --measure llama3.2",
)
TOP_EXAMPLES = examples("namel3ss-ollama top --host http://gpu1:11434 --host http://gpu2:11434 --interval 5")
_QUICKLY = StreamConfig(connect_timeout=2.0, first_chunk_timeout=2.0, chunk_timeout=2.0)
_HEAD = ["HOST", "STATE", "VERSION", "MODEL", "SIZE", "VRAM", "UNTIL"]
_MEASURED = ["WAIT", "TOKENS/S"]
_QUESTION = "Count from 1 to 5."
_FEW_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Look:
    """The state of a host.

    Attributes:
        host: Its address.
        up: Whether it answers.
        why_not: Why it does not, or why it could not be measured.
        version: Its version; empty if it does not answer.
        models: Its loaded models, as it sends them.
        wait: Seconds that a request waited in its own queue; None if not measured.
        tokens_per_second: Its generation speed.
    """

    host: str
    up: bool
    why_not: str = ""
    version: str = ""
    models: Sequence[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    wait: float | None = None
    tokens_per_second: float | None = None


def hosts(
    hosts: HostsOption = None,
    measure: Annotated[
        str | None,
        typer.Option(
            "--measure",
            metavar="MODEL",
            callback=named,
            help="First send each host a short prompt for this model, which loads it, and measure the wait in the "
            "host's own queue and the speed of the answer.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object per host.")] = False,
) -> None:
    """Show the state of each server: whether it is up, its version, its loaded models and when they expire.

    The servers are those of --host, which is repeatable, or those of OLLAMA_HOSTS, separated by commas; else the one
    server that every command uses.

    A server does not report how many requests it is processing; a program knows only its own (`provider.hosts()`).
    --measure shows how long one more request waits.

    Exit code 1 if no server is up.
    """
    looks = run(_look_once(_providers(hosts), measure))
    if as_json:
        print_json([asdict(look) for look in looks])
    else:
        print_table(_HEAD + (_MEASURED if measure else []), _rows(looks, measured=measure is not None))
        for look in looks:
            if look.why_not:
                print_paragraph(look.why_not, first=f"{look.host}: ", indent="  ")
    if not any(look.up for look in looks):
        raise typer.Exit(1)


def top(
    hosts: HostsOption = None,
    interval: Annotated[
        float,
        typer.Option("--interval", "-n", metavar="SECONDS", min=0.1, max=3600, help="The polling interval."),
    ] = 2.0,
) -> None:
    """Show what `hosts` shows, continuously, until Ctrl-C.

    Shows what the servers report: versions, and loaded models. A server does not report how many requests it is
    processing, and the requests of other programs are not visible from here.

    On a terminal, a table is updated in place; elsewhere, each poll prints a line per server and model, prefixed with
    the time.
    """
    run(_watch(_providers(hosts), interval))


def _providers(hosts: list[str] | None) -> list[OllamaProvider]:
    return [
        server(None if url is None else [url], stream_config=_QUICKLY, retry=RetryPolicy.off())
        for url in addresses(hosts)
    ]


@contextlib.asynccontextmanager
async def _open(providers: Sequence[OllamaProvider]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await asyncio.gather(*(provider.aclose() for provider in providers))


async def _look_once(providers: Sequence[OllamaProvider], model: str | None) -> list[Look]:
    async with _open(providers):
        measured = await asyncio.gather(*(_measure(provider, model) for provider in providers))
        looks = await asyncio.gather(*map(_look, providers))
    return [_with(look, one) for look, one in zip(looks, measured, strict=True)]


async def _look(provider: OllamaProvider) -> Look:
    url = provider.base_url
    try:
        version = await provider.version()
        return Look(url, up=True, version=version, models=await provider.running_models())
    except LLMError as error:
        return Look(url, up=False, why_not=in_the_commands_words(str(error)))


async def _measure(provider: OllamaProvider, model: str | None) -> dict[str, Any] | LLMError:
    """The host's timings of a short answer, or why there is none."""
    if model is None:
        return {}
    try:
        response = await provider.agenerate(
            _QUESTION, model=model, max_tokens=_FEW_TOKENS, on_truncation="ignore", stream_config=StreamConfig()
        )
    except LLMError as error:
        return error
    return response.metadata


def _with(look: Look, measured: dict[str, Any] | LLMError) -> Look:
    if isinstance(measured, LLMError):
        return look if not look.up else replace(look, why_not=in_the_commands_words(str(measured)))
    total, *parts = (measured.get(f"{part}_duration") or 0 for part in ("total", "load", "prompt_eval", "eval"))
    wait = max(total - sum(parts), 0) / 1e9 if total else None
    return replace(look, wait=wait, tokens_per_second=measured.get("tokens_per_second"))


def _rows(looks: Sequence[Look], *, measured: bool = False) -> list[list[str]]:
    """A row for each loaded model of a host, or one row for a host without any."""
    now = datetime.now(timezone.utc)
    return [
        [look.host, "up" if look.up else "down", look.version or "-", *cells, *(_measures(look) if measured else [])]
        for look in looks
        for cells in [_cells(model, now) for model in look.models] or [["-"] * 4]
    ]


def _cells(model: dict[str, Any], now: datetime) -> list[str]:
    return [
        str(model.get("name", "?")),
        human_size(model.get("size")),
        human_size(model.get("size_vram")),
        time_left(model.get("expires_at"), now),
    ]


def _measures(look: Look) -> list[str]:
    rate = look.tokens_per_second
    return ["-" if look.wait is None else f"{look.wait:.2f} s", "-" if rate is None else f"{rate:.1f}"]


async def _watch(providers: Sequence[OllamaProvider], interval: float) -> None:
    from rich.console import Console  # imported here: the other commands start faster without it
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, markup=False, soft_wrap=True)

    def table(rows: Sequence[Sequence[str]]) -> Table:
        drawn = Table(*_HEAD, box=None, padding=(0, 2, 0, 0), header_style="bold")
        for row in rows:
            drawn.add_row(*map(Text, row))
        drawn.caption = Text(f"{time.strftime('%H:%M:%S')}, every {interval:g} s; Ctrl-C ends")
        drawn.caption_justify = "left"
        return drawn

    async with _open(providers):
        if not console.is_terminal or console.is_dumb_terminal:
            while True:
                when = time.strftime("%H:%M:%S")
                for row in _rows(await asyncio.gather(*map(_look, providers))):
                    print(when, *row, sep="  ", flush=True)
                await asyncio.sleep(interval)
        with Live(console=console, auto_refresh=False) as live:
            while True:
                live.update(table(_rows(await asyncio.gather(*map(_look, providers)))), refresh=True)
                await asyncio.sleep(interval)
