r"""Regular expressions of a JSON schema's `pattern`, in the plain form that a server's grammar compiler accepts.

The compiler (seen on 0.9.3) accepts an anchored pattern of characters, classes, groups, alternatives and repetitions.
It refuses `\d` and its like and most escapes, crashes at `(?`, never returns at a `]` on its own, and lets `.` match
the quote that ends the string. So a pattern is parsed here, token by token, and rewritten with constructs that are
known to work; a pattern with other constructs has no such form. A rewritten pattern may accept less than the original
(`\d` is a digit of ASCII, and nothing matches a character that JSON escapes), never more.
"""

from __future__ import annotations

import re

__all__ = ["portable_pattern"]

_CLASSES = {"d": "0-9", "w": "A-Za-z0-9_", "s": " "}
_NOT_PLAIN = r'"\\\x7F\x00-\x1F'
"""Characters that a JSON string contains only in escaped form, as members of a class."""
_ESCAPED = frozenset(".()[]{}*+?|^$")
"""Characters that the compiler accepts after a backslash, as literals."""
_PLAIN = re.compile(r"[^\W]|[ ,:;=@#%&~'!<>/-]")
_REPETITION = re.compile(r"\{(\d{1,6})(,?)(\d{0,6})\}")
_CHARACTER_CLASS = re.compile(r"\[(\^?)((?:[^\]\\]|\\.)+)\]", re.DOTALL)
_MEMBER = re.compile(r"\\(?P<set>[dws])|(?P<first>\\?[^\\])(?:-(?P<last>\\?[^\\\]]))?", re.DOTALL)
_MOST_REPETITIONS = 2000


def portable_pattern(pattern: object) -> str | None:
    r"""The pattern in a form that a server's grammar compiler accepts; None if there is none.

    >>> portable_pattern(r"^\d{4}-\d{2}$")
    '^[0-9]{4}-[0-9]{2}$'
    >>> portable_pattern(r"^(?!x)") is None
    True
    """
    if not isinstance(pattern, str) or not pattern.startswith("^") or not pattern.endswith("$"):
        return None
    try:
        body = _rewritten(pattern[1:-1])
    except (_Unknown, IndexError):
        return None
    return f"^{body}$"


class _Unknown(Exception):
    """The pattern contains a construct that is not known to work."""


def _rewritten(text: str) -> str:
    written: list[str] = []
    depth, at, repetitions = 0, 0, 1
    repeatable = False  # whether a repetition may follow
    while at < len(text):
        char = text[at]
        if char == "\\":
            written.append(_escape(text[at + 1]))
            at += 2
        elif char == "[":
            found = _CHARACTER_CLASS.match(text, at)
            if found is None:
                raise _Unknown
            written.append(_character_class(bool(found[1]), found[2]))
            at = found.end()
        elif char == "." or _PLAIN.match(char):
            written.append(f"[^{_NOT_PLAIN}]" if char == "." else char)
            at += 1
        elif char in "*+?{":
            token = _REPETITION.match(text, at)
            if not repeatable or (char == "{" and token is None):
                raise _Unknown
            repetition = token[0] if token else char
            if token:
                repetitions *= max(int(token[3] or token[1]), 1)
            at += len(repetition)
            if text[at : at + 1] == "?":
                at += 1  # lazy: the same strings
            written.append(repetition)
        elif char == "(":
            at += 3 if text.startswith("(?:", at) else 1
            written.append(char)
            depth += 1
        elif char in "|)":
            depth -= char == ")"
            written.append(char)
            at += 1
        else:
            raise _Unknown
        repeatable = char not in "*+?{(|"
        if depth < 0 or repetitions > _MOST_REPETITIONS:
            raise _Unknown
    if depth:
        raise _Unknown
    return "".join(written)


def _escape(char: str) -> str:
    if char in _CLASSES:
        return f"[{_CLASSES[char]}]"
    if char in _ESCAPED:
        return f"\\{char}"
    if char.isalnum() or not _PLAIN.match(char):
        raise _Unknown
    return char


def _character_class(negated: bool, members: str) -> str:
    written: list[str] = []
    hyphen = ""
    at = 0
    while at < len(members):
        found = _MEMBER.match(members, at)
        if found is None:
            raise _Unknown
        at = found.end()
        if found["set"]:
            written.append(_CLASSES[found["set"]])
            continue
        first = _member(found["first"])
        if found["last"] is not None:
            last = _member(found["last"])
            if len(first) > 1 or len(last) > 1 or first > last or "-" in (first, last):
                raise _Unknown
            written.append(f"{first}-{last}")
        elif first == "-":
            hyphen = "-"  # a range anywhere but at the end
        else:
            written.append(first)
    return f"[{'^' if negated else ''}{''.join(written)}{hyphen}{_NOT_PLAIN if negated else ''}]"


def _member(text: str) -> str:
    """A member of a class, in the form that the compiler accepts."""
    char = text[-1]
    if len(text) > 1 and char.isalnum():
        raise _Unknown
    if char in "[]":
        return f"\\{char}"
    if char != "^" and (_PLAIN.match(char) or char in _ESCAPED):
        return char
    raise _Unknown
