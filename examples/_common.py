"""What the examples share: the options for server and model."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Coroutine
from typing import Any

from namel3ss_ollama import LLMError, ModelNotFoundError, OllamaProvider


def parser(description: str | None, *, several: bool = False) -> argparse.ArgumentParser:
    """The options that every example takes.

    Args:
        description: What the example does.
        several: Whether --base-url may be repeated; its value is then a list.
    """
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = "the server's address, or embedded:// for a model in this process"
    if several:
        made.add_argument("--base-url", action="append", help=f"{where}; repeat it for several servers")
    else:
        made.add_argument("--base-url", help=where)
    made.add_argument("--model", default=os.environ.get("OLLAMA_MODEL", "smollm2:135m"), help="default: %(default)s")
    return made


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run an example; errors of the model, the server or the arguments are printed as one line."""
    try:
        asyncio.run(main)
    except (LLMError, ValueError, ModuleNotFoundError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


async def pull_if_missing(provider: OllamaProvider, model: str | None = None) -> None:
    """Download a model, the provider's by default, unless the server has it."""
    try:
        await provider.show_model(model)
    except ModelNotFoundError:
        async for progress in provider.pull_model(model):
            print(f"\r{progress.get('status')} {progress.get('completed', '')}", end="", flush=True)
        print()
