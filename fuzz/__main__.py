"""`make fuzz`: runs each target with atheris for its share of the time.

    python fuzz [SECONDS [TARGET]]

An input that makes a target fail is saved as `crash-...` in the current directory; `python fuzz 0 TARGET FILE` runs it
again.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import atheris
except ImportError:
    sys.exit(
        "make fuzz needs atheris, which has wheels for Python 3.11 to 3.13 on Linux only: "
        "make fuzz PYTHON=3.11 (the tests in tests/fuzz run the same targets with hypothesis, on any Python)"
    )

with atheris.instrument_imports(include=["namel3ss_ollama"]):
    from targets import SEEDS, TARGETS


def fuzz(name: str, seconds: int, *files: str) -> None:
    """Run one target until the time is up; ends the process."""
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(SEEDS[name]):
            (Path(corpus) / str(number)).write_bytes(seed)
        limits = [] if files else [f"-max_total_time={seconds}", "-max_len=4096", "-timeout=10", corpus]
        atheris.Setup([sys.argv[0], "-verbosity=0", "-print_final_stats=1", *limits, *files], TARGETS[name])
        atheris.Fuzz()


def main() -> None:
    """Run each target in a separate process, since atheris ends its process."""
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    if len(sys.argv) > 2:
        fuzz(sys.argv[2], seconds, *sys.argv[3:])
    failed: list[str] = []
    for name in TARGETS:
        print(f"== {name}", flush=True)
        share = str(max(1, seconds // len(TARGETS)))
        done = subprocess.run([sys.executable, __file__, share, name], check=False)
        if done.returncode:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
