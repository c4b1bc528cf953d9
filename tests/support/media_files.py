"""Small files of images and audio."""

from __future__ import annotations

import base64
import io
import wave

__all__ = ["MP3", "PNG", "encoded", "wav"]

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
"""One pixel."""
MP3 = b"\xff\xfb\x90\x44" + bytes(413)
"""One frame."""


def wav(seconds: float, rate: int = 16_000) -> bytes:
    """Silence: mono, 16 bits per sample."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(bytes(2 * round(seconds * rate)))
    return file.getvalue()


def encoded(data: bytes) -> str:
    """Base64."""
    return base64.b64encode(data).decode("ascii")
