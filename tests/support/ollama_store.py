"""An Ollama store for tests: manifests and blobs in the server's layout."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

MEDIA = "application/vnd.ollama.image."


class Store:
    """A store to be filled.

    Args:
        folder: Its folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def blob(self, data: bytes) -> str:
        """Add a blob; returns its digest."""
        digest = hashlib.sha256(data).hexdigest()
        path = self.folder / "blobs" / f"sha256-{digest}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return f"sha256:{digest}"

    def add(self, name: str, weights: bytes, **layers: Any) -> Path:
        """Add a model; `name` is host/namespace/model/tag, layers are text or values to write as JSON."""
        made = [{"mediaType": f"{MEDIA}model", "digest": self.blob(weights), "size": len(weights)}]
        for kind, value in layers.items():
            text = value if isinstance(value, str) else json.dumps(value)
            made.append({"mediaType": MEDIA + kind, "digest": self.blob(text.encode()), "size": len(text)})
        return self.manifest(name, {"schemaVersion": 2, "layers": made})

    def manifest(self, name: str, content: Any) -> Path:
        """Write a manifest: text unchanged, anything else as JSON."""
        path = self.folder / "manifests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path
