"""What the counters of an answer reveal: cut prompts, shifted windows, reloads."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from namel3ss_ollama.guards import ContextGuard, Finding, ReloadGuard
from namel3ss_ollama.server_version import ServerVersion
from namel3ss_ollama.tokens import measure_prompt
from namel3ss_ollama.windows import Window, Windows

WORD = "window "
"""About two tokens, by the first estimate for any model."""


class Server:
    """A server with windows and a version, which records how often it is asked."""

    def __init__(self, *windows: Window, version: str | None = "0.9.3") -> None:
        self.windows = list(windows) or [Window()]
        self.version = version
        self.asked: list[str] = []

    async def look_up(self, model: str) -> Window:
        self.asked.append(model)
        return self.windows.pop(0) if len(self.windows) > 1 else self.windows[0]

    async def look_up_version(self) -> str:
        self.asked.append("version")
        if self.version is None:
            raise ConnectionError("no way there")
        return self.version

    @property
    def guard(self) -> ContextGuard:
        return ContextGuard(Windows(self.look_up), ServerVersion(self.look_up_version))


def chat(*contents: str, num_ctx: int | None = None, **fields: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    messages = [{"role": roles[index % 2], "content": content} for index, content in enumerate(contents)]
    return {"model": "m", "messages": messages, **({"options": {"num_ctx": num_ctx}} if num_ctx else {}), **fields}


async def judge(guard: ContextGuard, body: dict[str, Any], count: Any, generated: Any = None, **final: Any) -> Finding:
    answer = {"prompt_eval_count": count, "eval_count": generated, **final}
    return await guard.judge(guard.expect(body), answer, None, refuses=body.get("truncate") is False)


# Prompts that reach the window


@pytest.mark.parametrize("count", [None, 0, -1, "256", True, 1.5])
async def test_without_a_count_nothing_is_found(count: Any) -> None:
    server = Server(Window(running=100))
    assert await judge(server.guard, chat(WORD * 5000), count) == Finding()
    assert server.asked == []


@pytest.mark.parametrize(("count", "cut"), [(255, False), (256, True), (300, True)])
async def test_with_num_ctx_given_a_full_window_is_a_cut(count: int, cut: bool) -> None:
    server = Server()
    found = await judge(server.guard, chat(WORD * 130, num_ctx=256), count)
    assert (found.cut, found.window) == (cut, 256)
    assert server.asked == []


@pytest.mark.parametrize(
    ("window", "count", "cut"),
    [
        (Window(running=4096), 4095, False),
        (Window(running=4096), 4096, True),
        (Window(configured=2048, trained=8192), 2048, True),
        (Window(running=4096, configured=2048), 2048, False),
        (Window(trained=2048), 2048, True),
        (Window(), 10**6, False),
    ],
)
async def test_a_prompt_that_fills_the_window_was_cut(window: Window, count: int, cut: bool) -> None:
    found = await judge(Server(window).guard, chat(WORD * (count // 2)), count)
    assert (found.cut, found.window) == (cut, window.in_force(None))


async def test_a_window_larger_than_the_models_own_is_the_models_own() -> None:
    guard = Server(Window(trained=2048)).guard
    assert not (await judge(guard, chat(WORD * 1000), 2000, 50)).cut  # looks the window up
    assert (await judge(guard, chat(WORD * 1100, num_ctx=8192), 2048)).cut


async def test_many_prompts_share_one_look_up_and_short_ones_need_none() -> None:
    server = Server(Window(running=8192))
    guard = server.guard
    await judge(guard, chat(WORD * 500), 1000)
    assert server.asked == []
    for words in (1500, 2000, 3000):
        await judge(guard, chat(WORD * words), words * 2)
    assert server.asked == ["m"]


async def test_a_prompt_that_fits_any_window_needs_no_look_up() -> None:
    server = Server(Window(running=100))
    assert not (await judge(server.guard, chat("Why is the sky blue?"), 1)).cut
    assert server.asked == []


async def test_a_server_without_a_window_is_asked_once() -> None:
    server = Server(Window())
    guard = server.guard
    for _ in range(20):
        await judge(guard, chat(WORD * 1500), 3000)
    assert server.asked == ["m"]


async def test_a_restart_with_a_larger_window_raises_no_false_alarm() -> None:
    server = Server(Window(running=2048), Window(running=8192))
    guard = server.guard
    for count, generated in ((2000, 48), (2048, 1), (4096, 1), (8190, 1)):
        assert not (await judge(guard, chat(WORD * (count // 2)), count, generated)).cut
    assert server.asked == ["m", "m"]


async def test_a_restart_with_a_smaller_window_is_noticed() -> None:
    guard = Server(Window(running=8192), Window(running=2048)).guard
    assert not (await judge(guard, chat(WORD * 1200), 2400, load_duration=10**7)).cut
    assert (await judge(guard, chat(WORD * 1100), 2048, load_duration=3 * 10**9)).cut


# Prompts whose count falls short


async def test_a_chat_that_counts_less_than_possible_was_cut() -> None:
    server = Server()
    found = await judge(server.guard, chat(*[WORD * 25] * 61, num_ctx=512), 475)
    assert (found.cut, found.window) == (True, 512)
    assert found.tokens is not None
    assert 2500 < found.tokens < 4500
    assert server.asked == []


async def test_a_prompt_below_the_window_is_not_cut_whatever_the_estimate() -> None:
    # A tokenizer with a token for each word of this text: the estimate is far off, as the window shows.
    guard = Server(Window(running=8192)).guard
    assert not (await judge(guard, chat("understanding " * 400), 400)).cut
    assert not (await judge(guard, chat("understanding " * 400, num_ctx=8192), 400)).cut


async def test_a_conversation_that_grew_is_compared_with_its_last_count() -> None:
    guard = Server().guard
    turns = ["Tell me of whales.", "They sing.", "Of what?", "Of krill."]
    assert not (await judge(guard, chat(turns[0], num_ctx=64), 40)).cut
    assert not (await judge(guard, chat(*turns[:3], num_ctx=64), 58)).cut
    found = await judge(guard, chat(*turns, "And of me?", num_ctx=64), 50)  # 58 and some more would not fit
    assert found.cut
    assert (await judge(guard, chat(*turns, "And of me?", "No.", "Why?", num_ctx=64), 55)).cut  # nor later


async def test_a_conversation_with_thinking_in_it_may_shrink() -> None:
    guard = Server().guard
    body = chat("Tell me of whales.", "They sing.", "Of what?", num_ctx=64)
    body["messages"][1]["thinking"] = "Sing? Or dance? " * 3
    assert not (await judge(guard, body, 60)).cut
    body["messages"] += [{"role": "assistant", "content": "Of krill."}, {"role": "user", "content": "And?"}]
    assert not (await judge(guard, body, 50)).cut


async def test_conversations_are_distinguished() -> None:
    guard = Server().guard
    assert not (await judge(guard, chat("Tell me of whales.", num_ctx=64), 60)).cut
    assert not (await judge(guard, chat("Tell me of otters.", num_ctx=64), 30)).cut
    assert not (await judge(guard, chat("Tell me of whales.", num_ctx=64, tools=[{"type": "function"}]), 50)).cut


@pytest.mark.parametrize(
    ("version", "cut"),
    [
        ("0.9.3", True),
        ("0.12.5", True),
        ("0.12.6", False),
        ("0.30.11", False),
        ("0.3.9", False),
        ("0.1.0+embedded", True),
    ],
)
async def test_a_server_that_would_have_refused_has_cut_nothing(version: str, cut: bool) -> None:
    # And before 0.4, counts do not include cached tokens.
    server = Server(version=version)
    guard = server.guard
    for _ in range(2):
        assert (await judge(guard, chat(WORD * 3000, num_ctx=4096, truncate=False), 2000)).cut is cut
    assert server.asked == ["version"]
    if version > "0.4":
        assert (await judge(guard, chat(WORD * 3001, num_ctx=4096), 2000)).cut  # truncate=False was not sent


@pytest.mark.parametrize("version", [None, "", "dev"])
async def test_a_server_without_a_version_is_asked_once(version: str | None) -> None:
    server = Server(version=version)
    guard = server.guard
    for words in (3000, 3001, 3002):
        assert (await judge(guard, chat(WORD * words, num_ctx=4096, truncate=False), 2000)).cut
    assert server.asked == ["version"]


async def test_estimates_learn_from_answers() -> None:
    guard = Server().guard
    measure = measure_prompt(chat("understanding " * 40))
    before = guard.estimate("m", measure)
    for number in range(20):
        text = f"{number} " + "understanding " * (40 + number)
        await judge(guard, chat(text, num_ctx=4096), 60 + number)
    after = guard.estimate("m", measure)
    assert before.tokens > 120
    assert 50 < after.tokens < 75
    assert after.deviation < before.deviation
    assert guard.estimate("other", measure) == before


async def test_estimates_learn_from_added_messages_too() -> None:
    guard = Server().guard
    texts = [WORD * 20]
    count = 30
    await judge(guard, chat(*texts), count)
    before = guard.expect(chat(*texts, WORD * 20)).tokens
    for _ in range(8):
        texts.append(WORD * 20)
        count += 25  # about a token a word, and not two
        await judge(guard, chat(*texts), count)
    after = guard.expect(chat(*texts, WORD * 20)).tokens
    assert after.tokens - count == pytest.approx(25, abs=4)
    assert after.deviation < before.deviation


async def test_cut_prompts_are_not_learnt() -> None:
    guard = Server().guard
    for number in range(5):
        await judge(guard, chat(f"{number}" + WORD * 3000, num_ctx=512), 500)
    measure = measure_prompt(chat("x"))
    assert guard.estimate("m", measure) == guard.estimate("never asked", measure)


# Shifts


@pytest.mark.parametrize(
    ("count", "generated", "fields", "shifted"),
    [(200, 56, {}, False), (200, 57, {}, True), (200, 57, {"shift": False}, False), (200, None, {}, False)],
)
async def test_prompt_and_answer_past_the_window(
    count: int, generated: int | None, fields: dict[str, Any], shifted: bool
) -> None:
    found = await judge(Server().guard, chat(WORD * 100, num_ctx=256, **fields), count, generated)
    assert (found.cut, found.shifted) == (False, shifted)


async def test_a_long_answer_causes_a_look_up() -> None:
    server = Server(Window(running=4096))
    assert (await judge(server.guard, chat("Go on."), 20, 4080)).shifted
    assert server.asked == ["m"]


# ReloadGuard

SLOW, FAST = 2_000_000_000, 5_000_000


def reload_guard(version: str | None = "0.40") -> ReloadGuard:
    return ReloadGuard(ServerVersion(Server(version=version).look_up_version))


async def check(guard: ReloadGuard, model: str, options: Any, duration: Any, **fields: Any) -> list[str]:
    changed = guard.changed({"model": model, "options": options, **fields}, duration)
    return await guard.tell(model, changed, duration) if changed else []


async def test_a_changed_load_option_with_a_reload_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    guard = reload_guard()
    assert await check(guard, "m", {"num_ctx": 2048}, SLOW) == []
    assert await check(guard, "m", {"num_ctx": 4096}, SLOW) == ["num_ctx"]
    assert "reloaded m (2.0 s) because num_ctx changed between requests" in caplog.text
    assert await check(guard, "m", {"num_ctx": 2048}, SLOW) == []
    assert await check(guard, "m", {"num_ctx": 2048, "num_gpu": 1}, SLOW) == ["num_gpu"]
    assert len(caplog.records) == 2
    assert all(record.levelno == logging.WARNING for record in caplog.records)


async def test_an_option_that_is_not_always_sent_has_changed_too(caplog: pytest.LogCaptureFixture) -> None:
    guard = reload_guard()
    await check(guard, "m", {}, SLOW)
    assert await check(guard, "m", {"num_batch": 8, "num_thread": 2}, SLOW) == ["num_batch", "num_thread"]
    assert "num_batch and num_thread changed" in caplog.text
    guard = reload_guard()
    await check(guard, "m", {"num_ctx": 1}, SLOW)
    assert await check(guard, "m", {}, SLOW) == ["num_ctx"]


@pytest.mark.parametrize(
    ("before", "after", "duration"),
    [
        ({"num_ctx": 1}, {"num_ctx": 2}, FAST),
        ({"num_ctx": 1}, {"num_ctx": 2}, None),
        ({"num_ctx": 1}, {"num_ctx": 2}, "2"),
        ({"num_ctx": 1}, {"num_ctx": 1}, SLOW),
        ({"temperature": 1, "seed": 1}, {"temperature": 2}, SLOW),
        ({}, {}, SLOW),
    ],
)
async def test_nothing_is_logged_without_both(
    before: Any, after: Any, duration: Any, caplog: pytest.LogCaptureFixture
) -> None:
    guard = reload_guard()
    await check(guard, "m", before, SLOW)
    assert await check(guard, "m", after, duration) == []
    assert not caplog.records


async def test_changes_are_relative_to_the_last_request() -> None:
    guard = reload_guard()
    await check(guard, "m", {"num_ctx": 1}, SLOW)
    await check(guard, "m", {"num_ctx": 2}, FAST)
    assert await check(guard, "m", {"num_ctx": 2}, SLOW) == []


async def test_models_are_distinguished() -> None:
    guard = reload_guard()
    await check(guard, "a", {"num_ctx": 1}, SLOW)
    assert await check(guard, "b", {"num_ctx": 2}, SLOW) == []
    assert await check(guard, "a", {"num_ctx": 2}, SLOW) == ["num_ctx"]
    assert await check(guard, "b", {"num_ctx": 1}, SLOW) == ["num_ctx"]


@pytest.mark.parametrize(("duration", "logged"), [(99_999_999, []), (100_000_000, ["num_ctx"])])
async def test_a_load_takes_a_tenth_of_a_second_at_least(duration: int, logged: list[str]) -> None:
    guard = reload_guard()
    await check(guard, "m", {"num_ctx": 1}, None)
    assert await check(guard, "m", {"num_ctx": 2}, duration) == logged


@pytest.mark.parametrize(
    ("version", "logged"), [("0.30.0", ["shift"]), ("0.40", ["shift"]), ("0.29.9", []), ("0.9.3", []), (None, [])]
)
async def test_shift_is_a_load_option_on_newer_servers(
    version: str | None, logged: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    guard = reload_guard(version)
    await check(guard, "m", {}, SLOW)
    assert await check(guard, "m", {}, SLOW, shift=True) == [], "the default is True"
    assert await check(guard, "m", {}, FAST, shift=False) == []
    assert await check(guard, "m", {"num_ctx": 512}, SLOW, shift=True) == ["num_ctx", *logged]
    assert await check(guard, "m", {"num_ctx": 512}, SLOW, shift=False) == []
    assert len(caplog.records) == 1
