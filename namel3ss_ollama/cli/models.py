"""`namel3ss-ollama models`: list, pull, show, rm, ps."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Annotated, Any

import typer

from namel3ss_ollama import BadRequestError, MalformedResponseError, OllamaProvider, ServerError
from namel3ss_ollama.address import EMBEDDED_URL
from namel3ss_ollama.cli.choosing import get_one, shown_or_missing
from namel3ss_ollama.cli.commands import Group
from namel3ss_ollama.cli.console import human_size, note, print_json, print_paragraph, print_table, styled
from namel3ss_ollama.cli.interrupts import run
from namel3ss_ollama.cli.options import AsJson, HostsOption, OneHostOption, examples, named, one_server, place, server
from namel3ss_ollama.cli.progress import PullProgress
from namel3ss_ollama.windows import window_of

__all__ = ["app"]

app = typer.Typer(
    cls=Group,
    rich_markup_mode=None,
    epilog=examples(
        "namel3ss-ollama models list",
        "namel3ss-ollama models pull llama3.2",
        "namel3ss-ollama models pull smollm2:135m --embedded",
        "namel3ss-ollama models rm llama3.2",
    ),
)
Name = Annotated[
    str, typer.Argument(metavar="NAME", callback=named, help="The model's name, such as llama3.2 or qwen3:8b.")
]


@app.callback(invoke_without_command=True)
def _models(ctx: typer.Context) -> None:
    """Manage the models of a server."""
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())


@app.command("list")
def list_(hosts: HostsOption = None, as_json: AsJson = False) -> None:
    """List the models that the server has."""
    provider = server(hosts)
    models = run(provider.list_models())
    if as_json:
        print_json(models)
    elif models:
        _print_models(provider, ["NAME", "SIZE", "PARAMETERS", "QUANTIZATION", "MODIFIED"], models, _listed)
    else:
        has = "have" if provider.hosts() else "has"
        note(f"{place(provider)} {has} no models; get one: {get_one(provider, hosts)}")


def _print_models(
    provider: OllamaProvider,
    head: list[str],
    models: list[dict[str, Any]],
    cells: Callable[[dict[str, Any]], list[str]],
) -> None:
    """Print a table of models; with several hosts, it shows which hosts have each."""
    if provider.hosts():
        print_table([*head, "HOST"], ([*cells(model), str(model["host"])] for model in models))
    else:
        print_table(head, map(cells, models))


def _listed(model: dict[str, Any]) -> list[str]:
    details = model.get("details") or {}
    return [
        str(model.get("name", "?")),
        human_size(model.get("size")),
        str(details.get("parameter_size") or "?"),
        str(details.get("quantization_level") or "?"),
        str(model.get("modified_at", "?"))[:10],
    ]


@app.command()
def pull(
    name: Name,
    hosts: OneHostOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print progress as JSON, one object per line, as the server sends it.")
    ] = False,
    insecure: Annotated[bool, typer.Option("--insecure", help="Allow a registry without TLS.")] = False,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="For the engine in this process: the same as --host embedded://.")
    ] = False,
) -> None:
    """Download a model, or the changed parts of it.

    A broken connection is reopened. Ctrl-C stops the download; the server keeps what it has and resumes from there the
    next time.
    """
    if embedded and hosts:
        raise typer.BadParameter("cannot be given together with --host", param_hint="--embedded")
    run(_pull(name, [EMBEDDED_URL] if embedded else hosts, as_json=as_json, insecure=insecure))


async def _pull(name: str, hosts: list[str] | None, *, as_json: bool, insecure: bool) -> None:
    async with one_server(hosts, name) as provider:
        updates = provider.pull_model(insecure=insecure)
        if as_json:
            async for update in updates:
                print_json(update, indent=None)
            return
        with PullProgress() as progress:
            async for update in updates:
                progress.show(update)


@app.command()
def show(name: Name, hosts: HostsOption = None, as_json: AsJson = False) -> None:
    """Show the details of a model: its capabilities, its context window, its parameters."""
    shown = run(shown_or_missing(server(hosts, name), name, hosts))
    if as_json:
        print_json(shown)
        return
    details = shown.get("details") or {}
    window = window_of(name, shown, {})
    facts = {
        "family": details.get("family"),
        "parameters": details.get("parameter_size"),
        "quantization": details.get("quantization_level"),
        "capabilities": ", ".join(shown.get("capabilities") or ()),
        "context window": window.trained and f"{window.trained} tokens",
    }
    print(styled(name, "bold", sys.stdout))
    for what, value in facts.items():
        print_paragraph(str(value or "?"), first=f"  {what:15} ", indent=" " * 18)
    for title, text in (("Parameters", shown.get("parameters")), ("System prompt", shown.get("system"))):
        if text:
            print(f"\n{styled(title, 'bold', sys.stdout)}")
            print("\n".join(f"  {line}" for line in str(text).strip().splitlines()))


@app.command()
def rm(
    name: Name,
    hosts: OneHostOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a model from the server."""
    provider = one_server(hosts, name)
    with contextlib.suppress(ServerError, BadRequestError, MalformedResponseError):  # a broken model can be deleted
        run(shown_or_missing(provider, name, hosts, download=False))
    if not yes:
        typer.confirm(f"Delete {name} from {provider.base_url}?", abort=True, err=True)
    run(provider.delete_model(name))
    note(f"deleted {name}")


@app.command()
def ps(hosts: HostsOption = None, as_json: AsJson = False) -> None:
    """List the loaded models: their processor, context window, and when they expire."""
    provider = server(hosts)
    models = run(provider.running_models())
    if as_json:
        print_json(models)
    elif models:
        now = datetime.now(timezone.utc)

        def cells(model: dict[str, Any]) -> list[str]:
            return [
                str(model.get("name", "?")),
                human_size(model.get("size")),
                processor(model),
                str(model.get("context_length") or "?"),
                time_left(model.get("expires_at"), now),
            ]

        _print_models(provider, ["NAME", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"], models, cells)
    else:
        note("no model is loaded")


def processor(model: dict[str, Any]) -> str:
    """Where a loaded model is: CPU, GPU, or the share on the GPU."""
    size, on_gpu = model.get("size"), model.get("size_vram")
    if not isinstance(size, int) or not isinstance(on_gpu, int) or size <= 0:
        return "?"
    share = round(100 * on_gpu / size)
    return {0: "CPU", 100: "GPU"}.get(share, f"{share}% GPU")


def time_left(expires_at: object, now: datetime) -> str:
    """The time left until a timestamp of the server (RFC 3339, with nanoseconds)."""
    found = re.match(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d)", str(expires_at))
    if found is None:
        return "?"
    seconds = (datetime.fromisoformat(found[1] + found[2].replace("Z", "+00:00")) - now).total_seconds()
    if seconds <= 0:
        return "now"
    for unit, length in (("s", 1), ("min", 60), ("h", 3600), ("days", 86400)):
        if seconds < length * {"s": 90, "min": 90, "h": 36}.get(unit, 36500):
            return f"{seconds / length:.0f} {unit}"
    return "for ever"
