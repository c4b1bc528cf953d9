"""The contents of the pages in docs/coming-from/: pairs of code blocks, and tables of parameters."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from namel3ss_ollama.testing import Model, OllamaServer, Record, Reply, ToolCall

PAGES = Path(__file__).parents[2] / "docs" / "coming-from"
MODELS = (
    Model("llama3.2"),
    Model("qwen3", ("completion", "tools", "thinking"), think_values=(True, False, "high")),
    Model("gemma3", ("completion", "vision")),
    Model("all-minilm", ("embedding",)),
)


class Pair(NamedTuple):
    """The code of a section: a peer's, and the equivalent with this project's packages."""

    page: str
    title: str
    theirs: str
    ours: str
    text: str
    """The section's prose and code."""


class Row(NamedTuple):
    """A row of a table of parameters."""

    theirs: list[str]
    ours: str
    changes: str


class Table(NamedTuple):
    """A table of parameters, and those of ours without a counterpart, from the line after it."""

    rows: list[Row]
    only_here: list[str]


def read(page: str) -> str:
    """The text of a page."""
    return (PAGES / f"{page}.md").read_text("utf-8")


def sections(text: str, level: str) -> dict[str, str]:
    """The parts of a page by their headings of one level."""
    parts = re.split(rf"^{level} (.+)\n", re.sub(r"^```.*?^```", _masked, text, flags=re.M | re.S), flags=re.M)
    return {title: part.replace("\0", "#") for title, part in zip(parts[1::2], parts[2::2], strict=True)}


def _masked(block: re.Match[str]) -> str:
    return block[0].replace("#", "\0")  # a comment in code is not a heading


def pairs(page: str) -> list[Pair]:
    """The pairs of a page, one per section."""
    found: list[Pair] = []
    for title, part in sections(read(page), "##").items():
        blocks = re.findall(r"^```python\n(.*?)^```", part, re.M | re.S)
        if blocks:
            theirs, ours = blocks
            found.append(Pair(page, title, theirs, ours, part))
    return found


def tables(page: str) -> dict[str, Table]:
    """The tables of a page by their heading."""
    found: dict[str, Table] = {}
    for title, part in sections(read(page), "###").items():
        rows = [
            Row(names(theirs), ours.strip(), changes.strip())
            for theirs, ours, changes in re.findall(r"^\| (`.*?) \| (.*?) \| (.*?) ?\|$", part, re.M)
        ]
        only = re.search(r"^Only here: (.*?)\n(?:\n|\Z)", part, re.M | re.S)
        if rows:
            found[title] = Table(rows, names(only[1]) if only else [])
    return found


def names(cell: str) -> list[str]:
    """The names in backticks, without what follows them: `options={...}` is options."""
    return re.findall(r"`\*{0,2}([A-Za-z_]\w*)[^`]*`", cell)


def parameters(*functions: Callable[..., Any]) -> list[str]:
    """The names of the parameters of functions, without `self`, `*args` and `**kwargs`."""
    found = [parameter for function in functions for parameter in inspect.signature(function).parameters.values()]
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return list(dict.fromkeys(one.name for one in found if one.kind not in kinds and one.name != "self"))


def problems(table: Table, theirs: Iterable[str], ours: Iterable[str], *, only_here: bool = True) -> list[str]:
    """The errors in a table: parameters without a row, rows without a parameter, unknown names.

    Args:
        table: The table.
        theirs: The peer's parameters.
        ours: Our parameters, to be named in the second column or after "Only here".
        only_here: Whether our parameters without a row must be listed after the table.
    """
    covered = [name for row in table.rows for name in row.theirs]
    known, expected = set(ours), set(theirs)
    found = [f"{name}: has no row" for name in theirs if name not in covered]
    found += [f"{name}: is no parameter of theirs" for name in covered if name not in expected]
    found += [f"{name}: has two rows" for name in set(covered) if covered.count(name) > 1]
    named: set[str] = set()
    for row in table.rows:
        mentioned = row.theirs if row.ours == "the same" else names(row.ours)
        found += [f"{name}: is no parameter of ours" for name in mentioned if name not in known]
        named.update(mentioned)
        if row.ours != "the same" and not row.changes:
            found.append(f"{row.theirs}: nothing is said of the change")
    if only_here:
        found += [f"{name}: is ours alone, and not listed" for name in known - named - set(table.only_here)]
        found += [f"{name}: is listed as ours alone" for name in table.only_here if name in named or name not in known]
    return sorted(found)


def _turns(record: Record) -> list[dict[str, Any]]:
    turns: Any = record.payload.get("messages") or []
    return list(turns)


def _chat(record: Record) -> Reply:
    return Reply("Your name is Ada." if len(_turns(record)) > 1 else "Hello, Ada.")


def _tools(record: Record) -> Reply:
    if _turns(record)[-1]["role"] == "tool":
        return Reply(f"The tool said: {_turns(record)[-1]['content']}")
    return Reply(tool_calls=[ToolCall("get_weather", {"city": "Rome"}, id="call_1")])


def _asks(record: Record) -> bool:
    return bool(record.payload.get("messages") or record.payload.get("prompt"))


def _pulling(server: OllamaServer) -> None:
    progress = [{"status": "pulling manifest"}, {"status": "success"}]
    server.reply(path="/api/pull", lines=progress)


SCRIPTS: dict[str, Callable[[OllamaServer], object]] = {
    "One answer": lambda server: server.reply("Air scatters blue light the most."),
    "A text model": lambda server: server.reply(" blue."),
    "Streaming": lambda server: server.reply(["One", ", two", ", three."]),
    "A chat with its history": lambda server: server.on(predicate=lambda one: bool(_turns(one))).reply(_chat),
    "Tools": lambda server: server.on(predicate=lambda one: bool(_turns(one))).reply(_tools),
    "Structured output": lambda server: server.reply('{"name": "Paris", "population": 2103778}'),
    "Thinking": lambda server: server.reply("Yes.", thinking="7 x 13 is 91."),
    "Embeddings": lambda server: None,
    "Async": lambda server: None,
    "Images": lambda server: server.reply("A red square."),
    "Errors": lambda server: None,
    "Timeouts": lambda server: server.fault("stall_before_headers"),
    "A stream that breaks off": lambda server: (
        server.on(predicate=_asks).fault("truncated", at_token=2).reply(["One", ", two", "."])
    ),
    "A busy server": lambda server: server.fault("status", status=503, times=1),
    "Models": _pulling,
}
"""The server's replies for a section, by its title: the same for both, whatever was requested before."""
