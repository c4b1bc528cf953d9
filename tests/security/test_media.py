"""The content of a message never causes a file to be read or a URL to be fetched."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from llama_index.core.base.llms.types import AudioBlock, ChatMessage, ImageBlock

from langchain_namel3ss_ollama import ChatOllama
from llama_index.llms.namel3ss_ollama import Ollama
from namel3ss_ollama import Image, OllamaProvider
from namel3ss_ollama.testing import OllamaServer

CONTENT = b"-----BEGIN PRIVATE KEY-----"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "abcd"  # a name that is base64, too
    path.write_bytes(CONTENT)
    return path


def references(file: Path, url: str) -> list[str]:
    """What an untrusted message could contain in place of an image."""
    return [str(file), file.as_uri(), f"file:{file}", "./abcd", "abcd", "~/abcd", f"{url}/cat.png", "//host/cat.png"]


def assert_nothing_leaked(server: OllamaServer) -> None:
    """Nothing was fetched, and no request contains the file."""
    packed = base64.b64encode(CONTENT)
    assert all(record.path == "/api/chat" and packed not in record.body for record in server.requests)


async def test_the_core(file: Path, ollama_server: OllamaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    async with OllamaProvider("llava", ollama_server.url) as provider:
        for name in references(file, ollama_server.url):
            for given in ([name], [{"path": name}], [{"url": name}]):
                for key in ("images", "audio"):
                    try:
                        await provider.achat([{"role": "user", "content": name, key: given}])
                    except (ValueError, TypeError):
                        pass
        assert_nothing_leaked(ollama_server)
        await provider.achat([{"role": "user", "content": "look", "images": [file]}])
        await provider.achat([{"role": "user", "content": "look", "images": [Image(file)]}])
    for record in ollama_server.requests[-2:]:
        assert base64.b64encode(CONTENT) in record.body  # a `Path` object is the caller's intention


async def test_langchain(file: Path, ollama_server: OllamaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    async with OllamaProvider("llava", ollama_server.url) as provider:
        model = ChatOllama(provider=provider)
        for name in references(file, ollama_server.url):
            blocks: list[dict[str, Any]] = [
                {"type": "image_url", "image_url": name},
                {"type": "image_url", "image_url": {"url": name}},
                {"type": "image", "url": name},
                {"type": "image", "source_type": "url", "url": name},
                {"type": "image", "base64": name},
                {"type": "image", "path": name},
                {"type": "image", "source": {"type": "url", "url": name}},
                {"type": "media", "mime_type": "image/png", "data": name},
                {"type": "audio", "url": name},
                {"type": "audio", "base64": name, "mime_type": "audio/wav"},
                {"type": "audio", "source_type": "url", "url": name},
                {"type": "input_audio", "input_audio": {"data": name, "format": "wav"}},
                {"type": "media", "mime_type": "audio/wav", "data": name},
                {"type": "text", "text": name},
            ]
            for block in blocks:
                try:
                    await model.ainvoke([HumanMessage([block])])
                except (ValueError, TypeError):
                    pass
    assert_nothing_leaked(ollama_server)


async def test_llama_index(file: Path, ollama_server: OllamaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    async with OllamaProvider("llava", ollama_server.url) as provider:
        llm = Ollama(provider=provider, context_window=4096)
        for name in references(file, ollama_server.url):
            for make in (
                lambda name: ChatMessage(role="user", blocks=[ImageBlock(url=name)]),
                lambda name: ChatMessage(role="user", blocks=[AudioBlock(url=name)]),
                lambda name: ChatMessage(role="user", content=name),
            ):
                try:
                    await llm.achat([make(name)])
                except (ValueError, TypeError):
                    pass
    assert_nothing_leaked(ollama_server)
