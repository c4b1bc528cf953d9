"""Which clients are measured for what, and their names in the tables."""

from __future__ import annotations

STREAMING = (
    "floors:raw_socket",
    "floors:plain_aiohttp",
    "floors:httpx_over_aiohttp",
    "floors:plain_httpx",
    "core:provider",
    "core:provider_httpx",
    "ollama_python:chat",
    "langchain:floor",
    "langchain:floor_made",
    "langchain:ours",
    "langchain:theirs",
    "llama_index:floor",
    "llama_index:floor_made",
    "llama_index:ours",
    "llama_index:theirs",
)
SYNCHRONOUS = (
    "core:provider_sync",
    "ollama_python:chat_sync",
    "langchain:floor_sync",
    "langchain:ours_sync",
    "langchain:theirs_sync",
    "llama_index:floor_sync",
    "llama_index:ours_sync",
    "llama_index:theirs_sync",
)
PACED = (
    "floors:paced_raw",
    "floors:paced",
    "core:paced",
    "ollama_python:paced",
    "langchain:floor_paced",
    "langchain:ours_paced",
    "langchain:theirs_paced",
)
PACED_IN_THOUSANDS = ("floors:paced_raw", "floors:paced", "core:paced")
"""With thousands of streams the others fall behind without end: their tokens need several cores."""
DEFAULTS = ("langchain:ours_default", "langchain:theirs_default")
WHOLE = ("core:provider_whole", "langchain:ours_whole", "langchain:theirs_whole")
CROWDED = (
    "floors:plain_aiohttp",
    "floors:httpx_over_aiohttp",
    "floors:plain_httpx",
    "core:provider",
    "ollama_python:chat",
    "langchain:ours",
    "langchain:theirs",
    "llama_index:ours",
)
A_CLIENT_EACH = ("core:provider", "ollama_python:chat", "langchain:ours", "langchain:theirs")
SLOW = ("floors:plain_httpx", "ollama_python:chat", "ollama_python:paced", "langchain:theirs", "langchain:theirs_paced")
"""With many streams these take seconds, and have one round."""
GROWING = (
    "core:provider",
    "ollama_python:chat",
    "langchain:ours",
    "langchain:theirs",
    "llama_index:ours",
    "llama_index:theirs",
)
FIRST = (
    "floors:raw_socket",
    "floors:plain_aiohttp",
    "floors:plain_httpx",
    "core:provider",
    "core:provider_httpx",
    "ollama_python:chat",
    "langchain:ours",
    "langchain:theirs",
    "llama_index:ours",
    "llama_index:theirs",
)
CONSTRUCTED = (
    "core:construct",
    "ollama_python:construct",
    "langchain:ours_construct",
    "langchain:theirs_construct",
    "llama_index:ours_construct",
    "llama_index:theirs_construct",
)
EMBEDDING = ("core:embed", "ollama_python:embed", "langchain:ours_embed", "langchain:theirs_embed")
STRUCTURED = tuple(
    f"{client}{what}"
    for what in ("tool_calls", "structured")
    for client in ("core:", "ollama_python:", "langchain:ours_", "langchain:theirs_")
)
BATCH = (
    "floors:batch",
    "core:batch",
    "core:batch_journal",
    "ollama_python:batch",
    "langchain:ours_batch",
    "langchain:theirs_batch",
)
RAY_BATCH = ("ray:ours_batch", "ray:ours_batch_journal", "ray:theirs_batch")
LIMITING = ("core:limiter", "core:semaphore")
IMPORTED = {
    "nothing": "pass",
    "httpx, pydantic": "import httpx, pydantic",
    "namel3ss_ollama's OllamaProvider": "from namel3ss_ollama import OllamaProvider",
    "ollama": "import ollama",
}
IMPORTED_WITH_FRAMEWORKS = {
    "langchain_core's BaseChatModel": "from langchain_core.language_models.chat_models import BaseChatModel",
    "langchain_namel3ss_ollama": "import langchain_namel3ss_ollama",
    "langchain_ollama": "import langchain_ollama",
    "llama_index.core's LLM": "from llama_index.core.llms.function_calling import FunctionCallingLLM",
    "llama_index.llms.namel3ss_ollama": "import llama_index.llms.namel3ss_ollama",
    "llama_index.llms.ollama": "import llama_index.llms.ollama",
}

LABELS = {
    "floors:raw_socket": "asyncio streams + orjson, no HTTP library (the limit)",
    "floors:plain_aiohttp": "aiohttp + orjson",
    "floors:httpx_over_aiohttp": "httpx-aiohttp + orjson",
    "floors:plain_httpx": "httpx + orjson",
    "floors:batch": "asyncio.gather over aiohttp + orjson",
    "core": "OllamaProvider",
    "core:provider": "**OllamaProvider.stream_chat**",
    "core:provider_httpx": '**OllamaProvider.stream_chat**, `transport="httpx"`',
    "core:provider_sync": "**OllamaProvider.stream**",
    "core:provider_whole": "**OllamaProvider.achat**",
    "core:construct": "**OllamaProvider()**",
    "core:embed": "**OllamaProvider.embed**",
    "core:batch": "**OllamaProvider.agenerate_batch**",
    "core:batch_journal": "**OllamaProvider.agenerate_batch** with a journal",
    "core:limiter": "**the provider's limiter**",
    "core:semaphore": "asyncio.Semaphore (one event loop, unbounded queue)",
    "ollama_python": "ollama",
    "ollama_python:chat": "ollama AsyncClient.chat",
    "ollama_python:chat_sync": "ollama Client.chat",
    "ollama_python:construct": "ollama AsyncClient()",
    "ollama_python:embed": "ollama AsyncClient.embed",
    "ollama_python:batch": "ollama AsyncClient.generate, by hand",
    "langchain:floor": "LangChain's floor: chunks made before the clock starts",
    "langchain:floor_made": "LangChain's floor: chunks made when they are due",
    "langchain:ours": "**LangChain, ours**: astream",
    "langchain:theirs": "langchain-ollama astream",
    "langchain:floor_sync": "LangChain's floor: chunks made before the clock starts",
    "langchain:ours_sync": "**LangChain, ours**: stream",
    "langchain:theirs_sync": "langchain-ollama stream",
    "floors:paced_raw": "asyncio streams + orjson, no HTTP library (the limit)",
    "floors:paced": "aiohttp + orjson",
    "core:paced": "**OllamaProvider.stream_chat**",
    "ollama_python:paced": "ollama AsyncClient.chat",
    "langchain:floor_paced": "LangChain's floor: chunks made over aiohttp + orjson",
    "langchain:ours_paced": "**LangChain, ours**: astream",
    "langchain:theirs_paced": "langchain-ollama astream",
    "langchain:ours_default": "**LangChain, ours**: astream",
    "langchain:theirs_default": "langchain-ollama astream",
    "core:tool_calls": "**OllamaProvider.achat** with a tool",
    "ollama_python:tool_calls": "ollama AsyncClient.chat with a tool",
    "langchain:ours_tool_calls": "**LangChain, ours**: bind_tools",
    "langchain:theirs_tool_calls": "langchain-ollama bind_tools",
    "core:structured": "**OllamaProvider.achat** with a class as format",
    "ollama_python:structured": "ollama AsyncClient.chat with a schema, validated by hand",
    "langchain:ours_structured": "**LangChain, ours**: with_structured_output",
    "langchain:theirs_structured": "langchain-ollama with_structured_output",
    "langchain:ours_whole": "**LangChain, ours**: ainvoke",
    "langchain:theirs_whole": "langchain-ollama ainvoke",
    "langchain:ours_construct": "**LangChain, ours**: ChatOllama()",
    "langchain:theirs_construct": "langchain-ollama ChatOllama()",
    "langchain:ours_embed": "**LangChain, ours**: aembed_documents",
    "langchain:theirs_embed": "langchain-ollama aembed_documents",
    "langchain:ours_batch": "**LangChain, ours**: abatch",
    "langchain:theirs_batch": "langchain-ollama abatch",
    "ray:ours_batch": "**Ray, ours**: ask",
    "ray:ours_batch_journal": "**Ray, ours**: ask with a journal",
    "ray:theirs_batch": "Ray's HttpRequestProcessor",
    "llama_index:floor": "LlamaIndex's floor: responses made before the clock starts",
    "llama_index:floor_made": "LlamaIndex's floor: responses made when they are due",
    "llama_index:ours": "**LlamaIndex, ours**: astream_chat",
    "llama_index:theirs": "llama-index-llms-ollama astream_chat",
    "llama_index:floor_sync": "LlamaIndex's floor: responses made before the clock starts",
    "llama_index:ours_sync": "**LlamaIndex, ours**: stream_chat",
    "llama_index:theirs_sync": "llama-index-llms-ollama stream_chat",
    "llama_index:ours_construct": "**LlamaIndex, ours**: Ollama()",
    "llama_index:theirs_construct": "llama-index-llms-ollama Ollama() (its clients come later)",
}
"""The names of clients in tables; others appear under their own name."""
