"""What the examples share: where to ask, and which model."""

from __future__ import annotations

import argparse
import os

from namel3ss_ollama import OllamaProvider


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every example takes."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--base-url", help="where the server is, or embedded:// for a model in this process")
    made.add_argument("--model", default=os.environ.get("OLLAMA_MODEL", "smollm2:135m"), help="default: %(default)s")
    return made


async def pull_if_missing(provider: OllamaProvider) -> None:
    """Download the provider's model, unless it is there."""
    ready = await provider.preflight()
    if not ready:
        print(ready)
        async for progress in provider.pull_model():
            print(f"\r{progress.get('status')} {progress.get('completed', '')}", end="", flush=True)
        print()
