"""How a model is loaded into llama.cpp, with a test double for the binding."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from gguf_files import EMBEDDING_MODEL, TEXT_MODEL, write_gguf

from namel3ss_ollama.embedded import binding
from namel3ss_ollama.embedded.options import LoadOptions
from namel3ss_ollama.embedded.refusal import Refused
from namel3ss_ollama.embedded.store import Model

MEAN = object()
unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets here")


class Xllamacpp(ModuleType):
    """The parts of the module that are used.

    Attributes:
        settings: The settings of the models, and their addresses at that time.
        free: Free memory in bytes; None for no device.
        devices: Devices in place of one with that memory.
        error: The exception that creating a model raises.
    """

    def __init__(self) -> None:
        super().__init__("xllamacpp")
        self.settings: list[SimpleNamespace] = []
        self.addresses: list[str] = []
        self.free: int | None = 2**34
        self.devices: list[Any] | None = None
        self.error: Exception | None = None
        self.llama_pooling_type = SimpleNamespace(LLAMA_POOLING_TYPE_MEAN=MEAN)

    def CommonParams(self) -> SimpleNamespace:
        names = ("model", "cpuparams", "cpuparams_batch")
        return SimpleNamespace(**{name: SimpleNamespace() for name in names}, n_gpu_layers="its own", embedding=False)

    def Server(self, settings: SimpleNamespace) -> object:
        (address,) = settings.hostnames
        self.settings.append(settings)
        self.addresses.append(address)
        assert address == "127.0.0.1" or Path(address).parent.is_dir()
        if self.error:
            raise self.error
        return "a server"

    def get_device_info(self) -> list[Any]:
        if self.devices is not None:
            return self.devices
        return [] if self.free is None else [{"memory_free": 0}, SimpleNamespace(memory_free=self.free)]


@pytest.fixture
def xllamacpp(monkeypatch: pytest.MonkeyPatch) -> Xllamacpp:
    made = Xllamacpp()
    monkeypatch.setitem(sys.modules, "xllamacpp", made)
    return made


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return Model("m", write_gguf(tmp_path / "m.gguf"), "0" * 64)


def test_a_model_for_text(xllamacpp: Xllamacpp, model: Model) -> None:
    options = LoadOptions(num_ctx=1000, num_batch=64, num_thread=3)
    assert binding.start(model, options, "text", 2) == "a server"
    (settings,) = xllamacpp.settings
    assert settings.model.path == str(model.path)
    assert (settings.n_ctx, settings.n_parallel) == (2000, 2)  # the window is a slot's
    assert (settings.n_batch, settings.n_ubatch) == (64, 64)
    assert (settings.cpuparams.n_threads, settings.cpuparams_batch.n_threads) == (3, 3)
    assert settings.n_gpu_layers == "its own"
    assert not settings.embedding
    (key,) = settings.api_keys
    assert len(key) == 64


def test_as_many_threads_as_cores(xllamacpp: Xllamacpp, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    binding.start(model, LoadOptions(num_gpu=0), "text", 1)
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    binding.start(model, LoadOptions(), "text", 1)
    assert [settings.cpuparams.n_threads for settings in xllamacpp.settings] == [3, 1]
    assert xllamacpp.settings[0].n_gpu_layers == 0


def test_a_model_for_embeddings(xllamacpp: Xllamacpp, model: Model, tmp_path: Path) -> None:
    other = Model("v", write_gguf(tmp_path / "v.gguf", EMBEDDING_MODEL), "1" * 64)
    for one in (model, other):
        binding.start(one, LoadOptions(num_ctx=100, num_batch=10), "embedding", 2)
    text, vectors = xllamacpp.settings
    assert (text.embedding, text.n_batch, text.n_ubatch) == (True, 100, 100)
    assert text.pooling_type is MEAN
    assert vectors.embedding
    assert not hasattr(vectors, "pooling_type")  # its own


@pytest.mark.parametrize(
    ("kind", "window", "slots", "batch"),
    [("text", 1, 4, 4), ("text", 99, 4, 10), ("embedding", 1, 4, 4), ("embedding", 65, 2, 66), ("embedding", 9, 3, 9)],
)  # fmt: skip
def test_a_batch_has_room_for_each_slot(
    xllamacpp: Xllamacpp, model: Model, kind: binding.Kind, window: int, slots: int, batch: int
) -> None:
    binding.start(model, LoadOptions(num_ctx=window, num_batch=min(window, 10)), kind, slots)
    (settings,) = xllamacpp.settings
    assert (settings.n_batch, settings.n_ubatch) == (batch, batch)


@unix
def test_it_listens_where_no_client_can_connect(
    xllamacpp: Xllamacpp, model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    long = tmp_path / ("long" * 30)
    long.mkdir()
    for place in (tempfile.gettempdir(), str(long)):
        monkeypatch.setattr(tempfile, "tempdir", place)
        binding.start(model, LoadOptions(), "text", 1)
    for address in xllamacpp.addresses:
        assert len(os.fsencode(address)) < 100  # the limit for a socket's path
        assert not Path(address).parent.exists()


def test_without_unix_sockets(xllamacpp: Xllamacpp, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_UNIX", raising=False)
    binding.start(model, LoadOptions(), "text", 1)
    assert xllamacpp.addresses == ["127.0.0.1"]


def test_the_binding_is_not_installed(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(Refused, match=r"pip install 'namel3ss-ollama\[embedded\]'"):
        binding.start(model, LoadOptions(), "text", 1)


@pytest.mark.parametrize("error", [RuntimeError("no"), ValueError("no"), MemoryError()])
def test_a_model_that_cannot_be_loaded(xllamacpp: Xllamacpp, model: Model, error: Exception) -> None:
    xllamacpp.error = error
    with pytest.raises(Refused, match="m could not be loaded: the file is damaged") as refused:
        binding.start(model, LoadOptions(), "text", 1)
    assert refused.value.status == 500
    assert refused.value.__cause__ is error


def test_a_model_that_cannot_fit_is_not_loaded(xllamacpp: Xllamacpp, tmp_path: Path) -> None:
    metadata = {**TEXT_MODEL, "llama.context_length": 2**20}
    model = Model("m", write_gguf(tmp_path / "m.gguf", metadata), "0" * 64)
    xllamacpp.free = 2**30
    binding.start(model, LoadOptions(num_ctx=2**20), "text", 2)  # 256 bytes a token, 512 MiB
    with pytest.raises(Refused, match=r"more system memory \(1.3 GiB\) than is available \(1.0 GiB\): lower num_ctx"):
        binding.start(model, LoadOptions(num_ctx=2**20), "text", 4)
    assert len(xllamacpp.settings) == 1
    for unknown in (0, None):
        xllamacpp.free = unknown
        binding.start(model, LoadOptions(num_ctx=2**20), "text", 4)


@pytest.mark.parametrize(
    ("available", "limit", "free"),
    [
        ("MemTotal: 9 kB\nMemAvailable:   1048576 kB\n", "max\n", "1.0"),
        ("MemAvailable:   1048576 kB\n", "536870912\n", "0.5"),
        (None, "536870912\n", "0.5"),
        ("MemTotal: 9 kB\n", None, "2.0"),
    ],
)
def test_the_memory_left_by_other_programs_and_in_a_container(
    xllamacpp: Xllamacpp,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    available: str | None,
    limit: str | None,
    free: str,
) -> None:
    for name, text in (("_MEMORY", available), ("_LIMIT", limit)):
        monkeypatch.setattr(binding, name, tmp_path / name)
        if text is not None:
            (tmp_path / name).write_text(text)
    model = Model("m", write_gguf(tmp_path / "m.gguf", {**TEXT_MODEL, "llama.context_length": 2**25}), "0" * 64)
    xllamacpp.devices = [{"name": "CPU", "memory_free": 2**31}, {"name": "GPU", "memory_free": 1}]
    with pytest.raises(Refused, match=rf"than is available \({free} GiB\)"):
        binding.start(model, LoadOptions(num_ctx=2**25), "text", 1)
