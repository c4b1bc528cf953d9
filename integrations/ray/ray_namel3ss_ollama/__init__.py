"""Ollama for Ray Data: answers a column of prompts, or embeds a column of texts, on the namel3ss-ollama core."""

from ray_namel3ss_ollama._version import __version__
from ray_namel3ss_ollama.datasets import ask, embed

__all__ = ["__version__", "ask", "embed"]
