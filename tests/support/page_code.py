"""The Python blocks of a page, and the page's comments on how the tests run them.

A block is a separate program. A comment directly before it changes how it is run:

    <!-- run with: hosts -->     what the block needs besides a test server, by its name in `test_site_code.py`
    <!-- not run: reason -->     it is only compiled
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_BLOCK = re.compile(
    r"^(?:<!-- (?P<how>run with|not run): (?P<what>.+?) -->\n)?(?P<indent> *)```python\n(?P<code>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_FENCED = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One block: `setup` names what it needs, `not_run` says why it is not run."""

    page: str
    heading: str
    code: str
    setup: str
    not_run: str

    def __str__(self) -> str:
        return f"{self.page}: {self.heading}"

    def run(self, replaced: Mapping[str, str] = {}) -> None:  # never written to
        """Run it as a program, with some of its texts replaced; a block that is not run is only compiled."""
        code = self.code
        for old, new in replaced.items():
            code = code.replace(old, new)
        # Frameworks read the annotations of tools, so a block must not inherit the future imports of this module.
        program = compile(code, str(self), "exec", dont_inherit=True)
        if not self.not_run:
            exec(program, {"__name__": "__main__"})


def blocks_of(path: Path) -> Iterator[Block]:
    """The blocks of a page, in their order."""
    text = path.read_text("utf-8")
    fenced = [match.span() for match in _FENCED.finditer(text)]
    headings = [
        match for match in _HEADING.finditer(text) if not any(start < match.start() < end for start, end in fenced)
    ]
    for match in _BLOCK.finditer(text):
        assert not match["indent"], f"{path.name}: a block of Python is indented, so it is not run"
        heading = [each[1] for each in headings if each.start() < match.start()][-1]
        how, what = match["how"], match["what"]
        yield Block(
            path.relative_to(ROOT).as_posix(),
            heading,
            match["code"],
            what if how == "run with" else "",
            what if how == "not run" else "",
        )
