"""The conversation on a terminal."""

from __future__ import annotations

import signal
import sys
from types import SimpleNamespace

import pytest

import namel3ss_ollama.cli.chat as chat_module
from namel3ss_ollama import Message, OllamaProvider, instant_retries
from namel3ss_ollama.cli import session as session_module
from namel3ss_ollama.cli.console import AnswerPrinter
from namel3ss_ollama.cli.session import Session
from namel3ss_ollama.testing import Gate, Model, Reply

CHAT = ("-m", "namel3ss_ollama.cli", "chat")


def said(record) -> list[tuple[str, str]]:
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
    assert said(chats()[2]) == [
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
    assert said(chats()[3]) == [("system", "Be kind."), ("user", "Who am I?")]
    # The line after it: readline looks for a signal that came before it began to wait only when it gets input.
    screen.send("\x03\n")
    screen.expect("Ctrl-D or /bye ends")
    screen.send("/help\n")
    screen.expect("/bye    end")
    screen.expect(">>> ")
    screen.send("\x04")
    assert screen.wait() == 0


def test_bye_ends_and_no_color_is_heeded(terminal, monkeypatch) -> None:
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
    """A session in this process that gets these lines; what is an exception is raised in place of a line."""

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
        "/help", "/nonsense", "", "   ", KeyboardInterrupt, "hello", "/clear", "/etc/hosts is what?", "/bye"
    )
    assert roles(session) == [("user", "/etc/hosts is what?"), ("assistant", "You said: /etc/hosts is what?")]
    assert len(chats()) == 2
    told = capsys.readouterr().err
    assert "/clear  forget the conversation" in told
    assert "/nonsense is unknown" in told
    assert "Ctrl-D or /bye ends" in told


@pytest.fixture
def interrupt(monkeypatch):
    """Press Ctrl-C, that often, right when this text was printed."""

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


def test_a_stopped_answer_stays_as_far_as_it_came(converse, server, interrupt, capsys) -> None:
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


def test_an_error_does_not_end_it(converse, server, capsys) -> None:
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


def test_pictures_go_with_the_first_question_that_is_answered(converse, server, chats, tmp_path, capsys) -> None:
    server.models.add(Model("tiny", ("completion", "vision")))
    picture = tmp_path / "a.png"
    picture.write_bytes(b"")
    assert roles(converse("look", images=[picture])) == []
    assert "error: --image: the picture is empty" in capsys.readouterr().err
    picture.write_bytes(b"png")
    converse("look", "again", images=[picture])
    assert [["images" in message for message in record.payload["messages"]] for record in chats()] == [
        [True],
        [True, False, False],
    ]


def test_bytes_that_are_no_text_become_signs(converse, chats) -> None:
    converse("a\udcffb")
    assert said(chats()[0]) == [("user", "a�b")]


def test_the_command_starts_it_on_a_terminal(run, server, chats, monkeypatch, tmp_path) -> None:
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
    assert said(chats()[0])[0] == ("system", "Be kind.")
