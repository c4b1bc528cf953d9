"""Error messages of the command: they name what can be typed, never Python identifiers."""

from __future__ import annotations

import re

import pytest
from fault_table import ROWS, Row

from namel3ss_ollama import instant_retries
from namel3ss_ollama.cli.wording import in_the_commands_words
from namel3ss_ollama.diagnosis import error_for_status
from namel3ss_ollama.streamer import timeout_error
from namel3ss_ollama.testing import Model

PYTHON = re.compile(
    r"\w\(\)|\b(base_url|api_key|max_concurrent|max_queue|max_line_bytes|(first_chunk|chunk|stream)_timeout|preload|"
    r"provider|`?partial`?|verify|on_truncation|None)\b"
)
QUICK = [row for row in ROWS if not row.settings and "delay" not in row.options and "seconds" not in row.options]


@pytest.mark.parametrize("row", QUICK, ids=[row.name for row in QUICK])
def test_server_errors_name_no_python_identifiers(run, server, row: Row) -> None:
    server.reply(row.reply)
    server.fault(row.fault, path="/api/chat", **row.options)
    with instant_retries():
        result = run("chat", "x", "-m", "tiny")
    assert result.stderr.count("\n") <= 1
    assert result.exit_code in (0, 1)
    assert not PYTHON.search(result.stderr), result.stderr


@pytest.mark.parametrize("deadline", ["connect", "first_chunk_timeout", "chunk_timeout", "stream_timeout", "timeout"])
def test_timeouts_name_no_python_identifiers(deadline) -> None:
    message = in_the_commands_words(str(timeout_error(deadline, 30.0)))
    assert not PYTHON.search(message), message
    assert "30 s" in message


@pytest.mark.parametrize(
    ("status", "text", "expected"),
    [
        (401, "no", "check OLLAMA_API_KEY"),
        (302, "", "give --host"),
        (404, "page", "is the path in --host right"),
        (400, "does not support tools", "`namel3ss-ollama models show`"),
        (400, "the prompt exceeds the context length", "-o num_ctx=8192"),
        (503, "busy", "try again later"),
    ],
)
def test_remedies_can_be_typed(status, text, expected) -> None:
    error = error_for_status(status, {}, f'{{"error": "{text}"}}'.encode(), url="http://a:1", model="m")
    assert expected in in_the_commands_words(str(error))


def test_arguments_are_named_as_options() -> None:
    assert in_the_commands_words("model: 'a b' is not a model's name") == "--model: 'a b' is not a model's name"
    assert in_the_commands_words("temperature: expected a number") == "temperature: expected a number"


@pytest.mark.parametrize("command", [("chat", "x"), ("models", "list"), ("models", "rm", "tiny"), ("doctor",)])
def test_without_a_server_every_command_names_a_remedy(run, server, command) -> None:
    server.refuse()
    with instant_retries():
        result = run(*command)
    assert result.exit_code == 1
    output = " ".join((result.stdout + result.stderr).split())
    assert "`ollama serve`, or name another server with --host or OLLAMA_HOST" in output
    assert not PYTHON.search(output)


@pytest.mark.parametrize(
    ("asked", "meant"),
    [("smollm2", "smollm2:135m"), ("SmolLM2:135M", "smollm2:135m"), ("smolm2:135m", "smollm2:135m"), ("tny", "tiny")],
)
@pytest.mark.parametrize(
    "command", [("chat", "x", "-m"), ("models", "show"), ("models", "rm"), ("doctor", "-m")], ids=lambda c: c[-2]
)
def test_a_similar_model_name_is_suggested(run, server, command, asked, meant) -> None:
    server.models.add(Model("smollm2:135m"))
    result = run(*command, asked)
    assert result.exit_code == 1
    assert f"did you mean {meant}" in result.stdout + result.stderr


def test_a_missing_model_names_the_pull_command(run, server) -> None:
    result = run("chat", "x", "-m", "nope")
    assert result.stderr == (
        f"error: {server.url} does not have the model 'nope'; it has tiny:latest, vectors:latest. To download it: "
        "namel3ss-ollama models pull nope\n"
    )
    output = run("chat", "x", "-m", "nope", "--host", server.url).stderr
    assert output.endswith(f"namel3ss-ollama models pull nope --host {server.url}\n")
    assert "To download it" not in run("models", "rm", "nope").stderr
