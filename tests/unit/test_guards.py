"""What an answer's numbers betray: a cut prompt, a model loaded anew."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from namel3ss_ollama.errors import LLMConnectionError
from namel3ss_ollama.guards import ContextGuard, ReloadGuard, Window, window_of


class Server:
    """What a look-up answers, and how often it was asked."""

    def __init__(self, *windows: Window | Exception) -> None:
        self.windows = list(windows)
        self.asked: list[str] = []

    async def __call__(self, model: str) -> Window:
        self.asked.append(model)
        window = self.windows.pop(0) if len(self.windows) > 1 else self.windows[0]
        if isinstance(window, Exception):
            raise window
        return window


async def cut_at(server: Server, *counts: Any, num_ctx: int | None = None, model: str = "m") -> list[int | None]:
    guard = ContextGuard(server)
    return [await guard.cut_at(model, num_ctx, {"prompt_eval_count": count}) for count in counts]


@pytest.mark.parametrize(
    ("window", "num_ctx", "in_force"),
    [
        (Window(), None, None),
        (Window(), 2048, 2048),
        (Window(running=4096), None, 4096),
        (Window(configured=8192), None, 8192),
        (Window(trained=131072), None, 131072),
        (Window(running=4096, configured=8192, trained=131072), None, 4096),
        (Window(configured=8192, trained=131072), None, 8192),
        (Window(running=4096, configured=8192, trained=131072), 16384, 16384),
        (Window(running=4096, trained=2048), None, 2048),
        (Window(configured=4096, trained=2048), None, 2048),
        (Window(trained=2048), 4096, 2048),
    ],
)
def test_which_window_is_in_force(window: Window, num_ctx: int | None, in_force: int | None) -> None:
    assert window.in_force(num_ctx) == in_force


SHOWN = {
    "model_info": {"general.architecture": "llama", "llama.context_length": 131072, "other.context_length": 5},
    "parameters": 'stop                           "<|eot|>"\nnum_ctx                        8192\ntemperature 0.5',
}


@pytest.mark.parametrize(
    ("shown", "running", "window"),
    [
        ({}, {}, Window()),
        (SHOWN, {}, Window(None, 8192, 131072)),
        (SHOWN, {"models": None}, Window(None, 8192, 131072)),
        (SHOWN, {"models": [{"name": "m:latest", "context_length": 4096}]}, Window(4096, 8192, 131072)),
        (SHOWN, {"models": [{"model": "m", "context_length": 4096}]}, Window(4096, 8192, 131072)),
        (SHOWN, {"models": [{"name": "other", "context_length": 4096}]}, Window(None, 8192, 131072)),
        (SHOWN, {"models": [{"name": "m:7b", "context_length": 4096}]}, Window(None, 8192, 131072)),
        (SHOWN, {"models": [{"name": "m"}]}, Window(None, 8192, 131072)),
        (SHOWN, {"models": [{"name": "m", "context_length": 0}]}, Window(None, 8192, 131072)),
        ({"parameters": "num_ctx 4096\n"}, {}, Window(None, 4096, None)),
        ({"parameters": "my_num_ctx 4096"}, {}, Window()),
        ({"parameters": 'stop "num_ctx 4096"'}, {}, Window()),
        ({"parameters": None, "model_info": None}, {}, Window()),
        ({"model_info": {"general.architecture": "llama", "llama.context_length": "many"}}, {}, Window()),
        ({"model_info": {"llama.context_length": 4096}}, {}, Window()),
    ],
)
def test_what_show_and_ps_tell_of_a_window(shown: Any, running: Any, window: Window) -> None:
    assert window_of("m", shown, running) == window


@pytest.mark.parametrize("count", [None, 0, -1, "256", 1, 127])
async def test_short_prompts_are_not_looked_into(count: Any) -> None:
    server = Server(Window(running=100))
    assert await cut_at(server, count) == [None]
    assert server.asked == []


async def test_a_prompt_as_long_as_the_smallest_window_is() -> None:
    assert await cut_at(Server(Window(running=128)), 128) == [128]


@pytest.mark.parametrize(("count", "cut"), [(255, None), (256, 256), (300, 256)])
async def test_with_num_ctx_given_a_full_window_is_a_cut(count: int, cut: int | None) -> None:
    assert await cut_at(Server(Window()), count, num_ctx=256) == [cut]


async def test_a_window_that_was_asked_for_needs_no_look_up() -> None:
    server = Server(Window())
    assert await cut_at(server, 256, 16, 100, num_ctx=256) == [256, None, None]
    assert await cut_at(server, 16, num_ctx=16) == [16]
    assert server.asked == []


@pytest.mark.parametrize(
    ("window", "counts", "cuts"),
    [
        (Window(running=4096), (4095, 4096), [None, 4096]),
        (Window(configured=2048, trained=8192), (2047, 2048), [None, 2048]),
        (Window(running=4096, configured=2048), (2048, 4096), [None, 4096]),
        (Window(trained=2048), (2000, 2048), [None, 2048]),
        (Window(), (2048, 10**6), [None, None]),
    ],
)
async def test_a_prompt_that_fills_the_window_was_cut(window: Window, counts: Any, cuts: list[int | None]) -> None:
    assert await cut_at(Server(window), *counts) == cuts


async def test_a_window_larger_than_the_models_own_is_the_models_own() -> None:
    assert await cut_at(Server(Window(trained=2048)), 2047, 2048, num_ctx=8192) == [None, 2048]


async def test_one_look_up_does_for_many_prompts() -> None:
    server = Server(Window(running=4096))
    await cut_at(server, 200, 300, 4000)
    assert server.asked == ["m"]


async def test_each_model_has_its_window() -> None:
    server = Server(Window(running=4096), Window(running=2048))
    guard = ContextGuard(server)
    assert await guard.cut_at("a", None, {"prompt_eval_count": 2048}) is None
    assert await guard.cut_at("b", None, {"prompt_eval_count": 2048}) == 2048
    assert await guard.cut_at("a", None, {"prompt_eval_count": 2048}) is None
    assert server.asked == ["a", "b"]


async def test_a_server_started_anew_with_a_larger_window_raises_no_false_alarm() -> None:
    server = Server(Window(running=2048), Window(running=8192))
    assert await cut_at(server, 1000, 2048, 4096, 8191) == [None] * 4
    assert server.asked == ["m", "m"]


async def test_a_cut_is_told_of_each_time() -> None:
    server = Server(Window(running=2048))
    assert await cut_at(server, 2048, 2048) == [2048, 2048]
    assert len(server.asked) == 2


async def test_a_server_started_anew_with_a_smaller_window_is_noticed() -> None:
    # Once wrong: a prompt is compared with the window that was known, and only a hit looks again. (The exact smaller
    # window cannot be guessed, but /api/ps can be asked again after each `load_duration` that tells of a new load.)
    guard = ContextGuard(Server(Window(running=8192), Window(running=2048)))
    assert await guard.cut_at("m", None, {"prompt_eval_count": 1000, "load_duration": 10**7}) is None
    assert await guard.cut_at("m", None, {"prompt_eval_count": 2048, "load_duration": 3 * 10**9}) == 2048


async def test_without_an_answer_from_the_server_nothing_is_claimed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "namel3ss_ollama")
    server = Server(LLMConnectionError("gone"))
    assert await cut_at(server, 4096) == [None]
    assert "the context window of m is not known: gone" in caplog.text


async def test_what_was_known_before_a_look_up_failed_still_counts() -> None:
    assert await cut_at(Server(Window(running=2048), LLMConnectionError("gone")), 200, 2048) == [None, 2048]


async def test_a_server_that_tells_nothing_is_not_asked_again_and_again() -> None:
    # Once wrong: with no window known, every prompt of 128 tokens or more costs two requests more, for ever
    server = Server(Window())
    await cut_at(server, *[200] * 20)
    assert len(server.asked) < 5


@pytest.mark.parametrize("error", [LLMConnectionError("gone"), AttributeError("x"), RecursionError()])
async def test_a_failed_look_up_is_not_repeated_for_some_minutes(error: Exception) -> None:
    times = [1000.0]
    server = Server(error, Window(running=2048))
    guard = ContextGuard(server, clock=lambda: times[-1])
    for seconds in (0, 1, 299):
        times.append(1000.0 + seconds)
        assert await guard.cut_at("m", None, {"prompt_eval_count": 4096}) is None
    assert server.asked == ["m"]
    times.append(1300.0)
    assert await guard.cut_at("m", None, {"prompt_eval_count": 4096}) == 2048
    assert server.asked == ["m", "m"]


async def test_many_answers_at_once_cost_one_look_up_and_all_know_its_window() -> None:
    asked: list[str] = []

    async def look_up(model: str) -> Window:
        asked.append(model)
        await asyncio.sleep(0.01)
        return Window(running=2048)

    guard = ContextGuard(look_up)
    answers = [guard.cut_at("m", None, {"prompt_eval_count": count}) for count in (200, 2048) * 25]
    assert await asyncio.gather(*answers) == [None, 2048] * 25
    assert asked == ["m"]


async def test_who_waits_for_a_look_up_outlives_the_one_who_asked() -> None:
    async def look_up(model: str) -> Window:
        await asyncio.Event().wait()
        return Window()

    guard = ContextGuard(look_up)
    first = asyncio.create_task(guard.cut_at("m", None, {"prompt_eval_count": 200}))
    await asyncio.sleep(0)
    second = asyncio.create_task(guard.cut_at("m", None, {"prompt_eval_count": 200}))
    await asyncio.sleep(0)
    first.cancel()
    assert await asyncio.wait_for(second, 1) is None


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=3), lambda inner: (
    st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["models", "model_info", "name", "context_length", "parameters",
                                       "general.architecture"]), inner, max_size=3)
)))  # fmt: skip
def test_any_json_tells_of_a_window_or_of_none(shown: Any) -> None:
    for running in (shown, {"models": shown}, {"models": [shown, "m"]}):
        assert isinstance(window_of("m", shown, running), Window)
        assert isinstance(window_of("m", {"model_info": shown, "parameters": shown}, running), Window)


# ReloadGuard

SLOW, FAST = 2_000_000_000, 5_000_000


def test_a_changed_load_option_with_a_reload_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    guard = ReloadGuard()
    assert guard.check("m", {"num_ctx": 2048}, SLOW) == []
    assert guard.check("m", {"num_ctx": 4096}, SLOW) == ["num_ctx"]
    assert "loaded m anew (2.0 s) because num_ctx changed between requests" in caplog.text
    assert guard.check("m", {"num_ctx": 2048}, SLOW) == []
    assert guard.check("m", {"num_ctx": 2048, "num_gpu": 1}, SLOW) == ["num_gpu"]
    assert len(caplog.records) == 2
    assert all(record.levelno == logging.WARNING for record in caplog.records)


def test_an_option_that_is_sent_only_sometimes_has_changed_too(caplog: pytest.LogCaptureFixture) -> None:
    guard = ReloadGuard()
    guard.check("m", {}, SLOW)
    assert guard.check("m", {"num_batch": 8, "num_thread": 2}, SLOW) == ["num_batch", "num_thread"]
    assert "num_batch and num_thread changed" in caplog.text
    guard = ReloadGuard()
    guard.check("m", {"num_ctx": 1}, SLOW)
    assert guard.check("m", {}, SLOW) == ["num_ctx"]


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
def test_nothing_is_told_without_both(before: Any, after: Any, duration: Any, caplog: pytest.LogCaptureFixture) -> None:
    guard = ReloadGuard()
    guard.check("m", before, SLOW)
    assert guard.check("m", after, duration) == []
    assert not caplog.records


def test_a_change_is_one_from_the_request_before() -> None:
    guard = ReloadGuard()
    guard.check("m", {"num_ctx": 1}, SLOW)
    guard.check("m", {"num_ctx": 2}, FAST)
    assert guard.check("m", {"num_ctx": 2}, SLOW) == []


def test_models_are_told_apart() -> None:
    guard = ReloadGuard()
    guard.check("a", {"num_ctx": 1}, SLOW)
    assert guard.check("b", {"num_ctx": 2}, SLOW) == []
    assert guard.check("a", {"num_ctx": 2}, SLOW) == ["num_ctx"]
    assert guard.check("b", {"num_ctx": 1}, SLOW) == ["num_ctx"]


@pytest.mark.parametrize(("duration", "told"), [(99_999_999, []), (100_000_000, ["num_ctx"])])
def test_a_load_takes_a_tenth_of_a_second_at_least(duration: int, told: list[str]) -> None:
    guard = ReloadGuard()
    guard.check("m", {"num_ctx": 1}, None)
    assert guard.check("m", {"num_ctx": 2}, duration) == told
