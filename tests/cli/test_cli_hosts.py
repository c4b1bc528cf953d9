"""The command with several hosts: `hosts`, `top`, and the other commands with several `--host`."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator

import pytest

from namel3ss_ollama import instant_retries
from namel3ss_ollama.testing import Model, OllamaServer

CLI = ("-m", "namel3ss_ollama.cli")
LOADED = {
    "name": "tiny:latest",
    "size": 4_100_000_000,
    "size_vram": 3_900_000_000,
    "expires_at": "2300-01-01T00:00:00Z",
}


@pytest.fixture
def other() -> Iterator[OllamaServer]:
    """A second host, which has the same models."""
    models = [Model("tiny", ("completion", "tools")), Model("vectors", ("embedding",), family="bert")]
    with OllamaServer(models, version="0.12.6") as other:
        yield other


@pytest.fixture
def both(server, other) -> tuple[str, ...]:
    return "--host", server.url, "--host", other.url


def rows(text: str) -> list[list[str]]:
    """The cells of a table."""
    return [re.split(r"  +", line) for line in text.splitlines()]


# namel3ss-ollama hosts


def test_hosts_of_one_server(run, server) -> None:
    server.reply(json={"models": [LOADED]}, path="/api/ps")
    result = run("hosts")
    assert result.exit_code == 0
    assert rows(result.stdout) == [
        ["HOST", "STATE", "VERSION", "MODEL", "SIZE", "VRAM", "UNTIL"],
        [server.url, "up", "0.9.3", "tiny:latest", "4.1 GB", "3.9 GB", "for ever"],
    ]


def test_hosts_has_a_row_for_each_model_and_for_each_host_without_one(run, server, other, both) -> None:
    server.reply(json={"models": [LOADED, {"name": "vectors:latest"}]}, path="/api/ps")
    _, *found = rows(run("hosts", *both).stdout)
    assert [(host, version, model) for host, _, version, model, *_ in found] == [
        (server.url, "0.9.3", "tiny:latest"),
        (server.url, "0.9.3", "vectors:latest"),
        (other.url, "0.12.6", "-"),
    ]


def test_hosts_of_the_environment(run, server, other, monkeypatch) -> None:
    monkeypatch.setenv("OLLAMA_HOSTS", f"{server.url}, {other.url}")
    assert [host for host, *_ in rows(run("hosts").stdout)[1:]] == [server.url, other.url]
    assert [host for host, *_ in rows(run("hosts", "--host", other.url).stdout)[1:]] == [other.url]


def test_a_host_that_is_down_says_why(run, server, other, both) -> None:
    server.refuse()
    result = run("hosts", *both)
    assert result.exit_code == 0
    _, down, up, why = rows(result.stdout)
    assert (down[:3], up[:3]) == ([server.url, "down", "-"], [other.url, "up", "0.12.6"])
    assert why[0].startswith(f"{server.url}: cannot connect to {server.url}")
    assert "base_url" not in why[0]
    other.fault("status", status=401, message="no", path="/api/version")
    assert run("hosts", *both).stdout.splitlines()[-1].startswith(f"{other.url}: ")


def test_it_fails_if_no_host_is_up(run, server, other, both) -> None:
    server.refuse()
    other.refuse()
    assert run("hosts", *both).exit_code == 1
    assert run("hosts").exit_code == 1
    assert run("hosts", *both, "--json").exit_code == 1


def test_hosts_as_json(run, server, other, both) -> None:
    server.reply(json={"models": [LOADED]}, path="/api/ps")
    other.refuse()
    one, two = json.loads(run("hosts", *both, "--json").stdout)
    assert one == {
        "host": server.url,
        "up": True,
        "why_not": "",
        "version": "0.9.3",
        "models": [LOADED],
        "wait": None,
        "tokens_per_second": None,
    }
    assert (two["host"], two["up"], two["models"]) == (other.url, False, [])
    assert "cannot connect" in two["why_not"]


def test_hosts_are_measured_by_a_request(run, server, other, both) -> None:
    numbers = {"load_duration": 0, "prompt_eval_duration": 0, "eval_duration": 500_000_000, "eval_count": 10}
    server.on(path="/api/generate").reply(
        lines=[{"response": "1", "done": True, "done_reason": "stop", "total_duration": 2_000_000_000, **numbers}]
    )
    other.models.remove("tiny")
    result = run("hosts", *both, "--measure", "tiny")
    head, one, two, why = rows(result.stdout)
    assert head[-2:] == ["WAIT", "TOKENS/S"]
    assert one[-2:] == ["1.50 s", "20.0"]
    assert two[-2:] == ["-", "-"]
    assert two[1] == "up"
    assert why[0].startswith(f"{other.url}: {other.url} does not have the model")
    assert server.requests[0].payload["options"] == {"num_predict": 16}


def test_hosts_requests_only_versions_and_loaded_models(run, server) -> None:
    run("hosts")
    assert [record.path for record in server.requests] == ["/api/version", "/api/ps"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--host", "http://a:1", "--host", "http://a:1"], "--host: http://a:1 is given twice"),
        (["--host", "http://a:1", "--host", "http://a:99999"], "--host: the port is not a number up to 65535"),
        (["--host", "http://a:1", "--host", " "], "Invalid value for '--host' / '--base-url': is empty"),
    ],
)
@pytest.mark.parametrize("command", [["hosts"], ["top"], ["doctor"], ["models", "list"], ["chat", "x", "-m", "tiny"]])
def test_wrong_addresses(run, command, args, message) -> None:
    result = run(*command, *args)
    assert result.exit_code == 2
    assert message in result.stderr


def test_wrong_addresses_in_the_environment(run, monkeypatch) -> None:
    monkeypatch.setenv("OLLAMA_HOSTS", "http://a:1,http://a:1")
    assert run("hosts").stderr == "error: OLLAMA_HOSTS: http://a:1 is given twice\n"


# namel3ss-ollama top


def test_top_writes_lines_without_a_terminal(process, server, other, both) -> None:
    server.reply(json={"models": [LOADED]}, path="/api/ps")
    running = process(*CLI, "top", *both, "--interval", "0.1")
    lines = [running.stdout.readline().rstrip("\n") for _ in range(4)]
    other.refuse()
    other.drop_connections()
    while "  down  " not in (line := running.stdout.readline()):
        assert line
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert (running.returncode, err) == (130, "")
    assert [re.split(r"  +", line)[1:5] for line in lines] == [
        [server.url, "up", "0.9.3", "tiny:latest"],
        [other.url, "up", "0.12.6", "-"],
    ] * 2
    assert other.url in line


def test_top_is_a_table_on_a_terminal(terminal, server, other, both, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    screen = terminal(*CLI, "top", *both, "--interval", "0.1")
    screen.expect("HOST")
    screen.expect(f"{other.url}")
    screen.expect("every 0.1 s; Ctrl-C ends")
    server.reply(json={"models": [LOADED]}, path="/api/ps")
    screen.expect("tiny:latest")
    screen.interrupt()
    screen.read_rest()
    assert screen.wait() == 130
    assert "Traceback" not in screen.all
    assert screen.all.rindex("\x1b[?25h") > screen.all.rindex("\x1b[?25l")  # the cursor is shown again


@pytest.mark.parametrize("interval", ["0", "-1", "inf"])
def test_top_needs_an_interval(run, interval) -> None:
    assert run("top", "--interval", interval).exit_code == 2


# The other commands


def test_lists_name_the_host(run, server, other, both) -> None:
    head, *found = rows(run("models", "list", *both).stdout)
    assert head[-1] == "HOST"
    assert [(row[0], row[-1]) for row in found if row[0].startswith("tiny")] == [
        ("tiny:latest", server.url),
        ("tiny:latest", other.url),
    ]
    other.reply(json={"models": [LOADED]}, path="/api/ps")
    assert [row[-1] for row in rows(run("models", "ps", *both).stdout)] == ["HOST", other.url]
    assert [model["host"] for model in json.loads(run("models", "ps", *both, "--json").stdout)] == [other.url]
    assert rows(run("models", "list").stdout)[0][-1] == "MODIFIED"


def test_a_skipped_host_is_a_warning(process, server, other, both) -> None:
    other.refuse()
    running = process(*CLI, "models", "list", *both)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 0
    assert server.url in out
    assert err.startswith(f"warning: {other.url} is skipped: cannot connect")
    assert err.count("\n") == 1
    assert "base_url" not in err


@pytest.mark.parametrize("command", [["pull", "new"], ["rm", "tiny", "--yes"]])
@pytest.mark.parametrize("by", ["option", "environment"])
def test_commands_that_change_a_server_need_one(run, server, other, both, monkeypatch, command, by) -> None:
    if by == "environment":
        monkeypatch.setenv("OLLAMA_HOSTS", f"{server.url},{other.url}")
    result = run("models", *command, *(both if by == "option" else ()))
    assert result.exit_code == 2
    assert result.stderr == (
        f"error: this changes one server, and there are {server.url}, {other.url}; name one of them, such as "
        f"--host {server.url}\n"
    )
    assert not server.requests
    assert not other.requests
    if by == "environment":
        assert run("models", *command, "--host", other.url).exit_code == 0
        assert not server.requests


def test_show_is_of_the_first_host_that_has_it(run, server, other, both) -> None:
    server.models.remove("tiny")
    assert run("models", "show", "tiny", *both).exit_code == 0
    result = run("models", "show", "nope", *both)
    assert result.exit_code == 1
    assert result.stderr == (
        f"error: {server.url} and {other.url} do not have the model 'nope'; they have vectors:latest, tiny:latest. To "
        f"download it: namel3ss-ollama models pull nope --host {server.url}\n"
    )


def test_chat_goes_to_the_host_that_has_the_model(run, server, other, both) -> None:
    server.models.remove("tiny")
    other.reply("from the other", path="/api/chat")
    result = run("chat", "x", *both)  # the only chat model that any of them has
    assert (result.exit_code, result.stdout) == (0, "from the other\n")
    assert json.loads(run("chat", "x", "-m", "tiny", "--json", *both).stdout)["host"] == other.url


def test_chat_without_any_host(run, server, other, both) -> None:
    server.refuse()
    other.refuse()
    with instant_retries():
        result = run("chat", "x", "-m", "tiny", *both)
    assert result.exit_code == 1
    assert "cannot connect to" in result.stderr


# namel3ss-ollama doctor


def has_loaded(server: OllamaServer, window: int) -> None:
    server.reply(json={"models": [{**LOADED, "context_length": window}]}, path="/api/ps")


def test_doctor_looks_at_each_host(run, server, other, both) -> None:
    for one in (server, other):
        has_loaded(one, 8192)
    result = run("doctor", "-m", "tiny", *both)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line for line in lines if "answers at" in line] == [
        f"ok       Ollama 0.9.3 answers at {server.url}",
        f"ok       Ollama 0.12.6 answers at {other.url}",
    ]
    assert not [line for line in lines if not line.startswith("ok ")]


def test_doctor_reports_a_host_that_is_down(run, server, other, both) -> None:
    server.refuse()
    result = run("doctor", "-m", "tiny", *both)
    assert result.exit_code == 1
    assert f"problem  no Ollama server answers at {server.url}" in result.stdout
    assert "it answers: " in result.stdout
    other.models.remove("tiny")
    assert f"namel3ss-ollama models pull tiny --host {other.url}" in run("doctor", "-m", "tiny", *both).stdout


def test_doctor_reports_differences(run, server, other, both) -> None:
    has_loaded(server, 8192)
    has_loaded(other, 4096)
    models = [{"name": "tiny:latest", "size": 1, "digest": "f" * 64}, {"name": "vectors:latest", "digest": ""}]
    other.reply(json={"models": models}, path="/api/tags")
    report = json.loads(run("doctor", "-m", "tiny", *both, "--json").stdout)
    assert report["ok"] is True
    assert [one["base_url"] for one in report["hosts"]] == [server.url, other.url]
    digest, window = report["findings"]
    assert digest["status"] == window["status"] == "warning"
    assert f"{'f' * 12} on {other.url}" in digest["what"]
    assert f"8192 tokens on {server.url}, 4096 tokens on {other.url}" in window["what"]
    assert "-o num_ctx=8192" in window["remedy"]
    output = run("doctor", *both).stdout
    assert "warning  tiny:latest is not the same model on all hosts" in output


def test_a_finding_of_the_doctor_is_not_a_warning_too(process, server, other, both) -> None:
    other.refuse()
    running = process(*CLI, "doctor", "-m", "tiny", *both)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, err) == (1, "")
    assert f"problem  no Ollama server answers at {other.url}" in out


def test_doctor_with_all_hosts_down(run, server, other, both) -> None:
    server.refuse()
    other.refuse()
    report = json.loads(run("doctor", *both, "--json").stdout)
    assert report["ok"] is False
    assert report["findings"] == []
    assert [host["ok"] for host in report["hosts"]] == [False, False]
