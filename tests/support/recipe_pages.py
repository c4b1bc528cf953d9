"""The programs on the pages of docs/recipes, which the tests run."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

__all__ = ["PAGES", "blocks", "load", "write"]

PAGES = Path(__file__).parents[2] / "docs" / "recipes"
_BLOCK = re.compile(r'^```(\w+) title="([^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def blocks(page: str) -> Mapping[str, str]:
    """The blocks of a page that have a title, by title and in their order."""
    return {title: code for _, title, code in _BLOCK.findall((PAGES / page).read_text("utf-8"))}


def write(page: str, folder: Path) -> None:
    """Save each block of a page as the file that its title names."""
    for title, code in blocks(page).items():
        Path(folder, title).write_text(code, "utf-8")


def load(page: str, title: str = "app.py", name: str = "recipe") -> ModuleType:
    """Run a block as an imported module, or as a program if `name` is "__main__".

    Code that looks up modules by name (pydantic, for annotations) finds this one, until the next is loaded.
    """
    module = ModuleType(name)
    if name != "__main__":
        sys.modules[name] = module
    exec(compile(blocks(page)[title], f"{page}: {title}", "exec"), module.__dict__)
    return module
