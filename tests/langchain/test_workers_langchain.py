"""The chat model, the embeddings and the LLM in a program that gevent has patched."""

from __future__ import annotations

import subprocess
import sys

from programs import prepare

from namel3ss_ollama.testing import OllamaServer

PROGRAM = """
import gevent.monkey; gevent.monkey.patch_all()
import asyncio, gevent
from langchain_core.runnables import RunnableLambda
from langchain_namel3ss_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM

text = "one two three four five six"
model = ChatOllama(model="llama3.2")
assert model.invoke("x").content == text
assert "".join(chunk.content for chunk in model.stream("x")) == text
chain = model | RunnableLambda(lambda message: message.content)
assert chain.batch(["a", "b", "c"]) == [text] * 3
greenlets = [gevent.spawn(model.invoke, "x") for _ in range(5)]
assert [greenlet.get().content for greenlet in greenlets] == [text] * 5
async def collect():
    return "".join([chunk.content async for chunk in model.astream("x")])
assert asyncio.run(collect()) == text
assert len(OllamaEmbeddings(model="all-minilm").embed_documents(["a", "b"])) == 2
assert OllamaLLM(model="llama3.2").invoke("x") == text
"""


def test_under_gevent(ollama_server: OllamaServer) -> None:
    program = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(program, env=prepare(ollama_server), capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
