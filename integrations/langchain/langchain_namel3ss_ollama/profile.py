"""What a model can do, as LangChain's profile, and how long a text is, by estimate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_core.language_models import ModelProfile

__all__ = ["estimated_tokens", "profile_of"]

_BYTES_A_TOKEN = 4


def estimated_tokens(text: str) -> int:
    """Tokens of a text, by an estimate: four bytes of UTF-8 each.

    Ollama has no endpoint that counts. For English prose the estimate is mostly within a quarter of the truth; code
    and other scripts are further off.
    """
    return math.ceil(len(text.encode("utf-8", "surrogatepass")) / _BYTES_A_TOKEN)


def profile_of(
    model: str, shown: Mapping[str, Any], running: Iterable[Mapping[str, Any]], num_ctx: int | None, limit: int | None
) -> ModelProfile:
    """The profile of a model.

    Args:
        model: Its name.
        shown: What `/api/show` says.
        running: The models that are loaded, as `/api/ps` says.
        num_ctx: The context window that requests ask for, if they do.
        limit: The most tokens of an answer, if there is a limit.
    """
    able = frozenset(map(str, shown.get("capabilities") or ()))
    tools = "tools" in able
    profile: dict[str, Any] = {
        "name": model,
        "text_inputs": True,
        "image_inputs": "vision" in able,
        "image_url_inputs": False,
        "image_tool_message": "vision" in able,
        "pdf_inputs": False,
        "audio_inputs": False,
        "video_inputs": False,
        "text_outputs": True,
        "image_outputs": False,
        "audio_outputs": False,
        "video_outputs": False,
        "reasoning_output": "thinking" in able,
        "tool_calling": tools,
        "tool_choice": tools,
        "tool_call_streaming": tools,
        "temperature": True,
        # An agent that has tools asks for structured output by a schema where this is true, and the grammar of a
        # schema leaves the model no way to call a tool. Where it is false the agent uses a tool for it, which works.
        "structured_output": not tools,
    }
    if (window := _window(model, shown, running, num_ctx)) is not None:
        profile["max_input_tokens"] = window
    if limit is not None and limit > 0:
        profile["max_output_tokens"] = limit
    return profile  # type: ignore[return-value] # a TypedDict whose keys depend on what is known


def _window(
    model: str, shown: Mapping[str, Any], running: Iterable[Mapping[str, Any]], num_ctx: int | None
) -> int | None:
    """The context window in force, as far as it is known; else the longest that the model can have."""
    info = shown.get("model_info") or {}
    trained = info.get(f"{info.get('general.architecture')}.context_length")
    trained = trained if isinstance(trained, int) else None
    asked = num_ctx or _loaded_with(model, running) or _configured(shown)
    if asked is None:
        return trained
    return min(asked, trained) if trained is not None else asked


def _loaded_with(model: str, running: Iterable[Mapping[str, Any]]) -> int | None:
    names = {model, f"{model}:latest"}
    for loaded in running:
        if {loaded.get("name"), loaded.get("model")} & names and loaded.get("context_length"):
            return int(loaded["context_length"])
    return None


def _configured(shown: Mapping[str, Any]) -> int | None:
    for line in str(shown.get("parameters") or "").splitlines():
        name, _, value = line.partition(" ")
        if name == "num_ctx" and value.strip().isdigit():
            return int(value)
    return None
