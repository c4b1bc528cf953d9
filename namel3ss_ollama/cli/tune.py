"""`namel3ss-ollama tune`: settings that fit a server, based on measurements."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from namel3ss_ollama import AtOnce, OllamaProvider, TuneProgress, Tuning, WindowCost
from namel3ss_ollama.cli.choosing import check_chat_model, pick_model
from namel3ss_ollama.cli.console import (
    CommandError,
    UsageError,
    checked_arguments,
    human_size,
    note,
    print_json,
    print_paragraph,
    print_table,
    styled,
)
from namel3ss_ollama.cli.interrupts import run
from namel3ss_ollama.cli.options import (
    HostsOption,
    ModelOption,
    Options,
    addresses,
    examples,
    read_options,
    where,
)

__all__ = ["EXAMPLES", "tune"]

EXAMPLES = examples(
    "namel3ss-ollama tune -m llama3.2",
    "namel3ss-ollama tune -m llama3.2 --host http://gpu1:11434 --budget 60 --no-windows",
    "namel3ss-ollama tune -m llama3.2 --window 16384 --window 32768 --plot tune.png",
)
_BAR = 40
"""Columns of a plot's longest bar."""


def tune(
    model: ModelOption = None,
    hosts: HostsOption = None,
    option: Options = None,
    budget: Annotated[
        float, typer.Option("--budget", metavar="SECONDS", min=1, help="The time limit for each server.")
    ] = 170.0,
    most: Annotated[
        int, typer.Option("--most", metavar="N", min=1, help="The highest number of concurrent requests to measure.")
    ] = 64,
    window: Annotated[
        list[int] | None,
        typer.Option(
            "--window",
            metavar="TOKENS",
            min=1,
            help="A context window to compare with the one in force; repeatable. If unset: twice, four times and half "
            "of that.",
        ),
    ] = None,
    no_windows: Annotated[
        bool, typer.Option("--no-windows", help="Do not compare context windows, so the model is not reloaded.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Also save the plot as a PNG file; needs matplotlib.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; a list for several servers.")] = False,
) -> None:
    """Measure a server, and recommend settings that fit it.

    Measures tokens per second, the time to first token and the wait in the server's queue by the number of concurrent
    requests, and the cost of other context windows. Other load on the server affects the results. Each window reloads
    the model; at the end it is loaded as before.

    Prints tables, a plot, and the settings that fit, each with its reason: as a call in Python, and as environment
    variables of the server. Several servers are measured one after the other.
    """
    if no_windows and window:
        raise UsageError("--window: cannot be given with --no-windows")
    urls = addresses(hosts)
    _check_plot(plot, len(urls))
    settings = read_options(option)
    windows = () if no_windows else window
    tunings = []
    for url in urls:
        one = None if url is None else [url]
        tuning = run(_tuned(one, model, settings, {"budget": budget, "most": most, "windows": windows}))
        tunings.append(tuning)
        if not as_json:
            _print(tuning, first=len(tunings) == 1)
    if plot is not None:
        _draw(tunings[0], plot)
    if as_json:
        found = [tuning.to_dict() for tuning in tunings]
        print_json(found if len(found) > 1 else found[0])


def _check_plot(plot: Path | None, servers: int) -> None:
    """Check that the plot can be saved, before measuring."""
    if plot is None:
        return
    if plot.suffix.lower() != ".png":
        raise UsageError(f"--plot: {plot} does not end in .png, the format of the plot")
    if servers > 1:
        raise UsageError("--plot: needs a single server; name it with --host")
    if not plot.parent.is_dir():
        raise CommandError(f"--plot: there is no directory {plot.parent}")
    if importlib.util.find_spec("matplotlib") is None:
        raise CommandError("--plot: needs matplotlib; pip install matplotlib, or leave --plot out")


async def _tuned(hosts: list[str] | None, model: str | None, settings: dict[str, Any], how: dict[str, Any]) -> Tuning:
    name = await pick_model(model, hosts)
    with checked_arguments():
        provider = OllamaProvider(name, where(hosts), **settings)
    async with provider:
        await check_chat_model(provider, hosts, images=False)
        with _progress(how["budget"]) as show:
            return await provider.tune(progress=show, **how)


@contextlib.contextmanager
def _progress(budget: float) -> Iterator[Callable[[TuneProgress], None]]:
    """A bar on a terminal, and a line for each step elsewhere, on standard error."""
    from rich.console import Console  # imported here: the other commands start faster without it
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal or console.is_dumb_terminal:

        def say(progress: TuneProgress) -> None:
            note(str(progress))

        yield say
        return
    columns = [BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False)]
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=1.0)

        def show(progress: TuneProgress) -> None:
            bar.update(task, completed=progress.fraction, description=f"{progress.what} (at most {budget:g} s)")

        yield show


def _print(tuning: Tuning, *, first: bool) -> None:
    if not first:
        print()
    print(styled(f"{tuning.model} at {tuning.host}, measured for {tuning.seconds:.0f} s", "bold", sys.stdout))
    print()
    print_table(["AT ONCE", "TOKENS/S", "FIRST P50", "FIRST P95", "QUEUE", "ANSWERS"], map(_at_once, tuning.at_once))
    print()
    for line in _bars(tuning.at_once):
        print(line)
    if len(tuning.windows) > 1:
        print()
        print_table(["NUM_CTX", "LOAD", "TOKENS/S", "MEMORY", "ON GPU"], map(_window, tuning.windows))
    for failure in [f"{row.at_once} at once: {row.failure}" for row in tuning.at_once if row.failure] + [
        f"num_ctx={row.num_ctx}: {row.failure}" for row in tuning.windows if row.failure
    ]:
        print_paragraph(failure, indent="  ", first="")
    print()
    for one in tuning.recommendations:
        value = "as it is" if one.value is None else str(one.value)
        print_paragraph(one.reason, first=f"{one.name} {value}: ", indent="  ", style="bold")
    print(f"\n{tuning.python}\n")
    for name, value in tuning.environment.items():
        print(f"{name}={value}")


def _at_once(row: AtOnce) -> list[str]:
    times = [_time(one) for one in (row.first_token_p50, row.first_token_p95, row.queue_wait)]
    return [str(row.at_once), "failed" if row.failure else f"{row.tokens_per_second:.1f}", *times, str(row.answers)]


def _window(row: WindowCost) -> list[str]:
    rate = "failed" if row.failure else "-" if row.tokens_per_second is None else f"{row.tokens_per_second:.1f}"
    gpu = "-" if row.on_gpu is None else f"{row.on_gpu:.0%}"
    size = "-" if row.memory is None else human_size(row.memory)
    return [str(row.num_ctx or "default"), _time(row.load), rate, size, gpu]


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.2f} s"


def _bars(rows: Sequence[AtOnce]) -> list[str]:
    """Tokens per second by the number of concurrent requests, as a bar chart of plain characters."""
    most = max(row.tokens_per_second for row in rows)
    return [
        f"{row.at_once:4} {'#' * round(_BAR * row.tokens_per_second / most if most else 0):{_BAR}} "
        f"{row.tokens_per_second:.1f} tokens/s"
        for row in rows
    ]


def _draw(tuning: Tuning, path: Path) -> None:
    """Save the measurements as a plot in a PNG file."""
    figure_module: Any = importlib.import_module("matplotlib.figure")  # an optional dependency
    figure = figure_module.Figure(figsize=(9, 3.5), layout="constrained", dpi=120)
    rows = [row for row in tuning.at_once if not row.failure]
    numbers = [row.at_once for row in rows]
    left, right = figure.subplots(1, 2)
    left.plot(numbers, [row.tokens_per_second for row in rows], marker="o")
    left.set(ylabel="tokens per second, all answers", ylim=(0, None))
    nan = float("nan")
    for name in ("first_token_p50", "first_token_p95", "queue_wait"):
        values = [getattr(row, name) for row in rows]
        right.plot(numbers, [nan if value is None else value for value in values], marker="o", label=name)
    right.set(ylabel="seconds", ylim=(0, None))
    right.legend()
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(numbers, [str(number) for number in numbers])
        axes.axvline(tuning["max_concurrent"].value, linestyle=":", color="grey")
        axes.set_xlabel("concurrent requests")
    figure.suptitle(f"{tuning.model} at {tuning.host}")
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise CommandError(f"--plot: {path} cannot be written: {error.strerror}") from error
    note(f"the plot is in {path}")
