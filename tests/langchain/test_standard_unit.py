"""LangChain's own unit tests for integrations, with every check enabled."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_tests.unit_tests import ChatModelUnitTests, EmbeddingsUnitTests

from langchain_namel3ss_ollama import ChatOllama, OllamaEmbeddings

FROM_ENVIRONMENT = {"OLLAMA_HOST": "http://box:1234", "OLLAMA_API_KEY": "key"}


class TestChatUnit(ChatModelUnitTests):
    @pytest.fixture(autouse=True)
    def allow_loading(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # test_serdes loads with allowed_objects="all", which allows only the classes on LangChain's own list.
        path = tuple(ChatOllama.lc_id())
        module = importlib.import_module("langchain_core.load.load")
        monkeypatch.setattr(module, "_get_default_allowed_class_paths", lambda _mode: {path})

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOllama

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "llama3.2", "base_url": "http://box:1234"}

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_image_inputs(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def supports_image_tool_message(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return "qwen3"

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return (
            FROM_ENVIRONMENT,
            {"model": "llama3.2"},
            {"base_url": None, "api_key": "key"},
        )


class TestEmbeddingsUnit(EmbeddingsUnitTests):
    @property
    def embeddings_class(self) -> type[Embeddings]:
        return OllamaEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": "all-minilm"}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return (
            FROM_ENVIRONMENT,
            {"model": "all-minilm"},
            {"base_url": None, "api_key": "key"},
        )
