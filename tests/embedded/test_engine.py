"""Slots, the queue, and loading and unloading of models; without a real model."""

from __future__ import annotations

import atexit
import gc
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_binding import PATIENCE, Clock, FakeBinding, Watched

from namel3ss_ollama.embedded import engine as module
from namel3ss_ollama.embedded.binding import Kind
from namel3ss_ollama.embedded.engine import Cancelled, Engine, Job
from namel3ss_ollama.embedded.options import LoadOptions
from namel3ss_ollama.embedded.refusal import Refused
from namel3ss_ollama.embedded.store import Model

A, B, C, D = (Model(name, Path(f"/{name}.gguf"), name * 64) for name in "abcd")
USUAL = LoadOptions()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


@pytest.fixture
def engine(binding: FakeBinding, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """Two slots and a queue of two."""
    made = Engine(slots=2, max_queue=2)
    monkeypatch.setattr(made, "_changed", Watched())
    return made


class User(threading.Thread):
    """A thread that takes a slot, and releases it on request.

    Attributes:
        has: Set when the slot is taken, or on an error.
        error: The error, if there was one.
    """

    def __init__(self, engine: Engine, model: Model = A, options: LoadOptions = USUAL, **more: Any) -> None:
        super().__init__(daemon=True)
        self.engine, self.model, self.options = engine, model, options
        self.kind: Kind = more.get("kind", "text")
        self.keep = more.get("keep", 300.0)
        self.job = Job(engine)
        self.has, self.enough = threading.Event(), threading.Event()
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            with self.engine.use(self.model, self.options, self.kind, self.job, self.keep):
                self.has.set()
                assert self.enough.wait(PATIENCE)
        except BaseException as error:
            self.error = error
        self.has.set()

    def holds(self) -> User:
        """Return when the slot is taken."""
        assert self.has.wait(PATIENCE)
        assert self.error is None
        return self

    def waits(self) -> User:
        """Return when it is in the queue."""
        changed = self.engine._changed
        assert isinstance(changed, Watched)
        while self.job not in self.engine._waiting:
            changed.wait_for_waiter()
        with changed:  # the lock is only free once it waits
            pass
        assert not self.has.is_set()
        return self

    def leaves(self) -> BaseException | None:
        """Release the slot and return the error, if any."""
        self.enough.set()
        self.join(PATIENCE)
        assert not self.is_alive()
        return self.error


Use = Callable[..., User]


@pytest.fixture
def use(engine: Engine) -> Iterator[Use]:
    users: list[User] = []

    def start(*args: Any, **more: Any) -> User:
        users.append(User(engine, *args, **more))
        return users[-1]

    yield start
    for user in users:
        user.job.cancel()
        user.leaves()
    assert not engine._jobs
    assert not engine._waiting


def names(engine: Engine) -> list[str]:
    return [loaded.model.name for loaded in engine.running()]


# Slots


def test_a_model_is_loaded_once_and_shared(engine: Engine, use: Use, binding: FakeBinding) -> None:
    first, second = use().holds(), use().holds()
    assert binding.loads == [("a.gguf", USUAL, "text")]
    assert [loaded.active for loaded in engine.running()] == [2]
    first.leaves()
    second.leaves()
    assert [loaded.active for loaded in engine.running()] == [0]


def test_requests_beyond_the_slots_wait_in_order(use: Use) -> None:
    first, second = use().holds(), use().holds()
    third = use().waits()
    fourth = use().waits()
    second.leaves()
    third.holds()
    assert not fourth.has.is_set()
    first.leaves()
    fourth.holds()


def test_requests_beyond_the_queue_are_rejected(engine: Engine, use: Use) -> None:
    users = [use().holds(), use().holds(), use().waits(), use().waits()]
    busy = pytest.raises(Refused, match="server busy, please try again")
    with busy as refused, engine.use(A, USUAL, "text", Job(engine), None):
        pass
    assert refused.value.status == 503
    users[0].leaves()
    users[2].holds()  # a request that waits already is not rejected
    use().waits()  # and there is room again


def test_another_model_is_not_waited_for(use: Use) -> None:
    use().holds(), use().holds()
    use().waits()
    use(B).holds()


def test_text_and_embeddings_are_loaded_separately(use: Use, binding: FakeBinding) -> None:
    use().holds()
    use(kind="embedding").holds()
    assert [kind for _, _, kind in binding.loads] == ["text", "embedding"]


def test_a_request_cancelled_while_waiting_ends_at_once(use: Use) -> None:
    use().holds(), use().holds()
    third = use().waits()
    fourth = use().waits()
    third.job.cancel()
    assert isinstance(third.leaves(), Cancelled)
    assert not fourth.has.is_set()


def test_a_cancelled_request_loads_nothing(engine: Engine, binding: FakeBinding) -> None:
    job = Job(engine)
    job.cancel()
    with pytest.raises(Cancelled), engine.use(A, USUAL, "text", job, None):
        pass
    assert binding.loads == []


def test_a_request_cancelled_while_loading_does_not_compute(engine: Engine, binding: FakeBinding) -> None:
    job = Job(engine)
    binding.loading = job.cancel
    with pytest.raises(Cancelled), engine.use(A, USUAL, "text", job, 300.0):
        pytest.fail("the slot was given")
    assert [loaded.active for loaded in engine.running()] == [0]


def test_an_error_while_computing_releases_the_slot(engine: Engine) -> None:
    with pytest.raises(ZeroDivisionError), engine.use(A, USUAL, "text", Job(engine), 300.0):
        1 / 0  # noqa: B018 -- for its error
    assert [loaded.active for loaded in engine.running()] == [0]
    assert not engine._jobs


# Loading


def test_two_concurrent_requests_load_a_model_once(use: Use, binding: FakeBinding) -> None:
    loading, go = threading.Event(), threading.Event()

    def load() -> None:
        loading.set()
        assert go.wait(PATIENCE)

    binding.loading = load
    first = use()
    assert loading.wait(PATIENCE)
    second = use().waits()
    go.set()
    first.holds()
    second.holds()
    assert len(binding.loads) == 1


def test_a_model_being_loaded_is_not_shown_as_loaded(engine: Engine, use: Use, binding: FakeBinding) -> None:
    shown: list[list[str]] = []
    binding.loading = lambda: shown.append(names(engine))
    use().holds()
    assert shown == [[]]
    assert names(engine) == ["a"]


def test_a_failed_load_is_reported_and_the_next_request_tries_again(
    engine: Engine, use: Use, binding: FakeBinding
) -> None:
    loading, go = threading.Event(), threading.Event()

    def fail() -> None:
        binding.loading = lambda: None
        loading.set()
        assert go.wait(PATIENCE)
        raise Refused(500, "too large")

    binding.loading = fail
    first = use()
    assert loading.wait(PATIENCE)
    second = use().waits()
    go.set()
    assert "too large" in str(first.leaves())
    second.holds()
    assert len(binding.loads) == 2


def test_other_options_wait_until_the_model_is_idle_and_reload_it(
    engine: Engine, use: Use, binding: FakeBinding
) -> None:
    other = LoadOptions(num_ctx=100)
    first = use().holds()
    second = use(A, other).waits()
    third = use().waits()  # arrives later, so it does not overtake
    first.leaves()
    second.holds()
    assert [loaded.options for loaded in engine.running()] == [other]
    assert not third.has.is_set()
    second.leaves()
    third.holds()
    assert [options for _, options, _ in binding.loads] == [USUAL, other, USUAL]


def test_the_least_recently_used_model_is_unloaded(engine: Engine, use: Use, clock: Clock) -> None:
    for model in (A, B, C):
        use(model).holds().leaves()
        clock.now += 1
    use(A).holds().leaves()
    clock.now += 1
    use(D).holds().leaves()
    assert names(engine) == ["a", "c", "d"]


def test_a_busy_model_is_not_unloaded(engine: Engine, use: Use, clock: Clock) -> None:
    users = [use(model).holds() for model in (A, B, C)]
    fourth = use(D).waits()
    users[1].leaves()
    fourth.holds()
    assert names(engine) == ["a", "c", "d"]


def test_a_replaced_model_is_freed_before_the_next_is_loaded(engine: Engine, use: Use, binding: FakeBinding) -> None:
    with engine.use(A, USUAL, "text", Job(engine), 300.0) as (server, _):
        there = weakref.ref(server)
        del server
    seen: list[object] = []
    binding.loading = lambda: (gc.collect(), seen.append(there()))[1]
    use(A, LoadOptions(num_ctx=100)).holds()
    assert seen == [None]


# Unloading


def test_a_model_is_unloaded_when_it_expires(engine: Engine, use: Use, clock: Clock) -> None:
    use(A, keep=60.0).holds().leaves()
    use(B, keep=None).holds().leaves()
    clock.now += 59
    assert names(engine) == ["a", "b"]
    clock.now += 2
    assert names(engine) == ["b"]
    clock.now += 10**9
    assert names(engine) == ["b"]


def test_each_use_resets_the_expiry(engine: Engine, use: Use, clock: Clock) -> None:
    use(keep=60.0).holds().leaves()
    clock.now += 50
    use(keep=60.0).holds().leaves()
    clock.now += 50
    assert names(engine) == ["a"]
    use(keep=0.0).holds().leaves()
    assert names(engine) == []


def test_a_busy_model_does_not_expire(engine: Engine, use: Use, clock: Clock) -> None:
    use(keep=1.0).holds().leaves()
    user = use(keep=1.0).holds()
    clock.now += 100
    assert names(engine) == ["a"]
    user.leaves()
    clock.now += 2
    assert names(engine) == []


def test_unloading_waits_for_running_requests(engine: Engine, use: Use) -> None:
    use(B).holds().leaves()
    first, second = use(keep=300.0).holds(), use(keep=None).holds()
    engine.unload(A.path)
    assert names(engine) == ["b", "a"]
    first.leaves()
    second.leaves()
    assert names(engine) == ["b"]


def test_a_request_after_an_unloading_keeps_the_model(engine: Engine, use: Use) -> None:
    first = use(keep=300.0).holds()
    engine.unload(A.path)
    second = use(keep=300.0).holds()
    first.leaves()
    second.leaves()
    assert names(engine) == ["a"]


def test_nothing_keeps_an_unloaded_model_in_memory(engine: Engine) -> None:
    with engine.use(A, USUAL, "text", Job(engine), 0.0) as (server, waited):
        there = weakref.ref(server)
        del server
    gc.collect()
    assert there() is None
    assert waited >= 0


def test_the_last_release_unloads_everything(engine: Engine, use: Use) -> None:
    engine.lease()
    engine.lease()
    use(A, keep=None).holds().leaves()
    busy = use(B, keep=None).holds()
    engine.release()
    assert names(engine) == ["a", "b"]
    engine.release()
    assert names(engine) == ["b"]
    busy.leaves()
    assert names(engine) == []


def test_shutting_down_ends_running_and_waiting_requests(engine: Engine, use: Use) -> None:
    users = [use().holds(), use().holds()]
    waiting = use().waits()
    ending = threading.Thread(target=engine.shut_down)
    ending.start()
    changed = engine._changed
    assert isinstance(changed, Watched)
    changed.wait_for_waiter()
    assert isinstance(waiting.leaves(), Cancelled)
    assert all(user.job.cancelled for user in users)
    for user in users:
        user.leaves()
    ending.join(PATIENCE)
    assert not ending.is_alive()
    assert names(engine) == []


# The one engine of a process


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[module._Process]:
    made = module._Process()
    yield made
    if made._engine is not None:
        atexit.unregister(made._engine.shut_down)


def test_a_process_has_one_engine(process: module._Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_NUM_PARALLEL", "5")
    monkeypatch.setenv("OLLAMA_MAX_QUEUE", " ")
    engine = process.engine()
    assert process.engine() is engine
    assert (engine.slots, engine._max_queue) == (5, 512)


def test_a_lock_held_by_a_thread_that_a_child_lacks(process: module._Process) -> None:
    process._lock.acquire()
    process.after_fork()
    assert process.engine() is process.engine()


def test_a_fork_unloads_models_and_the_parent_reloads_them(engine: Engine, use: Use, binding: FakeBinding) -> None:
    use(A, keep=None).holds().leaves()
    use(B, keep=None).holds().leaves()
    engine.before_fork()
    assert not engine._loaded
    late = use()  # nothing is loaded meanwhile
    engine.after_fork_in_parent()
    late.holds()
    assert [name for name, _, _ in binding.loads] == ["a.gguf", "b.gguf", "a.gguf"]


def test_a_child_starts_fresh(engine: Engine, use: Use) -> None:
    use().holds().leaves()
    engine.before_fork()
    engine.after_fork_in_child()
    with engine.use(A, USUAL, "text", Job(engine), None):
        assert names(engine) == ["a"]


def test_a_child_of_a_process_that_computed_gets_an_error(engine: Engine) -> None:
    with engine.use(A, USUAL, "text", Job(engine), None):
        engine.before_fork()
        loaded = dict(engine._loaded)
        engine.after_fork_in_child()
        with pytest.raises(Refused, match="forked while a model computed"):
            engine._take(A, USUAL, "text", Job(engine))
        engine.before_fork()
        engine.after_fork_in_child()  # a child of the child
    assert [one.model for one in loaded.values()] == [A]
    with pytest.raises(Refused, match="forked while a model computed"), engine.use(A, USUAL, "text", Job(engine), None):
        pass


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5", "2147483648", "9" * 5000])
@pytest.mark.parametrize("name", ["OLLAMA_NUM_PARALLEL", "OLLAMA_MAX_QUEUE"])
def test_invalid_numbers(process: module._Process, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(Refused, match=f"{name} is '{value}': it must be a number from 1 to "):
        process.engine()
    monkeypatch.delenv(name)
    process.engine()


@pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="processes do not fork here")
def test_the_engine_of_this_process_is_shared() -> None:
    assert module.shared_engine() is module.shared_engine()
