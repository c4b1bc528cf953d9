"""OpenAI's batch files: one request per input line, one response per output line.

The requests go to Ollama's own API, with the same retries, hosts and journal as every batch. A batch has one set of
settings: rows that differ in more than their messages are rejected before the first request.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from namel3ss_ollama import LLMResponse
from namel3ss_ollama.cli.batch_rows import BadRowError, checked_id, checked_text
from namel3ss_ollama.cli.console import CommandError
from namel3ss_ollama.cli.tables import Row
from namel3ss_ollama.cli.wording import in_the_commands_words
from namel3ss_ollama.rows import BatchRow, RowId

__all__ = ["OpenAIRows", "is_openai"]

_CHAT, _EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
_SAME = ("temperature", "top_p", "seed", "stop", "frequency_penalty", "presence_penalty", "logprobs", "top_logprobs")
_SETTINGS = {
    **{name: name for name in (*_SAME, "tools", "tool_choice", "dimensions")},
    "max_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "response_format": "format",
    "reasoning_effort": "think",
}
"""The fields of a body that control the answer, and the matching keywords here."""
_NO_MATTER = frozenset(
    {"model", "messages", "input", "user", "store", "metadata", "service_tier", "safety_identifier", "prompt_cache_key"}
)
"""Fields that are not settings, or do not affect the answer."""
_NEUTRAL: Mapping[str, Any] = {"n": 1, "stream": False, "encoding_format": "float", "parallel_tool_calls": True}
"""Fields that are supported only with these values, which are the defaults."""


def is_openai(row: Row) -> bool:
    """Whether a row is a request of OpenAI's batch files."""
    return "custom_id" in row and isinstance(row.get("body"), dict)


class OpenAIRows:
    """Rows of OpenAI's batch files.

    Args:
        first: The first row, whose endpoint, model and settings are those of all.
        at: Its position.
        any_model: Whether the rows' models are ignored.

    Raises:
        CommandError: The first row is not a valid request.
    """

    has_ids = True

    def __init__(self, first: Row, at: str, *, any_model: bool) -> None:
        self._first_at = at
        self._url = _url(first, at)
        self.embeds = self._url == _EMBEDDINGS
        self._any_model = any_model
        self.settings = _settings(first["body"], at)
        self.model = first["body"].get("model")

    def check(self, row: Row, at: str) -> None:
        """Check that a row differs from the first only in its messages."""
        if not is_openai(row):
            raise CommandError(f"{at}: has no custom_id and body, unlike {self._first_at}")
        body = row["body"]
        had = {"url": self._url, **self.settings}
        has = {"url": _url(row, at), **_settings(body, at)}
        if not self._any_model:
            had["model"], has["model"] = self.model, body.get("model")
        for name in {**had, **has}:
            if had.get(name) != has.get(name):
                raise CommandError(
                    f"{at}: its {name} is {_short(has.get(name))}, and that of {self._first_at} is "
                    f"{_short(had.get(name))}; a batch can have only one: split the file"
                    + (", or give --model for all" if name == "model" else "")
                )

    def id(self, row: Row, at: str, index: int) -> RowId:
        """The row's custom_id."""
        return checked_id(row, "custom_id", at)

    def prompt(self, row: Row) -> Any:
        """The row's messages, or the text to embed."""
        body = row["body"]
        if not self.embeds:
            messages = body.get("messages")
            if not isinstance(messages, list) or not messages:
                raise BadRowError("body.messages is not a list of messages")
            return messages
        text = body.get("input")
        if isinstance(text, list) and len(text) == 1:
            text = text[0]
        if isinstance(text, list):
            raise BadRowError(f"body.input has {len(text)} texts; give each a row of its own")
        return checked_text(text, "body.input")

    def result(self, row: Row, done: BatchRow) -> Row:
        """The response in OpenAI's format; failed rows are in the same file, with an `error`."""
        name = hashlib.blake2b(str(done.id).encode(), digest_size=12).hexdigest()
        response = error = None
        if done.failure is not None:
            error = {"code": done.failure.type, "message": in_the_commands_words(done.failure.message)}
        else:
            body = self._embedding(done) if done.answer is None else _completion(done.answer, name)
            response = {"status_code": 200, "request_id": f"req_{name}", "body": body}
        return {"id": f"batch_req_{name}", "custom_id": row["custom_id"], "response": response, "error": error}

    def _embedding(self, done: BatchRow) -> Row:
        return {
            "object": "list",
            "data": [{"object": "embedding", "index": 0, "embedding": done.vector}],
            "model": self.model,
            "usage": {"prompt_tokens": done.tokens, "total_tokens": done.tokens},
        }

    def columns(self, found: dict[str, Any]) -> dict[str, Any]:
        """The fields of a response."""
        return dict.fromkeys(("id", "custom_id", "response", "error"), "any")


def _url(row: Row, at: str) -> str:
    if row.get("method", "POST") != "POST":
        raise CommandError(f"{at}: its method is {_short(row['method'])}, and only POST is supported")
    url = row.get("url")
    if url not in (_CHAT, _EMBEDDINGS):
        raise CommandError(f"{at}: its url is {_short(url)}; supported are {_CHAT} and {_EMBEDDINGS}")
    return str(url)


def _settings(body: Row, at: str) -> dict[str, Any]:
    """The keywords for a body's fields."""
    settings: dict[str, Any] = {}
    for name, value in body.items():
        if value is None or name in _NO_MATTER:
            continue
        if name in _NEUTRAL:
            if value != _NEUTRAL[name]:
                raise CommandError(f"{at}: body.{name} can only be {_short(_NEUTRAL[name])}, not {_short(value)}")
        elif name in _SETTINGS:
            settings[_SETTINGS[name]] = value
        else:
            raise CommandError(f"{at}: body.{name} has no counterpart in Ollama's API; leave it out")
    if "format" in settings:
        settings["format"] = _format(settings["format"], at)
    if settings.get("think") in ("none", "minimal"):
        settings["think"] = False
    return {name: value for name, value in settings.items() if value is not None}


def _format(wanted: Any, at: str) -> Any:
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return "json"
    schema = wanted.get("json_schema") if kind == "json_schema" else None
    if isinstance(schema, dict) and isinstance(schema.get("schema"), dict):
        return schema["schema"]
    raise CommandError(f"{at}: body.response_format is none of text, json_object, and json_schema with a schema")


def _completion(answer: LLMResponse, name: str) -> Row:
    message: Row = {"role": "assistant", "content": answer.content or (None if answer.tool_calls else "")}
    if answer.thinking:
        message["reasoning"] = answer.thinking
    if answer.tool_calls:
        message["tool_calls"] = [
            {
                "id": call.id or f"call_{index}",
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(dict(call.arguments), ensure_ascii=False)},
            }
            for index, call in enumerate(answer.tool_calls)
        ]
    logprobs = {"content": answer.logprobs, "refusal": None} if answer.logprobs else None
    reason = "tool_calls" if answer.tool_calls else answer.finish_reason
    usage = answer.usage
    return {
        "id": f"chatcmpl-{name}",
        "object": "chat.completion",
        "created": _seconds(answer.metadata.get("created_at")),
        "model": answer.model,
        "choices": [{"index": 0, "message": message, "logprobs": logprobs, "finish_reason": reason}],
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.total_tokens,
        },
    }


def _seconds(created_at: object) -> int:
    """A timestamp of the server, in seconds since 1970; 0 if there is none."""
    found = re.match(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d)", str(created_at))
    return 0 if found is None else int(datetime.fromisoformat(found[1] + found[2].replace("Z", "+00:00")).timestamp())


def _short(value: object) -> str:
    return "not set" if value is None else f"{value!r:.60}"
