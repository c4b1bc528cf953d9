"""Ollama's endpoints, including those of OpenAI's API, answered by the engine.

A handler runs in its own thread, gets the request's object, and passes objects on through `Work.emit`: a single one, or
one per line of a stream. It refuses unsupported requests with Ollama's statuses and, where Ollama has one, its text.
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
    """The handler of a request; None if there is none."""
    if method == "GET" and path.startswith(_A_MODEL) and path != _A_MODEL:
        return openai_api.model(path.removeprefix(_A_MODEL))
    return _ROUTES.get((method, path))


def is_path(path: str) -> bool:
    """Whether a path exists, for any method."""
    return path.startswith(_A_MODEL) or any(other == path for _, other in _ROUTES)
