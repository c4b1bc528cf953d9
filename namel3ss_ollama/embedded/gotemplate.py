"""Prompt templates as Ollama's models have them: the part of Go's text/template that they use.

Conditions, loops, `with`, variables, pipelines, parentheses, Go's comparison and logic functions, and Ollama's own
(`json`, `currentDate`). Objects and lists print as JSON, as Ollama's types do. What is not known here is an error,
not left out. The language: https://pkg.go.dev/text/template
"""

from __future__ import annotations

import datetime
import json
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["GoTemplate", "TemplateError"]

_ACTION = re.compile(r"\{\{(-\s)?\s*(/\*.*?\*/|(?:\"(?:\\.|[^\"\\])*\"|`[^`]*`|[^`\"])*?)\s*(\s-)?\}\}", re.DOTALL)
_TOKEN = re.compile(
    r"\s*(?:(?P<text>\"(?:\\.|[^\"\\])*\"|`[^`]*`)|(?P<number>-?\d+(?:\.\d+)?)|(?P<path>\$\w*(?:\.\w+)*|(?:\.\w+)+|\.)"
    r"|(?P<word>\w+)|(?P<sign>:=|[()|=,]))"
)


class TemplateError(ValueError):
    """A template is malformed, or uses what is not known here."""


@dataclass
class _Node:
    """A piece of a template: text, or an action with what it contains."""

    kind: str
    text: str = ""
    expression: list[Any] = field(default_factory=list)
    body: list[_Node] = field(default_factory=list)
    otherwise: list[_Node] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


class GoTemplate:
    """A parsed template.

    Args:
        source: The template's text.

    Raises:
        TemplateError: It is malformed.
    """

    def __init__(self, source: str) -> None:
        self._fields = frozenset(re.findall(r"\.(\w+)", source))
        parser = _Parser(source)
        self._nodes = parser.block(())

    def mentions(self, name: str) -> bool:
        """Whether a field of that name, such as "Messages" or "Tools", occurs in it."""
        return name in self._fields

    def render(self, values: Mapping[str, Any]) -> str:
        """The text for these values.

        Raises:
            TemplateError: A function is unknown, or gets what it cannot work on.
        """
        out: list[str] = []
        try:
            _Run(values, out).block(self._nodes, values)
        except (TypeError, KeyError, IndexError, AttributeError) as error:
            raise TemplateError(f"a prompt template cannot be filled in: {error}") from error
        return "".join(out)


class _Parser:
    def __init__(self, source: str) -> None:
        self._pieces = _pieces(source)

    def block(self, ends: Sequence[str]) -> list[_Node]:
        """Nodes up to one of the words in `ends`, which is left in `self.end`."""
        nodes: list[_Node] = []
        for is_text, piece in self._pieces:
            if is_text:
                nodes.append(_Node("text", piece))
                continue
            word, _, rest = piece.partition(" ")
            if word in ends:
                self.end, self.rest = word, rest.strip()
                return nodes
            if word in ("if", "with", "range"):
                nodes.append(self._compound(word, rest))
            elif word in ("break", "continue"):
                nodes.append(_Node(word))
            elif word in ("define", "template", "block", "end", "else"):
                raise TemplateError(f"a prompt template has {{{{ {piece} }}}} where it is not understood")
            elif piece and not piece.startswith("/*"):
                nodes.append(_simple("print", piece))
        if ends:
            raise TemplateError("a prompt template lacks an {{ end }}")
        return nodes

    def _compound(self, word: str, rest: str) -> _Node:
        node = _simple(word, rest)
        node.body = self.block(("else", "end"))
        if self.end == "else":
            if self.rest:
                inner, _, condition = self.rest.partition(" ")
                node.otherwise = [self._compound(inner, condition)]
            else:
                node.otherwise = self.block(("end",))
        return node


def _pieces(source: str) -> Iterator[tuple[bool, str]]:
    """Texts and actions in turn, white space trimmed where the actions say so."""
    at, trim = 0, False
    for found in _ACTION.finditer(source):
        text = source[at : found.start()]
        text = text.lstrip() if trim else text
        text = text.rstrip() if found[1] else text
        if text:
            yield True, text
        yield False, found[2].strip()
        at, trim = found.end(), bool(found[3])
    text = source[at:].lstrip() if trim else source[at:]
    if "{{" in text:
        raise TemplateError("a prompt template has an action without an end")
    if text:
        yield True, text


def _simple(kind: str, source: str) -> _Node:
    tokens = _tokens(source)
    signs = [i for i, token in enumerate(tokens) if token in ((":=", "sign"), ("=", "sign"))]
    if not signs:
        return _Node(kind, expression=_pipeline(tokens))
    names = [text for text, what in tokens[: signs[0]] if what == "path"]
    kind = {"print": "declare" if tokens[signs[0]][0] == ":=" else "assign"}.get(kind, kind)
    return _Node(kind, expression=_pipeline(tokens[signs[0] + 1 :]), names=names)


def _tokens(source: str) -> list[tuple[str, str]]:
    tokens: list[tuple[str, str]] = []
    at = 0
    source = source.rstrip()
    while at < len(source):
        found = _TOKEN.match(source, at)
        if found is None:
            raise TemplateError(f"a prompt template has {source[at : at + 20]!r}, which is not understood")
        tokens.append((str(found[found.lastgroup or 0]), str(found.lastgroup)))
        at = found.end()
    return tokens


def _pipeline(tokens: list[tuple[str, str]]) -> list[Any]:
    """A list of commands, each a list of operands; an operand in parentheses is a pipeline itself."""
    stack: list[list[Any]] = [[[]]]
    for text, kind in tokens:
        if (text, kind) == ("(", "sign"):
            stack.append([[]])
        elif (text, kind) == (")", "sign"):
            if len(stack) == 1:
                raise TemplateError("a prompt template has a ) too many")
            inner = stack.pop()
            stack[-1][-1].append(("pipeline", inner))
        elif (text, kind) == ("|", "sign"):
            stack[-1].append([])
        else:
            stack[-1][-1].append((kind, text))
    if len(stack) > 1 or not all(stack[0]):
        raise TemplateError("a prompt template has an expression without an end")
    return stack[0]


class _Break(Exception):
    """`{{ break }}`."""


class _Continue(Exception):
    """`{{ continue }}`."""


class _Run:
    """One execution: the variables in sight, and the text so far."""

    def __init__(self, root: Any, out: list[str]) -> None:
        self._scopes: list[dict[str, Any]] = [{"$": root}]
        self._out = out

    def block(self, nodes: list[_Node], dot: Any, **names: Any) -> None:
        self._scopes.append(names)
        try:
            for node in nodes:
                self._node(node, dot)
        finally:
            self._scopes.pop()

    def _node(self, node: _Node, dot: Any) -> None:
        if node.kind == "text":
            self._out.append(node.text)
        elif node.kind == "break":
            raise _Break
        elif node.kind == "continue":
            raise _Continue
        else:
            value = self._value(node.expression, dot)
            if node.kind == "print":
                self._out.append(_printed(value))
            elif node.kind == "declare":
                self._scopes[-1][node.names[0]] = value
            elif node.kind == "assign":
                next(s for s in reversed(self._scopes) if node.names[0] in s)[node.names[0]] = value
            elif node.kind == "range":
                self._range(node, value, dot)
            else:
                inside = value if node.kind == "with" else dot
                names = dict.fromkeys(node.names, value)
                self.block(node.body if value else node.otherwise, inside if value else dot, **names)

    def _range(self, node: _Node, value: Any, dot: Any) -> None:
        items: list[tuple[Any, Any]]
        if isinstance(value, Mapping):
            items = sorted(value.items())
        else:
            items = list(enumerate(range(value) if isinstance(value, int) else value or ()))
        if not items:
            self.block(node.otherwise, dot)
        for key, item in items:
            named = (item,) if len(node.names) == 1 else (key, item)
            try:
                self.block(node.body, item, **dict(zip(node.names, named, strict=False)))
            except _Continue:
                continue
            except _Break:
                break

    def _value(self, pipeline: list[Any], dot: Any) -> Any:
        piped: list[Any] = []
        for command in pipeline:
            (kind, text), *rest = command
            if kind == "word" and text not in _CONSTANTS:
                piped = [self._call(text, rest, piped, dot)]
            elif rest or piped:
                raise TemplateError(f"a prompt template calls {text!r}, which is no function")
            else:
                piped = [self._operand(kind, text, dot)]
        return piped[0]

    def _call(self, name: str, operands: list[Any], piped: list[Any], dot: Any) -> Any:
        if name in ("and", "or"):  # they look at what comes later only when they must
            value: Any = None
            for kind, text in operands:
                value = self._operand(kind, text, dot)
                if bool(value) is (name == "or"):
                    return value
            return piped[0] if piped else value
        if name not in _FUNCTIONS:
            raise TemplateError(f"a prompt template calls {name!r}, which is not known here")
        return _FUNCTIONS[name](*(self._operand(kind, text, dot) for kind, text in operands), *piped)

    def _operand(self, kind: str, text: Any, dot: Any) -> Any:
        if kind == "pipeline":
            return self._value(text, dot)
        if kind == "text":
            return text[1:-1] if text[0] == "`" else json.loads(text)
        if kind == "number":
            return float(text) if "." in text else int(text)
        if kind == "word":
            return self._call(text, [], [], dot) if text in _FUNCTIONS else _CONSTANTS[text]
        base, *fields = text.split(".")
        value = next(s for s in reversed(self._scopes) if base in s)[base] if base else dot
        for name in fields:
            if name:
                value = value.get(name) if isinstance(value, Mapping) else None
        return value


def _printed(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    """As Ollama's types write themselves: compact, and with the names of the API."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _slice(value: Any, *bounds: int) -> Any:
    return value[slice(*bounds) if len(bounds) > 1 else slice(bounds[0], None)]


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        value = value[key]
    return value


def _date(days: int) -> str:
    return (datetime.date.today() + datetime.timedelta(days)).isoformat()


_CONSTANTS = {"true": True, "false": False, "nil": None}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "eq": lambda value, *others: value in others,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "not": operator.not_,
    "len": lambda value: len(value or ()),
    "slice": _slice,
    "index": _index,
    "json": _json,
    "print": lambda *values: "".join(map(_printed, values)),
    "println": lambda *values: " ".join(map(_printed, values)) + "\n",
    "printf": lambda layout, *values: re.sub(r"%[+#]?[vq]", "%s", layout) % tuple(map(_printed, values)),
    "currentDate": lambda: _date(0),
    "yesterdayDate": lambda: _date(-1),
}
