"""Audio input: how it is sent, how servers handle it, and that it is not mistaken for a truncated prompt."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from media_files import MP3, PNG, encoded, wav

from namel3ss_ollama import Audio, BadRequestError, LLMConnectionError, Message, OllamaProvider, fetch_audio
from namel3ss_ollama.testing import Model, OllamaServer

AUDIO_MODEL, VISION_MODEL, TEXT_MODEL = "gemma4:e2b", "llava", "llama3.2"
MODELS = [
    Model(AUDIO_MODEL, ("completion", "vision", "audio")),
    Model(VISION_MODEL, ("completion", "vision")),
    Model(TEXT_MODEL),
]
RECORDING = wav(1)
NEWEST, BEFORE_LLAMA_SERVER = "0.33.0", "0.20.0"


@pytest.fixture(params=[NEWEST])
def server(request: pytest.FixtureRequest) -> Iterator[OllamaServer]:
    with OllamaServer(MODELS, version=request.param) as server:
        yield server


AT_VERSIONS = pytest.mark.parametrize("server", [BEFORE_LLAMA_SERVER, NEWEST], indirect=True)


def media(server: OllamaServer) -> list[str]:
    """The `images` of the last request."""
    body: dict[str, Any] = json.loads(server.requests[-1].body)
    holder = body["messages"][-1] if "messages" in body else body
    return holder["images"]


async def test_every_call_sends_audio_to_the_server(server: OllamaServer, tmp_path: Path) -> None:
    path = tmp_path / "question.wav"
    path.write_bytes(RECORDING)
    sent = [encoded(PNG), encoded(RECORDING)]
    async with OllamaProvider(AUDIO_MODEL, server.url) as provider:
        for audio in ([RECORDING], [path], [Audio(RECORDING)], [encoded(RECORDING)]):
            both: dict[str, Any] = {"images": [PNG], "audio": audio}
            await provider.agenerate("What is said?", **both)
            assert media(server) == sent
            await provider.achat([Message("user", "What is said?", **both)])
            assert media(server) == sent
            await provider.achat([{"role": "user", "content": "What is said?", **both}])
            assert media(server) == sent
            assert [chunk async for chunk in provider.stream_generate("What is said?", **both)]
            assert media(server) == sent
            await provider.agenerate_batch(["What is said?"], **both)
            assert media(server) == sent


async def test_invalid_audio_fails_before_any_request(server: OllamaServer) -> None:
    async with OllamaProvider(AUDIO_MODEL, server.url) as provider:
        with pytest.raises(ValueError, match=r"^audio: the recording is neither WAV nor MP3"):
            await provider.agenerate("What is said?", audio=[b"OggS"])
        with pytest.raises(ValueError, match=r"^audio: the recording is neither WAV nor MP3"):
            await provider.achat([{"role": "user", "content": "What is said?", "audio": [PNG]}])
    assert not server.requests


@pytest.mark.parametrize(("model", "able"), [(AUDIO_MODEL, True), (VISION_MODEL, False), (TEXT_MODEL, False)])
async def test_preflight_checks_audio_support(server: OllamaServer, model: str, able: bool) -> None:
    async with OllamaProvider(model, server.url) as provider:
        found = await provider.preflight(capabilities=["completion", "audio"])
    assert found.ok is able
    assert ("audio" in found.capabilities) is able
    if not able:
        assert f"{model} cannot do 'audio': choose a model that can" in str(found)


async def test_a_server_before_audio_lists_no_such_capability() -> None:
    with OllamaServer(MODELS, version="0.19.0") as server:
        async with OllamaProvider(AUDIO_MODEL, server.url) as provider:
            assert not await provider.preflight(capabilities=["audio"])


@pytest.mark.parametrize(
    ("server", "model", "file", "reason"),
    [
        (NEWEST, TEXT_MODEL, RECORDING, "400: Multimodal data provided"),
        (NEWEST, TEXT_MODEL, MP3, "400: Multimodal data provided"),
        (NEWEST, TEXT_MODEL, PNG, "400: Multimodal data provided"),
        (NEWEST, VISION_MODEL, RECORDING, "400: Failed to load image or audio file"),
        (BEFORE_LLAMA_SERVER, VISION_MODEL, RECORDING, "500: .*image: unknown format"),
        (BEFORE_LLAMA_SERVER, AUDIO_MODEL, MP3, "500: .*image: unknown format"),
    ],
    indirect=["server"],
)
@pytest.mark.parametrize("stream_internally", [True, False])
async def test_unsupported_media_is_refused(
    server: OllamaServer, model: str, file: bytes, reason: str, stream_internally: bool
) -> None:
    holder: dict[str, Any] = {"images": [file]} if file is PNG else {"audio": [file]}
    async with OllamaProvider(model, server.url) as provider:
        with pytest.raises(BadRequestError, match=rf"{reason}.*a model that supports") as caught:
            await provider.agenerate("What is it?", stream_internally=stream_internally, **holder)
        assert not caught.value.temporary
        with pytest.raises(BadRequestError, match=reason):
            await provider.achat([Message("user", "What is it?", **holder)], stream_internally=stream_internally)
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("server", "model", "file"),
    [
        (NEWEST, AUDIO_MODEL, RECORDING),
        (NEWEST, AUDIO_MODEL, MP3),
        (NEWEST, VISION_MODEL, PNG),
        (BEFORE_LLAMA_SERVER, AUDIO_MODEL, RECORDING),
        (BEFORE_LLAMA_SERVER, TEXT_MODEL, RECORDING),  # ignores it; only preflight() detects that
    ],
    indirect=["server"],
)
async def test_supported_media(server: OllamaServer, model: str, file: bytes) -> None:
    holder: dict[str, Any] = {"images": [file]} if file is PNG else {"audio": [file]}
    async with OllamaProvider(model, server.url) as provider:
        assert (await provider.agenerate("What is it?", **holder)).finish_reason == "stop"


@AT_VERSIONS
@pytest.mark.parametrize("on_truncation", ["warn", "error"])
@pytest.mark.parametrize("files", [[wav(0.1)] * 30, [wav(5)] * 10, [wav(60)], [wav(3), PNG, MP3]])
async def test_audio_is_not_truncation(
    server: OllamaServer, files: list[bytes], on_truncation: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "namel3ss_ollama")
    files = [one for one in files if one is not MP3 or server.version == NEWEST]
    holder: dict[str, Any] = {
        "images": [one for one in files if one is PNG],
        "audio": [one for one in files if one is not PNG],
    }
    async with OllamaProvider(AUDIO_MODEL, server.url, num_ctx=4096, on_truncation=on_truncation) as provider:
        for question in ("What is said?", "And then?", "By whom?"):
            assert not (await provider.agenerate(question, **holder)).truncated_prompt
        messages = [Message("user", "What is said?", **holder)]
        for _ in range(3):
            answer = await provider.achat(messages)
            assert not answer.truncated_prompt
            messages += [answer.message, Message("user", "And then?")]
    assert not caplog.records


@AT_VERSIONS
async def test_a_shorter_recording_is_not_truncation(server: OllamaServer) -> None:
    async with OllamaProvider(AUDIO_MODEL, server.url, num_ctx=4096) as provider:
        for seconds in (100, 80, 30, 1):
            answer = await provider.achat([Message("user", "What is said?", audio=[wav(seconds)])])
            assert not answer.truncated_prompt


@AT_VERSIONS
async def test_a_truncated_chat_with_audio_is_detected(server: OllamaServer) -> None:
    text = "The keeper wrote down the weather twice a day. " * 9
    turns = [Message("assistant" if turn % 2 else "user", text) for turn in range(30)]
    async with OllamaProvider(AUDIO_MODEL, server.url, num_ctx=512) as provider:
        answer = await provider.achat([*turns, Message("user", "What is said?", audio=[RECORDING])])
        assert answer.truncated_prompt


async def test_audio_is_fetched(ollama_server: OllamaServer) -> None:
    ollama_server.reply("", path="/a.wav", body=RECORDING, headers={"Content-Type": "audio/wav"})
    audio = await fetch_audio(f"{ollama_server.url}/a.wav")
    assert base64.b64decode(audio.base64) == RECORDING


@pytest.mark.parametrize(
    ("kind", "content", "what"),
    [
        ("text/html", RECORDING, "the address has text/html, not audio"),
        ("image/png", PNG, "the address has image/png, not audio"),
        ("audio/ogg", b"OggS", "neither WAV nor MP3"),
        ("application/octet-stream", RECORDING + bytes(1000), "more than 32044 bytes"),
    ],
)
async def test_invalid_or_too_large_audio_is_not_fetched(
    ollama_server: OllamaServer, kind: str, content: bytes, what: str
) -> None:
    ollama_server.reply("", path="/a.wav", body=content, headers={"Content-Type": kind})
    with pytest.raises(ValueError, match=rf"^audio: .*{what}"):
        await fetch_audio(f"{ollama_server.url}/a.wav", max_bytes=len(RECORDING))


async def test_failed_fetches(ollama_server: OllamaServer) -> None:
    for url in ("file:///etc/passwd", "ftp://host/x", "a.wav", ""):
        with pytest.raises(ValueError, match=r"^audio: only an http or https address"):
            await fetch_audio(url)
    with pytest.raises(LLMConnectionError, match="the audio cannot be fetched: HTTPStatusError"):
        await fetch_audio(f"{ollama_server.url}/nothing")
