"""A table of texts, tagged on Daft. After a kill, the same command goes on.

python examples/daft_batch.py --base-url http://gpu1:11434 --base-url http://gpu2:11434

It needs Daft: pip install "daft>=0.7"

Daft hands batches of rows to an async function, several at once. Each batch has a journal of its own, named after its
first row. What a killed run had answered is found again as long as the table and BATCH_SIZE stay the same; a row that
moves to another batch is asked again.
"""

from __future__ import annotations

import asyncio
import functools
import os
import sys
from pathlib import Path
from typing import Any

from _common import parser

from namel3ss_ollama import Host, Hosts, LLMError, OllamaProvider

QUESTION = "Is this a complaint, praise or a question? Answer with that word alone."
TEXTS = ["The parcel never came.", "Great service, thank you!", "Where is my invoice?"]
BATCH_SIZE = 20
BATCHES_AT_ONCE = 4


@functools.cache
def provider_of(model: str, addresses: tuple[str, ...], slots: int) -> OllamaProvider:
    """One provider for each process, so that its slots bound all batches of the process together."""
    hosts = Hosts([Host(address, slots=slots) for address in addresses])
    return OllamaProvider(model, hosts, max_concurrent=slots * len(addresses), temperature=0, max_tokens=5)


def main() -> None:
    options = parser(__doc__, several=True)
    options.add_argument("--slots", type=int, default=1, help="requests at once for each, as OLLAMA_NUM_PARALLEL says")
    options.add_argument("--rows", type=int, default=60, help="how many rows the table has; default: %(default)s")
    options.add_argument(
        "--folder", default="daft_batch", help="where the journals and the table go; default: %(default)s"
    )
    given = options.parse_args()
    try:
        import daft
        from daft import DataType, Series, col
    except ModuleNotFoundError as error:
        sys.exit(f'{error}: pip install "daft>=0.7"')

    addresses = given.base_url or os.environ.get("OLLAMA_HOSTS", "http://localhost:11434").split(",")
    settings = (given.model, tuple(addresses), given.slots)
    provider_of(*settings)  # now, so that an address that is none is noticed before Daft starts
    work = Path(given.folder).absolute()
    (work / "journals").mkdir(parents=True, exist_ok=True)
    row = DataType.struct({"tag": DataType.string(), "error": DataType.string(), "tokens": DataType.int64()})

    @daft.func.batch(return_dtype=row, unnest=True, batch_size=BATCH_SIZE, max_concurrency=BATCHES_AT_ONCE)
    async def tagged(ids: Series, texts: Series) -> list[dict[str, Any]]:
        keys = ids.to_pylist()
        journal = work / "journals" / f"{keys[0]}.db"
        batch = functools.partial(
            provider_of(*settings).batch, texts.to_pylist(), ids=keys, journal=journal, system=QUESTION
        )
        report = await asyncio.to_thread(batch)  # not on Daft's event loop: nothing closes connections there
        return [
            {
                "tag": row.answer and row.answer.content,
                "error": row.failure and f"{row.failure.type}: {row.failure.message}",
                "tokens": row.tokens,
            }
            for row in report.rows()
        ]

    texts = [f"Order {row}: {TEXTS[row % len(TEXTS)]}" for row in range(given.rows)]
    table = daft.from_pydict({"id": list(range(given.rows)), "text": texts})
    table = table.select(col("id"), col("text"), tagged(col("id"), col("text")))
    table.write_parquet(str(work / "tagged"), write_mode="overwrite")
    rows = daft.read_parquet(str(work / "tagged")).sort("id").to_pylist()
    print(f"{len(rows)} rows, {sum(row['error'] is not None for row in rows)} failed")
    for row in rows[: len(TEXTS)]:
        print(f"{row['text']} {row['tag']}")


if __name__ == "__main__":
    try:
        main()
    except (LLMError, ValueError) as error:  # no such model, no server that answers, an address that is none
        sys.exit(f"{type(error).__name__}: {error}")
