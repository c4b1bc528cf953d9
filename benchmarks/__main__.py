"""Measure, and write the results: `python -m benchmarks [--quick] [--only NAME ...]`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from benchmarks import measures, plots, report
from benchmarks.processes import Workers, replay_server

ROOT = Path(__file__).parents[1]


def main() -> None:
    names = [measure.__name__ for measure in measures.ALL]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter measurements, written to .benchmarks/")
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"print only: {', '.join(names)}")
    arguments = parser.parse_args()
    size = measures.QUICK if arguments.quick else measures.FULL
    chosen = [m for m in measures.ALL if not arguments.only or m.__name__ in arguments.only]

    results: dict[str, object] = {"machine": report.machine()}
    began = time.monotonic()
    with replay_server() as url, Workers(url) as workers:
        for measure in chosen:
            print(f"{time.monotonic() - began:5.0f} s  {measure.__name__}", file=sys.stderr, flush=True)
            results[measure.__name__] = measure(workers, size)
    print(f"{time.monotonic() - began:5.0f} s", file=sys.stderr)
    if arguments.only:
        print(json.dumps(results, indent=1))
        return

    folder = ROOT / (".benchmarks" if arguments.quick else "docs")
    folder.mkdir(exist_ok=True)
    (folder / "performance.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    report.write(folder / "performance.md", results, plots.draw(folder, results))
    print("\n".join(report.target_table(results)))
    print(f"\nwritten: {(folder / 'performance.md').relative_to(ROOT)}")


if __name__ == "__main__":
    main()
