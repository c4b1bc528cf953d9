"""Small copies of the live tests' models, for tests of a server's behaviour rather than of a model's text.

SmolLM2 reduced to its first layer, with the template, the system prompt and the messages of the model that it replaces:
the same tokenizer, and so the same counts, in a fraction of the time. Its text is nonsense. Grammars, limits, context
windows and truncation work as with any other model.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from gguf_files import first_layer
from ollama_store import Store

from namel3ss_ollama import OllamaProvider
from namel3ss_ollama.embedded.store import find_model, ollama_folder

__all__ = ["one_layer", "with_one_layer"]

_COPIED = ("smollm2:135m", "smollm2-tools:135m", "smollm2-think:135m")
# Without a high penalty it repeats one token until a server's runner fails. With one thread per core, the threads would
# mostly wait for each other.
_PARAMETERS: dict[str, Any] = {"stop": ["<|im_end|>"], "repeat_penalty": 2.0, "repeat_last_n": 256, "num_thread": 1}


def one_layer(model: str) -> str:
    """The name of a model's copy, or the model's own if it has none."""
    return model.replace(":135m", ":1-layer") if model in _COPIED else model


def with_one_layer(url: str, weights: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Create the copies on a server, which keeps them, since a concurrent run may use them; for the engine in the
    process, in a store in `folder`, together with everything in the machine's own store."""
    small = first_layer(weights.read_bytes())
    if url.startswith("embedded:"):
        _in_a_store(small, folder)
        monkeypatch.setenv("OLLAMA_MODELS", str(folder))
    else:
        _on_a_server(small, url)


def _on_a_server(small: bytes, url: str) -> None:
    with OllamaProvider("unset", url) as provider:
        for model in _COPIED:
            shown = provider.sync.show_model(model)
            made = provider.sync.create_model(
                one_layer(model),
                files={"model.gguf": small},
                template=shown["template"],
                system=shown.get("system"),
                messages=shown.get("messages"),
                parameters=_PARAMETERS,
            )
            assert [progress["status"] for progress in made][-1] == "success"


def _in_a_store(small: bytes, folder: Path) -> None:
    own = ollama_folder()
    shutil.copytree(own / "manifests", folder / "manifests")
    for name in _COPIED:
        model, tag = one_layer(name).split(":")
        of = find_model(name)
        layers: dict[str, Any] = {"template": of.template, "messages": list(of.messages), "params": _PARAMETERS}
        if of.system:
            layers["system"] = of.system
        Store(folder).add(f"registry.ollama.ai/library/{model}/{tag}", small, **layers)
    for blob in (own / "blobs").iterdir():
        link = folder / "blobs" / blob.name
        if not link.exists():
            link.symlink_to(blob)
