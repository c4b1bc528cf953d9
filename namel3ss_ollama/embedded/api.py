"""Ollama's endpoints, answered by the engine.

A handler works in a thread of its own, gets the request's object, and hands objects on through `Work.emit`: one where
the answer is one, or a line each of a stream. What it cannot do it refuses, with Ollama's statuses and, where Ollama
has such a text, its texts.
"""

from __future__ import annotations

from collections.abc import Mapping

from namel3ss_ollama.embedded import embedding, generation, registry
from namel3ss_ollama.embedded.work import Handler

__all__ = ["ROUTES"]

ROUTES: Mapping[tuple[str, str], Handler] = {
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
}
