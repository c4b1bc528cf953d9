"""`OllamaEmbeddings`: text embeddings."""

from __future__ import annotations

from typing import Any, Literal

from langchain_core.embeddings import Embeddings
from pydantic import Field

from langchain_namel3ss_ollama.errors import translated
from langchain_namel3ss_ollama.settings import OllamaSettings
from namel3ss_ollama import LLMError, run_sync

__all__ = ["OllamaEmbeddings"]

_OF_EMBED = frozenset({"extra_body", "keep_alive", "timeout"})
"""Settings of the core's `embed` that are not runtime options."""


class OllamaEmbeddings(OllamaSettings, Embeddings):
    """An embedding model on an Ollama server; a drop-in for `langchain_ollama.OllamaEmbeddings`.

    Example:
        ```python
        from langchain_namel3ss_ollama import OllamaEmbeddings

        embeddings = OllamaEmbeddings(model="all-minilm")
        vectors = embeddings.embed_documents(["The sky is blue.", "Grass is green."])
        ```
    """

    dimensions: int | None = Field(default=None, ge=1)
    """The dimensions of the vectors, for models that support several."""

    truncate: bool | None = None
    """Sent unchanged: True makes the server truncate texts that are too long, silently; False makes it refuse them."""

    on_truncation: Literal["warn", "error", "ignore", "split"] | None = None
    """What to do with a text that exceeds the context window. "warn" (the default) embeds its beginning and logs a
    warning; "error" raises; "ignore" embeds its beginning silently; "split" embeds it in pieces and averages their
    vectors."""

    batch_size: int = Field(default=64, ge=1)
    """How many texts to send per request; up to `max_concurrent` requests run at once."""

    query_instruction: str = ""
    """A prefix for each query, for models that distinguish queries from documents."""

    document_instruction: str = ""
    """A prefix for each document."""

    def policy_of_provider(self) -> str | None:
        """None: each call passes its own `on_truncation`."""
        return None

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """The vectors of texts, in order; an empty list sends no request.

        Raises:
            LLMError: The request failed; the class is one of LangChain's `ModelError` classes too. If one text caused
                it, `index` is that text's position.
        """
        return run_sync(self._embed([self.document_instruction + text for text in texts], sync=True))

    def embed_query(self, text: str) -> list[float]:
        """The vector of a search query."""
        return run_sync(self._embed([self.query_instruction + text], sync=True))[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Async version of `embed_documents`."""
        return await self._embed([self.document_instruction + text for text in texts], sync=False)

    async def aembed_query(self, text: str) -> list[float]:
        """Async version of `embed_query`."""
        return (await self._embed([self.query_instruction + text], sync=False))[0]

    async def _embed(self, texts: list[str], *, sync: bool) -> list[list[float]]:
        if not texts:
            return []
        settings: dict[str, Any] = self._settings_of_call({}, None)
        extra = settings.pop("options", {})
        options = {name: settings.pop(name) for name in list(settings) if name not in _OF_EMBED}
        for name in ("stream_config", "on_truncation"):
            options.pop(name, None)  # the provider's; embeddings have no stream
        try:
            response = await self._provider_for(sync=sync).embed(
                texts,
                model=self.model,
                truncate=self.truncate,
                on_truncation=self.on_truncation,
                dimensions=self.dimensions,
                batch_size=self.batch_size,
                options={**options, **extra} or None,
                **settings,
            )
        except LLMError as error:
            raise translated(error) from error
        return response.embeddings
