"""How well truncated chats are detected on a server that does not refuse them: `python -m benchmarks.cuts [--url URL]`.

Conversations with random languages, code, tools and lengths go to a real server, with a window that is too small for
many: most grow turn by turn, as chats do; some arrive complete, as when an old chat is loaded. The number of tokens of
a request is the sum of its sentences', which the server has counted one by one, so it is known to a few percent;
requests that close to the window are omitted. Writes docs/cuts.md: false alarms, and how many of the cuts were
detected. Only prompt counts matter, so a copy of a model with only its first layer also works, and takes a thirtieth of
the time.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.texts import TEXTS
from namel3ss_ollama import OllamaProvider

__all__ = ["Case", "cases", "table"]

_PAGE = Path(__file__).parent.parent / "docs" / "cuts.md"
_UNSURE = 0.06
"""The minimum distance of a conversation from the window, relative to the window, to be counted."""
_A_FIFTH = 0.2
_GROWN, _WITH_TOOLS = 2 / 3, 0.2
"""The fractions of conversations that grow turn by turn, and that have a tool."""
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
    """A request and its result.

    Attributes:
        kind: The language of its conversation.
        messages: The conversation so far.
        tokens: Its approximate number of tokens.
        grown: Whether the conversation grew to this length turn by turn.
        tools: Whether it has a tool.
        count: The tokens that the server counted.
        reported: Whether the answer reported the truncation.
    """

    kind: str
    messages: list[dict[str, str]]
    tokens: int
    grown: bool
    tools: bool
    count: int = 0
    reported: bool = False

    def lost(self) -> float:
        """The fraction of the prompt that was cut off."""
        return max(0.0, 1 - self.count / self.tokens)


def cases(number: int, window: int, sizes: dict[str, int], overhead: tuple[int, int, int], seed: int) -> list[Case]:
    """The requests of conversations, a third of which fit into the window.

    Args:
        number: The number of conversations.
        window: The window, in tokens.
        sizes: The tokens of each sentence.
        overhead: The tokens that a template adds to a conversation and to a message, and those of the tool.
        seed: The random seed.
    """
    chance = random.Random(seed)
    made: list[Case] = []
    for _ in range(number):
        kind = chance.choice(list(TEXTS))
        wanted = window * chance.choice([chance.uniform(0.2, 0.9), chance.uniform(1.1, 2), chance.uniform(1.1, 4)])
        grown, tools = chance.random() < _GROWN, chance.random() < _WITH_TOOLS
        messages: list[dict[str, str]] = []
        tokens = overhead[0] + (overhead[2] if tools else 0)
        requests: list[Case] = []
        while tokens < wanted or len(messages) % 2 == 0:
            sentences = chance.choices(TEXTS[kind], k=chance.choice([1, 1, 2, 3]))
            messages.append({"role": "assistant" if len(messages) % 2 else "user", "content": " ".join(sentences)})
            tokens += overhead[1] + sum(sizes[sentence] for sentence in sentences)
            if len(messages) % 2:
                requests.append(Case(kind, messages.copy(), tokens, grown, tools))
        made += requests if grown else requests[-1:]
    return made


def table(done: list[Case], window: int) -> str:
    """The figures as a table."""
    rows = ["| requests | how many | reported as cut |", "| --- | --- | --- |"]
    fit = [case for case in done if case.tokens < window * (1 - _UNSURE)]
    cut = [case for case in done if case.tokens > window * (1 + _UNSURE)]
    much = [case for case in cut if case.lost() >= _A_FIFTH]
    for name, group in (
        ("that fit", fit),
        ("cut by a fifth or more", much),
        ("of these, in conversations that grew turn by turn", [case for case in much if case.grown]),
        ("of these, in conversations that arrived complete", [case for case in much if not case.grown]),
        ("cut by less", [case for case in cut if case.lost() < _A_FIFTH]),
    ):
        detected = sum(case.reported for case in group)
        rows.append(f"| {name} | {len(group)} | {detected} ({detected / max(len(group), 1):.1%}) |")
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
        turns = zip(("user", "assistant", "user"), TEXTS["English"], strict=False)
        three = await counting.achat([{"role": role, "content": text} for role, text in turns])
    first, second, third = (sizes[text] for text in TEXTS["English"][:3])
    each = round((three.usage.prompt_tokens - one.usage.prompt_tokens - second - third) / 2)
    overhead = one.usage.prompt_tokens - first - each, each, tool.usage.prompt_tokens - one.usage.prompt_tokens
    done = cases(number, window, sizes, overhead, seed)
    began = time.monotonic()
    async with OllamaProvider(model, url, on_truncation="warn", **settings) as provider:
        for index, case in enumerate(done):
            response = await provider.achat(case.messages, tools=[_TOOL] if case.tools else [])
            case.count, case.reported = response.usage.prompt_tokens, response.truncated_prompt
            if index % 100 == 0:
                print(f"{time.monotonic() - began:5.0f} s  {index} of {len(done)}", flush=True)
    return done


def page(done: list[Case], window: int, number: int, model: str, version: str) -> str:
    """docs/cuts.md."""
    return f"""# How well cut chats are noticed

Generated by `python -m benchmarks.cuts`; the numbers are those of a run on Ollama {version}.

A server before 0.12.6 cannot be asked to refuse a prompt that is too long, and silently drops the oldest messages of a
chat. There, the provider estimates how many tokens a request should count, and compares: see
[Long prompts](how-to/long-prompts.md). Newer servers are asked to refuse, so nothing depends on an estimate.

{number} conversations in {len(TEXTS)} languages and kinds of text, a fifth of them with a tool, in a window of {window}
tokens, sent to `{model}`, of which only the counts matter. Two thirds grow turn by turn, with one request per turn; a
third arrive complete, longer than anything asked before. The provider starts with no knowledge of the model, and gets
answers of one token, from which it learns nothing. Requests within {_UNSURE:.0%} of the window are omitted.

{table(done, window)}

It misses cuts in conversations that arrive complete and too long, in a script of which it has counted little so far,
and cuts of a few percent. These numbers do not include what it learns from answers, which are usually in the language
of the conversation.
"""


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
        if case.reported and case.tokens < given.window * (1 - _UNSURE):
            print(f"a false alarm: {case.kind}, {case.tokens} tokens, {case.count} counted")
    with OllamaProvider(given.model, given.url) as provider:
        version = provider.sync.version()
    written = page(done, given.window, given.number, given.model, version)
    _PAGE.write_text(written, encoding="utf-8")
    print(written)


if __name__ == "__main__":
    main()
