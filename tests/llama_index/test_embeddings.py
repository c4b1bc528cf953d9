"""Embeddings: all methods, batches, instructions, checks, and one bad input among good ones."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from llama_index.core.storage.kvstore import SimpleKVStore

from llama_index.embeddings.namel3ss_ollama import BadInputError, OllamaEmbedding, TooLongInputError
from llama_index.llms.namel3ss_ollama import Ollama
from namel3ss_ollama import (
    AuthenticationError,
    BadRequestError,
    ContextWindowExceededError,
    LLMTimeoutError,
    MalformedResponseError,
    ModelNotFoundError,
    OllamaProvider,
    RetryPolicy,
    ServerError,
    StreamConfig,
    instant_retries,
)
from namel3ss_ollama.testing import Gate, OllamaServer, Record, Reply

Sent = Callable[..., list[dict[str, Any]]]


def inputs(sent: Sent) -> list[Any]:
    return [body["input"] for body in sent("/api/embed")]


def test_all_methods_give_the_same_vectors(embedding: OllamaEmbedding) -> None:
    async def asynchronously() -> list[Any]:
        return [
            await embedding.aget_text_embedding("a"),
            await embedding.aget_query_embedding("a"),
            (await embedding.aget_text_embedding_batch(["a", "b"]))[0],
            await embedding.aget_general_text_embedding("a"),
            (await embedding.aget_general_text_embeddings(["a", "b"]))[0],
            await embedding.aget_agg_embedding_from_queries(["a", "a"]),
        ]

    vectors = [
        embedding.get_text_embedding("a"),
        embedding.get_query_embedding("a"),
        embedding.get_text_embedding_batch(["a", "b"])[0],
        embedding.get_general_text_embedding("a"),
        embedding.get_general_text_embeddings(["a", "b"])[0],
        *asyncio.run(asynchronously()),
        *asyncio.run(asynchronously()),  # a second event loop
    ]
    assert len(vectors[0]) == 384
    assert all(type(vector) is list and vector == pytest.approx(vectors[0]) for vector in vectors)
    assert embedding.get_text_embedding("b") != vectors[0]


async def test_sync_calls_work_inside_a_running_loop_and_in_threads(embedding: OllamaEmbedding) -> None:
    expected = embedding.get_text_embedding("a")
    with ThreadPoolExecutor(4) as pool:
        results = pool.map(embedding.get_text_embedding, ["a"] * 8)
    assert list(results) == [expected] * 8


def test_unset_fields_are_not_sent(ollama_server: OllamaServer, embedding: OllamaEmbedding, sent: Sent) -> None:
    OllamaEmbedding("all-minilm", ollama_server.url, on_truncation="ignore").get_text_embedding("a")
    assert sent("/api/embed") == [{"model": "all-minilm", "input": ["a"]}]
    embedding.get_text_embedding("a")
    assert sent("/api/embed")[1:] == [{"model": "all-minilm", "input": ["a"], "truncate": False}]


def test_set_fields_are_sent(ollama_server: OllamaServer, sent: Sent) -> None:
    OllamaEmbedding(
        "all-minilm",
        ollama_server.url,
        dimensions=384,
        truncate=False,
        keep_alive=-1,
        ollama_additional_kwargs={"num_ctx": 128},
    ).get_text_embedding("a")
    assert sent("/api/embed") == [
        {
            "model": "all-minilm",
            "input": ["a"],
            "dimensions": 384,
            "truncate": False,
            "keep_alive": -1,
            "options": {"num_ctx": 128},
        }
    ]


def test_texts_are_never_stripped_and_instructions_come_first(ollama_server: OllamaServer, sent: Sent) -> None:
    plain = OllamaEmbedding("all-minilm", ollama_server.url)
    plain.get_text_embedding("  a\n")
    plain.get_query_embedding(" q ")
    instructed = OllamaEmbedding(
        "all-minilm", ollama_server.url, query_instruction="search: ", text_instruction="document:"
    )
    instructed.get_query_embedding(" q ")
    instructed.get_text_embedding_batch(["a ", "b"])
    asyncio.run(instructed.aget_text_embedding("c"))
    instructed.get_general_text_embedding("d")
    assert inputs(sent) == [
        ["  a\n"],
        [" q "],
        ["search:  q "],
        ["document: a ", "document: b"],
        ["document: c"],
        ["d"],
    ]


def test_batches_are_limited_by_items_and_characters(ollama_server: OllamaServer, sent: Sent) -> None:
    embedding = OllamaEmbedding("all-minilm", ollama_server.url, embed_batch_size=3, max_batch_chars=10)
    texts = ["a", "b", "c", "d" * 8, "e" * 2, "f", "g" * 30, "h"]
    vectors = embedding.get_general_text_embeddings(texts)
    found = sorted(inputs(sent), key=lambda batch: texts.index(batch[0]))
    assert found == [["a", "b", "c"], ["d" * 8, "e" * 2], ["f"], ["g" * 30], ["h"]]
    assert vectors == [embedding.get_text_embedding(text) for text in texts]
    assert embedding.get_general_text_embeddings([]) == []


async def test_max_concurrent_limits_the_batches_in_flight(ollama_server: OllamaServer) -> None:
    gate = Gate()

    def held(record: Record) -> Reply:
        texts: Any = record.payload["input"]
        return Reply(embeddings=[[float(len(text))] for text in texts], gate=gate)

    ollama_server.on(path="/api/embed").reply(held)
    embedding = OllamaEmbedding("all-minilm", ollama_server.url, embed_batch_size=2, max_concurrent=3)
    texts = ["x" * (n + 1) for n in range(20)]
    task = asyncio.create_task(embedding.aget_text_embedding_batch(texts))
    await ollama_server.wait_for_async(lambda s: gate.waiting == 3)
    assert len(ollama_server.requests) == 3
    assert embedding.provider.stats().queued == 7
    gate.open()
    assert await task == [[float(n + 1)] for n in range(20)]


def test_dimensions_are_checked(ollama_server: OllamaServer) -> None:
    ollama_server.on(path="/api/embed").sequence(
        Reply(embeddings=[[1.0, 2.0]]),
        Reply(embeddings=[[1.0, 2.0, 3.0]]),
        Reply(embeddings=[[1.0, 2.0]]),
    )
    embedding = OllamaEmbedding("all-minilm", ollama_server.url)
    embedding.get_text_embedding("a")
    with pytest.raises(MalformedResponseError, match="3 dimensions, not of 2 as before"):
        embedding.get_text_embedding("a")
    embedding = OllamaEmbedding("all-minilm", ollama_server.url, dimensions=5)
    with pytest.raises(MalformedResponseError, match="2 dimensions, not of 5 as `dimensions` requires"):
        embedding.get_text_embedding("a")


def test_counts_are_checked(ollama_server: OllamaServer, embedding: OllamaEmbedding) -> None:
    ollama_server.on(path="/api/embed").reply(embeddings=[[1.0]])
    with pytest.raises(MalformedResponseError, match="one vector per text"):
        embedding.get_text_embedding_batch(["a", "b"])


@pytest.mark.parametrize("status", [400, 500])
def test_a_bad_input_is_found_by_halving_and_reported(
    ollama_server: OllamaServer, embedding: OllamaEmbedding, sent: Sent, status: int
) -> None:
    ollama_server.fault("status", status=status, message="NaN", contains="bad")
    texts = [f"text {n}" for n in range(10)]
    texts[6] = "a bad one"
    with pytest.raises(BadInputError, match=r"^input\[6\] \(9 characters\): .*NaN") as caught:
        embedding.get_text_embedding_batch(texts)
    error = caught.value
    assert (error.text, error.index, error.status_code) == ("a bad one", 6, status)
    assert "a bad one" not in str(error)
    assert isinstance(error.__cause__, (BadRequestError, ServerError))
    assert [len(batch) for batch in inputs(sent)] == [10, 5, 2, 1, 1]


def test_a_batch_may_succeed_in_halves(ollama_server: OllamaServer, sent: Sent) -> None:
    embedding = OllamaEmbedding("all-minilm", ollama_server.url, embed_batch_size=8)
    texts = [f"text {n}" for n in range(8)]
    expected = embedding.get_text_embedding_batch(texts)
    ollama_server.fault("status", status=400, predicate=lambda r: len(r.payload["input"]) > 2)
    assert embedding.get_text_embedding_batch(texts) == expected
    assert [len(batch) for batch in inputs(sent)] == [8, 8, 4, 2, 2, 4, 2, 2]


@pytest.mark.parametrize(
    ("status", "message", "kind", "temporary", "requests"),
    [
        (500, "llama runner process has terminated: out of memory", ServerError, True, [4, 4, 4]),
        (500, "disk failure", ServerError, False, [4, 2, 1, 1]),
        (400, '"x" does not support embeddings', BadRequestError, False, [4, 2, 1, 1]),
    ],
)
def test_a_server_error_is_not_a_bad_input(
    ollama_server: OllamaServer, sent: Sent, status: int, message: str, kind: type[Exception], temporary: bool,
    requests: list[int],
) -> None:  # fmt: skip
    # Once wrong: the first text was blamed for an error that any text would have caused.
    ollama_server.fault("status", status=status, message=message)
    with instant_retries(), pytest.raises(kind, match=message.rsplit(maxsplit=1)[-1]) as caught:
        OllamaEmbedding("all-minilm", ollama_server.url).get_text_embedding_batch(["a", "b", "c", "d"])
    assert not isinstance(caught.value, BadInputError)
    assert caught.value.temporary is temporary
    assert [len(batch) for batch in inputs(sent)] == requests


def test_the_first_text_is_bad_if_another_succeeds(
    ollama_server: OllamaServer, embedding: OllamaEmbedding, sent: Sent
) -> None:
    ollama_server.fault("status", status=400, contains="bad")
    with pytest.raises(BadInputError) as caught:
        embedding.get_text_embedding_batch(["bad", "b", "c", "d"])
    assert (caught.value.text, caught.value.index) == ("bad", 0)
    assert inputs(sent) == [["bad", "b", "c", "d"], ["bad", "b"], ["bad"], ["a"]]


@pytest.mark.parametrize("settings", [{}, {"embed_batch_size": 1}, {"max_batch_chars": 10}], ids=str)
@pytest.mark.parametrize("too_long", [[1], [0], [0, 2], [2]], ids=str)
def test_a_text_that_is_too_long_is_named(
    ollama_server: OllamaServer, settings: dict[str, int], too_long: list[int]
) -> None:
    ollama_server.fault("status", status=400, message="the input length exceeds the context length", contains="long")
    texts = [f"a long text {n}" if n in too_long else f"ok {n}" for n in range(3)]
    embedding = OllamaEmbedding("all-minilm", ollama_server.url, truncate=False, **settings)
    with pytest.raises(BadInputError, match=r"raise num_ctx|shorten") as caught:
        embedding.get_general_text_embeddings(texts)
    assert caught.value.index in too_long
    assert caught.value.text == texts[caught.value.index]
    assert isinstance(caught.value.__cause__, ContextWindowExceededError)


def test_a_text_in_its_own_request_is_named_if_others_succeed(ollama_server: OllamaServer) -> None:
    ollama_server.fault("status", status=500, message="NaN", contains="bad")
    embedding = OllamaEmbedding("all-minilm", ollama_server.url, embed_batch_size=1)
    with pytest.raises(BadInputError) as caught:
        embedding.get_general_text_embeddings(["a", "b", "bad"])
    assert (caught.value.text, caught.value.index) == ("bad", 2)


LONG = " ".join(f"word{index}" for index in range(3000))


@pytest.fixture(params=["synchronously", "asynchronously"])
def vectors_of(request: pytest.FixtureRequest) -> Callable[[OllamaEmbedding, list[str]], list[list[float]]]:
    def synchronously(embedding: OllamaEmbedding, texts: list[str]) -> list[list[float]]:
        return embedding.get_text_embedding_batch(texts)

    def asynchronously(embedding: OllamaEmbedding, texts: list[str]) -> list[list[float]]:
        return asyncio.run(embedding.aget_text_embedding_batch(texts))

    return synchronously if request.param == "synchronously" else asynchronously


def test_texts_that_are_too_long(
    ollama_server: OllamaServer, vectors_of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def made(**settings: Any) -> OllamaEmbedding:
        return OllamaEmbedding("all-minilm", ollama_server.url, **settings)

    texts = ["short", LONG]
    ignored = vectors_of(made(on_truncation="ignore"), texts)
    assert caplog.records == []
    assert vectors_of(made(), texts) == ignored
    assert f"input[1] ({len(LONG):,} characters)" in caplog.text
    assert vectors_of(made(ollama_additional_kwargs={"on_truncation": "ignore"}), texts) == ignored
    split = vectors_of(made(on_truncation="split"), texts)
    assert (split[0], split[1] != ignored[1]) == (ignored[0], True)
    for settings in ({"on_truncation": "error"}, {"truncate": False}, {"truncate": False, "on_truncation": "split"}):
        with pytest.raises(TooLongInputError, match=r"^input\[1\]") as caught:
            vectors_of(made(**settings), texts)
        assert isinstance(caught.value, ContextWindowExceededError)
        assert (caught.value.index, caught.value.text) == (1, LONG)
    assert vectors_of(made(truncate=True, on_truncation="error"), texts) == ignored


def test_a_query_that_is_too_long(ollama_server: OllamaServer) -> None:
    strict = OllamaEmbedding("all-minilm", ollama_server.url, on_truncation="error")
    with pytest.raises(ContextWindowExceededError):
        strict.get_query_embedding(LONG)
    with OllamaProvider("all-minilm", ollama_server.url, on_truncation="error") as provider:
        with pytest.raises(ContextWindowExceededError):
            OllamaEmbedding(provider=provider).get_query_embedding(LONG)
        assert len(OllamaEmbedding(provider=provider, on_truncation="split").get_query_embedding(LONG)) == 384


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="'warn', 'error', 'ignore' or 'split'"):
        OllamaEmbedding("all-minilm", on_truncation="cut")  # type: ignore[arg-type]  # a wrong value is what is tested


def test_one_text_fails_with_the_servers_own_error(ollama_server: OllamaServer, embedding: OllamaEmbedding) -> None:
    ollama_server.fault("status", status=400, contains="bad")
    with pytest.raises(BadRequestError) as caught:
        embedding.get_query_embedding("bad")
    assert not isinstance(caught.value, BadInputError)


@pytest.mark.parametrize(("status", "kind"), [(401, AuthenticationError), (404, ModelNotFoundError)])
def test_other_errors_do_not_split_the_batch(
    ollama_server: OllamaServer, embedding: OllamaEmbedding, sent: Sent, status: int, kind: type[Exception]
) -> None:
    ollama_server.fault("status", status=status, message='model "all-minilm" not found, try pulling it first')
    with pytest.raises(kind):
        embedding.get_text_embedding_batch(["a", "b"])
    assert len(inputs(sent)) == 1


def test_one_failure_cancels_the_rest(ollama_server: OllamaServer) -> None:
    gate = Gate()
    ollama_server.fault("status", status=401, contains="bad")
    ollama_server.on(path="/api/embed", contains="slow").reply(lambda _: Reply(embeddings=[[1.0]], gate=gate))
    embedding = OllamaEmbedding("all-minilm", ollama_server.url, embed_batch_size=1)
    with pytest.raises(AuthenticationError):
        embedding.get_general_text_embeddings(["slow", "bad", "slow"])
    ollama_server.wait_for(lambda s: s.active_requests == 0)


def test_the_cache_comes_first(ollama_server: OllamaServer, sent: Sent) -> None:
    embedding = OllamaEmbedding("all-minilm", ollama_server.url, embeddings_cache=SimpleKVStore())
    first = embedding.get_text_embedding_batch(["a", "b"])
    assert asyncio.run(embedding.aget_text_embedding_batch(["a", "b", "c"]))[:2] == first
    assert inputs(sent) == [["a", "b"], ["c"]]


def test_workers(ollama_server: OllamaServer) -> None:
    embedding = OllamaEmbedding("all-minilm", ollama_server.url, embed_batch_size=1, num_workers=2)
    assert len(asyncio.run(embedding.aget_text_embedding_batch(["a", "b", "c"]))) == 3


def test_client_kwargs(ollama_server: OllamaServer) -> None:
    embedding = OllamaEmbedding(
        "all-minilm", ollama_server.url, client_kwargs={"headers": {"X-Team": "blue"}, "timeout": 5, "verify": False}
    )
    embedding.get_text_embedding("a")
    assert ollama_server.requests[0].headers["x-team"] == "blue"
    with pytest.raises(TypeError, match="'timeuot'; did you mean 'timeout'"):
        OllamaEmbedding("all-minilm", client_kwargs={"timeuot": 5})
    with pytest.raises(TypeError, match="provider="):
        OllamaEmbedding("all-minilm", client_kwargs={"event_hooks": {}})


@pytest.mark.parametrize("headers", [{"X-Team": "blue"}, [("X-Team", "blue")], httpx.Headers({"X-Team": "blue"})])
def test_headers_in_any_form_that_an_http_client_takes(ollama_server: OllamaServer, headers: Any) -> None:
    OllamaEmbedding("all-minilm", ollama_server.url, client_kwargs={"headers": headers}).get_text_embedding("a")
    assert ollama_server.requests[0].headers["x-team"] == "blue"


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"client_kwargs": {"timeout": 0.2}}, "request_timeout"),
        ({"client_kwargs": {"timeout": httpx.Timeout(0.2)}}, "request_timeout"),
        ({"client_kwargs": {"timeout": httpx.Timeout(None, read=0.2)}}, "request_timeout"),
        ({"client_kwargs": {"timeout": (5, 0.2, 5, 5)}}, "request_timeout"),
        ({"request_timeout": 0.2}, "request_timeout"),
        ({"stream_config": StreamConfig(first_chunk_timeout=0.2)}, "first_chunk_timeout"),
    ],
    ids=str,
)
def test_deadlines(ollama_server: OllamaServer, settings: dict[str, Any], advice: str) -> None:
    gate = Gate()
    ollama_server.on(path="/api/embed").reply(lambda _: Reply(embeddings=[[1.0]], gate=gate))
    with pytest.raises(LLMTimeoutError, match=rf"; .*raise {advice}, .*\(embed_batch_size\)$") as caught:
        OllamaEmbedding("all-minilm", ollama_server.url, **settings).get_text_embedding("a")
    assert (caught.value.deadline, caught.value.seconds) == ("first_chunk_timeout", 0.2)


@pytest.mark.parametrize(
    ("timeout", "error"), [("soon", TypeError), ([], TypeError), (0, ValueError), (-1, ValueError)]
)
def test_invalid_timeouts(timeout: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="client_kwargs: timeout"):
        OllamaEmbedding("all-minilm", client_kwargs={"timeout": timeout})


def test_an_empty_address_is_ignored() -> None:
    assert OllamaEmbedding("all-minilm", "").base_url == Ollama("llama3.2", "").base_url == "http://localhost:11434"


def test_invalid_settings() -> None:
    with pytest.raises(TypeError, match="'embed_batchsize'; did you mean 'embed_batch_size'"):
        OllamaEmbedding("all-minilm", embed_batchsize=3)
    for settings in ({"embed_batch_size": 0}, {"embed_batch_size": 2049}, {"dimensions": 0}, {"max_batch_chars": 0}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            OllamaEmbedding("all-minilm", **settings)
    with pytest.raises(ValueError, match="model"):
        OllamaEmbedding()


def test_a_provider_sets_model_and_address(ollama_server: OllamaServer) -> None:
    provider = OllamaProvider("all-minilm", ollama_server.url)
    embedding = OllamaEmbedding(provider=provider)
    assert (embedding.model_name, embedding.base_url) == ("all-minilm", ollama_server.url)
    assert len(embedding.get_text_embedding("a")) == 384
    with pytest.raises(ValueError, match="stream_config"):
        OllamaEmbedding(provider=provider, request_timeout=3)


def test_secrets_and_serialization(
    ollama_server: OllamaServer, recorder: Any, caplog: pytest.LogCaptureFixture
) -> None:
    address = ollama_server.url.replace("http://", "http://user:pa55@")
    embedding = OllamaEmbedding(
        "all-minilm",
        address,
        client_kwargs={"headers": {"X-Secret": "t0psecret"}},
        headers={"X-More": "m0resecret"},
        retry=RetryPolicy.off(),
    )
    embedding.get_text_embedding("a")
    shown = [repr(embedding), str(embedding), repr(embedding.to_dict()), embedding.to_json()]
    shown += [repr(embedding.to_payload()), *(repr(event) for event in recorder.events)]
    for secret in ("pa55", "t0psecret", "m0resecret"):
        assert secret not in "".join(shown)
    again = OllamaEmbedding.from_dict(embedding.to_dict())
    assert again.to_dict() == embedding.to_dict()
    assert again.get_text_embedding("a")
    for one in (copy.deepcopy(embedding), embedding.model_copy()):
        one.get_text_embedding("a")
        headers = ollama_server.requests[-1].headers
        assert (headers["x-secret"], headers["x-more"]) == ("t0psecret", "m0resecret")
        assert headers["authorization"].startswith("Basic ")
    assert caplog.records == []


def test_an_unpickled_embedding_works(ollama_server: OllamaServer, caplog: pytest.LogCaptureFixture) -> None:
    settings = {"retry": RetryPolicy.off(), "request_timeout": 5.0, "client_kwargs": {"trust_env": False}}
    embedding = OllamaEmbedding("all-minilm", ollama_server.url, **settings)
    again = pickle.loads(pickle.dumps(embedding))
    assert again.get_text_embedding("a") == embedding.get_text_embedding("a")
    assert again.to_dict() == embedding.to_dict()
    assert caplog.records == []
