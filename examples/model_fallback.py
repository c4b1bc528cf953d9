"""Models in order of preference: if one fails, try the next, but only for errors that another model can avoid."""

from __future__ import annotations

from collections.abc import Sequence

from _common import parser, pull_if_missing, run

from namel3ss_ollama import BadRequestError, LLMError, LLMResponse, OllamaProvider


async def first_that_answers(provider: OllamaProvider, models: Sequence[str], prompt: str) -> LLMResponse:
    """The answer of the first model that succeeds.

    Raises:
        LLMError: All models failed; this is the last one's error.
    """
    failures: list[LLMError] = []
    for model in models:
        try:
            return await provider.agenerate(prompt, model=model, timeout=120.0)
        except BadRequestError:
            raise  # the request itself is wrong, for any model
        except LLMError as error:
            print(f"{model}: {type(error).__name__}: {error}")
            failures.append(error)
    raise failures[-1]


async def main() -> None:
    given = parser(__doc__).parse_args()
    async with OllamaProvider(given.model, given.base_url, temperature=0, max_tokens=20) as provider:
        await pull_if_missing(provider)
        models = ["a-model-that-is-not-there", given.model]
        response = await first_that_answers(provider, models, "What is the capital of France?")
        print(f"{response.model}: {response.content}")


if __name__ == "__main__":
    run(main())
