"""The embedding endpoints."""

from __future__ import annotations

import time

from namel3ss_ollama.embedded import binding
from namel3ss_ollama.embedded.engine import Cancelled
from namel3ss_ollama.embedded.options import load_options
from namel3ss_ollama.embedded.refusal import Refused
from namel3ss_ollama.embedded.store import Model
from namel3ss_ollama.embedded.work import Work, nanoseconds

__all__ = ["embed", "embeddings"]


def embed(work: Work) -> None:
    """POST /api/embed."""
    model = work.model()
    given = work.request.get("input")
    texts = [] if given in (None, "") else [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise Refused(400, "invalid input type")
    size = work.wanted("dimensions", int, 0)
    if size < 0:
        raise Refused(400, "dimensions must not be negative")
    vectors, tokens, waited = _embedded(work, model, texts)
    if size:
        vectors = [_shortened(vector, size) for vector in vectors]
    work.emit(
        {
            "model": work.request.get("model"),
            "embeddings": vectors,
            "total_duration": nanoseconds(time.monotonic() - work.began),
            "load_duration": nanoseconds(waited),
            "prompt_eval_count": tokens,
        }
    )


def embeddings(work: Work) -> None:
    """POST /api/embeddings, the older endpoint: one text, one vector."""
    prompt = work.wanted("prompt", str, "")
    vectors, _, _ = _embedded(work, work.model(), [prompt] if prompt else [])
    work.emit({"embedding": vectors[0] if vectors else []})


def _embedded(work: Work, model: Model, texts: list[str]) -> tuple[list[list[float]], int, float]:
    loading = load_options(work.options(model), model.header.context_length)
    keep = work.keep_alive()
    vectors: list[list[float]] = []
    tokens = 0
    with work.engine.use(model, loading, "embedding", work.job, keep) as (server, waited):
        for text in texts:  # one by one, so that a disconnect is noticed
            if work.job.cancelled:
                raise Cancelled
            # Pooling needs at least one token; a space is the smallest.
            vector, count = binding.embed(server, text or " ", loading.num_ctx)
            vectors.append(vector)
            tokens += count
    return vectors, tokens, waited


def _shortened(vector: list[float], size: int) -> list[float]:
    """The first numbers of a vector, normalised to length 1 again."""
    part = vector[:size]
    norm = sum(value * value for value in part) ** 0.5 or 1.0
    return [value / norm for value in part]
