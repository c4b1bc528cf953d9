"""Images and audio in the API's form, base64, and the duration of audio.

No I/O except reading a file given as a path. The API has one list for both, `images`, and a server detects the type of
each from its first bytes; `_is_audio` checks the same bytes.
"""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path

__all__ = ["Audio", "Image", "Media", "audio_seconds"]

_HEAD = 1024
"""How many characters of base64 are inspected to detect a file type: 768 bytes, which include a WAV's byte rate."""
_MP3_BYTES_A_SECOND = 16_000
_WAV_BYTES_A_SECOND = 32_000
"""The byte rate of speech at 16 kHz, for headers without one."""
_BYTE_RATES = range(1_000, 20_000_000)
"""The range of plausible byte rates in a header."""


class Media:
    """A file for a model, in base64: the base of `Image` and `Audio`.

    Args:
        source: `bytes` of the file; a path (`pathlib.Path`, read when the object is made); or a string holding base64
            or a `data:` URL. A plain string is never treated as a file name.

    Attributes:
        base64: The file, in base64.

    Raises:
        ValueError: The file cannot be read, is empty, or the string is not base64.
        TypeError: The source is of another type.
    """

    __slots__ = ("base64",)

    _argument = "media"
    _noun = "file"
    _data_url = "data:...;base64,..."
    base64: str

    def __init__(self, source: bytes | bytearray | os.PathLike[str] | str) -> None:
        if isinstance(source, (bytes, bytearray)):
            encoded = base64.b64encode(source).decode("ascii")
        elif isinstance(source, os.PathLike):
            try:
                encoded = base64.b64encode(Path(source).read_bytes()).decode("ascii")
            except OSError as error:
                raise ValueError(f"{self._argument}: cannot read {os.fspath(source)!r}: {error.strerror}") from error
        elif isinstance(source, str):
            encoded = self._checked(source)
        else:
            raise TypeError(f"{self._argument}: expected bytes, a path or a base64 string, not {type(source).__name__}")
        if not encoded:
            raise ValueError(f"{self._argument}: the {self._noun} is empty")
        self.base64 = encoded

    def _checked(self, text: str) -> str:
        """The base64 in a string, without the prefix of a data URL and without white space."""
        if text.startswith("data:"):
            header, comma, text = text.partition(",")
            if not comma or not header.endswith(";base64"):
                raise ValueError(f"{self._argument}: a data URL must hold base64 ({self._data_url})")
        text = "".join(text.split())
        try:
            if text and not base64.b64decode(text, validate=True):
                raise ValueError("nothing but padding")
        except (binascii.Error, ValueError) as error:
            raise ValueError(
                f"{self._argument}: the string is not base64; pass a file as pathlib.Path(...), its content as bytes"
            ) from error
        return text

    @property
    def size(self) -> int:
        """The size of the file in bytes."""
        return len(self.base64) // 4 * 3 - self.base64[-2:].count("=")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.size} bytes)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Media) and type(other) is type(self) and other.base64 == self.base64

    def __hash__(self) -> int:
        return hash(self.base64)


class Image(Media):
    """An image for a vision model.

    Args:
        source: `bytes` of an image file; a path (`pathlib.Path`, read when the object is created); or a string
            holding base64 or a `data:` URL. A plain string is never treated as a file name.

    Raises:
        ValueError: The file cannot be read, or the string is not base64.
    """

    __slots__ = ()

    _argument = "images"
    _noun = "picture"
    _data_url = "data:image/png;base64,..."


class Audio(Media):
    """A recording for an audio model (`/api/show` lists the capability "audio").

    Args:
        source: `bytes` of a WAV or MP3 file; a path (`pathlib.Path`, read when the object is created); or a string
            holding base64 or a `data:` URL. A plain string is never treated as a file name. Servers before 0.30 read
            WAV only.

    Raises:
        ValueError: The file cannot be read, the string is not base64, or it is neither WAV nor MP3.
    """

    __slots__ = ()

    _argument = "audio"
    _noun = "recording"
    _data_url = "data:audio/wav;base64,..."

    def __init__(self, source: bytes | bytearray | os.PathLike[str] | str) -> None:
        super().__init__(source)
        if not _is_audio(_head(self.base64)):
            raise ValueError(
                "audio: the recording is neither WAV nor MP3, the formats that Ollama accepts; convert it first, for "
                "instance with `ffmpeg -i recording.ogg recording.wav`"
            )


def audio_seconds(encoded: str) -> float | None:
    """The approximate duration of a recording in base64, in seconds; None if it is not audio.

    For WAV, from the byte rate in its header. An MP3 has no such header: 128 kbit/s are assumed.
    """
    head = _head(encoded)
    if not _is_audio(head):
        return None
    rate = _MP3_BYTES_A_SECOND
    if head.startswith(b"RIFF"):
        at = head.find(b"fmt ") + 16
        told = int.from_bytes(head[at : at + 4], "little") if at >= 16 else 0
        rate = told if told in _BYTE_RATES else _WAV_BYTES_A_SECOND
    return len(encoded) * 3 / 4 / rate


def _head(encoded: str) -> bytes:
    try:
        return base64.b64decode(encoded[:_HEAD])
    except binascii.Error:
        return b""  # the server reports what is wrong with it


def _is_audio(head: bytes) -> bool:
    """Whether a server detects audio from these first bytes: WAV or MP3 (ollama 0.33: llm/media.go, AudioFormat)."""
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return True
    return head[:3] == b"ID3" or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0)
