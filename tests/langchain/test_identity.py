"""The identity of a model: as a cache key, serialised, copied, and without its secrets."""

from __future__ import annotations

import ast
import copy
import inspect
import pickle
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import httpx
import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.load import dumpd, dumps, load
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, trim_messages
from langchain_core.runnables import ConfigurableField
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, SecretStr
from pydantic.alias_generators import to_camel
from syrupy.assertion import SnapshotAssertion

from langchain_namel3ss_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM
from langchain_namel3ss_ollama.settings import OPTION_FIELDS, OllamaSettings
from namel3ss_ollama import OllamaProvider, RetryPolicy
from namel3ss_ollama.settings import RUNTIME_OPTIONS
from namel3ss_ollama.testing import Model, OllamaServer, Reply

Make = Callable[..., ChatOllama]
SECRET = "s3cr3t"
PRIVATE: dict[str, Any] = {
    "base_url": f"http://user:{SECRET}@box:1234/base",
    "headers": {"x-key": SECRET},
    "client_kwargs": {"headers": {"x-other": SECRET}},
}
FULL: dict[str, Any] = {
    "model": "llama3.2", "base_url": "http://box:1234", "api_key": SECRET, "temperature": 0.5, "num_ctx": 4096,
    "stop": ["end"], "reasoning": "low", "format": {"type": "object"}, "options": {"new": 1}, "max_retries": 1,
    "keep_alive": "5m", "timeout": 3.0,
}  # fmt: skip


def test_every_option_of_the_core_is_a_field() -> None:
    assert RUNTIME_OPTIONS - {"max_tokens"} == OPTION_FIELDS


@pytest.mark.filterwarnings("ignore:.* is in beta")
@pytest.mark.parametrize("cls", [ChatOllama, OllamaLLM])
def test_serialised(cls: Any, snapshot: SnapshotAssertion) -> None:
    model = cls(**FULL)
    written = dumpd(model)
    assert written == snapshot
    again = load(written, allowed_objects=[cls], valid_namespaces=["langchain_namel3ss_ollama"],
                 secrets_map={"OLLAMA_API_KEY": SECRET})  # fmt: skip
    assert again.model_dump() == model.model_dump()
    assert again.asdict() == model.asdict()


@pytest.mark.parametrize("cls", [ChatOllama, OllamaLLM, OllamaEmbeddings])
@pytest.mark.parametrize("secrets", [PRIVATE, {"api_key": SECRET}], ids=["address", "key"])
def test_secrets_are_never_shown(cls: Any, secrets: dict[str, Any]) -> None:
    model = cls(model="llama3.2", **secrets)
    assert SECRET not in repr(model)
    assert SECRET not in str(model)
    if cls is not OllamaEmbeddings:
        assert SECRET not in dumps(model)
        assert SECRET not in str(model._identifying_params)
        assert SECRET not in str(model.asdict())
    with pytest.raises(ValueError, match="temperature") as caught:
        cls(model="llama3.2", temperature="hot", **secrets)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "other",
    [
        {"model": "qwen3"}, {"temperature": 0.6}, {"format": "json"}, {"reasoning": True}, {"options": {"new": 2}},
        {"base_url": "http://other"}, {"stop": ["x"]}, {"seed": 3},
    ],
    ids=str,
)  # fmt: skip
def test_models_have_distinct_keys(other: dict[str, Any]) -> None:
    one, two = ChatOllama(**FULL), ChatOllama(**{**FULL, **other})
    assert one._identifying_params != two._identifying_params
    assert one._get_llm_string() != two._get_llm_string()
    assert ChatOllama(**FULL)._get_llm_string() == one._get_llm_string()


async def test_a_cache_distinguishes_models(chat: Make, ollama_server: OllamaServer) -> None:
    ollama_server.on(path="/api/chat").reply(lambda record: Reply(f"I am {record.model}."))
    cache = InMemoryCache()
    one, two = chat(cache=cache), chat("qwen3", cache=cache)
    for _ in range(2):
        assert one.invoke("Who?").content == "I am llama3.2."
        assert (await two.ainvoke("Who?")).content == "I am qwen3."
        assert one.invoke("Who?", model="codellama").content == "I am codellama."
    assert len(ollama_server.requests) == 3


@pytest.mark.parametrize("cls", [ChatOllama, OllamaLLM])
def test_a_cache_distinguishes_shared_providers(cls: Any, ollama_server: OllamaServer) -> None:
    class Form(BaseModel):
        a: int

    def model(**options: Any) -> Any:
        provider = OllamaProvider("llama3.2", ollama_server.url, api_key=SECRET, **options)
        return cls(provider=provider, cache=cache)

    cache = InMemoryCache()
    variants: tuple[dict[str, Any], ...] = (
        {}, {"temperature": 0.1}, {"temperature": 0.2}, {"options": {"new": 1}}, {"format": "json"}, {"format": Form},
    )  # fmt: skip
    ollama_server.reply('{"a": 1}')
    for options in variants * 2:
        one = model(**options)
        one.invoke("Hi")
        assert one._identifying_params == model(**options)._identifying_params
        assert SECRET not in str(one._identifying_params) + str(list(cache._cache))
    assert len(ollama_server.requests) == len(variants)
    assert model(seed=None)._identifying_params == model()._identifying_params
    assert "provider_options" not in cls(model="m", temperature=1)._identifying_params


@pytest.mark.parametrize("cls", [ChatOllama, OllamaLLM])
def test_a_cache_notices_a_changed_field(cls: Any, ollama_server: OllamaServer) -> None:
    model = cls(model="llama3.2", base_url=ollama_server.url, cache=InMemoryCache(), temperature=0.1)
    for temperature in (0.1, 0.2, 0.1, 0.2):
        model.temperature = temperature
        model.invoke("Hi")
    assert [record.payload["options"]["temperature"] for record in ollama_server.requests] == [0.1, 0.2]


@pytest.mark.parametrize("way", [copy.deepcopy, copy.copy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("cls", [ChatOllama, OllamaLLM])
def test_copies_work(
    ollama_server: OllamaServer, cls: Any, way: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_API_KEY", SECRET)  # a pickle contains no key
    model = cls(model="llama3.2", base_url=ollama_server.url, retry=RetryPolicy.off(), api_key=SECRET)
    model.invoke("Hi")
    again = way(model)
    assert again.asdict() == model.asdict()
    again.invoke("Hi")
    records = ollama_server.requests
    assert len(records) == 2
    assert all(record.headers["authorization"] == f"Bearer {SECRET}" for record in records)


def test_copies_with_a_shared_provider(ollama_server: OllamaServer) -> None:
    provider = OllamaProvider("llama3.2", ollama_server.url)
    model = ChatOllama(provider=provider)
    assert copy.deepcopy(model).provider is provider
    again = pickle.loads(pickle.dumps(model))
    assert again.provider.base_url == again.base_url == ollama_server.url
    again.invoke("Hi")
    assert again.provider.stats().generations_succeeded == 1
    assert provider.stats().generations_succeeded == 0


def test_fields_can_be_configured_and_changed(chat: Make, ollama_server: OllamaServer) -> None:
    model = chat(temperature=0.1, headers={"x-one": "1"})
    configurable = model.configurable_fields(temperature=ConfigurableField("t"))
    configurable.invoke("Hi", {"configurable": {"t": 0.9}})
    assert ollama_server.requests[-1].payload["options"] == {"temperature": 0.9}
    assert ollama_server.requests[-1].headers["x-one"] == "1"
    model.temperature = 0.2
    model.headers = {"x-one": "2"}
    model.invoke("Hi")
    assert ollama_server.requests[-1].payload["options"] == {"temperature": 0.2}
    assert ollama_server.requests[-1].headers["x-one"] == "2"
    provider = OllamaProvider("llama3.2", ollama_server.url)
    shared = ChatOllama(provider=provider).configurable_fields(temperature=ConfigurableField("t"))
    shared.invoke("Hi", {"configurable": {"t": 0.3}})
    assert provider.stats().generations_succeeded == 1
    provider.close()


@pytest.mark.parametrize("cls", [ChatOllama, OllamaLLM, OllamaEmbeddings])
@pytest.mark.parametrize("url", [None, "", "  "])
def test_the_environment_is_the_default(cls: Any, url: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def made() -> Any:
        return cls(model="m", base_url=url)

    assert made().base_url is None
    monkeypatch.setenv("OLLAMA_HOST", f"user:{SECRET}@box:99")
    model = made()
    assert model.base_url is None  # as with langchain-ollama
    assert model._identity()["base_url"] == model._provider_for(sync=True).base_url == "http://box:99"
    assert SECRET not in repr(model)
    assert model._provider_for(sync=False)._client._headers["authorization"].startswith("Basic ")
    monkeypatch.setenv("OLLAMA_API_KEY", SECRET)
    assert made()._provider_for(sync=False)._client._headers["authorization"].startswith("Basic ")
    assert cls(model="m", base_url="http://box").api_key.get_secret_value() == SECRET
    monkeypatch.setenv("OLLAMA_BASE_URL", "http://nearer")
    assert made()._provider_for(sync=True).base_url == "http://nearer:80"
    assert made()._provider_for(sync=True)._client._headers["authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize("cls", [ChatOllama, OllamaLLM, OllamaEmbeddings])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("OLLAMA_HOST", '"127.0.0.1:4000"'), ("OLLAMA_HOST", "'127.0.0.1:4000'"), ("OLLAMA_HOST", "0.0.0.0:abc"),
        ("OLLAMA_HOST", "127.0.0.1:99999"), ("OLLAMA_HOST", "  "), ("OLLAMA_HOST", ":4000"), ("OLLAMA_HOST", "[::]:9"),
        ("OLLAMA_HOST", "http://localhost:11434"), ("OLLAMA_BASE_URL", "  "), ("OLLAMA_BASE_URL", "localhost"),
    ],
)  # fmt: skip
def test_the_environment_is_read_as_the_core_reads_it(
    cls: Any, name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Once wrong: quotes of a docker env file, or a port that Ollama tolerates, were a ValidationError only here
    monkeypatch.setenv(name, text)
    assert cls(model="m")._provider_for(sync=True).base_url == OllamaProvider("m").base_url


def test_a_wrong_address_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_BASE_URL", "http://box:port")
    with pytest.raises(ValueError, match="OLLAMA_BASE_URL: the port is not a number"):
        ChatOllama(model="m")


def test_client_kwargs_become_settings(ollama_server: OllamaServer) -> None:
    model = ChatOllama(
        model="llama3.2",
        base_url=ollama_server.url,
        client_kwargs={"headers": {"x-both": "1"}, "timeout": 7, "auth": ("user", "word")},
        sync_client_kwargs={"headers": {"x-sync": "1"}},
    )
    model.invoke("Hi")
    headers = ollama_server.requests[-1].headers
    assert headers["x-sync"] == "1"
    assert headers["authorization"] == "Basic dXNlcjp3b3Jk"
    assert model._provider_for(sync=False) is not model._provider_for(sync=True)
    assert model._provider_for(sync=False)._defaults.config.chunk_timeout == 7
    assert model._provider_for(sync=False)._defaults.config.tool_call_timeout == 7
    with pytest.raises(ValueError, match="'mounts' is not supported"):
        ChatOllama(model="m", client_kwargs={"mounts": {}})


@pytest.mark.parametrize(
    "headers",
    [
        [("X-One", "1"), ("x-two", "2")], (("x-one", "1"), ["x-two", "2"]), {b"x-one": b"1", "x-two": "2"},
        httpx.Headers({"x-one": "1", "x-two": "2"}),
    ],
    ids=str,
)  # fmt: skip
def test_headers_in_every_form_that_httpx_takes(ollama_server: OllamaServer, headers: Any) -> None:
    model = ChatOllama(model="llama3.2", base_url=ollama_server.url, client_kwargs={"headers": headers})
    model.invoke("Hi")
    sent = ollama_server.requests[-1].headers
    assert (sent["x-one"], sent["x-two"]) == ("1", "2")
    twice = ChatOllama(model="m", base_url=ollama_server.url, client_kwargs={"headers": [("a", "1"), ("A", "2")]})
    twice.invoke("Hi", model="llama3.2")
    assert ollama_server.requests[-1].headers["a"] == "1, 2"
    with pytest.raises(TypeError, match="client_kwargs: 'headers' must be"):
        ChatOllama(model="m", client_kwargs={"headers": "x-one: 1"})


@pytest.mark.parametrize("cls", [ChatOllama, OllamaLLM, OllamaEmbeddings])
@pytest.mark.parametrize(
    "name", ["keep_alive", "num_ctx", "max_tokens", "temperature", "seed", "timeout", "max_retries"]
)
def test_true_is_not_a_number(cls: Any, name: str) -> None:
    # Once wrong: keep_alive=True went out as one second
    with pytest.raises(TypeError, match=r"expected a number, not True"):
        cls(model="m", **{name: True})


@pytest.mark.parametrize("cls", [ChatOllama, OllamaLLM, OllamaEmbeddings])
@pytest.mark.parametrize(("given", "sent"), [("-1", -1), ("3600", 3600), ("5m", "5m"), (-1, -1), (0, 0)])
def test_keep_alive(cls: Any, given: Any, sent: Any, ollama_server: OllamaServer) -> None:
    model = cls(model="llama3.2", base_url=ollama_server.url, keep_alive=given)
    model.embed_query("Hi") if cls is OllamaEmbeddings else model.invoke("Hi")
    assert ollama_server.requests[-1].payload["keep_alive"] == sent
    with pytest.raises(ValueError, match="keep_alive: expected a duration"):
        cls(model="m", keep_alive="5 minutes")


class Named(ChatOllama):
    """A user's subclass, with its own aliases."""

    temperature: float | None = Field(default=None, alias="heat")
    num_predict: int | None = Field(default=None, validation_alias=AliasChoices("max_tokens", "limit"))
    team: str = Field(default="none", alias="owner")
    city: str = Field(default="none", validation_alias=AliasPath("office", "city"))


class Camel(ChatOllama):
    """A subclass with an alias for every field."""

    model_config = ConfigDict(alias_generator=to_camel, extra="allow")


class OwnName(ChatOllama):
    """A subclass whose field has the name of an alias."""

    model: str = "llama3.2"
    max_tokens: int | None = 7


def test_subclasses_with_their_own_aliases() -> None:
    for model in (
        Named(model="m", heat=0.5, max_tokens=5, owner="a"),  # type: ignore[call-arg]  # mypy knows one alias a field
        Named(model_name="m", temperature=0.5, limit=5, team="a"),  # type: ignore[call-arg]  # as above
    ):
        assert (model.model, model.temperature, model.num_predict, model.team) == ("m", 0.5, 5, "a")
    assert Named(**{"model": "m", "office": {"city": "Rome"}}).city == "Rome"
    with pytest.raises(TypeError, match="did you mean 'owner'"):
        Named(model="m", ownr="a")  # type: ignore[call-arg]  # a wrong value is what is tested
    camel = Camel(**{"model": "m", "numCtx": 5, "baseUrl": f"http://user:{SECRET}@box", "more": 1})
    assert (camel.num_ctx, camel.base_url, camel.more) == (5, "http://box", 1)  # type: ignore[attr-defined]  # extra
    own = OwnName(max_tokens=9)
    assert (own.model, own.max_tokens, own.num_predict) == ("llama3.2", 9, None)


def test_aliases_of_fields_can_be_read_and_set() -> None:
    model = ChatOllama(model_name="m", max_tokens=5)
    assert (model.model, model.model_name, model.num_predict, model.max_tokens) == ("m", "m", 5, 5)
    model.max_tokens, model.model_name = 6, "n"
    assert (model.num_predict, model.model) == (6, "n")
    with pytest.raises(TypeError, match="max_tokens and num_predict are the same setting"):
        ChatOllama(model="m", max_tokens=5, num_predict=6)
    with pytest.raises(ValueError, match="model: is needed, unless a provider is given"):
        ChatOllama()


def test_an_api_key_is_always_secret(ollama_server: OllamaServer) -> None:
    for key in (SECRET, SecretStr(SECRET)):
        model = ChatOllama(model="llama3.2", base_url=ollama_server.url, api_key=key)
        assert SECRET not in repr(model)
        model.invoke("Hi")
        assert ollama_server.requests[-1].headers["authorization"] == f"Bearer {SECRET}"
        model.api_key = "other"
        model.invoke("Hi")
        assert ollama_server.requests[-1].headers["authorization"] == "Bearer other"


@pytest.mark.parametrize("cls", [ChatOllama, OllamaLLM, OllamaEmbeddings, OllamaSettings])
def test_every_field_has_a_description(cls: type) -> None:
    tree = ast.parse(inspect.getsource(inspect.getmodule(cls)))  # type: ignore[arg-type]  # it has a module
    (found,) = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == cls.__name__)
    bodies = [found.body, *(node.body for node in found.body if isinstance(node, ast.If))]
    described: list[str] = []
    for node, following in (pair for body in bodies for pair in pairwise([*body, ast.Pass()])):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id[0] != "_":
            assert isinstance(following, ast.Expr), f"{node.target.id} has no description"
            assert isinstance(following.value, ast.Constant), f"{node.target.id} has no description"
            described.append(str(following.value.value))
    assert described
    assert len(set(described)) == len(described)


def test_validate_model_on_init(chat: Make, ollama_server: OllamaServer) -> None:
    assert chat(validate_model_on_init=True)
    with pytest.raises(ValueError, match="ollama pull nope"):
        chat("nope", validate_model_on_init=True)
    with pytest.raises(ValueError, match="ollama serve"):
        chat(base_url="http://127.0.0.1:9", validate_model_on_init=True, max_retries=0)


def test_constructors_do_no_io(chat: Make, ollama_server: OllamaServer) -> None:
    model = chat()
    OllamaLLM(model="m", base_url=ollama_server.url)
    OllamaEmbeddings(model="m", base_url=ollama_server.url)
    model.bind_tools([])
    assert model.profile is None
    assert ollama_server.requests == []


async def test_profile(chat: Make, ollama_server: OllamaServer) -> None:
    model = chat("qwen3", num_ctx=4096, num_predict=50)
    profile = model.load_profile()
    assert profile is model.profile
    assert (profile["max_input_tokens"], profile["max_output_tokens"]) == (4096, 50)
    assert profile["tool_calling"]
    assert profile["tool_choice"]
    assert profile["reasoning_output"]
    assert not profile["image_inputs"]
    assert not profile["structured_output"]
    free = await chat("smollm2:135m").aload_profile()
    assert free["max_input_tokens"] == 8192
    assert free["structured_output"]
    sees = await chat("llava").aload_profile()
    assert sees["image_tool_message"]
    assert not sees["image_url_inputs"]
    for fetching in ({"allow_image_urls": True}, {"image_loader": lambda _: b""}):
        assert (await chat("llava", **fetching).aload_profile())["image_url_inputs"]
        assert not (await chat("qwen3", **fetching).aload_profile())["image_url_inputs"]


async def test_the_profile_of_a_model_with_audio() -> None:
    with OllamaServer([Model("gemma4", ("completion", "vision", "audio")), "llama3.2"], version="0.33.0") as server:
        audio = await ChatOllama(model="gemma4", base_url=server.url).aload_profile()
        assert (audio["audio_inputs"], audio["audio_outputs"]) == (True, False)
        assert not (await ChatOllama(model="llama3.2", base_url=server.url).aload_profile())["audio_inputs"]


async def test_the_context_window_of_a_profile(chat: Make, ollama_server: OllamaServer) -> None:
    async def window(**arguments: Any) -> int:
        return int((await chat("llama3.2", **arguments).aload_profile())["max_input_tokens"])

    assert await window() == 131072  # the model's maximum, if the window is unknown
    assert await window(options={"num_ctx": 1024}) == 1024
    assert await window(num_ctx=1_000_000) == 131072
    async with OllamaProvider("llama3.2", ollama_server.url, num_ctx=2048) as provider:
        profile = await ChatOllama(provider=provider).aload_profile()
        assert profile["max_input_tokens"] == 2048
        profile = await ChatOllama(provider=provider, num_ctx=4096).aload_profile()
        assert profile["max_input_tokens"] == 4096


def test_tokens_are_estimated_without_a_tokenizer() -> None:
    model = ChatOllama(model="m")
    assert 3 <= model.get_num_tokens("four words of text") <= 6
    assert model.get_num_tokens("") == OllamaLLM(model="m").get_num_tokens("") == 0
    assert model.get_num_tokens_from_messages([HumanMessage("four words of text")]) > 6
    assert model.get_num_tokens_from_messages([]) == 0
    image = {"type": "image", "url": "http://images.test/cat.png"}  # it is not fetched
    assert model.get_num_tokens_from_messages([HumanMessage(["What is it?", image])]) > 100
    with pytest.raises(NotImplementedError):
        model.get_token_ids("text")
    exact = ChatOllama(model="m", custom_get_token_ids=lambda text: list(range(len(text))))
    assert exact.get_num_tokens("text") == 4


async def test_token_counts_learn_from_answers(ollama_server: OllamaServer) -> None:
    model = ChatOllama(model="llama3.2", base_url=ollama_server.url)
    text = "understanding " * 40
    before = model.get_num_tokens(text)
    for number in range(20):
        await model.ainvoke(f"{number}: {text}")
    assert abs(model.get_num_tokens(text) - 80) < abs(before - 80)  # the test server counts two per word
    asked = [HumanMessage(f"0: {text}")]
    answer = await model.ainvoke(asked)
    assert model.get_num_tokens_from_messages(asked) == answer.usage_metadata["input_tokens"]


def test_a_long_conversation_is_trimmed_to_fit() -> None:
    model = ChatOllama(model="m")
    messages: list[BaseMessage] = [SystemMessage("Be brief.")]
    for number in range(40):
        messages += [HumanMessage(f"Tell me of whale {number}."), AIMessage("It sings, and eats krill. " * 10)]
    messages.append(HumanMessage("And of the last?"))
    kept = trim_messages(
        messages, max_tokens=600, token_counter=model, strategy="last", include_system=True, start_on="human"
    )
    assert kept[0] == messages[0]
    assert kept[-1] == messages[-1]
    assert 3 < len(kept) < 30
    assert 300 < model.get_num_tokens_from_messages(kept) <= 600


def test_tracing_parameters() -> None:
    model = ChatOllama(model="m", temperature=0.5, max_tokens=7, stop="end")
    assert model._get_ls_params(model="n", max_tokens=9) == {
        "ls_provider": "ollama", "ls_model_name": "n", "ls_model_type": "chat", "ls_temperature": 0.5,
        "ls_max_tokens": 9, "ls_stop": ["end"],
    }  # fmt: skip
    assert OllamaLLM(model="m", max_tokens=7)._get_ls_params()["ls_max_tokens"] == 7
