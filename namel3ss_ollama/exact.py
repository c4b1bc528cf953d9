"""JSON without orjson's limitations. No I/O.

orjson is fast, but reads an integer of more than 64 bits as a float, refuses to write one, and refuses a text with a
lone surrogate, as servers in JavaScript send it. Models and servers in Python write NaN and Infinity. So orjson is
tried first, and the standard library handles what orjson refuses or would round.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any, cast

import orjson

__all__ = [
    "UnreadNumber",
    "has_long_integer",
    "is_plain",
    "read_json",
    "read_unusual",
    "whole_characters",
    "write_json",
]

_LONG_BYTES = re.compile(rb"\d{19}")
_LONG_TEXT = re.compile(r"\d{19}")
"""Integers with this many digits may not fit 64 bits, and orjson would round them."""
_LEAST, _MOST = -(2**63), 2**64 - 1
_BUFFER = 2048
"""Bytes below which a copy is smaller than the buffer that orjson begins with."""
_SURROGATE = re.compile("[\ud800-\udfff]")


class UnreadNumber(float):
    """A number that is not valid JSON, or that Python reads as infinity; `text` is the original."""

    __slots__ = ("text",)

    text: str

    def __new__(cls, text: str) -> UnreadNumber:
        """The nearest float to `text`."""
        made = super().__new__(cls, text)
        made.text = text
        return made


def has_long_integer(data: bytes) -> bool:
    """Whether orjson may round an integer in it."""
    return _LONG_BYTES.search(data) is not None


def read_json(data: str) -> Any:
    """Parse a JSON text; integers are exact, and lone surrogates are replaced by U+FFFD.

    Raises:
        ValueError: The text is not JSON.
    """
    if _LONG_TEXT.search(data):
        return whole_characters(read_unusual(data))
    try:
        return orjson.loads(data)
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        return whole_characters(read_unusual(data))


def read_unusual(data: bytes | str) -> Any:
    """As `read_json`, with the standard library, and keeping lone surrogates.

    Raises:
        ValueError: The text is not JSON.
    """
    text = data.decode("utf-8", "surrogatepass") if isinstance(data, bytes) else data
    try:
        # Control characters in strings are accepted: models write line breaks into their arguments.
        return json.loads(text, parse_int=_integer, parse_float=_float, parse_constant=UnreadNumber, strict=False)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _integer(text: str) -> int | UnreadNumber:
    try:
        return int(text)
    except ValueError:  # more digits than Python converts
        return UnreadNumber(text)


def _float(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else UnreadNumber(text)


def is_plain(value: Any) -> bool:
    """Whether all numbers in a value could be parsed."""
    left = [value]  # not recursive: a model may nest arbitrarily deep
    while left:
        inner = left.pop()
        if isinstance(inner, dict):
            left.extend(cast("dict[str, Any]", inner).values())
        elif isinstance(inner, list):
            left.extend(inner)
        elif isinstance(inner, UnreadNumber):
            return False
    return True


def whole_characters(value: Any) -> Any:
    """A value without lone surrogates: adjacent halves are joined, single ones become U+FFFD.

    Raises:
        ValueError: The value is nested too deep.
    """
    try:
        return _whole_characters(value)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _whole_characters(value: Any) -> Any:
    if isinstance(value, str):
        if _SURROGATE.search(value) is None:
            return value
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {_whole_characters(key): _whole_characters(inner) for key, inner in items}
    if isinstance(value, list):
        return [_whole_characters(inner) for inner in value]
    return value


def write_json(value: Any) -> bytes:
    """Write a value as JSON, with exact integers.

    Raises:
        ValueError: A value cannot be written as JSON; the message says which one and why.
    """
    try:
        written = orjson.dumps(value)
        # orjson does not release the rest of its buffer, 4 KiB, which a waiting stream would keep.
        return bytes(memoryview(written)) if len(written) < _BUFFER else written
    except TypeError:
        pass
    try:
        return orjson.dumps(_writable(value))
    except RecursionError:
        raise ValueError("nested too deep") from None
    except (TypeError, ValueError) as error:
        place, problem = next(_problems(value, ""), ("", str(error)))
        raise ValueError(f"{place}: {problem}" if place else problem) from error


def _writable(value: Any) -> Any:
    """The value with each number that orjson refuses replaced by a JSON fragment."""
    if isinstance(value, dict):
        return {key: _writable(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_writable(inner) for inner in value]
    if isinstance(value, UnreadNumber):
        return orjson.Fragment(value.text)
    if isinstance(value, int) and not _LEAST <= value <= _MOST:
        return orjson.Fragment(str(value))
    return value


def _problems(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Where a value cannot be written as JSON, and why."""
    if isinstance(value, str):
        if found := _SURROGATE.search(value):
            yield (
                place,
                (
                    f"the text has a lone surrogate at position {found.start()}, half of a character; "
                    "text.encode('utf-8', 'replace').decode() replaces it with a question mark"
                ),
            )
    elif isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                yield place, f"a key is of type {type(key).__name__}, but JSON keys are strings"
            yield from _problems(key, place)
            yield from _problems(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from _problems(inner, f"{place}[{index}]")
    else:
        try:
            orjson.dumps(_writable(value))
        except (TypeError, ValueError) as error:
            yield place, str(error)
