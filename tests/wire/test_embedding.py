"""Texts to embed: too long ones under each policy, and those on which a server fails."""

from __future__ import annotations

import logging
import math
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from namel3ss_ollama import (
    BadRequestError,
    ContextWindowExceededError,
    LLMError,
    MalformedResponseError,
    ModelNotFoundError,
    OllamaProvider,
    ServerError,
)
from namel3ss_ollama.testing import OllamaServer, Reply

LONG = " ".join(f"word{index}" for index in range(3000))
SHORT = "short"
VERSIONS = ["0.9.3", "0.12.6", "0.33.0"]


@pytest.fixture(params=VERSIONS)
def server(request: pytest.FixtureRequest) -> Iterator[OllamaServer]:
    with OllamaServer(version=request.param) as server:
        yield server


@pytest.fixture
async def provider(server: OllamaServer) -> Any:
    async with OllamaProvider("all-minilm", server.url) as provider:
        yield provider


def sent(server: OllamaServer) -> list[tuple[int, Any]]:
    """How many texts each request had, and its `truncate`."""
    return [(len(one.payload["input"]), one.payload.get("truncate", "unset")) for one in server.requests]  # type: ignore[arg-type]


async def test_warn_names_the_texts_and_embeds_their_beginnings(
    provider: OllamaProvider, server: OllamaServer, caplog: pytest.LogCaptureFixture
) -> None:
    ignored = await provider.embed([LONG, SHORT, LONG + " end"], on_truncation="ignore")
    assert (ignored.truncated, sent(server)) == ((), [(3, "unset")])
    assert caplog.records == []
    warned = await provider.embed([LONG, SHORT, LONG + " end"])
    assert warned.truncated == (0, 2)
    assert warned.embeddings == ignored.embeddings
    assert warned.usage == ignored.usage
    (record,) = [one for one in caplog.records if one.levelno == logging.WARNING]
    text = record.getMessage()
    assert f"input[0] ({len(LONG):,} characters), input[2] ({len(LONG) + 4:,} characters)" in text
    assert "2 of 3" in text
    assert "word1" not in text
    assert provider.stats().embeddings_failed == 0


async def test_error_names_the_text(provider: OllamaProvider, server: OllamaServer) -> None:
    with pytest.raises(ContextWindowExceededError, match=r"^input\[2\] \(\d\d,\d\d\d characters\): ") as caught:
        await provider.embed([SHORT, "other", LONG, "more"], on_truncation="error")
    assert caught.value.index == 2
    assert caught.value.status_code == 400
    assert "word1" not in str(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).index == 2
    assert {truncate for _, truncate in sent(server)} == {False}
    assert [number for number, _ in sent(server)] == [4, 2, 1], "the longer half is tried first"


@pytest.mark.parametrize("policy", ["warn", "error", "ignore", "split"])
async def test_fitting_texts_take_one_request_per_batch(
    provider: OllamaProvider, server: OllamaServer, policy: Any
) -> None:
    response = await provider.embed([f"text {i}" for i in range(10)], batch_size=4, on_truncation=policy)
    expected = "unset" if policy == "ignore" else False
    assert sorted(sent(server)) == [(2, expected), (4, expected), (4, expected)]
    assert response.truncated == ()
    assert len(response.embeddings) == 10
    assert response.metadata == {"total_duration": 75_000_000, "load_duration": 60_000_000}


async def test_split_leaves_nothing_out(provider: OllamaProvider, server: OllamaServer) -> None:
    sentences = [f"This is sentence number {index} of a long text." for index in range(300)]
    text = " ".join(sentences)
    response = await provider.embed([SHORT, text], on_truncation="split")
    assert response.truncated == ()
    assert math.hypot(*response.embeddings[1]) == pytest.approx(1)
    plain = await provider.embed(SHORT)
    assert response.embeddings[0] == plain.embeddings[0]
    answered: list[Any] = [one.payload["input"] for one in server.requests if one.status == 200]
    kept = [piece for texts in answered for piece in texts if piece != SHORT]
    assert "".join(sorted(kept, key=text.index)) == text
    assert all(piece.rstrip().endswith(".") for piece in kept), "cut at the ends of sentences"
    weights = [len(piece) for piece in kept]
    vectors = (await provider.embed(kept)).embeddings
    mean = [sum(w * v[i] for w, v in zip(weights, vectors, strict=True)) for i in range(384)]
    norm = math.hypot(*mean)
    assert response.embeddings[1] == pytest.approx([x / norm for x in mean], abs=1e-9)
    last = await provider.embed([text + " And another end."], on_truncation="split")
    assert last.embeddings[0] != pytest.approx(response.embeddings[1], abs=1e-6), "the end counts"


async def test_split_sends_all_pieces_of_a_level_together(provider: OllamaProvider, server: OllamaServer) -> None:
    response = await provider.embed([" ".join(["word"] * 600)] * 3, on_truncation="split")
    assert sent(server)[-1] == (6, False)
    assert response.usage["prompt_tokens"] == 3 * (600 + 1), "and the blank at the end of each first half"
    assert response.embeddings[0] == response.embeddings[2]


async def test_split_without_a_place_to_cut(provider: OllamaProvider, server: OllamaServer) -> None:
    response = await provider.embed(["x" * 12 * 2000 + " " * 40_000, "\n" * 10], on_truncation="split")
    assert math.hypot(*response.embeddings[0]) == pytest.approx(1)
    server.fault("status", status=400, message="the input length exceeds the context length")
    with pytest.raises(ContextWindowExceededError, match=r"^input\[0\] \(1 characters\): .*raise num_ctx") as caught:
        await provider.embed("xy", on_truncation="split")
    assert caught.value.index == 0


@pytest.mark.parametrize("policy", ["warn", "error", "ignore", "split", None])
async def test_a_given_truncate_is_sent_as_it_is(provider: OllamaProvider, server: OllamaServer, policy: Any) -> None:
    response = await provider.embed([LONG, SHORT], truncate=True, on_truncation=policy)
    assert (len(response.embeddings), response.truncated) == (2, ())
    assert sent(server) == [(2, True)]
    with pytest.raises(ContextWindowExceededError) as caught:
        await provider.embed([SHORT, LONG], truncate=False, on_truncation=policy)
    assert caught.value.index == 1


async def test_the_providers_policy_is_the_default(server: OllamaServer) -> None:
    async with OllamaProvider("all-minilm", server.url, on_truncation="error") as strict:
        with pytest.raises(ContextWindowExceededError):
            await strict.embed(LONG)
        assert (await strict.embed(LONG, on_truncation="warn")).truncated == (0,)
        assert strict.sync.embed([SHORT, LONG], on_truncation="warn").truncated == (1,)


@pytest.mark.parametrize("policy", ["cut", "", 1, True])
async def test_an_unknown_policy_is_refused(provider: OllamaProvider, server: OllamaServer, policy: Any) -> None:
    with pytest.raises(ValueError, match=r"^on_truncation: .* is not one of warn, error, ignore, split"):
        await provider.embed("x", on_truncation=policy)
    assert server.requests == []


@pytest.mark.parametrize("ask", ["provider", "agenerate", "achat", "stream"])
async def test_split_is_for_embeddings_alone(provider: OllamaProvider, server: OllamaServer, ask: str) -> None:
    split: Any = "split"
    with pytest.raises(ValueError, match="'split' is for embed"):
        if ask == "provider":
            OllamaProvider("m", on_truncation=split)
        elif ask == "stream":
            provider.stream("x", on_truncation=split)
        elif ask == "achat":
            await provider.achat([{"role": "user", "content": "x"}], on_truncation=split)
        else:
            await provider.agenerate("x", on_truncation=split)
    assert server.requests == []


async def test_many_too_long_texts_are_found_in_few_requests(provider: OllamaProvider, server: OllamaServer) -> None:
    texts = [LONG if index % 16 == 5 else f"text {index}" for index in range(64)]
    response = await provider.embed(texts)
    assert response.truncated == (5, 21, 37, 53)
    assert len(server.requests) <= 20
    assert server.requests[-1].payload["input"] == [LONG] * 4


@pytest.mark.parametrize("limits", [{"batch_size": 2}, {"batch_chars": 100}])
async def test_indices_refer_to_the_input(provider: OllamaProvider, limits: Any) -> None:
    texts = ["a", "b", LONG, "c", LONG]
    assert (await provider.embed(texts, **limits)).truncated == (2, 4)
    split = await provider.embed(texts, **limits, on_truncation="split")
    assert split.embeddings[2] == pytest.approx(split.embeddings[4])
    assert split.embeddings[3] == (await provider.embed("c")).embeddings[0]
    with pytest.raises(ContextWindowExceededError) as caught:
        await provider.embed(texts, **limits, on_truncation="error")
    assert caught.value.index in (2, 4)


async def test_batches_by_characters(provider: OllamaProvider, server: OllamaServer) -> None:
    texts = ["x" * 9, "x" * 2, "x" * 30, "x" * 5, "x" * 5, "x"]
    await provider.embed(texts, batch_chars=10, batch_size=3)
    assert sorted(number for number, _ in sent(server)) == [1, 1, 1, 1, 2]
    with pytest.raises(ValueError, match="batch_chars"):
        await provider.embed("x", batch_chars=0)


FAILURES: dict[str, tuple[dict[str, Any], type[LLMError]]] = {
    "400": ({"status": 400, "message": "embedding contains NaN or Inf values"}, BadRequestError),
    "500": ({"status": 500, "message": "failed to encode response: json: unsupported value: NaN"}, ServerError),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("bad", [0, 3, 6])
async def test_one_bad_text_is_named(provider: OllamaProvider, server: OllamaServer, failure: str, bad: int) -> None:
    options, kind = FAILURES[failure]
    server.fault("status", contains="poison", **options)
    texts = [f"text {index}" for index in range(7)]
    texts[bad] = "poison"
    for size in (64, 2, 1):
        with pytest.raises(kind, match=rf"^input\[{bad}\] \(6 characters\): ") as caught:
            await provider.embed(texts, batch_size=size)
        assert caught.value.index == bad
        assert "poison" not in str(caught.value)


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_failure_of_all_texts_names_none(provider: OllamaProvider, server: OllamaServer, failure: str) -> None:
    options, kind = FAILURES[failure]
    server.fault("status", **options)
    with pytest.raises(kind) as caught:
        await provider.embed([f"text {index}" for index in range(64)])
    assert caught.value.index is None
    assert "input[" not in str(caught.value)
    assert len(server.requests) <= 8
    with pytest.raises(kind):
        await provider.embed("alone")
    assert len(server.requests) <= 9


async def test_a_missing_model_is_one_request(server: OllamaServer) -> None:
    async with OllamaProvider("nope", server.url) as provider:
        with pytest.raises(ModelNotFoundError):
            await provider.embed(["a", "b", "c"])
    assert len(server.requests) == 1


@pytest.mark.slow
async def test_a_temporary_failure_is_not_bisected(server: OllamaServer) -> None:
    server.fault("status", status=503)
    async with OllamaProvider("all-minilm", server.url, retry=None) as provider:
        with pytest.raises(LLMError) as caught:
            await provider.embed(["a", "b", "c"])
    assert caught.value.index is None
    assert len({len(one.payload["input"]) for one in server.requests}) == 1  # type: ignore[arg-type]


async def test_a_text_without_a_vector_is_named(provider: OllamaProvider, server: OllamaServer) -> None:
    def without_blank(record: Any) -> Reply:
        return Reply(embeddings=[[1.0, 0.0] for text in record.payload["input"] if text.strip()])

    server.reply(without_blank, path="/api/embed")
    with pytest.raises(MalformedResponseError, match=r"^input\[1\] \(1 characters\): .*one vector per text") as caught:
        await provider.embed(["a", " ", "c", "d"])
    assert caught.value.index == 1


async def test_a_wrong_vector_count_names_no_text(provider: OllamaProvider, server: OllamaServer) -> None:
    server.reply(embeddings=[[1.0, 0.0]])
    with pytest.raises(MalformedResponseError, match="did not send one vector per text") as caught:
        await provider.embed(["a", "b", "c"])
    assert caught.value.index is None


@pytest.mark.parametrize(
    ("vectors", "index", "message"),
    [
        ([[1.0, 2.0], [1.0], [1.0, 2.0]], 1, "1 dimensions, not of 2 as others"),
        ([[1.0, 2.0], [1.0, 2.0], None], 2, "not a list of numbers"),
        ([[1.0, 2.0], [], [1.0, 2.0]], 1, "not a list of numbers"),
    ],
)
async def test_a_mismatched_vector_is_named(
    provider: OllamaProvider, server: OllamaServer, vectors: Any, index: int, message: str
) -> None:
    server.reply(json={"model": "all-minilm", "embeddings": vectors})
    with pytest.raises(MalformedResponseError, match=rf"^input\[{index}\] .*{message}") as caught:
        await provider.embed(["a", "b", "c"])
    assert caught.value.index == index
    assert len(server.requests) == 1


async def test_vectors_of_different_lengths_in_different_requests(
    provider: OllamaProvider, server: OllamaServer
) -> None:
    server.reply(embeddings=[[1.0, 2.0]], contains="a")
    server.reply(embeddings=[[1.0]], contains="b")
    with pytest.raises(MalformedResponseError, match=r"dimensions, not of"):
        await provider.embed(["a", "b"], batch_size=1)


@pytest.mark.parametrize("policy", ["warn", "ignore", "split", "error"])
async def test_ignored_dimensions_are_an_error(policy: Any) -> None:
    with OllamaServer(version="0.9.3") as old:
        async with OllamaProvider("all-minilm", old.url) as provider:
            with pytest.raises(MalformedResponseError, match="384 dimensions, not of 128 as `dim") as caught:
                await provider.embed(["a", "b"], dimensions=128, on_truncation=policy)
            assert caught.value.index == 0
    with OllamaServer(version="0.11.11") as new:
        async with OllamaProvider("all-minilm", new.url) as provider:
            response = await provider.embed(["a", LONG], dimensions=128, on_truncation="split")
            assert [len(vector) for vector in response.embeddings] == [128, 128]


async def test_the_warning_names_ten_texts_at_most(provider: OllamaProvider, caplog: pytest.LogCaptureFixture) -> None:
    await provider.embed([LONG] * 14, batch_size=5)
    (record,) = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert "14 of 14" in record.getMessage()
    assert "input[9]" in record.getMessage()
    assert "and 4 more" in record.getMessage()
    assert "input[10]" not in record.getMessage()


async def test_a_server_that_fails_to_truncate(provider: OllamaProvider, server: OllamaServer) -> None:
    message = "input exceeds maximum context length and cannot be truncated further"
    server.fault("status", status=400, message=message, contains="word1 ")
    for policy in ("warn", "ignore"):
        with pytest.raises(ContextWindowExceededError, match=r"^input\[1\] .*cannot be truncated") as caught:
            await provider.embed([SHORT, LONG], on_truncation=policy)
        assert caught.value.index == 1
    assert len((await provider.embed([SHORT, LONG.replace("word1 ", "")], on_truncation="split")).embeddings) == 2
