"""The command as a program: start and exit, missing dependencies, wrong usage, and bugs."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from namel3ss_ollama import __version__
from namel3ss_ollama.cli import main
from namel3ss_ollama.cli.interrupts import on_interrupt
from namel3ss_ollama.cli.interrupts import run as run_interruptibly
from namel3ss_ollama.cli.process import discard_output, leave_on_interrupt


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_ctrl_c_is_handled_before_most_imports() -> None:
    done = python(
        "import sys; before = set(sys.modules); import namel3ss_ollama.cli\n"
        "print(sorted(set(sys.modules) - before - {'__future__'}))"
    )
    assert done.stdout == "['namel3ss_ollama', 'namel3ss_ollama.cli']\n", done.stderr


INTERRUPTED_IMPORT = """
import importlib.abc, os, signal, sys

class Interrupter(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(100):  # a handler runs between two steps of the interpreter
                pass

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupter())
sys.argv = ["namel3ss-ollama", *{args!r}]
from namel3ss_ollama.cli import main
main()
"""


@pytest.mark.parametrize(
    ("module", "args"),
    [
        ("typer", ["--version"]),
        ("namel3ss_ollama.provider", ["--version"]),
        ("namel3ss_ollama.aiohttp_transport", ["chat", "x"]),
        ("rich.progress", ["models", "pull", "tiny"]),
        ("readline", ["chat"]),
    ],
)
def test_ctrl_c_while_something_is_imported(terminal, process, module, args) -> None:
    code = INTERRUPTED_IMPORT.format(module=module, args=args)
    if args == ["chat"]:  # a conversation starts with that import
        screen = terminal("-c", code)
        screen.read_rest()
        assert "Traceback" not in screen.all
        assert screen.wait() == 130
        return
    running = process("-c", code)
    _, err = running.communicate(timeout=60)
    assert (running.returncode, err) == (130, "")


def test_an_ignored_sigint_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        leave_on_interrupt()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    thread = threading.Thread(target=leave_on_interrupt)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before


def test_with_explicit_arguments_sigint_is_left_alone(capsys) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit):
        main(["--version"])
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("closed", [[0], [1], [0, 1, 2]])
def test_standard_streams_that_are_closed(server, chats, closed) -> None:
    pipe = subprocess.PIPE
    done = subprocess.run(
        [sys.executable, "-m", "namel3ss_ollama.cli", "chat", "x"],
        stdin=subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
        preexec_fn=lambda: [os.close(one) for one in closed],
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == (b"" if 1 in closed else b"You said: x\n")
    assert len(chats()) == 1


@pytest.mark.parametrize("args", [["chat", "x"], ["--help"]], ids=lambda args: args[0])
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")  # noqa: PTH110
def test_a_full_disk_is_one_line(args) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-m", "namel3ss_ollama.cli", *args],
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (1, "error: cannot write the output: No space left on device\n")


@pytest.mark.parametrize("args", [["--help"], ["models", "list"], ["nope"]], ids=str)
def test_outputs_without_a_reader(args) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "namel3ss_ollama.cli", *args],
        stdin=subprocess.DEVNULL,
        stdout=write,
        stderr=write if args == ["nope"] else subprocess.PIPE,
        timeout=60,
    )
    os.close(write)
    assert (done.returncode, done.stderr or b"") == (141, b"")


@pytest.mark.parametrize(
    ("args", "meant"),
    [
        (["list"], "models list"),
        (["pull", "llama3.2"], "models pull"),
        (["run", "llama3.2"], "chat"),
        (["modles"], "models"),
        (["models", "lst"], "models list"),
        (["models", "chat"], "chat"),
        (["models", "delete"], "models rm"),
    ],
)
def test_a_misplaced_command_is_suggested(run, args, meant) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert f"did you mean `root {meant}`?" in result.stderr


def test_the_version(run) -> None:
    assert run("-V").stdout == run("--version").stdout == f"{__version__}\n"


def test_help_has_examples(run) -> None:
    for args in ([], ["chat"], ["models"], ["serve"], ["completion"]):
        assert "Examples:\n    " in run(*args, "--help").stdout


def test_importing_the_package_imports_neither_typer_nor_rich() -> None:
    # httpx imports rich for its own command, if it is installed.
    done = python(
        "import sys, httpx; before = set(sys.modules); import namel3ss_ollama\n"
        "print(sorted(m for m in set(sys.modules) - before "
        "if m.partition('.')[0] in ('typer', 'rich') or (m + '.').startswith('namel3ss_ollama.cli.')))"
    )
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_missing_dependencies(missing) -> None:
    done = python(
        f"import sys; sys.modules[{missing!r}] = None; from namel3ss_ollama.cli import main; main(['--help'])"
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"namel3ss-ollama: {missing} is not installed; pip install 'namel3ss-ollama[cli]'")
    assert done.stderr.count("\n") == 1


def test_missing_dependencies_in_this_process(monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 1
    assert "typer is not installed" in capsys.readouterr().err


def test_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "namel3ss_ollama.cli", "--version"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{__version__}\n", "")


def test_a_character_that_cannot_be_encoded_is_no_error(server) -> None:
    server.reply("Bläu")
    done = subprocess.run(
        [sys.executable, "-c", "from namel3ss_ollama.cli import main; main(['chat', 'x'])"],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        timeout=60,
    )
    assert (done.stdout, done.stderr) == (b"Bl?u\n", b"")


def test_output_that_cannot_be_reconfigured(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with pytest.raises(SystemExit):
        main(["--version"])


def test_without_arguments_it_prints_help(run) -> None:
    result = run()
    assert result.exit_code == 0
    assert result.stdout == run("-h").stdout
    assert "doctor" in result.stdout


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--nonsense"], "No such option: --nonsense"),
        (["nonsense"], "No such command 'nonsense'"),
        (["chat", "--nonsense"], "No such option: --nonsense"),
        (["models", "show"], "Missing argument"),
        (["models", "nonsense"], "No such command 'nonsense'"),
    ],
)
def test_wrong_usage_is_one_line(run, args, expected) -> None:
    result = run(*args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {expected}")
    assert result.stderr.endswith(" --help)\n")
    assert result.stderr.count("\n") == 1


def test_a_broken_pipe(run, monkeypatch) -> None:
    def print_table(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("namel3ss_ollama.cli.models.print_table", print_table)
    result = run("models", "list")
    assert (result.exit_code, result.output) == (141, "")


def test_discarded_output_is_not_flushed(monkeypatch, tmp_path) -> None:
    with (tmp_path / "out").open("w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        discard_output()
        print("lost")
    assert (tmp_path / "out").read_text() == ""


def test_a_bug_shows_its_traceback(run, monkeypatch) -> None:
    def print_table(*_: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("namel3ss_ollama.cli.models.print_table", print_table)
    with pytest.raises(ValueError, match="a bug"):
        run("models", "list")


def test_outside_the_main_thread_ctrl_c_is_not_handled(run) -> None:
    entered = []

    async def enter() -> None:
        with on_interrupt(lambda: None):
            entered.append(True)

    thread = threading.Thread(target=lambda: asyncio.run(enter()))
    thread.start()
    thread.join()
    assert entered


def test_ctrl_c_ends_a_wait_that_the_signal_does_not_interrupt() -> None:
    """A signal to another thread leaves the main thread waiting, as one that arrives just before the wait does."""
    about_to_wait = threading.Event()

    def press() -> None:
        about_to_wait.wait()  # and then for the GIL, which the main thread releases while it waits
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    async def wait() -> None:
        selector = asyncio.get_running_loop()._selector
        select = selector.select
        selector.select = lambda timeout: about_to_wait.set() or select(timeout)
        await asyncio.wait_for(asyncio.Event().wait(), 30)

    thread = threading.Thread(target=press)
    thread.start()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    started = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_interruptibly(wait())
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - started < 20
    thread.join()
