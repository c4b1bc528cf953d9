"""The measurements. Each function is one of them; it returns a list of values for every client, one per round.

The clients take turns within a round, so that a temporary load on the machine affects all of them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks.lineup import (
    A_CLIENT_EACH,
    BATCH,
    CONSTRUCTED,
    CROWDED,
    DEFAULTS,
    EMBEDDING,
    FIRST,
    GROWING,
    IMPORTED,
    IMPORTED_WITH_FRAMEWORKS,
    LABELS,
    LIMITING,
    PACED,
    PACED_IN_THOUSANDS,
    RAY_BATCH,
    SLOW,
    STREAMING,
    STRUCTURED,
    SYNCHRONOUS,
    WHOLE,
)
from benchmarks.processes import Worker, Workers, environment, has_ray
from benchmarks.worker import Clients

Values = dict[str, list[float]]
"""Values by client, one per round."""


@dataclass(frozen=True, slots=True)
class Size:
    """The extent of the measurements.

    Attributes:
        rounds: The number of rounds of quick measurements; slow ones have fewer.
        tokens: The length of an answer for the cost per token.
        whole: The length of an answer that is not streamed.
        crowd: The number of concurrent streams.
        crowd_each: Their number if each creates its own client, whose cost does not depend on the number.
        crowds: Numbers of concurrent streams, to see how the cost grows.
        paced: Numbers of concurrent streams whose tokens come one at a time.
        paced_seconds: How long these are measured.
        lengths: Lengths of answers, to see how the cost grows.
        texts: The number of texts to embed.
        prompts: The number of prompts in a batch of ours.
        prompts_theirs: The number of prompts in a batch of the others, which take longer.
        tasks: The number of tasks that wait for slots.
        waiting: Numbers of streams that wait for their next token, to see their memory.
        frameworks: Whether the frameworks' imports are measured, which take seconds each.
    """

    rounds: int = 5
    tokens: int = 8000
    whole: int = 8000
    crowd: int = 1000
    crowd_each: int = 250
    crowds: tuple[int, ...] = (100, 1000, 4000)
    paced: tuple[int, ...] = (50, 500, 2000)
    paced_seconds: float = 2.0
    lengths: tuple[int, ...] = (1000, 4000, 16000)
    texts: int = 100_000
    prompts: int = 10_000
    prompts_theirs: int = 1000
    tasks: int = 10_000
    frameworks: bool = True
    waiting: tuple[int, ...] = (1000, 10_000)


FULL = Size()
QUICK = Size(
    rounds=2,
    tokens=4000,
    crowd=50,
    crowd_each=20,
    crowds=(50, 250),
    paced=(50, 500),
    paced_seconds=1.0,
    lengths=(1000, 4000),
    texts=1000,
    prompts=500,
    prompts_theirs=200,
    tasks=2000,
    frameworks=False,
    waiting=(200,),
)


def in_turns(rounds: int, clients: Iterable[str], measure: Callable[[str], float]) -> Values:
    """Values of `measure`, the clients taking turns."""
    values: Values = {client: [] for client in clients}
    for _ in range(rounds):
        for client, measured in values.items():
            measured.append(measure(client))
    return values


def warmed(workers: Workers, clients: Iterable[str]) -> None:
    """Start workers, and warm up each with an answer."""
    workers.start(clients)
    for client in clients:
        workers.ask("streams", client, tokens=500, repeat=2)


def a_token(workers: Workers, size: Size) -> Values:
    """CPU microseconds of the client for a streamed token."""
    return _a_token(workers, size, STREAMING)


def a_token_synchronously(workers: Workers, size: Size) -> Values:
    """CPU microseconds of the client for a token of a synchronous stream."""
    return _a_token(workers, size, SYNCHRONOUS)


def _a_token(workers: Workers, size: Size, clients: Iterable[str]) -> Values:
    warmed(workers, clients)
    return in_turns(
        size.rounds,
        clients,
        lambda client: float(workers.ask("streams", client, tokens=size.tokens)["cpu"]) / size.tokens * 1e6,
    )


def whole_answer(workers: Workers, size: Size) -> Values:
    """CPU milliseconds of the client for one long answer that is not streamed."""
    warmed(workers, WHOLE)
    return in_turns(
        size.rounds, WHOLE, lambda client: float(workers.ask("streams", client, tokens=size.whole)["cpu"]) * 1e3
    )


def crowd(workers: Workers, size: Size) -> Mapping[str, Values]:
    """CPU and wall-clock seconds for the first concurrent streams of a client, of 100 tokens each."""
    return _crowd(workers, CROWDED, size.crowd, "new")


def crowd_again(workers: Workers, size: Size) -> Mapping[str, Values]:
    """As `crowd`, over a client that has just received an answer, so that at least one connection is open."""
    return _crowd(workers, CROWDED, size.crowd, "kept")


def crowd_with_a_client_each(workers: Workers, size: Size) -> Mapping[str, Values]:
    """As `crowd`, but each stream creates its own client, as in programs that create one per request."""
    return _crowd(workers, A_CLIENT_EACH, size.crowd_each, "each")


def _crowd(workers: Workers, names: Iterable[str], streams: int, clients: Clients) -> Mapping[str, Values]:
    cpu: Values = {name: [] for name in names}
    wall: Values = {name: [] for name in names}
    warmed(workers, names)
    for turn in range(2):
        for name in names:
            if turn == 0 or name not in SLOW:
                if clients == "kept":
                    workers.ask("streams", name, tokens=1)  # httpx closes a connection after five idle seconds
                cost = workers.ask("streams", name, tokens=100, streams=streams, clients=clients)
                cpu[name].append(cost["cpu"])
                wall[name].append(cost["wall"])
    return {"cpu": cpu, "wall": wall}


def by_crowd(workers: Workers, size: Size) -> Mapping[str, Values]:
    """CPU microseconds per token for growing numbers of concurrent streams of 100 tokens; as many streams per round."""
    clients = ("floors:plain_aiohttp", "core:provider")
    measured: dict[str, Values] = {client: {str(streams): [] for streams in size.crowds} for client in clients}
    warmed(workers, clients)
    for client in clients:
        workers.ask("streams", client, tokens=100, streams=size.crowds[-1])  # allocates the memory
    for _ in range(2):
        for streams in size.crowds:
            repeat = max(1, 1000 // streams)
            for client in clients:
                cost = workers.ask("streams", client, tokens=100, streams=streams, repeat=repeat)
                measured[client][str(streams)].append(cost["cpu"] / (100 * streams * repeat) * 1e6)
    return measured


def paced(workers: Workers, size: Size) -> Mapping[str, Values]:
    """Streams whose tokens come one at a time, 20 a second each, as from a real model.

    For each number of concurrent streams: CPU microseconds of the client per token; the 99th percentile of the delay
    from the server's write to the client's caller, in milliseconds; and the tokens received per second and stream,
    which are fewer than 20 where a core is not enough for them.
    """
    measured: dict[str, Values] = {client: {} for client in PACED}
    workers.start(PACED)
    for turn in range(min(3, size.rounds)):
        for streams in size.paced:
            for client in PACED if streams < 1000 else PACED_IN_THOUSANDS:
                if turn > 0 and streams > size.paced[0] and client in SLOW:
                    continue
                cost = workers.ask("paced", client, streams=streams, seconds=size.paced_seconds)
                for what, value in (
                    ("CPU", cost["cpu"] / cost["tokens"] * 1e6),
                    ("p99", cost["p99"] * 1e3),
                    ("tokens/s", cost["tokens"] / cost["wall"] / streams),
                ):
                    measured[client].setdefault(f"{streams} {what}", []).append(value)
    return measured


def default_limits(workers: Workers, size: Size) -> Mapping[str, Values]:
    """Wall-clock seconds for concurrent streams through a chat model with default settings, by their number.

    The server answers all at once: the first token after 0.25 seconds, then 50 a second, 100 in all.
    """
    measured: dict[str, Values] = {client: {"10": [], "50": [], "100": []} for client in DEFAULTS}
    warmed(workers, DEFAULTS)
    for _ in range(min(3, size.rounds)):
        for client, row in measured.items():
            for streams, values in row.items():
                values.append(workers.ask("streams", client, tokens=100, streams=int(streams))["wall"])
    return measured


def event_loops(workers: Workers, size: Size) -> Mapping[str, Values]:
    """asyncio's event loop and uvloop's: CPU microseconds of the client.

    For a token of a long answer ("token"), for a token of one of 500 streams whose tokens come one at a time ("paced"),
    and for an answer of one token ("answer").
    """
    clients = {"floors": ("floors:plain_aiohttp", "floors:paced"), "core": ("core:provider", "core:paced")}
    measured: dict[str, Values] = {}
    with ExitStack() as stack:
        made = {
            (library, loop): stack.enter_context(Worker(library, workers.url, loop=loop))
            for library in clients
            for loop in ("asyncio", "uvloop")
        }
        for _ in range(min(3, size.rounds)):
            for (library, loop), worker in made.items():
                stream, one_at_a_time = clients[library]
                worker.ask("streams", stream, tokens=500, repeat=2)
                token = worker.ask("streams", stream, tokens=size.tokens)["cpu"] / size.tokens
                answer = worker.ask("streams", stream, tokens=1, repeat=200)["cpu"] / 200
                paced = worker.ask("paced", one_at_a_time, streams=500, seconds=size.paced_seconds)
                row = measured.setdefault(f"{LABELS[stream]}, {loop}", {})
                for what, seconds in (("token", token), ("paced", paced["cpu"] / paced["tokens"]), ("answer", answer)):
                    row.setdefault(what, []).append(seconds * 1e6)
    return measured


def by_length(workers: Workers, size: Size) -> Mapping[str, Values]:
    """CPU microseconds per token for answers of growing length, one after the other; as many tokens of each length."""
    warmed(workers, GROWING)
    measured: dict[str, Values] = {client: {str(length): [] for length in size.lengths} for client in GROWING}
    for _ in range(2):
        for length in size.lengths:
            for client in GROWING:
                repeat = size.lengths[-1] // length
                cost = workers.ask("streams", client, tokens=length, repeat=repeat)
                measured[client][str(length)].append(float(cost["cpu"]) / (length * repeat) * 1e6)
    return measured


def memory_by_length(workers: Workers, size: Size) -> Mapping[str, Values]:
    """The peak growth of a process in MiB while an answer is streamed and discarded, by the answer's length."""
    clients = GROWING if size.frameworks else GROWING[:2]
    measured: dict[str, Values] = {client: {} for client in clients}
    with ExitStack() as stack:  # one process each, since a peak is that of a process
        fresh = {c: stack.enter_context(Worker(c.partition(":")[0], workers.url)) for c in clients}
        for client, worker in fresh.items():
            before = None
            for length in size.lengths:
                peak = worker.ask("peak", client, tokens=length)
                before = peak["before"] if before is None else before
                measured[client][str(length)] = [(peak["bytes"] - before) / 2**20]
    return measured


def memory_a_stream(workers: Workers, size: Size) -> Mapping[str, Values]:
    """KiB per stream that waits for its next token, by the number of streams.

    ollama has no limit on connections here. More than 1,000 of its streams take minutes to begin.
    """
    values: dict[str, Values] = {"core": {}, "ollama_python": {}}
    for library, measured in values.items():
        for streams in size.waiting if library == "core" else size.waiting[:1]:
            with Worker(library, workers.url) as fresh:
                given = fresh.ask("call", f"{library}:memory_a_stream", streams=streams)
                measured[str(streams)] = [given["bytes"] / 1024]
    return values


def first_token(workers: Workers, size: Size) -> Values:
    """Microseconds from the request to the end of an answer of one token, over an open connection."""
    warmed(workers, FIRST)
    return in_turns(size.rounds, FIRST, lambda client: float(workers.ask("single", client, count=50)["wall"]) * 1e6)


def first_request(workers: Workers, size: Size) -> Mapping[str, Values]:
    """CPU milliseconds of the first answer of a client, of one token, in a process of its own.

    With the imports it is the first of its process; without them it is the first of a client that is made later, which
    opens a connection.
    """
    clients = {"aiohttp + orjson": "aiohttp", "OllamaProvider": "core", "ollama": "ollama_python"}
    values: dict[str, Values] = {what: {name: [] for name in clients} for what in ("with imports", "without")}
    for turn in range(min(3, size.rounds) + 1):
        for name, client in clients.items():
            command = [sys.executable, "-m", "benchmarks.first", client, workers.url]
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment())
            if turn > 0:  # the first may include compilation
                for what, milliseconds in zip(values, map(float, done.stdout.split()), strict=True):
                    values[what][name].append(milliseconds)
    return values


def construct(workers: Workers, size: Size) -> Values:
    """CPU milliseconds to construct a client or a chat model; not the first of its process."""

    def measure(function: str) -> float:
        return float(workers.ask("construct", function)["cpu"]) * 1e3

    values = in_turns(2 * size.rounds + 1, CONSTRUCTED, measure)
    for measured in values.values():
        del measured[0]
    return values


def imports(workers: Workers, size: Size) -> Values:
    """CPU milliseconds of an import, in a separate process, without the interpreter's own start."""
    timed = "import time; began = time.process_time(); {}; print(time.process_time() - began)"

    def measure(statement: str) -> float:
        command = [sys.executable, "-c", timed.format(statement)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment())
        return float(done.stdout) * 1e3

    values = in_turns(size.rounds + 1, IMPORTED, lambda name: measure(IMPORTED[name]))
    for measured in values.values():
        del measured[0]  # may include compilation
    if size.frameworks:
        values |= in_turns(1, IMPORTED_WITH_FRAMEWORKS, lambda name: measure(IMPORTED_WITH_FRAMEWORKS[name]))
    return values


def embed(workers: Workers, size: Size) -> Values:
    """CPU seconds for the vectors of many texts."""
    return _calls(workers, EMBEDDING, min(3, size.rounds), lambda _: {"texts": size.texts}, lambda _: 1.0)


def batch(workers: Workers, size: Size) -> Values:
    """CPU microseconds per prompt for a large batch of short answers (10 tokens), 100 concurrently.

    For Ray, it includes all its processes, but not the start of the actors.
    """

    def prompts(function: str) -> int:
        return size.prompts if function.startswith(("core:", "floors:", "ray:")) else size.prompts_theirs

    def arguments(function: str) -> Mapping[str, int]:
        return {"prompts": prompts(function), "at_once": 100, "tokens": 10}

    values = _calls(workers, BATCH, 1, arguments, lambda function: 1e6 / prompts(function))
    if has_ray():
        with Worker("ray", workers.url) as fresh:  # ended at once: an idle Ray also uses CPU
            for function in RAY_BATCH:
                cost = fresh.ask("call", function, **arguments(function))
                values[function] = [cost["cpu"] / prompts(function) * 1e6]
    return values


def calls_and_objects(workers: Workers, size: Size) -> Values:
    """CPU microseconds of the client for an answer that calls a tool, and for one in the form of a class."""
    answers = 200
    workers.start(STRUCTURED)
    for client in STRUCTURED:
        workers.ask("call", client, answers=20)
    return _calls(workers, STRUCTURED, size.rounds, lambda _: {"answers": answers}, lambda _: 1e6 / answers)


def requests(workers: Workers, size: Size) -> Values:
    """HTTP requests per answer, streamed or not."""
    given = workers.ask("call", "core:requests", answers=50)
    return {"core:requests": [float(given["requests"])]}


def limiter(workers: Workers, size: Size) -> Values:
    """CPU microseconds to acquire and release one of 10 slots, with thousands of waiting tasks."""
    arguments = {"tasks": size.tasks, "slots": 10}
    return _calls(workers, LIMITING, size.rounds, lambda _: arguments, lambda _: 1e6 / size.tasks)


def _calls(
    workers: Workers,
    functions: Iterable[str],
    rounds: int,
    arguments: Callable[[str], Mapping[str, int]],
    scale: Callable[[str], float],
) -> Values:
    def measure(function: str) -> float:
        given = workers.ask("call", function, **arguments(function))
        return float(given["cpu"]) * scale(function)

    return in_turns(rounds, functions, measure)


def telemetry(workers: Workers, size: Size) -> Values:
    """CPU microseconds per token for answers of 1,000 tokens, with and without OpenTelemetry."""
    with (
        Worker("core", workers.url, without="opentelemetry") as missing,
        Worker("core", workers.url) as off,
        Worker("core", workers.url) as on,
    ):
        made = {
            "not installed": (missing, "core:provider"),
            "off": (off, "core:provider"),
            "on": (on, "core:provider_with_telemetry"),
        }

        def measure(name: str) -> float:
            worker, client = made[name]
            return float(worker.ask("streams", client, tokens=1000, repeat=10)["cpu"]) / 10_000 * 1e6

        in_turns(1, made, measure)
        return in_turns(2 * size.rounds, made, measure)


ALL: tuple[Callable[[Workers, Size], Mapping[str, object]], ...] = (
    imports,  # first, before anything else is started
    a_token,
    a_token_synchronously,
    whole_answer,
    by_length,
    crowd,
    crowd_again,
    crowd_with_a_client_each,
    by_crowd,
    paced,
    default_limits,
    event_loops,
    first_token,
    first_request,
    construct,
    embed,
    batch,
    calls_and_objects,
    requests,
    limiter,
    telemetry,
    memory_a_stream,
    memory_by_length,
)
