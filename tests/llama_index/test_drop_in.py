"""Ours in place of llama-index-llms-ollama and llama-index-embeddings-ollama, on one server.

The same calls on both, on each version of the server: equal requests and equal results, except for the fixed bugs in
`FIXED`. Each of those has a test that also shows the peer's behaviour, so that the list cannot go stale.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ImageBlock, TextBlock, ToolCallBlock
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel
from version_table import VERSIONS

from llama_index.embeddings.namel3ss_ollama import OllamaEmbedding
from llama_index.llms.namel3ss_ollama import Ollama
from namel3ss_ollama import StreamInterruptedError
from namel3ss_ollama.schemas import portable_schema
from namel3ss_ollama.testing import DEFAULT_MODELS, Model, OllamaServer, Record, Reply, ToolCall
from namel3ss_ollama.testing.versions import CACHED_COUNT, THINK_LEVELS

peer_llms = pytest.importorskip("llama_index.llms.ollama", reason="llama-index-llms-ollama is not installed")
peer_embeddings = pytest.importorskip("llama_index.embeddings.ollama", reason="its embeddings are not installed")

FIXED = {
    "stream": "complete answers are assembled from a stream too, so a stall is detected and request_timeout does not "
    "limit the entire answer",
    "num_ctx": "the model's full context is not requested; num_ctx is sent only if context_window is set",
    "metadata": "it does no I/O",
    "null": "a temperature that is not set is not sent, instead of null",
    "tool calls": "calls and tool answers keep id, index, tool_call_id and tool_name",
    "schemas": "tool schemas keep nested parts: anyOf, and the targets of references",
    "same call twice": "two equal parallel calls are two calls, with distinct ids",
    "think": "think=False of a call wins over thinking=True",
    "keywords": "temperature, options, stop, model, ... of a call are not dropped",
    "raw": "raw is plain JSON",
    "usage": "a counter that the server omits counts as 0",
    "cached tokens": "usage has the tokens that the server had in its cache, if it counts them",
    "events": "complete emits completion events and one callback, and not those of a chat, too",
    "cut": "a stream that ends early is an error",
    "loops": "one object works in several event loops",
    "history": "chat_with_tools does not change the chat_history that it is given",
    "structured events": "structured_predict emits its events",
    "system prompt": "structured_predict uses the system prompt",
    "forced calls": "tool_required and tool_choice are enforced",
    "repr": "headers are in no repr and no to_dict",
    "stripped texts": "texts are embedded as they are",
    "unknown keywords": "an unknown keyword is an error",
    "too long": "newer servers are asked to refuse a prompt that may exceed the context window, such as one with an "
    "image, and truncation is detected",
}


class City(BaseModel):
    """A city."""

    name: str
    people: int


def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


TOOL = FunctionTool.from_defaults(weather)
IMAGE = b"\x89PNG\r\n\x1a\n" + bytes(range(64))
ASK = [ChatMessage(role="system", content="Be kind."), ChatMessage(role="user", content="Say something.")]
HISTORY = [
    ChatMessage(role="user", content="Weather in Rome?"),
    ChatMessage(role="assistant", blocks=[ToolCallBlock(tool_name="weather", tool_kwargs={"city": "Rome"})]),
    ChatMessage(role="tool", content="sunny"),
]
Pair = tuple[Any, Any]


@pytest.fixture(params=VERSIONS)
def server(request: pytest.FixtureRequest) -> Iterator[OllamaServer]:
    everything = Model("all", ("completion", "tools", "thinking", "vision"), context_length=131072)
    with OllamaServer([*DEFAULT_MODELS, everything], version=request.param) as server:
        yield server


pytestmark = [
    pytest.mark.usefixtures("shared_ssl_context"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # the peers leave their connections open
]


@pytest.fixture(scope="module", autouse=True)
def _connections_left_by_the_peers_are_collected() -> Iterator[None]:
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def both(server: OllamaServer, call: Callable[[Any], Any], **settings: Any) -> tuple[Pair, tuple[Record, Record]]:
    """The results of a call on the peer and on ours, and the requests for them."""
    results, records = [], []
    for cls in (peer_llms.Ollama, Ollama):
        before = len(server.requests)
        results.append(call(cls(model="all", base_url=server.url, **settings)))
        paths = ("/api/chat", "/api/embed")
        records.append(next(r for r in server.requests[before:] if r.path in paths))
    return (results[0], results[1]), (records[0], records[1])


def comparable(body: dict[str, Any]) -> dict[str, Any]:
    """A request's body without the fixed differences, and without empty values."""
    body = json.loads(json.dumps(body))
    body.pop("stream", None)
    options = {name: value for name, value in body.pop("options", {}).items() if value is not None}
    if options.get("num_ctx") == 131072:
        del options["num_ctx"]
    body["options"] = options
    if isinstance(body.get("format"), dict):  # theirs is sent unchanged, and a server refuses some of it
        body["format"] = portable_schema(body["format"])
    for tool in body.get("tools") or []:  # pydantic's titles, which the ollama package drops with every unknown key
        for schema in tool["function"]["parameters"]["properties"].values():
            schema.pop("title", None)
    for message in body.get("messages", []):
        if message.get("content") == "":
            del message["content"]
        message.pop("tool_name", None)
        message.pop("tool_call_id", None)
        for call in message.get("tool_calls", []):
            call.pop("id", None)
            call["function"].pop("index", None)
    return {name: value for name, value in body.items() if value not in ({}, [], None)}


def comparable_response(response: ChatResponse) -> dict[str, Any]:
    """A response without ids, times and the fields that only one of the two has."""
    blocks = [block.model_dump(exclude={"tool_call_id"}) for block in response.message.blocks]
    raw = {**response.raw}
    if usage := raw.get("usage"):
        raw["usage"] = {name: count for name, count in usage.items() if name != "cached_tokens"}
    same = ("model", "done", "done_reason", "prompt_eval_count", "eval_count", "usage")
    return {
        "blocks": blocks,
        "role": response.message.role,
        "delta": response.delta,
        "thinking_delta": response.additional_kwargs.get("thinking_delta"),
        "raw": {name: raw.get(name) for name in same} if raw.get("done") else {},
    }


def _chat(messages: list[ChatMessage], **keywords: Any) -> Callable[[Any], Any]:
    return lambda llm: [comparable_response(llm.chat(messages, **keywords))]


def _achat(messages: list[ChatMessage], **keywords: Any) -> Callable[[Any], Any]:
    return lambda llm: [comparable_response(asyncio.run(llm.achat(messages, **keywords)))]


def _stream_chat(messages: list[ChatMessage], **keywords: Any) -> Callable[[Any], Any]:
    return lambda llm: [comparable_response(response) for response in llm.stream_chat(messages, **keywords)]


def _astream_chat(messages: list[ChatMessage], **keywords: Any) -> Callable[[Any], Any]:
    async def read(llm: Any) -> Any:
        return [comparable_response(response) async for response in await llm.astream_chat(messages, **keywords)]

    return lambda llm: asyncio.run(read(llm))


WAYS = [_chat, _achat, _stream_chat, _astream_chat]
SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.0},
    {"context_window": 2048, "temperature": 0.7},
    {"json_mode": True},
    {"keep_alive": "5m"},
    {"keep_alive": 0},
    {"thinking": True},
    {"thinking": False},
    {"thinking": "low"},
    {"additional_kwargs": {"num_predict": 7, "stop": ["x"], "seed": 1}},
    {"temperature": 0.2, "additional_kwargs": {"temperature": 0.9, "num_ctx": 1024}},
    {"request_timeout": 20.0},
]
WITH_IMAGE = [ChatMessage(role="user", blocks=[TextBlock(text="a"), TextBlock(text="b"), ImageBlock(image=IMAGE)])]
CONVERSATIONS: list[list[ChatMessage]] = [ASK, WITH_IMAGE, HISTORY]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_constructor_settings(server: OllamaServer, settings: dict[str, Any], way: Any) -> None:
    if isinstance(settings.get("thinking"), str) and not THINK_LEVELS.on(server.version):
        for cls in (peer_llms.Ollama, Ollama):
            with pytest.raises(Exception, match=r"ChatRequest\.think"):
                way(ASK)(cls(model="all", base_url=server.url, **settings))
        return
    text = ["{", "}"] if settings.get("json_mode") else ["Good", " day"]
    server.reply(text, thinking="Hm" if settings.get("thinking") else "")
    results, (theirs, ours) = both(server, way(ASK), **settings)
    assert comparable(ours.payload) == comparable(theirs.payload)
    assert results[1] == results[0]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("messages", CONVERSATIONS, ids=["text", "image", "tools"])
@pytest.mark.parametrize("keywords", [{}, {"think": True}, {"format": "json"}, {"format": {"type": "object"}}], ids=str)
def test_messages_and_keywords(
    server: OllamaServer, messages: list[ChatMessage], keywords: dict[str, Any], way: Any
) -> None:
    server.reply(["{", "}"] if "format" in keywords else ["Good", " day"], thinking=["Let", " me"])
    results, (theirs, ours) = both(server, way(messages, **keywords))
    fixed = {"truncate": False} if messages is WITH_IMAGE else {}
    assert comparable(ours.payload) == {**comparable(theirs.payload), **fixed}
    assert results[1] == results[0]


@pytest.mark.parametrize("way", ["chat_with_tools", "achat_with_tools", "stream_chat_with_tools"])
def test_tools(server: OllamaServer, way: str) -> None:
    # Theirs drops the titles in the definition, so its tokens would be fewer.
    server.reply(tool_calls=[ToolCall("weather", {"city": "Rome"})], counters={"prompt_eval_count": 60})

    def call(llm: Any) -> Any:
        result = getattr(llm, way)([TOOL], user_msg="Weather in Rome?", chat_history=[ASK[0]])
        if inspect.isawaitable(result):

            async def wait() -> Any:
                return await result

            result = asyncio.run(wait())
        last = result if isinstance(result, ChatResponse) else list(result)[-1]
        selections = llm.get_tool_calls_from_response(last)
        return comparable_response(last), [(one.tool_name, one.tool_kwargs) for one in selections]

    results, (theirs, ours) = both(server, call)
    assert comparable(ours.payload) == comparable(theirs.payload)
    assert results[1] == results[0]


@pytest.mark.parametrize(
    "call",
    [
        lambda llm: llm.complete("Hi").text,
        lambda llm: [(r.text, r.delta) for r in llm.stream_complete("Hi")],
        lambda llm: asyncio.run(llm.acomplete("Hi")).text,
        lambda llm: llm.predict(PromptTemplate("Hi {name}"), name="Bob"),
        lambda llm: list(llm.stream(PromptTemplate("Hi {name}"), name="Bob")),
        lambda llm: llm.class_name(),
    ],
)
def test_completions_and_predictions(server: OllamaServer, call: Callable[[Any], Any]) -> None:
    def and_one_request(llm: Any) -> Any:
        result = call(llm)
        if isinstance(result, str) and result == llm.class_name():
            llm.complete("x")
        return result

    results, (theirs, ours) = both(server, and_one_request)
    assert comparable(ours.payload) == comparable(theirs.payload)
    assert results[1] == results[0]


def test_structured_output(server: OllamaServer) -> None:
    server.reply('{"name": "Rome", "people": 3}')
    prompt = PromptTemplate("A city in {country}.")

    async def read(llm: Any) -> Any:
        return [one async for one in await llm.astream_structured_predict(City, prompt, country="Italy")][-1]

    for call in (
        lambda llm: llm.structured_predict(City, prompt, country="Italy"),
        lambda llm: asyncio.run(llm.astructured_predict(City, prompt, country="Italy")),
        lambda llm: list(llm.stream_structured_predict(City, prompt, country="Italy"))[-1],
        lambda llm: asyncio.run(read(llm)),
        lambda llm: llm.as_structured_llm(City).chat(ASK).raw,
    ):
        results, (theirs, ours) = both(server, call)
        assert comparable(ours.payload) == comparable(theirs.payload)
        assert results == (City(name="Rome", people=3), City(name="Rome", people=3))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"keep_alive": "5m", "ollama_additional_kwargs": {"num_ctx": 128}},
        {"query_instruction": "query:", "text_instruction": " text: "},
        {"embed_batch_size": 2},
    ],
    ids=str,
)
def test_embeddings(server: OllamaServer, settings: dict[str, Any]) -> None:
    calls: list[Callable[[Any], Any]] = [
        lambda e: e.get_text_embedding("one"),
        lambda e: e.get_query_embedding("one"),
        lambda e: e.get_text_embedding_batch(["one", "two", "three"]),
        lambda e: asyncio.run(e.aget_text_embedding_batch(["one", "two", "three"])),
        lambda e: asyncio.run(e.aget_query_embedding("one")),
        lambda e: e.get_general_text_embedding("one"),
        lambda e: e.get_general_text_embeddings(["one", "two"]),
    ]
    for call in calls:
        seen = []
        for cls in (peer_embeddings.OllamaEmbedding, OllamaEmbedding):
            before = len(server.requests)
            result = call(cls(model_name="all-minilm", base_url=server.url, **settings))
            bodies = [comparable(record.payload) for record in server.requests[before:]]
            for body in bodies:  # one text: a string there, a list of one here
                body["input"] = [body["input"]] if isinstance(body["input"], str) else body["input"]
                if cls is OllamaEmbedding:
                    assert body.pop("truncate") is False  # a text that is too long is refused, then found and named
            seen.append((result, sorted(bodies, key=str)))
        assert seen[1][1] == seen[0][1]
        assert seen[1][0] == seen[0][0]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [(peer_llms.Ollama, Ollama), (peer_embeddings.OllamaEmbedding, OllamaEmbedding)],
    ids=["llm", "embedding"],
)
def test_every_parameter_and_method_exists(theirs: Any, ours: Any) -> None:
    signature = inspect.signature(ours.__init__).parameters
    wanted = list(inspect.signature(theirs.__init__).parameters)
    assert [name for name in wanted if name not in signature] == []
    # In the same order, because they may be passed by position.
    positional = [n for n, p in signature.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.POSITIONAL_ONLY)]
    assert positional == [name for name in wanted if name != "kwargs"]
    assert [name for name in dir(theirs) if not name.startswith("_") and not hasattr(ours, name)] == []
    assert ours.class_name() == theirs.class_name()
    fields = {name for name in theirs.model_fields if name not in ours.model_fields}
    assert fields == set()


# Fixed bugs. Each test runs the peer first, so that it fails if the peer changes.

_TESTED: set[str] = set()
T = TypeVar("T")


def shows(*names: str) -> Callable[[T], T]:
    """The test shows these items of `FIXED`."""
    _TESTED.update(names)
    return lambda test: test


@shows("tool calls")
def test_fixed_histories_of_tools(server: OllamaServer) -> None:
    call = ToolCallBlock(tool_call_id="call_1", tool_name="weather", tool_kwargs={"city": "Rome"})
    answer = ChatMessage(role="tool", content="sunny", additional_kwargs={"tool_call_id": "call_1"})
    history = [HISTORY[0], ChatMessage(role="assistant", blocks=[call]), answer]
    _, records = both(server, lambda llm: llm.chat(history))
    theirs, ours = (json.dumps(record.payload["messages"]) for record in records)
    assert "call_1" not in theirs
    assert "tool_name" not in theirs
    assert ours.count('"call_1"') == 2
    assert '"tool_name": "weather"' in ours


@shows("stream", "num_ctx", "metadata", "null")
def test_fixed_num_ctx_and_io(server: OllamaServer) -> None:
    _, (theirs, ours) = both(server, lambda llm: llm.chat(ASK))
    assert theirs.payload["options"] == {"num_ctx": 131072, "temperature": None}
    assert "options" not in ours.payload
    assert (theirs.payload["stream"], ours.payload.get("stream", True)) == (False, True)
    server.reset()
    assert peer_llms.Ollama("all", server.url).metadata.context_window == 131072
    assert [record.path for record in server.requests] == ["/api/show"]
    server.reset()
    assert Ollama("all", server.url).metadata.context_window == 3900
    assert server.requests == []


@shows("schemas", "same call twice")
def test_fixed_tool_calls_and_schemas(server: OllamaServer) -> None:
    def book(city: City | None) -> str:
        return str(city)

    # Made by hand, since annotations in this module are text.
    class Arguments(BaseModel):
        city: City | None

    tool = FunctionTool.from_defaults(book, fn_schema=Arguments)
    call = ToolCall("book", {"city": None})
    server.reply(tool_calls=[call, call])

    def ask(llm: Any) -> Any:
        last = list(llm.stream_chat_with_tools([tool], user_msg="x", allow_parallel_tool_calls=True))[-1]
        return [one.tool_id for one in llm.get_tool_calls_from_response(last)]

    (theirs, ours), records = both(server, ask)
    assert theirs == ["book"]
    assert len(set(ours)) == 2
    schemas = [record.payload["tools"][0]["function"]["parameters"] for record in records]
    assert "anyOf" not in json.dumps(schemas[0])
    city, nothing = schemas[1]["properties"]["city"]["anyOf"]
    assert nothing == {"type": "null"}
    assert city["properties"]["people"]["type"] == "integer"


@shows("think", "keywords")
def test_fixed_keywords_of_a_call(server: OllamaServer) -> None:
    _, (theirs, ours) = both(server, lambda llm: llm.chat(ASK, think=False, temperature=0.1), thinking=True)
    assert (theirs.payload["think"], ours.payload["think"]) == (True, False)
    assert theirs.payload["options"] == {"num_ctx": 131072, "temperature": None}
    assert ours.payload["options"] == {"temperature": 0.1}


@shows("raw", "usage")
def test_fixed_raw_and_usage(server: OllamaServer) -> None:
    server.reply("Hi", counters={"prompt_eval_count": None, "eval_count": 2})
    (theirs, ours), _ = both(server, lambda llm: llm.chat(ASK))
    with pytest.raises(TypeError):
        json.dumps(theirs.raw)
    assert json.dumps(ours.raw)
    assert not (theirs.raw.get("usage") or {}).get("completion_tokens")
    counts = {"prompt_tokens": 0, "completion_tokens": 2, "total_tokens": 2}
    assert ours.raw["usage"] == {**counts, **({"cached_tokens": 0} if CACHED_COUNT.on(server.version) else {})}


@shows("cached tokens")
def test_fixed_cached_tokens(server: OllamaServer) -> None:
    server.reply("Hi")
    counts = []
    for cls in (peer_llms.Ollama, Ollama):
        llm = cls("all", server.url)
        llm.chat(ASK)
        counts.append(llm.chat(ASK).raw["usage"].get("cached_tokens"))
    cached = counts[1]
    assert counts == [None, cached]
    assert bool(cached) == CACHED_COUNT.on(server.version)


@shows("events")
def test_fixed_events_of_completions(server: OllamaServer) -> None:
    counts = []
    for cls in (peer_llms.Ollama, Ollama):
        counter = TokenCountingHandler(tokenizer=str.split)
        cls("all", server.url, callback_manager=CallbackManager([counter])).complete("Hi")
        counts.append(len(counter.llm_token_counts))
    assert counts == [2, 1]


@shows("cut")
def test_fixed_cut_streams(server: OllamaServer) -> None:
    line = {"model": "all", "message": {"role": "assistant", "content": "one"}, "done": False}
    server.on(path="/api/chat").reply(Reply(lines=[line]))
    theirs = peer_llms.Ollama("all", server.url)
    assert list(theirs.stream_chat(ASK))[-1].message.content == "one"
    with pytest.raises(StreamInterruptedError):
        list(Ollama("all", server.url).stream_chat(ASK))


@shows("loops")
def test_fixed_event_loops(server: OllamaServer) -> None:
    theirs = peer_llms.Ollama("all", server.url)
    asyncio.run(theirs.achat(ASK))
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        asyncio.run(theirs.achat(ASK))
    ours = Ollama("all", server.url)
    for _ in range(2):
        asyncio.run(ours.achat(ASK))


@shows("history")
def test_fixed_history(server: OllamaServer) -> None:
    histories: list[list[ChatMessage]] = [[ASK[0]], [ASK[0]]]
    for cls, history in zip((peer_llms.Ollama, Ollama), histories, strict=True):
        cls("all", server.url).chat_with_tools([TOOL], user_msg="x", chat_history=history)
    assert [len(history) for history in histories] == [2, 1]


@shows("structured events", "system prompt")
def test_fixed_structured_output(server: OllamaServer, recorder: Any) -> None:
    found = []
    for cls in (peer_llms.Ollama, Ollama):
        llm = cls("all", server.url, system_prompt="Be kind.")
        keywords: dict[str, Any] = {"think": True}
        server.reset()
        llm.structured_predict(City, PromptTemplate("x"), keywords)
        body: Any = next(record.payload for record in server.requests if record.path == "/api/chat")
        roles = [message["role"] for message in body["messages"]]
        found.append((len(recorder.of("LLMStructuredPredictStartEvent")), roles, "format" in keywords))
    assert found == [(0, ["user"], True), (1, ["system", "user"], False)]


@shows("forced calls")
def test_fixed_forced_calls(server: OllamaServer) -> None:
    def ask(llm: Any) -> Any:
        response = llm.chat_with_tools([TOOL], user_msg="x", tool_required=True)
        return len(llm.get_tool_calls_from_response(response, error_on_no_tool_call=False))

    results, _ = both(server, ask)
    assert results == (0, 1)


@shows("repr")
def test_fixed_secrets(server: OllamaServer) -> None:
    headers = {"X-Secret": "t0psecret"}
    shown = [repr(cls("all", server.url, headers=headers).to_dict()) for cls in (peer_llms.Ollama, Ollama)]
    assert ["t0psecret" in one for one in shown] == [True, False]


@shows("stripped texts")
def test_fixed_stripped_texts(server: OllamaServer) -> None:
    for cls in (peer_embeddings.OllamaEmbedding, OllamaEmbedding):
        cls("all-minilm", server.url).get_text_embedding(" a\n")
    assert [record.payload["input"] for record in server.requests] == ["a", [" a\n"]]


@shows("unknown keywords")
def test_fixed_unknown_keywords(server: OllamaServer) -> None:
    peer_llms.Ollama("all", server.url, temprature=0)
    with pytest.raises(TypeError, match="did you mean 'temperature'"):
        Ollama("all", server.url, temprature=0)
    theirs = peer_embeddings.OllamaEmbedding("all-minilm", server.url, dimensionz=3)
    assert theirs.model_name == "all-minilm"
    with pytest.raises(TypeError, match="did you mean 'dimensions'"):
        OllamaEmbedding("all-minilm", server.url, dimensionz=3)


@shows("too long")
def test_fixed_prompts_that_are_too_long(server: OllamaServer) -> None:
    _, (theirs, ours) = both(server, lambda llm: llm.chat(WITH_IMAGE))
    assert ("truncate" in theirs.payload, ours.payload["truncate"]) == (False, False)
    long = [ChatMessage(role="user", content="word " * 1000)]
    cut, _ = both(server, lambda llm: llm.chat(long).raw.get("truncated_prompt"), context_window=512)
    assert cut == (None, True)


def test_every_fixed_bug_has_a_test() -> None:
    assert FIXED.keys() == _TESTED
