"""The models of a test server.

Names follow Ollama: a name without a tag means `:latest`, and a request may use either form. With `models=None`, every
name is accepted and has every capability.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

__all__ = ["CAPABILITIES", "DEFAULT_MODELS", "Model", "Models", "canonical"]

CAPABILITIES = ("completion", "tools", "insert", "vision", "audio", "thinking", "embedding", "decision")
"""The capabilities of a model, as `/api/show` names them."""


def canonical(name: str) -> str:
    """The full name: `llama3.2` is `llama3.2:latest`."""
    return name if ":" in name.rsplit("/", 1)[-1] else f"{name}:latest"


@dataclass(frozen=True)
class Model:
    """One model: its name, its capabilities, and what `/api/show`, `/api/tags` and `/api/ps` report about it.

    Raises `ValueError` for an empty name, an unknown capability or a length that is not positive.
    """

    name: str
    capabilities: tuple[str, ...] = ("completion", "tools")
    family: str = "llama"
    """The architecture: `general.architecture`, and the prefix of `<family>.context_length`."""
    context_length: int = 8192
    """Tokens."""
    embedding_length: int = 384
    """Dimensions of the vectors from `/api/embed`."""
    parameter_size: str = "134.52M"
    quantization_level: str = "Q4_1"
    size: int = 98_363_315
    """Bytes."""
    format: Literal["gguf", "safetensors"] = "gguf"
    """How its weights are stored. MLX runs those in safetensors: up to 0.33 it ignores `format`."""
    parser: str = ""
    """The built-in parser of its output, if it has one, as newer servers report in `/api/show`: "qwen3.5". If such a
    model can think, `format` has pitfalls on most versions: docs/compatibility.md."""
    call_grammar: bool = False
    """Whether its tool calls have their own grammar, which newer servers cannot combine with a `format`."""
    template: str = "{{ .Prompt }}"
    system: str = ""
    parameters: str = 'stop                           "<|im_end|>"'
    """As `/api/show` writes them: a name, whitespace, a value, one per line."""
    think_values: tuple[bool | str, ...] = (True, False)
    """The values of `think` for a thinking model, as newer servers report in `/api/show`: levels, or on and off."""
    think_default: bool | str = True
    """The value used if a request sends none, or an unknown one."""

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("name: a model needs a name")
        unknown = [one for one in self.capabilities if one not in CAPABILITIES]
        if unknown:
            raise ValueError(f"capabilities: {unknown[0]!r} is none of {', '.join(CAPABILITIES)}")
        if self.context_length < 1:
            raise ValueError(f"context_length: {self.context_length} is not positive")
        if self.embedding_length < 1:
            raise ValueError(f"embedding_length: {self.embedding_length} is not positive")
        if self.think_default not in self.think_values:
            known = ", ".join(map(repr, self.think_values))
            raise ValueError(f"think_default: {self.think_default!r} is none of think_values ({known})")

    @property
    def cloud(self) -> bool:
        """Whether it runs in Ollama's cloud: its tag is `cloud` or ends in `-cloud`."""
        tag = self.name.rpartition(":")[2]  # internal/modelref: a name without such a tag is not a cloud model
        return self.name != tag and (tag == "cloud" or tag.endswith("-cloud"))

    @property
    def digest(self) -> str:
        """64 hex digits that depend only on the name."""
        return hashlib.sha256(self.name.encode()).hexdigest()


DEFAULT_MODELS: tuple[Model, ...] = (
    Model("llama3.2:latest", ("completion", "tools"), context_length=131072),
    Model("smollm2:135m", ("completion",)),
    Model("qwen3:latest", ("completion", "tools", "thinking"), family="qwen3", context_length=40960),
    Model("llava:latest", ("completion", "vision"), context_length=32768),
    Model("codellama:latest", ("completion", "insert"), context_length=16384),
    Model("all-minilm:latest", ("embedding",), family="bert", context_length=512, quantization_level="F16"),
)
"""The models of a server by default."""


class Models:
    """The server's models by name. Safe to change from a test while the server answers.

    >>> models = Models(["llama3.2", Model("tiny", ("completion",))])
    >>> "llama3.2:latest" in models, "tiny" in models, "nope" in models
    (True, True, False)
    """

    def __init__(self, models: Iterable[str | Model] | None = DEFAULT_MODELS) -> None:
        self.accept_any = models is None
        self._lock = threading.Lock()
        self._models: dict[str, Model] = {}
        if isinstance(models, str):
            raise TypeError("models: expected a list of names, not one string")
        for model in models or ():
            self.add(model)

    def add(self, model: str | Model) -> Model:
        """Add or replace a model. A bare name gives a model with completion and tools."""
        one = Model(model) if isinstance(model, str) else model
        one = replace(one, name=canonical(one.name))
        with self._lock:
            self._models[one.name] = one
        return one

    def remove(self, name: str) -> None:
        """Remove a model. Raises `KeyError` if there is none of that name."""
        with self._lock:
            del self._models[canonical(name)]

    def get(self, name: str) -> Model | None:
        """The model of that name, or None. With `models=None`, any name gives a model with every capability."""
        with self._lock:
            found = self._models.get(canonical(name))
        if found is None and self.accept_any and name:
            return Model(canonical(name), CAPABILITIES)
        return found

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def __iter__(self) -> Iterator[Model]:
        with self._lock:
            return iter(list(self._models.values()))

    def __len__(self) -> int:
        return len(self._models)
