"""Decision models: typed questions about a state, each answered with probabilities instead of text."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from namel3ss_ollama.asking import Asking, Endpoint, saying_where
from namel3ss_ollama.client import encode
from namel3ss_ollama.errors import BadRequestError
from namel3ss_ollama.generation import Runner
from namel3ss_ollama.media import Image
from namel3ss_ollama.messages import encode_media, has_files
from namel3ss_ollama.prepare import checked_model
from namel3ss_ollama.questions import (
    Content,
    Question,
    SystemOneResponse,
    checked_content,
    encode_questions,
    read_answers,
)
from namel3ss_ollama.server import Server
from namel3ss_ollama.settings import check_positive, merge_extra_body, read_keep_alive

__all__ = ["Decisions"]

Json = dict[str, Any]
_SYSTEMONE = Endpoint("POST", "/v1/systemone", "Ollama 0.35.0 and newer")
_LARGEST, _LARGEST_WITH_IMAGES = 64 * 1024, 32 * 1024 * 1024
"""The size limit of a request in bytes (Ollama's test of SystemOneHandler)."""
_BLIND, _SEES_IMAGES = "0.35.0", "0.35.1"
"""The one version that ignores images, and the first that supports them."""
_HAVE_ARGUMENTS = frozenset({"model", "state", "questions", "images", "keep_alive"})
"""Keys that `extra_body` must not contain."""


class Decisions(Asking):
    """The decision model methods of a provider; construct an `OllamaProvider` to use them."""

    _runner: Runner

    async def systemone(
        self,
        state: Content,
        questions: Mapping[str, Question | Mapping[str, Any]],
        *,
        images: Sequence[Image | Any] | None = None,
        model: str | None = None,
        keep_alive: str | float | None = None,
        extra_body: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> SystemOneResponse:
        """Answers of a decision model (nimble, clef, ...) to typed questions about a state.

        Requires Ollama 0.35.0, 0.35.1 for images, and 0.40.5 for cloud models. The provider's runtime options are not
        sent: the endpoint accepts none.

        Args:
            state: The subject of the questions: a text, or a JSON object or array.
            questions: 1 to 64 questions by name: `ChoiceQuestion`, `NoulQuestion` or `ScoreQuestion`, or dicts as they
                are sent.
            images: Images that belong to the state, for vision models, as in `agenerate`.
            model: The decision model; the provider's by default.
            keep_alive: How long the model stays loaded; the provider's setting by default.
            extra_body: Request fields without a keyword; the provider's are not sent.
            timeout: The limit for the call in seconds, including retries and the wait for a slot.

        Raises:
            TypeError, ValueError: An argument is invalid, or the request exceeds 64 KiB (32 MiB with images), the limit
                of every server; nothing was sent.
            BadRequestError: The server has no such endpoint, or the model is not a decision model or has no vision.
            ModelNotFoundError: The server does not have the model.
            MalformedResponseError: A question has no answer, or one of another form.
            LLMError: The server failed.
        """
        check_positive("timeout", timeout)
        reads_files = has_files([{"images": images}])
        pictures = await asyncio.to_thread(encode_media, images, None) if reads_files else encode_media(images, None)
        asked = encode_questions(questions)
        body: Json = {
            "model": self._defaults.model if model is None else checked_model(model),
            "state": checked_content("state", state),
            "questions": asked,
        }
        if pictures:
            body["images"] = pictures
        if keep_alive is None:
            keep_alive = self._defaults.options.get("keep_alive")
        if keep_alive is not None:
            body["keep_alive"] = read_keep_alive(keep_alive)
        body.update(merge_extra_body(extra_body, keywords=_HAVE_ARGUMENTS))
        content = _encoded(body)
        bound = self._defaults.timeout if timeout is None else timeout
        async with self._runner.turn("decisions", body, self._defaults.config, bound) as turn:

            async def attempt() -> Json:
                if pictures:
                    await _check_images(turn.server)
                return await turn.server.client.systemone(body, turn.watch, content)

            with saying_where(_SYSTEMONE):
                answer = await self._runner.attempts(attempt, turn)
            response = read_answers(answer, asked, turn.server.url)
            turn.usage = response.usage
        return response


async def _check_images(server: Server) -> None:
    """Reject images where the server is known to ignore them."""
    await server.version.ask()
    if server.version.at_least(_BLIND) and server.version.before(_SEES_IMAGES):
        raise BadRequestError(
            f"images: decision models support them since Ollama {_SEES_IMAGES}, and {server.url} is older; "
            "update it, or omit them"
        )


def _encoded(body: Json) -> bytes:
    """The body as it is sent.

    Raises:
        ValueError: A value cannot be written as JSON, or the body exceeds the server's limit.
    """
    content = encode(body) or b""
    largest = _LARGEST_WITH_IMAGES if "images" in body else _LARGEST
    if len(content) > largest:
        sizes = {name: len(encode({name: value}) or b"") for name, value in body.items()}
        name = max(sizes, key=lambda name: sizes[name])
        raise ValueError(
            f"{name}: the request has {len(content):,} bytes, {sizes[name]:,} of them here, and servers accept at most "
            f"{largest:,}{'' if 'images' in body else ' without images'}; shorten it"
        )
    return content
