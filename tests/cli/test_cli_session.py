"""The conversation on a terminal."""

from __future__ import annotations

import signal
import sys
from types import SimpleNamespace

import pytest

import namel3ss_ollama.cli.chat as chat_module
from namel3ss_ollama import Message, OllamaProvider, instant_retries
from namel3ss_ollama.cli import history
from namel3ss_ollama.cli import session as session_module
from namel3ss_ollama.cli.console import AnswerPrinter
from namel3ss_ollama.cli.history import History
from namel3ss_ollama.cli.session import Session
from namel3ss_ollama.testing import Gate, Model, Reply

CHAT = ("-m", "namel3ss_ollama.cli", "chat")


def sent(record) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in record.payload["messages"]]


def test_a_conversation_on_a_terminal(terminal, server, chats) -> None:
    server.sequence("Hello Bob.", Reply(["one", " two", " three"], gates={2: Gate()}), "You are Bob.", "Who knows.")
    screen = terminal(*CHAT, "--system", "Be kind.")
    screen.expect(">>> ")
    screen.send("I am Bob.\n")
    screen.expect("Hello Bob.\r\n>>> ")
    screen.send("Count.\n")
    screen.expect("one two")
    screen.send("\x03")
    screen.expect("stopped")
    screen.expect(">>> ")
    server.wait_for(lambda _: chats()[1].outcome == "client_closed")
    screen.send("Who am I?\n")
    screen.expect("You are Bob.\r\n>>> ")
    assert sent(chats()[2]) == [
        ("system", "Be kind."),
        ("user", "I am Bob."),
        ("assistant", "Hello Bob."),
        ("user", "Count."),
        ("assistant", "one two"),
        ("user", "Who am I?"),
    ]
    screen.send("/clear\n")
    screen.expect("forgotten")
    screen.expect(">>> ")
    screen.send("Who am I?\n")
    screen.expect("Who knows.\r\n>>> ")
    assert sent(chats()[3]) == [("system", "Be kind."), ("user", "Who am I?")]
    # With a line after it: readline notices a signal that arrived before it waited only when it gets input.
    screen.send("\x03\n")
    screen.expect("Ctrl-D or /bye ends")
    screen.send("/help\n")
    screen.expect("/bye    end")
    screen.expect(">>> ")
    screen.send("\x04")
    assert screen.wait() == 0


def test_bye_ends_and_no_color_is_respected(terminal, monkeypatch) -> None:
    screen = terminal(*CHAT)
    screen.expect("\x1b[2mtiny:latest at ")
    screen.expect(">>> ")
    screen.send("/bye\n")
    assert screen.wait() == 0
    monkeypatch.setenv("NO_COLOR", "1")
    screen = terminal(*CHAT)
    assert "\x1b" not in screen.expect("tiny:latest at ")


@pytest.fixture
def converse(monkeypatch, server):
    """Runs a session in this process with these lines; an exception is raised in place of a line."""

    def converse(*lines: str | type[BaseException], system: str = "", **settings) -> Session:
        given = iter(lines)

        def read(prompt: str) -> str:
            line = next(given, EOFError)
            if isinstance(line, str):
                return line
            raise line

        monkeypatch.setattr(session_module, "input", read, raising=False)
        opening = [Message("system", system)] if system else []
        session = Session(OllamaProvider("tiny"), opening, settings.pop("images", ()), stats=False, **settings)
        session.run()
        return session

    return converse


def roles(session: Session) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in session.history]


def test_commands(converse, chats, capsys) -> None:
    session = converse(
        "/help",
        "/nonsense",
        "/set temperature 1",
        "/?",
        "",
        "   ",
        KeyboardInterrupt,
        "hello",
        "/clear now",
        "/etc/hosts is what?",
        " /set, what does it do?",
        "/bye",
    )
    assert [text for role, text in roles(session) if role == "user"] == [
        "/etc/hosts is what?",
        "/set, what does it do?",
    ]
    assert len(chats()) == 3
    shown = capsys.readouterr().err
    assert shown.count("/clear  start a new conversation") == 2
    assert "/nonsense is unknown and was not sent" in shown
    assert "/set is unknown and was not sent" in shown
    assert "Ctrl-D or /bye ends" in shown


@pytest.fixture
def interrupt(monkeypatch):
    """Press Ctrl-C, so many times, right after this text is printed."""

    def arm(text: str, times: int = 1) -> None:
        show = AnswerPrinter.show

        def watching(printer, chunk) -> None:
            show(printer, chunk)
            if chunk.content == text:
                for _ in range(times):
                    signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(AnswerPrinter, "show", watching)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield arm
    signal.signal(signal.SIGINT, before)


def test_the_text_of_a_stopped_answer_is_kept(converse, server, interrupt, capsys) -> None:
    server.reply(["one", " two"], gates={1: Gate()})
    interrupt("one")
    session = converse("count")
    assert roles(session) == [("user", "count"), ("assistant", "one")]
    out, err = capsys.readouterr()
    assert out == "one\n\n"
    assert "stopped" in err


def test_ctrl_c_twice_stops_at_once(converse, server, interrupt, capsys) -> None:
    server.reply(["one", " two"], gates={1: Gate()})
    interrupt("one", times=2)
    assert roles(converse("count")) == []
    assert "stopped" in capsys.readouterr().err
    server.wait_for(lambda s: s.active_requests == 0)


def test_an_error_does_not_end_the_session(converse, server, capsys) -> None:
    server.on(path="/api/chat").sequence(Reply("one", error="it broke"), "fine").fault("status", status=400)
    with instant_retries():
        session = converse("a", "b", "c", system="s")
    assert roles(session) == [
        ("system", "s"),
        ("user", "a"),
        ("assistant", "one"),
        ("user", "b"),
        ("assistant", "fine"),
    ]
    assert capsys.readouterr().err.count("error: ") == 2


def test_images_go_with_the_first_question_that_is_answered(converse, server, chats, tmp_path, capsys) -> None:
    server.models.add(Model("tiny", ("completion", "vision")))
    image = tmp_path / "a.png"
    image.write_bytes(b"")
    assert roles(converse("look", images=[image])) == []
    assert "error: --image: the picture is empty" in capsys.readouterr().err
    image.write_bytes(b"png")
    converse("look", "again", images=[image])
    assert [["images" in message for message in record.payload["messages"]] for record in chats()] == [
        [True],
        [True, False, False],
    ]


def test_invalid_bytes_become_replacement_characters(converse, chats) -> None:
    converse("a\udcffb")
    assert sent(chats()[0]) == [("user", "a�b")]


def test_the_command_starts_a_session_on_a_terminal(run, server, chats, monkeypatch, tmp_path) -> None:
    screen = SimpleNamespace(isatty=lambda: True)
    monkeypatch.setattr(chat_module, "sys", SimpleNamespace(stdin=screen, stdout=screen))
    lines = iter(["hello"])

    def read(prompt: str) -> str:
        for line in lines:
            return line
        raise EOFError

    monkeypatch.setattr(session_module, "input", read, raising=False)
    monkeypatch.setitem(sys.modules, "readline", None)  # as on Windows
    result = run("chat", "--stats", "-s", "Be kind.")
    assert (result.exit_code, result.stdout) == (0, "You said: hello\n\n")
    assert "tokens/s" in result.stderr
    assert sent(chats()[0])[0] == ("system", "Be kind.")


@pytest.mark.parametrize("word", ["/bye", "/exit", "/quit"])
def test_commands_that_end_it(converse, chats, word) -> None:
    converse(word, "hello")
    assert not chats()


@pytest.mark.parametrize(
    ("lines", "question"),
    [
        (['"""', "one", "  two", "", "/three", '"""'], "one\n  two\n\n/three"),
        (['"""one', 'two"""'], "one\ntwo"),
        (['"""one"""'], "one"),
        (['"""', "one", EOFError], "one"),
        (['"""', "lost", KeyboardInterrupt, "kept"], "kept"),
    ],
)
def test_questions_of_several_lines(converse, chats, lines, question) -> None:
    converse(*lines)
    assert [sent(record)[-1] for record in chats()] == [("user", question)]


def test_an_empty_question_of_several_lines_is_not_sent(converse, chats) -> None:
    converse('"""', "", '"""')
    assert not chats()


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["-m", "tny"], "does not have the model 'tny'; did you mean tiny:latest?"),
        (["-m", "vectors"], "vectors cannot chat: it can embedding"),
        (["-m", "tiny", "--image", __file__], "tiny cannot read images"),
    ],
)
def test_an_unsuitable_model_is_an_error_before_the_conversation(terminal, chats, args, expected) -> None:
    screen = terminal(*CHAT, *args)
    assert screen.wait() == 1
    screen.read_rest()
    assert expected in " ".join(screen.all.split())
    assert ">>>" not in screen.all
    assert not chats()


def test_without_a_server_no_conversation_starts(terminal, server) -> None:
    server.refuse()
    screen = terminal(*CHAT, "-m", "tiny")
    screen.read_rest()
    assert "cannot connect" in screen.all
    assert ">>>" not in screen.all
    assert screen.wait() == 1


def test_a_failed_show_does_not_prevent_a_conversation(terminal, server) -> None:
    server.fault("status", status=500, path="/api/show")
    screen = terminal(*CHAT, "-m", "tiny")
    screen.expect(">>> ")
    screen.send("/bye\n")
    assert screen.wait() == 0


def test_a_spinner_is_shown_until_an_answer_starts(terminal, server) -> None:
    gate = Gate()
    server.reply("Hello.", gate=gate)
    screen = terminal(*CHAT)
    screen.expect(">>> ")
    screen.send("Hi.\n")
    screen.expect("| waiting for tiny:latest (")
    screen.expect("/ waiting for tiny:latest (")
    gate.open()
    screen.expect("\r\x1b[KHello.\r\n>>> ")


@pytest.fixture
def file(tmp_path):
    """The history file."""
    return tmp_path / "state" / "namel3ss-ollama" / "history"


def converse_on(terminal, *lines: str, options: tuple[str, ...] = ()):
    screen = terminal(*CHAT, *options)
    screen.expect(">>> ")
    for line in lines:
        screen.send(f"{line}\n")
        screen.expect(">>> ")
    screen.send("\x04")
    assert screen.wait() == 0
    return screen


def test_the_history_is_kept_and_only_its_owner_can_read_it(terminal, file, chats) -> None:
    converse_on(terminal, "one", "two", "two")
    assert file.read_text() == "one\ntwo\n"
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    file.chmod(0o644)
    converse_on(terminal, "\x1b[A\x1b[A")
    assert sent(chats()[-1]) == [("user", "one")]
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("how", ["--no-history", "NAMEL3SS_OLLAMA_HISTORY"])
def test_the_history_can_be_turned_off(terminal, file, monkeypatch, how) -> None:
    if not how.startswith("--"):
        monkeypatch.setenv(how, "0")
    converse_on(terminal, "one", options=("--no-history",) if how.startswith("--") else ())
    assert not file.exists()


def test_a_history_that_cannot_be_written(terminal, file, tmp_path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine\n")
    file.parent.mkdir(parents=True)
    file.symlink_to(elsewhere)
    converse_on(terminal, "one")
    assert elsewhere.read_text() == "mine\n"
    file.unlink()
    file.parent.rmdir()
    file.parent.touch()
    converse_on(terminal, "one")


def test_a_long_history_is_shortened(monkeypatch, file) -> None:
    readline = pytest.importorskip("readline")
    monkeypatch.setattr(history, "_MOST_LINES", 3)
    file.parent.mkdir(parents=True)
    file.write_text("1\n2\n3\n")
    readline.clear_history()
    lines = History(kept=True)
    lines.open()
    lines.add("4")
    lines.close()
    readline.clear_history()
    readline.set_auto_history(True)
    assert file.read_text() == "2\n3\n4\n"
