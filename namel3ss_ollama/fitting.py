"""A request fitted to its server: what the server's version cannot do is not asked of it, nor what it has refused.

Only requests with a `format` come here, and only those ask for the version that depend on it. Remembered is also which
models take no notice of a field, so that what it stands for is asked for in the prompt (`prompting.py`).
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
"""In a chat. Where text is generated, no version known so far does."""
_FIRST_WITH_SCHEMAS = "0.5"
_NO_GRAMMAR = "can make no grammar"
_MOST_REMEMBERED = 1000


class Fitting:
    """Fits requests to the server.

    Args:
        version: The server's.
    """

    def __init__(self, version: ServerVersion) -> None:
        self._version = version
        self._refused: dict[bytes, None] = {}
        self._kept_from_thinking: set[str] = set()
        self._by_prompt: set[tuple[str, bool]] = set()

    def asks_in_prompt(self, model: str, *, forced: bool) -> bool:
        """Whether a format, or a forced call, is asked for in this model's prompt, because its field did not do."""
        return (model, forced) in self._by_prompt

    def ask_in_prompt(self, model: str, *, forced: bool) -> None:
        """Ask for it in this model's prompt from now on."""
        if (model, forced) in self._by_prompt:
            return
        self._by_prompt.add((model, forced))
        if forced:
            logger.info("%s makes no forced call of `tools`: they are described in its system message", model)
        else:
            logger.warning(
                "%s is not held to `format` on this server: from now on the schema is described in its system message, "
                "and nothing holds the model to it but that. A type is validated when the answer is there, a JSON "
                "schema is not",
                model,
            )

    async def fitted(self, kind: str, body: Json) -> Json:
        """The body of a request as the server takes it; the same object where nothing changes.

        Args:
            kind: "chat" or "generate".
            body: What was asked for, with a `format`.
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
                    "%s does not think under a `format`: the server holds it to the format from its first token on",
                    model,
                )
        return {**body, **changes} if changes else body

    def is_simplified(self, body: Json) -> bool:
        """Whether this schema is sent to this model in its simplest form, because the full one was refused."""
        return bool(self._refused) and _key(body) in self._refused

    def simplify(self, body: Json, error: BadRequestError) -> bool:
        """Send the schema in its simplest form from now on; False if that is not why, or no help.

        Args:
            body: What was asked for.
            error: What the server said to it.
        """
        schema = body.get("format")
        if _NO_GRAMMAR not in error.message or not isinstance(schema, dict) or simplest(schema) == schema:
            return False
        if len(self._refused) >= _MOST_REMEMBERED:
            del self._refused[next(iter(self._refused))]
        self._refused[_key(body)] = None
        logger.warning(
            "the server made no grammar of the schema in `format` for %s: it gets the types and names alone. A type is "
            "validated in full when the answer is there, a JSON schema is not",
            body["model"],
        )
        return True

    async def _thinks_before_a_format(self) -> bool:
        """Whether a model can think in a chat and is held to a format after that, unlike in the engine in a process."""
        return not (await self._is_before(_THINKS_BEFORE_A_FORMAT) or self._version.embedded)

    async def _is_before(self, version: str) -> bool:
        """Whether the server is known to be older. A build of no release (0.0.0) is not."""
        await self._version.ask()
        return self._version.before(version) and self._version.at_least(_FIRST_WITH_SCHEMAS)


def _key(body: Json) -> bytes:
    schema = write_json(body["format"])
    return hashlib.sha256(str(body["model"]).encode() + b"\0" + schema).digest()
