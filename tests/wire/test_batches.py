"""Batches with a journal: which requests are sent, what is stored, and what a kill costs."""

from __future__ import annotations

import asyncio
import io
import logging
import random
import signal
import subprocess
import sys
import textwrap
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from namel3ss_ollama import (
    AuthenticationError,
    BadRequestError,
    BatchProgress,
    JournalError,
    LLMConnectionError,
    LLMResponse,
    ModelNotFoundError,
    OllamaProvider,
    RetryPolicy,
    read_journal,
)
from namel3ss_ollama.testing import Gate, OllamaServer

SLOTS = 4
PROMPTS = [f"prompt {number}." for number in range(10)]


class City(BaseModel):
    name: str


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.db"


@pytest.fixture
async def provider(ollama_server: OllamaServer) -> AsyncIterator[OllamaProvider]:
    async with OllamaProvider("llama3.2", ollama_server.url, max_concurrent=SLOTS, retry=RetryPolicy.off()) as made:
        yield made


def journal_files(path: Path) -> list[Path]:
    """The journal and SQLite's files beside it."""
    return list(path.parent.iterdir())


def asked(server: OllamaServer) -> Counter[str]:
    """How often each prompt was sent."""
    return Counter(record.json["prompt"] for record in server.requests if record.path == "/api/generate")


async def test_repeating_a_call_sends_no_request(
    provider: OllamaProvider, ollama_server: OllamaServer, path: Path
) -> None:
    first = await provider.agenerate_batch(PROMPTS, journal=path)
    assert (first.answered, first.failed, first.skipped, first.failed_before) == (10, 0, 0, 0)
    assert first.by_host[ollama_server.url].rows == 10
    assert first.tokens == first.by_host[ollama_server.url].tokens == sum(row.tokens for row in first.rows()) > 0
    again = await provider.agenerate_batch(PROMPTS, journal=path)
    assert (again.answered, again.skipped, again.tokens, again.by_host) == (0, 10, 0, {})
    assert asked(ollama_server) == Counter(PROMPTS)
    for report in (first, again):
        rows = list(report.rows())
        assert [row.index for row in rows] == [row.id for row in rows] == list(range(10))
        assert all(row.answer is not None and PROMPTS[row.index] in row.answer.content for row in rows)


async def test_a_changed_row_is_sent_again_or_is_an_error(
    provider: OllamaProvider, ollama_server: OllamaServer, path: Path
) -> None:
    await provider.agenerate_batch(PROMPTS, journal=path)
    changed = ["another prompt.", *PROMPTS[1:]]
    with pytest.raises(JournalError, match=r"the request of row 0 in .* has changed"):
        await provider.agenerate_batch(changed, journal=path, on_change="error")
    report = await provider.agenerate_batch(changed, journal=path)
    assert (report.answered, report.skipped) == (1, 9)
    assert (await provider.agenerate_batch(changed, journal=path, max_tokens=5)).answered == 10
    assert asked(ollama_server)["another prompt."] == 2


async def test_a_new_digest_of_the_model_reruns_all_rows(path: Path) -> None:
    for weights in ("old", "new"):
        with OllamaServer() as server:
            server.reply(json={"models": [{"name": "llama3.2:latest", "digest": weights}]}, path="/api/tags")
            async with OllamaProvider("llama3.2", server.url) as provider:
                assert (await provider.agenerate_batch(PROMPTS, journal=path)).answered == 10


async def test_failures_are_rows_and_temporary_ones_are_retried(
    provider: OllamaProvider, ollama_server: OllamaServer, path: Path
) -> None:
    ollama_server.fault("status", status=400, contains=PROMPTS[3])
    ollama_server.on(contains=PROMPTS[5]).fault("status", status=503, times=1).reply("fine")
    given: list[Any] = list(PROMPTS)
    given[7] = 42
    results: dict[int, object] = {}
    report = await provider.agenerate_batch(given, journal=path, on_result=results.__setitem__)
    assert (report.answered, report.failed) == (7, 3)
    failures = {row.index: row.failure for row in report.rows() if row.failure is not None}
    assert {index: (f.type, f.temporary) for index, f in failures.items()} == {
        3: ("BadRequestError", False),
        5: ("ServerBusyError", True),
        7: ("TypeError", False),
    }
    assert "expected text or a list of messages, not int" in failures[7].message
    assert isinstance(results[3], BadRequestError)
    assert results[3].prompt_index == 3
    assert isinstance(results[0], LLMResponse)
    assert len(results) == 10
    again = await provider.agenerate_batch(given, journal=path)
    assert (again.answered, again.failed, again.skipped, again.failed_before) == (1, 1, 8, 1)
    assert asked(ollama_server)[PROMPTS[3]] == 1
    kept = await provider.agenerate_batch(given, journal=path, retry_failed="all")
    assert (kept.failed, asked(ollama_server)[PROMPTS[3]]) == (2, 2)


async def test_temporary_failures_are_kept_if_they_are_not_to_be_retried(
    provider: OllamaProvider, ollama_server: OllamaServer, path: Path
) -> None:
    ollama_server.fault("status", status=503, contains=PROMPTS[5])
    await provider.agenerate_batch(PROMPTS, journal=path)
    report = await provider.agenerate_batch(PROMPTS, journal=path, retry_failed=False)
    assert (report.failed, report.skipped, report.failed_before) == (0, 10, 1)


async def test_a_batch_wide_error_ends_the_batch_and_keeps_results(
    provider: OllamaProvider, ollama_server: OllamaServer, path: Path
) -> None:
    ollama_server.fault("status", status=401, contains=PROMPTS[4])
    with pytest.raises(AuthenticationError):
        await provider.agenerate_batch(PROMPTS, journal=path)
    kept = {row.index for row in read_journal(path)}
    assert 4 not in kept
    assert kept >= {0}
    with pytest.raises(ModelNotFoundError):
        await provider.agenerate_batch(PROMPTS, journal=path.with_name("other.db"), model="no-such-model")


async def test_an_unreachable_server_ends_the_batch(
    provider: OllamaProvider, ollama_server: OllamaServer, path: Path
) -> None:
    drawn = 0

    def prompts() -> Iterator[str]:
        nonlocal drawn
        for drawn in range(1, 1001):
            yield f"prompt {drawn}."

    ollama_server.on(path="/api/generate").reply("fine", times=10).fault("refuse")
    with pytest.raises(LLMConnectionError):
        await provider.agenerate_batch(prompts(), journal=path)
    assert drawn < 100
    assert sum(row.answer is not None for row in read_journal(path)) == 10


async def test_occasional_connection_errors_do_not_end_the_batch(
    provider: OllamaProvider, ollama_server: OllamaServer, path: Path
) -> None:
    ollama_server.fault("reset_before_headers", contains="odd")
    prompts = [f"prompt {number}, {'odd' if number % 2 else 'even'}." for number in range(60)]
    report = await provider.agenerate_batch(prompts, journal=path)
    assert (report.answered, report.failed) == (30, 30)


async def test_equal_prompts_are_sent_once_if_sampling_is_deterministic(
    provider: OllamaProvider, ollama_server: OllamaServer, path: Path
) -> None:
    equal = ["same.", "other.", "same."] * 5
    report = await provider.agenerate_batch(equal, journal=path, temperature=0)
    assert asked(ollama_server) == {"same.": 1, "other.": 1}
    assert (report.answered, len({row.answer.content for row in report.rows() if row.answer})) == (15, 2)
    later = await provider.agenerate_batch([*equal, "same."], journal=path, temperature=0)
    assert (later.answered, later.skipped, later.tokens) == (1, 15, 0)
    await provider.agenerate_batch(equal, journal=path.with_name("warm.db"), temperature=0.5)
    assert asked(ollama_server)["same."] == 11


async def test_equal_prompts_share_a_failure(provider: OllamaProvider, ollama_server: OllamaServer, path: Path) -> None:
    ollama_server.fault("status", status=400, path="/api/generate")
    report = await provider.agenerate_batch(["same."] * 4, journal=path, seed=1)
    assert [row.failure and row.failure.type for row in report.rows()] == ["BadRequestError"] * 4


async def test_a_batch_wide_error_ends_equal_prompts_too(
    provider: OllamaProvider, ollama_server: OllamaServer, path: Path
) -> None:
    ollama_server.fault("status", status=401, path="/api/generate")
    with pytest.raises(AuthenticationError):
        await provider.agenerate_batch(["same."] * 4, journal=path, seed=1)
    assert list(read_journal(path)) == []


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([1, 2, 1], ValueError, "1 is there twice, the second time at row 2"),
        ([1, 2], ValueError, "there are 2 for 3 rows"),
        (["a", None, "b"], TypeError, "expected text or an integer at row 1, not None"),
        ([1, 2, 2**63], ValueError, "give it as text"),
        ("abc", TypeError, "not one text"),
    ],
)
async def test_ids_are_checked_before_the_first_request(
    provider: OllamaProvider, ollama_server: OllamaServer, path: Path, ids: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        await provider.agenerate_batch(PROMPTS[:3], journal=path, ids=ids)
    assert not ollama_server.requests
    assert not journal_files(path)


@pytest.mark.parametrize(
    ("ids", "message"),
    [("abca", "'a' is there twice, the second time at row 3"), ("ab", "2, and more"), ("abcdefg", "more than the 4")],
)
async def test_ids_from_an_iterator_are_checked_as_they_come(
    provider: OllamaProvider, path: Path, ids: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        await provider.agenerate_batch(PROMPTS[:4], journal=path, ids=iter(ids))


async def test_a_repeated_id_is_an_error_even_if_journaled(provider: OllamaProvider, path: Path) -> None:
    await provider.agenerate_batch(PROMPTS[:2], journal=path, ids=["a", "b"])
    with pytest.raises(ValueError, match="'a' is there twice"):
        await provider.agenerate_batch([PROMPTS[0], PROMPTS[1], PROMPTS[0]], journal=path, ids=iter("aba"))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"retry_failed": "some"}, ValueError, "retry_failed"),
        ({"on_change": "warn"}, ValueError, "on_change"),
        ({"progress": "bar"}, TypeError, "progress"),
        ({"temprature": 1}, TypeError, "temprature"),
        ({"num_ctx": "many"}, TypeError, "num_ctx"),
        ({"max_tokens": 0}, ValueError, "max_tokens"),
    ],
)
async def test_wrong_arguments_fail_before_any_request(
    provider: OllamaProvider,
    ollama_server: OllamaServer,
    path: Path,
    settings: Any,
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        await provider.agenerate_batch(PROMPTS, journal=path, **settings)
    assert not ollama_server.requests
    assert not journal_files(path)


@pytest.mark.parametrize("name", ["ids", "retry_failed", "on_change", "progress"])
async def test_journal_options_need_a_journal(provider: OllamaProvider, name: str) -> None:
    value = {"ids": [1], "retry_failed": False, "on_change": "error", "progress": True}[name]
    with pytest.raises(TypeError, match=f"{name}: goes with a journal"):
        await provider.agenerate_batch(["a"], **{name: value})


async def test_chats_types_and_blocking_calls(
    provider: OllamaProvider, ollama_server: OllamaServer, path: Path
) -> None:
    ollama_server.reply('{"name": "Rome"}')
    chats = [[{"role": "user", "content": f"city {number}"}] for number in range(3)]
    first = provider.sync.agenerate_batch(chats, journal=path, format=City)
    again = await asyncio.to_thread(provider.batch, chats, journal=path, format=City)
    for report in (first, again):
        assert [row.answer and row.answer.parsed for row in report.rows()] == [City(name="Rome")] * 3
    assert (again.answered, again.skipped) == (0, 3)


async def test_only_rows_in_flight_are_in_memory(provider: OllamaProvider, path: Path) -> None:
    ahead: list[int] = []
    drawn = 0
    done = 0

    async def prompts() -> AsyncIterator[str]:
        nonlocal drawn
        for drawn in range(1, 101):
            ahead.append(drawn - done)
            yield f"prompt {drawn}."

    def count(index: int, result: object) -> None:
        nonlocal done
        done += 1

    report = await provider.agenerate_batch(prompts(), journal=path, on_result=count)
    assert report.answered == 100
    assert max(ahead) <= SLOTS + 1


async def test_ids_of_finished_rows_are_freed(provider: OllamaProvider, path: Path) -> None:
    class Id(str):
        __slots__ = ("__weakref__",)

    alive: weakref.WeakSet[Id] = weakref.WeakSet()
    most = 0

    def ids() -> Iterator[str]:
        nonlocal most
        for number in range(60):
            made = Id(number)
            alive.add(made)
            most = max(most, len(alive))
            yield made

    await provider.agenerate_batch((f"prompt {number}." for number in range(60)), ids=ids(), journal=path)
    assert 0 < most <= 3 * SLOTS


async def test_progress_goes_to_a_callback(provider: OllamaProvider, path: Path) -> None:
    seen: list[BatchProgress] = []
    await provider.agenerate_batch(PROMPTS[:6], journal=path)
    report = await provider.agenerate_batch(PROMPTS, journal=path, progress=seen.append)
    last = seen[-1]
    assert (last.total, last.done, last.answered, last.skipped, last.failed) == (10, 10, 4, 6, 0)
    assert (last.tokens, last.seconds_left) == (report.tokens, 0)
    assert last.rows_per_second == pytest.approx(4 / last.seconds)
    assert str(last).startswith("10 of 10 rows, ")


async def test_progress_on_a_terminal_is_a_bar(
    provider: OllamaProvider, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("COLUMNS", "200")
    await provider.agenerate_batch(PROMPTS, journal=path, progress=True)
    assert "10 of 10 rows, " in terminal.getvalue()


async def test_progress_without_a_terminal_is_quiet(
    provider: OllamaProvider, path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, "namel3ss_ollama")
    await provider.agenerate_batch(PROMPTS, journal=path, progress=True)
    assert "batch:" not in caplog.text  # it logs once in ten seconds
    assert capsys.readouterr().err == ""


async def test_cancelling_keeps_results_and_releases_the_journal(
    provider: OllamaProvider, ollama_server: OllamaServer, path: Path
) -> None:
    gate = Gate()
    ollama_server.on(contains=PROMPTS[6]).reply("late", gate=gate)
    batch = asyncio.create_task(provider.agenerate_batch(PROMPTS, journal=path))
    await asyncio.to_thread(ollama_server.wait_for, lambda server: len(asked(server)) == 10)
    await asyncio.to_thread(ollama_server.wait_for, lambda server: server.active_requests == 1)
    batch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await batch
    gate.open()
    kept = {row.index for row in read_journal(path)}
    assert 6 not in kept
    report = await provider.agenerate_batch(PROMPTS, journal=path)
    assert report.skipped == len(kept)
    assert [row.index for row in report.rows()] == list(range(10))


TEXTS = [f"text {number}" for number in range(100)]


def embedded(server: OllamaServer) -> Counter[str]:
    inputs = [record.json["input"] for record in server.requests if record.path == "/api/embed"]
    return Counter(text for each in inputs for text in each)


async def test_texts_are_embedded_once(provider: OllamaProvider, ollama_server: OllamaServer, path: Path) -> None:
    wanted = (await provider.embed(TEXTS, model="all-minilm")).embeddings
    ollama_server.reset()
    first = await provider.embed_batch(TEXTS[:70], journal=path, model="all-minilm", batch_size=16)
    assert (first.answered, first.by_host[ollama_server.url].rows) == (70, 70)
    second = await provider.embed_batch(iter(TEXTS), journal=path, model="all-minilm", batch_size=16)
    assert (second.answered, second.skipped) == (30, 70)
    assert embedded(ollama_server) == Counter(TEXTS)
    assert [row.vector for row in second.rows()] == wanted
    assert first.tokens + second.tokens == sum(row.tokens for row in second.rows()) > 0


async def test_a_bad_text_does_not_fail_the_others(
    provider: OllamaProvider, ollama_server: OllamaServer, path: Path
) -> None:
    given: list[Any] = list(TEXTS[:20])
    given[3], given[7] = 5, "long " * 5000
    report = await provider.embed_batch(given, journal=path, model="all-minilm", on_truncation="error", batch_size=8)
    failures = {row.index: row.failure.type for row in report.rows() if row.failure is not None}
    assert failures == {3: "TypeError", 7: "ContextWindowExceededError"}
    assert report.answered == 18
    with pytest.raises(TypeError, match="batch_sise"):
        await provider.embed_batch(TEXTS, journal=path, **{"batch_sise": 3})


KILLED = """
import asyncio, sys
from namel3ss_ollama import OllamaProvider
async def main():
    async with OllamaProvider("llama3.2", sys.argv[1], max_concurrent=4) as provider:
        await provider.agenerate_batch((f"prompt {n}." for n in range(int(sys.argv[3]))), journal=sys.argv[2])
asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL on Windows")
def test_twenty_kills_cost_the_requests_in_flight(ollama_server: OllamaServer, path: Path) -> None:
    rows, chance = 600, random.Random(15)
    command = [sys.executable, "-c", textwrap.dedent(KILLED), ollama_server.url, str(path), str(rows)]
    had = 0
    for _ in range(20):
        asked_before = asked(ollama_server).total()
        process = subprocess.Popen(command)
        wanted = asked_before + chance.randint(1, 28)
        ollama_server.wait_for(lambda server, wanted=wanted: asked(server).total() >= wanted, timeout=60)
        process.send_signal(signal.SIGKILL)
        process.wait()
        ollama_server.wait_for(lambda server: server.active_requests == 0)
        have = len(list(read_journal(path)))
        assert asked(ollama_server).total() - asked_before - (have - had) <= SLOTS
        had = have
    assert had < rows  # so each process was killed before it had finished
    assert subprocess.run(command, check=False).returncode == 0
    kept = list(read_journal(path))
    assert [row.index for row in kept] == [row.id for row in kept] == list(range(rows))
    assert all(row.answer is not None for row in kept)
    counts = asked(ollama_server)
    assert set(counts) == {f"prompt {number}." for number in range(rows)}
    assert counts.total() - rows <= 20 * SLOTS
