"""The LlamaIndex adapter as type checkers see it: valid calls, and invalid ones marked with mypy's error code."""

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse
from llama_index.core.prompts import PromptTemplate
from pydantic import BaseModel
from typing_extensions import assert_type

from llama_index.embeddings.namel3ss_ollama import BadInputError, OllamaEmbedding
from llama_index.llms.namel3ss_ollama import Ollama, StructuredOutputError
from namel3ss_ollama import Host, Hosts, OllamaProvider, RetryPolicy, StreamConfig

ASK = [ChatMessage(role="user", content="count")]


class City(BaseModel):
    """A city."""

    name: str


def constructors(provider: OllamaProvider) -> list[Ollama]:
    return [
        Ollama("llama3.2"),
        Ollama(model="llama3.2", base_url="http://box", request_timeout=30, temperature=0, max_tokens=100),
        Ollama("llama3.2", ["http://a", Host("http://b", slots="auto")], max_concurrent=None),
        Ollama("llama3.2", Hosts(["http://a", "http://b"], resume="auto"), max_concurrent=8),
        Ollama("llama3.2", top_p=0.5, seed=1, num_ctx=4096, system_prompt="Be brief."),
        Ollama("llama3.2", thinking="low", keep_alive=-1, headers={"a": "b"}, api_key="k"),
        Ollama("llama3.2", retry=RetryPolicy.off(), stream_config=StreamConfig(), on_truncation="error"),
        Ollama(provider=provider, additional_kwargs={"top_k": 3}),
        Ollama("llama3.2").load(),
    ]


def embeddings(provider: OllamaProvider) -> list[OllamaEmbedding]:
    return [
        OllamaEmbedding("all-minilm"),
        OllamaEmbedding("all-minilm", ["http://a", "http://b"]),
        OllamaEmbedding(model_name="all-minilm", embed_batch_size=50, dimensions=128, truncate=False),
        OllamaEmbedding(provider=provider, query_instruction="query:"),
    ]


def answers(llm: Ollama) -> None:
    response = llm.chat(ASK, temperature=0, extra_headers={"a": "b"})
    completion = llm.complete("hi")
    assert_type(response, ChatResponse)
    assert_type(completion, CompletionResponse)
    for part in llm.stream_chat(ASK):
        assert_type(part, ChatResponse)
    print(response.message.content, completion.text)
    assert_type(llm.structured_predict(City, PromptTemplate("x")), City)
    assert_type(llm.provider, OllamaProvider)
    assert_type(llm.get_context_window(), int)
    assert_type(llm.max_tokens, int | None)


async def asynchronously(llm: Ollama, embedding: OllamaEmbedding) -> None:
    async for part in await llm.astream_chat(ASK):
        assert_type(part, ChatResponse)
    assert_type(await llm.acomplete("hi"), CompletionResponse)
    assert_type(await llm.astructured_predict(City, PromptTemplate("x")), City)
    assert_type(await embedding.aget_general_text_embeddings(["a"]), list[list[float]])
    assert_type(await llm.aload(), Ollama)


def failures(llm: Ollama) -> str:
    try:
        return llm.complete("hi").text
    except BadInputError as error:
        return error.text
    except StructuredOutputError as error:
        return error.text


class Seeded(Ollama):
    """A user's subclass that overrides a hook."""

    @property
    def _model_kwargs(self) -> dict[str, object]:
        return {**super()._model_kwargs, "seed": 1}


def errors(llm: Ollama) -> None:
    Ollama(1)  # error: arg-type
    Ollama("m", base_url=5)  # error: arg-type
    Ollama("m", max_tokens="many")  # error: arg-type
    Ollama("m", thinking=0.5)  # error: arg-type
    OllamaEmbedding("m", dimensions="128")  # error: arg-type
    llm.load(True)  # error: call-arg
    llm.complete(3)  # error: arg-type
    llm.chat(ASK).nothing()  # error: attr-defined
    llm.provider.nothing()  # error: attr-defined
    llm.structured_predict(str, PromptTemplate("x"))  # error: type-var
