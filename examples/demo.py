"""The main things in one go: find the server, stream an answer, get structured output, have a tool called.

The server is the one at OLLAMA_BASE_URL, else at OLLAMA_HOST, else at http://localhost:11434; the model is
OLLAMA_MODEL, else the smallest one there that can chat.
"""

from __future__ import annotations

import asyncio
import os
import sys

from pydantic import BaseModel

from namel3ss_ollama import LLMError, OllamaProvider


class City(BaseModel):
    name: str
    country: str


def get_weather(city: str) -> str:
    """Tell the weather.

    Args:
        city: The city's name.
    """
    return f"sunny in {city}"


async def smallest_chat_model(provider: OllamaProvider) -> str:
    for model in sorted(await provider.list_models(), key=lambda model: int(model["size"])):
        if "completion" in (await provider.show_model(model["name"])).get("capabilities", ["completion"]):
            return str(model["name"])
    sys.exit(f"{provider.base_url} has no chat model: get one with `ollama pull smollm2:135m`.")


async def main() -> None:
    async with OllamaProvider(os.environ.get("OLLAMA_MODEL") or "any") as server:
        if not await server.is_available():
            sys.exit(
                f"No Ollama answers at {server.base_url}: install it (https://ollama.com/download) and run "
                "`ollama serve`, or set OLLAMA_BASE_URL to where it runs."
            )
        print(f"Ollama {await server.version()} answers at {server.base_url}.")
        model = os.environ.get("OLLAMA_MODEL") or await smallest_chat_model(server)

    async with OllamaProvider(model, temperature=0, max_tokens=100) as provider:
        print(f"\nAsking {model} a question; the answer as it comes:")
        stream = provider.stream_chat([{"role": "user", "content": "Why is the sky blue? Answer in one sentence."}])
        async for chunk in stream:
            print(chunk.content or chunk.thinking, end="", flush=True)
        measured = stream.partial.metadata
        first, rate = measured["time_to_first_token"], measured.get("tokens_per_second", 0.0)
        print(f"\n-> {stream.usage}, first token after {first:.2f} s, {rate:.1f} tokens/s")

        print("\nAsking for structured output, a City:")
        question = [{"role": "user", "content": "Which city is the capital of France?"}]
        print(f"-> {(await provider.achat(question, format=City)).parsed!r}")

        print("\nHaving a tool called, which works with any model:")
        question = [{"role": "user", "content": "What is the weather in Rome?"}]
        response = await provider.achat(question, tools=[get_weather], tool_choice="get_weather")
        for call in response.tool_calls:
            print(f"-> {call.name}({dict(call.arguments)}) gives {get_weather(**call.arguments)!r}")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (LLMError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
