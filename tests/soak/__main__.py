"""`make soak`: the large runs over both transports, with their figures.

Exits with a non-zero status if a request was lost or hung, or if memory or connections leak.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from soak import kill_under_load, soak

STEEPEST = 200.0
"""Permitted memory growth in bytes per request; a leak of one object per request exceeds it."""
NOISE = 2 * 2**20
"""Growth in bytes over the measured half that counts as noise, since memory is allocated in arenas."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("requests", type=int, nargs="?", default=30_000, help="over each transport; %(default)s")
    parser.add_argument("workers", type=int, nargs="?", default=200, help="concurrent; %(default)s")
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
        sys.exit(f"memory grows by more than {STEEPEST:g} bytes per request over {' and '.join(steep)}")


if __name__ == "__main__":
    main()
