"""Adapt a request to its server: to the features of its version, and to what it has refused before.

Only requests with a `format` are adapted, and the version is looked up only if it matters. This module also remembers
which models ignore a field, so that the prompt asks for the same thing instead (`prompting.py`).
"""

from __future__ import annotations

import hashlib
import logging
from typing import Any

from namel3ss_ollama.errors import BadRequestError
from namel3ss_ollama.exact import write_json
from namel3ss_ollama.grammars import in_escapes, simplest
from namel3ss_ollama.server_version import ServerVersion

__all__ = ["Fitting"]

logger = logging.getLogger("namel3ss_ollama")
Json = dict[str, Any]
_ESCAPES_LITERALS = "0.13.2"
_THINKS_BEFORE_A_FORMAT = "0.12.4"
"""For chats. For generate requests no known version does."""
_FIRST_WITH_SCHEMAS = "0.5"
_NO_GRAMMAR = "can make no grammar"
_MOST_REMEMBERED = 1000


class Fitting:
    """Adapts requests to the server.

    Args:
        version: The server's.
    """

    def __init__(self, version: ServerVersion) -> None:
        self._version = version
        self._refused: dict[bytes, None] = {}
        self._kept_from_thinking: set[str] = set()
        self._by_prompt: set[tuple[str, bool]] = set()

    def asks_in_prompt(self, model: str, *, forced: bool) -> bool:
        """Whether this model's prompt asks for the format or forced call, because the field had no effect."""
        return (model, forced) in self._by_prompt

    def ask_in_prompt(self, model: str, *, forced: bool) -> None:
        """From now on, ask for it in this model's prompt."""
        if (model, forced) in self._by_prompt:
            return
        self._by_prompt.add((model, forced))
        if forced:
            logger.info("%s makes no forced call with `tools`: they are described in its system message", model)
        else:
            logger.warning(
                "this server does not constrain %s to `format`: from now on its system message describes the schema, "
                "and nothing else enforces it. A type is validated when the answer is complete, a JSON "
                "schema is not",
                model,
            )

    async def fitted(self, kind: str, body: Json) -> Json:
        """The request body that the server accepts; the same object if nothing changes.

        Args:
            kind: "chat" or "generate".
            body: The original body, with a `format`.
        """
        changes: Json = {}
        schema = body["format"]
        if isinstance(schema, dict):
            if self.is_simplified(body):
                changes["format"] = simplest(schema)
            elif (escaped := in_escapes(schema)) != schema and await self._is_before(_ESCAPES_LITERALS):
                changes["format"] = escaped
        if body.get("think") and (kind == "generate" or not await self._thinks_before_a_format()):
            changes["think"] = False
            model = str(body["model"])
            if model not in self._kept_from_thinking:
                self._kept_from_thinking.add(model)
                logger.warning(
                    "%s does not think under a `format`: the server enforces the format from the first token on",
                    model,
                )
        return {**body, **changes} if changes else body

    def is_simplified(self, body: Json) -> bool:
        """Whether this schema is sent to this model in its simplest form, because the full form was refused."""
        return bool(self._refused) and _key(body) in self._refused

    def simplify(self, body: Json, error: BadRequestError) -> bool:
        """From now on, send the schema in its simplest form; False if the schema is not the cause or cannot be simpler.

        Args:
            body: The original body.
            error: The server's error.
        """
        schema = body.get("format")
        if _NO_GRAMMAR not in error.message or not isinstance(schema, dict) or simplest(schema) == schema:
            return False
        if len(self._refused) >= _MOST_REMEMBERED:
            del self._refused[next(iter(self._refused))]
        self._refused[_key(body)] = None
        logger.warning(
            "the server could not compile the schema in `format` for %s: only types and names are sent. A type is "
            "validated in full when the answer is complete, a JSON schema is not",
            body["model"],
        )
        return True

    async def _thinks_before_a_format(self) -> bool:
        """Whether a model can think in a chat before the format is enforced, unlike in the in-process engine."""
        return not (await self._is_before(_THINKS_BEFORE_A_FORMAT) or self._version.embedded)

    async def _is_before(self, version: str) -> bool:
        """Whether the server is known to be older; a development build (0.0.0) is not."""
        await self._version.ask()
        return self._version.before(version) and self._version.at_least(_FIRST_WITH_SCHEMAS)


def _key(body: Json) -> bytes:
    schema = write_json(body["format"])
    return hashlib.sha256(str(body["model"]).encode() + b"\0" + schema).digest()
