"""Inputs that exceed the context window: what each version of Ollama does with them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from namel3ss_ollama.testing import Model, OllamaServer
from namel3ss_ollama.versions import at_least, numbers

OLD, KNOWS_TRUNCATE, LLAMA_SERVER, HALVES = "0.9.3", "0.12.6", "0.30.0", "0.30.11"
VERSIONS = [OLD, "0.12.5", KNOWS_TRUNCATE, "0.24.0", LLAMA_SERVER, HALVES, "0.33.0-rc2"]
SMALL = {"num_ctx": 64}
CHAT, EMBED = "llama3.2", "all-minilm"


class Api:
    """An HTTP client of a server of one version."""

    def __init__(self, url: str) -> None:
        self.url = url

    def post(self, path: str, **payload: Any) -> httpx.Response:
        return httpx.post(self.url + path, json={"stream": False, **payload})

    def generate(self, prompt: str, **more: Any) -> httpx.Response:
        return self.post("/api/generate", **{"model": CHAT, "prompt": prompt, "options": SMALL, **more})

    def chat(self, messages: list[dict[str, str]], **more: Any) -> httpx.Response:
        return self.post("/api/chat", **{"model": CHAT, "messages": messages, "options": SMALL, **more})

    def embed(self, given: object, **more: Any) -> httpx.Response:
        return self.post("/api/embed", **{"model": EMBED, "input": given, **more})


@contextmanager
def api(version: str, **settings: Any) -> Iterator[Api]:
    with OllamaServer(version=version, **settings) as server:
        yield Api(server.url)


def words(count: int) -> str:
    """`count` distinct tokens."""
    return " ".join(f"w{index}" for index in range(count))


def talk(count: int, role: str = "user", each: int = 9) -> list[dict[str, str]]:
    """Messages of `each` tokens."""
    return [{"role": role, "content": f"message{index} {words(each - 1)}"} for index in range(count)]


def test_versions_are_compared_by_their_numbers() -> None:
    assert numbers("v0.12.6-rc1+cuda") == (0, 12, 6)
    assert at_least("0.12.10", "0.12.6")
    assert not at_least("0.9.3", "0.12.6")
    assert at_least("1", "0.30.11")


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"version": "new"}, "version"), ({"version": ""}, "version"), ({"context_length": 0}, "context_length")],
)
def test_settings_are_checked(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        OllamaServer(**settings)


@pytest.mark.parametrize(
    ("version", "settings", "parameters", "options", "window"),
    [
        ("0.6.6", {}, "", {}, 2048),
        ("0.9.3", {}, "", {}, 4096),
        ("0.33.0", {}, "", {}, 4095),
        ("0.9.3", {"context_length": 128}, "", {}, 128),
        ("0.9.3", {"context_length": 128}, "stop  x\nnum_ctx                        256", {}, 256),
        ("0.9.3", {"context_length": 128}, "num_ctx   256", {"num_ctx": 32}, 32),
        ("0.9.3", {}, "", {"num_ctx": 1}, 4),
        ("0.9.3", {}, "", {"num_ctx": 9000}, 5000),
    ],
)
def test_which_window_applies(version, settings, parameters, options, window) -> None:
    model = Model(CHAT, parameters=parameters, context_length=5000)
    with api(version, models=[model], **settings) as asked:
        for count in (window, window + 1):
            answer = asked.generate(words(count), options=options).json()
            cut = answer["prompt_eval_count"] != count
            assert cut == (count > window), answer["prompt_eval_count"]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_chat_loses_its_oldest_messages(version: str) -> None:
    messages = [{"role": "system", "content": "be brief"}, *talk(20)]
    with api(version) as asked:
        answer = asked.chat(messages).json()
        uncut = asked.chat(messages[:4]).json()
    assert answer["prompt_eval_count"] == 2 + 6 * 9, "the system message and the last six messages, uncut"
    assert answer["message"]["content"] == f"You said: {messages[-1]['content']}"
    assert uncut["prompt_eval_count"] == 2 + 3 * 9


@pytest.mark.parametrize("version", VERSIONS)
def test_the_last_and_the_system_messages_are_kept_but_cut(version: str) -> None:
    with api(version) as asked:
        long = asked.chat([*talk(3), {"role": "user", "content": words(200)}]).json()
        system = asked.chat([*talk(20, "system"), {"role": "user", "content": "hello"}]).json()
    kept = {OLD: 64, LLAMA_SERVER: 63, HALVES: 34}
    expected = next(kept[since] for since in (HALVES, LLAMA_SERVER, OLD) if at_least(version, since))
    assert long["prompt_eval_count"] == system["prompt_eval_count"] == expected
    assert long["message"]["content"].endswith("w199"), "the end is kept"
    assert system["message"]["content"].endswith("hello")


@pytest.mark.parametrize(
    ("version", "options", "count"),
    [
        *((version, {"num_ctx": 64}, 64) for version in (OLD, "0.12.5", KNOWS_TRUNCATE, "0.24.0")),
        (LLAMA_SERVER, {"num_ctx": 64}, 63),
        ("0.30.10", {"num_ctx": 64}, 63),
        (HALVES, {"num_ctx": 64}, 34),
        (HALVES, {"num_ctx": 64, "num_keep": 0}, 32),
        (HALVES, {"num_ctx": 64, "num_keep": -1}, 63),
        (OLD, {"num_ctx": 64, "num_keep": -1}, 64),
    ],
)
def test_a_prompt_is_cut_after_num_keep_tokens(version: str, options: dict[str, int], count: int) -> None:
    with api(version) as asked:
        answer = asked.generate(words(200), options=options).json()
    assert answer["prompt_eval_count"] == count
    keep = options.get("num_keep", 4)
    end = "w199" if keep >= 0 else "w62 w199" if count == 64 else "w62"
    assert answer["response"].endswith(end)
    if keep == 4:
        assert "w3 w" in answer["response"], "its beginning is kept"
        assert "w4 w" not in answer["response"]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("version", VERSIONS)
def test_truncate_false_is_ignored_or_refused(version: str, stream: bool) -> None:
    messages = talk(20)
    with api(version) as asked:
        answers = [
            asked.chat(messages, truncate=False, stream=stream),
            asked.generate(words(180), truncate=False, stream=stream),
        ]
        assert asked.chat(messages[:3], truncate=False).status_code == 200
    for answer in answers:
        if not at_least(version, KNOWS_TRUNCATE):
            assert answer.status_code == 200
            continue
        assert answer.status_code == 400
        assert answer.headers["content-type"].startswith("application/json")
        text = answer.json()["error"]
        if at_least(version, LLAMA_SERVER):
            inner = json.loads(text)["error"]
            assert (inner["n_prompt_tokens"], inner["n_ctx"], inner["code"]) == (180, 64, 400)
            assert "request (180 tokens) exceeds the available context size (64 tokens)" in inner["message"]
        else:
            assert text == "the input length exceeds the context length"


@pytest.mark.parametrize("version", VERSIONS)
def test_an_answer_ends_at_the_window_only_without_shift(version: str) -> None:
    with OllamaServer(version=version) as server:
        server.reply(words(100), thinking="a b c")
        asked = Api(server.url)
        on, off = (asked.generate(words(40), shift=shift).json() for shift in (True, False))
        room = asked.generate(words(40), shift=False, options={"num_ctx": 143}).json()
        full = asked.generate(words(100), shift=False)
    assert (on["eval_count"], on["done_reason"]) == (103, "stop")
    assert (room["eval_count"], room["done_reason"]) == (103, "stop")
    if not at_least(version, KNOWS_TRUNCATE):
        assert off["eval_count"] == 103
        return
    assert (off["eval_count"], off["done_reason"]) == (64 - 40, "length")
    assert off["thinking"] == "a b c"
    assert off["response"] == words(21)
    if at_least(version, "0.30.9"):
        assert full.status_code == 400
        assert full.json()["error"].startswith("the prompt is longer than the context length currently available")
    else:
        assert full.json()["eval_count"] == (1 if at_least(version, LLAMA_SERVER) else 0)


def test_tool_calls_that_do_not_fit_are_left_out() -> None:
    call = {"name": "f", "arguments": {}}
    with OllamaServer(version="0.12.6") as server:
        server.reply("one two", tool_calls=[call, call])
        kept = [Api(server.url).chat(talk(1, each=60 + more), shift=False).json() for more in (0, 1, 2, 3)]
    assert [len(answer["message"].get("tool_calls", [])) for answer in kept] == [2, 1, 0, 0]
    assert [answer["message"]["content"] for answer in kept] == ["one two", "one two", "one two", "one"]
    assert [answer["done_reason"] for answer in kept] == ["stop", "length", "length", "length"]


@pytest.mark.parametrize(
    ("version", "text"),
    [
        (OLD, "input length exceeds maximum context length"),
        ("0.11.11", "input length exceeds maximum context length"),
        ("0.12.0", "input exceeds maximum context length"),
        ("0.13.2", "input exceeds maximum context length"),
        ("0.13.3", "the input length exceeds the context length"),
        ("0.33.0", "the input length exceeds the context length"),
    ],
)
def test_texts_to_embed_are_cut_or_refused(version: str, text: str) -> None:
    with api(version) as asked:
        cut = asked.embed([words(3000), "short"]).json()
        head = asked.embed([words(512), "short"], truncate=False).json()
        refused = asked.embed(["short", words(513)], truncate=False)
        small = asked.embed(words(65), truncate=False, options=SMALL)
    assert cut["prompt_eval_count"] == 513
    assert cut["embeddings"] == head["embeddings"], "text after the window has no effect"
    for answer in (refused, small):
        assert (answer.status_code, answer.json()) == (400, {"error": text})


@pytest.mark.parametrize(("version", "reported"), [(OLD, None), ("0.10.0", 64)])
def test_the_window_of_a_loaded_model(version: str, reported: int | None) -> None:
    with api(version) as asked:
        asked.generate("x")
        (loaded,) = httpx.get(asked.url + "/api/ps").json()["models"]
    assert loaded.get("context_length") == reported
