"""`OllamaEmbeddings`: vectors of texts."""

from __future__ import annotations

from typing import Any, Literal

from langchain_core.embeddings import Embeddings
from pydantic import Field

from langchain_namel3ss_ollama.errors import translated
from langchain_namel3ss_ollama.settings import OllamaSettings
from namel3ss_ollama import LLMError, run_sync

__all__ = ["OllamaEmbeddings"]

_OF_EMBED = frozenset({"extra_body", "keep_alive", "timeout"})
"""Settings of the core's `embed` that are no runtime options."""


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
    """How long the vectors shall be, for models that can choose."""

    truncate: bool | None = None
    """Sent as it is: True has the server cut texts that are too long, without a word; False makes them an error."""

    on_truncation: Literal["warn", "error", "ignore", "split"] | None = None
    """What becomes of a text that does not fit the context window. "warn" (the default): its beginning is embedded and
    a warning is logged; "error"; "ignore"; "split": it is embedded in pieces, and its vector is their mean."""

    batch_size: int = Field(default=64, ge=1)
    """How many texts go into one request; requests run at once as `max_concurrent` lets them."""

    query_instruction: str = ""
    """Put before each query, for models that want to be told which it is."""

    document_instruction: str = ""
    """Put before each document."""

    def policy_of_provider(self) -> str | None:
        """None: each call says what it does about truncation."""
        return None

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """The vectors of texts, in their order; no request for no texts.

        Raises:
            LLMError: The server failed; of a class that is one of LangChain's `ModelError` too. `index` says on which
                text, where it is one text's fault.
        """
        return run_sync(self._embed([self.document_instruction + text for text in texts], sync=True))

    def embed_query(self, text: str) -> list[float]:
        """The vector of a text that is searched for."""
        return run_sync(self._embed([self.query_instruction + text], sync=True))[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """As `embed_documents`."""
        return await self._embed([self.document_instruction + text for text in texts], sync=False)

    async def aembed_query(self, text: str) -> list[float]:
        """As `embed_query`."""
        return (await self._embed([self.query_instruction + text], sync=False))[0]

    async def _embed(self, texts: list[str], *, sync: bool) -> list[list[float]]:
        if not texts:
            return []
        settings: dict[str, Any] = self._settings_of_call({}, None)
        extra = settings.pop("options", {})
        options = {name: settings.pop(name) for name in list(settings) if name not in _OF_EMBED}
        for name in ("stream_config", "on_truncation"):
            options.pop(name, None)  # of the provider; embeddings have no stream
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
