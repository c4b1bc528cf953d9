"""A table of texts, tagged on Dask. After a kill, the same command goes on.

python examples/dask_batch.py --base-url http://gpu1:11434 --base-url http://gpu2:11434

It needs Dask: pip install "dask[bag]"

Each partition has a journal of its own, named after its first row. What a killed run had answered is found again as
long as the table and the number of partitions stay the same; a row that moves to another partition is asked again.

Each process has one provider, whose slots its partitions share. By default there is one process: a thread that waits
for a model needs no CPU. Processes (--scheduler processes, or the workers of a cluster) don't know of each other, so
divide the hosts' slots by their number, and end all of them before you go on: a journal that is in use is an error. On
a cluster, put `tagged` and `provider_of` into a module that the workers can import.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from pathlib import Path
from typing import Any

from _common import parser

from namel3ss_ollama import Host, Hosts, LLMError, OllamaProvider

QUESTION = "Is this a complaint, praise or a question? Answer with that word alone."
TEXTS = ["The parcel never came.", "Great service, thank you!", "Where is my invoice?"]
Row = dict[str, Any]


@functools.cache
def provider_of(model: str, addresses: tuple[str, ...], slots: int) -> OllamaProvider:
    """The provider of this process. A copy for each partition, pickled by Dask, would have slots of its own."""
    hosts = Hosts([Host(address, slots=slots) for address in addresses])
    return OllamaProvider(model, hosts, max_concurrent=slots * len(addresses), temperature=0, max_tokens=5)


def tagged(rows: list[Row], settings: tuple[str, tuple[str, ...], int], folder: Path) -> list[Row]:
    """The rows of a partition with their tags; what the partition's journal has is not asked."""
    if not rows:
        return []
    texts, ids = [row["text"] for row in rows], [row["id"] for row in rows]
    report = provider_of(*settings).batch(texts, ids=ids, journal=folder / f"{ids[0]}.db", system=QUESTION)
    return [
        {
            **row,
            "tag": done.answer and done.answer.content,
            "error": done.failure and f"{done.failure.type}: {done.failure.message}",
            "tokens": done.tokens,
        }
        for row, done in zip(rows, report.rows(), strict=True)
    ]


def main() -> None:
    options = parser(__doc__, several=True)
    options.add_argument("--slots", type=int, default=1, help="requests at once for each, as OLLAMA_NUM_PARALLEL says")
    options.add_argument("--rows", type=int, default=60, help="how many rows the table has; default: %(default)s")
    options.add_argument("--partitions", type=int, default=4, help="how many parts it has; default: %(default)s")
    options.add_argument("--scheduler", choices=["threads", "processes"], default="threads", help="where Dask works")
    options.add_argument(
        "--folder", default="dask_batch", help="where the journals and the table go; default: %(default)s"
    )
    given = options.parse_args()
    try:
        import dask.bag
    except ModuleNotFoundError as error:
        sys.exit(f'{error}: pip install "dask[bag]"')

    addresses = given.base_url or os.environ.get("OLLAMA_HOSTS", "http://localhost:11434").split(",")
    settings = (given.model, tuple(addresses), given.slots)
    provider_of(*settings)  # now: threads that begin together would each make one
    work = Path(given.folder).absolute()
    (work / "journals").mkdir(parents=True, exist_ok=True)
    for old in work.glob("tagged-*.jsonl"):
        old.unlink()
    table = dask.bag.from_sequence(
        [{"id": row, "text": f"Order {row}: {TEXTS[row % len(TEXTS)]}"} for row in range(given.rows)],
        npartitions=given.partitions,
    )
    table = table.map_partitions(tagged, settings, work / "journals")
    files = table.map(json.dumps).to_textfiles(str(work / "tagged-*.jsonl"), compute=False)
    dask.compute(*files, scheduler=given.scheduler)
    rows = dask.bag.read_text(str(work / "tagged-*.jsonl")).map(json.loads).compute(scheduler="sync")
    print(f"{len(rows)} rows, {sum(row['error'] is not None for row in rows)} failed")
    for row in rows[: len(TEXTS)]:
        print(f"{row['text']} {row['tag']}")


if __name__ == "__main__":
    try:
        main()
    except (LLMError, ValueError) as error:  # no such model, no server that answers, an address that is none
        sys.exit(f"{type(error).__name__}: {error}")
