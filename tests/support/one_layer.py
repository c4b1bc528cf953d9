"""Small copies of the models of the live tests, for what a server does rather than what a model says.

SmolLM2 with its first layer alone, under the template, the system prompt and the messages of the model that it stands
for: the same tokenizer, hence the same counts, at a small part of the time. What it says is nonsense. A grammar, a
limit, a window and a cut hold for it as for any other.
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

_STAND_FOR = ("smollm2:135m", "smollm2-tools:135m", "smollm2-think:135m")
# Without a high penalty it writes one token for ever, at which a server's runner gives up. A thread for each core would
# only wait for the others.
_PARAMETERS: dict[str, Any] = {"stop": ["<|im_end|>"], "repeat_penalty": 2.0, "repeat_last_n": 256, "num_thread": 1}


def one_layer(model: str) -> str:
    """The name of a model's copy; that of a model without one is its own."""
    return model.replace(":135m", ":1-layer") if model in _STAND_FOR else model


def with_one_layer(url: str, weights: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the copies on a server, which keeps them, since another run may use them at that time; for the engine in
    the process, in a store in `folder` which has all that is in the one of the machine."""
    small = first_layer(weights.read_bytes())
    if url.startswith("embedded:"):
        _in_a_store(small, folder)
        monkeypatch.setenv("OLLAMA_MODELS", str(folder))
    else:
        _on_a_server(small, url)


def _on_a_server(small: bytes, url: str) -> None:
    with OllamaProvider("unset", url) as provider:
        for model in _STAND_FOR:
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
    for name in _STAND_FOR:
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
