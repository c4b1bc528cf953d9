"""The test server against a real one: the same requests get answers of the same shape."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from one_layer import one_layer

from namel3ss_ollama.testing import Model, OllamaServer

pytestmark = pytest.mark.server_only("it is about the shapes of a server's answers")
CHAT, TOOLS, THINK = map(one_layer, ("smollm2:135m", "smollm2-tools:135m", "smollm2-think:135m"))
EMBED = "all-minilm:22m"
HELLO = [{"role": "user", "content": "Say hello."}]
SHORT = {"num_predict": 4, "temperature": 0, "seed": 1}
OFTEN_LEFT_OUT = {"license", "system", "projector_info", "tensors", "messages", "modified_at"}
"""Fields of a model that depend on how it was created."""
TOOL = {"type": "function", "function": {"name": "f", "description": "", "parameters": {"type": "object"}}}

REQUESTS: dict[str, tuple[str, str, Any]] = {
    "chat": ("POST", "/api/chat", {"model": CHAT, "messages": HELLO, "options": SHORT}),
    "chat, one object": ("POST", "/api/chat", {"model": CHAT, "messages": HELLO, "options": SHORT, "stream": False}),
    "chat, thinking": ("POST", "/api/chat", {"model": THINK, "messages": HELLO, "options": SHORT, "think": False}),
    "chat, json": ("POST", "/api/chat", {"model": CHAT, "messages": HELLO, "options": SHORT, "format": "json"}),
    "chat, load": ("POST", "/api/chat", {"model": CHAT, "messages": []}),
    "chat, unload": ("POST", "/api/chat", {"model": CHAT, "messages": [], "keep_alive": 0}),
    "generate": ("POST", "/api/generate", {"model": CHAT, "prompt": "Say hello.", "options": SHORT}),
    "generate, one object": (
        "POST", "/api/generate", {"model": CHAT, "prompt": "Say hello.", "options": SHORT, "stream": False},
    ),
    "generate, load": ("POST", "/api/generate", {"model": CHAT}),
    "embed": ("POST", "/api/embed", {"model": EMBED, "input": "hello"}),
    "embed, many": ("POST", "/api/embed", {"model": EMBED, "input": ["hello", "world"]}),
    "embed, none": ("POST", "/api/embed", {"model": EMBED, "input": []}),
    "tags": ("GET", "/api/tags", None),
    "ps": ("GET", "/api/ps", None),
    "show": ("POST", "/api/show", {"model": CHAT}),
    "version": ("GET", "/api/version", None),
    "no such blob": ("HEAD", "/api/blobs/sha256:" + "0" * 64, None),
    "no such path": ("GET", "/api/nothing", None),
    "no such model": ("POST", "/api/chat", {"model": "nope", "messages": HELLO}),
    "no such model, generate": ("POST", "/api/generate", {"model": "nope", "prompt": "x"}),
    "no such model, show": ("POST", "/api/show", {"model": "nope"}),
    "no such model, delete": ("DELETE", "/api/delete", {"model": "nope"}),
    "no such model, copy": ("POST", "/api/copy", {"source": "nope", "destination": "nope2"}),
    "no json": ("POST", "/api/chat", b"xyz"),
    "an embedding model": ("POST", "/api/chat", {"model": EMBED, "messages": HELLO}),
    "no tools": ("POST", "/api/chat", {"model": CHAT, "messages": HELLO, "tools": [TOOL]}),
    "no thinking": ("POST", "/api/chat", {"model": CHAT, "messages": HELLO, "think": True}),
    "a wrong option": ("POST", "/api/chat", {"model": CHAT, "messages": HELLO, "options": {"temperature": "hot"}}),
}  # fmt: skip


def shape(value: Any, path: str = "") -> Any:
    """A value without its texts and numbers, except those that describe an error."""
    if isinstance(value, dict):
        known = {key: item for key, item in value.items() if key not in OFTEN_LEFT_OUT and item is not None}
        if "model_info" in known:
            known["model_info"] = {key: known["model_info"][key] for key in ("general.architecture", "general.type")}
        return {key: shape(item, key) for key, item in known.items() if key not in ("parent_model", "families")}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    if path in ("error", "done", "done_reason", "role"):
        return value
    return type(value).__name__ if not isinstance(value, (int, float)) or isinstance(value, bool) else "number"


def ask(url: str, name: str) -> dict[str, Any]:
    method, path, payload = REQUESTS[name]
    content = payload if isinstance(payload, bytes) or payload is None else json.dumps(payload).encode()
    answer = httpx.request(method, url + path, content=content, timeout=120)
    seen: dict[str, Any] = {"status": answer.status_code, "type": answer.headers.get("content-type")}
    if seen["type"] == "application/x-ndjson":
        seen["chunked"] = answer.headers.get("transfer-encoding") == "chunked"
    try:
        lines = [json.loads(line) for line in answer.text.split("\n") if line]
    except ValueError:
        return {**seen, "text": answer.text}
    if len(lines) > 1:  # a stream: the common shape of its lines, and the last
        kinds = [shape(line) for line in lines]
        assert all(kind == kinds[0] for kind in kinds[:-1])
        return {**seen, "first": kinds[0], "last": kinds[-1]}
    return {**seen, "body": [shape(line) for line in lines]}


@pytest.mark.parametrize("name", REQUESTS)
def test_the_same_shape(name: str, copies: str) -> None:
    models = [
        Model(CHAT, capabilities=("completion",), family="llama"),
        Model(TOOLS, capabilities=("completion", "tools"), family="llama"),
        Model(THINK, capabilities=("completion", "thinking"), family="llama"),
        Model(EMBED, capabilities=("embedding",), family="bert"),
    ]
    with OllamaServer(models) as server:
        server.reply(["Hello", "!"], path="/api/chat", done_reason="length")
        server.reply(["Hello", "!"], path="/api/generate", done_reason="length")
        if name == "ps":
            for url in (copies, server.url):
                ask(url, "generate, load")
        assert ask(server.url, name) == ask(copies, name)
