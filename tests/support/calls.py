"""The number of Python calls per token: a measure of the hot path that does not depend on the machine's speed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from namel3ss_ollama import run_sync

ROOT = Path(__file__).parents[2]
TOKENS = 2000
OURS = ("namel3ss_ollama", "langchain_namel3ss_ollama")


@contextmanager
def replay_server() -> Iterator[str]:
    """The address of the benchmarks' server, which writes an answer of `num_predict` tokens in a few large pieces."""
    command = [sys.executable, "-m", "benchmarks.replay"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.stdin.close()


def calls_per_token(
    run: Callable[[], Coroutine[Any, Any, int]] | Callable[[], int], tokens: int = TOKENS
) -> dict[str, int]:
    """Calls of "all" functions and of "ours" per token; `run` returns the number of characters of an answer.

    A function counts as often as it is called for every token. Calls per read or per answer do not count.
    """
    counts: Counter[CodeType] = Counter()

    def count(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            counts[frame.f_code] += 1

    async def on_background_loop(function: Callable[..., None] | None) -> None:
        sys.setprofile(function)

    async def counted(coroutine: Coroutine[Any, Any, int]) -> int:
        sys.setprofile(count)
        try:
            return await coroutine
        finally:
            sys.setprofile(None)

    if asyncio.iscoroutinefunction(run):
        asyncio.run(run())  # warm-up: imports and other one-time work
        characters = asyncio.run(counted(run()))
    else:
        run()
        run_sync(on_background_loop(count))
        sys.setprofile(count)
        try:
            characters = run()
        finally:
            sys.setprofile(None)
            run_sync(on_background_loop(None))
    assert characters == tokens * len(" word")
    each = {code: times // tokens for code, times in counts.items() if times >= tokens}
    ours = sum(times for code, times in each.items() if set(OURS) & set(Path(code.co_filename).parts))
    return {"all": sum(each.values()), "ours": ours}
