"""What a production program does with a model, one function each.

python examples/ollama_production_example.py --list
python examples/ollama_production_example.py streaming errors --base-url embedded://
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable

from _common import parser, pull_if_missing, run

from namel3ss_ollama import LLMConnectionError, LLMError, Message, ModelNotFoundError, OllamaProvider, StreamConfig


async def generation(provider: OllamaProvider) -> None:
    """One question, one answer, and its token usage."""
    response = await provider.agenerate("What is the capital of France?", max_tokens=40)
    print(response.content)
    print(response.usage, response.finish_reason)


async def streaming(provider: OllamaProvider) -> None:
    """A streamed answer, and a consumer that is slower than the model.

    The stream has backpressure: the connection is read only as fast as the loop consumes chunks. The time that the
    consumer takes counts only towards `stream_timeout`.
    """
    config = StreamConfig(first_chunk_timeout=300.0, chunk_timeout=60.0, stream_timeout=600.0, max_chunks=30)
    stream = provider.stream_generate("Tell a short story about a lighthouse.", stream_config=config)
    async for chunk in stream:
        print(chunk.content, end="", flush=True)
        await asyncio.sleep(0.01)  # a slow consumer
    print(f"\nended: {stream.end}, {len(stream.text)} characters")


async def concurrency(provider: OllamaProvider) -> None:
    """Many questions, up to `max_concurrent` at a time, with the answers in the order of the questions."""
    countries = ["France", "Italy", "Spain", "Japan"]
    prompts = [f"What is the capital of {country}?" for country in countries]
    answers = await provider.agenerate_batch(prompts, return_exceptions=True, max_tokens=20)
    for country, answer in zip(countries, answers, strict=True):
        print(f"{country}: {answer if isinstance(answer, BaseException) else answer.content}")


async def system_prompts(provider: OllamaProvider) -> None:
    """A system prompt, and a conversation with several turns."""
    messages = [Message("system", "You answer in one short sentence."), Message("user", "What is Rome?")]
    answer = await provider.achat(messages, max_tokens=40)
    print(answer.content)
    messages += [answer.message, Message("user", "In which country is it?")]
    print((await provider.achat(messages, max_tokens=40)).content)


async def errors(provider: OllamaProvider) -> None:
    """Errors say what happened and what to do, and keep the partial answer."""
    try:
        await provider.agenerate("Hello", model="no-such-model")
    except ModelNotFoundError as error:
        print("model not found:", error)
    async with OllamaProvider(provider.model, "http://127.0.0.1:9", max_concurrent=1) as nowhere:
        try:
            await nowhere.agenerate("Hello", timeout=5.0)
        except LLMConnectionError as error:
            print("no connection:", error)
    try:
        await provider.agenerate("Count to a thousand.", timeout=0.001)
    except LLMError as error:
        print(f"{type(error).__name__}: {error}")
        print("partial answer:", error.partial.content if error.partial else "none")


async def code(provider: OllamaProvider) -> None:
    """Code completion, with stop sequences at the end of the function."""
    prompt = 'def add(a, b):\n    """Return the sum of two numbers."""\n'
    response = await provider.agenerate(prompt, raw=True, stop=["\ndef ", "\n\n\n"], max_tokens=40, temperature=0)
    print(prompt + response.content)


async def models(provider: OllamaProvider) -> None:
    """Which models the server has, their capabilities, and how to load one in advance."""
    for model in await provider.list_models():
        shown = await provider.show_model(model["name"])
        print(model["name"], model["size"], shown.get("capabilities"))
    await provider.preload()
    print("loaded:", [model["name"] for model in await provider.running_models()])
    print("window:", await provider.context_window())


PARTS: dict[str, Callable[[OllamaProvider], Awaitable[None]]] = {
    function.__name__: function
    for function in (generation, streaming, concurrency, system_prompts, errors, code, models)
}


async def main() -> None:
    options = parser(__doc__)
    options.add_argument("parts", nargs="*", metavar="PART", help="the parts to run; all by default")
    options.add_argument("--list", action="store_true", help="list the parts")
    given = options.parse_args()
    if given.list:
        for name, part in PARTS.items():
            print(f"{name:15} {(part.__doc__ or '').splitlines()[0]}")
        return
    unknown = [name for name in given.parts if name not in PARTS]
    if unknown:
        sys.exit(f"there is no part {', '.join(unknown)}; --list lists them")
    async with OllamaProvider(given.model, given.base_url, max_concurrent=4, temperature=0) as provider:
        await pull_if_missing(provider)
        for name in given.parts or PARTS:
            print(f"\n== {name}")
            await PARTS[name](provider)


if __name__ == "__main__":
    run(main())
