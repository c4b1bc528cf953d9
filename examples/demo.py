"""Ask one question each with the provider, a LangChain chain, and a LlamaIndex query engine over a few documents.

If an Ollama server answers (at OLLAMA_BASE_URL, OLLAMA_HOST or http://localhost:11434), it is used, with OLLAMA_MODEL
or its smallest chat model. Otherwise a small model runs in this process.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable

from namel3ss_ollama import LLMError, OllamaProvider, run_sync

EMBEDDED, SMALL = "embedded://", "smollm2:135m"
FACTS = [
    "The bakery on Mill Street sells rye bread on Fridays.",
    "Clara Holm wrote the anthem of the town.",
    "The lighthouse on Gull Rock was painted red in 1921.",
]


def find_models() -> tuple[str | None, str, str]:
    """The server's address, the chat model and the embedding model."""
    server = OllamaProvider(os.environ.get("OLLAMA_MODEL") or "any")
    if not run_sync(server.is_available()):
        print(f"No Ollama answers at {server.base_url}, so a model of 135 million parameters runs in this process.")
        fetch_weights()
        return EMBEDDED, SMALL, SMALL
    print(f"Ollama {run_sync(server.version())} answers at {server.base_url}.")
    models = sorted(run_sync(server.list_models()), key=lambda model: int(model["size"]))
    able = {model["name"]: run_sync(server.show_model(model["name"])).get("capabilities", []) for model in models}
    chat = os.environ.get("OLLAMA_MODEL") or next((name for name in able if "completion" in able[name]), None)
    if chat is None:
        sys.exit(f"{server.base_url} has no chat model: get one with `ollama pull {SMALL}`.")
    return None, chat, next((name for name in able if able[name] == ["embedding"]), chat)


def fetch_weights() -> None:
    from namel3ss_ollama.cli.models import pull

    print(f"Downloading its weights (98 MB), unless they are cached: namel3ss-ollama models pull {SMALL} --embedded")
    pull(SMALL, embedded=True)


def show(title: str, pieces: Iterable[str], provider: OllamaProvider) -> None:
    """Print the chunks as they arrive, and the provider's statistics."""
    print(f"\n{title}:", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    stats = provider.stats()
    print(
        f"\n-> {stats.completion_tokens} tokens, {stats.tokens_per_second or 0:.1f} tokens/s, "
        f"first token after {stats.first_token_seconds or 0:.2f} s",
        flush=True,
    )


def main() -> None:
    layout = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(description=__doc__, formatter_class=layout).parse_args()
    base_url, chat, embed = find_models()
    settings = {"temperature": 0, "max_tokens": 60}

    with OllamaProvider(chat, base_url, **settings) as provider:
        question = "What is the capital of France?"
        show(f"The provider, {chat}, {question!r}", (c.content for c in provider.stream(question)), provider)

        print("\nLoading LangChain ...", flush=True)
        from langchain_core.output_parsers import StrOutputParser
        from langchain_core.prompts import ChatPromptTemplate

        from langchain_namel3ss_ollama import ChatOllama

    with OllamaProvider(chat, base_url, **settings) as provider:
        prompt = ChatPromptTemplate.from_template("What is the capital of {country}?")
        chain = prompt | ChatOllama(model=chat, provider=provider) | StrOutputParser()
        show("A LangChain chain, country='Italy'", chain.stream({"country": "Italy"}), provider)

        print("\nLoading LlamaIndex ...", flush=True)
        from llama_index.core import Document, VectorStoreIndex
        from llama_index.core.node_parser import TokenTextSplitter

        from llama_index.embeddings.namel3ss_ollama import OllamaEmbedding
        from llama_index.llms.namel3ss_ollama import Ollama

    with OllamaProvider(chat, base_url, **settings) as provider, OllamaProvider(embed, base_url) as embedder:
        index = VectorStoreIndex.from_documents(
            [Document(text=fact) for fact in FACTS],
            embed_model=OllamaEmbedding(embed, provider=embedder),
            transformations=[TokenTextSplitter()],
        )
        engine = index.as_query_engine(llm=Ollama(chat, provider=provider), streaming=True, similarity_top_k=1)
        question = "What colour is the lighthouse on Gull Rock?"
        answer = engine.query(question)
        title = f"A LlamaIndex query engine over {len(FACTS)} documents, {question!r}"
        show(title, answer.response_gen, provider)
        print(f"-> from {answer.source_nodes[0].text!r}, found with the embeddings of {embed}")


if __name__ == "__main__":
    try:
        main()
    except (LLMError, ValueError, ModuleNotFoundError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
