"""What only a real server shows: a full queue, inference that stops, models that unload, a model that repeats itself.

Two of these need a server with other settings. REAL_OLLAMA names a command that starts one: `$REAL_OLLAMA up
--port N --env KEY=VALUE` prints its address, `$REAL_OLLAMA down --port N` ends it. Without it they are skipped.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest

from namel3ss_ollama import OllamaProvider, RetryPolicy, ServerBusyError, StreamInterruptedError

pytestmark = pytest.mark.server_only("it is about what a server does")
MODEL = "smollm2:135m"
COMMAND = os.environ.get("REAL_OLLAMA")
needs_own_server = pytest.mark.skipif(not COMMAND, reason="REAL_OLLAMA names no command that starts a server")


@contextmanager
def own_server(**settings: int) -> Iterator[str]:
    """The address of a server with these settings."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = [part for name, value in settings.items() for part in ("--env", f"{name}={value}")]
    up = subprocess.run([str(COMMAND), "up", "--port", port, *environment], capture_output=True, text=True, check=True)
    try:
        yield up.stdout.strip().splitlines()[-1]
    finally:
        subprocess.run([str(COMMAND), "down", "--port", port], capture_output=True, check=True)


async def within(seconds: float, happens: Callable[[], Any]) -> bool:
    """Whether a condition becomes true in this time."""
    deadline = time.monotonic() + seconds
    while not await happens():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.05)
    return True


@needs_own_server
@pytest.mark.parametrize("transport", ["aiohttp", "httpx"])
async def test_retries_outlast_a_full_queue(transport: str) -> None:
    with own_server(OLLAMA_MAX_QUEUE=1, OLLAMA_NUM_PARALLEL=1) as url:
        settings: dict[str, Any] = {"transport": transport, "temperature": 0, "max_tokens": 12}
        async with OllamaProvider(MODEL, url, retry=RetryPolicy.off(), **settings) as impatient:
            results = await asyncio.gather(
                *(impatient.agenerate(f"Count from {n}.") for n in range(8)), return_exceptions=True
            )
        busy = [result for result in results if isinstance(result, BaseException)]
        assert busy
        assert all(isinstance(error, ServerBusyError) and error.status_code == 503 for error in busy)
        retry = RetryPolicy(attempts=200, wait_initial=0.5, wait_max=1.0, budget=None)
        async with OllamaProvider(MODEL, url, retry=retry, **settings) as patient:
            answers = await asyncio.gather(*(patient.agenerate(f"Count from {n}.") for n in range(8)))
            assert all(answer.content for answer in answers)
            assert patient.stats().retries > 0


@needs_own_server
async def test_a_model_that_unloads_between_calls() -> None:
    with own_server(OLLAMA_KEEP_ALIVE=0) as url:
        async with OllamaProvider(MODEL, url, temperature=0, max_tokens=5) as provider:

            async def unloaded() -> bool:
                return not await provider.running_models()

            for _ in range(2):
                answer = await provider.agenerate("Say hello.")
                assert answer.content
                assert answer.metadata["load_duration"] > 50_000_000  # it was loaded for this call
                assert await within(20, unloaded)


async def test_leaving_a_stream_stops_the_inference(make: Callable[..., OllamaProvider]) -> None:
    """A server counts `keep_alive` from the end of a request, so it shows when it considers one ended."""
    provider = make(max_tokens=4000, repeat_penalty=1.5)

    async def expires() -> datetime:
        # Not by name: models of the same weights share a runner, listed by the name that loaded it.
        times = [str(model["expires_at"]) for model in await provider.running_models()]
        return max(datetime.fromisoformat(time[:19]) for time in times)  # to the second: Python has no nanoseconds

    await provider.preload(keep_alive="1h")
    stream = provider.stream_generate("Write a very long story about the sea.", keep_alive="2h")
    await anext(stream)
    before = await expires()
    await stream.aclose()

    async def ended() -> bool:
        return await expires() > before + timedelta(minutes=30)

    # Generating four thousand tokens would take minutes.
    assert await within(10, ended)
    assert stream.end == "cancelled"


async def test_a_model_that_repeats_itself_endlessly_is_an_error(make: Callable[..., OllamaProvider]) -> None:
    """The runner stops after some thirty equal tokens, and the body just ends."""
    provider = make()
    with pytest.raises(StreamInterruptedError, match="repeats itself") as caught:
        await provider.agenerate("no no no no no", raw=True, max_tokens=300, repeat_penalty=0.01, repeat_last_n=1)
    assert caught.value.partial is not None
    assert len(caught.value.partial.content) > 25
    assert not caught.value.temporary
    assert provider.stats().retries == 0
