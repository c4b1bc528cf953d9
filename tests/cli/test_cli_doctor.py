"""`namel3ss-ollama doctor`: what it finds, and its exit code."""

from __future__ import annotations

import json

import pytest

from namel3ss_ollama.testing import Model, Reply


def findings(result) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for finding in json.loads(result.stdout)["findings"]:
        found.setdefault(finding["status"], []).append(finding["what"])
        assert bool(finding["remedy"]) == (finding["status"] != "ok")
    return found


@pytest.fixture
def loaded(server):
    """Sets what /api/ps reports of the loaded model, besides its name."""

    def loaded(**facts: object) -> None:
        model = {"name": "tiny:latest", "model": "tiny:latest", "size": 10, "size_vram": 10, **facts}
        server.reply(json={"models": [model]}, path="/api/ps")

    return loaded


def test_no_problems(run, server, loaded) -> None:
    loaded(context_length=8192)
    result = run("doctor")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert all(line.startswith("ok ") for line in lines)
    assert lines[0] == f"ok       Ollama 0.9.3 answers at {server.url}"
    assert lines[1] == "ok       it has 2 models: tiny:latest, vectors:latest"
    assert lines[2] == "ok       tiny:latest can do: completion, tools"
    assert lines[3].startswith("ok       it loads in 0.")
    assert lines[3].endswith(" s, on GPU")
    assert lines[4] == "ok       the context window in force is 8192 tokens (the model's own is 8192 tokens)"
    assert lines[5].startswith("ok       it answers: 9 tokens at ")
    assert len(lines) == 6


def test_as_json(run, server, loaded) -> None:
    loaded(context_length=8192)
    report = json.loads(run("doctor", "-m", "tiny", "--json").stdout)
    assert report["ok"] is True
    assert (report["version"], report["model"], report["base_url"]) == ("0.9.3", "tiny", server.url)
    assert report["capabilities"] == ["completion", "tools"]
    assert report["context"] == {"model": 8192, "num_ctx": None, "loaded_with": 8192, "in_force": 8192}
    assert report["load"]["stays_loaded"] is True
    assert report["load"]["seconds"] > 0
    assert report["answer"]["tokens_per_second"] > 0
    assert report["answer"]["time_to_first_token"] > 0


def test_it_loads_twice_and_sends_one_chat(run, server) -> None:
    run("doctor")
    sent = [r for r in server.requests if r.path in ("/api/generate", "/api/chat")]
    assert [r.path for r in sent] == ["/api/generate", "/api/generate", "/api/chat"]
    assert sent[2].payload["options"] == {"num_predict": 16}


def test_no_server(run, server) -> None:
    server.refuse()
    result = run("doctor")
    assert result.exit_code == 1
    first, second = result.stdout.splitlines()
    assert first == f"problem  no Ollama server answers at {server.url}"
    assert "ollama serve" in second
    report = json.loads(run("doctor", "--json").stdout)
    assert report["ok"] is False
    assert report["findings"][0]["status"] == "problem"


def test_something_else_answers(run, server) -> None:
    server.fault("html_page", path="/api/version")
    assert findings(run("doctor", "--json"))["problem"] == [f"no Ollama server answers at {server.url}"]


def test_no_models(run, server) -> None:
    for name in ("tiny", "vectors"):
        server.models.remove(name)
    result = run("doctor", "-m", "tiny")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[1:] == [
        "problem  it has no models",
        "         -> namel3ss-ollama models pull tiny",
    ]


def test_which_model(run, server) -> None:
    server.models.add(Model("other"))
    result = run("doctor")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-2:] == [
        "note     no model was checked",
        "         -> name one with --model or OLLAMA_MODEL",
    ]


def test_a_missing_model(run, server) -> None:
    server.models.remove("vectors")
    result = run("doctor", "-m", "nope")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[1:] == [
        "ok       it has 1 model: tiny:latest",
        "problem  the server does not have nope",
        "         -> namel3ss-ollama models pull nope",
    ]


def test_a_small_window_is_a_warning(run, loaded) -> None:
    loaded(context_length=2048)
    result = run("doctor", "--json")
    assert result.exit_code == 0
    assert findings(result)["warning"] == [
        "the context window in force is 2048 tokens (the model's own is 8192 tokens): longer prompts are truncated "
        "silently"
    ]
    assert "num_ctx" in next(f for f in json.loads(result.stdout)["findings"] if f["status"] == "warning")["remedy"]


def test_a_window_of_the_models_parameters(run, server) -> None:
    server.models.add(Model("tiny", parameters="num_ctx                        1024"))
    report = json.loads(run("doctor", "--json").stdout)
    assert report["context"] == {"model": 8192, "num_ctx": 1024, "loaded_with": None, "in_force": 1024}


def test_a_window_of_the_option(run, server) -> None:
    result = run("doctor", "--json", "-o", "num_ctx=4096")
    assert json.loads(result.stdout)["context"]["in_force"] == 4096
    assert "warning" not in findings(result)
    sent = [r for r in server.requests if r.path in ("/api/generate", "/api/chat")]
    assert [r.payload["options"]["num_ctx"] for r in sent] == [4096] * 3


def test_an_unknown_window(run, server) -> None:
    assert findings(run("doctor", "--json"))["note"] == [
        "the server does not report which context window is in force (the model's own is 8192 tokens)"
    ]
    server.reply(json={}, path="/api/show")
    result = run("doctor", "--json", "-m", "tiny")
    assert findings(result)["note"] == [
        "the server does not report which context window is in force (the model does not state its own)"
    ]
    assert "tiny can do: the server does not say" in findings(result)["ok"]


def test_a_model_that_does_not_stay_loaded(run, server) -> None:
    server.reply(json={"models": []}, path="/api/ps")
    result = run("doctor", "--json")
    assert result.exit_code == 1
    assert findings(result)["problem"] == ["it does not stay loaded, so each answer has to wait for a load"]
    assert json.loads(result.stdout)["load"]["stays_loaded"] is False


def test_a_model_that_another_client_unloaded_stays_loaded(run, server) -> None:
    here = {"models": [{"name": "tiny:latest", "size": 10, "size_vram": 10}]}
    server.on(path="/api/ps").sequence(Reply(json={"models": []}), Reply(json=here), Reply(json=here))
    result = run("doctor", "--json")
    assert "problem" not in findings(result)
    assert json.loads(result.stdout)["load"]["stays_loaded"] is True


def test_model_names_are_case_insensitive(run, server) -> None:
    server.reply(json={"models": [{"name": "tiny:latest"}]}, path="/api/ps")
    server.models.add(Model("TINY"))
    assert "problem" not in findings(run("doctor", "-m", "TINY", "--json"))


def test_a_model_that_cannot_be_loaded(run, server) -> None:
    server.fault("status", status=500, message="model requires more system memory (9 GiB)", path="/api/generate")
    result = run("doctor")
    assert result.exit_code == 1
    assert "problem  tiny:latest does not answer" in result.stdout
    assert "more system memory" in result.stdout


def test_an_empty_answer(run, server) -> None:
    server.reply("", path="/api/chat")
    assert findings(run("doctor", "--json"))["problem"] == ["its answer is empty"]


def test_an_answer_without_counters(run, server) -> None:
    server.fault("missing_counter", path="/api/chat")
    assert any(
        what.startswith("it answers: 0 tokens, the first after") for what in findings(run("doctor", "--json"))["ok"]
    )


def test_an_embedding_model(run, server) -> None:
    result = run("doctor", "-m", "vectors", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["embedding"]["dimensions"] == 384
    assert not [r for r in server.requests if r.path in ("/api/generate", "/api/chat")]


def test_wrong_arguments(run, server) -> None:
    result = run("doctor", "-o", "num_ctx=0")
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", "error: num_ctx: must be 1 or more, not 0\n")
    assert not server.requests
