"""A small real model in this process, for machines without Ollama.

`OllamaProvider("smollm2:135m", base_url="embedded://")` is usually all you need: it uses an httpx transport that
implements Ollama's API with llama.cpp. Needs the extra `embedded`.

Answers and counters are real. Models are those in Ollama's own store, if there is one, those fetched by
`namel3ss-ollama models pull NAME --embedded`, and any GGUF file by its path.
"""

from namel3ss_ollama.embedded.engine import Engine
from namel3ss_ollama.embedded.refusal import Refused
from namel3ss_ollama.embedded.transport import EmbeddedTransport

__all__ = ["EmbeddedTransport", "Engine", "Refused"]
