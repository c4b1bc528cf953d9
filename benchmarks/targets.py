"""The performance targets, as ratios within one run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.figures import Figure, figure, ratio

Results = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Target:
    """One target.

    Attributes:
        what: What is compared.
        figure: The measured ratio.
        bound: The limit for the ratio.
        at_least: Whether the bound is a minimum; otherwise it is a maximum.
        unit: The unit of the figure.
    """

    what: str
    figure: Figure
    bound: float
    at_least: bool
    unit: str = "x"

    @property
    def reached(self) -> bool:
        """Whether the median meets the bound."""
        median = self.figure["median"]
        return median >= self.bound if self.at_least else median <= self.bound


def targets(results: Results) -> list[Target]:
    """All targets, from the results of all measures."""
    token, synchronous, whole = results["a_token"], results["a_token_synchronously"], results["whole_answer"]
    crowds = (
        ("crowd", "a new client"),
        ("crowd_again", "a client in use"),
        ("crowd_with_a_client_each", "a client each"),
    )
    growth = results["by_crowd"]["core:provider"]
    lengths = results["by_length"]
    short = min(lengths["langchain:ours"], key=int)
    few, many = min(growth, key=int), max(growth, key=int)
    imports, telemetry = results["imports"], results["telemetry"]
    ours = token["core:provider"]
    few_waiting = min(results["memory_a_stream"]["ollama_python"], key=int)
    names = {
        "OllamaProvider": "core:provider",
        "LangChain, ours,": "langchain:ours",
        "ollama": "ollama_python:chat",
        "langchain-ollama": "langchain:theirs",
    }

    def cheaper(what: str, values: Results, theirs: str, mine: str, bound: float) -> Target:
        return Target(what, ratio(values[theirs], values[mine]), bound, at_least=True)

    def within(what: str, mine: list[float], floor: list[float], bound: float) -> Target:
        return Target(what, ratio(mine, floor), bound, at_least=False)

    return [
        cheaper("1. `stream_chat` cheaper a token than ollama", token, "ollama_python:chat", "core:provider", 5.0),
        within("1. `stream_chat` over aiohttp + orjson", ours, token["floors:plain_aiohttp"], 2.0),
        cheaper("2. LangChain `astream` cheaper, long answers", token, "langchain:theirs", "langchain:ours", 2.2),
        Target(
            f"2. LangChain `astream` cheaper, answers of {short} tokens",
            ratio(lengths["langchain:theirs"][short], lengths["langchain:ours"][short]),
            2.2,
            at_least=True,
        ),
        within(
            "2. LangChain `astream` over its floor, chunks made when due",
            token["langchain:ours"],
            token["langchain:floor_made"],
            1.3,
        ),
        within(
            "2. LangChain `astream` over its floor, chunks made before",
            token["langchain:ours"],
            token["langchain:floor"],
            1.3,
        ),
        cheaper("2. LangChain `stream` cheaper", synchronous, "langchain:theirs_sync", "langchain:ours_sync", 1.8),
        cheaper("3. LlamaIndex `astream_chat` cheaper", token, "llama_index:theirs", "llama_index:ours", 2.0),
        within(
            "3. LlamaIndex `astream_chat` over its floor, responses made when due",
            token["llama_index:ours"],
            token["llama_index:floor_made"],
            1.35,
        ),
        within(
            "3. LlamaIndex `astream_chat` over its floor, responses made before",
            token["llama_index:ours"],
            token["llama_index:floor"],
            1.35,
        ),
        cheaper(
            "4. LangChain `ainvoke` of a long answer cheaper",
            whole,
            "langchain:theirs_whole",
            "langchain:ours_whole",
            10,
        ),
        *(
            cheaper(
                f"5. CPU of many streams at once, {how}: {mine} against {theirs}",
                results[crowd]["cpu"],
                names[theirs],
                names[mine],
                15,
            )
            for crowd, how in crowds
            for mine, theirs in (
                ("OllamaProvider", "ollama"),
                ("OllamaProvider", "langchain-ollama"),
                ("LangChain, ours,", "langchain-ollama"),
            )
        ),
        within(f"5. cost a token of {many} streams at once over that of {few}", growth[many], growth[few], 1.5),
        Target(
            "6. constructing LangChain's chat model",
            figure(results["construct"]["langchain:ours_construct"]),
            1.0,
            at_least=False,
            unit="ms",
        ),
        within(
            "6. importing `OllamaProvider` over `import httpx, pydantic`",
            imports["namel3ss_ollama's OllamaProvider"],
            imports["httpx, pydantic"],
            1.2,
        ),
        within("7. telemetry off over not installed", telemetry["off"], telemetry["not installed"], 1.03),
        within("7. telemetry on over off", telemetry["on"], telemetry["off"], 1.1),
        Target("8. requests that an answer takes", figure(results["requests"]["core:requests"]), 1.0, at_least=False),
        *_of_paced_streams(results["paced"]),
        within(
            "10. memory of a stream that waits, over one of ollama's",
            results["memory_a_stream"]["core"][few_waiting],
            results["memory_a_stream"]["ollama_python"][few_waiting],
            1.0,
        ),
        within(
            "11. the limiter over asyncio.Semaphore, 10 slots",
            results["limiter"]["core:limiter"],
            results["limiter"]["core:semaphore"],
            1.1,
        ),
        *(
            within(
                f"12. {what}: OllamaProvider over aiohttp + orjson",
                first["OllamaProvider"],
                first["aiohttp + orjson"],
                1.2,
            )
            for what, first in results["first_request"].items()
        ),
        cheaper("13. LangChain `astream` cheaper, long answers", token, "langchain:theirs", "langchain:ours", 3.0),
        *(
            cheaper(
                f"14. {what} cheaper: {mine} against {theirs}", results[measure], names_of[theirs], names_of[mine], 1.0
            )
            for what, measure, mine, theirs, names_of in _COMPARED
        ),
        within(
            "15. time of 50 streams through LangChain with default settings, over langchain-ollama",
            results["default_limits"]["langchain:ours_default"]["50"],
            results["default_limits"]["langchain:theirs_default"]["50"],
            1.5,
        ),
    ]


_COMPARED = tuple(
    (what, measure, mine, theirs, {mine: ours, theirs: other})
    for what, measure, function in (
        ("embedding", "embed", "embed"),
        ("a batch", "batch", "batch"),
        ("tool calls", "calls_and_objects", "tool_calls"),
        ("structured output", "calls_and_objects", "structured"),
    )
    for mine, ours, theirs, other in (
        ("OllamaProvider", f"core:{function}", "ollama", f"ollama_python:{function}"),
        ("LangChain, ours,", f"langchain:ours_{function}", "langchain-ollama", f"langchain:theirs_{function}"),
    )
)


def _of_paced_streams(paced: dict[str, dict[str, list[float]]]) -> list[Target]:
    """The targets of streams whose tokens come one at a time."""
    numbers = sorted({int(column.partition(" ")[0]) for column in paced["core:paced"]})
    found = [
        Target(
            f"9. a token of {number} paced streams: {mine} over {floor}",
            ratio(paced[ours][f"{number} CPU"], paced[theirs][f"{number} CPU"]),
            bound,
            at_least=False,
        )
        for mine, floor, ours, theirs, bound in (
            ("`stream_chat`", "aiohttp + orjson", "core:paced", "floors:paced", 1.15),
            ("LangChain `astream`", "its floor", "langchain:ours_paced", "langchain:floor_paced", 1.5),
        )
        for number in numbers
        if f"{number} CPU" in paced[ours]
    ]
    found += [
        Target(
            f"9. delay of a token of {number} paced streams, 99th percentile",
            figure(paced["core:paced"][f"{number} p99"]),
            5.0,
            at_least=False,
            unit="ms",
        )
        for number in numbers
    ]
    return found
