"""Two real servers as one: a conversation stays where it began, a model is loaded once, and waits are measured."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from one_layer import one_layer

from namel3ss_ollama import Host, OllamaProvider

pytestmark = pytest.mark.server_only("it is about several servers")
MODEL = one_layer("smollm2:135m")
SHORT = {"max_tokens": 4, "temperature": 0, "seed": 1}


@pytest.fixture(scope="module")
def second(copies: str) -> Iterator[str]:
    """Another real server, which answers one request at a time."""
    program = os.environ.get("REAL_OLLAMA") or "../shared/real-ollama/real-ollama"
    if not Path(program).exists():
        pytest.skip("REAL_OLLAMA names no program that starts another server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    up = [program, "up", "--port", port, "--env", "OLLAMA_NUM_PARALLEL=1"]
    url = subprocess.run(up, check=True, capture_output=True, text=True).stdout.strip()
    yield url
    subprocess.run([program, "down", "--port", port], check=True, capture_output=True)


def loaded(url: str) -> list[str]:
    return [model["name"] for model in httpx.get(f"{url}/api/ps").json()["models"]]


async def nothing_loaded(*urls: str) -> None:
    for url in urls:
        async with OllamaProvider(MODEL, url) as provider:
            for name in loaded(url):
                await provider.unload(name)
            while loaded(url):
                await asyncio.sleep(0.05)


async def test_a_model_is_loaded_once_and_a_conversation_stays_there(copies: str, second: str) -> None:
    await nothing_loaded(copies, second)
    async with OllamaProvider(MODEL, [copies, second], num_ctx=2048) as provider:
        talk = [{"role": "user", "content": "Tell me of the sea, please. " * 20}]
        hosts, reading = [], []
        for question in ("And of the mountains?", "And of the desert?", ""):
            answer = await provider.achat(talk, **SHORT)
            hosts.append(answer.host)
            reading.append(answer.metadata["prompt_eval_duration"])
            talk += [{"role": "assistant", "content": answer.content}, {"role": "user", "content": question}]
        assert len(set(hosts)) == 1
        assert max(reading[1:]) < reading[0]  # the prefix was in its cache
        other = second if hosts[0] == copies else copies
        assert loaded(hosts[0]) == [MODEL]
        assert loaded(other) == []
        states = {state.url: state for state in provider.hosts()}
        assert states[hosts[0]].version == "0.9.3"
        assert states[hosts[0]].loaded[MODEL].size > 10e6
        assert states[hosts[0]].tokens_per_second is not None


async def test_the_wait_matches_the_clock(copies: str, second: str) -> None:
    async with OllamaProvider(MODEL, [Host(second, slots=3)], num_ctx=2048) as provider:
        await provider.preload()

        async def ask(number: int) -> tuple[float, float]:
            began = time.perf_counter()
            answer = await provider.agenerate(f"Count from {number}.", max_tokens=24, temperature=0)
            took = time.perf_counter() - began
            busy = sum(answer.metadata[f"{part}_duration"] for part in ("load", "prompt_eval", "eval")) / 1e9
            return took - busy, answer.metadata["total_duration"] / 1e9 - busy

        waits = sorted(await asyncio.gather(*(ask(number) for number in range(3))))
        by_clock, by_formula = zip(*waits, strict=True)
        assert by_clock[2] > by_clock[1] > by_clock[0]
        # The difference is the round trip, and three concurrent calls on this side.
        assert by_formula == pytest.approx(by_clock, abs=max(0.5, 0.2 * by_clock[2]))
        [state] = provider.hosts()
        assert 0 < state.wait <= by_clock[2]


async def test_a_dead_server_costs_only_a_look_up(copies: str) -> None:
    async with OllamaProvider(MODEL, ["http://127.0.0.1:9", copies], num_ctx=2048) as provider:
        answers = await asyncio.gather(*(provider.agenerate("Hi", **SHORT) for _ in range(3)))
        assert {answer.host for answer in answers} == {copies}
        assert provider.stats().generations_failed == 0
        assert "cannot connect" in provider.hosts()[0].why_not
