"""Ollama's endpoints, and those of OpenAI's API that it has as well, answered by the engine.

A handler works in a thread of its own, gets the request's object, and hands objects on through `Work.emit`: one where
the answer is one, or a line each of a stream. What it cannot do it refuses, with Ollama's statuses and, where Ollama
has such a text, its texts.
"""

from __future__ import annotations

from collections.abc import Mapping

from namel3ss_ollama.embedded import embedding, generation, openai_api, registry
from namel3ss_ollama.embedded.work import Handler

__all__ = ["handler_of", "is_path"]

_ROUTES: Mapping[tuple[str, str], Handler] = {
    ("POST", "/api/chat"): generation.chat,
    ("POST", "/api/generate"): generation.generate,
    ("POST", "/api/embed"): embedding.embed,
    ("POST", "/api/embeddings"): embedding.embeddings,
    ("GET", "/api/tags"): registry.tags,
    ("GET", "/api/ps"): registry.ps,
    ("GET", "/api/version"): registry.version,
    ("POST", "/api/show"): registry.show,
    ("POST", "/api/pull"): registry.pull,
    ("DELETE", "/api/delete"): registry.delete,
    ("POST", "/api/create"): registry.cannot("create"),
    ("POST", "/api/copy"): registry.cannot("copy"),
    ("POST", "/api/push"): registry.cannot("push"),
    **openai_api.ROUTES,
}
_A_MODEL = "/v1/models/"


def handler_of(method: str, path: str) -> Handler | None:
    """What answers a request; None where nothing does."""
    if method == "GET" and path.startswith(_A_MODEL) and path != _A_MODEL:
        return openai_api.model(path.removeprefix(_A_MODEL))
    return _ROUTES.get((method, path))


def is_path(path: str) -> bool:
    """Whether there is something at a path, by whatever method."""
    return path.startswith(_A_MODEL) or any(other == path for _, other in _ROUTES)
