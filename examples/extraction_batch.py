"""Fields read out of 10,000 texts, and a table of what came. After a kill, the same command goes on.

python examples/extraction_batch.py --base-url http://gpu1:11434 --base-url http://gpu2:11434 --slots 4

On a terminal, a bar shows how far it is; it needs rich: pip install rich
"""

from __future__ import annotations

import itertools
import os
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Literal

from _common import parser, pull_if_missing, run
from pydantic import BaseModel

from namel3ss_ollama import BatchReport, Host, Hosts, OllamaProvider

PRODUCTS = ["kettle", "bicycle lamp", "office chair", "rain jacket", "coffee grinder"]
STORIES = [
    "The {} arrived broken, and I want my money back.",
    "I love my new {}. Thank you!",
    "The {} stopped working after a week. Can you repair it?",
    "Works as it should, but the {} came two weeks late.",
]


class Review(BaseModel):
    """What is wanted of a text."""

    product: str
    mood: Literal["happy", "unhappy", "mixed"]
    wants: Literal["refund", "repair", "nothing"]


def texts(number: int) -> Iterator[str]:
    """So many texts, no two of them alike. Yours come out of a file or a database, one by one as here."""
    kinds = itertools.cycle(itertools.product(STORIES, PRODUCTS))
    for order, (story, product) in zip(range(number), kinds, strict=False):
        yield f"Order {order}. {story.format(product)}"


def show(report: BatchReport) -> None:
    """The values of each field and how often they came, then the totals."""
    counts = {name: Counter[str]() for name in Review.model_fields}
    failures = Counter[str]()
    for row in report.rows():  # off the disk, one by one, those of earlier runs included
        if row.failure is not None:
            failures[row.failure.type] += 1
        elif row.answer is not None:
            for name, value in row.answer.parsed:
                counts[name][value] += 1
    for name, counted in counts.items():
        for value, count in counted.most_common(5):
            print(f"{name:10} {value:20.20} {count:8,}")
    for kind, count in failures.most_common():
        print(f"{'failed':10} {kind:20} {count:8,}")
    rows, seconds = report.answered + report.failed, max(report.seconds, 1e-9)
    print(f"{report.answered:,} answered, {report.failed:,} failed; {report.skipped:,} were done before this run")
    print(f"{rows / seconds:,.1f} rows/s, {report.tokens / seconds:,.0f} tokens/s")
    for host, share in report.by_host.items():
        print(f"{host}: {share.rows:,} rows, {share.tokens:,} tokens")


async def main() -> None:
    options = parser(__doc__, several=True)
    options.add_argument("--slots", type=int, default=1, help="requests at once for each, as OLLAMA_NUM_PARALLEL says")
    options.add_argument("--rows", type=int, default=10_000, help="how many texts; default: %(default)s")
    options.add_argument("--journal", default="extraction.db", help="where answers are kept; default: %(default)s")
    given = options.parse_args()
    addresses = given.base_url or os.environ.get("OLLAMA_HOSTS", "http://localhost:11434").split(",")
    hosts = Hosts([Host(address, slots=given.slots) for address in addresses])
    slots = given.slots * len(addresses)
    for address in addresses:
        async with OllamaProvider(given.model, address) as one:  # a model is pulled to one server at a time
            await pull_if_missing(one)
    async with OllamaProvider(given.model, hosts, max_concurrent=slots, temperature=0, max_tokens=100) as provider:
        report = await provider.agenerate_batch(
            texts(given.rows),
            system="Read the customer's review and fill in the fields.",
            format=Review,
            journal=given.journal,
            progress=True,
        )
    show(report)


if __name__ == "__main__":
    try:
        run(main())
    except KeyboardInterrupt:
        sys.exit("\nanswers so far are kept; the same command resumes from there")
