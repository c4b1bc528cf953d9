"""A model's capabilities as a LangChain profile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_core.language_models import ModelProfile

__all__ = ["profile_of"]


def profile_of(
    model: str, shown: Mapping[str, Any], window: int | None, limit: int | None, *, image_urls: bool
) -> ModelProfile:
    """The profile of a model.

    Args:
        model: Its name.
        shown: The response of `/api/show`.
        window: The context window of requests, in tokens; None if the server does not report it, in which case the
            length that the model was trained for is used.
        limit: The maximum number of tokens of an answer, if any.
        image_urls: Whether images given as URLs are fetched.
    """
    able = frozenset(map(str, shown.get("capabilities") or ()))
    tools, vision = "tools" in able, "vision" in able
    profile: dict[str, Any] = {
        "name": model,
        "text_inputs": True,
        "image_inputs": vision,
        "image_url_inputs": vision and image_urls,
        "image_tool_message": vision,
        "pdf_inputs": False,
        "audio_inputs": "audio" in able,
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
        # If this is true, an agent with tools sends a schema for structured output, and the grammar of a schema keeps
        # the model from calling a tool. If it is false, the agent uses a tool for structured output, which works.
        "structured_output": not tools,
    }
    if (longest := window or _trained(shown)) is not None:
        profile["max_input_tokens"] = longest
    if limit is not None and limit > 0:
        profile["max_output_tokens"] = limit
    return profile  # type: ignore[return-value] # a TypedDict whose keys depend on what is known


def _trained(shown: Mapping[str, Any]) -> int | None:
    info = shown.get("model_info") or {}
    trained = info.get(f"{info.get('general.architecture')}.context_length")
    return trained if isinstance(trained, int) else None
