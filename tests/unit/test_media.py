"""Images and audio as base64."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_files import MP3, encoded, wav

from namel3ss_ollama.media import Audio, Image, audio_seconds

DATA = b"\x89PNG\r\n\x1a\n and more"
TEXT = base64.b64encode(DATA).decode()


@pytest.mark.parametrize(
    "source",
    [
        DATA,
        bytearray(DATA),
        TEXT,
        f"data:image/png;base64,{TEXT}",
        f"data:;base64,{TEXT}",
        f"  {TEXT[:10]}\n\t{TEXT[10:]}\r\n",
    ],
    ids=["bytes", "bytearray", "base64", "data URL", "bare data URL", "wrapped"],
)
def test_an_image_from_any_source_is_the_same_base64(source: bytes | str) -> None:
    assert Image(source).base64 == TEXT


@given(st.binary(min_size=1))
def test_an_image_is_its_bytes(data: bytes) -> None:
    assert base64.b64decode(Image(data).base64) == data
    assert Image(Image(data).base64) == Image(data)


def test_an_image_from_a_path_is_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(DATA)
    image = Image(path)
    path.unlink()
    assert image.base64 == TEXT


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("picture.png", "not base64; pass a file as pathlib.Path"),
        ("AAA", "not base64"),
        ("AA-_", "not base64"),
        ("ÄÖÜß", "not base64"),
        ("data:image/png,AAAA", "must hold base64"),
        ("data:image/png;base64", "must hold base64"),
        ("data:image/png;base64,###", "not base64"),
        ("data:image/png;base64,", "is empty"),
        ("", "is empty"),
        (" \n", "is empty"),
        (b"", "is empty"),
    ],
)
def test_an_invalid_image_is_rejected(source: bytes | str, what: str) -> None:
    with pytest.raises(ValueError, match=f"^images: .*{what}"):
        Image(source)


@pytest.mark.parametrize("source", ["=", "==", "===="])
def test_padding_alone_is_not_an_image(source: str) -> None:
    # Once wrong on Python 3.10: its base64 module accepts "==", and the text was sent unchanged
    with pytest.raises(ValueError, match=r"^images: "):
        Image(source)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^images: cannot read '.*nope\.png': No such file"):
        Image(tmp_path / "nope.png")
    with pytest.raises(ValueError, match=r"^images: cannot read"):
        Image(tmp_path)


def test_an_empty_file_is_not_an_image(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(ValueError, match="is empty"):
        Image(tmp_path / "a")


@pytest.mark.parametrize("source", [None, 5, [DATA], memoryview(DATA)])
def test_an_image_of_another_type_is_a_type_error(source: object) -> None:
    with pytest.raises(TypeError, match=f"^images: .* not {type(source).__name__}"):
        Image(source)


def test_images_compare_by_content() -> None:
    assert Image(DATA) == Image(TEXT)
    assert len({Image(DATA), Image(TEXT), Image(b"other")}) == 2
    assert Image(DATA) != TEXT


@pytest.mark.parametrize("recording", [wav(0.1), MP3, b"ID3\x04" + MP3], ids=["WAV", "MP3", "tagged MP3"])
def test_audio_from_any_source_is_the_same_base64(recording: bytes, tmp_path: Path) -> None:
    path = tmp_path / "recording"
    path.write_bytes(recording)
    text = encoded(recording)
    for source in (recording, bytearray(recording), path, text, f"data:audio/wav;base64,{text}", f" {text}\n"):
        assert Audio(source) == Audio(recording)
        assert Audio(source).base64 == text
    assert repr(Audio(recording)) == f"Audio({len(recording)} bytes)"
    assert Audio(recording) != Image(recording)


@pytest.mark.parametrize(
    "source",
    [DATA, TEXT, b"OggS\0\2", b"fLaC\0\0", b"RIFF\0\0\0\0WEBPVP8 ", b"RIFF", b"\xff", b"\xff\xd8\xff\xe0 JPEG"],
)
def test_unsupported_audio_is_rejected(source: bytes | str) -> None:
    with pytest.raises(ValueError, match=r"^audio: the recording is neither WAV nor MP3, .*convert it first, .*ffmpeg"):
        Audio(source)


@pytest.mark.parametrize(
    ("source", "error", "what"),
    [
        ("recording.wav", ValueError, "not base64; pass a file as pathlib.Path"),
        ("data:audio/wav,AAAA", ValueError, r"must hold base64 \(data:audio/wav;base64,"),
        (b"", ValueError, "the recording is empty"),
        (Path("nope.wav"), ValueError, "cannot read 'nope.wav': No such file"),
        (None, TypeError, "expected bytes, a path or a base64 string, not NoneType"),
        (5, TypeError, "not int"),
    ],
)
def test_audio_that_cannot_be_read_is_rejected(source: object, error: type[Exception], what: str) -> None:
    with pytest.raises(error, match=f"^audio: .*{what}"):
        Audio(source)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("seconds", [0.5, 3, 20])
def test_duration_of_a_wav(seconds: float, rate: int) -> None:
    assert audio_seconds(encoded(wav(seconds, rate))) == pytest.approx(seconds, rel=0.01)


def test_duration_of_other_files() -> None:
    with_notes = wav(2).replace(b"WAVEfmt ", b"WAVELIST\x04\0\0\0notefmt ")
    assert audio_seconds(encoded(with_notes)) == pytest.approx(2, rel=0.01)
    without_rate = wav(2).replace((32_000).to_bytes(4, "little"), bytes(4))
    assert audio_seconds(encoded(without_rate)) == pytest.approx(2, rel=0.01)
    assert audio_seconds(encoded(b"RIFF\0\0\0\0WAVE" + bytes(64_000))) == pytest.approx(2, rel=0.01)
    assert audio_seconds(encoded(b"\xff\xfb" + bytes(32_000))) == pytest.approx(2, rel=0.01)
    assert [audio_seconds(one) for one in (TEXT, "", "no base64", "A")] == [None] * 4


@given(st.binary(min_size=1))
def test_duration_of_any_data(data: bytes) -> None:
    for file in (data, b"RIFF\0\0\0\0WAVEfmt " + data):
        seconds = audio_seconds(encoded(file))
        assert seconds is None or 0 < seconds < 1
