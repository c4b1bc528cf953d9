"""Event loops that LlamaIndex closes by hand (`asyncio_run` in a notebook) keep no slot and no connection."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from llama_index.core.async_utils import asyncio_run

from llama_index.llms.namel3ss_ollama import Ollama
from namel3ss_ollama.testing import Gate, OllamaServer


async def first_chunk(llm: Ollama, kept: list[Any]) -> str:
    stream = await llm.astream_complete("x")
    kept.append(stream)
    return (await stream.__anext__()).text


async def one_of_two_fails(llm: Ollama, kept: list[Any]) -> str:
    """Like `run_jobs`: the other task is pending when the loop is closed."""

    async def fail() -> None:
        while llm.provider.stats().running == 0:
            await asyncio.sleep(0)
        raise LookupError

    task = asyncio.ensure_future(llm.acomplete("x"))
    task._log_destroy_pending = False  # asyncio's own message about it
    kept.append(task)
    try:
        await asyncio.gather(task, fail())
    except LookupError:
        return "failed"
    raise AssertionError


async def complete_answer(llm: Ollama, kept: list[Any]) -> str:
    return (await llm.acomplete("short")).text


# LlamaIndex's wrapper warns that a destroyed coroutine has another context.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("way", [first_chunk, one_of_two_fails, complete_answer])
async def test_an_llm_works_after_ten_loops_were_closed_by_hand(
    way: Callable[..., Coroutine[Any, Any, str]],
    make_llm: Callable[..., Ollama],
    ollama_server: OllamaServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Once wrong: each kept its slot, or logged "Unclosed client session"; after ten the next call waited forever.
    caplog.set_level(logging.INFO)
    gate = Gate()
    ollama_server.reply("one two three", contains="x", gates={1: gate})
    llm = make_llm(context_window=4096)
    kept: list[Any] = []
    for _ in range(10):
        assert asyncio_run(way(llm, kept))  # in a running loop: in a thread, on a loop that it only closes
    gate.open()
    assert llm.complete("x").text == "one two three"
    assert llm.provider.stats().running == 0
    kept.clear()
    gc.collect()
    assert caplog.text == ""
    await llm.provider.aclose()
    await ollama_server.wait_for_async(lambda s: s.open_connections == 0)
