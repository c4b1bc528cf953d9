"""A table of texts, tagged by several hosts on Ray Data. After a kill, the same command goes on.

python examples/ray_batch.py --base-url http://gpu1:11434 --base-url http://gpu2:11434

It needs the package for Ray: pip install ./integrations/ray
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from _common import parser

from namel3ss_ollama import Host

QUESTION = "Is this a complaint, praise or a question? Answer with that word alone."
TEXTS = ["The parcel never came.", "Great service, thank you!", "Where is my invoice?"]


def main() -> None:
    options = parser(__doc__, several=True)
    options.add_argument("--slots", type=int, default=1, help="requests at once for each, as OLLAMA_NUM_PARALLEL says")
    options.add_argument("--rows", type=int, default=60, help="how many rows the table has; default: %(default)s")
    options.add_argument(
        "--folder", default="ray_batch", help="where the journal and the table go; default: %(default)s"
    )
    given = options.parse_args()
    try:
        import ray.data

        from ray_namel3ss_ollama import ask
    except ModuleNotFoundError as error:
        sys.exit(f"{error}: pip install ./integrations/ray")

    addresses = given.base_url or os.environ.get("OLLAMA_HOSTS", "http://localhost:11434").split(",")
    work = Path(given.folder).absolute()
    table = ray.data.from_items([{"id": row, "text": TEXTS[row % len(TEXTS)]} for row in range(given.rows)])
    table = ask(
        table,
        given.model,
        hosts=[Host(address, slots=given.slots) for address in addresses],
        prompt="text",
        system=QUESTION,
        id="id",
        into="tag",
        journal=work / "journal",
        temperature=0,
        max_tokens=5,
    )
    table.write_parquet(str(work / "tagged"), mode="overwrite")
    rows = ray.data.read_parquet(str(work / "tagged")).take_all()
    print(f"{len(rows)} rows, {sum(row['error'] is not None for row in rows)} failed")
    for row in rows[: len(TEXTS)]:
        print(f"{row['text']} {row['tag']}")


if __name__ == "__main__":
    main()
