"""A small real model in this process, for machines without Ollama.

`OllamaProvider("smollm2:135m", base_url="embedded://")` is all that most people need of it: an httpx transport that
speaks Ollama's API, with llama.cpp behind it. Needs the extra `embedded`.

What is computed is real, and so are the counters. Models are those in Ollama's own store, where there is one, those
that `namel3ss-ollama models pull NAME --embedded` has fetched, and any GGUF file by its path.
"""

from namel3ss_ollama.embedded.engine import Engine
from namel3ss_ollama.embedded.refusal import Refused
from namel3ss_ollama.embedded.transport import EmbeddedTransport

__all__ = ["EmbeddedTransport", "Engine", "Refused"]
