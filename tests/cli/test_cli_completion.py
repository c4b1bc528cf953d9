"""Shell completion."""

from __future__ import annotations

import shutil
import subprocess

import pytest

ASK = """
{script}
COMP_WORDS=({words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
{function}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["mo"], ["models"]),
        (["models", "p"], ["pull", "ps"]),
        (["models", "pull", "--in"], ["--insecure"]),
        (["models", "pull", "x", "--emb"], ["--embedded"]),
        (["chat", "-m", ""], [""]),
        (["chat", "-m", "models", "--sys"], ["--system"]),
        (["completion", "z"], ["zsh"]),
    ],
)
def test_bash(run, words, expected) -> None:
    script = run("completion", "bash").stdout
    quoted = " ".join(f"'{word}'" for word in ["root", *words])
    asked = ASK.format(script=script, words=quoted, function="_root")
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, timeout=60)
    assert (done.stdout.splitlines(), done.stderr) == (expected, "")


@pytest.mark.parametrize(("shell", "check"), [("bash", ["-n"]), ("zsh", ["-n"]), ("fish", ["--no-execute"])])
def test_the_scripts_are_valid(run, shell, check) -> None:
    result = run("completion", shell)
    assert result.exit_code == 0
    assert "models" in result.stdout
    assert "--insecure" in result.stdout or "-l insecure" in result.stdout
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([shell, *check], input=result.stdout, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_unknown_shell(run) -> None:
    assert run("completion", "tcsh").exit_code == 2
