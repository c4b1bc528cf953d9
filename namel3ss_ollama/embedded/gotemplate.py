"""Prompt templates of Ollama's models: the part of Go's text/template that they use.

Conditions, loops, `with`, variables, pipelines, parentheses, Go's comparison and logic functions, and Ollama's own
(`json`, `currentDate`). Objects and lists print as JSON, as Ollama's types do. Unsupported syntax is an error and
not ignored. The language: https://pkg.go.dev/text/template
"""

from __future__ import annotations

import datetime
import json
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["GoTemplate", "TemplateError"]

_ACTION = re.compile(r"\{\{(-\s)?\s*(/\*.*?\*/|(?:\"(?:\\.|[^\"\\])*\"|`[^`]*`|[^`\"])*?)\s*(\s-)?\}\}", re.DOTALL)
_TOKEN = re.compile(
    r"\s*(?:(?P<text>\"(?:\\.|[^\"\\])*\"|`[^`]*`)|(?P<number>-?\d+(?:\.\d+)?)|(?P<path>\$\w*(?:\.\w+)*|(?:\.\w+)+|\.)"
    r"|(?P<word>\w+)|(?P<sign>:=|[()|=,]))"
)
_WORD = re.compile(r"[a-z]*")
_VARIABLE = re.compile(r"\$\w+")


class TemplateError(ValueError):
    """A template is malformed, or uses an unsupported feature."""


@dataclass
class _Node:
    """A node of a template: text, or an action with its contents."""

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
        pieces = list(_pieces(source))
        self._fields = {name for is_text, piece in pieces if not is_text for name in re.findall(r"\.(\w+)", piece)}
        try:
            self._nodes = _Parser(pieces).block(())
        except RecursionError as error:
            raise TemplateError("a prompt template is nested too deeply") from error

    def mentions(self, name: str) -> bool:
        """Whether a field of that name, such as "Messages" or "Tools", occurs in it."""
        return name in self._fields

    def render(self, values: Mapping[str, Any]) -> str:
        """Render the template with these values.

        Raises:
            TemplateError: A function is unknown, or gets an unsuitable value.
        """
        out: list[str] = []
        try:
            _Run(values, out).block(self._nodes, values)
        except TemplateError:
            raise
        except (TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
            raise TemplateError(f"a prompt template cannot be rendered: {error}") from error
        return "".join(out)


class _Parser:
    def __init__(self, pieces: Iterable[tuple[bool, str]]) -> None:
        self._pieces = iter(pieces)
        self._loops = 0
        self.end, self.rest = "", ""

    def block(self, ends: Sequence[str]) -> list[_Node]:
        """Nodes up to one of the words in `ends`, which goes to `self.end`, and the text after it to `self.rest`."""
        nodes: list[_Node] = []
        for is_text, piece in self._pieces:
            if is_text:
                nodes.append(_Node("text", piece))
                continue
            word, rest = _split(piece)
            if word in ends:
                self.end, self.rest = word, rest
                return nodes
            if word in ("if", "with", "range"):
                nodes.append(self._compound(word, rest))
            elif word in ("break", "continue") and self._loops:
                nodes.append(_Node(word))
            elif word in ("define", "template", "block", "end", "else", "break", "continue"):
                raise TemplateError(f"a prompt template has {{{{ {piece} }}}} where it is not understood")
            elif piece:
                nodes.append(_simple("print", piece))
        if ends:
            raise TemplateError("a prompt template lacks an {{ end }}")
        return nodes

    def _compound(self, word: str, rest: str) -> _Node:
        node = _simple(word, rest)
        self._loops += word == "range"
        node.body = self.block(("else", "end"))
        self._loops -= word == "range"
        if self.end == "else":
            inner, condition = _split(self.rest)
            if inner in ("if", "with"):
                node.otherwise = [self._compound(inner, condition)]
            elif self.rest:
                raise TemplateError(f"a prompt template has {{{{ else {self.rest} }}}}, which is not understood")
            else:
                node.otherwise = self.block(("end",))
        return node


def _split(piece: str) -> tuple[str, str]:
    """An action's first word, or "", and the rest."""
    word = str(_WORD.match(piece)[0])  # type: ignore[index] # it also matches the empty text
    return word, piece[len(word) :].strip()


def _pieces(source: str) -> Iterator[tuple[bool, str]]:
    """Texts and actions in order, with white space trimmed as the actions specify."""
    at, trim = 0, False
    for found in _ACTION.finditer(source):
        text = source[at : found.start()]
        text = text.lstrip() if trim else text
        text = text.rstrip() if found[1] else text
        if text:
            yield True, text
        if not found[2].startswith("/*"):
            yield False, found[2].strip()
        at, trim = found.end(), bool(found[3])
    text = source[at:].lstrip() if trim else source[at:]
    if "{{" in text:
        raise TemplateError("a prompt template has an action without an end")
    if text:
        yield True, text


def _simple(kind: str, source: str) -> _Node:
    tokens = _tokens(source)
    sign = next((i for i, token in enumerate(tokens) if token in ((":=", "sign"), ("=", "sign"))), None)
    if sign is None:
        return _Node(kind, expression=_pipeline(tokens))
    names = [text for text, _ in tokens[:sign:2]]
    declares = tokens[sign][0] == ":="
    if (
        sign not in (1, 3 if kind == "range" else 1)
        or not all(map(_VARIABLE.fullmatch, names))
        or any(token != (",", "sign") for token in tokens[1:sign:2])
        or not (declares or kind == "print")
    ):
        raise TemplateError(f"a prompt template has {source!r}, which is not understood")
    kind = ("declare" if declares else "assign") if kind == "print" else kind
    return _Node(kind, expression=_pipeline(tokens[sign + 1 :]), names=names)


def _tokens(source: str) -> list[tuple[str, str]]:
    """Tokens and their kinds; a `field` is a path directly after a closing parenthesis."""
    tokens: list[tuple[str, str]] = []
    at = 0
    source = source.rstrip()
    while at < len(source):
        found = _TOKEN.match(source, at)
        if found is None:
            raise TemplateError(f"a prompt template has {source[at : at + 20]!r}, which is not understood")
        kind = str(found.lastgroup)
        text = str(found[kind])
        if kind == "path" and found.start(kind) == at and tokens and tokens[-1] == (")", "sign"):
            kind = "field"
        tokens.append((_unquoted(text) if kind == "text" else text, kind))
        at = found.end()
    return tokens


def _unquoted(text: str) -> str:
    if text[0] == "`":
        return text[1:-1]
    try:
        value = str(json.loads(text, strict=False))
        value.encode()
    except ValueError as error:
        raise TemplateError(f"a prompt template has {text}, which is not understood") from error
    return value


def _pipeline(tokens: list[tuple[str, str]]) -> list[Any]:
    """A list of commands, each a list of operands; an operand in parentheses is a pipeline itself."""
    stack: list[list[Any]] = [[[]]]
    for text, kind in tokens:
        if (text, kind) == ("(", "sign"):
            stack.append([[]])
        elif (text, kind) == (")", "sign"):
            if len(stack) == 1:
                raise TemplateError("a prompt template has an unmatched )")
            inner = stack.pop()
            if not all(inner):
                raise TemplateError("a prompt template has an expression without an end")
            stack[-1][-1].append(("pipeline", inner))
        elif (text, kind) == ("|", "sign"):
            stack[-1].append([])
        elif kind == "sign":
            raise TemplateError(f"a prompt template has {text!r} where it is not understood")
        elif kind == "field":
            stack[-1][-1].append(("fields", (stack[-1][-1].pop(), text)))
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
    """One execution: the variables in scope, and the output so far."""

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
                self._scope(node.names[0])[node.names[0]] = value
            elif node.kind == "range":
                self._range(node, value, dot)
            else:
                inside = value if node.kind == "with" else dot
                names = dict.fromkeys(node.names, value)
                self.block(node.body if value else node.otherwise, inside if value else dot, **names)

    def _scope(self, name: str) -> dict[str, Any]:
        scope: dict[str, Any] | None = next((one for one in reversed(self._scopes) if name in one), None)
        if scope is None:
            raise TemplateError(f"a prompt template uses {name}, which it has not declared")
        return scope

    def _range(self, node: _Node, value: Any, dot: Any) -> None:
        if isinstance(value, Mapping):
            items: Iterable[tuple[Any, Any]] = sorted(value.items())
        elif isinstance(value, list):
            items = enumerate(value)
        elif value is None or type(value) is int:
            items = enumerate(range(value or 0))
        else:
            raise TemplateError(f"a prompt template ranges over {type(value).__name__}")
        empty = True
        for key, item in items:
            empty = False
            named = (item,) if len(node.names) == 1 else (key, item)
            try:
                self.block(node.body, item, **dict(zip(node.names, named, strict=False)))
            except _Continue:
                continue
            except _Break:
                break
        if empty:
            self.block(node.otherwise, dot)

    def _value(self, pipeline: list[Any], dot: Any) -> Any:
        piped: list[Any] = []
        for command in pipeline:
            (kind, text), *rest = command
            if kind == "word" and text not in _CONSTANTS:
                piped = [self._call(text, rest, piped, dot)]
            elif rest or piped:
                raise TemplateError(f"a prompt template calls {text!r}, which is not a function")
            else:
                piped = [self._operand(kind, text, dot)]
        return piped[0]

    def _call(self, name: str, operands: list[Any], piped: list[Any], dot: Any) -> Any:
        if name in ("and", "or"):  # they evaluate later operands only if needed
            value: Any = None
            for kind, text in operands:
                value = self._operand(kind, text, dot)
                if bool(value) is (name == "or"):
                    return value
            return piped[0] if piped else value
        if name not in _FUNCTIONS:
            raise TemplateError(f"a prompt template calls {name!r}, which is not supported")
        return _FUNCTIONS[name](*(self._operand(kind, text, dot) for kind, text in operands), *piped)

    def _operand(self, kind: str, text: Any, dot: Any) -> Any:
        if kind == "pipeline":
            return self._value(text, dot)
        if kind == "text":
            return text
        if kind == "number":
            return float(text) if "." in text else int(text)
        if kind == "word":
            return self._call(text, [], [], dot) if text in _FUNCTIONS else _CONSTANTS[text]
        if kind == "fields":
            inner, path = text
            return _field(self._operand(inner[0], inner[1], dot), path)
        base, _, path = text.partition(".")
        return _field(self._scope(base)[base] if base else dot, path)


def _field(value: Any, path: str) -> Any:
    for name in filter(None, path.split(".")):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _printed(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    """JSON as Ollama's types write it: compact, and with the names of the API."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _slice(value: Any, *bounds: int) -> Any:
    low, high = (*bounds, *(0, len(value))[len(bounds) :])
    if not 0 <= low <= high <= len(value):
        raise IndexError(f"slice {low} {high}")
    return value[low:high]


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        value = value[key]
    return value


def _printf(layout: str, *values: Any) -> str:
    """Format texts: `%s`, `%v` and `%d` as printed, `%q` in quotes."""
    left = list(values)

    def verb(found: re.Match[str]) -> str:
        if found[0] == "%%":
            return "%"
        value = left.pop(0)
        return _json(str(value)) if found[0] == "%q" else _printed(value)

    text = re.sub(r"%(?:[svdq%]|[+#]v)", verb, layout)
    if left or re.search(r"%(?![svdq%]|[+#]v)", layout.replace("%%", "")):
        raise ValueError(f"printf {layout!r}")
    return text


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
    "printf": _printf,
    "currentDate": lambda: _date(0),
    "yesterdayDate": lambda: _date(-1),
}
