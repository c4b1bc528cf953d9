"""`make soak`: the large runs, over both transports, and their figures.

Ends with a code other than 0 where something was lost, hung or left behind.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from soak import kill_under_load, soak

STEEPEST = 200.0
"""Bytes a request that memory may grow by; an object that stayed behind with each would be more."""
NOISE = 2 * 2**20
"""Bytes of growth over the half that is measured which say nothing yet: memory comes in arenas."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("requests", type=int, nargs="?", default=30_000, help="over each transport; %(default)s")
    parser.add_argument("workers", type=int, nargs="?", default=200, help="at once; %(default)s")
    given = parser.parse_args()
    requests, workers = given.requests, given.workers
    steep: list[str] = []
    for transport in ("aiohttp", "httpx"):
        print(f"== {transport}: {workers} workers")
        figures = asyncio.run(soak(requests, workers, transport))
        print(figures, flush=True)
        if figures.slope > STEEPEST and figures.slope * figures.requests / 2 > NOISE:
            steep.append(transport)
        print(asyncio.run(kill_under_load(workers, transport, 2.0)), flush=True)
    if steep:
        sys.exit(f"memory grows by more than {STEEPEST:g} bytes a request over {' and '.join(steep)}")


if __name__ == "__main__":
    main()
