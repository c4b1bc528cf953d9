"""The header of a GGUF file: it is read, and rejected wherever it is truncated or invalid."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from gguf_files import EMBEDDING_MODEL, TEXT_MODEL, As, gguf, write_gguf
from hypothesis import given, settings
from hypothesis import strategies as st

from namel3ss_ollama.embedded.gguf import GGUF, read_gguf
from namel3ss_ollama.embedded.refusal import Refused

REPEATABLE = settings(deadline=None, derandomize=True, database=None, max_examples=150)


@pytest.fixture
def read(tmp_path: Path):
    def read(metadata: Any = TEXT_MODEL, **more: Any) -> GGUF:
        return read_gguf(write_gguf(tmp_path / "a.gguf", metadata, **more))

    return read


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf") / "a.gguf"


def read_bytes(place: Path, data: bytes) -> GGUF:
    place.write_bytes(data)
    return read_gguf(place)


@pytest.mark.parametrize("version", [2, 3])
def test_the_metadata_of_a_model(read, version: int) -> None:
    header = read({**TEXT_MODEL, "tokenizer.chat_template": "{{ x }}"}, version=version)
    assert header.architecture == "llama"
    assert header.context_length == 2048
    assert header.chat_template == "{{ x }}"
    assert header.quantization == "Q4_0"
    assert header.special_tokens == {"bos": "<s>", "eos": "</s>"}
    assert header.parameters == 64 * 3
    assert not header.embeds_only
    assert header.bytes_a_token == 2 * 2 * 2 * 2 * (64 // 4)  # keys and values, 16 bits, layers, heads, width


def test_every_kind_of_value(read) -> None:
    values = {"B": 200, "b": -100, "H": 60000, "h": -30000, "I": 2**32 - 1, "i": -(2**31), "f": 0.5, "?": True}
    values |= {"Q": 2**64 - 1, "q": -(2**63), "d": 0.1}
    header = read({f"x.{layout}": As(layout, value) for layout, value in values.items()})
    assert header.metadata == {f"x.{layout}": value for layout, value in values.items()}


def test_arrays_are_skipped(read) -> None:
    arrays = {
        "a": [1, 2],
        "b": ["x", "y"],
        "c": [[1, 2], [3]],
        "d": [["x"], ["y", "z"]],
        "e": [],
        "f": [0.5],
        "g": [True],
    }
    assert read({**arrays, "last": "here"}).metadata == {"last": "here"}


def test_missing_metadata(read) -> None:
    header = read({})
    assert (header.architecture, header.chat_template, header.quantization) == ("", "", "unknown")
    assert (header.context_length, header.bytes_a_token) == (0, 0)
    assert header.special_tokens == {}
    assert not header.embeds_only


def test_a_model_for_embeddings(read) -> None:
    assert read(EMBEDDING_MODEL).embeds_only
    assert read({"general.architecture": "x", "x.pooling_type": 1}).embeds_only
    assert not read({"general.architecture": "x", "x.pooling_type": 0}).embeds_only


def test_width_and_heads_that_are_given_separately(read) -> None:
    assert read({**TEXT_MODEL, "llama.attention.key_length": 128}).bytes_a_token == 4 * 2 * 2 * 128
    without = {key: value for key, value in TEXT_MODEL.items() if not key.endswith("head_count_kv")}
    assert read(without).bytes_a_token == 4 * 2 * 4 * 16


@pytest.mark.parametrize("token", [As("i", -1), As("i", -100), 3, As("Q", 2**64 - 1), "one", 0.5, True])
def test_an_invalid_special_token(read, token: Any) -> None:
    assert "bos" not in read({**TEXT_MODEL, "tokenizer.ggml.bos_token_id": token}).special_tokens


@pytest.mark.parametrize("value", ["many", float("nan"), float("inf"), 1.5, True, As("i", -4)])
def test_an_invalid_number_counts_as_missing(read, value: Any) -> None:
    assert read({**TEXT_MODEL, "llama.context_length": value}).context_length == 0


def test_invalid_utf8_is_replaced(read) -> None:
    assert read({"general.name": "a\udcffb"}).metadata == {"general.name": "a\ufffdb"}


def test_a_file_truncated_anywhere_is_rejected(place: Path) -> None:
    whole = gguf({**TEXT_MODEL, "x": [["y"], ["z"]]}, data=b"\0")
    read_bytes(place, whole)
    for length in range(len(whole)):
        with pytest.raises(Refused, match=r"damaged or truncated|not a GGUF") as refused:
            read_bytes(place, whole[:length])
        assert refused.value.status == 400


@REPEATABLE
@given(st.binary(max_size=200))
def test_random_bytes_are_rejected(place: Path, data: bytes) -> None:
    with pytest.raises(Refused):
        read_bytes(place, data)


@REPEATABLE
@given(st.data())
def test_a_damaged_file_is_read_or_rejected_in_little_memory(place: Path, data: st.DataObject) -> None:
    whole = bytearray(gguf({**TEXT_MODEL, "x": [["y"], ["z"]]}))
    for at in data.draw(st.lists(st.integers(4, len(whole) - 9), min_size=1, max_size=4)):
        piece = data.draw(st.one_of(st.binary(min_size=1, max_size=8), st.just(b"\xff" * 8), st.just(b"\x09\0\0\0")))
        whole[at : at + len(piece)] = piece
    tracemalloc.start()
    try:
        header = read_bytes(place, bytes(whole))
    except Refused:
        pass
    else:
        assert header.bytes_a_token >= 0
        assert header.context_length >= 0
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 1_000_000


def header_of(entries: int, body: bytes) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, 0, entries) + body


KEY = struct.pack("<Q", 1) + b"k"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(header_of(2**63, b""), id="endless entries"),
        pytest.param(header_of(1, struct.pack("<Q", 2**40)), id="an endless key"),
        pytest.param(header_of(1, struct.pack("<Q", 2**25) + b"k"), id="a long key in a short file"),
        pytest.param(header_of(1, KEY + struct.pack("<I", 99)), id="an unknown kind"),
        pytest.param(header_of(1, KEY + struct.pack("<IIQ", 9, 4, 2**62)), id="endless numbers"),
        pytest.param(header_of(1, KEY + struct.pack("<IIQ", 9, 8, 2**62)), id="endless texts"),
        pytest.param(header_of(1, KEY + struct.pack("<IIQQ", 9, 8, 1, 2**62)), id="an endless text"),
        pytest.param(header_of(1, KEY + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 5000), id="deep nesting"),
        pytest.param(
            b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + KEY + struct.pack("<I", 2**32 - 1), id="endless dimensions"
        ),
        pytest.param(gguf(tensors=[("a", (2**40, 2**40))]), id="more weights than there can be"),
    ],
)
def test_a_header_that_promises_more_than_the_file_has(place: Path, data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(Refused, match="damaged or truncated"):
            read_bytes(place, data + b"\0" * 100)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_file_of_another_format(place: Path) -> None:
    with pytest.raises(Refused, match="is not a GGUF file"):
        read_bytes(place, b"PK\3\4 a package, say")


@pytest.mark.parametrize("version", [1, 4, 3 << 24])
def test_an_unsupported_version(place: Path, version: int) -> None:
    with pytest.raises(Refused, match="versions 2 and 3 are supported"):
        read_bytes(place, gguf(version=version))


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot be read: No such file"):
        read_gguf(tmp_path / "none.gguf")
    with pytest.raises(Refused, match="cannot be read"):
        read_gguf(tmp_path)
