"""A table of texts, tagged by several hosts on Ray Data; run it again after a kill, and it goes on.

    pip install ray-namel3ss-ollama
    python examples/ray_batch.py [ADDRESS ...]

Without an address it asks a test server.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path

import ray.data
from namel3ss_ollama import Host
from namel3ss_ollama.testing import OllamaServer
from ray_namel3ss_ollama import ask


def main(addresses: list[str]) -> None:
    with contextlib.ExitStack() as stack:
        if not addresses:
            addresses = [stack.enter_context(OllamaServer()).url for _ in range(2)]
        work = Path(tempfile.gettempdir()) / "ray_batch"
        texts = ["The parcel never came.", "Great service, thank you!", "Where is my invoice?"] * 100
        table = ray.data.from_items([{"id": number, "text": text} for number, text in enumerate(texts)])
        answers = ask(
            table,
            "llama3.2",
            hosts=[Host(address, slots=4) for address in addresses],
            prompt="text",
            system="One word: is this a complaint, praise or a question?",
            id="id",
            into="tag",
            journal=work / "journal",
            temperature=0,
        )
        answers.write_parquet(str(work / "out"))
        done = ray.data.read_parquet(str(work / "out"))
        print(done.take(3))
        print(f"{done.count()} rows, {done.filter(lambda row: row['error'] is not None).count()} failed")


if __name__ == "__main__":
    main(sys.argv[1:])
