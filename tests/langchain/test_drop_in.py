"""langchain-ollama's classes and ours, with the same arguments and inputs: every difference is listed here.

Each case runs against each version of the test server.

A difference that is not in a list fails the test, and so does one that is in a list but no longer occurs.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import langchain_ollama as theirs
import pytest
from langchain_core.messages import AIMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage
from pydantic import BaseModel
from version_table import VERSIONS

import langchain_namel3ss_ollama as ours
from namel3ss_ollama.schemas import portable_schema
from namel3ss_ollama.testing import OllamaServer, Reply, ToolCall
from namel3ss_ollama.testing.versions import CACHED_COUNT, DIMENSIONS, LOGPROBS, THINK_LEVELS, Feature

pytestmark = [
    pytest.mark.usefixtures("shared_ssl_context"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

# Requests: path in the body -> why it differs.
BODY = {
    "stream": "true is the server's default, and unset fields are not sent",
    "options": "an empty object has no effect",
    "tools": "an empty list has no effect",
}
# Responses: path in the message -> why it differs.
RESULT = {
    "response_metadata.tokens_per_second": "new: follows from the counters",
    "response_metadata.prompt_tokens_per_second": "new: follows from the counters",
    "response_metadata.time_to_first_token": "new: measured here, in seconds",
    "response_metadata.finish_reason": "new: langchain-core's name for done_reason",
    "response_metadata.normalized_finish_reason": "new: the same, as langchain-core's value",
    "response_metadata.created_at": "two answers, two moments",
    "id": "two runs, two ids",
    "generation_info.created_at": "two answers, two moments",
}
CACHED = {
    "response_metadata.prompt_eval_cached_count": "theirs drops fields unknown to its client",
    "usage_metadata.input_token_details": "new: the tokens that the server had in its cache",
}
SCHEMA = {
    "tools.1.function.parameters.properties.inner.anyOf": "theirs drops what its client's types lack",
    "tools.1.function.parameters.properties.inner.default": "the same",
}
CALL_ID = {"tool_calls.0.id": "the server's id is kept", "tool_calls.0.args.c": "a text in the arguments stays a text"}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
OPTIONS: dict[str, Any] = {
    "temperature": 0.5, "num_ctx": 2048, "num_predict": 9, "seed": 1, "top_k": 4, "top_p": 0.5, "mirostat": 1,
    "mirostat_eta": 0.1, "mirostat_tau": 5.0, "repeat_last_n": 3, "repeat_penalty": 1.1, "tfs_z": 1.0, "num_gpu": 1,
    "num_thread": 2, "stop": ["x"], "keep_alive": "5m",
}  # fmt: skip
HISTORY = [
    SystemMessage("s"),
    HumanMessage("h"),
    AIMessage(
        "",
        tool_calls=[{"name": "add", "args": {"a": 1}, "id": "1"}],
        additional_kwargs={"reasoning_content": "t"},
    ),
    ToolMessage("3", tool_call_id="1", name="add"),
    ChatMessage(role="user", content="c"),
]
WITH_IMAGE = HumanMessage(
    [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": f"data:image/png;base64,{PIXEL}"}]
)


class Inner(BaseModel):
    x: int


class Place(BaseModel):
    """A place."""

    city: str
    inner: Inner | None = None


def add(a: int, b: list[int]) -> int:
    """Add."""
    return a + sum(b)


def streamed(model: Any, *arguments: Any) -> Any:
    pieces = list(model.stream(*arguments))
    return pieces[0] + pieces[1:]


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """Theirs leaves its connections open; they are closed here, so that no later test fails because of them."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


COUNTED = {
    *("usage_metadata.input_tokens", "usage_metadata.total_tokens"),
    *(f"response_metadata.{name}" for name in ("prompt_eval_count", "prompt_eval_duration", "total_duration")),
}
"""The differences that follow from other tool definitions, which are counted as tokens too."""
Case = tuple[dict[str, Any], Callable[[Any], Any], dict[str, str], dict[str, str]]
CASES: dict[str, Case] = {
    "a text": ({}, lambda m: m.invoke("Hi"), {}, {}),
    "all options": (OPTIONS, lambda m: m.invoke("Hi"), {}, {}),
    "a stream": ({}, lambda m: streamed(m, "Hi"), {}, {}),
    "reasoning": ({"reasoning": True}, lambda m: m.invoke("think"), {}, {}),
    "reasoning in a stream": ({"reasoning": "low"}, lambda m: streamed(m, "think"), {}, {}),
    "no reasoning": ({"reasoning": False}, lambda m: m.invoke("think"), {}, {}),
    "json": ({"format": "json"}, lambda m: m.invoke("where"), {}, {}),
    "bound": ({}, lambda m: m.bind(keep_alive=5, reasoning=True, model="other").invoke("Hi"), {}, {}),
    "structured output": ({}, lambda m: m.with_structured_output(Place).invoke("where"), {}, {}),
    "json mode": ({}, lambda m: m.with_structured_output(Place, method="json_mode").invoke("where"), {}, {}),
    "response format": ({}, lambda m: m.invoke("where", response_format={"type": "json_object"}), {}, {}),
    # A bug of theirs.
    "a history": (
        {},
        lambda m: m.invoke(HISTORY),
        {
            "messages.2.content": "the API requires one, even if empty",
            "messages.2.tool_calls.0.id": "theirs drops the ids of calls",
            "messages.2.tool_calls.0.function.index": "the same",
            "messages.3.tool_call_id": "theirs drops which call is answered",
            "messages.3.tool_name": "theirs drops which tool answers",
        },
        {},
    ),
    "an image": (
        {},
        lambda m: m.invoke([WITH_IMAGE]),
        {
            "messages.0.content": "theirs begins with a newline",
            "truncate": "an image may exceed the context window, which must be detected",
        },
        {},
    ),
    "tools": ({}, lambda m: m.bind_tools([add, Place]).invoke("add"), SCHEMA, CALL_ID),
    "tools in a stream": (
        {},
        lambda m: streamed(m.bind_tools([add, Place]), "add"),
        SCHEMA,
        {
            **CALL_ID,
            "tool_call_chunks.0.id": "the server's id is kept",
            "tool_call_chunks.0.args": "a text in the arguments stays a text",
            "tool_call_chunks.0.index": "theirs has none, so that calls of two chunks can be taken for one",
        },
    ),
    "a forced call": (
        {},
        lambda m: m.bind_tools([add], tool_choice="any").invoke("add"),
        {"format": "theirs ignores tool_choice; a grammar makes it hold"},
        CALL_ID,
    ),
    "a called schema": (
        {},
        lambda m: m.with_structured_output(Place, method="function_calling").invoke("place"),
        {
            **{path.replace("tools.1", "tools.0"): why for path, why in SCHEMA.items()},
            "format": "theirs relies on the model to call the tool, and returns None if it does not",
        },
        {},
    ),
    "unrequested reasoning": (
        {},
        lambda m: m.invoke("think"),
        {},
        {"additional_kwargs.reasoning_content": "theirs drops the reasoning of a model that thinks by default"},
    ),
    "options of the call": (
        {"temperature": 0.5},
        lambda m: m.invoke("Hi", options={"top_k": 3}),
        {"options.temperature": "theirs drops the constructor's options when the call has some"},
        {},
    ),
    "log probabilities": (
        {"logprobs": True},
        lambda m: m.invoke("Hi"),
        {},
        {
            "response_metadata.logprobs.*.bytes": "theirs drops them",
            "response_metadata.logprobs.*.top_logprobs": "values that the server did not send are absent",
        },
    ),
    "stop, twice": (
        {"stop": ["a"]},
        lambda m: m.invoke("Hi", stop=["b"]),
        {"": "theirs refuses"},
        {"": "theirs raises ValueError; here the call's stop wins"},
    ),
    "only loaded": ({}, lambda m: m.invoke("load"), {}, {"": "theirs raises ValueError"}),
    "a cut stream": (
        {},
        lambda m: m.invoke("cut"),
        {},
        {"": "theirs raises httpx.RemoteProtocolError; here one of LangChain's errors, with what had arrived"},
    ),
    "a stream that just ends": (
        {},
        lambda m: m.invoke("endless"),
        {},
        {"": "theirs takes it for a complete answer; here it is an error"},
    ),
}
# What differs in the result of a case on a server that lacks a feature.
BEFORE: dict[str, tuple[Feature, dict[str, str]]] = {
    "reasoning in a stream": (THINK_LEVELS, {"": "each raises its own error"}),
    "log probabilities": (LOGPROBS, {}),
}


def script(server: OllamaServer) -> None:
    call = ToolCall("add", {"a": 1, "b": [2], "c": "[1]"}, id="x1")
    loaded = {"model": "m", "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "load"}
    begun = {"model": "m", "message": {"role": "assistant", "content": "a"}, "done": False}
    server.on(contains="add").reply("", tool_calls=[call])
    server.on(contains="place").reply("", tool_calls=[ToolCall("Place", {"city": "Rome"}, id="x2")])
    server.on(contains="where").reply('{"city":"Rome"}')
    server.on(contains="think").reply("ok", thinking="hmm")
    server.on(contains="load").reply(Reply(lines=[loaded]))
    server.on(contains="cut").fault("cut", at_token=2).reply(["a", "b", "c"])
    server.on(contains="endless").reply(Reply(lines=[begun]))
    server.reply(["Good", " day."])  # otherwise newer servers think, which theirs drops


def differing(theirs: Any, ours: Any, path: str = "") -> Iterator[str]:
    """The paths of the differences."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for name in theirs.keys() | ours.keys():
            inner = f"{path}.{name}" if path else name
            if name in theirs and name in ours:
                yield from differing(theirs[name], ours[name], inner)
            else:
                yield inner
    elif isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        for index, (one, other) in enumerate(zip(theirs, ours, strict=True)):
            yield from differing(one, other, f"{path}.{'*' if path.endswith('logprobs') else index}")
    elif theirs != ours:
        yield path


def outcome(ask: Callable[[], Any]) -> Any:
    try:
        result = ask()
    except Exception as error:
        return error
    return result.model_dump() if isinstance(result, BaseModel) else result


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def both(make: Callable[[Any, str], Any], ask: Callable[[Any], Any], version: str) -> list[tuple[Any, Any]]:
    """The request body and the result, theirs and ours."""
    found = []
    for package in (theirs, ours):
        with OllamaServer(models=None, version=version) as server:
            script(server)
            model = make(package, server.url)
            result = outcome(lambda model=model: ask(model))
            records = [
                record for record in server.requests if record.path in ("/api/chat", "/api/generate", "/api/embed")
            ]
            found.append((dict(records[-1].payload) if records else None, result))
    return found


@pytest.mark.parametrize("name", CASES)
def test_chat(name: str, version: str) -> None:
    arguments, ask, in_body, in_result = CASES[name]
    (their_body, their_result), (our_body, our_result) = both(
        lambda package, url: package.ChatOllama(model="llama3.2", base_url=url, **arguments), ask, version
    )
    if their_body and isinstance(
        their_body.get("format"), dict
    ):  # theirs is sent unchanged, and a server refuses some of it
        their_body["format"] = portable_schema(their_body["format"])
    assert set(differing(their_body, our_body)) - BODY.keys() == in_body.keys()
    counted = COUNTED if their_body != our_body and "tools" in our_body else set()
    feature, before = BEFORE.get(name, (None, {}))
    if feature is not None and not feature.on(version):
        in_result = before
    elif CACHED_COUNT.on(version) and "" not in in_result and "usage_metadata" in our_result:
        in_result = {**in_result, **CACHED}
    assert set(differing(their_result, our_result)) - RESULT.keys() - counted == in_result.keys()


@pytest.mark.parametrize(
    ("arguments", "ask"),
    [
        ({}, lambda m: m.invoke("Hi")),
        (OPTIONS, lambda m: m.invoke("Hi")),
        ({"format": "json"}, lambda m: "".join(m.stream("where"))),
        ({"reasoning": True}, lambda m: m.generate(["think"]).generations[0][0].text),
        ({}, lambda m: m.invoke("Hi", system="s", raw=True, suffix="x")),
    ],
)
def test_text(arguments: dict[str, Any], ask: Callable[[Any], Any], version: str) -> None:
    (their_body, their_result), (our_body, our_result) = both(
        lambda package, url: package.OllamaLLM(model="llama3.2", base_url=url, **arguments), ask, version
    )
    # `format` too: an empty string means nothing.
    assert set(differing(their_body, our_body)) <= {*BODY, "format", "template", "system", "suffix", "raw"} - {
        name for name in ("system", "suffix", "raw") if name in our_body
    }
    assert their_result == our_result


@pytest.mark.parametrize("arguments", [{}, {"dimensions": 3, "num_ctx": 512, "keep_alive": 5, "temperature": 0.5}])
@pytest.mark.parametrize("ask", [lambda m: m.embed_query("a"), lambda m: m.embed_documents(["a", "b"])])
def test_embeddings(arguments: dict[str, Any], ask: Callable[[Any], Any], version: str) -> None:
    (their_body, their_result), (our_body, our_result) = both(
        lambda package, url: package.OllamaEmbeddings(model="all-minilm", base_url=url, **arguments),
        ask,
        version,
    )
    # Theirs sends null for each option that is not set.
    their_body["options"] = {name: value for name, value in their_body["options"].items() if value is not None}
    assert set(differing(their_body, our_body)) == ({"truncate"} if arguments else {"truncate", "options"})
    if arguments and not DIMENSIONS.on(version):  # theirs returns vectors of another size than requested
        assert isinstance(our_result, ours.OllamaMalformedResponseError)
    else:
        assert their_result == our_result


@pytest.mark.parametrize("name", ["ChatOllama", "OllamaLLM", "OllamaEmbeddings"])
def test_every_parameter_exists(name: str) -> None:
    their_class, our_class = getattr(theirs, name), getattr(ours, name)
    assert their_class.model_fields.keys() <= our_class.model_fields.keys()
    methods = {m for m in dir(their_class) if not m.startswith("_") and callable(getattr(their_class, m))}
    assert methods <= set(dir(our_class))
