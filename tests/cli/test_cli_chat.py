"""`namel3ss-ollama chat` for one question."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import namel3ss_ollama.cli.chat as chat_module
from namel3ss_ollama import instant_retries
from namel3ss_ollama.cli import console
from namel3ss_ollama.cli.console import AnswerPrinter
from namel3ss_ollama.testing import Gate, Model

CLI = ("-m", "namel3ss_ollama.cli")


def test_the_output_is_the_answer_and_nothing_else(run, server) -> None:
    server.reply("Blue.", contains="sky")
    result = run("chat", "What colour is the sky?")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "Blue.\n", "")


def test_a_final_newline_is_not_doubled(run, server) -> None:
    server.reply(["a", "\n"])
    assert run("chat", "x").stdout == "a\n"


def test_the_answer_is_streamed(process, server) -> None:
    gate = Gate()
    server.reply(["one", " two"], gates={1: gate})
    running = process(*CLI, "chat", "count")
    assert running.stdout.read(3) == "one"
    server.wait_for(lambda _: gate.waiting == 1)
    gate.open()
    assert running.communicate(timeout=60) == (" two\n", "")
    assert running.returncode == 0


def test_only_given_options_are_sent(run, chats) -> None:
    run("chat", "x", "--model", "tiny")
    assert set(chats()[0].payload) == {"model", "messages"}
    assert chats()[0].payload["messages"] == [{"role": "user", "content": "x"}]
    run("chat", "x", "-s", "Be brief.", "-o", "temperature=0", "-o", 'stop=["a"]', "-o", "seed=4", "--no-think")
    sent = chats()[1].payload
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."}
    assert sent["options"] == {"temperature": 0, "stop": ["a"], "seed": 4}
    assert sent["think"] is False


def test_an_option_that_is_not_json_is_text_and_an_unknown_one_warns(run, chats) -> None:
    result = run("chat", "x", "-o", "stop=END", "-o", "temprature=1", "-o", "zzzz=2")
    assert chats()[0].payload["options"] == {"stop": ["END"], "temprature": 1, "zzzz": 2}
    first, second = result.stderr.splitlines()
    assert "temprature" in first
    assert first.endswith("did you mean temperature?")
    assert second == "warning: zzzz is not a known option and is sent unchanged"


def test_reasoning_is_not_in_the_output(run, server, chats) -> None:
    server.models.add(Model("tiny", ("completion", "thinking")))
    server.reply("4", thinking="2 and 2")
    result = run("chat", "2+2?", "--think")
    assert chats()[0].payload["think"] is True
    assert (result.stdout, result.stderr) == ("4\n", "2 and 2\n\n")


def test_reasoning_without_an_answer_ends_its_line(run, server) -> None:
    server.models.add(Model("tiny", ("completion", "thinking")))
    server.reply("", thinking="2 and 2")
    result = run("chat", "2+2?", "--think")
    assert (result.stdout, result.stderr) == ("", "2 and 2\n\n")


def test_json_and_a_custom_schema(run, chats, tmp_path) -> None:
    assert json.loads(run("chat", "x", "--format", "json").stdout) == {}
    assert chats()[0].payload["format"] == "json"
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}')
    assert "n" in json.loads(run("chat", "x", "--format", str(schema)).stdout)
    assert chats()[1].payload["format"]["required"] == ["n"]


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_an_invalid_format(run, chats, tmp_path, content) -> None:
    path = tmp_path / "schema.json"
    if content:
        path.write_text(content)
    result = run("chat", "x", "--format", str(path))
    assert result.exit_code == 2
    assert result.stderr.startswith("error: Invalid value for --format:")
    assert result.stderr.count("\n") == 1
    assert not chats()


def test_an_image_is_sent(run, server, chats, tmp_path) -> None:
    server.models.add(Model("tiny", ("completion", "vision")))
    (tmp_path / "a.png").write_bytes(b"png")
    assert run("chat", "What is this?", "--image", str(tmp_path / "a.png")).exit_code == 0
    assert chats()[0].payload["messages"][0]["images"] == ["cG5n"]
    assert run("chat", "What is this?", "--image", str(tmp_path / "b.png")).exit_code == 2
    (tmp_path / "empty.png").touch()
    result = run("chat", "What is this?", "--image", str(tmp_path / "empty.png"))
    assert (result.exit_code, result.stderr) == (1, "error: --image: the picture is empty\n")


def test_stats_are_written_to_stderr(run, server) -> None:
    counters = {"eval_count": 2, "eval_duration": 100_000_000, "prompt_eval_count": 7}
    server.reply("a b", counters=counters)
    result = run("chat", "x", "--stats")
    assert result.stdout == "a b\n"
    assert result.stderr.startswith("2 tokens, 20.0 tokens/s, first token after ")
    assert result.stderr.endswith(" s, prompt 7 tokens\n")


def test_stats_include_cached_tokens(run, server) -> None:
    counters = {"eval_count": 2, "prompt_eval_count": 7, "prompt_eval_cached_count": 5}
    last = {"message": {"role": "assistant", "content": "a"}, "done": True, "done_reason": "stop", **counters}
    server.on(path="/api/chat").reply(lines=[last])
    assert run("chat", "x", "--stats").stderr.endswith(" s, prompt 7 tokens (5 cached)\n")


def test_stats_that_a_server_does_not_send(run, server) -> None:
    server.fault("missing_counter")
    assert run("chat", "x", "--stats").stderr.startswith("0 tokens, first token after ")


def test_as_one_json_object(run, server) -> None:
    server.reply("Bläu.", done_reason="length")
    answer = json.loads(run("chat", "x", "--json").stdout)
    assert (answer["content"], answer["finish_reason"], answer["model"]) == ("Bläu.", "length", "tiny:latest")
    assert answer["usage"]["completion_tokens"] == 2
    assert answer["metadata"]["time_to_first_token"] > 0
    assert "error" not in answer


def test_a_partial_answer_is_printed_before_the_error(run, server) -> None:
    server.reply(["one", " two"], error="it broke")
    result = run("chat", "x")
    assert (result.exit_code, result.stdout) == (1, "one two\n")
    assert result.stderr.startswith("error: ")
    assert "it broke" in result.stderr
    assert result.stderr.count("\n") == 1
    result = run("chat", "x", "--json")
    answer = json.loads(result.stdout)
    assert (result.exit_code, answer["content"], answer["finish_reason"]) == (1, "one two", None)
    assert "it broke" in answer["error"]


def test_an_error_before_any_answer(run, server) -> None:
    server.fault("status", status=400, message="no")
    result = run("chat", "x", "-m", "tiny", "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: the server refused the request (400: no)")


@pytest.mark.parametrize(
    ("args", "piped", "asked"),
    [
        (["-"], "from a pipe\n", "from a pipe"),
        ([], "from a pipe\n", "from a pipe"),
        (["Sum up:"], "a text\n", "Sum up:\n\na text"),
    ],
)
def test_piped_input_is_the_prompt_or_follows_it(run, chats, args, piped, asked) -> None:
    assert run("chat", *args, input=piped).exit_code == 0
    assert chats()[0].payload["messages"][0]["content"] == asked


def test_only_pipes_and_files_are_added_to_a_prompt(monkeypatch, tmp_path) -> None:
    def question(stdin) -> str | None:
        monkeypatch.setattr(chat_module, "sys", SimpleNamespace(stdin=stdin))
        return chat_module._question("x")

    path = tmp_path / "text"
    path.write_text("y")
    with path.open() as file, Path(os.devnull).open() as null:
        assert question(file) == "x\n\ny"
        assert question(null) == "x"
    assert question(SimpleNamespace(isatty=lambda: True, fileno=lambda: -1)) == "x"
    piped = io.TextIOWrapper(io.BytesIO(b"y"))  # without a file descriptor, as in a test or a notebook
    assert question(piped) == "x\n\ny"


@pytest.mark.parametrize(("args", "piped"), [(["-"], b""), (["  "], b""), ([], b" \n")])
def test_an_empty_prompt_is_a_usage_error(run, chats, args, piped) -> None:
    result = run("chat", *args, input=piped)
    assert result.exit_code == 2
    assert result.stderr == "error: Invalid value for PROMPT: is empty (see root chat --help)\n"
    assert not chats()


def test_invalid_utf8(run, chats) -> None:
    result = run("chat", "-", input=b"\xff")
    assert (result.exit_code, result.stderr) == (1, "error: standard input is not UTF-8 text\n")
    for args in (["\udcff"], ["x", "-s", "\udcff"], ["x", "-o", "stop=\udcff"]):
        result = run("chat", "-m", "tiny", *args)
        assert result.exit_code == 2
        assert "is not text in the terminal's encoding" in result.stderr
    assert not chats()


def test_a_terminal_with_redirected_output_needs_a_prompt(monkeypatch) -> None:
    terminal = SimpleNamespace(isatty=lambda: True)
    monkeypatch.setattr(chat_module, "sys", SimpleNamespace(stdin=terminal, stdout=io.StringIO()))
    with pytest.raises(Exception, match="when the output is not a terminal"):
        chat_module._question(None)
    monkeypatch.setattr(chat_module, "sys", SimpleNamespace(stdin=terminal, stdout=terminal))
    assert chat_module._question(None) is None


def test_a_conversation_is_not_json(run, monkeypatch) -> None:
    monkeypatch.setattr(chat_module, "_question", lambda prompt: None)
    assert run("chat", "--json").exit_code == 2


def test_which_model(run, server, chats, monkeypatch) -> None:
    run("chat", "x")
    assert chats()[-1].model == "tiny:latest"
    server.models.add(Model("other", ("completion",)))
    result = run("chat", "x")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: choose a model with --model or OLLAMA_MODEL; {server.url} has ")
    assert "tiny:latest" in result.stderr
    assert "vectors" not in result.stderr
    monkeypatch.setenv("OLLAMA_MODEL", "other")
    run("chat", "x")
    assert chats()[-1].model == "other"
    run("chat", "x", "-m", "tiny")
    assert chats()[-1].model == "tiny"


def test_no_chat_model(run, server) -> None:
    server.models.remove("tiny")
    result = run("chat", "x")
    assert result.exit_code == 1
    assert result.stderr.endswith("has no chat model; get one: namel3ss-ollama models pull llama3.2\n")


def test_a_model_deleted_meanwhile_and_one_without_capabilities(run, server, chats) -> None:
    server.reply(json={"error": "model 'tiny' not found"}, status=404, path="/api/show", model="tiny")
    server.reply(json={"details": {}}, path="/api/show", model="vectors")  # as servers from before capabilities
    run("chat", "x")
    assert chats()[0].model == "vectors:latest"


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["-m", "a b"], "error: --model: 'a b' is not a model's name"),
        (["-m", ""], "error: Invalid value for '--model' / '-m'"),
        (["-m", "tiny", "--host", "http://a:b"], "error: --host: the port is not a number"),
        (["-m", "tiny", "--base-url", "http://a:b"], "error: --host: the port is not a number"),
        (["-m", "tiny", "--host", " "], "error: Invalid value for '--host'"),
        (["-m", "tiny", "-o", "temperature=hot"], "error: temperature: expected a number, not 'hot'"),
    ],
)
def test_invalid_arguments(run, server, args, expected) -> None:
    result = run("chat", "x", *args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(expected)
    assert not server.requests
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("option", ["temperature", "=1", ""])
def test_an_option_without_key_or_value(run, option) -> None:
    result = run("chat", "x", "-o", option)
    assert result.exit_code == 2
    assert "is not of the form key=value" in result.stderr


def test_no_server(run, server) -> None:
    server.refuse()
    with instant_retries():
        result = run("chat", "x")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: cannot connect to {server.url}")
    assert result.stderr.count("\n") == 1


def test_ctrl_c_keeps_the_text_and_closes_the_connection(process, server, chats) -> None:
    server.reply(["one", " two"], gates={1: Gate()})
    running = process(*CLI, "chat", "count")
    assert running.stdout.read(3) == "one"
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out, err) == (130, "\n", "")
    server.wait_for(lambda _: chats()[0].outcome == "client_closed")


def test_ctrl_c_before_the_answer_starts(process, server, chats) -> None:
    gate = Gate()
    server.reply("x", gate=gate)
    running = process(*CLI, "chat", "count")
    server.wait_for(lambda _: gate.waiting == 1, timeout=60)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out, err) == (130, "", "")
    server.wait_for(lambda _: chats()[0].outcome == "client_closed")


def test_ctrl_c_with_json_prints_the_partial_answer(run, server, monkeypatch) -> None:
    server.reply(["one", " two"], gates={1: Gate()})
    monkeypatch.setattr(chat_module, "_ignore", lambda chunk: signal.raise_signal(signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result = run("chat", "count", "--json", "--stats")
    finally:
        signal.signal(signal.SIGINT, before)
    answer = json.loads(result.stdout)
    assert (answer["content"], answer["finish_reason"]) == ("one", None)
    assert result.exit_code == 130
    (stats,) = result.stderr.splitlines()
    assert stats.startswith("stopped, first token after ")


def test_an_ignored_sigint_stays_ignored(run, server, monkeypatch) -> None:
    server.reply(["one", " two"])
    monkeypatch.setattr(chat_module, "_ignore", lambda chunk: signal.raise_signal(signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        result = run("chat", "count", "--json")
    finally:
        signal.signal(signal.SIGINT, before)
    assert json.loads(result.stdout)["content"] == "one two"


def test_a_closed_pipe_is_not_an_error(process, server, chats) -> None:
    gate = Gate()
    server.reply(["one", " two", " three"], gates={1: gate})
    running = process(*CLI, "chat", "count")
    assert running.stdout.read(3) == "one"
    running.stdout.close()
    gate.open()
    assert running.stderr.read() == ""
    assert running.wait(60) == 141


def test_control_characters_are_not_written_to_a_terminal(monkeypatch) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    out, err = Screen(), Screen()
    monkeypatch.setattr(console, "sys", SimpleNamespace(stdout=out, stderr=err))
    printer = AnswerPrinter()
    printer.show(SimpleNamespace(content="", thinking="h\x1bm"))
    printer.show(SimpleNamespace(content="a\x1b]0;title\x07b\tc\n\x9b", thinking=""))
    printer.end()
    assert out.getvalue() == "a]0;titleb\tc\n"
    assert err.getvalue() == "\x1b[2mhm\x1b[0m\n\n"


def test_a_file_keeps_control_characters(run, server) -> None:
    server.reply(["a\x1b[1m"])
    assert run("chat", "x").stdout == "a\x1b[1m\n"


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_styles_can_be_turned_off(monkeypatch, name, value) -> None:
    screen = SimpleNamespace(isatty=lambda: True)
    assert console.styled("x", "red", screen) == "\x1b[31mx\x1b[0m"
    monkeypatch.setenv(name, value)
    assert console.styled("x", "red", screen) == "x"


@pytest.mark.parametrize(
    ("set_to", "is_terminal", "styles"),
    [
        ({"FORCE_COLOR": "1"}, False, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False),
        ({"FORCE_COLOR": "1", "TERM": "dumb"}, False, True),
        ({"FORCE_COLOR": "", "NO_COLOR": ""}, True, True),
        ({}, False, False),
    ],
)
def test_when_styles_are_used(monkeypatch, set_to, is_terminal, styles) -> None:
    for name, value in set_to.items():
        monkeypatch.setenv(name, value)
    stream = SimpleNamespace(isatty=lambda: is_terminal)
    assert console.styled("x", "red", stream) == ("\x1b[31mx\x1b[0m" if styles else "x")


def test_a_pipe_between_two_programs(server) -> None:
    command = [*CLI, "chat", "Sum up:"]
    done = subprocess.run([sys.executable, *command], input="the text", capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "You said: the text\n", "")
