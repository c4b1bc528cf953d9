"""MkDocs hooks: pages from outside docs/, links as they work in the repository, and no remote files in a page."""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUTSIDE = {
    "index.md": "README.md",
    "how-to/langchain.md": "integrations/langchain/README.md",
    "how-to/llama-index.md": "integrations/llama-index/README.md",
    "how-to/ray.md": "integrations/ray/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "changelog.md": "CHANGELOG.md",
    # Pages link to the examples, which are shown as they are.
    **{(path := f"examples/{each.name}"): path for each in sorted((ROOT / "examples").glob("*.py"))},
}
_PAGE_OF = {source: uri for uri, source in OUTSIDE.items()}
_LINK = re.compile(r"(?<=\]\()([^)#\s:]+)(?=[)#])")
_REMOTE = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^>]*>""")


def on_config(config: MkDocsConfig) -> None:
    """Replace `folder/*` in the navigation by the pages of that folder; leave it out while there are none."""
    config.nav = _expanded(config.nav, Path(config.docs_dir))


def _expanded(entries: list[Any], docs: Path) -> list[Any]:
    found: list[Any] = []
    for entry in entries:
        if isinstance(entry, dict):
            ((title, value),) = entry.items()
            if isinstance(value, str) and value.endswith("/*"):
                pages = sorted(path.relative_to(docs).as_posix() for path in docs.glob(f"{value}.md"))
                pages.sort(key=lambda page: not page.endswith("/index.md"))
                if pages:
                    found.append({title: pages})
                continue
            if isinstance(value, list):
                entry = {title: _expanded(value, docs)}  # noqa: PLW2901 # the same entry with its folders expanded
        found.append(entry)
    return found


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages from outside docs/."""
    for uri, source in OUTSIDE.items():
        files.append(File.generated(config, uri, abs_src_path=os.fspath(ROOT / source)))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make links between files of the repository links between pages; what is no page stays, and fails the build."""
    here = page.file.src_uri
    folder = posixpath.dirname(OUTSIDE.get(here, f"docs/{here}"))

    def moved(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match.group()))
        uri = _PAGE_OF.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else None)
        return match.group() if uri is None else posixpath.relpath(uri, posixpath.dirname(here) or ".")

    return _LINK.sub(moved, markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuse scripts, styles, fonts and images of other sites.

    Raises:
        PluginError: The page would load one.
    """
    if remote := _REMOTE.search(output):
        raise PluginError(f"{page.file.src_uri} loads a file of another site: {remote.group()}")
    return output
