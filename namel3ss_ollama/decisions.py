"""Decision models: typed questions about a state, each answered with probabilities in place of a text."""

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
"""How many bytes a request may have (Ollama's test of SystemOneHandler)."""
_BLIND, _SEES_IMAGES = "0.35.0", "0.35.1"
"""The one version that takes no notice of images, and the first that sees them."""
_HAVE_ARGUMENTS = frozenset({"model", "state", "questions", "images", "keep_alive"})
"""What `extra_body` must not hold."""


class Decisions(Asking):
    """What a provider asks of decision models; see `OllamaProvider` for how to make one."""

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

        Needs Ollama 0.35.0, 0.35.1 for images, and 0.40.5 for models in the cloud. The provider's runtime options do
        not go along: the endpoint takes none.

        Args:
            state: What the questions are about: a text, or a JSON object or array.
            questions: 1 to 64 questions by name: `ChoiceQuestion`, `NoulQuestion` or `ScoreQuestion`, or dicts as they
                are sent.
            images: Pictures that belong to the state, for models that can see, as in `agenerate`.
            model: The decision model; the provider's by default.
            keep_alive: How long the model stays loaded; as the provider says by default.
            extra_body: Fields of the request that have no keyword; the provider's do not go along.
            timeout: A bound on the call, retries and the wait for a slot included, in seconds.

        Raises:
            TypeError, ValueError: An argument is wrong, or the request has more than 64 KiB (32 MiB with images), which
                no server takes; nothing was sent.
            BadRequestError: The server has no such endpoint, or the model is no decision model or cannot see images.
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
    """Refuse images where the server is known to take no notice of them."""
    await server.version.ask()
    if server.version.at_least(_BLIND) and server.version.before(_SEES_IMAGES):
        raise BadRequestError(
            f"images: decision models see them from Ollama {_SEES_IMAGES} on, and {server.url} is older; "
            "update it, or leave them out"
        )


def _encoded(body: Json) -> bytes:
    """The body as it is sent.

    Raises:
        ValueError: Something in it is no JSON, or it is larger than a server takes.
    """
    content = encode(body) or b""
    largest = _LARGEST_WITH_IMAGES if "images" in body else _LARGEST
    if len(content) > largest:
        sizes = {name: len(encode({name: value}) or b"") for name, value in body.items()}
        name = max(sizes, key=lambda name: sizes[name])
        raise ValueError(
            f"{name}: the request has {len(content):,} bytes, {sizes[name]:,} of them here, and a server takes at most "
            f"{largest:,}{'' if 'images' in body else ' without images'}; shorten it"
        )
    return content
