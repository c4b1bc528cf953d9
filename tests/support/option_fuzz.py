"""Random and extreme options for the engine in this process, which must survive them.

Prints each case before it runs, and its result afterwards: in a child process, the last line shows what crashed it.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Iterator, Mapping
from typing import Any

from namel3ss_ollama.embedded import options
from namel3ss_ollama.embedded.api import handler_of
from namel3ss_ollama.embedded.engine import Engine, Job
from namel3ss_ollama.embedded.refusal import Refused
from namel3ss_ollama.embedded.work import Work

MODEL, PROMPT = "smollm2:135m", "What is the capital of France?"
LARGEST = 2**31 - 1
SIZES = [-LARGEST, -2, -1, 0, 1, 2, 3, 64, 65, 100, 255, 256, 257, 300, 2047, 2048, 2049, 10**6, 10**9, LARGEST, 2**31]
NUMBERS = [-3.4e38, -1e10, -1.0, -1e-30, 0.0, 1e-45, 1e-38, 0.01, 0.5, 1.0, 1.1, 100.0, 1e3, 1e10, 3.4e38, 1e300]
BOUNDS: Mapping[str, tuple[float, float]] = {
    **options._FLOATS,
    **options._INTEGERS,
    **options._LOAD,
    "num_ctx": (1, 2048),
}
LOADING = ["num_ctx", "num_batch", "num_thread", "num_gpu"]
INTEGERS = ["num_predict", "num_keep", "seed", "top_k", "repeat_last_n", "mirostat"]
FLOATS = ["temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty",
          "mirostat_tau", "mirostat_eta"]  # fmt: skip


def cases(seed: int, count: int) -> Iterator[dict[str, Any]]:
    """Extreme options for loading a model, then random options; every tenth case reloads the model."""
    for name, value in (("num_ctx", 1), ("num_ctx", 100), ("num_batch", 1), ("num_thread", 64)):
        yield {name: value}
    chance = random.Random(seed)
    for number in range(count):
        names = chance.sample(INTEGERS + FLOATS, chance.randint(1, 6))
        if number % 10 == 0:
            names += chance.sample(LOADING, 2)
        yield {name: picked(chance, name) for name in names}


def picked(chance: random.Random, name: str) -> float:
    """Usually a value that the engine accepts, possibly one of its bounds."""
    values: list[float] = [*(NUMBERS if name in FLOATS else SIZES)]
    low, high = BOUNDS.get(name, (-math.inf, math.inf))
    allowed = [value for value in values if low <= value <= high]
    allowed += [bound for bound in (low, high) if math.isfinite(bound)]
    return chance.choice(allowed if chance.random() < 0.95 else values)


def answered(engine: Engine, path: str, given: dict[str, Any]) -> str:
    """The result of a request: "ok", or how it was refused."""
    # Without a limit on tokens, an answer ends at one of these.
    bounded = {"num_predict": 4, "stop": [" ", "e", "a", "\n"], **given}
    request = {"model": MODEL, "prompt": PROMPT, "input": PROMPT, "raw": True, "stream": False, "options": bounded}
    lines: list[dict[str, Any]] = []
    try:
        handler = handler_of("POST", path)
        assert handler is not None
        handler(Work(engine, Job(engine), request, lines.append))
    except Refused as refused:
        return f"refused {refused.status} {refused}"
    vectors = lines[-1].get("embeddings", [])
    return "ok" if all(math.isfinite(value) for vector in vectors for value in vector) else "not a number"


def main(seed: int, count: int) -> None:
    engine = Engine(slots=2, max_queue=2)
    engine.lease()
    for number, given in enumerate(cases(seed, count)):
        path = "/api/embed" if number % 8 == 7 else "/api/generate"
        print(path, json.dumps(given), end=" -> ", flush=True)
        print(answered(engine, path, given), flush=True)
    engine.release()
    print("survived")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("count", type=int, help="the number of random cases")
    arguments = parser.parse_args()
    main(arguments.seed, arguments.count)
