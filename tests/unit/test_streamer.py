"""Bytes to lines, lines to objects, and the deadlines on the way."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from namel3ss_ollama.errors import LLMTimeoutError, MalformedResponseError
from namel3ss_ollama.settings import StreamConfig
from namel3ss_ollama.streamer import (
    LineDecoder,
    LineTooLongError,
    Watch,
    WatchCancelled,
    is_cut,
    parse_line,
    timeout_error,
)

Virtual = Callable[[Any], Any]


def decode(pieces: list[bytes], limit: int = 10**6) -> list[bytes]:
    """All lines; the rest at the end is the last one."""
    decoder = LineDecoder(limit)
    return [line for piece in pieces for line in decoder.feed(piece)] + [decoder.finish()]


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(c % (len(data) + 1) for c in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(places)]


# Line endings, and what other code takes for one: CR, VT, FF, FS, U+0085, U+2028, U+2029.
alphabet = st.sampled_from([b"\n", b"\n\n", b"\r\n", b"\r", b"\v", b"\f", b"\x1c", b"\xc2\x85", b"\xe2\x80\xa8", b"a"])
some_bytes = st.one_of(st.binary(max_size=60), st.lists(alphabet, max_size=30).map(b"".join))


def test_a_line_cut_anywhere_is_cut_and_an_invalid_one_is_not() -> None:
    line = '{"model":"\\u00e4\\"x","message":{"content":"é\u2028😀"},"n":-12.5e3,"b":[true,false,null]}'.encode()
    for place in range(1, len(line)):
        assert is_cut(line[:place]), place
        assert not is_cut(line[:place] + b"\xff" + line[place:]), place
    for whole in (line, line + b"{", line + line, b"<html>", b'{"a" 1}'):
        assert not is_cut(whole)


@given(some_bytes, st.lists(st.integers(0, 200), max_size=12))
@example(b"ab\ncd\nef", [1, 4, 4, 7])
@example(b"\n", [])
def test_bytes_cut_anywhere_give_the_lines_between_line_feeds(data: bytes, cuts: list[int]) -> None:
    assert decode(cut(data, cuts)) == data.split(b"\n")


@given(some_bytes)
def test_bytes_that_come_one_by_one_give_the_same_lines(data: bytes) -> None:
    assert decode([data[i : i + 1] for i in range(len(data))]) == data.split(b"\n")


@pytest.mark.parametrize("separator", ["\u0085", "\u2028", "\u2029", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\r"])
def test_only_a_line_feed_ends_a_line(separator: str) -> None:
    text = f"a{separator}b"
    line = json.dumps({"content": text}, ensure_ascii=False).encode() + b"\n"
    for place in range(len(line)):
        lines = decode([line[:place], line[place:]])
        assert [parse_line(each) for each in lines] == [{"content": text}, None]


def test_a_line_is_returned_as_soon_as_it_is_complete() -> None:
    decoder = LineDecoder(100)
    assert decoder.feed(b"a\nb") == [b"a"]
    assert decoder.feed(b"") == []
    assert decoder.feed(b"c") == []
    assert decoder.feed(b"\n") == [b"bc"]
    assert decoder.finish() == b""


def test_finish_empties_the_buffer() -> None:
    decoder = LineDecoder(4)
    decoder.feed(b"abcd")
    assert decoder.finish() == b"abcd"
    assert decoder.finish() == b""
    assert decoder.feed(b"efgh\n") == [b"efgh"]


@given(st.integers(1, 12), some_bytes, st.lists(st.integers(0, 200), max_size=8))
def test_a_line_over_the_limit_is_an_error_and_no_other_is(limit: int, data: bytes, cuts: list[int]) -> None:
    too_long = any(len(line) > limit for line in data.split(b"\n"))
    if too_long:
        with pytest.raises(LineTooLongError, match=f"more than {limit} bytes; raise max_line_bytes"):
            decode(cut(data, cuts), limit)
    else:
        assert decode(cut(data, cuts), limit) == data.split(b"\n")


def test_an_endless_line_is_an_error_before_it_fills_memory() -> None:
    decoder = LineDecoder(1000)
    taken = 0
    with pytest.raises(LineTooLongError):
        while taken < 10**6:
            decoder.feed(b"x" * 100)
            taken += 100
    assert taken == 1000


class CountingBytes(bytes):
    """Counts the bytes that are searched for line feeds."""

    seen = 0

    def split(self, *args: Any) -> list[bytes]:
        CountingBytes.seen += len(self)
        return super().split(*args)


def test_every_byte_is_scanned_once_and_joined_once() -> None:
    CountingBytes.seen = 0
    decoder = LineDecoder(10**6)
    for _ in range(500):
        assert decoder.feed(CountingBytes(b"x" * 10)) == []
    assert CountingBytes.seen == 5000
    # The pieces are kept in a list: nothing was joined that the next piece would have had to copy again.
    assert len(decoder._pending) == 500
    assert decoder.feed(b"\n") == [b"x" * 5000]


# parse_line


@given(st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text()))
def test_a_line_is_the_object_it_holds(value: dict[str, Any]) -> None:
    assert parse_line(json.dumps(value, ensure_ascii=False).encode()) == value
    assert parse_line(b" " + json.dumps(value).encode() + b"\r") == value


@pytest.mark.parametrize("line", [b"", b" ", b"\r", b" \t\r", b"\v\f"])
def test_a_blank_line_is_nothing(line: bytes) -> None:
    assert parse_line(line) is None


@pytest.mark.parametrize("line", [b"{", b'{"a":1}x', b"<html>", b"nonsense", b"\xff\xfe", b'{"a": NaN}', b"[" * 5000])
def test_a_json_error_has_the_position_but_no_content(line: bytes) -> None:
    with pytest.raises(MalformedResponseError, match=rf"not JSON \(.* at byte \d+ of {len(line)}\)") as caught:
        parse_line(line)
    assert caught.value.original_error is caught.value.__cause__
    assert caught.value.__cause__ is not None
    assert "nonsense" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "kind"), [(b"[]", "list"), (b'"private"', "str"), (b"1", "int"), (b"null", "NoneType")]
)
def test_json_that_is_not_an_object_is_malformed(line: bytes, kind: str) -> None:
    with pytest.raises(MalformedResponseError, match=f"not an object but {kind}") as caught:
        parse_line(line)
    assert "private" not in str(caught.value)


@pytest.mark.parametrize(
    ("deadline", "remedy"),
    [
        ("connect", "the host is up"),
        ("first_chunk_timeout", "call preload"),
        ("chunk_timeout", "raise chunk_timeout"),
        ("tool_call_timeout", "raise tool_call_timeout"),
        ("stream_timeout", "raise stream_timeout"),
        ("timeout", "raise timeout"),
    ],
)
def test_each_deadline_has_its_name_its_length_and_a_remedy(deadline: str, remedy: str) -> None:
    cause = OSError()
    error = timeout_error(deadline, 2.5, cause)
    assert (error.deadline, error.seconds, error.original_error) == (deadline, 2.5, cause)
    assert f"{deadline} of 2.5 s passed" in str(error)
    assert remedy in str(error)


# Watch. Every scenario runs in virtual time.


def now() -> float:
    return asyncio.get_running_loop().time()


def wait(seconds: float, result: str = "came") -> Callable[[], Awaitable[str]]:
    return lambda: asyncio.sleep(seconds, result)


async def fails_after(watch: Watch, seconds: float, *, idle: bool = True) -> tuple[str, float, float]:
    """The deadline that ends a wait, its length by the error, and the time that passed."""
    start = now()
    with pytest.raises(LLMTimeoutError) as caught:
        await watch.guard(wait(seconds), idle=idle)
    return caught.value.deadline, caught.value.seconds, round(now() - start, 6)


OFF = StreamConfig(first_chunk_timeout=None, chunk_timeout=None)


@pytest.mark.parametrize(
    ("config", "timeout", "deadline", "after"),
    [
        (StreamConfig(first_chunk_timeout=5), None, "first_chunk_timeout", 5),
        (StreamConfig(), None, "first_chunk_timeout", 300),
        (StreamConfig(stream_timeout=7), None, "stream_timeout", 7),
        (StreamConfig(), 7, "timeout", 7),
        (StreamConfig(stream_timeout=7), 8, "stream_timeout", 7),
        (StreamConfig(stream_timeout=8), 7, "timeout", 7),
        (StreamConfig(stream_timeout=7), 7, "timeout", 7),
        (StreamConfig(first_chunk_timeout=5, stream_timeout=4), None, "stream_timeout", 4),
        (StreamConfig(first_chunk_timeout=None, stream_timeout=9), None, "stream_timeout", 9),
        (StreamConfig(first_chunk_timeout=None), 9, "timeout", 9),
    ],
)
def test_each_deadline_ends_the_first_wait(
    virtual: Virtual, config: StreamConfig, timeout: float | None, deadline: str, after: float
) -> None:
    async def scenario() -> tuple[str, float, float]:
        watch = Watch(config, timeout)
        watch.begin()
        return await fails_after(watch, 10_000)

    assert virtual(scenario()) == (deadline, after, after)


def test_stream_timeout_starts_with_the_request_and_timeout_with_the_call(virtual: Virtual) -> None:
    # Once wrong: the wait for a slot counted for stream_timeout, too, with the advice to ask for fewer tokens
    async def scenario(config: StreamConfig, timeout: float | None) -> tuple[str, float, float]:
        watch = Watch(config, timeout)
        await watch.guard(wait(6), idle=False)
        watch.begin()
        return await fails_after(watch, 50)

    assert virtual(scenario(StreamConfig(stream_timeout=5), None)) == ("stream_timeout", 5, 5)
    assert virtual(scenario(StreamConfig(stream_timeout=5), 8)) == ("timeout", 8, 2)


def test_a_blocked_event_loop_is_not_a_stalled_server(virtual: Virtual) -> None:
    # Once wrong: asyncio runs a timer that is due before the task that data woke, and that was taken for a stall
    async def scenario() -> None:
        loop: Any = asyncio.get_running_loop()
        watch = Watch(StreamConfig(chunk_timeout=5))
        watch.progress()
        arrived = loop.create_future()

        def block() -> None:
            loop.spend(7)
            arrived.set_result("came")

        loop.call_later(1, block)
        assert await watch.guard(lambda: arrived) == "came"
        watch.progress()
        assert await fails_after(watch, 50) == ("chunk_timeout", 5, 5)

    virtual(scenario())


@pytest.mark.parametrize(
    ("limit", "first", "after_first", "further", "after_further"),
    [
        (600, "tool_call_timeout", 600, "tool_call_timeout", 600),
        (100, "first_chunk_timeout", 300, "tool_call_timeout", 100),
        (5, "first_chunk_timeout", 300, "chunk_timeout", 60),
        (None, "timeout", 1000, "timeout", 1000),
    ],
)
def test_with_tools_silence_is_allowed_longer(
    virtual: Virtual, limit: float | None, first: str, after_first: float, further: str, after_further: float
) -> None:
    # Once wrong: a model that wrote a long call in silence was taken for stalled after chunk_timeout
    config = StreamConfig(chunk_timeout=60.0, first_chunk_timeout=300.0, tool_call_timeout=limit)

    async def scenario(*, started: bool) -> tuple[str, float, float]:
        watch = Watch(config, timeout=1000, tools=True)
        if started:
            watch.progress()
        return await fails_after(watch, 10_000)

    assert virtual(scenario(started=False)) == (first, after_first, after_first)
    assert virtual(scenario(started=True)) == (further, after_further, after_further)


def test_after_the_first_chunk_chunk_timeout_counts(virtual: Virtual) -> None:
    async def scenario() -> None:
        watch = Watch(StreamConfig(first_chunk_timeout=100, chunk_timeout=5))
        assert await watch.guard(wait(99)) == "came"
        watch.progress()
        for _ in range(10):
            await watch.guard(wait(4.9))
            watch.progress()
        assert await fails_after(watch, 1000) == ("chunk_timeout", 5, 5)

    virtual(scenario())


def test_several_waits_for_one_chunk_count_as_one(virtual: Virtual) -> None:
    async def scenario(config: StreamConfig, *, first: bool) -> tuple[str, float]:
        watch = Watch(config)
        if not first:
            watch.progress()
        await watch.guard(wait(3))
        await watch.guard(wait(1))
        start = now()
        with pytest.raises(LLMTimeoutError) as caught:
            await watch.guard(wait(1000))
        return caught.value.deadline, now() - start

    config = StreamConfig(first_chunk_timeout=5, chunk_timeout=6)
    assert virtual(scenario(config, first=True)) == ("first_chunk_timeout", pytest.approx(1))
    assert virtual(scenario(config, first=False)) == ("chunk_timeout", pytest.approx(2))


def test_a_timer_that_fires_too_early_is_set_again(virtual: Virtual) -> None:
    async def scenario() -> None:
        watch = Watch(StreamConfig(chunk_timeout=5))
        watch.progress()
        await watch.guard(wait(3))  # sets the timer to second 5
        watch.progress()
        assert await fails_after(watch, 50) == ("chunk_timeout", 5, 5)  # in second 8

    virtual(scenario())


def test_a_new_attempt_waits_for_a_first_chunk_again(virtual: Virtual) -> None:
    async def scenario() -> None:
        watch = Watch(StreamConfig(first_chunk_timeout=10, chunk_timeout=2, stream_timeout=100))
        await watch.guard(wait(9))
        watch.restart()
        await watch.guard(wait(9))
        watch.progress()
        await watch.guard(wait(1))
        watch.restart()
        assert await fails_after(watch, 50) == ("first_chunk_timeout", 10, 10)

    virtual(scenario())


def test_silence_counts_from_the_last_activity_within_a_wait(virtual: Virtual) -> None:
    async def scenario() -> None:
        watch = Watch(StreamConfig(first_chunk_timeout=5))

        async def upload() -> None:
            for _ in range(4):
                await asyncio.sleep(4)
                watch.alive()

        await watch.guard(upload)
        await watch.guard(wait(4))
        assert await fails_after(watch, 50) == ("first_chunk_timeout", 5, 1)
        watch = Watch(StreamConfig(first_chunk_timeout=5), 10)
        with pytest.raises(LLMTimeoutError) as caught:
            await watch.guard(upload)
        assert (caught.value.deadline, watch.remaining()) == ("timeout", 0)

    virtual(scenario())


def test_a_new_attempt_does_not_extend_the_timeout(virtual: Virtual) -> None:
    async def scenario() -> None:
        watch = Watch(StreamConfig(), 10)
        await watch.guard(wait(6))
        watch.restart()
        assert await fails_after(watch, 50) == ("timeout", 10, 4)

    virtual(scenario())


@pytest.mark.parametrize("away", ["asleep", "busy"])
def test_the_callers_time_does_not_count_for_chunk_timeouts(virtual: Virtual, away: str) -> None:
    async def scenario() -> None:
        loop: Any = asyncio.get_running_loop()
        watch = Watch(StreamConfig(first_chunk_timeout=5, chunk_timeout=5))
        for _ in range(5):
            await watch.guard(wait(4))
            watch.progress()
            if away == "asleep":
                await asyncio.sleep(100)
            else:
                loop.spend(100)
        assert await fails_after(watch, 50) == ("chunk_timeout", 5, 5)

    virtual(scenario())


@pytest.mark.parametrize("away", ["asleep", "busy"])
@pytest.mark.parametrize(("stream_timeout", "timeout"), [(20, None), (None, 20)])
def test_the_callers_time_counts_for_the_total_timeouts(
    virtual: Virtual, away: str, stream_timeout: float | None, timeout: float | None
) -> None:
    async def scenario() -> tuple[str, float, float]:
        loop: Any = asyncio.get_running_loop()
        watch = Watch(StreamConfig(stream_timeout=stream_timeout), timeout)
        watch.begin()
        await watch.guard(wait(1))
        watch.progress()
        if away == "asleep":
            await asyncio.sleep(18)  # not interrupted: this is not a guarded wait
        else:
            loop.spend(18)
        return await fails_after(watch, 50)

    assert virtual(scenario())[1:] == (20, 1)


def test_nothing_is_started_after_the_timeout(virtual: Virtual) -> None:
    async def scenario() -> None:
        watch = Watch(OFF, 5)
        await asyncio.sleep(5)
        started: list[int] = []

        async def begin() -> None:
            started.append(1)

        for _ in range(2):
            with pytest.raises(LLMTimeoutError, match="timeout of 5 s"):
                await watch.guard(begin)
        assert started == []

    virtual(scenario())


def test_waits_that_are_not_for_the_server_have_only_the_total_timeouts(virtual: Virtual) -> None:
    async def scenario() -> None:
        watch = Watch(StreamConfig(first_chunk_timeout=5, stream_timeout=100))
        assert await watch.guard(wait(50), idle=False) == "came"
        await watch.guard(wait(4))
        await watch.guard(wait(20), idle=False)
        assert await fails_after(watch, 50) == ("first_chunk_timeout", 5, 1)

    virtual(scenario())

    async def in_the_queue() -> None:
        assert await fails_after(Watch(StreamConfig(first_chunk_timeout=5), 9), 50, idle=False) == ("timeout", 9, 9)

    virtual(in_the_queue())


def test_without_deadlines_a_wait_is_unlimited(virtual: Virtual) -> None:
    async def scenario() -> str:
        watch = Watch(OFF)
        assert await watch.guard(wait(10**6), idle=False) == "came"
        return await watch.guard(wait(10**6))

    assert virtual(scenario()) == "came"


def test_an_exception_of_the_awaitable_propagates(virtual: Virtual) -> None:
    async def scenario() -> None:
        watch = Watch(StreamConfig(first_chunk_timeout=5))

        async def broken() -> None:
            await asyncio.sleep(3)
            raise OSError("broken")

        with pytest.raises(OSError, match="broken"):
            await watch.guard(broken)
        assert await fails_after(watch, 50) == ("first_chunk_timeout", 5, 2)

    virtual(scenario())


def test_a_watch_that_has_fired_stays_fired(virtual: Virtual) -> None:
    async def scenario() -> None:
        watch = Watch(StreamConfig(first_chunk_timeout=5))
        assert await fails_after(watch, 50) == ("first_chunk_timeout", 5, 5)
        assert await fails_after(watch, 0) == ("first_chunk_timeout", 5, 0)
        assert not watch.cancelled

    virtual(scenario())


def test_one_timer_serves_many_waits(virtual: Virtual, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> int:
        loop = asyncio.get_running_loop()
        armed: list[float] = []
        call_at = loop.call_at

        def counted(when: float, callback: Any, *args: Any, **more: Any) -> Any:
            if getattr(callback, "__self__", None) is watch:
                armed.append(when)
            return call_at(when, callback, *args, **more)

        monkeypatch.setattr(loop, "call_at", counted)
        watch = Watch(StreamConfig(first_chunk_timeout=60, chunk_timeout=60))
        for _ in range(1000):
            await watch.guard(wait(0.01))
            watch.progress()
        watch.close()
        return len(armed)

    assert virtual(scenario()) == 2  # one for the first chunk, one for all that follow


def test_closing_drops_the_timer(virtual: Virtual) -> None:
    async def scenario() -> None:
        watch = Watch(StreamConfig(first_chunk_timeout=5))
        await watch.guard(wait(1))
        watch.close()
        watch.close()
        # With nothing scheduled, the event loop of these tests raises an error.
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="deadlock"):
        virtual(scenario())


def test_a_timer_that_finds_no_wait_is_not_set_again(virtual: Virtual) -> None:
    async def scenario() -> None:
        watch = Watch(StreamConfig(first_chunk_timeout=5))
        await watch.guard(wait(1))
        await asyncio.sleep(10)
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="deadlock"):
        virtual(scenario())


# Cancelling


async def settle(turns: int = 5) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


def cancelling(task: asyncio.Task[Any]) -> int:
    return task.cancelling() if sys.version_info >= (3, 11) else 0


def test_cancel_from_another_task_ends_the_wait(virtual: Virtual) -> None:
    async def scenario() -> None:
        watch = Watch(StreamConfig())

        async def reader() -> str:
            with pytest.raises(WatchCancelled):
                await watch.guard(wait(100))
            task = asyncio.current_task()
            assert task is not None
            assert cancelling(task) == 0
            await asyncio.sleep(1)  # the task continues as if it had never been cancelled
            return "went on"

        task = asyncio.create_task(reader())
        await settle()
        start = now()
        assert watch.cancel() is True
        assert watch.cancelled
        assert await task == "went on"
        assert now() - start == pytest.approx(1)
        with pytest.raises(WatchCancelled):
            await watch.guard(wait(0))

    virtual(scenario())


def test_cancel_between_waits_rejects_the_next_wait(virtual: Virtual) -> None:
    async def scenario() -> None:
        watch = Watch(StreamConfig())
        await watch.guard(wait(1))
        assert not watch.cancelled
        assert watch.cancel() is False
        assert watch.cancelled
        with pytest.raises(WatchCancelled):
            await watch.guard(wait(0))
        assert watch.cancel() is False

    virtual(scenario())


def test_a_deadline_that_has_passed_is_not_turned_into_a_cancellation(virtual: Virtual) -> None:
    async def scenario() -> None:
        watch = Watch(StreamConfig(first_chunk_timeout=5))
        assert (await fails_after(watch, 50))[0] == "first_chunk_timeout"
        assert watch.cancel() is False
        assert not watch.cancelled
        assert (await fails_after(watch, 50))[0] == "first_chunk_timeout"

    virtual(scenario())


def test_an_outside_cancellation_propagates_and_the_watch_continues(virtual: Virtual) -> None:
    async def scenario() -> None:
        watch = Watch(StreamConfig(first_chunk_timeout=5))
        task = asyncio.create_task(watch.guard(wait(100)))
        await asyncio.sleep(3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not watch.cancelled
        assert await fails_after(watch, 50) == ("first_chunk_timeout", 5, 2)

    virtual(scenario())


@pytest.mark.parametrize("first", ["ours", "theirs"])
@pytest.mark.parametrize("ours", ["cancel", "deadline"])
def test_an_outside_cancellation_in_the_same_turn_as_ours_is_not_swallowed(
    virtual: Virtual, first: str, ours: str
) -> None:
    # Once wrong on Python 3.10 where ours is first: the CancelledError still carries our message. The task reveals it:
    # `cancellation.cancel` sets `task._cancel_message`, which a later cancellation overwrites.
    async def scenario() -> None:
        watch = Watch(StreamConfig(first_chunk_timeout=5))
        task = asyncio.create_task(watch.guard(wait(100)))
        await settle()

        def fire() -> None:
            if ours == "cancel":
                watch.cancel()
            else:
                watch._fire("first_chunk_timeout")

        for act in (fire, task.cancel) if first == "ours" else (task.cancel, fire):
            act()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    virtual(scenario())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout is new in Python 3.11")
def test_a_callers_asyncio_timeout_around_a_wait_works(virtual: Virtual) -> None:
    async def scenario(seconds: float) -> tuple[str, float]:
        start = now()
        try:
            async with asyncio.timeout(3):
                await Watch(StreamConfig(first_chunk_timeout=seconds)).guard(wait(100))
        except TimeoutError as error:
            return type(error).__name__, now() - start
        return "", 0.0

    assert virtual(scenario(5)) == ("TimeoutError", pytest.approx(3))
    assert virtual(scenario(2)) == ("LLMTimeoutError", pytest.approx(2))


def test_a_wait_that_suppresses_its_cancellation_succeeds(virtual: Virtual) -> None:
    async def stubborn() -> str:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            return "came"
        return "never"

    async def scenario() -> None:
        watch = Watch(StreamConfig(first_chunk_timeout=5))
        assert await watch.guard(stubborn) == "came"
        task = asyncio.current_task()
        assert task is not None
        assert cancelling(task) == 0
        await asyncio.sleep(1)
        assert (await fails_after(watch, 50))[0] == "first_chunk_timeout"

    virtual(scenario())


def test_a_wait_that_translates_our_cancellation_still_raises_the_timeout(
    virtual: Virtual,
) -> None:
    # Once wrong: the other error was raised, and the task kept a cancellation that was never undone
    # (task.cancelling() == 1), which breaks a surrounding asyncio.timeout or TaskGroup
    async def translating() -> None:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError as error:
            raise OSError("a transport's own idea of a cancelled read") from error

    async def scenario() -> None:
        watch = Watch(StreamConfig(first_chunk_timeout=5))
        with pytest.raises((LLMTimeoutError, OSError)) as caught:
            await watch.guard(translating)
        task = asyncio.current_task()
        assert task is not None
        assert cancelling(task) == 0
        assert isinstance(caught.value, LLMTimeoutError)

    virtual(scenario())


def test_a_watch_works_within_a_task_that_was_cancelled_before(virtual: Virtual) -> None:
    """Clean-up in a cancelled task: its earlier cancellation is not a new one."""

    async def cleaning_up() -> tuple[str, float, float]:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            return await fails_after(Watch(StreamConfig(first_chunk_timeout=5)), 50)
        raise AssertionError

    async def scenario() -> tuple[str, float, float]:
        task = asyncio.create_task(cleaning_up())
        await settle()
        task.cancel()
        return await task

    assert virtual(scenario()) == ("first_chunk_timeout", 5, 5)


def test_without_an_asyncio_event_loop_the_error_names_provider_sync() -> None:
    # Once wrong: under trio nothing but "no running event loop"
    with pytest.raises(RuntimeError, match=r"asyncio event loop.*provider\.sync"):
        Watch(StreamConfig())
