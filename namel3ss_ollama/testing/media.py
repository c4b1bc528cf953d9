"""Images and audio in a request: how a server detects them, which it refuses, and their cost in tokens."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from typing import Literal

from . import versions
from .answers import llama_server_error
from .models import Model
from .values import as_list, as_object

__all__ = ["capabilities_of", "media_in", "media_tokens", "refusal_of_media"]

_IMAGE_TOKENS = 768  # imageNumTokens in server/prompt.go
_AUDIO_TOKENS_A_SECOND = 25  # model/models/gemma4/process_audio.go of 0.20: one for 40 ms
_MP3_BYTES_A_SECOND = 16_000
_WAV_BYTES_A_SECOND = 32_000


def capabilities_of(model: Model, version: str) -> list[str]:
    """A model's capabilities, as a server of this version lists them."""
    return [one for one in model.capabilities if one != "audio" or versions.AUDIO.on(version)]


def media_in(payload: Mapping[str, object], messages: Sequence[object]) -> list[str]:
    """The images and audio of a prompt and of messages, in base64."""
    given = [one for holder in [payload, *messages] for one in as_list(as_object(holder).get("images"))]
    return [one for one in given if isinstance(one, str)]


def media_tokens(encoded: str) -> int:
    """The number of tokens of an image or a recording."""
    data = _bytes_of(encoded)
    kind = _kind(data)
    if kind == "image":
        return _IMAGE_TOKENS
    told = int.from_bytes(data[28:32], "little") or _WAV_BYTES_A_SECOND  # the byte rate in a WAV's header
    return math.ceil(len(data) / (told if kind == "wav" else _MP3_BYTES_A_SECOND) * _AUDIO_TOKENS_A_SECOND)


def refusal_of_media(media: Sequence[str], model: Model, version: str) -> tuple[int, str] | None:
    """The status and text of a server's refusal if the model does not support an image or a recording; else None.

    Since 0.30.0 llama-server refuses them (llm/llama_server.go: Completion passes its answer through): both for a model
    without vision and audio, and audio for a model without audio. Before, the runner of a model without vision ignored
    them, and that of another decoded everything but WAV, or everything if the model lacks audio, as an image (0.20:
    runner/ollamarunner/runner.go, model/models/gemma4/model.go).
    """
    kinds = {_kind(_bytes_of(one)) for one in media}
    able = capabilities_of(model, version)
    sees, hears = "vision" in able, "audio" in able
    if not versions.REFUSES_MEDIA.on(version):
        unread = kinds - ({"image", "wav"} if hears else {"image"})
        if (sees or hears) and unread:
            return 500, "Failed to create new sequence: failed to process inputs: image: unknown format"
        return None
    said = ""
    if kinds and not (sees or hears):
        said = "Multimodal data provided, but model does not support multimodal requests."
    elif (kinds - {"image"} and not hears) or ("image" in kinds and not sees):
        said = "Failed to load image or audio file"
    return (400, llama_server_error(said, 400, "invalid_request_error")) if said else None


def _bytes_of(encoded: str) -> bytes:
    try:
        return base64.b64decode(encoded)
    except binascii.Error:
        return b""


def _kind(data: bytes) -> Literal["wav", "mp3", "image"]:
    """As in llm/media.go: anything that is not audio is an image."""
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return "wav"
    if data[:3] == b"ID3" or (len(data) > 1 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0):
        return "mp3"
    return "image"
