"""The LangChain classes as type checkers see them: valid arguments, and invalid ones marked with mypy's error code."""

from typing import Any

from langchain_core.messages import AIMessage, HumanMessage
from pydantic import Field, SecretStr
from typing_extensions import assert_type

from langchain_namel3ss_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM
from namel3ss_ollama import Host, Hosts, OllamaProvider, RetryPolicy, StreamConfig


def constructors() -> None:
    ChatOllama(model="llama3.2", temperature=0.2, max_tokens=200)
    ChatOllama(model_name="llama3.2", num_predict=200, stop=["a"], keep_alive="5m", format="json")
    ChatOllama(model="m", base_url="http://box", api_key="k", headers={"x": "1"}, client_kwargs={"timeout": 3})
    ChatOllama(model="m", api_key=SecretStr("k"), output_version="v1", disable_streaming=True, tags=["a"])
    ChatOllama(model="m", reasoning="low", format={"type": "object"}, options={"new": 1}, seed=1, top_k=3)
    ChatOllama(model="m", base_url=["http://a", Host("http://b", slots=4)])
    ChatOllama(model="m", base_url=Hosts(["http://a", "http://b"], resume="auto"))
    OllamaLLM(model="m", base_url=["http://a", "http://b"], max_tokens=3, format="json", reasoning=True)
    OllamaEmbeddings(model="m", dimensions=3, batch_size=2, query_instruction="q: ")


def shared(provider: OllamaProvider) -> None:
    fast, careful = ChatOllama(provider=provider), ChatOllama(provider=provider, model="qwen3", reasoning=True)
    assert_type(fast.invoke("Hi"), AIMessage)
    assert_type(careful.provider, OllamaProvider | None)
    ChatOllama(model="m", retry=RetryPolicy(attempts=5), stream_config=StreamConfig(chunk_timeout=3), max_retries=2)
    OllamaLLM(provider=provider)
    OllamaEmbeddings(provider=provider)


def fields(model: ChatOllama) -> None:
    assert_type(model.max_tokens, int | None)
    assert_type(model.model, str)
    assert_type(model.temperature, float | None)
    model.max_tokens = 5
    assert_type(OllamaEmbeddings(model="m").embed_documents(["a"]), list[list[float]])


class TeamModel(ChatOllama):
    """A user's subclass."""

    team: str = Field(default="none", alias="owner")


def subclasses() -> None:
    TeamModel(model="m", max_tokens=5, owner="a")


def tools(model: ChatOllama, schema: dict[str, Any]) -> None:
    bound = model.bind_tools([schema, print], tool_choice="any", parallel_tool_calls=False)
    assert_type(bound.invoke([HumanMessage("Hi")]), AIMessage)
    model.with_structured_output(schema, include_raw=True)


def errors() -> None:
    ChatOllama(model="m", temprature=1.0)  # error: call-arg
    ChatOllama(model="m", temperature="hot")  # error: arg-type
    ChatOllama(model="m", max_tokens="5")  # error: arg-type
    ChatOllama(model="m", api_key=5)  # error: arg-type
    ChatOllama(model="m", base_url=5)  # error: arg-type
    ChatOllama(model="m", base_url=["http://a", 5])  # error: list-item
    ChatOllama(provider="llama3.2")  # error: arg-type
    ChatOllama(model="m").model.upper(1)  # error: call-arg
    TeamModel(model="m", owner=5)  # error: arg-type
    OllamaEmbeddings(model="m", batch_size="2")  # error: arg-type
