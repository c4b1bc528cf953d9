"""The available models: Ollama's own store, fetched weights, and any GGUF file by its path.

Ollama's store is read and never written. It has one manifest per model, which names its files (blobs) by digest: the
weights, and optionally a template, a system prompt, options, and initial messages.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from namel3ss_ollama.embedded.digests import sha256_of
from namel3ss_ollama.embedded.gguf import GGUF, read_gguf
from namel3ss_ollama.embedded.refusal import Refused
from namel3ss_ollama.embedded.weights import CATALOG, kept, memory

__all__ = ["Model", "all_models", "canonical", "find_model", "ollama_folder"]

logger = logging.getLogger("namel3ss_ollama")
_MEDIA = "application/vnd.ollama.image."


@dataclass(frozen=True)
class Model:
    """A model that can be loaded.

    Attributes:
        name: Its name, as it is listed.
        path: The weights.
        digest: Its identifier, 64 hexadecimal digits.
        template: Its prompt template in Ollama's language; "" if only the weights have one.
        system: Its system prompt.
        parameters: Default options for requests.
        messages: Messages that precede every conversation.
        license: Its licence's text or name.
        sha256: The expected digest of its weights; "" if unknown.
    """

    name: str
    path: Path
    digest: str
    template: str = ""
    system: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Mapping[str, Any], ...] = ()
    license: str = ""
    sha256: str = ""

    @property
    def header(self) -> GGUF:
        """The header of the weights."""
        status = self.path.stat()
        return _header(self.path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=32)
def _header(path: Path, _changed: int, _size: int) -> GGUF:
    return read_gguf(path)


def canonical(name: str) -> str:
    """A name as listed: with its tag, and without Ollama's defaults."""
    name = name.removeprefix("registry.ollama.ai/").removeprefix("library/")
    return name if ":" in name.rsplit("/", 1)[-1] else f"{name}:latest"


def ollama_folder() -> Path:
    """Ollama's store: OLLAMA_MODELS, or its folder in the user's home."""
    given = os.environ.get("OLLAMA_MODELS", "").strip()
    return Path(given).expanduser() if given else Path.home() / ".ollama" / "models"


def find_model(name: str) -> Model:
    """The model of a name, or of a path to a GGUF file.

    Raises:
        Refused: There is none (404), or it cannot be read.
    """
    known = canonical(name)
    manifest = _manifests().get(known)
    if manifest is not None and (found := _by_manifest(known, manifest)) is not None:
        return found
    if known in CATALOG and kept(known).exists():
        return _fetched(known)
    if name.endswith(".gguf") or name.startswith((os.sep, "./", "../", "~")):
        return _by_path(name)
    raise Refused(404, f'model "{name}" not found, try pulling it first')


def all_models() -> list[Model]:
    """Every model that has a name; unreadable ones are skipped, with a warning in the log."""
    models: dict[str, Model] = {name: _fetched(name) for name in CATALOG if kept(name).exists()}
    for name, manifest in _manifests().items():
        try:
            if (model := _by_manifest(name, manifest)) is not None:
                models[name] = model
        except Refused as refused:
            logger.warning("a model is left out: %s", refused)
    return [model for model in models.values() if _is_readable(model)]


def _is_readable(model: Model) -> bool:
    try:
        return bool(model.header)
    except Refused as refused:
        logger.warning("a model is left out: %s", refused)
        return False


def _by_path(name: str) -> Model:
    try:
        path = Path(name).expanduser()
    except RuntimeError as error:  # the home folder of an unknown user
        raise Refused(404, f"model {name!r} not found: {error}") from error
    if path.is_dir():
        raise Refused(400, f"{path} is a folder: name the GGUF file in it")
    if not path.is_file():
        raise Refused(404, f"model {str(path)!r} not found: there is no such file")
    read_gguf(path)
    status = path.stat()
    identity = f"{path.resolve()}:{status.st_size}:{status.st_mtime_ns}"
    _tell_of_names(path, status.st_size, status.st_mtime_ns)
    digest = hashlib.sha256(identity.encode()).hexdigest()
    return Model(str(path), path, digest, sha256=_digest_in(path.resolve().name))


@lru_cache(maxsize=32)
def _tell_of_names(path: Path, size: int, _changed: int) -> None:
    """Warn, once per file, that its weights also have a name, under which they use another template."""
    names = [
        model.name
        for model in all_models()
        if model.path.stat().st_size == size
        and (model.template or model.system or model.messages)
        and (path.samefile(model.path) or sha256_of(path, memory()) == model.sha256)
    ]
    if names:
        logger.warning(
            "%s holds the weights of %s: loaded by its path, a file has its own template, and no system prompt or "
            "options; use the name to get the model's",
            path,
            " and ".join(names),
        )


def _digest_in(name: str) -> str:
    """The digest in a blob's name; "" for other files."""
    found = _BLOB.fullmatch(name)
    return found[1] if found else ""


_BLOB = re.compile(r"sha256-([0-9a-f]{64})")


def _fetched(name: str) -> Model:
    weights = CATALOG[name]
    return Model(
        name,
        kept(name),
        weights.sha256,
        weights.template,
        parameters=weights.parameters,
        license=weights.license,
        sha256=weights.sha256,
    )


def _manifests() -> dict[str, Path]:
    """The manifests in Ollama's store, by the name that Ollama lists."""
    root = ollama_folder() / "manifests"
    return {name: path for path in _files(root) if (name := _listed(path.relative_to(root).parts))}


def _files(root: Path) -> Iterator[Path]:
    yield from sorted(path for path in root.glob("*/*/*/*") if path.is_file())


def _listed(parts: tuple[str, ...]) -> str:
    """Host, namespace, model and tag as a name, without Ollama's defaults."""
    host, namespace, model, tag = parts
    shown = [] if host == "registry.ollama.ai" else [host]
    if shown or namespace != "library":
        shown.append(namespace)
    return "/".join([*shown, model]) + f":{tag}"


def _by_manifest(name: str, manifest: Path) -> Model | None:
    """The model of a manifest; None if the store lacks its weights."""
    try:
        data = manifest.read_bytes()
        layers = json.loads(data)["layers"]
        files = {layer["mediaType"].removeprefix(_MEDIA): _blob(layer["digest"]) for layer in layers}
        if "model" not in files or not files["model"].is_file():
            return None
        texts = {kind: path.read_text("utf-8") for kind, path in files.items() if kind in _TEXTS}
        model = Model(
            name,
            files["model"],
            hashlib.sha256(data).hexdigest(),
            texts.get("template", ""),
            texts.get("system", ""),
            dict(json.loads(texts.get("params", "{}"))),
            tuple(map(dict, json.loads(texts.get("messages", "[]")))),
            texts.get("license", ""),
            _digest_in(files["model"].name),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused(500, f"the manifest of {name} in {ollama_folder()} cannot be read: {error}") from error
    if "adapter" in files:
        raise Refused(400, f"{name} has an adapter, which the embedded engine does not support")
    return model


_TEXTS = frozenset({"template", "system", "params", "messages", "license"})


def _blob(digest: str) -> Path:
    algorithm, _, value = digest.partition(":")
    if algorithm != "sha256" or not value.isalnum():
        raise ValueError(f"{digest!r} is not a digest")
    return ollama_folder() / "blobs" / f"{algorithm}-{value}"
