"""Event loops closed by hand, as in Streamlit, Celery and Flask, keep no slot and leave no connection open."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from langchain_namel3ss_ollama import ChatOllama
from namel3ss_ollama.testing import Gate, OllamaServer


def run_and_close(coroutine: Coroutine[Any, Any, Any]) -> Any:
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.close()


def in_a_thread(work: Callable[[], Any]) -> Any:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    thread.join(10)
    return results[0]


WAYS: dict[str, Callable[[ChatOllama, list[Any]], Coroutine[Any, Any, Any]]] = {
    "astream": lambda model, kept: kept.append(model.astream("x")) or kept[-1].__anext__(),
    "ainvoke": lambda model, kept: model.ainvoke("short"),
}


# LangChain's own async generators cannot be finalized without a loop, and warn when they are collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("way", list(WAYS))
def test_a_model_works_after_ten_loops_were_closed_by_hand(
    way: str, chat: Callable[..., ChatOllama], ollama_server: OllamaServer, caplog: pytest.LogCaptureFixture
) -> None:
    # Once wrong: each kept its slot, and after ten the next call waited forever.
    caplog.set_level(logging.INFO)
    gate = Gate()
    ollama_server.reply("one two three", contains="x", gates={1: gate})
    model = chat()
    kept: list[Any] = []
    for _ in range(10):
        assert in_a_thread(lambda: run_and_close(WAYS[way](model, kept))).content
    gate.open()
    assert in_a_thread(lambda: model.invoke("x")).content == "one two three"
    kept.clear()
    gc.collect()
    assert caplog.text == ""
    model._provider_for(sync=True).close()
    ollama_server.wait_for(lambda s: s.open_connections == 0)
