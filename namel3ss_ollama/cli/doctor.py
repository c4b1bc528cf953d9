"""`namel3ss-ollama doctor`: what is wrong, and what mends it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from namel3ss_ollama import OllamaProvider, RetryPolicy
from namel3ss_ollama.cli.checks import Examination, Finding
from namel3ss_ollama.cli.console import checked_arguments, print_json, print_paragraph
from namel3ss_ollama.cli.interrupts import run
from namel3ss_ollama.cli.options import BaseUrl, ModelOption, Options, read_options, server

__all__ = ["doctor"]

_STYLES = {"ok": "dim", "note": "dim", "warning": "yellow", "problem": "red"}


def doctor(
    model: ModelOption = None,
    base_url: BaseUrl = None,
    option: Options = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object with all that was found.")] = False,
) -> None:
    """Find out what is wrong with a server or a model, and what mends it.

    Looks at the server, its models, and for one model: what it can do, whether it loads and stays loaded, whether the
    context window in force is much smaller than the model's own, and how fast it answers.

    Exit code 0 when all works (with warnings, perhaps), 1 when there are problems.
    """
    settings = read_options(option)

    def make(name: str) -> OllamaProvider:
        with checked_arguments():
            return OllamaProvider(name, base_url, retry=RetryPolicy.off(), **settings)

    promptly = server(base_url, model or "none", retry=RetryPolicy.off())
    make(promptly.model)  # what is wrong with the options is wrong now
    examination = Examination(promptly, make, settings, _ignore if as_json else _print, base_url=base_url)
    run(examination.run(model))
    if as_json:
        findings = [asdict(finding) for finding in examination.findings]
        print_json({"ok": examination.ok, **examination.facts, "findings": findings})
    if not examination.ok:
        raise typer.Exit(1)


def _print(finding: Finding) -> None:
    print_paragraph(finding.what, first=f"{finding.status:8} ", indent=" " * 9, style=_STYLES[finding.status])
    if finding.remedy:
        print_paragraph(finding.remedy, first=f"{'':8} -> ", indent=" " * 12)


def _ignore(finding: Finding) -> None:
    pass
