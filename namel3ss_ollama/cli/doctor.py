"""`namel3ss-ollama doctor`: problems and how to fix them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

import typer

from namel3ss_ollama import OllamaProvider, RetryPolicy
from namel3ss_ollama.cli.checks import Examination, Finding, differences_between
from namel3ss_ollama.cli.console import checked_arguments, print_json, print_paragraph, without_warnings
from namel3ss_ollama.cli.interrupts import run
from namel3ss_ollama.cli.options import HostsOption, ModelOption, Options, addresses, read_options, server, where

__all__ = ["doctor"]

_STYLES = {"ok": "dim", "note": "dim", "warning": "yellow", "problem": "red"}


def doctor(
    model: ModelOption = None,
    hosts: HostsOption = None,
    option: Options = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object with all findings.")] = False,
) -> None:
    """Diagnose problems with a server or a model, and say how to fix them.

    With several servers, checks each one, and reports differences between them: different models under one name, and
    different context windows.

    Checks the server, its models, and for one model: its capabilities, whether it loads and stays loaded, whether the
    context window in force is much smaller than the model's own, and how fast it answers.

    Exit code 0 if everything works (warnings included), 1 if there are problems.
    """
    settings = read_options(option)
    tell = _ignore if as_json else _print
    examinations = [_examination(None if url is None else [url], model, settings, tell) for url in addresses(hosts)]
    for examination in examinations:
        run(examination.run(model))
    reports = [_report(examination) for examination in examinations]
    if len(examinations) == 1:
        report = reports[0]
    else:
        with without_warnings():
            differing = run(differences_between(server(hosts, retry=RetryPolicy.off()), model))
        for finding in differing:
            tell(finding)
        ok = all(examination.ok for examination in examinations)
        report = {"ok": ok, "hosts": reports, "findings": [asdict(finding) for finding in differing]}
    if as_json:
        print_json(report)
    if not report["ok"]:
        raise typer.Exit(1)


def _examination(
    hosts: list[str] | None, model: str | None, settings: dict[str, Any], tell: Callable[[Finding], None]
) -> Examination:
    def make(name: str) -> OllamaProvider:
        with checked_arguments():
            return OllamaProvider(name, where(hosts), retry=RetryPolicy.off(), **settings)

    promptly = server(hosts, model or "none", retry=RetryPolicy.off())
    make(promptly.model)  # invalid options fail now
    return Examination(promptly, make, settings, tell, hosts=hosts)


def _report(examination: Examination) -> dict[str, Any]:
    findings = [asdict(finding) for finding in examination.findings]
    return {"ok": examination.ok, **examination.facts, "findings": findings}


def _print(finding: Finding) -> None:
    print_paragraph(finding.what, first=f"{finding.status:8} ", indent=" " * 9, style=_STYLES[finding.status])
    if finding.remedy:
        print_paragraph(finding.remedy, first=f"{'':8} -> ", indent=" " * 12)


def _ignore(finding: Finding) -> None:
    pass
