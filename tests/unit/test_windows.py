"""The context window of a model, and how often it is looked up."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from namel3ss_ollama import LLMConnectionError
from namel3ss_ollama.windows import Window, Windows, window_of


class Server:
    """Returns the windows in order, then always the last; raises those that are exceptions."""

    def __init__(self, *windows: Window | Exception) -> None:
        self.windows = list(windows)
        self.lookups: list[str] = []

    async def __call__(self, model: str) -> Window:
        self.lookups.append(model)
        window = self.windows.pop(0) if len(self.windows) > 1 else self.windows[0]
        if isinstance(window, Exception):
            raise window
        return window


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
def test_the_window_from_show_and_ps(shown: Any, running: Any, window: Window) -> None:
    assert window_of("m", shown, running) == window


async def test_a_look_up_is_cached() -> None:
    server = Server(Window(running=4096), Window(running=2048))
    windows = Windows(server)
    assert windows.known("a") is None
    assert await windows.ask("a") == windows.known("a") == Window(running=4096)
    assert await windows.ask("b") == Window(running=2048)
    assert windows.known("a") == Window(running=4096)
    windows.forget("a")
    assert windows.known("a") is None
    assert server.lookups == ["a", "b"]


async def test_a_failed_look_up_keeps_the_known_window(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "namel3ss_ollama")
    windows = Windows(Server(Window(running=2048), LLMConnectionError("gone")))
    await windows.ask("m")
    assert await windows.ask("m") == Window(running=2048)
    assert "the context window of m is unknown: gone" in caplog.text


@pytest.mark.parametrize("error", [LLMConnectionError("gone"), AttributeError("x"), RecursionError()])
async def test_a_failed_look_up_is_not_repeated_for_some_minutes(error: Exception) -> None:
    times = [1000.0]
    server = Server(error, Window(running=2048))
    windows = Windows(server, clock=lambda: times[-1])
    for seconds in (0, 1, 299):
        times.append(1000.0 + seconds)
        assert await windows.ask("m") is None
    assert server.lookups == ["m"]
    times.append(1300.0)
    assert await windows.ask("m") == Window(running=2048)
    assert server.lookups == ["m", "m"]


async def test_a_cancelled_look_up_counts_as_failed() -> None:
    lookups: list[str] = []

    async def look_up(model: str) -> Window:
        lookups.append(model)
        await asyncio.Event().wait()
        return Window()

    windows = Windows(look_up)
    task = asyncio.create_task(windows.ask("m"))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert await windows.ask("m") is None
    assert lookups == ["m"]


async def test_concurrent_requests_share_one_look_up() -> None:
    lookups: list[str] = []
    answer = asyncio.Event()

    async def look_up(model: str) -> Window:
        lookups.append(model)
        await answer.wait()
        return Window(running=2048)

    windows = Windows(look_up)
    waiting = asyncio.gather(*[windows.ask("m") for _ in range(50)])
    await asyncio.sleep(0)
    answer.set()
    assert await waiting == [Window(running=2048)] * 50
    assert lookups == ["m"]


async def test_a_waiting_task_survives_a_cancelled_look_up() -> None:
    async def look_up(model: str) -> Window:
        await asyncio.Event().wait()
        return Window()

    windows = Windows(look_up)
    first = asyncio.create_task(windows.ask("m"))
    await asyncio.sleep(0)
    second = asyncio.create_task(windows.ask("m"))
    await asyncio.sleep(0)
    first.cancel()
    assert await asyncio.wait_for(second, 1) is None


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=3), lambda inner: (
    st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["models", "model_info", "name", "context_length", "parameters",
                                       "general.architecture"]), inner, max_size=3)
)))  # fmt: skip
def test_any_json_is_accepted(shown: Any) -> None:
    for running in (shown, {"models": shown}, {"models": [shown, "m"]}):
        assert isinstance(window_of("m", shown, running), Window)
        assert isinstance(window_of("m", {"model_info": shown, "parameters": shown}, running), Window)
