"""How a real server of version 0.9 handles inputs that don't fit, and that the test server does the same."""

from __future__ import annotations

import logging
import math
from typing import Any

import httpx
import pytest
from one_layer import one_layer

from namel3ss_ollama import ContextWindowExceededError, OllamaProvider
from namel3ss_ollama.testing import Model, OllamaServer

pytestmark = pytest.mark.server_only("it is about how a server cuts")
CHAT, EMBED = one_layer("smollm2:135m"), "all-minilm:22m"
SMALL = {"num_ctx": 256, "num_predict": 1, "temperature": 0}
TALK = [{"role": "user", "content": f"This is message number {index} of this long chat."} for index in range(40)]
LONG = " ".join(f"word {index}" for index in range(400))
REFUSED = "input length exceeds maximum context length"
REQUESTS: dict[str, tuple[str, dict[str, Any], Any]] = {
    "chat that fits": ("/api/chat", {"messages": TALK[:4]}, "below the window"),
    "chat": ("/api/chat", {"messages": TALK}, "below the window"),
    "chat, not to be cut": ("/api/chat", {"messages": TALK, "truncate": False}, "below the window"),
    "chat, one message": ("/api/chat", {"messages": [{"role": "user", "content": LONG}]}, "the window"),
    "generate": ("/api/generate", {"prompt": LONG}, "the window"),
    "embed": ("/api/embed", {"input": [LONG, "short"]}, "the window and one"),
    "embed, not to be cut": ("/api/embed", {"input": ["short", LONG], "truncate": False}, REFUSED),
}


def asked(url: str, path: str, payload: dict[str, Any]) -> Any:
    model, options = (EMBED, {"num_ctx": 256}) if path == "/api/embed" else (CHAT, SMALL)
    answer = httpx.post(url + path, json={"stream": False, "model": model, "options": options, **payload}, timeout=120)
    if answer.status_code != 200:
        assert answer.status_code == 400
        return answer.json()["error"]
    count = answer.json()["prompt_eval_count"]
    return {256: "the window", 257: "the window and one"}.get(count, "below the window" if count < 256 else count)


@pytest.mark.parametrize("name", REQUESTS)
def test_the_same_cut(name: str, copies: str) -> None:
    path, payload, expected = REQUESTS[name]
    version = httpx.get(f"{copies}/api/version").json()["version"]
    if not version.startswith("0.9."):
        pytest.skip(f"written down from a server 0.9.3; this is {version}")
    models = [Model(CHAT, ("completion",)), Model(EMBED, ("embedding",), family="bert", context_length=512)]
    with OllamaServer(models, version=version) as server:
        assert asked(server.url, path, payload) == asked(copies, path, payload) == expected


async def test_a_text_that_is_too_long_to_embed(base_url: str, caplog: pytest.LogCaptureFixture) -> None:
    texts = [" ".join(f"The sentence of number {index} is here." for index in range(100)), "short"]  # 600 words
    async with OllamaProvider(EMBED, base_url, num_ctx=64, options={"num_thread": 1}) as provider:
        ignored = await provider.embed(texts, on_truncation="ignore")
        assert ignored.usage["prompt_tokens"] == 64 + 1
        assert [one for one in caplog.records if one.levelno >= logging.WARNING] == []
        warned = await provider.embed(texts)
        assert warned.truncated == (0,)
        assert warned.embeddings[0] == pytest.approx(ignored.embeddings[0], abs=1e-3)
        assert "input[0]" in caplog.text
        with pytest.raises(ContextWindowExceededError) as caught:
            await provider.embed(texts, on_truncation="error")
        assert caught.value.index == 0
        split = await provider.embed(texts, on_truncation="split")
        assert split.truncated == ()
        assert split.usage["prompt_tokens"] > 600
        assert math.hypot(*split.embeddings[0]) == pytest.approx(1, abs=1e-3)
        assert split.embeddings[1] == pytest.approx(warned.embeddings[1], abs=1e-3)
