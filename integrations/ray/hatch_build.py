"""Makes this package depend on the version of namel3ss-ollama that it was built with."""

from __future__ import annotations

from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class SameVersionOfTheCore(MetadataHookInterface):
    """Fills in `dependencies`: those of `[tool.hatch.metadata.hooks.custom]` and the core, pinned."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the dependencies to `metadata`, which already has the version."""
        metadata["dependencies"] = [f"namel3ss-ollama=={metadata['version']}", *self.config["dependencies"]]
