"""Images and audio of a request: what a server takes them for, which it refuses, and the tokens that they cost."""

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
    """What a model can do, as a server of this version lists it."""
    return [one for one in model.capabilities if one != "audio" or versions.AUDIO.on(version)]


def media_in(payload: Mapping[str, object], messages: Sequence[object]) -> list[str]:
    """The images and audio of a prompt and of messages, in base64."""
    given = [one for holder in [payload, *messages] for one in as_list(as_object(holder).get("images"))]
    return [one for one in given if isinstance(one, str)]


def media_tokens(encoded: str) -> int:
    """How many tokens an image or a recording is."""
    data = _bytes_of(encoded)
    kind = _kind(data)
    if kind == "image":
        return _IMAGE_TOKENS
    told = int.from_bytes(data[28:32], "little") or _WAV_BYTES_A_SECOND  # the byte rate in a WAV's header
    return math.ceil(len(data) / (told if kind == "wav" else _MP3_BYTES_A_SECOND) * _AUDIO_TOKENS_A_SECOND)


def refusal_of_media(media: Sequence[str], model: Model, version: str) -> tuple[int, str] | None:
    """Status and text of a server's refusal where the model cannot take an image or a recording; else None.

    Since 0.30.0 llama-server refuses (llm/llama_server.go: Completion hands on what it answers): a model that can
    neither see nor hear takes neither, and audio that one cannot hear is not loaded. Before, the runner of a model that
    cannot see took no notice, and that of another tried to decode all that is no WAV, or all that there is where the
    model cannot hear, as an image (0.20: runner/ollamarunner/runner.go, model/models/gemma4/model.go).
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
    """As llm/media.go has it: what is no audio is an image."""
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return "wav"
    if data[:3] == b"ID3" or (len(data) > 1 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0):
        return "mp3"
    return "image"
