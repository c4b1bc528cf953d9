"""The LLM and the embeddings in a program that gevent has patched."""

from __future__ import annotations

import subprocess
import sys

from programs import prepare

from namel3ss_ollama.testing import OllamaServer

PROGRAM = """
import gevent.monkey; gevent.monkey.patch_all()
import asyncio, gevent
from llama_index.core.llms import ChatMessage
from llama_index.embeddings.namel3ss_ollama import OllamaEmbedding
from llama_index.llms.namel3ss_ollama import Ollama

text = "one two three four five six"
model = Ollama(model="llama3.2")
assert model.complete("x").text == text
assert "".join(r.delta or "" for r in model.stream_chat([ChatMessage("x")])) == text
greenlets = [gevent.spawn(model.complete, "x") for _ in range(5)]
assert [greenlet.get().text for greenlet in greenlets] == [text] * 5
assert asyncio.run(model.acomplete("x")).text == text
assert len(OllamaEmbedding(model_name="all-minilm").get_text_embedding_batch(["a", "b"])) == 2
"""


def test_under_gevent(ollama_server: OllamaServer) -> None:
    program = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(program, env=prepare(ollama_server), capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
