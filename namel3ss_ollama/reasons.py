"""The reason in a body or a line that reports an error, wherever a server puts it. No I/O.

Ollama sends `{"error": "..."}`; gateways and compatible servers send `detail`, `message`, an object under `error`, a
list of problems with a request, JSON within a text, or an HTML page. A runner's own error may be part of Ollama's text,
as JSON or as Go prints an object.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import Any, cast

from namel3ss_ollama.exact import read_json

__all__ = ["LONGEST_QUOTE", "reason_in", "reason_in_body", "reason_in_line", "shortened", "sign_in_page"]

LONGEST_QUOTE = 300
_KEYS = ("error", "detail", "message", "msg", "error_description", "reason", "errors", "title")
_MOST_ITEMS = 3
_DEEPEST = 8
_ANSWERS = (("message", Mapping), ("response", str), ("done", bool), ("status", str))
"""Keys that distinguish a line of an answer, or of a pull's progress, from one that reports an error."""
_SIGNS = frozenset({"error", "detail", "code", "status", "status_code", "statusCode", "type", "request_id", "success"})
"""Keys that mark a message next to them as an error."""
_OF_A_RUNNER = re.compile(r"(?:llama-server (?:\w+ )?error|mlx runner failed): *(?=[{m])")
"""ollama 0.30: llm/llama_server.go, x/mlxrunner/client.go."""
_GO_OBJECT = re.compile(
    r"map\[(?:code:\S+ )?message:(.*?)(?: n_ctx:\S+)?(?: n_prompt_tokens:\S+)?(?: param:\S+)?(?: type:\S+)?\]",
    re.DOTALL,
)
"""An error of llama-server as Go prints it: its keys in order, its texts without quotation marks."""
_TITLE = re.compile(r"<(title|h1)[^>]*>(.*?)</\1", re.IGNORECASE | re.DOTALL)
_LONGEST_TITLE = 80
_PAGE = re.compile(r"https?://[!-~]{1,1000}")


def shortened(text: str) -> str:
    """A server's text for quoting: on one line, and shortened."""
    return " ".join(text[: LONGEST_QUOTE * 4].split())[:LONGEST_QUOTE]


def reason_in_body(body: bytes) -> str:
    """The reason in the body of a failed request, in full. An HTML page is named by its title, not quoted."""
    # Without byte order marks and the zeros of UTF-16, which some servers send.
    text = body.decode("utf-8", "replace").replace("\0", "").lstrip("\ufeff\ufffd").strip()
    return reason_in(text)


def reason_in_line(line: Mapping[str, Any]) -> str | None:
    """The error that a line reports; None if it reports none."""
    if line.get("error"):
        return reason_in(line)
    if any(isinstance(line.get(key), kind) for key, kind in _ANSWERS):
        return None  # also for servers that send "error": null in each line
    if not _SIGNS & line.keys():
        line = {
            key: value for key, value in line.items() if key != "message"
        }  # which may also be the text of an answer
    return reason_in(line) or ("" if "error" in line else None)


def sign_in_page(body: bytes) -> str:
    """The sign-in URL of the server's owner, which Ollama sends for cloud models; empty if there is none."""
    try:
        value = read_json(body.decode("utf-8", "replace"))
    except ValueError:
        return ""
    page = cast("Mapping[str, Any]", value).get("signin_url") if isinstance(value, Mapping) else None
    return page if isinstance(page, str) and _PAGE.fullmatch(page) else ""


def reason_in(value: object, depth: int = 0) -> str:
    """The reason in an error value: a text, an object or a list; empty if it has none."""
    if depth > _DEEPEST:
        return ""
    if isinstance(value, str):
        return _in_text(value.strip(), depth)
    if isinstance(value, Mapping):
        return _in_object(cast("Mapping[str, Any]", value), depth)
    if isinstance(value, list):
        found = (_in_item(item, depth + 1) for item in value[:_MOST_ITEMS])
        return "; ".join(filter(None, found))
    return ""


def _in_text(text: str, depth: int) -> str:
    if text.startswith("<"):
        title = _TITLE.search(text)
        named = " ".join(html.unescape(title[2]).split())[:_LONGEST_TITLE] if title else ""
        return "an HTML page, not Ollama's answer" + (f": {named}" if named else "")
    if text.startswith(("{", "[", '"')):
        try:
            value = read_json(text)
        except ValueError:
            return _with_a_remark(text, depth) if depth else text
        if isinstance(value, list) and not depth:
            value = [item for item in value if isinstance(item, Mapping)]
        return reason_in(value, depth + 1) or (text if depth else "")
    if found := _OF_A_RUNNER.match(text):
        inner = text[found.end() :]
        if printed := _GO_OBJECT.fullmatch(inner):
            return reason_in(printed[1], depth + 1)
        reason = reason_in(inner, depth + 1)
        return text if reason == inner else reason
    return text


def _with_a_remark(text: str, depth: int) -> str:
    """JSON in one line followed by a remark: ollama 0.30 reports a lack of memory in this way."""
    line, _, remark = text.partition("\n")
    reason = reason_in(line, depth + 1)
    return f"{reason}; {remark.strip()}" if remark and reason != line else text


def _in_object(value: Mapping[str, Any], depth: int) -> str:
    found: list[str] = []
    for key in _KEYS:
        text = reason_in(value.get(key), depth + 1)
        if text and not any(text in other for other in found):
            found = [*(other for other in found if other not in text), text]
        if len(found) == 2:  # what kind of error, and what about it
            break
    if not found:  # Ollama 0.11 once had the kind of error as the key: {"error parsing tool call": "..."}
        for key, inner in value.items():
            if key.startswith("error ") and (text := reason_in(inner, depth + 1)):
                found.append(f"{key}: {text}")
                break
    if not found and (unknown := value.get("error")):
        try:
            found.append(str(unknown))
        except RecursionError:  # nested deeper than can be written out
            return ""
    return ": ".join(found)


def _in_item(item: object, depth: int) -> str:
    """One of several errors: FastAPI puts its location into `loc`. Its `input` quotes the request and is omitted."""
    text = reason_in(item, depth)
    place = cast("Mapping[str, Any]", item).get("loc") if isinstance(item, Mapping) else None
    if text and isinstance(place, list) and place:
        return f"{'.'.join(str(step) for step in place[:_DEEPEST])}: {text}"
    return text
