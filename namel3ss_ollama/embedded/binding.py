"""The binding to llama.cpp, `xllamacpp`: loading a model and running requests.

The binding always listens for HTTP as well, which is not used: where the system has Unix sockets it listens on one, in
a private directory that is removed at once, and it always requires a random key.

Loading holds Python's global interpreter lock: no other thread runs meanwhile. Computing releases it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import secrets
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from namel3ss_ollama.embedded.digests import check
from namel3ss_ollama.embedded.openmp import waiting_asleep
from namel3ss_ollama.embedded.options import LoadOptions
from namel3ss_ollama.embedded.refusal import Refused
from namel3ss_ollama.embedded.store import Model
from namel3ss_ollama.embedded.weights import memory

__all__ = ["Json", "Kind", "Server", "complete", "embed", "fitted", "start"]

Json = dict[str, Any]
Kind = Literal["text", "embedding"]
_WORKING_MEMORY = 256 * 1024 * 1024
"""Approximate bytes that loading takes in addition to the weights and the context."""

_WINDOW_STEP = 256
"""Tokens: llama.cpp rounds each window up to a multiple of this."""

_MEMORY = Path("/proc/meminfo")
_LIMIT = Path("/sys/fs/cgroup/memory.max")
_LONGEST_PLACE = 70
"""Characters: the path of a Unix socket is limited to about a hundred."""


class Server(Protocol):
    """The used part of the binding's server, which is a loaded model with its threads."""

    def handle_completions(self, prompt: Json, callback: Callable[[Json], bool]) -> None:
        """Continue a prompt; the callback gets the tokens, and stops the generation by returning True."""

    def handle_embeddings(self, prompt: Json) -> Json:
        """Vectors for texts."""
        ...


def fitted(server: Server, request: Json, window: int) -> Json:
    """A request whose answer ends where the context window does.

    llama.cpp rounds each window up to a multiple of 256; this limits the answer for other sizes.

    Args:
        server: The model.
        request: The engine's fields: prompt, n_predict, temperature and so on.
        window: The context window, in tokens.

    Raises:
        Refused: The prompt leaves no room for an answer.
    """
    if window % _WINDOW_STEP == 0:
        return request
    room = window - _prompt_tokens(server, request, window)
    wanted = request.get("n_predict", -1)
    return {**request, "n_predict": room if wanted < 0 else min(wanted, room)}


def _prompt_tokens(server: Server, request: Json, window: int) -> int:
    """The number of tokens of a prompt, from the first event, before any of them is computed."""
    found = 0

    def first(event: Json) -> bool:
        nonlocal found
        found = int(event["prompt_progress"]["total"])
        return True

    complete(server, request, first)
    if found >= window:
        raise _too_long(found, window)
    return found


def complete(server: Server, request: Json, take: Callable[[Json], bool]) -> None:
    """Continue a prompt.

    Args:
        server: The model.
        request: The engine's fields, as for `fitted`.
        take: Called with events, one per token, and without text while the prompt is computed; True stops it.

    Raises:
        Refused: The engine cannot do it. Exceptions from `take` are raised too.
    """
    failed: list[BaseException] = []

    def look(event: Json) -> bool:
        try:
            if "error" in event:
                raise _refusal(event["error"])
            return take(event)
        except BaseException as error:  # the binding would swallow it
            failed.append(error)
            return True

    # A prompt's cached prefix is not computed again; but the rest is then rounded differently, so a request for a
    # repeatable answer must not use the cache.
    fields = {**request, "stream": True, "cache_prompt": "seed" not in request}
    # With progress events for the prompt, `take` can stop that too: after each batch of `num_batch` tokens.
    server.handle_completions({**fields, "return_progress": True}, look)
    if failed:
        raise failed.pop()  # a reference in this frame would keep the model in memory


def embed(server: Server, text: str, window: int) -> tuple[list[float], int]:
    """A vector of length 1, and the number of tokens of the text.

    Raises:
        Refused: The engine cannot do it, or the text exceeds the window.
    """
    answer = server.handle_embeddings({"input": [text]})
    if "error" in answer:
        raise _refusal(answer["error"])
    tokens = int(answer["usage"]["prompt_tokens"])
    if tokens > window:
        raise _too_long_to_embed()
    vector: list[float] = answer["data"][0]["embedding"]
    return vector, tokens


def start(model: Model, options: LoadOptions, kind: Kind, slots: int) -> Server:
    """Load a model.

    Args:
        model: The model.
        options: The load options.
        kind: For text, or for embeddings.
        slots: The number of concurrent requests.

    Raises:
        Refused: It cannot be loaded.
    """
    try:
        with waiting_asleep():
            binding = importlib.import_module("xllamacpp")
    except ImportError as error:
        raise Refused(500, "the embedded engine needs xllamacpp: pip install 'namel3ss-ollama[embedded]'") from error
    if model.sha256:
        check(model.path, model.sha256, memory())
    _check_memory(binding, model, options, slots)
    settings = binding.CommonParams()
    settings.model.path = str(model.path)
    settings.n_ctx = options.num_ctx * slots
    settings.n_parallel = slots
    # A batch holds at least one token per slot; with less, llama.cpp aborts the process.
    settings.n_batch = settings.n_ubatch = max(options.num_batch, slots)
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = options.num_thread or _cores()
    if options.num_gpu is not None:
        settings.n_gpu_layers = options.num_gpu
    if kind == "embedding":
        settings.embedding = True
        # A text is one batch. Pooling divides it by the slots; with a remainder, llama.cpp aborts the process.
        settings.n_batch = settings.n_ubatch = -(-options.num_ctx // slots) * slots
        if not model.header.embeds_only:
            settings.pooling_type = binding.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    settings.verbosity = 0
    settings.warmup = False
    settings.fit_params = False
    settings.cache_ram_mib = 0
    settings.ui = False
    settings.n_threads_http = 1
    settings.api_keys = [secrets.token_hex(32)]
    with _nowhere() as address:
        settings.hostnames = [address]
        try:
            server: Server = binding.Server(settings)
        except (RuntimeError, ValueError, MemoryError) as error:
            raise Refused(
                500,
                f"{model.name} could not be loaded: the file is damaged, not supported by this engine, or "
                "too large for the free memory",
            ) from error
    return server


@contextlib.contextmanager
def _nowhere() -> Iterator[str]:
    """An address to listen on that nothing can reach: a Unix socket whose directory is deleted afterwards."""
    if not hasattr(socket, "AF_UNIX"):
        yield "127.0.0.1"
        return
    place = tempfile.gettempdir()
    if len(place) > _LONGEST_PLACE:
        place = "/tmp"
    with tempfile.TemporaryDirectory(prefix="n3o-", dir=place, ignore_cleanup_errors=True) as folder:
        yield str(Path(folder) / "engine.sock")


def _check_memory(binding: Any, model: Model, options: LoadOptions, slots: int) -> None:
    """Refuse a model that cannot fit before llama.cpp tries: it aborts the process when memory runs out."""
    free = max((_free(_as_dict(device)) for device in binding.get_device_info()), default=0)
    needed = model.path.stat().st_size + model.header.bytes_a_token * options.num_ctx * slots + _WORKING_MEMORY
    if 0 < free < needed:
        raise Refused(
            500,
            f"model requires more system memory ({needed / 2**30:.1f} GiB) than is available ({free / 2**30:.1f} GiB)"
            ": lower num_ctx",
        )


def _free(device: Mapping[str, Any]) -> int:
    """A device's free bytes. For the CPU, llama.cpp reports the total memory, so the system is queried too."""
    said = [int(device["memory_free"])]
    if device.get("name") == "CPU":
        with contextlib.suppress(OSError):  # not on Linux
            said += [int(kib) * 1024 for kib in re.findall(r"MemAvailable:\s*(\d+) kB", _MEMORY.read_text())]
        with contextlib.suppress(OSError, ValueError):  # not a container, or one without a limit
            said.append(int(_LIMIT.read_text()))
    return min(said)


def _as_dict(device: Any) -> Mapping[str, Any]:
    return device if isinstance(device, Mapping) else vars(device)


def _refusal(error: Mapping[str, Any]) -> Refused:
    message = str(error.get("message", "unknown error"))
    if error.get("type") == "exceed_context_size_error":
        return _too_long(error.get("n_prompt_tokens"), error.get("n_ctx"))
    if "too large to process" in message:
        return _too_long_to_embed()
    return Refused(int(error.get("code") or 500), message)


def _too_long(tokens: object, window: object) -> Refused:
    return Refused(
        400,
        f"the prompt of {tokens} tokens exceeds the context window of {window} tokens: raise num_ctx, or shorten it",
    )


def _too_long_to_embed() -> Refused:
    return Refused(400, "the input length exceeds the context length: raise num_ctx, or shorten it")


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
