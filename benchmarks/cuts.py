"""How well cut chats are noticed on a server that does not refuse them: `python -m benchmarks.cuts [--url URL]`.

Conversations of random languages, code, tools and lengths go to a real server, in a window that many do not fit. How
many tokens each has is the sum of its sentences', which the server has counted one by one, so that is known to a few
percent; conversations that close to the window are left out. Prints a table for the README: false alarms, and how
many of the cuts were noticed, by how much of the prompt they lost.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import time
from dataclasses import dataclass
from typing import Any

from benchmarks.texts import TEXTS
from namel3ss_ollama import OllamaProvider

__all__ = ["Case", "cases", "table"]

_UNSURE = 0.06
"""How far, relative to the window, a conversation must be from it to count."""
_A_FIFTH = 0.2
_WITH_TOOLS = 0.2
"""The part of conversations that have a tool."""
_TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather on a day of the year.",
        "parameters": {"type": "object", "properties": {"day": {"type": "integer"}}, "required": ["day"]},
    },
}


@dataclass
class Case:
    """A conversation, and what became of it.

    Attributes:
        kind: Its language.
        messages: The conversation.
        tokens: How many tokens it has, about.
        tools: Whether a tool goes along.
        count: How many the server counted.
        told: Whether the answer said that it was cut.
    """

    kind: str
    messages: list[dict[str, str]]
    tokens: int
    tools: bool
    count: int = 0
    told: bool = False

    def lost(self) -> float:
        """Which part of the prompt was cut off."""
        return max(0.0, 1 - self.count / self.tokens)


def cases(number: int, window: int, sizes: dict[str, int], overhead: tuple[int, int, int], seed: int) -> list[Case]:
    """Conversations, a third of which fit the window.

    Args:
        number: How many.
        window: The window, in tokens.
        sizes: The tokens of each sentence.
        overhead: The tokens that a template puts around a conversation and around a message, and those of the tool.
        seed: Of the random numbers.
    """
    chance = random.Random(seed)
    made: list[Case] = []
    while len(made) < number:
        kind = chance.choice(list(TEXTS))
        wanted = window * chance.choice([chance.uniform(0.2, 0.9), chance.uniform(1.1, 2), chance.uniform(1.1, 4)])
        messages: list[dict[str, str]] = []
        tools = chance.random() < _WITH_TOOLS
        tokens = overhead[0] + (overhead[2] if tools else 0)
        while tokens < wanted or len(messages) % 2 == 0:
            sentences = chance.choices(TEXTS[kind], k=chance.choice([1, 1, 2, 3]))
            messages.append({"role": "assistant" if len(messages) % 2 else "user", "content": " ".join(sentences)})
            tokens += overhead[1] + sum(sizes[sentence] for sentence in sentences)
        made.append(Case(kind, messages, tokens, tools))
    return made


def table(done: list[Case], window: int) -> str:
    """The figures as a table."""
    rows = ["| conversations | how many | reported as cut |", "| --- | --- | --- |"]
    fit = [case for case in done if case.tokens < window * (1 - _UNSURE)]
    cut = [case for case in done if case.tokens > window * (1 + _UNSURE)]
    for name, group in (
        ("that fit", fit),
        ("cut by a fifth or more", [case for case in cut if case.lost() >= _A_FIFTH]),
        ("cut by less", [case for case in cut if case.lost() < _A_FIFTH]),
    ):
        rows.append(f"| {name} | {len(group)} | {sum(case.told for case in group)} |")
    return "\n".join(rows)


async def _measure(url: str | None, model: str, number: int, window: int, seed: int) -> list[Case]:
    settings: dict[str, Any] = {"num_ctx": window, "max_tokens": 1, "temperature": 0, "max_concurrent": 1}
    async with OllamaProvider(model, url, on_truncation="ignore", **settings) as counting:
        sizes: dict[str, int] = {}
        for sentence in itertools.chain(*TEXTS.values()):
            response = await counting.agenerate(sentence, raw=True)
            sizes[sentence] = response.usage.prompt_tokens
        one = await counting.achat([{"role": "user", "content": TEXTS["English"][0]}])
        tool = await counting.achat([{"role": "user", "content": TEXTS["English"][0]}], tools=[_TOOL])
        two = await counting.achat([{"role": "user", "content": text} for text in TEXTS["English"][:2]])
    first, second = (sizes[text] for text in TEXTS["English"][:2])
    each = two.usage.prompt_tokens - one.usage.prompt_tokens - second
    overhead = one.usage.prompt_tokens - first - each, each, tool.usage.prompt_tokens - one.usage.prompt_tokens
    done = cases(number, window, sizes, overhead, seed)
    began = time.monotonic()
    async with OllamaProvider(model, url, on_truncation="warn", **settings) as provider:
        for index, case in enumerate(done):
            response = await provider.achat(case.messages, tools=[_TOOL] if case.tools else [])
            case.count, case.told = response.usage.prompt_tokens, response.truncated_prompt
            if index % 10 == 0:
                print(f"{time.monotonic() - began:5.0f} s  {index} of {number}", flush=True)
    return done


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cuts", description=__doc__)
    parser.add_argument("--url", help="the server; else OLLAMA_BASE_URL")
    parser.add_argument("--model", default="smollm2-tools:135m")
    parser.add_argument("--number", type=int, default=300)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    done = asyncio.run(_measure(given.url, given.model, given.number, given.window, given.seed))
    for case in done:
        wrong = case.told != (case.tokens > given.window)
        if wrong and abs(case.tokens - given.window) > given.window * _UNSURE:
            print(f"{case.kind}: {case.tokens} tokens, {case.count} counted, reported: {case.told}")
    print(table(done, given.window))


if __name__ == "__main__":
    main()
